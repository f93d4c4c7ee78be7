"""The record tables of a run: what `simulate` and `replay` write and `analysis` reads.

A run is a folder: ``run.json`` (configuration, trace digest, versions, hardware profile, one entry a
cell) and four Parquet tables. A *cell* is one (policy, capacities, concurrency, seed); the tables
carry its identity in each row, so that one ``groupby`` compares policies. Records hold facts in the
order they happened; means, ratios and intervals are `analysis`' business.
"""

from __future__ import annotations

import pyarrow as pa

# Identity of the cell a row belongs to; the full settings stand in run.json under "cells".
CELL_FIELDS = [
    pa.field("cell", pa.int32()),
    pa.field("policy", pa.string()),
    pa.field("gpu_blocks", pa.int64()),
    pa.field("host_blocks", pa.int64()),
    pa.field("seed", pa.int64()),
]

# One row a call. The prompt's tokens are split into six classes that sum to num_prompt_tokens:
# gpu_hit (ready on the GPU), host_hit (loaded from the host by this call), loading (already on
# their way to the GPU for another call), and the misses: evicted (was cached before), partial
# (shared, but not a full block, or the last token), cold (never cached).
CALLS = pa.schema(
    [
        *CELL_FIELDS,
        pa.field("workflow_id", pa.string()),
        pa.field("app", pa.string()),
        pa.field("call_index", pa.int32()),
        pa.field("agent", pa.string()),
        pa.field("submitted_at_s", pa.float64()),
        pa.field("admitted_at_s", pa.float64()),
        pa.field("first_token_at_s", pa.float64()),
        pa.field("ended_at_s", pa.float64()),
        pa.field("load_wait_s", pa.float32()),
        pa.field("num_prompt_tokens", pa.int32()),
        pa.field("num_output_tokens", pa.int32()),
        pa.field("num_gpu_hit_tokens", pa.int32()),
        pa.field("num_host_hit_tokens", pa.int32()),
        pa.field("num_loading_tokens", pa.int32()),
        pa.field("num_evicted_tokens", pa.int32()),
        pa.field("num_partial_tokens", pa.int32()),
        pa.field("num_cold_tokens", pa.int32()),
        pa.field("evicted_by", pa.string()),  # workflow whose need evicted the first evicted block
        pa.field("evicted_ago_s", pa.float32()),  # how long before this call was admitted
        pa.field("num_preemptions", pa.int32()),
        pa.field("num_recomputed_tokens", pa.int32()),  # prefilled again after a preemption
    ]
)

# One row a workflow: released (open loop: arrived; closed loop: given a slot) to last call's end.
WORKFLOWS = pa.schema(
    [
        *CELL_FIELDS,
        pa.field("workflow_id", pa.string()),
        pa.field("app", pa.string()),
        pa.field("released_at_s", pa.float64()),
        pa.field("ended_at_s", pa.float64()),
        pa.field("num_calls", pa.int32()),
    ]
)

# One row a cache event. kind: evict (gpu copy dropped, nothing left), demote (gpu copy dropped, host
# copy stays), drop (host copy dropped), offload (gpu → host copy), load (host → gpu copy).
EVENTS = pa.schema(
    [
        *CELL_FIELDS,
        pa.field("at_s", pa.float64()),
        pa.field("kind", pa.string()),
        pa.field("num_blocks", pa.int32()),
        pa.field("num_bytes", pa.int64()),  # copies: what crosses the link
        pa.field("workflow_id", pa.string()),  # the workflow that made the entry
        pa.field("by_workflow_id", pa.string()),  # the workflow whose need caused the event
        pa.field("reason", pa.string()),  # admit, grow, insert, load, host_room
        pa.field("age_s", pa.float32()),  # since its last use
        pa.field("lifetime_s", pa.float32()),  # since it was made
        pa.field("queued_s", pa.float32()),  # copies: waited for the link
        pa.field("copy_s", pa.float32()),  # copies: on the link
    ]
)

# The state of the engine, sampled at most once per sampling interval of simulated time.
OCCUPANCY = pa.schema(
    [
        *CELL_FIELDS,
        pa.field("at_s", pa.float64()),
        pa.field("num_running", pa.int32()),
        pa.field("num_waiting", pa.int32()),
        pa.field("num_live_workflows", pa.int32()),
        pa.field("gpu_used_blocks", pa.int64()),
        pa.field("gpu_cached_blocks", pa.int64()),
        pa.field("host_used_blocks", pa.int64()),
        pa.field("num_iterations", pa.int64()),
        pa.field("num_hit_tokens", pa.int64()),
        pa.field("num_seen_prompt_tokens", pa.int64()),
        pa.field("h2d_busy_s", pa.float64()),
        pa.field("d2h_busy_s", pa.float64()),
    ]
)

# One row an iteration of a real engine, or a run of pure decodes in which nothing else changes. The sums
# are those of the cost model (`pbkv.sim.cost_model`), at the run's first iteration.
ITERATIONS = pa.schema(
    [
        *CELL_FIELDS,
        pa.field("ended_at_s", pa.float64()),
        pa.field("num_iterations", pa.int32()),
        pa.field("num_tokens", pa.int32()),  # of each
        pa.field("num_sequences", pa.int32()),
        pa.field("num_prefill_tokens", pa.int32()),
        pa.field("prefill_work", pa.float64()),
        pa.field("gathered_tokens", pa.int64()),
        pa.field("decode_context", pa.int64()),
        pa.field("seconds", pa.float64()),  # all together, from one boundary to the next
        pa.field("cpu_s", pa.float64()),  # of them, before the forward pass was enqueued
    ]
)

# One row a forecast that a real engine makes beside its iterations (a network on the model's hidden state).
FORECASTS = pa.schema(
    [
        *CELL_FIELDS,
        pa.field("told_at_s", pa.float64()),  # when the policy was told
        pa.field("workflow_id", pa.string()),
        pa.field("call_index", pa.int32()),
        pa.field("num_calls", pa.int32()),  # in one batch: all prompts that the iteration completed
        pa.field("seconds", pa.float64()),  # from the hidden states' being there to the forecasts'
        pa.field("late_s", pa.float64()),  # from the prompt's end to the policy's being told
        pa.field("engine_s", pa.float64()),  # what the batch took of the engine's own thread
    ]
)

TABLES = {"calls": CALLS, "workflows": WORKFLOWS, "cache_events": EVENTS, "occupancy": OCCUPANCY}
REPLAY_TABLES = {"iterations": ITERATIONS, "forecasts": FORECASTS}
