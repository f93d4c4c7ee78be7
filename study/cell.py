"""One cell of a sweep or a plan: plain values that travel to another process or machine, and its row."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from socket import gethostname
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

from pbkv.cache.config import WriteMode
from pbkv.cache.named import INFINITE
from pbkv.cache.policy import PolicyOptions
from pbkv.study.cells import simulated, text_of
from pbkv.traces.errors import InputError
from pbkv.traces.temporary import replacing

if TYPE_CHECKING:
    from pbkv.sim.settings import Settings

GIB = 2**30
OK, FAILED = "ok", "failed"


@dataclass(frozen=True, slots=True)
class PreparedTrace:
    """A trace as canonical Parquet that all processes map: ``path`` may change, the digest tells it."""

    name: str
    path: str = field(compare=False)
    digest: str
    num_calls: int


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy, its options (fields of `PolicyOptions`), and what tells it from the same with others."""

    name: str
    variant: str = ""
    options: tuple[tuple[str, Any], ...] = ()
    files_digest: str = ""  # of code and networks of the user's own

    @property
    def label(self) -> str:
        return f"{self.name} · {self.variant}" if self.variant else self.name

    @property
    def has_no_limit(self) -> bool:
        """Whether its cache is infinite: no size of a tier changes anything."""
        return self.name.partition("+")[0] == INFINITE


@dataclass(frozen=True, slots=True)
class StudyCell:
    """One simulation. Sizes in blocks; ``concurrency`` None is the open loop.

    ``settings`` are fields of `pbkv.sim.settings.Settings`, ``engine`` of its engine; what is not among
    them has its default. With ``records`` a file of the workflows' measures is put into that folder.
    """

    trace: PreparedTrace
    policy: Policy
    profile: str
    profile_digest: str
    gpu_blocks: int
    host_blocks: int
    concurrency: int | None
    seed: int
    write_mode: str = WriteMode.WRITE_THROUGH.value
    settings: tuple[tuple[str, Any], ...] = ()
    engine: tuple[tuple[str, Any], ...] = ()
    scratch: str = field(default="", compare=False)
    records: str = field(default="", compare=False)

    def key(self) -> dict[str, Any]:
        """Everything that the result depends on, but for the state of the code."""
        values = asdict(self)
        for name in ("scratch", "records"):
            del values[name]
        for name in ("path", "num_calls"):
            del values["trace"][name]
        return values

    @property
    def cell_id(self) -> str:
        """Sixteen hexadecimal digits that stand for the key."""
        return hashlib.sha256(text_of(self.key()).encode()).hexdigest()[:16]

    def make_settings(self) -> Settings:
        """What `simulate` is given. Raises ConfigError."""
        from pbkv.sim.profile import load_profile
        from pbkv.sim.settings import Settings

        values = dict(self.settings)
        faults = values.pop("faults", "")
        settings = Settings(
            profile=load_profile(self.profile),
            policies=(self.policy.name,),
            policy_options=PolicyOptions(**dict(self.policy.options)),
            gpu_blocks=(self.gpu_blocks,),
            host_blocks=self.host_blocks,
            concurrencies=(self.concurrency,),
            seeds=(self.seed,),
            write_mode=WriteMode.named(self.write_mode),
            cache_events=False,
            **values,
        )
        engine = replace(settings.engine_config(), **dict(self.engine))
        return replace(settings, engine=engine, faults=type(settings.faults).parse(faults))

    def run(self) -> dict[str, Any]:
        """The row of measures, or of a failure and its reason; with what the cell took on this machine.

        Raises OSError: a disk that is full or gone is no result of a cell.
        """
        started_at_s, cpu_s = perf_counter(), process_time()
        try:
            row = {"status": OK, "reason": None, **self._measured()}
        except InputError as error:
            row = self.failed(str(error))
        except OSError:
            raise
        except Exception as error:  # one broken cell must not cost the others
            row = self.failed(f"{type(error).__name__}: {error} (a bug: please report it)")
        took = {"wall_s": perf_counter() - started_at_s, "cpu_s": process_time() - cpu_s}
        return {**row, **took, "process": f"{gethostname()}:{os.getpid()}"}

    def failed(self, reason: str) -> dict[str, Any]:
        return {
            "status": FAILED,
            "reason": " ".join(reason.replace(self.trace.path, self.trace.name).split()),
        }

    def setting_columns(self) -> dict[str, Any]:
        """The columns that say what was simulated."""
        from pbkv.sim.profile import load_profile

        block_size = dict(self.settings).get("block_size", 16)
        gib = block_size * load_profile(self.profile).kv_bytes_per_token / GIB
        return {
            "cell_id": self.cell_id,
            "trace": self.trace.name,
            "policy": self.policy.name,
            "variant": self.policy.variant,
            "policy_options": json.dumps(dict(self.policy.options), sort_keys=True),
            "profile": self.profile,
            "gpu_blocks": self.gpu_blocks,
            "gpu_gib": self.gpu_blocks * gib,
            "host_blocks": self.host_blocks,
            "host_gib": self.host_blocks * gib,
            "host_ratio": self.host_blocks / self.gpu_blocks,
            "write_mode": self.write_mode,
            "concurrency": self.concurrency,
            "seed": self.seed,
            "block_size": block_size,
            "settings": json.dumps({**dict(self.settings), **dict(self.engine)}, sort_keys=True),
            "trace_digest": self.trace.digest,
        }

    def _measured(self) -> dict[str, Any]:
        from pbkv.study.measures import measured

        with simulated(Path(self.trace.path), self.make_settings(), Path(self.scratch)) as (result, out):
            if self.records:
                self._write_records(out)
            return measured(result, out)

    def _write_records(self, out: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        from pbkv.analysis.load import load
        from pbkv.analysis.metrics import by_workflow

        frame = by_workflow(load(out)).drop(columns=["cell", "policy_note", "open_loop"])
        frame.insert(0, "cell_id", self.cell_id)
        with replacing(Path(self.records) / f"{self.cell_id}.parquet") as file:
            pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), file)
