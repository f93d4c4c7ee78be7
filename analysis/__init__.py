"""Metrics, comparisons, tables and figures, computed from the records of a run."""
