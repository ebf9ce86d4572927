"""Residual networks written out in torch alone, small ones as graphs too: what `gradient` and `ensemble` must equal.

Nothing that computes here comes from the package: forward passes are plain calls of torch.nn.functional, gradients are
autograd's, and paths are enumerated one by one. Only `graph_of` writes a network down in the package's terms.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from resnet_audit.graph import ResidualGraph
from resnet_audit.graph.blocks import find_blocks
from resnet_audit.graph.ir import Activation, Add, Conv, Flatten, Input, Linear, Node, Norm, Op, Pad, Pool, Slice
from resnet_audit.graph.shapes import with_shapes
from resnet_audit.measure import Subject
from resnet_audit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

Gates = tuple[float, float]
"""Factors of a block's branch and of its shortcut, on the way back only."""


# what a backward pass must give -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """Gradients of one block, each (N, ...): at its input, the two shares of that, at the sum and behind the ReLU."""

    fork: Tensor
    branch: Tensor
    skip: Tensor
    join: Tensor
    output: Tensor


class Tape:
    """The values of a forward pass whose gradients are wanted, by block."""

    def __init__(self) -> None:
        self.blocks: list[dict[str, Tensor]] = []
        self.masks: list[Tensor] = []

    def relu(self, x: Tensor) -> Tensor:
        """ReLU, whose mask is kept."""
        self.masks.append(x.detach() > 0)
        return F.relu(x)

    def open(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Copies of a block's input for the branch and for the shortcut: each has a gradient of its own."""
        copies = {"fork": value, "branch": value.clone(), "skip": value.clone()}
        self.blocks.append(copies)
        return copies["branch"], copies["skip"]

    def close(self, total: Tensor, output: Tensor) -> Tensor:
        """The output of the block last opened."""
        self.blocks[-1] |= {"join": total, "output": output}
        for value in self.blocks[-1].values():
            value.retain_grad()
        return output

    def crossings(self) -> list[Crossing]:
        """The gradients, after a backward pass."""
        return [Crossing(**{name: grad_of(value) for name, value in block.items()}) for block in self.blocks]


def grad_of(value: Tensor) -> Tensor:
    assert value.grad is not None
    return value.grad.double()


def pooled(gradient: Tensor) -> float:
    return float(gradient.square().sum().sqrt())


def per_sample(gradient: Tensor) -> Tensor:
    return gradient.flatten(1).square().sum(1).sqrt()


# the real checkpoints -----------------------------------------------------------------------------------------------


def cifar_weights(path: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """The state dict of a CIFAR ResNet without its `module.` prefix."""
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    return {name.removeprefix("module."): value.to(dtype) for name, value in state.items() if value.is_floating_point()}


def cifar_forward(w: Mapping[str, Tensor], images: Tensor) -> tuple[Tensor, Tape]:
    """Logits of the post-activation CIFAR ResNet with option A shortcuts, and its block boundaries."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.batch_norm(
            x, w[f"{name}.running_mean"], w[f"{name}.running_var"], w[f"{name}.weight"], w[f"{name}.bias"]
        )

    tape = Tape()
    x = tape.relu(norm(F.conv2d(images.requires_grad_(), w["conv1.weight"], padding=1), "bn1"))
    for stage in (1, 2, 3):
        index = 0
        while f"layer{stage}.{index}.conv1.weight" in w:
            name = f"layer{stage}.{index}"
            stride = 2 if stage > 1 and index == 0 else 1
            inner, skip = tape.open(x)
            inner = F.conv2d(inner, w[f"{name}.conv1.weight"], stride=stride, padding=1)
            inner = F.conv2d(tape.relu(norm(inner, f"{name}.bn1")), w[f"{name}.conv2.weight"], padding=1)
            if stride == 2:
                quarter = w[f"{name}.conv2.weight"].shape[0] // 4
                skip = F.pad(skip[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
            total = norm(inner, f"{name}.bn2") + skip
            x = tape.close(total, tape.relu(total))
            index += 1
    return F.linear(x.mean((2, 3)), w["linear.weight"], w["linear.bias"]), tape


# small networks -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallNorm:
    """gamma, beta, running mean and running variance of a batch normalisation."""

    gamma: Tensor
    beta: Tensor
    mean: Tensor
    var: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.var, self.gamma, self.beta, eps=1e-5)


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallBlock:
    """Two convolutions (or one) with a norm each (or none); `shortcut` is identity, pad or a 1x1 projection."""

    convs: tuple[Tensor, ...]
    norms: tuple[SmallNorm, ...] = ()
    stride: int = 1
    projection: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallNet:
    """stem conv; blocks; mean over the map; linear head. order: post- or pre-activation, or linear (no ReLU at all).

    project_activated: the shortcut of a pre-activation block starts behind its first ReLU.
    """

    order: str
    stem: Tensor
    blocks: tuple[SmallBlock, ...]
    last_norm: SmallNorm
    head: Tensor
    size: tuple[int, int, int]
    skips: bool = True
    project_activated: bool = False

    def enter(self, x: Tensor) -> Tensor:
        """The value at the first block's input."""
        stem = same_conv(x, self.stem, 1)
        if self.project_activated:
            return F.relu(self.blocks[0].norms[0](stem))
        return F.relu(stem) if self.order == "post" else stem

    def leave(self, x: Tensor) -> Tensor:
        """The logits for the last block's output."""
        if self.order == "pre":
            x = F.relu(self.last_norm(x))
        return x.mean((2, 3)) @ self.head.T

    def body(self, x: Tensor, gates: Sequence[Gates] | None = None, tape: Tape | None = None) -> Tensor:
        """The last block's output for the first block's input. Gates scale gradients and leave every value as it is."""
        for index, block in enumerate(self.blocks):
            if self.project_activated and index > 0:
                x = F.relu(block.norms[0](x))
            inner, skip = (x, x) if tape is None else tape.open(x)
            branch = self.branch(block, inner)
            if not self.skips:
                x = F.relu(branch) if self.order == "post" else branch
                continue
            shortcut = shortcut_of(block, skip)
            if gates is not None:
                branch, shortcut = (
                    gated(value, gate) for value, gate in zip((branch, shortcut), gates[index], strict=True)
                )
            total = branch + shortcut
            x = F.relu(total) if self.order == "post" else total
            if tape is not None:
                x = tape.close(total, x)
        return x

    def branch(self, block: SmallBlock, x: Tensor) -> Tensor:
        """The residual branch of one block."""
        for index, kernel in enumerate(block.convs):
            stride = block.stride if index == 0 else 1
            norm: Callable[[Tensor], Tensor] = block.norms[index] if block.norms else lambda value: value
            if self.order == "post":
                x = norm(same_conv(x, kernel, stride))
                x = F.relu(x) if index + 1 < len(block.convs) else x
            elif self.order == "pre":
                done = index == 0 and self.project_activated
                x = same_conv(x if done else F.relu(norm(x)), kernel, stride)
            else:
                x = norm(same_conv(x, kernel, stride))
        return x

    def logits(self, x: Tensor) -> Tensor:
        return self.leave(self.body(self.enter(x)))


def same_conv(x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    return F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)


def shortcut_of(block: SmallBlock, x: Tensor) -> Tensor:
    if block.projection is not None:
        return F.conv2d(x, block.projection, stride=block.stride)
    missing = block.convs[-1].shape[0] - x.shape[1]
    if missing or block.stride > 1:
        x = F.pad(x[:, :, :: block.stride, :: block.stride], (0, 0, 0, 0, missing // 2, missing // 2))
    return x


def gated(value: Tensor, factor: float) -> Tensor:
    """The same value, bit by bit, whose gradient is multiplied by `factor`."""
    return value.detach() + factor * (value - value.detach())


@dataclass(slots=True)
class Draw:
    """A source of random parts in float64."""

    seed: int
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def kernel(self, c_out: int, c_in: int, size: int = 3, gain: float = 1.0) -> Tensor:
        return self.normal(c_out, c_in, size, size, scale=gain * (2.0 / (c_in * size**2)) ** 0.5)

    def norm(self, channels: int) -> SmallNorm:
        return SmallNorm(
            gamma=1.0 + self.normal(channels, scale=0.3),
            beta=self.normal(channels, scale=0.3),
            mean=self.normal(channels, scale=0.3),
            var=0.5 + self.normal(channels).square(),
        )


def small_net(
    order: str,
    widths: Sequence[int],
    *,
    seed: int = 0,
    project: bool = False,
    norms: bool = True,
    gain: float = 1.0,
    size: tuple[int, int, int] = (2, 6, 6),
    **more: bool,
) -> SmallNet:
    """A random network of len(widths) - 1 blocks. A block that widens has stride 2 and pads, or projects."""
    draw = Draw(seed)
    blocks = []
    for c_in, c_out in pairwise(widths):
        first = c_in if order == "pre" else c_out
        blocks.append(
            SmallBlock(
                convs=(draw.kernel(c_out, c_in, gain=gain), draw.kernel(c_out, c_out, gain=gain)),
                norms=(draw.norm(first), draw.norm(c_out)) if norms else (),
                stride=1 if c_in == c_out else 2,
                projection=draw.kernel(c_out, c_in, 1) if project and c_in != c_out else None,
            )
        )
    return SmallNet(
        order=order,
        stem=draw.kernel(widths[0], size[0]),
        blocks=tuple(blocks),
        last_norm=draw.norm(widths[-1]),
        head=draw.normal(5, widths[-1]),
        size=size,
        **more,
    )


def linear_net(branches: Sequence[Tensor], *, seed: int = 0, head: Tensor | None = None) -> SmallNet:
    """x + A_l x with 1x1 convolutions A_l (c, c) and no ReLU: every path is a product of matrices."""
    draw = Draw(seed)
    width = branches[0].shape[0]
    return SmallNet(
        order="linear",
        stem=draw.kernel(width, 2),
        blocks=tuple(SmallBlock(convs=(branch[:, :, None, None],)) for branch in branches),
        last_norm=draw.norm(width),
        head=draw.normal(5, width) if head is None else head,
        size=(2, 4, 4),
    )


# every path, one by one ---------------------------------------------------------------------------------------------


def gradient_at_start(net: SmallNet, images: Tensor, cotangent: Tensor, gates: Sequence[Gates] | None = None) -> Tensor:
    """The gradient of <logits, cotangent> at the first block's input, through blocks gated on the way back."""
    start = net.enter(images).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(net.leave(net.body(start, gates)), start, cotangent)
    return gradient


def path_weights(block: SmallBlock, *, branch: bool) -> int:
    """Weight layers that a path through the branch, or through the shortcut, passes in one block."""
    return len(block.convs) if branch else int(block.projection is not None)


def every_path(net: SmallNet, images: Tensor, cotangent: Tensor) -> Iterator[tuple[tuple[bool, ...], Tensor]]:
    """All 2^L choices of branch (True) or shortcut, with the gradient that came along each."""
    for choice in product((False, True), repeat=len(net.blocks)):
        gates = [(float(branch), float(not branch)) for branch in choice]
        yield choice, gradient_at_start(net, images, cotangent, gates)


def enumerated(net: SmallNet, images: Tensor, cotangent: Tensor, unit: str) -> Tensor:
    """The parts c_k, k = 0, 1, ..., as sums over all paths of that depth; the head is one more weight layer."""
    parts: dict[int, Tensor] = {}
    for choice, gradient in every_path(net, images, cotangent):
        depth = sum(choice)
        if unit == "layers":
            depth = 1 + sum(path_weights(block, branch=b) for block, b in zip(net.blocks, choice, strict=True))
        parts[depth] = parts.get(depth, torch.zeros_like(gradient)) + gradient
    nothing = torch.zeros_like(gradient)
    return torch.stack([parts.get(depth, nothing) for depth in range(max(parts) + 1)])


# the same networks in the package's terms ---------------------------------------------------------------------------


class _Writer:
    def __init__(self) -> None:
        self.nodes = [Node(name="input", op=Input())]

    @property
    def last(self) -> str:
        return self.nodes[-1].name

    def add(self, name: str, op: Op, *inputs: str) -> str:
        self.nodes.append(Node(name=name, op=op, inputs=inputs or (self.last,)))
        return name

    def relu(self, name: str) -> str:
        return self.add(name, Activation(kind="relu"))

    def norm(self, name: str, norm: SmallNorm) -> str:
        return self.add(name, Norm(weight=norm.gamma, bias=norm.beta, mean=norm.mean, var=norm.var, eps=1e-5))

    def conv(self, name: str, kernel: Tensor, stride: int, *inputs: str) -> str:
        half = kernel.shape[-1] // 2
        return self.add(
            name, Conv(weight=kernel, bias=None, stride=(stride, stride), padding=(half, half)), *(inputs or ())
        )


def graph_of(net: SmallNet) -> ResidualGraph:
    """The network as a residual graph."""
    writer = _Writer()
    writer.conv("stem", net.stem, 1)
    if net.order == "post":
        writer.relu("stem.relu")
    for index, block in enumerate(net.blocks):
        _write_block(writer, net, block, f"b{index}")
    if net.order == "pre":
        writer.norm("norm", net.last_norm)
        writer.relu("relu")
    writer.add("pool", Pool(kind="avg", kernel=None))
    writer.add("flatten", Flatten())
    writer.add("head", Linear(weight=net.head, bias=None))
    nodes = with_shapes(tuple(writer.nodes), net.size)
    return ResidualGraph(source="weights", family=None, nodes=nodes, blocks=find_blocks(nodes, "graph"))


def _write_block(writer: _Writer, net: SmallNet, block: SmallBlock, name: str) -> None:
    fork = writer.last
    for index, kernel in enumerate(block.convs):
        if net.order == "pre":
            if block.norms:
                writer.norm(f"{name}.norm{index}", block.norms[index])
            writer.relu(f"{name}.relu{index}")
            if index == 0 and net.project_activated:
                fork = writer.last
        writer.conv(f"{name}.conv{index}", kernel, block.stride if index == 0 else 1)
        if net.order != "pre" and block.norms:
            writer.norm(f"{name}.norm{index}", block.norms[index])
        if net.order == "post" and index + 1 < len(block.convs):
            writer.relu(f"{name}.relu{index}")
    if net.skips:
        branch = writer.last
        writer.add(f"{name}.add", Add(), branch, _write_shortcut(writer, block, name, fork))
    if net.order == "post":
        writer.relu(f"{name}.relu")


def _write_shortcut(writer: _Writer, block: SmallBlock, name: str, fork: str) -> str:
    if block.projection is not None:
        return writer.conv(f"{name}.projection", block.projection, block.stride, fork)
    channels = block.convs[0].shape[1]
    if block.stride > 1:
        fork = writer.add(f"{name}.slice", Slice(step=(block.stride, block.stride)), fork)
    if block.convs[-1].shape[0] > channels:
        half = (block.convs[-1].shape[0] - channels) // 2
        fork = writer.add(f"{name}.pad", Pad(before=half, after=half), fork)
    return fork


def subject_of(net: SmallNet, **settings: object) -> Subject:
    """The subject of a small network, in float64 on few white inputs unless told."""
    chosen = {"dtype": "float64", "samples": 3, "inputs": "gaussian", "threads": 1, **settings}
    return Subject(graph_of(net), Settings(**chosen))


SMALL: dict[str, SmallNet] = {
    "post": small_net("post", (4, 4, 4, 4), seed=1),
    "post-pad": small_net("post", (4, 4, 8, 8), seed=2),
    "post-project": small_net("post", (4, 4, 6, 6), seed=3, project=True),
    "pre": small_net("pre", (4, 4, 4, 4, 4), seed=4),
    "pre-pad": small_net("pre", (4, 8, 8), seed=5),
    "pre-project": small_net("pre", (4, 4, 6, 6), seed=6, project=True),
    "pre-activated": small_net("pre", (4, 6, 6, 8), seed=7, project=True, project_activated=True),
    "bare-relu": small_net("pre", (4, 4, 4), seed=8, norms=False),
}
"""Small networks of every kind of block."""
