"""Cost coefficients from datasheets: what a GPU could do at best, times stated efficiencies.

One dense, gated-MLP, grouped-query transformer on one GPU or on several in tensor parallel. Each
class is a table of a profile (TOML); docs/cost-model.md has the derivation in words.
"""

from __future__ import annotations

from dataclasses import dataclass

from pbkv.sim.cost_model import CostModel
from pbkv.traces.errors import ConfigError

# Where lin() is sampled: straight pieces over these lie at most 1.5 % above the smooth curve.
KNOT_TOKENS = (1, 16, *(size for k in range(5, 14) for size in (2**k, 3 * 2 ** (k - 1))), 16384)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU: memory, its bandwidth, and dense FLOP/s at the precision of the weights."""

    name: str
    memory_bytes: float
    memory_bytes_per_s: float
    flops_per_s: float


@dataclass(frozen=True, slots=True)
class Model:
    """The shape of a dense transformer, as in its config.json; ``num_parameters`` with all embeddings."""

    name: str
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    num_parameters: int

    @property
    def num_layer_parameters(self) -> int:
        """Weights of the layers' matrices: each token is multiplied with each of them once."""
        attention = (2 * self.num_heads + 2 * self.num_kv_heads) * self.head_dim * self.hidden_size
        return self.num_layers * (attention + 3 * self.hidden_size * self.intermediate_size)

    @property
    def num_head_parameters(self) -> int:
        """Weights of the output head (as many as the input embedding has)."""
        return self.vocab_size * self.hidden_size

    def check(self) -> None:
        """Shape and parameter count belong to one model. Raises ConfigError."""
        if self.num_heads % self.num_kv_heads:
            raise ConfigError("num_kv_heads", self.num_kv_heads, f"a divisor of num_heads ({self.num_heads})")
        expected = [self.num_layer_parameters + tables * self.num_head_parameters for tables in (1, 2)]
        if all(abs(self.num_parameters - count) > 0.01 * count for count in expected):  # norms are < 0.01 %
            told = f"{expected[0]} or, embeddings untied, {expected[1]} by the shape, within 1 %"
            raise ConfigError("num_parameters", self.num_parameters, told)


@dataclass(frozen=True, slots=True)
class Precision:
    """Bytes a number takes."""

    weight_bytes: float
    kv_bytes: float
    activation_bytes: float


@dataclass(frozen=True, slots=True)
class Parallel:
    """Tensor parallelism: ``efficiency`` is what smaller matrices leave; all-reduces hide behind nothing."""

    num_gpus: int = 1
    efficiency: float = 1.0
    allreduce_s: float = 0.0
    allreduce_bytes_per_s: float = float("inf")


@dataclass(frozen=True, slots=True)
class Memory:
    """What of a GPU's memory the engine may take, and what of that activations, graphs and workspace need."""

    utilisation: float
    reserve_bytes: float


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Shares of the GPU's peaks that are reached.

    ``gemm`` and ``attention`` of FLOP/s, ``weights`` and ``kv`` of memory bandwidth. ``kv_passes``: how
    often a prefill chunk moves the KV it attends to through memory. ``ridge_exponent`` p rounds the
    corner between memory and compute bound: (memory^p + compute^p)^(1/p).
    """

    gemm: float
    attention: float
    weights: float
    kv: float
    kv_passes: float
    ridge_exponent: float


@dataclass(frozen=True, slots=True)
class Overhead:
    """Seconds of an iteration, and of each sequence in it, that no roofline explains."""

    iteration_s: float
    sequence_s: float


@dataclass(frozen=True, slots=True)
class Roofline:
    """A GPU, a model and how well they go together. Raises ConfigError if they cannot."""

    gpu: Gpu
    model: Model
    precision: Precision
    memory: Memory
    efficiency: Efficiency
    overhead: Overhead
    parallel: Parallel = Parallel()

    def __post_init__(self) -> None:
        if self.model.num_kv_heads % self.parallel.num_gpus:
            expected = f"a divisor of num_kv_heads ({self.model.num_kv_heads})"
            raise ConfigError("num_gpus", self.parallel.num_gpus, expected)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of one token's keys and values in all layers, over all GPUs."""
        numbers = 2 * self.model.num_layers * self.model.num_kv_heads * self.model.head_dim
        return round(numbers * self.precision.kv_bytes)

    @property
    def kv_memory_bytes(self) -> int:
        """Memory left for KV over all GPUs. Raises ConfigError where weights and reserve leave none."""
        usable = self.gpu.memory_bytes * self.memory.utilisation - self.memory.reserve_bytes
        weights = self.model.num_parameters * self.precision.weight_bytes
        left = int(usable * self.parallel.num_gpus - weights)
        if left < self.kv_bytes_per_token:
            told = f"more than {weights / self.parallel.num_gpus:.4g} of weights per GPU plus the reserve"
            raise ConfigError("memory_bytes", self.gpu.memory_bytes, told)
        return left

    def cost_model(self) -> CostModel:
        model, eff = self.model, self.efficiency
        flops_per_s = self.gpu.flops_per_s * self.parallel.num_gpus * self.parallel.efficiency
        kv_bytes_per_s = self._memory_bytes_per_s * eff.kv
        attention_flops = (
            4 * model.num_layers * model.num_heads * model.head_dim
        )  # QKᵀ and PV, a pair of tokens
        head_s = 2 * model.num_head_parameters / (flops_per_s * eff.gemm)
        return CostModel(
            t0_s=self.overhead.iteration_s + 2 * model.num_layers * self.parallel.allreduce_s,
            lin=tuple((tokens, self.linear_s(tokens)) for tokens in KNOT_TOKENS),
            a_p=attention_flops / (flops_per_s * eff.attention),
            a_g=eff.kv_passes * self.kv_bytes_per_token / kv_bytes_per_s,
            a_d=self.kv_bytes_per_token / kv_bytes_per_s,
            a_s=self.overhead.sequence_s + head_s,
        )

    def linear_s(self, num_tokens: int) -> float:
        """Seconds that the weights' matrices and the all-reduces take for ``num_tokens``."""
        bytes_read = (
            self.model.num_layer_parameters + self.model.num_head_parameters
        ) * self.precision.weight_bytes
        memory_s = bytes_read / (self._memory_bytes_per_s * self.efficiency.weights)
        flops_per_s = self.gpu.flops_per_s * self.parallel.num_gpus * self.parallel.efficiency
        compute_s = 2 * self.model.num_layer_parameters * num_tokens / (flops_per_s * self.efficiency.gemm)
        return _rounded_max(memory_s, compute_s, self.efficiency.ridge_exponent) + self._allreduce_s(
            num_tokens
        )

    @property
    def _memory_bytes_per_s(self) -> float:
        return self.gpu.memory_bytes_per_s * self.parallel.num_gpus * self.parallel.efficiency

    def _allreduce_s(self, num_tokens: int) -> float:
        """Two rings a layer: each GPU sends 2(n − 1)/n of the activations; latency stands in t0."""
        num_gpus = self.parallel.num_gpus
        activations = num_tokens * self.model.hidden_size * self.precision.activation_bytes
        sent_bytes = 2 * self.model.num_layers * activations * 2 * (num_gpus - 1) / num_gpus
        return sent_bytes / self.parallel.allreduce_bytes_per_s


def _rounded_max(one: float, other: float, exponent: float) -> float:
    low, high = sorted((one, other))
    return float(high * (1.0 + (low / high) ** exponent) ** (1.0 / exponent))
