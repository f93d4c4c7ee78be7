"""Which pages the nodes of the prefix tree and the running requests hold, on both tiers."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pbkv.cache.pages import Pages
from pbkv.traces.errors import InvariantError

if TYPE_CHECKING:
    from pbkv.cache.decisions import Lease
    from pbkv.cache.manager import CacheManager
    from pbkv.cache.tree import Node

PageIds = npt.NDArray[np.int32]
_NO_PAGES: PageIds = np.empty(0, np.int32)


class FreePages:
    """The pages of one tier that nobody holds. Neighbours are handed out together where they can be."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._stack = np.arange(num_pages - 1, -1, -1, dtype=np.int32)
        self._num_free = num_pages
        self.is_copied = np.zeros(num_pages, bool)  # a copy reads or writes it: nobody may give it back

    def __len__(self) -> int:
        return self._num_free

    def take(self, num_pages: int) -> PageIds:
        """So many pages, in rising order. InvariantError if there are fewer: the cache has miscounted."""
        if num_pages > self._num_free:
            raise InvariantError(f"{num_pages} pages wanted, {self._num_free} of {self.num_pages} are free")
        taken = np.sort(self._stack[self._num_free - num_pages : self._num_free])
        self._num_free -= num_pages
        return taken

    def give(self, pages: PageIds) -> None:
        """Raises InvariantError if one of them is being copied."""
        if self.is_copied[pages].any():
            raise InvariantError("a page is given back while a copy uses it")
        self._stack[self._num_free : self._num_free + len(pages)] = pages[::-1]
        self._num_free += len(pages)

    def free(self) -> list[int]:
        found: list[int] = self._stack[: self._num_free].tolist()
        return found


class LeasePages:
    """The pages of one request, by block: those of the path that it found, then its own."""

    __slots__ = ("_num", "_pages", "own_from", "tokens")

    def __init__(self, found: PageIds) -> None:
        self._pages = found
        self._num = len(found)
        self.own_from = len(found)  # blocks from here on are the request's own
        self.tokens: npt.NDArray[np.int64] | None = None  # of its prompt and answer; the worker's

    def first(self, num_blocks: int) -> PageIds:
        return self._pages[:num_blocks]

    @property
    def own(self) -> PageIds:
        return self._pages[self.own_from : self._num]

    def extend(self, pages: PageIds) -> None:
        end = self._num + len(pages)
        if end > len(self._pages):
            grown = np.empty(max(end, 2 * len(self._pages)), np.int32)
            grown[: self._num] = self._pages[: self._num]
            self._pages = grown
        self._pages[self._num : end] = pages
        self._num = end

    def __len__(self) -> int:
        return self._num

    def replace(self, start: int, pages: PageIds) -> PageIds:
        """Use ``pages`` from block ``start`` on; those used there until now."""
        before = self._pages[start : start + len(pages)].copy()
        self._pages = self._pages.copy()
        self._pages[start : start + len(pages)] = pages
        return before


