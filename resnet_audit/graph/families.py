"""Architecture names: which layers of a state dict make a known family. The only file that knows them.

A family is read from names and shapes into a `Plan`: which layer plays which part. What names and shapes cannot tell
(strides, pooling, the activation, the order of norm and convolution where shapes leave it open) becomes an assumption
in words. Anything that has no part in the plan stops the recognition with a reason: a wrong network is worse than none.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from resnet_audit.graph.families_plan import BlockPlan, Layer, NotThisFamily, Plan, layers_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

SHORTCUT = re.compile(r"downsample|shortcut|skip|proj|identity_conv", re.IGNORECASE)
"""Names of the member that holds a block's parametrised shortcut."""

ON_PREACTIVATION = re.compile(r"shortcut", re.IGNORECASE)
"""Shortcuts so named read the pre-activated value in published pre-activation nets; `downsample` reads the raw one."""

GATE = re.compile(r"\.(se(_?(module|layer|block))?|squeeze_\w+)\.|^\.fc[12]$", re.IGNORECASE)
"""Where the two layers of a squeeze-and-excitation gate stand in a block."""


def recognise(tensors: Mapping[str, Tensor]) -> Plan:
    """The plan of a ResNet (post- or pre-activation, basic or bottleneck, grouped, wide) or of a plain chain.

    Raises NotThisFamily with the reason.
    """
    layers = layers_of(tensors)
    stray = [key for layer in layers.values() for key in layer.strangers()]
    if stray:
        raise NotThisFamily(f"{_shown(stray)} has no part in a plain residual network, or not that shape")
    groups = _blocks(layers)
    inside = {name for names in groups.values() for name in names}
    outside = [layer for layer in layers.values() if layer.name not in inside]
    return _residual(groups, layers, outside) if groups else _chain(outside)


# blocks --------------------------------------------------------------------------------------------------------------


def natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """A sort key in which layer2 comes before layer10."""
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part)


def _blocks(layers: Mapping[str, Layer]) -> dict[str, list[str]]:
    """Layer names by block: the deepest container that ends in a number and holds two or more branch convolutions."""
    convs: dict[str, int] = {}
    for layer in layers.values():
        if layer.kind == "conv":
            for prefix in _numbered_prefixes(layer.name):
                convs[prefix] = convs.get(prefix, 0) + (not SHORTCUT.search(layer.name[len(prefix) :]))
    held: dict[str, list[str]] = {}
    for name in layers:
        for prefix in _numbered_prefixes(name):  # deepest first
            if convs.get(prefix, 0) >= 2:
                held.setdefault(prefix, []).append(name)
                break
    return {name: held[name] for name in sorted(held, key=natural)}


def _numbered_prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1) if parts[end - 1].isdigit()]


def _residual(groups: dict[str, list[str]], layers: Mapping[str, Layer], outside: list[Layer]) -> Plan:
    stages = list(dict.fromkeys(name.rpartition(".")[0] for name in groups))
    blocks: list[BlockPlan] = []
    for name, members in groups.items():
        stage = stages.index(name.rpartition(".")[0])
        first = not blocks or blocks[-1].stage != stage
        blocks.append(_block(name, [layers[member] for member in members], stage, first=first))
    gated = [block.name for block in blocks if block.gate is not None]
    if 0 < len(gated) < len(blocks):
        raise NotThisFamily(f"only some blocks have a gate ({_shown(gated)}), which no known family has")
    head = _head(outside, blocks[-1].convs[-1].weight.shape[0])
    stem = [layer for layer in outside if layer.kind == "conv"]
    if len(stem) != 1:
        raise NotThisFamily(f"one stem convolution was expected and {len(stem)} stand outside the blocks")
    preactivation, why = _preactivation(blocks, outside, stem[0])
    stem_norm, final_norm = _outer_norms(outside, stem[0], head, preactivation=preactivation)
    assumptions = [why, *_block_assumptions(blocks, preactivation=preactivation)]
    return Plan(
        family=_family(blocks, preactivation=preactivation),
        preactivation=preactivation,
        stem=stem[0],
        stem_norm=stem_norm,
        blocks=tuple(blocks),
        final_norm=final_norm,
        head=head,
        assumptions=tuple(assumptions),
        guess=_guess(blocks),
    )


def _guess(blocks: list[BlockPlan]) -> str | None:
    """Why the structure is not certain, or None: a chain in numbered containers has no block that keeps its width."""
    if any(block.shortcut is not None or _keeps_width(block) for block in blocks):
        return None
    return "no shortcut has parameters and no block keeps its width: it may be a plain chain"


def _keeps_width(block: BlockPlan) -> bool:
    return block.convs[0].weight.shape[1] == block.convs[-1].weight.shape[0]


