"""The weights-only front end: from the tensors of a state dict to a residual graph.

A recognised family becomes a complete graph, and every fact that the weights do not hold is listed as an assumption.
Anything else keeps its weight layers as loose nodes and the blocks that names and shapes show, with the reason why the
network cannot be run.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from resnet_audit.errors import NothingToAnalyse
from resnet_audit.graph.blocks import find_blocks
from resnet_audit.graph.containers import leaves_of
from resnet_audit.graph.families import projection_on_preactivation, recognise
from resnet_audit.graph.families_known import complete
from resnet_audit.graph.families_nodes import BATCH_NORM_EPS, Given
from resnet_audit.graph.families_plan import NotThisFamily, layers_of
from resnet_audit.graph.geometry import check_modules, conv_geometry, norm_eps
from resnet_audit.graph.ir import (
    Activation,
    Add,
    Conv,
    Flatten,
    Input,
    Linear,
    Multiply,
    Node,
    Norm,
    Op,
    Opaque,
    Pad,
    Pool,
    Slice,
    View,
)
from resnet_audit.graph.patterns import known_family, load_patterns
from resnet_audit.graph.residual import ResidualGraph
from resnet_audit.graph.shapes import with_shapes
from resnet_audit.graph.structure import structure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from resnet_audit.checkpoint import Checkpoint
    from resnet_audit.graph.blocks import Block
    from resnet_audit.graph.families_nodes import Recipe
    from resnet_audit.graph.families_plan import BlockPlan, Layer, Plan
    from resnet_audit.graph.geometry import Modules
    from resnet_audit.graph.patterns import Patterns
    from resnet_audit.settings import Settings


def discover(checkpoint: Checkpoint, settings: Settings) -> ResidualGraph:
    """The residual graph of a checkpoint. Raises NothingToAnalyse without weight layers, UsageError on a wrong size."""
    tensors = checkpoint.tensors
    if not leaves_of(tensors):
        raise NothingToAnalyse("no convolution and no linear layer was found; there is nothing to analyse")
    config = getattr(checkpoint, "config", None) or {}
    patterns = None if settings.patterns is None else load_patterns(settings.patterns)
    try:
        recipe = complete(Given(tensors=tensors, input_size=settings.input_size, config=config))
        modules = getattr(checkpoint, "modules", None) or {}
        return _resnet(tensors, modules, settings) if recipe is None else _of_recipe(recipe)
    except NotThisFamily as reason:
        return structure_only(tensors, str(reason), patterns)


def _of_recipe(recipe: Recipe) -> ResidualGraph:
    return ResidualGraph(
        source="weights",
        family=recipe.family,
        nodes=recipe.nodes,
        blocks=find_blocks(recipe.nodes, "named"),
        assumptions=recipe.assumptions,
    )


def _resnet(tensors: Mapping[str, Tensor], modules: Modules, settings: Settings) -> ResidualGraph:
    plan = recognise(tensors)
    builder = _Builder(plan, modules)
    builder.build()
    if builder.guesses and not settings.assume:
        guess = "; ".join(builder.guesses)
        return _unplaced(tensors, f"{guess}; --assume runs it all the same", family=plan.family)
    size, origin = _input_size(plan, settings)
    nodes = with_shapes(tuple(builder.nodes), size)
    return ResidualGraph(
        source="weights",
        family=plan.family,
        nodes=nodes,
        blocks=find_blocks(nodes, "shape" if builder.guesses else "module" if modules else "named"),
        assumptions=(f"input size {'x'.join(map(str, size))} ({origin})", *plan.assumptions, *builder.assumptions),
    )


def _input_size(plan: Plan, settings: Settings) -> tuple[tuple[int, ...], str]:
    if settings.input_size is not None:
        return settings.input_size, "given"
    channels = plan.stem.weight.shape[1]
    if plan.stem.weight.shape[2] == 7:
        return (channels, 224, 224), "the usual one of nets with a 7x7 stem; --input-size sets another"
    return (channels, 32, 32), "the usual one of nets with a 3x3 stem; --input-size sets another"


def structure_only(tensors: Mapping[str, Tensor], reason: str, patterns: Patterns | None = None) -> ResidualGraph:
    """The blocks that names and shapes show, none of which can be run, with the reason and what to do about it."""
    known = known_family(tensors)
    arch = "PACKAGE.MODULE:FACTORY" if known is None else known.arch
    blocks = structure(tensors, patterns)
    family = None if known is None else known.family
    return _unplaced(tensors, f"{reason}; name its definition with --arch {arch}", family=family, blocks=blocks)


def _unplaced(
    tensors: Mapping[str, Tensor], reason: str, *, family: str | None, blocks: tuple[Block, ...] = ()
) -> ResidualGraph:
    layers = layers_of(tensors)
    weights = {leaf.name: leaf for leaf in leaves_of(tensors)}
    placed = {name for block in blocks for name in (*block.layers, *block.skip_layers)}
    names = dict.fromkeys([*layers, *weights])
    return ResidualGraph(
        source="weights",
        family=family,
        nodes=(),
        blocks=blocks,
        loose=tuple(Node(name=name, op=_loose(name, tensors, layers)) for name in names if name in weights),
        unplaced=tuple(
            key
            for name in names
            if name not in placed and not _norm_of_a_block(name, layers, placed)
            for key in ([name] if name else layers[name].members)
        ),
        runnable_reason=reason,
    )


def _norm_of_a_block(name: str, layers: Mapping[str, Layer], placed: set[str]) -> bool:
    """Whether a norm stands in a numbered container beside layers that have their place."""
    container = name.rpartition(".")[0]
    numbered = any(part.isdigit() for part in container.split("."))
    norm = name in layers and layers[name].kind == "norm"
    return norm and numbered and any(layer.startswith(f"{container}.") for layer in placed)


def _loose(name: str, tensors: Mapping[str, Tensor], layers: Mapping[str, Layer]) -> Op:
    if name not in layers:  # a matrix under a name of its own, such as packed projections
        return Linear(weight=tensors[name], bias=None)
    layer = layers[name]
    if layer.kind == "linear":
        return Linear(weight=layer.weight, bias=layer.members.get("bias"))
    if layer.kind == "conv":
        return _conv(layer, stride=1, groups=1)
    return Opaque(name=f"{layer.weight.ndim - 2}-D convolution", weights=(layer.weight,))


def _conv(layer: Layer, *, stride: int, groups: int) -> Conv:
    height, width = layer.weight.shape[2:]
    return Conv(
        weight=layer.weight,
        bias=layer.members.get("bias"),
        stride=(stride, stride),
        padding=(height // 2, width // 2),
        groups=groups,
    )


class _Builder:
    """Writes the nodes of a plan in order, with `last` the newest value and `width` its channels."""

    def __init__(self, plan: Plan, modules: Modules) -> None:
        self.plan = plan
        self.modules = modules
        self.nodes: list[Node] = []
        self.assumptions: list[str] = []
        self.guesses: list[str] = [] if plan.guess is None else [plan.guess]
        self.layers = frozenset(layer.name for layer in plan.layers())
        self.width = plan.stem.weight.shape[1]
        self.last = self.add("input", Input())

    def build(self) -> None:
        """Write every node. Raises NotThisFamily where the layers do not fit each other."""
        check_modules(self.modules, pooled_stem=self.plan.stem.weight.shape[2] == 7)
        self.stem()
        for block in self.plan.blocks:
            self.block(block)
        self.chain()
        if self.plan.final_norm is not None:
            self.relu("final", self.norm(self.plan.final_norm, self.width))
        self.add("pool", Pool(kind="avg", kernel=None))
        self.add("flatten", Flatten())
        self.add(self.plan.head.name, Linear(weight=self.plan.head.weight, bias=self.plan.head.members.get("bias")))
        self.assumptions.append("the last map is averaged over all positions before the head")

    def add(self, name: str, op: Op, *inputs: str) -> str:
        """Append a node that reads `inputs`, by default the last value; it is the new last value.

        A layer keeps its name; any other node makes way for it.
        """
        taken = {node.name for node in self.nodes}
        while name in taken or (name in self.layers and not isinstance(op, Conv | Linear | Norm)):
            name += "_"
        self.nodes.append(Node(name=name, op=op, inputs=inputs or ((self.last,) if self.nodes else ())))
        self.last = name
        return name

    def conv(self, layer: Layer, stride: int, source: str, width: int) -> str:
        """A convolution with 'same' padding; its groups are what its kernel leaves of the channels it reads."""
        per_group, outputs = layer.weight.shape[1], layer.weight.shape[0]
        if width % per_group or outputs % (width // per_group):
            raise NotThisFamily(f"{layer.name} cannot read the {width} channels that reach it")
        known = conv_geometry(self.modules, layer.name)
        if "padding" not in known and (layer.weight.shape[2] % 2 == 0 or layer.weight.shape[3] % 2 == 0):
            raise NotThisFamily(f"{layer.name} has an even-sized kernel, whose padding is not stored")
        guessed = _conv(layer, stride=stride, groups=width // per_group)
        return self.add(layer.name, replace(guessed, **known), source)

    def norm(self, layer: Layer, width: int) -> str:
        """A batch normalisation of the last value, which has `width` channels."""
        mean, var = layer.members.get("running_mean"), layer.members.get("running_var")
        if mean is None or var is None:
            raise NotThisFamily(f"{layer.name} has no running statistics, so its evaluation mode is undefined")
        if len(mean) != width:
            raise NotThisFamily(f"{layer.name} has {len(mean)} channels and {width} reach it")
        weight, bias = layer.members.get("weight"), layer.members.get("bias")
        if (weight is None) != (bias is None):
            raise NotThisFamily(f"{layer.name} has only one of gain and offset")
        eps = norm_eps(self.modules, layer.name, BATCH_NORM_EPS)
        return self.add(layer.name, Norm(weight=weight, bias=bias, mean=mean, var=var, eps=eps))

    def relu(self, name: str, source: str) -> str:
        """A ReLU of `source`."""
        return self.add(f"{name}.relu", Activation(kind="relu"), source)

    def stem(self) -> None:
        """The stem convolution, its norm and ReLU where it has a norm, and the pooling of a 7x7 stem."""
        stem, size = self.plan.stem, tuple(self.plan.stem.weight.shape[2:])
        if size not in {(3, 3), (7, 7), (1, 1)}:
            raise NotThisFamily(f"the stride of a {size[0]}x{size[1]} stem is not stored and no family fixes it")
        self.conv(stem, 2 if size == (7, 7) else 1, self.last, self.width)
        if self.plan.stem_norm is not None:
            self.relu(stem.name, self.norm(self.plan.stem_norm, stem.weight.shape[0]))
        if size == (7, 7):
            self.add("maxpool", Pool(kind="max", kernel=(3, 3), stride=(2, 2), padding=(1, 1)))
        text = "stride 2, then 3x3 max-pooling with stride 2" if size == (7, 7) else "stride 1, no pooling"
        self.assumptions.append(f"stem: {text}")
        self.width = stem.weight.shape[0]
        if self.modules:
            self.assumptions.append("strides, padding, dilation, groups and eps are those of the pickled modules")
        elif self.plan.blocks:
            self.assumptions.append(
                "the first block of every stage but the first has stride 2, in its first 3x3 convolution"
            )

    def block(self, block: BlockPlan) -> None:
        """One residual block, then its ReLU unless it is pre-activated."""
        outputs = block.convs[-1].weight.shape[0]
        changes = block.shortcut is not None or outputs != self.width
        stride = 2 if block.stage > 0 and block.first_of_stage and changes else 1
        if changes and not block.first_of_stage and not self.modules:
            self.guesses.append(f"block {block.name} changes width inside its list, where strides are not known")
            stride = 2
        raw, activated = self.last, None
        if self.plan.preactivation:
            activated = self.relu(block.norms[0].name, self.norm(block.norms[0], self.width))
        branch = self.branch(block, stride)
        # The shortcut strides as the branch does: as guessed, or as the modules of its convolutions say.
        names = {conv.name for conv in block.convs}
        ops = [node.op for node in self.nodes if node.name in names]
        stride = math.prod(op.stride[0] for op in ops if isinstance(op, Conv))
        skip_source = activated if activated is not None and projection_on_preactivation(self.plan) else raw
        skip = self.skip(block, stride, raw if block.shortcut is None else skip_source, outputs)
        self.add(f"{block.name}.add", Add(), branch, skip)
        if not self.plan.preactivation:
            self.relu(block.name, self.last)
        self.width = outputs

    def branch(self, block: BlockPlan, stride: int) -> str:
        """The convolutions of a block with the norms and ReLUs between them."""
        wide = [index for index, conv in enumerate(block.convs) if max(conv.weight.shape[2:]) > 1]
        width, last = self.width, len(block.convs) - 1
        for index, conv in enumerate(block.convs):
            self.conv(conv, stride if index == (wide or [0])[0] else 1, self.last, width)
            width = conv.weight.shape[0]
            if self.plan.preactivation and index < last:
                self.relu(block.norms[index + 1].name, self.norm(block.norms[index + 1], width))
            elif not self.plan.preactivation:
                self.norm(block.norms[index], width)
                if index < last:
                    self.relu(block.norms[index].name, self.last)
        return self.last if block.gate is None else self.gate(block.name, *block.gate)

    def gate(self, name: str, squeeze: Layer, excite: Layer) -> str:
        """The last value times a number in (0, 1) for each channel, which two layers read off its averages."""
        value, width = self.last, excite.weight.shape[0]
        self.add(f"{name}.squeeze", Pool(kind="avg", kernel=None))
        for layer, kind in ((squeeze, "relu"), (excite, "sigmoid")):
            if layer.kind == "linear":
                self.flat()
                self.add(layer.name, Linear(weight=layer.weight, bias=layer.members.get("bias")))
            else:
                self.add(layer.name, _conv(layer, stride=1, groups=1))
            self.add(f"{layer.name}.{kind}", Activation(kind="relu" if kind == "relu" else "sigmoid"))
        if excite.kind == "linear":
            self.add(f"{name}.unflatten", View(shape=(width, 1, 1)))
        return self.add(f"{name}.gate", Multiply(), value, self.last)

    def flat(self) -> None:
        """Flatten the last value if it is still a map."""
        if isinstance(self.nodes[-1].op, Pool):
            self.add("flatten", Flatten())

    def skip(self, block: BlockPlan, stride: int, source: str, outputs: int) -> str:
        """The shortcut: identity, projection, or subsampling and zero channels on both sides. Leaves its end's name."""
        if block.shortcut is not None:
            if block.shortcut.weight.shape[0] != outputs:
                raise NotThisFamily(f"{block.shortcut.name} does not give the {outputs} channels of its block")
            self.conv(block.shortcut, stride, source, self.width)
            return self.last if block.shortcut_norm is None else self.norm(block.shortcut_norm, outputs)
        if outputs == self.width:
            return source
        if outputs < self.width or (outputs - self.width) % 2:
            raise NotThisFamily(f"block {block.name} goes from {self.width} to {outputs} channels without a projection")
        if stride > 1:
            source = self.add(f"{block.name}.subsample", Slice(step=(stride, stride)), source)
        half = (outputs - self.width) // 2
        text = "shortcuts that change shape subsample by their stride and put zero channels on both sides, half each"
        if text not in self.assumptions:
            self.assumptions.append(text)
        return self.add(f"{block.name}.pad", Pad(before=half, after=half), source)

    def chain(self) -> None:
        """The rest of a plain chain."""
        for conv, norm in self.plan.chain:
            self.conv(conv, 2 if conv.weight.shape[0] > self.width else 1, self.last, self.width)
            self.width = conv.weight.shape[0]
            self.relu(norm.name, self.norm(norm, self.width))