class PageTables(Pages):
    """The page numbers behind the cache's counts.

    At any time every page of a tier is free, a node's, or (on the GPU) one request's own.
    """

    def __init__(self, gpu_pages: int, host_pages: int) -> None:
        self.gpu, self.host = FreePages(gpu_pages), FreePages(host_pages)
        self._on_gpu: dict[Node, PageIds] = {}
        self._on_host: dict[Node, PageIds] = {}
        self._leases: dict[Lease, LeasePages] = {}
        self._is_arriving = np.zeros(gpu_pages, bool)  # a copy up writes it: nobody may read it

    # ------------------------------------------------------------------ what is asked

    def of(self, lease: Lease, num_blocks: int) -> PageIds:
        """The request's first ``num_blocks`` pages; those that it lacks are taken now.

        Raises InvariantError if a copy up has not ended that writes one of them.
        """
        pages = self._leases[lease]
        if num_blocks > len(pages):
            pages.extend(self.gpu.take(num_blocks - len(pages)))
        found = pages.first(num_blocks)
        if self._is_arriving[found].any():
            raise InvariantError(f"a page of {lease.owner} is used before its copy has ended")
        return found

    def lease(self, lease: Lease) -> LeasePages:
        return self._leases[lease]

    def on_gpu(self, nodes: Iterable[Node]) -> PageIds:
        return _together([self._on_gpu[node] for node in nodes])

    def on_host(self, nodes: Iterable[Node]) -> PageIds:
        return _together([self._on_host[node] for node in nodes])

    # ------------------------------------------------------------------ what happens

    def copy_begun(self, gpu: PageIds, host: PageIds, *, is_up: bool) -> None:
        """Pages of both tiers that a copy uses from now on."""
        self.gpu.is_copied[gpu] = self.host.is_copied[host] = True
        self._is_arriving[gpu] |= is_up

    def copy_ended(self, gpu: PageIds, host: PageIds) -> None:
        self.gpu.is_copied[gpu] = self.host.is_copied[host] = False
        self._is_arriving[gpu] = False

    def begun(self, lease: Lease) -> None:
        path = []
        node = lease.node
        while node.parent is not None:
            path.append(self._on_gpu[node])
            node = node.parent
        self._leases[lease] = LeasePages(_together(path[::-1]))

    def took_gpu(self, node: Node) -> None:
        self._on_gpu[node] = self.gpu.take(node.num_blocks)

    def took_host(self, node: Node) -> None:
        self._on_host[node] = self.host.take(node.num_blocks)

    def gave_gpu(self, node: Node) -> None:
        self.gpu.give(self._on_gpu.pop(node))

    def gave_host(self, node: Node) -> None:
        self.host.give(self._on_host.pop(node))

    def cut(self, upper: Node, lower: Node) -> None:
        for held in (self._on_gpu, self._on_host):
            pages = held.get(lower)
            if pages is not None:
                held[upper], held[lower] = pages[: upper.num_blocks], pages[upper.num_blocks :]

    def handed_over(self, lease: Lease, node: Node) -> None:
        pages = self._leases[lease]
        self._check_own(pages, node)
        self._on_gpu[node] = pages.first(node.end)[node.start :].copy()
        pages.own_from = node.end

    def found_computed(self, lease: Lease, node: Node) -> None:
        pages = self._leases[lease]
        self._check_own(pages, node)
        self.gpu.give(pages.replace(node.start, self._on_gpu[node]))
        pages.own_from = node.end

    def ended(self, lease: Lease) -> None:
        self.gpu.give(self._leases.pop(lease).own)

    # ------------------------------------------------------------------ checks

    def _check_own(self, pages: LeasePages, node: Node) -> None:
        if pages.own_from != node.start or len(pages) < node.end:
            held = f"own pages are blocks {pages.own_from}..{len(pages)}"
            raise InvariantError(f"{node} is said to be computed by a request whose {held}")

    def check(self, manager: CacheManager) -> None:
        """Every page in one state, and as many in each as the cache has counted. Raises InvariantError."""
        manager.check_invariants()
        nodes = list(manager.tree.nodes())
        gpu = [self._on_gpu[node] for node in nodes if node.gpu]
        own = [pages.own for pages in self._leases.values()]
        _check_tier("GPU", self.gpu, [*gpu, *own])
        host = [self._on_host[node] for node in nodes if node.host]
        _check_tier("host", self.host, host)
        if len(self._on_gpu) != len(gpu) or len(self._on_host) != len(host):
            raise InvariantError("a node that holds no space has pages")
        for node in nodes:
            for held, has in ((self._on_gpu, node.gpu), (self._on_host, node.host)):
                if has and len(held[node]) != node.num_blocks:
                    raise InvariantError(f"{node} has {len(held[node])} pages")
        not_taken = len(self.gpu) - manager.tiers.free_blocks
        if not 0 <= not_taken <= manager.private_blocks or len(self.host) != manager.tiers.free_host_blocks:
            raise InvariantError("more pages are free than the cache has counted, or fewer")


def _check_tier(name: str, free: FreePages, held: Collection[PageIds]) -> None:
    pages = [*free.free(), *(page for part in held for page in part.tolist())]
    if len(pages) != free.num_pages or len(set(pages)) != len(pages):
        raise InvariantError(f"{name}: {len(pages)} pages in {len(set(pages))} of {free.num_pages} places")


def _together(parts: list[PageIds]) -> PageIds:
    return np.concatenate(parts) if parts else _NO_PAGES
