"""Where a bundle would best go, and why it finds no place: its needs beside the largest free bundle. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

KINDS = ("CPU", "GPU")


@dataclass(frozen=True, slots=True)
class NodeRoom:
    """A living node of the cluster; amounts by Ray's names of resources."""

    node_id: str
    address: str
    total: Mapping[str, float]
    free: Mapping[str, float]

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.node_id[:8]} ({self.address})"

    def fits(self, bundle: Mapping[str, float]) -> bool:
        """Whether the bundle has room now."""
        return all(self.free.get(kind, 0) >= need for kind, need in bundle.items())


def amounts(resources: Mapping[str, float]) -> str:
    """CPUs and GPUs in words, zeros too: "4 CPU, 0 GPU"."""
    return ", ".join(f"{resources.get(kind, 0):g} {kind}" for kind in KINDS)


def roomiest(bundle: Mapping[str, float], nodes: Sequence[NodeRoom], *, free: bool = True) -> NodeRoom | None:
    """The node that comes closest to holding the bundle, by the resource it lacks most; None without nodes.

    Args:
        bundle: what is needed of each resource.
        nodes: living nodes.
        free: by what is free now; otherwise by what the node has in all.
    """

    def room(node: NodeRoom) -> tuple[float, ...]:
        have = node.free if free else node.total
        shares = [have.get(kind, 0) / need for kind, need in bundle.items() if need]
        return min(shares, default=0), *(have.get(kind, 0) for kind in reversed(KINDS))

    return max(nodes, key=room, default=None)


def least_used(bundle: Mapping[str, float], nodes: Sequence[NodeRoom], used: Mapping[str, int]) -> NodeRoom | None:
    """Of the nodes with room for the bundle, one with the fewest uses; of these the one with most room. None when none
    has room.

    Args:
        bundle: what is needed of each resource.
        nodes: living nodes.
        used: uses by node id.
    """
    fitting = [node for node in nodes if node.fits(bundle)]
    fewest = min((used.get(node.node_id, 0) for node in fitting), default=0)
    return roomiest(bundle, [node for node in fitting if used.get(node.node_id, 0) == fewest])


def shortfall(bundle: Mapping[str, float], nodes: Sequence[NodeRoom]) -> str:
    """What the bundle needs, the largest free bundle, and whether any node could hold it at all; a clause."""
    needs = f"it needs {amounts(bundle)} on one node"
    best, largest = roomiest(bundle, nodes), roomiest(bundle, nodes, free=False)
    if best is None or largest is None:
        return f"{needs}, and the cluster has no living node"
    text = f"{needs}; the largest free bundle is {amounts(best.free)}, on node {best.name} of {len(nodes)}"
    if all(largest.total.get(kind, 0) >= need for kind, need in bundle.items()):
        return text
    return f"{text}; no node could hold it even when empty: the largest has {amounts(largest.total)}"
