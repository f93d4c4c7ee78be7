"""The serving loop: scheduler, requests, workload. It has no clock of its own: sim and replay lend theirs."""
