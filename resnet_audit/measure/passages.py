"""How the gradient passes every residual block: one backward pass, its parts kept where shortcut and branch meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from resnet_audit.graph.backward import Part, Polynomial, propagate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from resnet_audit.graph.blocks import Block
    from resnet_audit.graph.ir import Node
    from resnet_audit.measure.passes import Recording


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Cotangents of one block, each (N, ...): at its output, behind the mask, at its input, and its two shares."""

    output: Tensor
    join: Tensor
    fork: Tensor
    branch: Tensor
    skip: Tensor


def passages_of(
    nodes: Sequence[Node], blocks: Sequence[Block], recording: Recording, seed: tuple[str, Tensor]
) -> tuple[Passage, ...]:
    """The cotangents of every block from one backward pass that starts with `seed` = (node, cotangent (N, ...))."""
    boundaries = {name for block in blocks for name in (block.output, block.join, block.fork)}
    seen: dict[str, Tensor] = {}
    shares: dict[str, tuple[Tensor, Tensor]] = {}
    forks: dict[str, list[Block]] = {}
    for block in blocks:
        forks.setdefault(block.fork, []).append(block)

    def visit(name: str, cotangent: Polynomial, parts: Sequence[Part]) -> None:
        if name in boundaries:
            seen[name] = cotangent.at_one()
        for block in forks.get(name, ()):
            shares[block.name] = _shares(block, parts, seen[name])

    propagate(nodes, recording.saved, seed, stop=blocks[0].fork, visit=visit)
    return tuple(
        Passage(
            output=seen[block.output],
            join=seen[block.join],
            fork=seen[block.fork],
            branch=shares[block.name][0],
            skip=shares[block.name][1],
        )
        for block in blocks
    )


def _shares(block: Block, parts: Sequence[Part], like: Tensor) -> tuple[Tensor, Tensor]:
    """What came back to the fork through the branch and through the shortcut."""
    branch, skip = torch.zeros_like(like), torch.zeros_like(like)
    of_branch, of_skip = shares_of(block, parts)
    for term in of_branch:
        branch += term.at_one()
    for term in of_skip:
        skip += term.at_one()
    return branch, skip


def shares_of(block: Block, parts: Sequence[Part]) -> tuple[list[Polynomial], list[Polynomial]]:
    """The cotangents at a block's fork that came through its branch, and those through its shortcut."""
    inside = set(block.branch)
    shares: tuple[list[Polynomial], list[Polynomial]] = ([], [])
    for part in parts:
        through_branch = part.reader in inside or (part.reader, part.position) in block.branch_edges
        shares[not through_branch].append(part.cotangent)
    return shares
