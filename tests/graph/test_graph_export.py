"""Graphs of exported modules against the modules themselves: values, gradients, names, and what stays constant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from resnet_audit.errors import NotRunnable, UsageError
from resnet_audit.graph.adjoint import save
from resnet_audit.graph.backward import propagate
from resnet_audit.graph.execute import run
from resnet_audit.graph.from_export import from_module, from_program
from resnet_audit.graph.ir import Add, Conv, Input, Linear, Multiply, Norm, Opaque, Scale, is_weight

if TYPE_CHECKING:
    from resnet_audit.graph.residual import ResidualGraph

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:copyreg", "ignore::DeprecationWarning")


class Unit(nn.Module):
    """A bottleneck of squeeze and excitation, grouped, with a projection where its shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(inputs, 8, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(8)
        self.mix = nn.Conv2d(8, 8, 3, stride, padding="same" if stride == 1 else 1, groups=2)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 2, 1), nn.SiLU(), nn.Conv2d(2, 8, 1), nn.Sigmoid()
        )
        self.grow = nn.Conv2d(8, outputs, 1)
        self.last_norm = nn.BatchNorm2d(outputs)
        changed = stride > 1 or inputs != outputs
        self.skip = nn.Conv2d(inputs, outputs, 1, stride) if changed else None

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.first_norm(self.reduce(x)), inplace=True)
        out = self.mix(out)
        out = self.last_norm(self.grow(out * self.gate(out)))
        out += x if self.skip is None else self.skip(x)
        return functional.relu_(out)


class Maps(nn.Module):
    """Convolutions, pools and a classifier, with in-place operations wherever torch allows them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.units = nn.Sequential(Unit(8, 8), Unit(8, 12, stride=2), nn.Dropout(0.3), Unit(12, 12))
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.unused = nn.Linear(3, 3)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(functional.hardtanh(self.stem(x), 0, 6))
        return self.head(self.units(x).mean((2, 3)))


class Dense(nn.Module):
    """Concatenations instead of sums."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(4 + 2 * count, 2, 3, padding=1) for count in range(3))
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.pad(x, (0, 0, 0, 0, 0, 1))
        for layer in self.layers:
            x = torch.cat([x, functional.elu(layer(x))], 1)
        return self.head(functional.avg_pool2d(x[:, :, ::2, ::2], 2).flatten(1)[:, :10])


class Gained(nn.Module):
    """A block in the manner of ConvNeXt: depthwise, channels last, layer norm, GELU and a learnt gain."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.norm = nn.LayerNorm(4)
        self.wide, self.narrow = nn.Linear(4, 12), nn.Linear(12, 4)
        self.gain = nn.Parameter(torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.gain * self.narrow(functional.gelu(self.wide(out)))).permute(0, 3, 1, 2)


class Gated(nn.Module):
    """Whole numbers and comparisons on the way: a rectifier and a choice of channels written out."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x) * (x > 0)
        return x + out.gather(1, out.argsort(1)) + torch.where(out > 0, out, -out)


class Shuffled(nn.Module):
    """Views of values that lie in order only because the module copied them, and a view across the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.permute(0, 2, 3, 1).contiguous().view(-1, 4).t().contiguous().view(-1, 5)
        return self.layer(rows).view(4, 2, 6, 5).transpose(0, 1) + x


class Words(nn.Module):
    """A pre-norm transformer with learnt positions, a causal mask, and a head tied to its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(11, 8), nn.Embedding(9, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, norm_first=True, batch_first=True, activation="gelu")
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1]))
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], dtype=x.dtype)
        return {"states": x, "logits": self.head(self.layers(x, mask, is_causal=True))}


