"""Residual blocks from the names and shapes of a state dict alone: five rules, the first that matches wins.

Rules   1  a container with attention-like and mlp-like members: one sum each                                  named
        2  a container with a shortcut-like member of its own width; containers with the same members          named
        3  repeated containers, two or more layers in a chain that ends as wide as it begins                   shape
        4  such a family's containers that change width, where no shortcut has parameters: pad and subsample   shape
        5  siblings that read ever more channels, by what each of them gives: concatenation                    shape
Limits  Strides are not stored: a chain of stride 2 that keeps its width looks like a residual block. Nor is how often
        a block is applied, nor a shortcut that was switched off. So every block says what it was seen by.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from resnet_audit.graph.blocks import Block
from resnet_audit.graph.containers import Containers, Leaf, plain
from resnet_audit.graph.families import natural
from resnet_audit.graph.patterns import Patterns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import Tensor

    from resnet_audit.results import Evidence, SkipKind


def structure(tensors: Mapping[str, Tensor], patterns: Patterns | None = None) -> tuple[Block, ...]:
    """The residual blocks that names and shapes show, in natural order; no node of any graph stands behind them."""
    search = _Search(tensors, patterns or Patterns())
    for rule in (search.attention, search.projections, search.dense, search.repeated):
        rule()
    return search.blocks()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A block before it has a stage; `width` is what it gives."""

    name: str
    layers: tuple[Leaf, ...]
    skip_layers: tuple[Leaf, ...] = ()
    kind: SkipKind
    evidence: Evidence
    depth: int
    width: int


