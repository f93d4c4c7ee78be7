"""Blocks, prefix tree, tiers, eviction and the manager: decides without a clock and without a GPU."""