def prepared(net: nn.Module, seed: int = 0) -> nn.Module:
    """The module in evaluation mode with statistics, gains and biases far from their defaults."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            drawn = torch.rand(tensor.shape, generator=generator) if "var" in name else None
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator) if drawn is None else 0.5 + drawn)
    return net.eval()


def output_of(net: nn.Module, x: Tensor) -> Tensor:
    found = net(x)
    return found["logits"] if isinstance(found, dict) else found


IMAGE, MAP, TOKENS = torch.randn(3, 3, 16, 16), torch.randn(2, 4, 6, 5), torch.randint(0, 11, (2, 7))
NETS = {
    "maps": (Maps, IMAGE),
    "dense": (Dense, torch.randn(2, 3, 8, 8)),
    "gained": (Gained, MAP),
    "shuffled": (Shuffled, MAP),
    "gated": (Gated, torch.randn(3, 6)),
    "conv1d": (
        lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(24, 2)),
        torch.randn(2, 3, 8),
    ),
    "transposed": (
        lambda: nn.Sequential(nn.ConvTranspose2d(4, 3, 2, 2), nn.Softplus(), nn.Upsample(scale_factor=2)),
        MAP,
    ),
    "reflected": (lambda: nn.Sequential(nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect"), nn.PReLU(3)), MAP),
    "ceiled": (
        lambda: nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
        MAP,
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=NETS, ids=str)
def net_and_input(request) -> tuple[nn.Module, Tensor]:
    build, x = NETS[request.param]
    torch.manual_seed(0)
    return prepared(build()), x


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_the_graph_gives_the_values_of_the_module_in_either_precision(net_and_input, dtype, tolerance) -> None:
    net, x = net_and_input
    graph = from_module(net.float(), x)
    expected = output_of(net.to(dtype), x.to(dtype))
    assert torch.allclose(graph.forward(x.to(dtype)), expected, rtol=tolerance, atol=tolerance)
    net.float()


def test_its_backward_pass_gives_the_gradient_of_the_module(net_and_input) -> None:
    net, x = net_and_input
    graph = from_module(net.double(), x.double())
    gradient, expected = gradients(graph, net, x.double())
    assert torch.allclose(gradient, expected, rtol=1e-10, atol=1e-12)
    net.float()


def gradients(graph: ResidualGraph, net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_(requires_grad=True)
    output = output_of(net, leaf)
    cotangent = torch.randn_like(output)
    (expected,) = torch.autograd.grad(output, leaf, cotangent)
    return backward(graph, x, cotangent, "input"), expected


def backward(graph: ResidualGraph, x: Tensor, cotangent: Tensor, stop: str) -> Tensor:
    saved = {}
    with torch.no_grad():
        run(
            graph.nodes,
            {"input": x},
            graph.output,
            lambda node, read, _: saved.update({node.name: save(node.op, read)}),
        )
    return propagate(graph.nodes, saved, (graph.output, cotangent), stop=stop).at_one()


def test_tokens_are_counted_and_their_gradient_starts_at_the_first_block() -> None:
    net = prepared(Words()).double()
    graph = from_module(net, TOKENS)
    assert torch.allclose(graph.forward(TOKENS), net(TOKENS)["logits"], atol=1e-12)
    source = graph.nodes[0]
    assert isinstance(source.op, Input)
    assert (source.op.vocabulary, source.shape, graph.batch) == (11, (7,), 2)
    assert [block.name for block in graph.blocks] == [
        f"layers.layers.{layer}{part}" for layer in range(2) for part in (".self_attn", "")
    ]
    start = graph.blocks[0].fork
    kept = {}
    run(graph.nodes, {"input": TOKENS}, graph.output, lambda node, _, value: kept.update({node.name: value}))
    leaf = kept[start].detach().requires_grad_(requires_grad=True)
    cotangent = torch.randn_like(kept[graph.output])
    (expected,) = torch.autograd.grad(run(graph.nodes, {start: leaf}, graph.output), leaf, cotangent)
    assert torch.allclose(backward(graph, TOKENS, cotangent, start), expected, atol=1e-12)


def test_layers_have_the_names_of_their_parameters_and_tied_ones_that_of_their_module() -> None:
    graph = from_module(prepared(Maps()), IMAGE)
    layers = {node.name for node in graph.weight_nodes}
    expected = {name for name, module in Maps().named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    assert layers == expected - {"unused"}
    assert graph.unplaced == ("unused",)
    assert {node.name for node in graph.nodes if isinstance(node.op, Norm)} >= {
        "units.0.first_norm",
        "units.1.last_norm",
    }
    words = from_module(prepared(Words()), TOKENS).by_name
    assert isinstance(words["words"].op, Opaque)
    assert isinstance(words["head"].op, Linear)


def test_nothing_in_place_nothing_constant_and_no_dropout_is_left() -> None:
    graph = from_module(prepared(Maps()), IMAGE)
    assert not any(isinstance(node.op, Opaque) for node in graph.nodes)
    assert graph.batch is None
    assert [block.skip_kind for block in graph.blocks] == ["identity", "projection", "identity"]
    assert sum(isinstance(node.op, Multiply) for node in graph.nodes) == 3
    assert {name for node in graph.nodes for name in node.inputs} <= {node.name for node in graph.nodes}
    assert sum(isinstance(node.op, Add) for node in graph.nodes) == 3


def test_shapes_leave_the_batch_out_and_a_gain_is_a_scale() -> None:
    graph = from_module(prepared(Gained()), MAP)
    assert graph.by_name["depthwise"].shape == (4, 6, 5)
    assert graph.by_name["wide"].shape == (6, 5, 12)
    assert isinstance(graph.by_name["gain"].op, Scale)
    assert isinstance(graph.by_name["depthwise"].op, Conv)
    assert graph.assumptions[0].startswith("input size 4x6x5")
    assert graph.source == "module"


def test_other_weight_layers_are_weight_layers() -> None:
    net = nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU(), nn.ConvTranspose1d(4, 2, 2))
    graph = from_module(net, torch.randn(2, 3, 8))
    assert [node.name for node in graph.nodes if is_weight(node)] == ["0", "2"]


def test_a_second_input_is_held_at_its_example() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, mask: Tensor, x: Tensor) -> Tensor:
            return x + self.layer(x) * mask

    mask, x, net = torch.rand(2, 1), torch.randn(2, 4), Masked()
    graph = from_module(net, (mask, x))
    assert torch.allclose(graph.forward(x), net(mask, x))
    assert any("is held at its example" in text for text in graph.assumptions)


def test_a_program_of_any_batch_is_taken_at_its_example(tmp_path) -> None:
    net, x = prepared(Maps()), IMAGE
    program = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("n", min=2)},))
    torch.export.save(program, tmp_path / "net.pt2")
    graph = from_program(torch.export.load(tmp_path / "net.pt2"), {"stem.weight": "front.weight"})
    assert graph.source == "export"
    assert "front" in graph.by_name
    assert len(graph.blocks) == 3
    assert torch.allclose(graph.forward(x), net(x), atol=1e-6)


def test_a_decomposed_program_comes_out_as_the_same_operations() -> None:
    net = prepared(Maps())
    program = torch.export.export(net, (IMAGE,))
    core = from_program(program.run_decompositions())
    plain = from_program(program)
    assert [(block.name, block.layers) for block in core.blocks] == [
        (block.name, block.layers) for block in plain.blocks
    ]
    assert [node.name for node in core.weight_nodes] == [node.name for node in plain.weight_nodes]
    assert not any(isinstance(node.op, Opaque) for node in core.nodes)
    assert torch.allclose(core.forward(IMAGE), net(IMAGE), atol=1e-6)


def test_a_program_in_training_mode_does_not_run() -> None:
    graph = from_program(torch.export.export(nn.Sequential(nn.Linear(3, 3), nn.Dropout()).train(), (torch.ones(2, 3),)))
    assert not graph.runnable
    with pytest.raises(NotRunnable, match="training mode"):
        graph.forward(torch.ones(2, 3))


def test_a_wrong_input_size_is_one_line() -> None:
    with pytest.raises(UsageError, match="an input of 4x8x8 does not fit the network") as caught:
        from_module(Maps(), torch.zeros(1, 4, 8, 8))
    assert "\n" not in str(caught.value)
