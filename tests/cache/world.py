"""A cache of one tier or two under one policy, which serves calls whose copies take no time."""

from __future__ import annotations

from collections.abc import Sequence

from pbkv.cache.blocks import BlockPath, PathTable
from pbkv.cache.config import CacheConfig
from pbkv.cache.decisions import Admission
from pbkv.cache.manager import CacheManager
from pbkv.cache.named import make_policy
from pbkv.cache.policy import Policy, PolicyOptions
from pbkv.traces.schema import Call, Workflow

B = 4  # tokens a block


def call(
    index: int, agent: str, prompt: dict[int, int], parents: Sequence[int] = (), num_outputs: int = 1
) -> Call:
    """A call whose prompt is given as {segment id: tokens}."""
    return Call(index, agent, tuple(parents), None, tuple(prompt), tuple(prompt.values()), num_outputs)


def flow(name: str, agents: str, *, fixed: int = 0, own: int = 8, app: str = "app") -> Workflow:
    """One call an agent: ``fixed`` tokens that all its calls share, and ``own`` ones of this workflow."""
    calls = []
    for index, agent in enumerate(agents):
        prompt = {ord(agent): fixed} if fixed else {}
        parents = (index - 1,) if index else ()
        calls.append(call(index, agent, {**prompt, ord(agent) * 1000 + hash_of(name): own}, parents))
    return Workflow(name, app, None, calls)


def hash_of(name: str) -> int:
    return int.from_bytes(name.encode()) % 997


class Asking:
    """A request that waits, as an admission rule or a request order sees it."""

    def __init__(self, workflow: Workflow, position: int, path: BlockPath) -> None:
        self.described = workflow
        self.position = position
        self.path = path
        self.submitted_at_s = 0.0


class World:
    def __init__(
        self,
        policy: str | Policy,
        gpu_blocks: int,
        host_blocks: int = 0,
        options: PolicyOptions = PolicyOptions(),  # noqa: B008 - frozen
    ) -> None:
        chosen = make_policy(policy, options=options) if isinstance(policy, str) else policy
        config = CacheConfig(gpu_blocks, host_blocks, B, min_load_tokens=0)
        self.manager = CacheManager(config, PathTable(B), chosen)
        self.now_s = 0.0

    def path(self, workflow: Workflow, position: int) -> BlockPath:
        made = workflow.calls[position]
        return self.manager.table.path(made.segment_ids, made.segment_tokens)

    def asking(self, workflow: Workflow, position: int) -> Asking:
        return Asking(workflow, position, self.path(workflow, position))

    def submit(self, workflow: Workflow, position: int = 0) -> None:
        self.manager.call_submitted(workflow, position, self.now_s)

    def start(self, workflow: Workflow, position: int = 0) -> Admission:
        made = workflow.calls[position]
        path = self.path(workflow, position)
        admission = self.manager.admit(path, workflow.workflow_id, self.now_s, agent=made.agent)
        assert admission is not None
        if admission.load is not None:
            self.manager.end_load(admission.load)
        self.manager.commit(admission.lease, self.now_s)
        self.manager.call_computed(workflow, position, self.now_s)
        return admission

    def finish(self, workflow: Workflow, position: int, admission: Admission, *, is_last: bool) -> None:
        self.manager.finish(admission.lease, None, admission.lease.path.num_tokens, self.now_s)
        for offload in self.manager.tiers.take_offloads():
            self.manager.tiers.end_offload(offload, self.now_s)
        self.manager.call_ended(workflow, position, self.now_s)
        if is_last:
            self.manager.workflow_ended(workflow, self.now_s)
        self.manager.check_invariants()

    def serve(self, workflow: Workflow, position: int = 0, takes_s: float = 1.0) -> None:
        """A whole call, begun ``takes_s`` after the last one's end; its workflow ends with its last."""
        self.now_s += takes_s
        self.submit(workflow, position)
        admission = self.start(workflow, position)
        self.finish(workflow, position, admission, is_last=position == len(workflow.calls) - 1)

    def play(self, workflow: Workflow) -> None:
        for position in range(len(workflow.calls)):
            self.serve(workflow, position)

    def blocks_of(self, workflow: Workflow, position: int = 0, *, on_gpu: bool = True) -> int:
        """Leading full blocks of the call's prompt that are there."""
        nodes = self.manager.tree.match(self.path(workflow, position), 10**6).nodes
        return sum(node.num_blocks for node in nodes if node.gpu or not on_gpu)
