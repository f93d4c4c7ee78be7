"""Metrics, comparisons, tables and figures, computed from the records of a run.

``from pbkv.analysis import load`` opens a run's folder; its tables are pandas frames.
"""

from pbkv.analysis.load import Run, load

__all__ = ["Run", "load"]
