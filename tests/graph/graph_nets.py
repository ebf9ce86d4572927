"""Residual networks of known architectures, written out with torch's functions alone, and state dicts for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graph_oracles import CLASSES, Oracle, State, Writer, normal, pooled
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor


def option_a_state(seed: int = 0, counts: Sequence[int] = (2, 2, 1), width: int = 4, **choices: Any) -> State:
    write = Writer(seed, **choices)
    write.conv("conv1", width, 3, 3)
    write.norm("bn1", width)
    inputs = width
    for stage, count in enumerate(counts, start=1):
        outputs = width * 2 ** (stage - 1)
        for index in range(count):
            name = f"layer{stage}.{index}"
            for layer, channels in ((1, inputs), (2, outputs)):
                write.conv(f"{name}.conv{layer}", outputs, channels, 3)
                write.norm(f"{name}.bn{layer}", outputs)
            inputs = outputs
    write.linear("linear", CLASSES, inputs)
    return write.state


def option_a(net: Oracle, x: Tensor) -> Tensor:
    """The CIFAR ResNet whose shortcuts have no parameters: subsample by 2, zero channels in front and behind."""
    x = functional.relu(net.norm("bn1", net.conv("conv1", x, padding=1)))
    for stage in (1, 2, 3):
        for index, name in enumerate(net.blocks(f"layer{stage}")):
            strided = stage > 1 and index == 0
            out = functional.relu(net.norm(f"{name}.bn1", net.conv(f"{name}.conv1", x, 2 if strided else 1, 1)))
            out = net.norm(f"{name}.bn2", net.conv(f"{name}.conv2", out, 1, 1))
            if strided:
                planes = out.shape[1]
                x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, planes // 4, planes // 4), "constant", 0)
            x = functional.relu(net.sum(out, x))
    return net.linear("linear", pooled(x))


def projection_state(seed: int = 0, counts: Sequence[int] = (2, 1, 2), *, bias: bool = False) -> State:
    """Basic blocks, 1x1 projections named shortcut.0/.1; with `bias` the convolutions have one before their norm."""
    write = Writer(seed)
    write.conv("conv1", 6, 3, 3, bias=bias)
    write.norm("bn1", 6)
    inputs = 6
    for stage, count in enumerate(counts, start=1):
        outputs = 6 + 5 * (stage - 1)  # odd widths: a padded shortcut would be impossible
        for index in range(count):
            name = f"layer{stage}.{index}"
            for layer, channels in ((1, inputs), (2, outputs)):
                write.conv(f"{name}.conv{layer}", outputs, channels, 3, bias=bias)
                write.norm(f"{name}.bn{layer}", outputs)
            if index == 0 and stage > 1:
                write.conv(f"{name}.shortcut.0", outputs, inputs, 1, bias=bias)
                write.norm(f"{name}.shortcut.1", outputs)
            inputs = outputs
    write.linear("linear", CLASSES, inputs)
    return write.state


def projection(net: Oracle, x: Tensor, member: str = "shortcut", head: str = "linear") -> Tensor:
    x = functional.relu(net.norm("bn1", net.conv("conv1", x, padding=1)))
    for stage in (1, 2, 3):
        for index, name in enumerate(net.blocks(f"layer{stage}")):
            stride = 2 if stage > 1 and index == 0 else 1
            out = functional.relu(net.norm(f"{name}.bn1", net.conv(f"{name}.conv1", x, stride, 1)))
            out = net.norm(f"{name}.bn2", net.conv(f"{name}.conv2", out, 1, 1))
            if net.has(f"{name}.{member}.0"):
                x = net.norm(f"{name}.{member}.1", net.conv(f"{name}.{member}.0", x, stride))
            x = functional.relu(net.sum(out, x))
    return net.linear(head, pooled(x))


def bottleneck_state(seed: int = 0, counts: Sequence[int] = (2, 1, 2), width: int = 4) -> State:
    """The ImageNet ResNet of torchvision, narrow: 7x7 stem, max-pooling, bottlenecks, downsample.0/.1, fc."""
    write = Writer(seed)
    write.conv("conv1", width, 3, 7)
    write.norm("bn1", width)
    inputs = width
    for stage, count in enumerate(counts, start=1):
        planes = width * stage
        for index in range(count):
            name = f"layer{stage}.{index}"
            kernels = ((planes, inputs, 1), (planes, planes, 3), (4 * planes, planes, 1))
            for layer, (outputs, channels, size) in enumerate(kernels, start=1):
                write.conv(f"{name}.conv{layer}", outputs, channels, size)
                write.norm(f"{name}.bn{layer}", outputs)
            if index == 0:
                write.conv(f"{name}.downsample.0", 4 * planes, inputs, 1)
                write.norm(f"{name}.downsample.1", 4 * planes)
            inputs = 4 * planes
    write.linear("fc", CLASSES, inputs)
    return write.state


def bottleneck(net: Oracle, x: Tensor) -> Tensor:
    x = functional.relu(net.norm("bn1", net.conv("conv1", x, 2, 3)))
    x = functional.max_pool2d(x, 3, 2, 1)
    for stage in (1, 2, 3):
        for index, name in enumerate(net.blocks(f"layer{stage}")):
            stride = 2 if stage > 1 and index == 0 else 1
            out = functional.relu(net.norm(f"{name}.bn1", net.conv(f"{name}.conv1", x)))
            out = functional.relu(net.norm(f"{name}.bn2", net.conv(f"{name}.conv2", out, stride, 1)))
            out = net.norm(f"{name}.bn3", net.conv(f"{name}.conv3", out))
            if net.has(f"{name}.downsample.0"):
                x = net.norm(f"{name}.downsample.1", net.conv(f"{name}.downsample.0", x, stride))
            x = functional.relu(net.sum(out, x))
    return net.linear("fc", pooled(x))


RESNEXT_GROUPS = 4


def resnext_state(seed: int = 0, counts: Sequence[int] = (2, 1, 2)) -> State:
    """ResNeXt for small images: 3x3 stem, the 3x3 convolution of a block in 4 groups, shortcut.0/.1."""
    write = Writer(seed)
    write.conv("conv1", 6, 3, 3)
    write.norm("bn1", 6)
    inputs = 6
    for stage, count in enumerate(counts, start=1):
        inner = 4 * RESNEXT_GROUPS // 2 * stage
        for index in range(count):
            name = f"layer{stage}.{index}"
            kernels = ((inner, inputs, 1), (inner, inner // RESNEXT_GROUPS, 3), (2 * inner, inner, 1))
            for layer, (outputs, channels, size) in enumerate(kernels, start=1):
                write.conv(f"{name}.conv{layer}", outputs, channels, size)
                write.norm(f"{name}.bn{layer}", outputs)
            if index == 0:
                write.conv(f"{name}.shortcut.0", 2 * inner, inputs, 1)
                write.norm(f"{name}.shortcut.1", 2 * inner)
            inputs = 2 * inner
    write.linear("linear", CLASSES, inputs)
    return write.state


def resnext(net: Oracle, x: Tensor) -> Tensor:
    x = functional.relu(net.norm("bn1", net.conv("conv1", x, padding=1)))
    for stage in (1, 2, 3):
        for index, name in enumerate(net.blocks(f"layer{stage}")):
            stride = 2 if stage > 1 and index == 0 else 1
            out = functional.relu(net.norm(f"{name}.bn1", net.conv(f"{name}.conv1", x)))
            grouped = net.conv(f"{name}.conv2", out, stride, 1, RESNEXT_GROUPS)
            out = net.norm(f"{name}.bn3", net.conv(f"{name}.conv3", functional.relu(net.norm(f"{name}.bn2", grouped))))
            if net.has(f"{name}.shortcut.0"):
                x = net.norm(f"{name}.shortcut.1", net.conv(f"{name}.shortcut.0", x, stride))
            x = functional.relu(net.sum(out, x))
    return net.linear("linear", pooled(x))


def wide_state(seed: int = 0, counts: Sequence[int] = (2, 1, 2)) -> State:
    """A wide ResNet: block{i}.layer.{j}, bn before conv, convShortcut, and a last norm that is called bn1."""
    write = Writer(seed)
    write.conv("conv1", 4, 3, 3)
    inputs = 4
    for stage, count in enumerate(counts, start=1):
        outputs = 8 * stage
        for index in range(count):
            name = f"block{stage}.layer.{index}"
            write.norm(f"{name}.bn1", inputs)
            write.conv(f"{name}.conv1", outputs, inputs, 3)
            write.norm(f"{name}.bn2", outputs)
            write.conv(f"{name}.conv2", outputs, outputs, 3)
            if index == 0:
                write.conv(f"{name}.convShortcut", outputs, inputs, 1)
            inputs = outputs
    write.norm("bn1", inputs)
    write.linear("fc", CLASSES, inputs)
    return write.state


def wide(net: Oracle, x: Tensor) -> Tensor:
    x = net.conv("conv1", x, padding=1)
    for stage in (1, 2, 3):
        for index, name in enumerate(net.blocks(f"block{stage}.layer")):
            stride = 2 if stage > 1 and index == 0 else 1
            active = functional.relu(net.norm(f"{name}.bn1", x))
            out = functional.relu(net.norm(f"{name}.bn2", net.conv(f"{name}.conv1", active, stride, 1)))
            out = net.conv(f"{name}.conv2", out, 1, 1)
            if net.has(f"{name}.convShortcut"):
                x = net.conv(f"{name}.convShortcut", active, stride)
            x = net.sum(out, x)
    return net.linear("fc", pooled(functional.relu(net.norm("bn1", x))))


def preact_state(
    seed: int = 0,
    counts: Sequence[int] = (2, 1, 2),
    *,
    member: str = "shortcut",
    final: bool = False,
    layers: int = 2,
    projected_first: bool = False,
) -> State:
    """Pre-activation blocks of `layers` convolutions; `member`.0 projects; `final`: a norm before the pooling."""
    write = Writer(seed)
    write.conv("conv1", 4, 3, 3)
    inputs = 4
    for stage, count in enumerate(counts, start=1):
        planes = 4 * stage
        outputs = planes if layers == 2 else 4 * planes
        kernels = [(planes, 3), (outputs, 3)] if layers == 2 else [(planes, 1), (planes, 3), (outputs, 1)]
        for index in range(count):
            name = f"layer{stage}.{index}"
            channels = inputs
            for layer, (wide_, size) in enumerate(kernels, start=1):
                write.norm(f"{name}.bn{layer}", channels)
                write.conv(f"{name}.conv{layer}", wide_, channels, size)
                channels = wide_
            if index == 0 and (stage > 1 or inputs != outputs or projected_first):
                write.conv(f"{name}.{member}.0", outputs, inputs, 1)
            inputs = outputs
    if final:
        write.norm("bn", inputs)
    write.linear("fc" if final else "linear", CLASSES, inputs)
    return write.state


def _preact(net: Oracle, x: Tensor, *, member: str, on_active: bool) -> Tensor:
    x = net.conv("conv1", x, padding=1)
    for stage in (1, 2, 3):
        for index, name in enumerate(net.blocks(f"layer{stage}")):
            stride = 2 if stage > 1 and index == 0 else 1
            active = functional.relu(net.norm(f"{name}.bn1", x))
            if net.has(f"{name}.conv3"):
                out = net.conv(f"{name}.conv1", active)
                out = net.conv(f"{name}.conv2", functional.relu(net.norm(f"{name}.bn2", out)), stride, 1)
                out = net.conv(f"{name}.conv3", functional.relu(net.norm(f"{name}.bn3", out)))
            else:
                out = net.conv(f"{name}.conv1", active, stride, 1)
                out = net.conv(f"{name}.conv2", functional.relu(net.norm(f"{name}.bn2", out)), 1, 1)
            if net.has(f"{name}.{member}.0"):
                x = net.conv(f"{name}.{member}.0", active if on_active else x, stride)
            x = net.sum(out, x)
    return x


def preact_shortcut(net: Oracle, x: Tensor) -> Tensor:
    """The projection reads relu(bn1(x)), and nothing stands between the last sum and the pooling."""
    return net.linear("linear", pooled(_preact(net, x, member="shortcut", on_active=True)))


def preact_downsample(net: Oracle, x: Tensor) -> Tensor:
    """The projection reads the raw x; a last norm and ReLU."""
    x = _preact(net, x, member="downsample", on_active=False)
    return net.linear("fc", pooled(functional.relu(net.norm("bn", x))))


def sequential_state(seed: int = 0) -> State:
    """Layers by their index in nn.Sequential: conv1.0/.1, conv{k}_x.{i}.residual_function.{0,1,3,4}, shortcut.0/.1."""
    write = Writer(seed)
    write.conv("conv1.0", 4, 3, 3)
    write.norm("conv1.1", 4)
    inputs = 4
    for stage, outputs in ((2, 4), (3, 9), (4, 14)):
        for index in range(2 if stage == 2 else 1):
            name = f"conv{stage}_x.{index}"
            for layer, channels in ((0, inputs), (3, outputs)):
                write.conv(f"{name}.residual_function.{layer}", outputs, channels, 3)
                write.norm(f"{name}.residual_function.{layer + 1}", outputs)
            if inputs != outputs:
                write.conv(f"{name}.shortcut.0", outputs, inputs, 1)
                write.norm(f"{name}.shortcut.1", outputs)
            inputs = outputs
    write.linear("fc", CLASSES, inputs)
    return write.state


def sequential(net: Oracle, x: Tensor) -> Tensor:
    x = functional.relu(net.norm("conv1.1", net.conv("conv1.0", x, padding=1)))
    for stage in (2, 3, 4):
        for name in net.blocks(f"conv{stage}_x"):
            inner = f"{name}.residual_function"
            stride = 2 if stage > 2 else 1
            out = functional.relu(net.norm(f"{inner}.1", net.conv(f"{inner}.0", x, stride, 1)))
            out = net.norm(f"{inner}.4", net.conv(f"{inner}.3", out, 1, 1))
            if net.has(f"{name}.shortcut.0"):
                x = net.norm(f"{name}.shortcut.1", net.conv(f"{name}.shortcut.0", x, stride))
            x = functional.relu(net.sum(out, x))
    return net.linear("fc", pooled(x))


@dataclass(frozen=True, slots=True, kw_only=True)
class Net:
    """A network of the test: its weights, its own forward pass, an input size, and what is true of its blocks."""

    state: Callable[..., State]
    forward: Callable[[Oracle, Tensor], Tensor]
    size: tuple[int, int, int]
    skips: tuple[str, ...]
    weight_layers: int
    stages: tuple[int, ...] = (1, 1, 2, 3, 3)
    choices: Mapping[str, Any] = field(default_factory=dict)
    preactivation: bool = False

    def weights(self, seed: int = 0) -> State:
        return self.state(seed, **self.choices)

    def images(self, count: int = 2, seed: int = 1) -> Tensor:
        return normal(count, *self.size, seed=seed)


_I, _P, _R = "identity", "projection", "resample"

NETS = {
    "option A": Net(
        state=option_a_state,
        forward=option_a,
        size=(3, 11, 9),
        skips=(_I, _I, _R, _I, _R),
        weight_layers=2,
        stages=(1, 1, 2, 2, 3),
    ),
    "option A, norms without gain and offset": Net(
        state=option_a_state,
        forward=option_a,
        size=(3, 8, 8),
        skips=(_I, _R, _R),
        weight_layers=2,
        stages=(1, 2, 3),
        choices={"affine": False, "counts": (1, 1, 1)},
    ),
    "projections": Net(
        state=projection_state, forward=projection, size=(3, 9, 8), skips=(_I, _I, _P, _P, _I), weight_layers=2
    ),
    "projections, biased convolutions": Net(
        state=projection_state,
        forward=projection,
        size=(3, 8, 8),
        skips=(_I, _I, _P, _P, _I),
        weight_layers=2,
        choices={"bias": True},
    ),
    "bottlenecks, 7x7 stem": Net(
        state=bottleneck_state, forward=bottleneck, size=(3, 37, 34), skips=(_P, _I, _P, _P, _I), weight_layers=3
    ),
    "ResNeXt": Net(state=resnext_state, forward=resnext, size=(3, 9, 7), skips=(_P, _I, _P, _P, _I), weight_layers=3),
    "wide": Net(
        state=wide_state,
        forward=wide,
        size=(3, 9, 7),
        skips=(_P, _I, _P, _P, _I),
        weight_layers=2,
        preactivation=True,
    ),
    "pre-activation, shortcut": Net(
        state=preact_state,
        forward=preact_shortcut,
        size=(3, 9, 7),
        skips=(_I, _I, _P, _P, _I),
        weight_layers=2,
        preactivation=True,
    ),
    "pre-activation, downsample": Net(
        state=preact_state,
        forward=preact_downsample,
        size=(3, 9, 7),
        skips=(_I, _I, _P, _P, _I),
        weight_layers=2,
        choices={"member": "downsample", "final": True},
        preactivation=True,
    ),
    "pre-activation bottlenecks": Net(
        state=preact_state,
        forward=preact_downsample,
        size=(3, 9, 7),
        skips=(_P, _I, _P, _P, _I),
        weight_layers=3,
        choices={"member": "downsample", "final": True, "layers": 3},
        preactivation=True,
    ),
    "sequential names": Net(
        state=sequential_state,
        forward=sequential,
        size=(3, 9, 7),
        skips=(_I, _I, _P, _P),
        weight_layers=2,
        stages=(1, 1, 2, 3),
    ),
}
