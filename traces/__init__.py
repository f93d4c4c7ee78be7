"""Traces: schema, readers and importers, workload generators, and the record tables of a run."""
