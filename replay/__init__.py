"""The same traces and policies on a real GPU."""