class _Search(Containers):
    """What was found in the containers of a state dict; a container is claimed once, with all inside it."""

    def __init__(self, tensors: Mapping[str, Tensor], patterns: Patterns) -> None:
        super().__init__(tensors, patterns)
        self.found: list[_Found] = []
        self.claimed: set[str] = set()

    def free(self, name: str) -> bool:
        """Whether nothing in or around the container is claimed."""
        return not any(
            name == other or name.startswith(f"{other}.") or other.startswith(f"{name}.") for other in self.claimed
        )

    def open_containers(self) -> Iterator[str]:
        """Containers that are still free, the deepest first."""
        return (name for name in self.deepest_first if self.free(name))

    def claim(self, container: str, *found: _Found) -> None:
        """Take a container and record its blocks."""
        self.claimed.add(container)
        self.found.extend(found)

    # rule 1 ---------------------------------------------------------------------------------------------------------

    def attention(self) -> None:
        """Containers with attention and mlp members, repeated or with a norm of their own; members named as wrapped."""
        counts = _counted(self.under)
        for name in reversed(self.deepest_first):
            wrapped = all(self.patterns.tells("wrapper", member) for member in self.children(name))
            if wrapped and counts[plain(name)] > 1 and self.free(name):
                self._transformer(name, self.children(name), [list(self.children(name))])
        for name in list(self.deepest_first):
            if self.free(name):
                self._mixing_and_mlp(name, repeated=counts[plain(name)] > 1)
        for name in list(self.deepest_first):
            if self.free(name) and counts[plain(name)] > 1:
                self._alone(name)

    def _mixing_and_mlp(self, name: str, *, repeated: bool) -> None:
        members = self.children(name)
        mixing = [member for member in members if self._kind(member) == "attention"]
        mlps = _whole_mlps([member for member in members if self._kind(member) == "mlp"])
        if mixing and mlps and (repeated or self.norms(name)):
            mlps[0] += ["output"] if "intermediate" in mlps[0] and "output" in members else []
            self._transformer(name, members, [[member] for member in mixing] + mlps)

    def _alone(self, name: str) -> None:
        """A norm and one member that mixes or is an mlp; a second norm is that of a mixing without weights."""
        members = self.children(name)
        (member, *others), norms = members, self.norms(name)
        kind = "mixer" if self.patterns.tells("mixer", member) else self._kind(member)
        if others or kind == "other" or len(members[member]) < 2 or not 0 < norms < 3:
            return
        self._transformer(name, members, [[], [member]] if kind == "mlp" and norms == 2 else [[member]])

    def _kind(self, member: str) -> str:
        last = member.rsplit(".", maxsplit=1)[-1]
        if self.patterns.tells("attention", last) or self.patterns.tells("cross_attention", last):
            return "attention"
        return "mlp" if self.patterns.tells("mlp", last) else "other"

    def _transformer(self, name: str, members: dict[str, list[Leaf]], branches: list[list[str]]) -> None:
        """One block a branch; where one norm serves both attention and mlp, they are parallel and make one."""
        if len(branches) == 2 and self.norms_inside(name) == 1:
            branches = [[*branches[0], *branches[1]]]
        width = self._model_width(name)
        found = []
        for branch in branches:
            layers = tuple(leaf for member in branch for leaf in members[member])
            label = f"{name}.{branch[0]}" if branch and len(branches) > 1 else name
            found.append(
                _Found(
                    name=label if branch else f"{name}.mixer",
                    layers=layers,
                    kind="identity",
                    evidence="named",
                    depth=min(len(layers), 2),
                    width=width,
                )
            )
        self.claim(name, *found)

    def _model_width(self, name: str) -> int:
        return min(min(leaf.outputs, leaf.inputs) for leaf in self.under[name])

    # rule 2 ---------------------------------------------------------------------------------------------------------

    def projections(self) -> None:
        """Containers with a shortcut-like member that goes from the branch's input to its output, and their family."""
        ends: dict[frozenset[str], tuple[str, str]] = {}
        for name in list(self.deepest_first):
            if self.free(name):
                found = self._projection(name)
                if found is not None:
                    block, first, last = found
                    ends[self.signature(name)] = (first, last)
                    self.claim(name, block)
        self._norm_shortcuts()
        for name in list(self.open_containers()):
            signature = self.signature(name)
            if signature in ends and self.free(name):
                self._identity(name, *ends[signature])

    def _norm_shortcuts(self) -> None:
        """Containers whose shortcut is a norm; in others with the same layers the pointwise one is the shortcut."""
        signatures = set()
        for name in list(self.deepest_first):
            members = {member.split(".")[0] for member in self.vectors.get(name, ()) if member.endswith(".weight")}
            if self.free(name) and any(self.patterns.tells("norm_shortcut", member) for member in members):
                branch, _, gates = self.split(name)
                signatures.add(self.signature(name))
                self.claim(name, replace(_plain_block(name, branch, gates, "norm", "named"), depth=1))
        for name in list(self.open_containers()):
            if self.signature(name) in signatures and self.free(name):
                branch, _, gates = self.split(name)
                wide = [leaf for leaf in branch if leaf.taps > 1]
                found = _plain_block(name, wide or branch, gates, "projection", "named")
                point = tuple(leaf for leaf in branch if leaf.taps == 1)
                self.claim(name, replace(found, depth=1, skip_layers=point))

    def _projection(self, name: str) -> tuple[_Found, str, str] | None:
        branch, shortcut, gates = self.split(name)
        if not branch or not shortcut or len(shortcut) > 2:
            return None
        first = next((leaf for leaf in branch if leaf.width == shortcut[0].width), None)
        last = next((leaf for leaf in reversed(branch) if leaf.outputs == shortcut[-1].outputs), None)
        if first is None or last is None:
            return None
        found = _Found(
            name=name,
            layers=(*branch, *gates),
            skip_layers=tuple(shortcut),
            kind="projection",
            evidence="named",
            depth=len(branch),
            width=last.outputs,
        )
        return found, first.name[len(name) :], last.name[len(name) :]

    def _identity(self, name: str, first: str, last: str) -> None:
        branch, shortcut, gates = self.split(name)
        begin = next(leaf for leaf in branch if leaf.name == name + first)
        end = next(leaf for leaf in branch if leaf.name == name + last)
        if begin.width == end.outputs and not shortcut:
            self.claim(name, _plain_block(name, branch, gates, "identity", "named"))

    # rules 3 and 4 --------------------------------------------------------------------------------------------------

    def repeated(self) -> None:
        """Families of two or more containers with the same members whose layers are a chain that keeps its width."""
        families: dict[tuple[str, frozenset[str]], list[str]] = {}
        for name in self.open_containers():
            if len(self.under[name]) > 1:
                families.setdefault((plain(name), self.plain_signature(name)), []).append(name)
        has_shortcut = any(found.skip_layers for found in self.found)
        with_depthwise = {path for (path, _), names in families.items() for name in names if self._has_depthwise(name)}
        for (path, _), names in families.items():
            chains = {name: chain for name in names if self.free(name) and (chain := self.chain(name)) is not None}
            kept = [name for name, (reads, gives) in chains.items() if reads == gives]
            inverted = path in with_depthwise
            beside = any(self.patterns.tells("parallel", part) for part in names[0].split("."))
            if len(chains) < 2 or beside or not kept or (not inverted and 2 * len(kept) <= len(chains)):
                continue
            self._family(chains, inverted=inverted or has_shortcut)
            if inverted:
                self._short_members(path)

    def _has_depthwise(self, name: str) -> bool:
        return any(leaf.depthwise for leaf in self.under[name])

    def _short_members(self, path: str) -> None:
        """Blocks without an expansion in a family of inverted ones; the first of a stage may stride if it is gated."""
        for name in [name for name in self.open_containers() if plain(name) == path]:
            branch, shortcut, gates = self.split(name)
            dense = [leaf for leaf in branch if not leaf.depthwise]
            first_of_stage = not re.search(r"\d+\D+[1-9]\d*\D*$", name)
            keeps = len(dense) == 1 and all(leaf.width == leaf.outputs == branch[0].outputs for leaf in branch)
            if keeps and not shortcut and max(leaf.taps for leaf in branch) > 1 and not (gates and first_of_stage):
                self.claim(name, _plain_block(name, branch, gates, "identity", "shape"))

    def _family(self, chains: dict[str, tuple[int, int]], *, inverted: bool) -> None:
        order = sorted(chains, key=natural)
        for inner in order:
            reads, gives = chains[inner]
            name = self._with_depthwise(inner)
            branch, _, gates = self.split(name)
            if reads == gives:
                seen: Evidence = "named" if self.scaled(name) else "shape"
                self.claim(name, _plain_block(name, branch, gates, "identity", seen))
            elif not inverted and gives > reads and inner != order[0]:
                self.claim(name, _plain_block(name, branch, gates, "resample", "shape"))

    def _with_depthwise(self, name: str) -> str:
        """The container, or the one around it where that adds depthwise layers of its width alone (and gates)."""
        parent = name.rpartition(".")[0]
        added = [leaf for leaf in self.split(parent)[0] if leaf not in self.under[name]] if parent else []
        fits = added and all(leaf.depthwise and leaf.outputs == self.under[name][0].width for leaf in added)
        return parent if fits and self.free(parent) else name

    # rule 5 ---------------------------------------------------------------------------------------------------------

    def dense(self) -> None:
        """Siblings in which each reads what the one before it read and gave."""
        siblings: dict[tuple[str, str], list[str]] = {}
        for name in self.open_containers():
            siblings.setdefault((name.rpartition(".")[0], plain(name)), []).append(name)
        for names in siblings.values():
            chains = [(name, self.outer_widths(name)) for name in sorted(names, key=natural) if self.free(name)]
            if len(chains) < 3:
                continue
            growth = chains[0][1][1]
            reads = [ends[0] for _, ends in chains]
            if all(ends[1] == growth for _, ends in chains) and all(
                later == earlier + growth for earlier, later in pairwise(reads)
            ):
                for name, _ in chains:
                    branch, _, gates = self.split(name)
                    self.claim(name, _plain_block(name, branch, gates, "concat", "shape"))

    # the blocks -----------------------------------------------------------------------------------------------------

    def blocks(self) -> tuple[Block, ...]:
        """All that was found, in natural order, each with its stage."""
        stage, width, blocks = 1, None, []
        for found in sorted(self.found, key=lambda found: natural(found.name)):
            stage += width is not None and found.width != width and found.kind != "concat"
            width = found.width
            blocks.append(_as_block(found, stage))
        return tuple(blocks)


