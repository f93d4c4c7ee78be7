"""What the paper ran: each table and plot as a set of arms; an arm times a seed is a cell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pbkv.cache.options_used import options_used
from pbkv.cache.policy import PolicyOptions
from pbkv.paper.published import (
    APPLICATIONS,
    BY_CONCURRENCY,
    BY_GAMMA,
    BY_NOISE,
    BY_RHO,
    BY_STEPS,
    END_TO_END,
    HOVER,
    MODEL_32B,
)
from pbkv.serve.config import Batching, EngineConfig
from pbkv.serve.faults import Faults
from pbkv.sim.profile import HardwareProfile, load_profile
from pbkv.sim.settings import Settings

NUM_WORKFLOWS = 250  # a run [I]
# The engine and its pool, one for all three workloads: what they were fitted in (docs/workloads.md).
POOL_BLOCKS, BLOCK_SIZE = 18_000, 16
BATCHING: Batching = "prefill-first"
MAX_BATCHED_TOKENS = 4096  # SGLang's chunk on GPUs of 48 GB
MAX_SEQUENCES = 6  # running requests [I]
CONCURRENCIES = (36, 48, 60, 72, 84, 96)
DECODE_ITERATION_S = 22.49e-3  # of `MODEL_32B`, HoVer-like at 72: what `NAME@MS` starts from
_DECODE_TOKENS = 256  # iterations of so few tokens are decode, and read weights most of the time
MOST_STEPS = 5  # of the K sweep; the network is trained once for as many
PAPERS_DECODE = f"{MODEL_32B}@12.34"
_DEFAULTS = PolicyOptions()


@dataclass(frozen=True, slots=True)
class Arm:
    """One setting of one workload: what a row of a table is about.

    ``predictor`` "graph" is trained by us. ``profile`` NAME or NAME@MS: with weights read so much faster
    that HoVer-like's mean decode iteration takes MS milliseconds.
    """

    workload: str = HOVER.workload
    profile: str = MODEL_32B
    concurrency: int = HOVER.concurrency
    policy: str = "pbkv"
    predictor: str = "graph"
    num_steps: int = _DEFAULTS.num_steps
    gamma: float = _DEFAULTS.gamma
    noise: float = 0.0
    rho: float = _DEFAULTS.rho
    faults: str = ""
    forecast_delay_s: float = 0.0
    idle_timeout_s: float = _DEFAULTS.idle_timeout_s

    def settings(self, seed: int, graph_file: str) -> Settings:
        """The cell's settings; ``graph_file`` is the trained network of this workload."""
        predictor = f"graph:{graph_file}" if self.predictor == "graph" else self.predictor
        if "predictor" not in options_used(self.policy):
            predictor = _DEFAULTS.predictor
        return Settings(
            profile=_profile(self.profile),
            policies=(self.policy,),
            policy_options=PolicyOptions(
                predictor,
                self.num_steps,
                self.gamma,
                self.noise,
                rho=self.rho,
                forecast_delay_s=self.forecast_delay_s,
                idle_timeout_s=self.idle_timeout_s,
            ),
            faults=Faults.parse(self.faults),
            gpu_blocks=(POOL_BLOCKS,),
            host_ratio=1.0,
            concurrencies=(self.concurrency,),
            seeds=(seed,),
            block_size=BLOCK_SIZE,
            engine=EngineConfig(MAX_BATCHED_TOKENS, MAX_SEQUENCES, batching=BATCHING),
            cache_events=False,
        )


def _profile(name: str) -> HardwareProfile:
    base, _, decode_ms = name.partition("@")
    profile = load_profile(base)
    if not decode_ms:
        return profile
    less_s = DECODE_ITERATION_S - float(decode_ms) / 1e3
    knots = tuple((n, max(s - less_s, 0.0) if n <= _DECODE_TOKENS else s) for n, s in profile.cost.lin)
    return replace(profile, cost=replace(profile.cost, lin=knots))


def arm_of(**given: object) -> Arm:
    """The arm with these fields, and the defaults for what its policy does not look at."""
    arm = replace(Arm(), **given)  # type: ignore[arg-type] # the caller's names are fields
    if not arm.policy.startswith("pbkv"):
        arm = replace(arm, predictor="", num_steps=3, gamma=0.7, noise=0.0)
    return arm if arm.policy == "pbkv-aggressive" else replace(arm, rho=_DEFAULTS.rho)


def end_to_end(model: str) -> list[Arm]:
    """Tables 1 and 2."""
    return [
        arm_of(workload=app.workload, profile=model, concurrency=app.concurrency, policy=policy)
        for app in APPLICATIONS
        for policy in END_TO_END[model][app.workload]
    ]


def at_the_papers_decode_step() -> list[Arm]:
    """Table 1 once more, with the decode iteration of table 4 as an input."""
    return [replace(arm, profile=PAPERS_DECODE) for arm in end_to_end(MODEL_32B)]


def by_concurrency() -> list[Arm]:
    return [arm_of(concurrency=at, policy=policy) for policy in BY_CONCURRENCY for at in CONCURRENCIES]


def by_steps() -> list[Arm]:
    return [arm_of(num_steps=int(steps)) for steps in BY_STEPS]


def by_gamma() -> list[Arm]:
    return [arm_of(gamma=gamma) for gamma in BY_GAMMA]


def by_predictor() -> list[Arm]:
    policies = ("pbkv-he", "pbkv")
    swapped = [arm_of(policy=p, predictor=who) for who in ("markov:3", "graph", "oracle") for p in policies]
    return [arm_of(policy="lru"), arm_of(policy="lae"), *swapped]


def by_rho() -> list[Arm]:
    return [arm_of(policy="pbkv-aggressive", rho=rho) for rho in BY_RHO]


def by_noise() -> list[Arm]:
    return [arm_of(policy=policy, noise=noise) for policy, row in BY_NOISE.items() for noise in row]


FAULTY_POLICIES = ("lru", "lae", "pbkv-he", "pbkv", "ttl", "mori", "lru+admission")
FAULTS: dict[str, dict[str, object]] = {
    "none": {},
    "10 % of ends lost": {"faults": "lost-end=0.1"},
    "all ends lost": {"faults": "lost-end=1"},
    "all ends lost, idle timeout of 30 s": {"faults": "lost-end=1", "idle_timeout_s": 30.0},
    "ends 10 s late": {"faults": "late-end=10"},
    "10 % of agents wrong": {"faults": "wrong-agent=0.1"},
    "30 % of agents wrong": {"faults": "wrong-agent=0.3"},
    "all agents missing": {"faults": "missing-agent=1"},
    "forecasts 1 s late": {"forecast_delay_s": 1.0},
    "forecasts 10 s late": {"forecast_delay_s": 10.0},
}


def by_faults() -> list[Arm]:
    """Not the paper's: what each policy loses where clients are wrong. Forecasts are learnt while serving."""
    return [faulty_arm(policy, name) for policy in FAULTY_POLICIES for name in FAULTS]


def faulty_arm(policy: str, fault: str) -> Arm:
    return arm_of(policy=policy, predictor="markov:3", **FAULTS[fault])


EXPERIMENTS: dict[str, Callable[[], list[Arm]]] = {
    "tables 1 and 2": lambda: [arm for model in END_TO_END for arm in end_to_end(model)],
    "decode step": at_the_papers_decode_step,
    "concurrency": by_concurrency,
    "steps": by_steps,
    "gamma": by_gamma,
    "predictor": by_predictor,
    "rho": by_rho,
    "noise": by_noise,
    "faults": by_faults,
}
