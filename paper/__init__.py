"""The PBKV paper's evaluation (arXiv 2605.06472, §5 and appendices) on generated workloads, beside its figures."""