def _plain_block(name: str, branch: list[Leaf], gates: list[Leaf], kind: SkipKind, evidence: Evidence) -> _Found:
    layers = sorted([*branch, *gates], key=lambda leaf: natural(leaf.name))
    return _Found(
        name=name,
        layers=tuple(layers),
        kind=kind,
        evidence=evidence,
        depth=len(branch),
        width=max(leaf.outputs for leaf in branch[-1:]),
    )


def _as_block(found: _Found, stage: int) -> Block:
    return Block(
        name=found.name,
        fork="",
        join="",
        output="",
        branch=(),
        skip=(),
        branch_edges=(),
        skip_edge=("", 0),
        skip_kind=found.kind,
        weight_layers=found.depth,
        layers=tuple(leaf.name for leaf in found.layers),
        skip_layers=tuple(leaf.name for leaf in found.skip_layers),
        stage=stage,
        transition=found.kind != "identity",
        evidence=found.evidence,
    )


def _counted(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[plain(name)] = counts.get(plain(name), 0) + 1
    return counts


def _whole_mlps(members: list[str]) -> list[list[str]]:
    """Members that make one mlp each: numbered layers of one belong together, other names stand alone."""
    parts = [member for member in members if re.search(r"(fc|lin|linear)_?[12]$", member, re.IGNORECASE)]
    whole = [[member] for member in members if member not in parts]
    return [*whole, parts] if parts else whole
