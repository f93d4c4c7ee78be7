"""Where a predictor's network runs beside the model: on a CPU a thread, on a GPU a stream of its own.

What depends on the agents alone is worked out in numpy (`Network.known`); the rest, from the hidden state to
the logits, in one batch on the device. Both sides have one interface, and run the same `DeviceNetwork`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from pbkv.predict.network import MOST_DEVIATIONS

if TYPE_CHECKING:
    from pbkv.predict.network import Floats, Network

Rows = Sequence[torch.Tensor]  # [width] each: hidden states, of any float type, on the model's device
_LOWEST = 0  # priority: CUDA has none below it


class Pending(Protocol):
    """A batch of forecasts that is being worked out."""

    def has_come(self) -> bool:
        """Whether `result` would not wait; also where it went wrong."""
        ...

    def result(self) -> tuple[Floats, float]:
        """Waits for the logits [n, K (V + 1)]; with the seconds from the hidden states to them.

        Raises what went wrong.
        """
        ...


class Side(Protocol):
    """Runs the network on batches, one after the other."""

    def start(self, known: Floats, hidden: Rows) -> Pending:
        """Enqueue a batch of n calls: ``known`` [n, h] (`Network.known`) and their n ``hidden`` states.

        On CUDA the states may still be being computed, on the stream that is current.
        """
        ...

    def close(self) -> None:
        """Waits for the batch in progress; the others are given up."""
        ...


class DeviceNetwork:
    """What a `Network` does with hidden states, on ``device``, in fp32."""

    def __init__(self, network: Network, device: torch.device) -> None:
        def there(array: Floats) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        arrays = network.arrays
        self._mean, self._scale = there(arrays["context_mean"]), there(arrays["context_scale"])
        self._text_in, self._text_out = there(network.text_in), there(network.text_out)
        self._output, self._bias = there(arrays["output_weight"].T), there(arrays["output_bias"])

    def __call__(self, known: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [n, K (V + 1)] of ``known`` [n, h] and ``hidden`` [n, width], on the current stream."""
        with torch.no_grad():
            deviations = ((hidden.float() - self._mean) / self._scale).clamp(
                -MOST_DEVIATIONS, MOST_DEVIATIONS
            )
            text = torch.relu(deviations.nan_to_num(0.0) @ self._text_in)
            inner = torch.relu(torch.addmm(known, text, self._text_out))
            return torch.addmm(self._bias, inner, self._output)


def side_of(network: Network, device: torch.device) -> Side:
    if device.type == "cuda":
        return SideStream(network, device)
    return SideThread(DeviceNetwork(network, device))


# ---------------------------------------------------------------------- a thread


class SideThread:
    """A `Side` on a thread; exceptions come out of `Pending.result`."""

    def __init__(self, network: DeviceNetwork) -> None:
        self._network = network
        self._executor = ThreadPoolExecutor(1, "pbkv-forecasts")

    def start(self, known: Floats, hidden: Rows) -> Pending:
        return _Promised(self._executor.submit(self._run, known, hidden, perf_counter()))

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)

    def _run(self, known: Floats, hidden: Rows, started_s: float) -> tuple[Floats, float]:
        logits: Floats = self._network(torch.from_numpy(known), torch.stack(list(hidden))).numpy()
        return logits, perf_counter() - started_s


class _Promised:
    def __init__(self, future: Future[tuple[Floats, float]]) -> None:
        self._future = future

    def has_come(self) -> bool:
        return self._future.done()

    def result(self) -> tuple[Floats, float]:
        return self._future.result()


# ---------------------------------------------------------------------- a stream


class SideStream:
    """A `Side` on a CUDA stream: waits for the model's by an event. Has not run on a GPU yet."""

    def __init__(self, network: Network, device: torch.device) -> None:
        self._device, self._network = device, DeviceNetwork(network, device)
        self._stream: Any = torch.cuda.Stream(device, priority=_LOWEST)  # type: ignore[no-untyped-call]
        num_inner, num_dims = network.text_out.shape[1], network.num_dims
        nothing = torch.zeros(num_dims, device=device)  # the first batch of all loads kernels and libraries
        self.start(np.zeros((1, num_inner), np.float32), [nothing]).result()

    def start(self, known: Floats, hidden: Rows) -> Pending:
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begun.record(torch.cuda.current_stream(self._device))  # the hidden states are there, and the weights
        sent = torch.from_numpy(known).pin_memory()
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(begun)
            states = torch.stack(list(hidden))
            logits = self._network(sent.to(self._device, non_blocking=True), states)
            found = torch.empty(logits.shape, dtype=logits.dtype, pin_memory=True)
            found.copy_(logits, non_blocking=True)
            ended.record(self._stream)
        return _Enqueued(begun, ended, found, (sent, hidden))

    def close(self) -> None:
        self._stream.synchronize()


class _Enqueued:
    """Holds what the stream reads until it is done: memory that is given back would be written anew."""

    def __init__(self, begun: Any, ended: Any, found: torch.Tensor, read: tuple[torch.Tensor, Rows]) -> None:
        self._begun, self._ended, self._found, self._read = begun, ended, found, read

    def has_come(self) -> bool:
        return bool(self._ended.query())

    def result(self) -> tuple[Floats, float]:
        self._ended.synchronize()
        logits: Floats = self._found.numpy()
        return logits, self._begun.elapsed_time(self._ended) / 1e3
