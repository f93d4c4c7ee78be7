"""`pbkv train`."""
