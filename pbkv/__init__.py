"""pbkv: a policy lab for the KV-cache of LLM agent workflows."""

__version__ = "0.1.0"
