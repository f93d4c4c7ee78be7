"""Where cells run: processes of this machine, or a Ray cluster. Both answer (job, outcome) as jobs end."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import active_children, get_context, parent_process
from typing import Any, Protocol

from pbkv.traces.errors import ConfigError

_AHEAD = 2  # jobs handed out for each process: none waits for the next
_PATIENCE_S = 5.0


class Keyed(Protocol):
    """Some work that is told from other work by its key, in a process of its own."""

    def key(self) -> dict[str, Any]: ...
    def run(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Lost:
    """What became of a job whose process died: killed, out of memory, crashed."""

    reason: str


Outcome = dict[str, Any] | Lost


class Workers(Protocol):
    """Runs jobs; what a job raises is raised here."""

    def outcomes(self, jobs: Sequence[Keyed]) -> Iterator[tuple[Keyed, Outcome]]: ...


@dataclass(frozen=True, slots=True)
class Processes:
    """So many processes on this machine. They end with this one, however it ends."""

    num_workers: int

    def outcomes(self, jobs: Sequence[Keyed]) -> Iterator[tuple[Keyed, Outcome]]:
        """As jobs end. When a process dies, those that were running are run again, each alone."""
        left = iter(jobs)
        while suspects := (yield from self._until_one_dies(left)):
            for job in suspects:
                yield job, _alone(job)

    def _until_one_dies(self, left: Iterator[Keyed]) -> Generator[tuple[Keyed, Outcome], None, list[Keyed]]:
        """Returns the jobs that ran when a process died; none if all have ended."""
        suspects: list[Keyed] = []
        with _pool(self.num_workers) as pool:
            running: dict[Future[dict[str, Any]], Keyed] = {}
            while True:
                room = 0 if suspects else _AHEAD * self.num_workers - len(running)
                suspects += _submit(pool, running, left, room)
                if not running:
                    return suspects
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job = running.pop(future)
                    try:
                        row = future.result()
                    except BrokenProcessPool:
                        suspects.append(job)
                    else:
                        yield job, row


@dataclass(frozen=True, slots=True)
class RayCluster:
    """A Ray cluster at ``address`` (``local``: one of ``num_workers`` CPUs, started and stopped here).

    A cluster of several machines needs pbkv installed and the sweep's folder mounted on each.
    """

    address: str
    num_workers: int

    def outcomes(self, jobs: Sequence[Keyed]) -> Iterator[tuple[Keyed, Outcome]]:
        """As jobs end. Raises ConfigError without Ray, or if no cluster answers."""
        if not jobs:
            return
        ray = load_ray()
        self._connect(ray)
        try:
            yield from self._outcomes(ray, iter(jobs))
        finally:
            ray.shutdown()

    def _connect(self, ray: Any) -> None:
        _check_answers(self.address)
        quiet = {"log_to_driver": False, "include_dashboard": False, "logging_level": "ERROR"}
        try:
            if self.address == "local":
                ray.init(address="local", num_cpus=self.num_workers, **quiet)
            else:
                ray.init(address=self.address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            expected = f"local, auto or a running Ray cluster ({type(error).__name__})"
            raise ConfigError("ray", self.address, expected) from error

    def _outcomes(self, ray: Any, left: Iterator[Keyed]) -> Iterator[tuple[Keyed, Outcome]]:
        task = ray.remote(num_cpus=1, max_retries=0)(_run)
        most = _AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
        running: dict[Any, Keyed] = {}
        while True:
            while len(running) < most and (job := next(left, None)) is not None:
                running[task.remote(job)] = job
            if not running:
                return
            done, _ = ray.wait(list(running), num_returns=1)
            yield running.pop(done[0]), _result(ray, done[0])


def _check_answers(address: str) -> None:
    """Raises ConfigError at once where nobody listens at HOST:PORT: Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError("ray", address, f"local, auto or a running Ray cluster ({error})") from None


def load_ray() -> Any:
    """The module ``ray``. Raises ConfigError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        return import_module("ray")
    except ImportError:
        raise ConfigError("ray", "not installed", "pip install 'pbkv[ray]'") from None


def _result(ray: Any, reference: Any) -> Outcome:
    lost = ray.exceptions
    try:
        row: dict[str, Any] = ray.get(reference)
    except (lost.WorkerCrashedError, lost.OutOfMemoryError, lost.NodeDiedError) as error:
        return Lost(f"its process died ({type(error).__name__})")
    except lost.RayTaskError as error:
        raise error.cause from error
    return row


@contextmanager
def _pool(num_workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that are not waited for when something is raised, an interrupt too."""
    with ProcessPoolExecutor(num_workers, get_context("spawn"), initializer=_end_with_parent) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in active_children():
                child.terminate()
            raise


def _submit(
    pool: ProcessPoolExecutor, running: dict[Future[dict[str, Any]], Keyed], left: Iterable[Keyed], room: int
) -> list[Keyed]:
    """Hand out up to ``room`` jobs; returns the one that a broken pool did not take."""
    for _, job in zip(range(room), left, strict=False):
        try:
            running[pool.submit(_run, job)] = job
        except BrokenProcessPool:
            return [job]
    return []


def _alone(job: Keyed) -> Outcome:
    with _pool(1) as pool:
        try:
            return pool.submit(_run, job).result()
        except BrokenProcessPool:
            return Lost("its process died (killed, or out of memory)")


def _end_with_parent() -> None:
    """A pool's process does not notice that its parent was killed: it would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _run(job: Keyed) -> dict[str, Any]:
    return job.run()