def _block(name: str, members: list[Layer], stage: int, *, first: bool) -> BlockPlan:
    members = sorted(members, key=lambda layer: natural(layer.name))
    gate = [layer for layer in members if GATE.search(layer.name[len(name) :])]
    members = [layer for layer in members if layer not in gate]
    branch = [layer for layer in members if not SHORTCUT.search(layer.name[len(name) :])]
    shortcut = [layer for layer in members if layer not in branch]
    convs = [layer for layer in branch if layer.kind == "conv"]
    norms = [layer for layer in branch if layer.kind == "norm"]
    others = [layer.name for layer in members if layer.kind not in {"conv", "norm"}]
    if others or len(norms) != len(convs) or len(convs) not in {2, 3}:
        what = _shown(others) if others else f"{len(convs)} convolutions with {len(norms)} norms"
        raise NotThisFamily(f"block {name} is not a basic or bottleneck block: {what}")
    return BlockPlan(
        name=name,
        stage=stage,
        first_of_stage=first,
        convs=tuple(convs),
        norms=tuple(norms),
        shortcut=_shortcut_part(name, shortcut, "conv"),
        shortcut_norm=_shortcut_part(name, shortcut, "norm"),
        gate=_gate(name, gate, convs[-1].weight.shape[0]),
    )


def _gate(block: str, gate: list[Layer], width: int) -> tuple[Layer, Layer] | None:
    if not gate:
        return None
    shapes = [tuple(layer.weight.shape) for layer in gate if layer.kind in {"conv", "linear"}]
    fits = len(gate) == len(shapes) == 2 and all(shape[2:] in {(), (1, 1)} for shape in shapes)
    if not fits or shapes[0][:2] != shapes[1][1::-1] or shapes[1][0] != width:
        raise NotThisFamily(f"{_shown([layer.name for layer in gate])} is no gate of two layers on block {block}")
    return gate[0], gate[1]


def _shortcut_part(block: str, shortcut: list[Layer], kind: str) -> Layer | None:
    found = [layer for layer in shortcut if layer.kind == kind]
    if len(found) > 1 or (kind == "norm" and found and len(shortcut) == 1):
        raise NotThisFamily(f"the shortcut of block {block} is not one projection")
    if kind == "conv" and found and re.search(r"\.[1-9]\d*$", found[0].name):
        raise NotThisFamily(f"something without parameters, perhaps pooling, precedes the projection {found[0].name}")
    return found[0] if found else None


# the rest of the network ---------------------------------------------------------------------------------------------


def _head(outside: list[Layer], features: int) -> Layer:
    heads = [layer for layer in outside if layer.kind == "linear"]
    if len(heads) != 1:
        raise NotThisFamily(f"one linear layer was expected after the blocks and {len(heads)} were found")
    if heads[0].weight.shape[1] != features:
        raise NotThisFamily(
            f"{heads[0].name} reads {heads[0].weight.shape[1]} features and the last block gives {features}: "
            "how the map is pooled is not stored"
        )
    return heads[0]


def _preactivation(blocks: list[BlockPlan], outside: list[Layer], stem: Layer) -> tuple[bool, str]:
    """Whether norms precede the convolutions, and how that was seen."""
    votes = set()
    for block in blocks:
        for conv, norm, before in zip(block.convs, block.norms, _widths_before(block), strict=True):
            width = norm.members.get("running_mean", next(iter(norm.members.values()))).shape[0]
            if width not in {before, conv.weight.shape[0]}:
                raise NotThisFamily(f"{norm.name} has {width} channels and fits neither side of {conv.name}")
            if before != conv.weight.shape[0]:
                votes.add(width == before)
    if len(votes) > 1:
        raise NotThisFamily("some blocks look pre-activated and some post-activated")
    if votes:
        order = (
            "norm-ReLU-convolution (pre-activation)" if votes == {True} else "convolution-norm-ReLU (post-activation)"
        )
        return votes == {True}, f"order inside a block: {order}, as the channels of the norms show"
    norms = [layer for layer in outside if layer.kind == "norm"]
    # A post-activation net has a norm behind its stem and none elsewhere.
    found = not norms or not all(_belongs(norm, stem) for norm in norms)
    order = "norm-ReLU-convolution (pre-activation)" if found else "convolution-norm-ReLU (post-activation)"
    return found, f"order inside a block: {order}, from the norms outside the blocks; shapes leave it open"


def _widths_before(block: BlockPlan) -> list[int]:
    """Channels that reach each convolution of the branch, the first from its own kernel (groups taken as 1)."""
    return [block.convs[0].weight.shape[1], *(conv.weight.shape[0] for conv in block.convs[:-1])]


