"""The figures that the paper prints, or that were read off its plots (about ± 0.5 points).

Hit ratios are per cent of prompt tokens found on the GPU. Everything of ours is computed elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MODEL_32B, MODEL_14B = "2xa6000-qwen3-32b-awq", "a6000-qwen3-14b-awq"  # as inferred: docs/workloads.md


@dataclass(frozen=True, slots=True)
class Published:
    """One row of tables 1 and 2."""

    latency_s: float
    ttft_s: float
    hit: float


@dataclass(frozen=True, slots=True)
class Application:
    """A workload of the paper: ours, its title, and the concurrency at which tables 1 and 2 ran it."""

    workload: str
    title: str
    concurrency: int


HOVER = Application("hover", "HoVer-like", 72)
SWE = Application("swe", "SWE-like", 24)
FINANCE = Application("finance", "Finance-like", 48)
APPLICATIONS = (HOVER, SWE, FINANCE)

# Tables 1 and 2, by model, application and policy (our names).
END_TO_END: Mapping[str, Mapping[str, Mapping[str, Published]]] = {
    MODEL_32B: {
        "hover": {
            "lru": Published(189.66, 16.65, 27.09),
            "lae": Published(146.67, 11.83, 44.91),
            "pbkv-he": Published(108.86, 8.95, 66.01),
            "pbkv": Published(102.60, 8.22, 69.10),
        },
        "swe": {
            "lru": Published(271.90, 5.04, 46.34),
            "lae": Published(233.86, 3.73, 59.51),
            "pbkv-he": Published(177.22, 2.46, 75.31),
            "pbkv": Published(160.18, 2.27, 79.94),
        },
        "finance": {
            "lru": Published(130.34, 12.93, 27.95),
            "kvflow": Published(101.57, 9.91, 39.87),
            "pbkv": Published(80.53, 8.00, 53.44),
        },
    },
    MODEL_14B: {
        "hover": {
            "lru": Published(139.59, 10.90, 28.79),
            "lae": Published(119.13, 9.57, 41.18),
            "pbkv-he": Published(80.62, 6.53, 64.15),
            "pbkv": Published(76.15, 5.50, 68.29),
        },
        "swe": {
            "lru": Published(214.74, 4.18, 48.53),
            "lae": Published(177.50, 3.26, 60.41),
            "pbkv-he": Published(141.53, 2.19, 73.36),
            "pbkv": Published(118.61, 2.05, 77.07),
        },
        "finance": {
            "lru": Published(96.11, 9.02, 26.58),
            "kvflow": Published(80.13, 7.42, 39.65),
            "pbkv": Published(65.01, 6.06, 55.07),
        },
    },
}

# Table 3: top-1 accuracy one, two and three steps ahead.
ACCURACY: Mapping[str, tuple[float, float, float]] = {
    "graph": (0.935, 0.848, 0.771),
    "markov:1": (0.752, 0.555, 0.295),
    "markov:2": (0.774, 0.601, 0.383),
    "markov:3": (0.786, 0.656, 0.490),
}

NETWORKS: Mapping[str, tuple[float, float, float]] = {
    "rgcn": (0.896, 0.823, 0.710),
    "Transformer, 1 layer": (0.899, 0.811, 0.690),
    "TCN, large": (0.898, 0.831, 0.726),
    "MLP, small": (0.889, 0.801, 0.684),
}

PROBES: Mapping[str, tuple[float, float, float]] = {
    "linear probe on x": (0.840, 0.732, 0.576),
    "kNN, k = 5, on x": (0.839, 0.699, 0.564),
}

# By training workflows, one and three steps ahead [fig].
BY_SIZE: Mapping[int, tuple[float, float]] = {
    100: (0.855, 0.606),
    200: (0.884, 0.659),
    400: (0.911, 0.718),
    600: (0.923, 0.744),
    800: (0.930, 0.757),
    1000: (0.935, 0.771),
}

# Table 4: mean and 99th percentile.
OVERHEADS_S: Mapping[str, tuple[float, float]] = {
    "eviction decision": (0.44e-3, 0.81e-3),
    "prediction": (1.18e-3, 1.68e-3),
    "score update of a node": (1.53e-6, 2.69e-6),
    "prefetch decision": (0.64e-3, 1.60e-3),
    "decode iteration": (12.34e-3, 43.14e-3),
}

# HoVer, 32B: GPU hit % by concurrency [fig].
BY_CONCURRENCY: Mapping[str, Mapping[float, float]] = {
    "lru": {36: 77, 48: 76.5, 60: 52.5, 72: 27.1, 84: 24.3},
    "lae": {36: 77, 48: 77, 60: 65.5, 72: 45, 84: 33.5, 96: 28.5},
    "pbkv-he": {36: 77, 48: 76.5, 60: 75.5, 72: 66, 84: 46, 96: 36.5},
    "pbkv": {36: 76.3, 48: 76.3, 60: 75.8, 72: 69.2, 84: 48.7, 96: 37.0},
}
BY_STEPS: Mapping[float, float] = {1: 59.3, 2: 66.2, 3: 69.1, 4: 67.3, 5: 64.5}
BY_GAMMA: Mapping[float, float] = {0.5: 63.7, 0.6: 67.4, 0.7: 69.1, 0.8: 66.3, 0.9: 61.5}
# GPU hits over LRU's.
BY_PREDICTOR: Mapping[tuple[str, str], float] = {
    ("lae", ""): 1.66,
    ("pbkv-he", "markov:3"): 2.06,
    ("pbkv", "markov:3"): 2.11,
    ("pbkv-he", "graph"): 2.44,
    ("pbkv", "graph"): 2.55,
    ("pbkv-he", "rgcn"): 2.28,
    ("pbkv", "rgcn"): 2.37,
}
BY_RHO: Mapping[float, tuple[float, float]] = {
    0.0: (69.1, 2.2),
    0.1: (71.2, 5.9),
    0.2: (72.2, 7.9),
    0.3: (66.4, 8.9),
    0.4: (59.6, 10.6),
}
BY_NOISE: Mapping[str, Mapping[float, float]] = {
    "pbkv-he": {0.0: 66.0, 0.1: 64.9, 0.2: 63.4, 0.3: 60.8, 0.4: 56.0},
    "pbkv": {0.0: 69.1, 0.1: 68.1, 0.2: 66.7, 0.3: 63.4, 0.4: 59.7},
    "pbkv-aggressive": {0.0: 72.1, 0.1: 69.6, 0.2: 64.1, 0.3: 58.3, 0.4: 50.3},
}
