"""What a run simulated, as a few numbers that two simulators can be laid side by side by.

    python bench/outcome.py RUN_FOLDER

prints them as JSON (a process of its own: pyarrow must not swell the process that measures).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Outcome = dict[str, float]


def of_run(folder: Path) -> Outcome:
    """The first cell of a pbkv run; times in seconds, means over calls (or workflows)."""
    import numpy as np
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    def table(name: str) -> dict[str, Any]:
        rows = pq.read_table(folder / f"{name}.parquet", filters=pc.field("cell") == 0)
        kept = [field.name for field in rows.schema if field.name.endswith("_s") or field.name[:4] == "num_"]
        return {column: rows.column(column).to_numpy() for column in kept}

    calls, workflows = table("calls"), table("workflows")
    decoded_s = calls["ended_at_s"] - calls["first_token_at_s"]
    return {
        "num_calls": len(decoded_s),
        "num_prompt_tokens": int(calls["num_prompt_tokens"].sum()),
        "num_gpu_hit_tokens": int(calls["num_gpu_hit_tokens"].sum()),
        "num_host_hit_tokens": int(calls["num_host_hit_tokens"].sum()),
        "num_loading_tokens": int(calls["num_loading_tokens"].sum()),
        "num_preemptions": int(calls["num_preemptions"].sum()),
        "mean_ttft_s": float(np.mean(calls["first_token_at_s"] - calls["submitted_at_s"])),
        "mean_tpot_s": float(np.mean(decoded_s / np.maximum(calls["num_output_tokens"] - 1, 1))),
        "mean_call_s": float(np.mean(calls["ended_at_s"] - calls["submitted_at_s"])),
        "mean_jct_s": float(np.mean(workflows["ended_at_s"] - workflows["released_at_s"])),
        "makespan_s": float(calls["ended_at_s"].max()),
    }


def of_peer(prediction: dict[str, Any], requests: Path) -> Outcome:
    """A run of AISimulate: its report, and the lines of --capture-per-request (hits at first admission)."""
    sums = dict.fromkeys(_PEER_SUMS, 0)
    with requests.open() as lines:
        for line in lines:
            request = json.loads(line)
            for name in sums:
                sums[name] += request.get(name) or 0
    return {
        "num_calls": prediction["completed_requests"],
        **{_PEER_SUMS[name]: total for name, total in sums.items()},
        **{ours: prediction[theirs] / 1e3 for theirs, ours in _PEER_MEANS.items()},
    }


_PEER_SUMS = {
    "input_length": "num_prompt_tokens",
    "first_admission_g1_reused_input_tokens": "num_gpu_hit_tokens",
    "first_admission_host_reused_input_tokens": "num_host_hit_tokens",
    "readmission_count": "num_preemptions",
}
_PEER_MEANS = {
    "mean_ttft_ms": "mean_ttft_s",
    "mean_tpot_ms": "mean_tpot_s",
    "mean_e2e_latency_ms": "mean_call_s",
    "mean_trajectory_e2e_latency_ms": "mean_jct_s",
    "duration_ms": "makespan_s",
}


if __name__ == "__main__":
    print(json.dumps(of_run(Path(sys.argv[1]))))