def _outer_norms(
    outside: list[Layer], stem: Layer, head: Layer, *, preactivation: bool
) -> tuple[Layer | None, Layer | None]:
    norms = [layer for layer in outside if layer.kind == "norm"]
    stem_norms = [layer for layer in norms if _belongs(layer, stem) and _width(layer) == stem.weight.shape[0]]
    if preactivation and len(norms) == 1 and _width(norms[0]) == head.weight.shape[1]:
        stem_norms = []
    finals = [layer for layer in norms if layer not in stem_norms]
    fits = all(_width(layer) == head.weight.shape[1] for layer in finals)
    if len(stem_norms) > 1 or len(finals) > 1 or not fits or (finals and not preactivation):
        raise NotThisFamily(
            f"{_shown([layer.name for layer in norms])}: no place outside the blocks for all of these norms"
        )
    return next(iter(stem_norms), None), next(iter(finals), None)


def _width(norm: Layer) -> int:
    return int(next(iter(norm.members.values())).shape[0])


def _belongs(norm: Layer, conv: Layer) -> bool:
    """Whether the names say that the norm follows the convolution: the same but for conv/bn/norm, or its next index."""
    plain = [re.sub(r"conv|bn|norm|batch", "", layer.name, flags=re.IGNORECASE) for layer in (norm, conv)]
    return plain[0] == plain[1] or plain == [f"{plain[0][:-1]}1", f"{plain[0][:-1]}0"]


def _family(blocks: list[BlockPlan], *, preactivation: bool) -> str:
    shape = "bottleneck" if len(blocks[0].convs) == 3 else "basic"
    grouped = any(
        conv.weight.shape[1] not in {width, 0}
        for block in blocks
        for conv, width in list(zip(block.convs, _widths_before(block), strict=True))[1:]
    )
    gate = "SE-" if blocks[0].gate else ""
    return f"{'preactivation ' if preactivation else ''}{gate}{'ResNeXt' if grouped else 'ResNet'}, {shape} blocks"


def _block_assumptions(blocks: list[BlockPlan], *, preactivation: bool) -> list[str]:
    found = ["activations are ReLU and normalisation eps is 1e-5: neither is stored in a state dict"]
    shortcuts = [block for block in blocks if block.shortcut is not None]
    bare = [block.name for block in blocks if block.shortcut is None]
    if bare:
        found.append(
            f"{len(bare)} blocks have a shortcut without parameters, which no state dict shows; they are residual "
            f"because their names are those of residual blocks ({_shown(bare)})"
        )
    if blocks[0].gate is not None:
        found.append("gates: average over the map, ReLU between their two layers, sigmoid; the last step of a branch")
    if shortcuts and preactivation:
        raw = "pre-activated" if _reads_preactivation(shortcuts[0]) else "raw"
        found.append(f"projections read the {raw} input of their block, as nets with such names do")
    return found


def _reads_preactivation(block: BlockPlan) -> bool:
    return block.shortcut is not None and bool(ON_PREACTIVATION.search(block.shortcut.name[len(block.name) :]))


def projection_on_preactivation(plan: Plan) -> bool:
    """Whether the projections of a pre-activation net read the value after the block's first norm and ReLU."""
    return plan.preactivation and any(_reads_preactivation(block) for block in plan.blocks)


def _chain(outside: list[Layer]) -> Plan:
    """The plan of a plain chain: numbered convolutions, each with its norm, and one linear head."""
    ordered = sorted(outside, key=lambda layer: natural(layer.name))
    convs = [layer for layer in ordered if layer.kind == "conv"]
    norms = [layer for layer in ordered if layer.kind == "norm"]
    if not convs or len(norms) != len(convs) or not all(map(_belongs, norms, convs)):
        raise NotThisFamily("the layers are no blocks of a ResNet and no numbered chain of conv + norm")
    for earlier, later in pairwise(convs):
        if later.weight.shape[1] != earlier.weight.shape[0]:
            raise NotThisFamily(f"{later.name} does not read the {earlier.weight.shape[0]} channels of {earlier.name}")
    head = _head(outside, convs[-1].weight.shape[0])
    return Plan(
        family="plain chain",
        preactivation=False,
        stem=convs[0],
        stem_norm=norms[0],
        blocks=(),
        final_norm=None,
        head=head,
        chain=tuple(zip(convs[1:], norms[1:], strict=True)),
        assumptions=(
            "the layers are a chain in the order of their numbers, with ReLU after each norm (eps 1e-5)",
            "stride 2 wherever the channels grow, no pooling",
        ),
        guess="a plain chain: where it strides and pools is not stored in a state dict",
    )


def _shown(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
