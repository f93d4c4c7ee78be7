"""The evaluation of the PBKV paper (arXiv 2605.06472) on generated workloads, beside its figures."""
