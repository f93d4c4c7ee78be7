"""Runs iterations of a decoder over pages: packs, stages and launches them, and waits for none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pbkv.replay.attention import NAME, StepContext, register, step
from pbkv.replay.batch import Groups, Longs, Outcome, Packed, Slice, check_batch, pack
from pbkv.replay.decoding import DecodeRunner
from pbkv.replay.staging import Staging
from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from pbkv.replay.pool import Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerConfig:
    """How iterations run. max_short: tokens of a slice up to which our kernel takes it (CUDA).

    max_decodes: most slices of a pure decode that use a CUDA graph. max_pages: of all of them together.
    compile_backend: torch.compile with this backend ("inductor" on a GPU), none if not given.
    """

    max_short: int = 384
    max_decodes: int = 256
    max_pages: int = 1 << 20
    compile_backend: str | None = None


class Forward:
    """One pass of the decoder: ids and positions [T], last [S] -> tokens, hidden states, logits [S, …]."""

    def __init__(self, model: Any, compile_backend: str | None) -> None:
        register()
        model.set_attn_implementation(NAME)
        self._decoder, self._head = model.get_decoder(), model.get_output_embeddings()
        self._call = self._plain
        if compile_backend is not None:
            self._call = torch.compile(self._plain, backend=compile_backend, fullgraph=True, dynamic=True)

    def __call__(
        self, context: StepContext, input_ids: torch.Tensor, positions: torch.Tensor, last: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        with step(context), torch.no_grad():
            return self._call(input_ids[None], positions[None], last)

    def _plain(
        self, input_ids: torch.Tensor, positions: torch.Tensor, last: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        output = self._decoder(input_ids=input_ids, position_ids=positions, use_cache=False)
        hidden = output.last_hidden_state[0].index_select(0, last)
        logits = self._head(hidden)
        return logits.argmax(-1), hidden, logits


class ModelRunner:
    """A decoder (see `model.load_model`) over the pages of ``pool``, which is on the model's device.

    Calls enqueue and do not wait; all work goes to the stream that is current at the call.
    """

    def __init__(self, model: Any, pool: Pool, config: RunnerConfig | None = None) -> None:
        self.model, self.pool, self.config = model, pool, config or RunnerConfig()
        self.device = pool.device
        self._group_size = model.config.num_attention_heads // pool.shape.num_kv_heads
        _check_kernels(pool, self._group_size)
        self._forward = Forward(model, self.config.compile_backend)
        self._staging = Staging(self.device)
        self._decodes = DecodeRunner(self._forward, pool, self.config)

    def run(self, batch: Sequence[Slice], *, want_hidden: bool = False, want_logits: bool = False) -> Outcome:
        """One iteration: computes the slices' keys and values into their pages, and what comes next.

        Slices may share pages that none of them writes. Raises ValueError for a slice without its pages.
        """
        check_batch(batch, self.pool.shape.page_size)
        if self._decodes.takes(batch):
            tokens, hidden, logits = self._decodes.run_one(batch)
        else:
            tokens, hidden, logits = self._run_mixed(batch)
        return Outcome(tokens, hidden if want_hidden else None, logits.clone() if want_logits else None)

    def decode_run(self, batch: Sequence[Slice], num_iterations: int, tokens: Longs) -> Outcome:
        """``num_iterations`` decodes back to back, each sequence fed its row of tokens [iterations, slices].

        The slices' own tokens are not read (one each); their pages must cover start + num_iterations.
        """
        if tokens.shape != (num_iterations, len(batch)):
            raise ValueError(f"tokens {tokens.shape} of {num_iterations} iterations of {len(batch)} slices")
        if not self._decodes.takes(batch):
            raise ValueError(f"a run of decodes takes at most {self.config.max_decodes} slices of one token")
        return Outcome(self._decodes.run_many(batch, np.ascontiguousarray(tokens, dtype=np.int64)))

    def synchronize(self) -> None:
        """Waits until everything that was enqueued is done; not for other streams' copies and forecasts."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    def _run_mixed(self, batch: Sequence[Slice]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        packed, groups = pack(batch, self.pool.shape.page_size, self.config.max_short)
        context, staged = self._staged(packed, groups)
        return self._forward(context, staged["input_ids"], staged["positions"], staged["last"])

    def _staged(self, packed: Packed, groups: Groups) -> tuple[StepContext, dict[str, torch.Tensor]]:
        """Everything the iteration needs, on the device."""
        if self.device.type == "cpu":
            staged = self._staging.send(packed.arrays())
            return StepContext.of(self.pool, staged, None), staged
        from pbkv.replay import cuda_attention as cuda

        staged = self._staging.send(packed.arrays() | cuda.tile_arrays(packed, groups, self._group_size))
        num_kv_heads, processors = self.pool.shape.num_kv_heads, cuda.num_sms(self.device)
        launch = cuda.plan_launch(packed, groups, staged, num_kv_heads, processors)
        return StepContext.of(self.pool, staged, launch), staged


def _check_kernels(pool: Pool, group_size: int) -> None:
    """Raises ConfigError for heads that the kernels have no tiles for; a CPU takes any."""
    head_dim = pool.shape.head_dim
    if pool.device.type == "cuda" and (head_dim & (head_dim - 1) or head_dim < 16 or group_size > 16):
        got = f"heads of {head_dim}, {group_size} to a group"
        raise ConfigError("model", got, "on CUDA: heads of a power of two, at most 16 to a group")
