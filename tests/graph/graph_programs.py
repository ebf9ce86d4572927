"""Small residual networks as torch modules, and what exporters make of them: ONNX models and TorchScript programs."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import TYPE_CHECKING, Any

import torch
from graph_builders import recorded
from torch import Tensor, nn
from torch.nn import functional

from resnet_audit.graph.backward import propagate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resnet_audit.graph import ResidualGraph

SIZE = (3, 16, 16)


class Basic(nn.Module):
    """conv-norm-relu-conv-norm, add, relu, with a projection where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.down = down if stride > 1 or inputs != outputs else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def branch(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.branch(x) + self.down(x))


class Padded(Basic):
    """The parameter-free shortcut: subsampled by 2, padded with zero channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, stride)
        self.down = nn.Identity()
        self.extra = (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        if self.extra > 0:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra, self.extra))
        return self.relu(y + x)


class PreActivated(Basic):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, stride)
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.down = conv if stride > 1 or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.relu(self.bn1(x)))
        return self.conv2(self.relu(self.bn2(y))) + self.down(x)


class Excited(Basic):
    """Squeeze and excitation, with the activations that exporters write out."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, stride)
        self.fc1, self.fc2 = nn.Conv2d(outputs, 2, 1), nn.Conv2d(2, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.silu(self.bn1(self.conv1(x)))))
        gate = torch.sigmoid(self.fc2(functional.gelu(self.fc1(y.mean((2, 3), keepdim=True)))))
        return functional.relu(y * gate + self.down(x))


class Dense(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.norm, self.conv = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 4, 3, 1, 1)
        self.transition = nn.Conv2d(inputs + 4, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self.conv(functional.relu(self.norm(x)))], 1)
        return functional.avg_pool2d(self.transition(x), self.stride)


class Next(nn.Module):
    """A ConvNeXt block: depthwise, layer norm and matrices on the last axis, a gain for each channel."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, 1, 1, groups=inputs)
        self.norm = nn.LayerNorm(inputs)
        self.wide, self.narrow = nn.Linear(inputs, 2 * inputs), nn.Linear(2 * inputs, inputs)
        self.gain = nn.Parameter(torch.rand(inputs))
        self.transition = nn.Conv2d(inputs, outputs, stride, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.narrow(functional.gelu(self.wide(y))) * self.gain
        return self.transition(x + y.permute(0, 3, 1, 2))


class Net(nn.Module):
    def __init__(self, block: type[nn.Module]) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4)
        self.layers = nn.Sequential(block(4, 4, 1), block(4, 8, 2), block(8, 8, 1))
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.bn(self.stem(x))), 3, 2, 1)
        return self.fc(functional.adaptive_avg_pool2d(self.layers(x), 1).flatten(1))


NETS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "basic": (Basic, ("identity", "projection", "identity")),
    "padded": (Padded, ("identity", "resample", "identity")),
    "preactivated": (PreActivated, ("identity", "projection", "identity")),
    "excited": (Excited, ("identity", "projection", "identity")),
    "dense": (Dense, ("concat", "concat", "concat")),
    "next": (Next, ("identity", "identity", "identity")),
}
"""By name: the block, and the kinds of the shortcuts of the three blocks of its net."""


def net_of(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net(NETS[name][0])
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return net.eval()


def images(count: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(count, *SIZE, generator=torch.Generator().manual_seed(seed))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' own warnings, and with log messages off."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def to_onnx(net: nn.Module, x: Tensor, *, dynamo: bool, any_batch: bool) -> Any:
    import onnx  # noqa: PLC0415 (an optional extra)

    with quiet():
        if dynamo:
            free = ({0: torch.export.Dim("batch")},) if any_batch else None
            return torch.onnx.export(net, (x,), dynamo=True, verbose=False, dynamic_shapes=free).model_proto
        file = io.BytesIO()
        free = {"x": {0: "batch"}} if any_batch else None
        torch.onnx.export(net, (x,), file, dynamo=False, input_names=["x"], dynamic_axes=free)
    return onnx.load_from_string(file.getvalue())


def to_script(net: nn.Module, x: Tensor, *, trace: bool) -> Any:
    """The net as a TorchScript program that went through a file."""
    file = io.BytesIO()
    with quiet():
        torch.jit.save(torch.jit.trace(net, x) if trace else torch.jit.script(net), file)
        file.seek(0)
        return torch.jit.load(file)


def gradient_at_input(graph: ResidualGraph, x: Tensor, cotangent: Tensor) -> Tensor:
    """What the adjoints of the package carry back to the input."""
    _, saved = recorded(graph.nodes, x)
    return propagate(graph.nodes, saved, (graph.output, cotangent), stop=graph.nodes[0].name).at_one()


def agree(graph: ResidualGraph, net: nn.Module, x: Tensor) -> None:
    """Values and gradients of the graph are those of the module."""
    x = x.requires_grad_()
    expected = net(x)
    cotangent = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad(expected, x, cotangent)
    x = x.detach()
    torch.testing.assert_close(graph.forward(x), expected.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient_at_input(graph, x, cotangent), gradient, atol=1e-5, rtol=1e-4)
