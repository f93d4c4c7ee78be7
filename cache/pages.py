"""Where blocks lie: the cache counts them, and tells whoever must know which pages they are.

The simulator need not know. The replay keeps the page numbers of each node and each lease and moves
tensors by them (`pbkv.replay.page_tables`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pbkv.cache.decisions import Lease
    from pbkv.cache.tree import Node


class Pages:
    """Told as blocks change hands; override to keep track. This one does not.

    A lease's private blocks are those of its request behind ``lease.node``; it takes pages for them when
    it computes them, and so never more than the cache has counted.
    """

    def begun(self, lease: Lease) -> None:
        """A request is admitted. What it found is that of the path down to ``lease.node``."""

    def took_gpu(self, node: Node) -> None:
        """``node`` takes pages on the GPU for a copy up."""

    def took_host(self, node: Node) -> None:
        """``node`` takes pages on the host for a copy down."""

    def gave_gpu(self, node: Node) -> None:
        """``node`` gives its pages on the GPU back."""

    def gave_host(self, node: Node) -> None:
        """``node`` gives its pages on the host back."""

    def cut(self, upper: Node, lower: Node) -> None:
        """A node is cut in two; ``lower`` is the old one, whose first pages are those of ``upper`` now."""

    def handed_over(self, lease: Lease, node: Node) -> None:
        """The pages that ``lease`` has computed for ``node`` are the node's now."""

    def found_computed(self, lease: Lease, node: Node) -> None:
        """Another was faster: ``lease`` uses the pages of ``node``, and gives its own for it back."""

    def ended(self, lease: Lease) -> None:
        """``lease`` gives back the pages that are still its own."""
