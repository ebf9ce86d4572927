"""Branch scales against plain torch, printed figures and sampled normal variables; advice by what it does.

Property of the theory note `shortcut-scaling`, D                              test
13 to 17 (the kernel)                                                          test_measure_rntk.py
18 gamma_last, beta_last times c multiply the first changed alpha by c         a_factor_on_the_named_parameters
19 gamma_last = beta_last = 0: alpha 0, no contribution to S                   a_branch_of_zeros
20 a family alpha = 3 L^-.7 gives back gamma .7                                test_report_family_fit.py

Mutant                                                                         caught by
alpha upside down, or squared                                                  plain_torch, printed_figures
RMS without the square root of a mean of squares (mean absolute value)         plain_torch
the sum behind its ReLU in place of its terms                                  plain_torch
zero-padded channels left out of the shortcut                                  plain_torch, printed_figures
beta left out of the square of a normalised branch                             printed_figures, a_factor
variance of a ReLU taken as its mean square                                    printed_figures, sampled
mean of the sum taken from one term                                            printed_figures, sampled
kappa0 dropped, K dropped, kappa0 for kappa1, factor 2, shortcut missing       test_measure_rntk.py
S without the 1 + alpha^2                                                      printed_figures, recommended
factor applied to S and not to alpha                                           recommended
"""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from gradient_oracles import SMALL, cifar_weights, graph_of, same_conv, shortcut_of, small_net, subject_of
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import resnet_audit
from resnet_audit.checkpoint import load
from resnet_audit.errors import NoBlocks, NonFinite, NoRule, NotRunnable
from resnet_audit.graph import ResidualGraph, discover
from resnet_audit.graph.blocks import find_blocks
from resnet_audit.graph.ir import Activation, Add, Concat, Conv, Input, Multiply, Node, Norm, Op, Pad, Scale
from resnet_audit.graph.shapes import with_shapes
from resnet_audit.measure import Subject
from resnet_audit.measure.channel_moments import channel_moments
from resnet_audit.measure.rntk import kernel_spread, residual_time
from resnet_audit.settings import Settings
from resnet_audit.theory import scaling

if TYPE_CHECKING:
    from pathlib import Path

PRINTED = {
    "resnet20": ((0.664, 0.701, 1.896), 1.323, 0.637, 2.599, 4.36, 0.613),
    "resnet32": ((0.372, 0.438, 1.235), 0.929, 0.311, 2.287, 4.94, 0.580),
    "resnet44": ((0.359, 0.270, 0.974), 0.817, 0.230, 2.653, 5.07, 0.576),
    "resnet56": ((0.279, 0.249, 0.884), 0.653, 0.199, 1.873, 5.46, 0.558),
}
"""Theory note B4, weight-only: alpha median by stage, rms, min, max, S, spread."""


def real(path: Path, **settings: object) -> Subject:
    chosen = Settings(threads=1, **settings)
    return Subject(discover(load(str(path)), chosen), chosen)


# from weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRINTED)
def test_scales_from_weights_have_the_printed_figures(checkpoints: Path, name: str) -> None:
    medians, rms, least, most, time, spread = PRINTED[name]
    result = scaling.analyse(real(checkpoints / f"{name}.th", method="weights"))
    alphas = [row.alpha for row in result.blocks]
    stages = [statistics.median(row.alpha for row in result.blocks if row.stage == stage) for stage in (1, 2, 3)]
    assert stages == pytest.approx(medians, abs=5e-4)
    assert (result.rms_alpha, min(alphas), max(alphas)) == pytest.approx((rms, least, most), abs=5e-4)
    assert result.residual_time == pytest.approx(time, abs=5e-3)
    assert result.spread == pytest.approx(spread, abs=5e-4)
    assert (result.method, result.inputs, result.level) == ("weights", None, "mild")
    assert {row.rule for row in result.blocks} == {"statistics"}
    assert {row.alpha_measured for row in result.blocks} == {None}


NODES: dict[str, Op] = {
    "relu": Activation(kind="relu"),
    "leaky": Activation(kind="leaky_relu", slope=0.2),
    "silu": Activation(kind="silu"),
    "relu6": Activation(kind="relu6"),
    "pad": Pad(before=1, after=2),
    "scale": Scale(factor=torch.tensor([0.5, -2.0, 0.1]).view(3, 1, 1)),
}


@pytest.mark.parametrize("kind", NODES)
def test_moments_behind_an_operation_are_those_of_sampled_normal_variables(kind: str) -> None:
    draw = torch.Generator().manual_seed(3)
    gamma, beta = torch.tensor([1.3, 0.0, -0.6]), torch.tensor([0.4, -0.7, 1.1])
    norm = Norm(weight=gamma, bias=beta, mean=torch.zeros(3), var=torch.ones(3), eps=0.0)
    nodes = (Node(name="x", op=Input()), Node(name="n", op=norm, inputs=("x",)))
    found = channel_moments((*nodes, Node(name="y", op=NODES[kind], inputs=("n",))))["y"]
    x = torch.randn(400_000, 3, 1, 1, generator=draw, dtype=torch.float64) * gamma.view(3, 1, 1) + beta.view(3, 1, 1)
    values = {
        "relu": lambda: x.clamp(min=0),
        "leaky": lambda: torch.where(x > 0, x, 0.2 * x),
        "silu": lambda: x / (1 + torch.exp(-x)),
        "relu6": lambda: x.clamp(0, 6),
        "pad": lambda: F.pad(x, (0, 0, 0, 0, 1, 2)),
        "scale": lambda: x * torch.tensor([0.5, -2.0, 0.1]).view(3, 1, 1),
    }[kind]()
    assert found.mean.tolist() == pytest.approx(values.mean((0, 2, 3)).tolist(), abs=0.01)
    assert found.variance.tolist() == pytest.approx(values.var((0, 2, 3)).tolist(), abs=0.02)
    assert found.mean_square == pytest.approx(float(values.square().mean()), rel=0.01)


def test_sums_and_joins_of_independent_terms_have_the_moments_of_sampled_ones() -> None:
    draw = torch.Generator().manual_seed(4)
    norms = [
        Norm(
            weight=torch.tensor([a, 0.5]), bias=torch.tensor([b, 1.0]), mean=torch.zeros(2), var=torch.ones(2), eps=0.0
        )
        for a, b in ((1.0, 0.3), (0.7, -2.0))
    ]
    nodes = (
        Node(name="x", op=Input()),
        *(Node(name=f"n{i}", op=norm, inputs=("x",)) for i, norm in enumerate(norms)),
        Node(name="sum", op=Add(), inputs=("n0", "n1")),
        Node(name="both", op=Concat(), inputs=("n0", "sum")),
    )
    found = channel_moments(nodes)
    terms = [torch.randn(200_000, 2, generator=draw, dtype=torch.float64) * norm.weight + norm.bias for norm in norms]
    expected = torch.cat([terms[0], sum(terms)], dim=1)
    assert found["both"].mean.tolist() == pytest.approx(expected.mean(0).tolist(), abs=0.01)
    assert found["both"].variance.tolist() == pytest.approx(expected.var(0).tolist(), abs=0.02)
    assert found["x"].mean.tolist() == [0.0, 0.0], "read by a normalisation: its running statistics"


@pytest.mark.parametrize("groups", [1, 2])
def test_a_weight_layer_behind_statistics_takes_its_weights_as_random(groups: int) -> None:
    draw = torch.Generator().manual_seed(5)
    weight = torch.randn(6, 4 // groups, 3, 3, generator=draw, dtype=torch.float64)
    norm = Norm(
        weight=torch.rand(4), bias=torch.randn(4, generator=draw), mean=torch.zeros(4), var=torch.ones(4), eps=0.0
    )
    conv = Conv(weight=weight, bias=torch.arange(6.0), stride=(1, 1), padding=(1, 1), groups=groups)
    nodes = (Node(name="x", op=Input()), Node(name="n", op=norm, inputs=("x",)), Node(name="y", op=conv, inputs=("n",)))
    found = channel_moments(nodes)["y"]
    squares = norm.weight.double() ** 2 + norm.bias.double() ** 2
    for out in range(6):
        first = out // (6 // groups) * (4 // groups)
        inner = sum(float(weight[out, i].square().sum()) * float(squares[first + i]) for i in range(4 // groups))
        assert float(found.mean[out] ** 2 + found.variance[out]) == pytest.approx(out**2 + inner, rel=1e-9)
    assert found.rough


def test_statistics_in_front_of_a_normalisation_are_the_running_ones() -> None:
    """Pre-activation: the fork is read by a normalisation, the branch ends in a convolution."""
    net = SMALL["pre"]
    subject = subject_of(net, method="weights")
    rows = scaling.analyse(subject).blocks
    assert {row.rule for row in rows} == {"he"}
    for index, (row, block) in enumerate(zip(rows, net.blocks, strict=True)):
        first, second = block.norms
        active = torch.randn(200_000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(index))
        active = F.relu(active * second.gamma + second.beta).square().mean(0)
        branch = float((block.convs[1].square().sum((2, 3)) * active).sum() / 4)
        skip = float((first.mean.square() + first.var).mean())
        assert row.alpha == pytest.approx(math.sqrt(branch / skip), rel=0.02)


def test_without_statistics_half_of_all_gates_are_open() -> None:
    net = SMALL["bare-relu"]
    rows = scaling.analyse(subject_of(net, method="weights")).blocks
    for row, block in zip(rows, net.blocks, strict=True):
        norms = [float(kernel.square().sum()) / len(kernel) for kernel in block.convs]
        assert row.rule == "gates"
        assert row.alpha == pytest.approx(math.sqrt(0.5**2 * math.prod(norms)), rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_worst_scale_is_not_exceeded_by_any_measured_one(seed: int) -> None:
    subject = subject_of(small_net("pre", (4, 4, 4), seed=seed, norms=False), seed=seed)
    for row in scaling.analyse(subject).blocks:
        assert row.alpha_measured < row.alpha_worst


# measured -------------------------------------------------------------------------------------------------------


def probe(count: int = 5) -> torch.Tensor:
    """Waves of several directions, one for each image, with an offset: (count, 3, 32, 32), about unit variance."""
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    waves = [
        torch.stack(
            [torch.sin(0.3 * (k + 1) * rows + 0.2 * c * columns + k * c) * 1.3 + 0.1 * (c - 1) for c in range(3)]
        )
        for k in range(count)
    ]
    return torch.stack(waves)


def cifar_terms(weights: dict[str, torch.Tensor], x: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Branch and shortcut of every sum of an option A CIFAR ResNet, by torch.nn.functional alone."""

    def norm(value: torch.Tensor, name: str) -> torch.Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(value, *(weights[f"{name}.{part}"] for part in names))

    found = []
    x = F.relu(norm(F.conv2d(x, weights["conv1.weight"], padding=1), "bn1"))
    names = [key.removesuffix(".conv1.weight") for key in weights if key.endswith(".conv1.weight") and "layer" in key]
    for name in names:
        kernel = weights[f"{name}.conv1.weight"]
        stride = 2 if len(kernel) != kernel.shape[1] else 1
        branch = F.relu(norm(F.conv2d(x, kernel, stride=stride, padding=1), f"{name}.bn1"))
        branch = norm(F.conv2d(branch, weights[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
        quarter = (len(kernel) - kernel.shape[1]) // 2
        skip = F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, quarter, quarter))
        found.append((branch, skip))
        x = F.relu(branch + skip)
    return found


def rms(value: torch.Tensor) -> float:
    return math.sqrt(float(value.double().square().mean()))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("name", ["resnet20", "resnet56"])
def test_measured_scales_are_those_of_plain_torch(
    checkpoints: Path, tmp_path: Path, name: str, dtype: str, tolerance: float
) -> None:
    file = tmp_path / "probe.pt"
    torch.save({"inputs": probe()}, file)
    result = scaling.analyse(real(checkpoints / f"{name}.th", data=str(file), dtype=dtype))
    weights = cifar_weights(checkpoints / f"{name}.th", getattr(torch, dtype))
    with torch.no_grad():
        terms = cifar_terms(weights, probe().to(getattr(torch, dtype)))
    assert len(terms) == len(result.blocks)
    for row, (branch, skip) in zip(result.blocks, terms, strict=True):
        assert row.alpha == row.alpha_measured == pytest.approx(rms(branch) / rms(skip), rel=tolerance)
        centred = [rms(part.double() - part.double().mean((0, 2, 3), keepdim=True)) for part in (branch, skip)]
        assert row.alpha_centred == pytest.approx(centred[0] / centred[1], rel=tolerance)
        cosine = float(F.cosine_similarity(branch.double().flatten(), skip.double().flatten(), dim=0))
        assert row.cosine == pytest.approx(cosine, abs=tolerance)
    alphas = [rms(branch) / rms(skip) for branch, skip in terms]
    assert result.rms_alpha == pytest.approx(math.sqrt(sum(a * a for a in alphas) / len(alphas)), rel=tolerance)
    assert result.residual_time == pytest.approx(sum(a * a / (1 + a * a) for a in alphas), rel=tolerance)
    assert result.spread == pytest.approx(kernel_spread(alphas), rel=tolerance)
    assert (result.method, result.inputs.kind, result.inputs.n) == ("measured", "data", 5)
    assert result.inputs.bn_mismatch_mean > 0


@pytest.mark.parametrize("kind", SMALL)
def test_measured_scales_of_every_kind_of_block_are_those_of_plain_torch(kind: str) -> None:
    net = SMALL[kind]
    subject = subject_of(net, samples=4)
    result = scaling.analyse(subject)
    x = net.enter(subject.inputs.values)
    for row, block in zip(result.blocks, net.blocks, strict=True):
        if net.project_activated and row is not result.blocks[0]:
            x = F.relu(block.norms[0](x))
        branch, skip = net.branch(block, x), shortcut_of(block, x)
        assert row.alpha_measured == pytest.approx(rms(branch) / rms(skip), rel=1e-12)
        x = F.relu(branch + skip) if net.order == "post" else branch + skip


def test_two_branches_of_one_sum_are_measured_and_predicted_together() -> None:
    kernels = [torch.randn(2, 2, 1, 1, generator=torch.Generator().manual_seed(seed)).double() for seed in (1, 2)]
    convs = [Conv(weight=kernel, bias=None, stride=(1, 1), padding=(0, 0)) for kernel in kernels]
    nodes = with_shapes(
        (
            Node(name="x", op=Input()),
            Node(name="a.one.conv", op=convs[0], inputs=("x",)),
            Node(name="a.two.conv", op=convs[1], inputs=("x",)),
            Node(name="sum", op=Add(), inputs=("x", "a.one.conv", "a.two.conv")),
        ),
        (2, 4, 4),
    )
    graph = ResidualGraph(source="weights", family=None, nodes=nodes, blocks=find_blocks(nodes, "graph"))
    subject = Subject(graph, Settings(samples=3, dtype="float64"))
    (row,) = scaling.analyse(subject).blocks
    x = subject.inputs.values
    assert row.alpha_measured == pytest.approx(rms(F.conv2d(x, sum(kernels))) / rms(x), rel=1e-12)
    assert row.alpha_weights == pytest.approx(math.sqrt(sum(float(k.square().sum()) for k in kernels) / 2), rel=1e-12)
    assert row.parameters == ("a.one.conv.weight", "a.two.conv.weight")


def test_token_values_are_centred_by_their_last_axis() -> None:
    value = torch.randn(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = resnet_audit.measure.addends._addends(value, torch.ones_like(value) * torch.arange(1.0, 5.0))
    assert found.centred[0] == pytest.approx(rms(value - value.mean((0, 1))), rel=1e-12)
    assert found.centred[1] == 0.0


# what the scales do ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "first"), [("post", "b1"), ("pre", "b1"), ("bare-relu", "b1")])
@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_a_factor_on_the_named_parameters_multiplies_the_scale_of_that_block(kind, first, factor) -> None:
    graph = graph_of(SMALL[kind])
    before = scaling.analyse(Subject(graph, Settings(samples=2, dtype="float64", inputs="gaussian")))
    row = next(row for row in before.blocks if row.name == first)
    layers = {name.rpartition(".")[0] for name in row.parameters}
    assert len(layers) == 1
    nodes = tuple(
        replace(node, op=scaled(node.op, factor, row.parameters, node.name)) if node.name in layers else node
        for node in graph.nodes
    )
    changed = replace(graph, nodes=nodes)
    after = scaling.analyse(Subject(changed, Settings(samples=2, dtype="float64", inputs="gaussian")))
    rows = {row.name: row for row in after.blocks}
    assert rows[first].alpha_measured == pytest.approx(factor * row.alpha_measured, rel=1e-12)
    assert rows[first].alpha_weights == pytest.approx(factor * row.alpha_weights, rel=1e-12)
    assert rows["b0"].alpha_measured == before.blocks[0].alpha_measured
    assert rows["b0"].alpha_weights == before.blocks[0].alpha_weights


def scaled(op: Op, factor: float, parameters: tuple[str, ...], name: str) -> Op:
    parts = {part: getattr(op, part) for part in ("weight", "bias") if f"{name}.{part}" in parameters}
    assert set(parts) == {part for part in ("weight", "bias") if getattr(op, part) is not None}
    return replace(op, **{part: value * factor for part, value in parts.items()})


def test_last_parameters_of_a_trained_network_are_those_of_its_second_normalisation(checkpoints: Path) -> None:
    subject = real(checkpoints / "resnet20.th", method="weights")
    state = load(str(checkpoints / "resnet20.th")).tensors
    for row in scaling.analyse(subject).blocks:
        assert row.parameters == (f"{row.name}.bn2.weight", f"{row.name}.bn2.bias")
        assert set(row.parameters) <= state.keys()


def zeroed(kind: str, chosen: tuple[int, ...]) -> ResidualGraph:
    graph = graph_of(SMALL[kind])
    names = {f"b{index}.norm1" for index in chosen}
    return replace(
        graph,
        nodes=tuple(
            replace(node, op=replace(node.op, weight=node.op.weight * 0, bias=node.op.bias * 0))
            if node.name in names
            else node
            for node in graph.nodes
        ),
    )


def test_a_branch_of_zeros_has_the_scale_0_and_adds_nothing() -> None:
    settings = Settings(samples=2, dtype="float64")
    result = scaling.analyse(Subject(zeroed("post", (1,)), settings))
    alphas = [row.alpha for row in result.blocks]
    assert alphas[1] == 0.0
    assert result.residual_time == residual_time([alphas[0], alphas[2]])
    assert result.blocks[1].cosine is None


def test_a_network_of_zero_branches_is_called_an_identity_and_gets_no_number_for_it() -> None:
    result = scaling.analyse(Subject(zeroed("post", (0, 1, 2)), Settings(samples=2)))
    assert (result.residual_time, result.spread, result.level, result.rms_alpha) == (0.0, None, None, 0.0)
    assert [note.code for note in result.notes] == ["identity"]
    assert result.recommended.factor is None
    assert result.recommended.uniform_alpha == pytest.approx(math.sqrt(1 / 2))


# advice ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(1e-6, 1e3), min_size=2, max_size=30), st.floats(0.05, 1.5))
def test_recommended_scales_have_the_target_time(alphas, target) -> None:
    found = scaling.recommended(alphas, target)
    assert residual_time([found.uniform_alpha] * len(alphas)) == pytest.approx(target, rel=1e-12)
    assert residual_time([found.factor * alpha for alpha in alphas]) == pytest.approx(target, rel=1e-9)


def test_nothing_is_recommended_where_no_scale_reaches_the_target() -> None:
    assert scaling.recommended([0.5]).uniform_alpha is None
    assert scaling.recommended([0.5]).factor is None
    assert scaling.recommended([0.5, 0.0]).factor is None
    assert scaling.recommended([0.5, 0.0]).uniform_alpha == pytest.approx(1.0)
    assert scaling.recommended([0.5, 0.1]).factor > 0


REFERENCES = {
    "1 (plain)": ((13.5, 0.327), (27, 0.195), (500, 0.012)),
    "1/sqrt l (batch normalisation at init)": ((2.93, 0.698), (3.59, 0.651), (6.49, 0.507)),
    "L^-1/4": ((4.36, 0.612), (6.47, 0.513), (30.7, 0.183)),
    "1/sqrt L (depth-muP)": ((0.964, 0.890), (0.982, 0.887), (0.999, 0.885)),
    "1/L (ODE limit)": ((0.037, 0.970), (0.0185, 0.971), (0.001, 0.972)),
    "0.2 (NFNet)": ((1.04, 0.882), (2.08, 0.779), (38.5, 0.150)),
    "0.1 (LayerScale)": ((0.267, 0.952), (0.535, 0.930), (9.90, 0.411)),
    "1e-5 (LayerScale, deep)": ((0.0, 0.972), (0.0, 0.972), (0.0, 0.972)),
}


@pytest.mark.parametrize(("place", "blocks"), [(0, 27), (1, 54), (2, 1000)])
def test_reference_schemes_have_the_printed_figures(place: int, blocks: int) -> None:
    found = {row.scheme: row for row in scaling.references(blocks)}
    for scheme, figures in REFERENCES.items():
        time, spread = figures[place]
        row = found.pop(scheme)
        assert row.residual_time == pytest.approx(time, rel=5e-3, abs=5e-4), scheme
        assert row.spread == pytest.approx(spread, abs=5.5e-4), scheme
    ((_, last),) = found.items()
    assert (last.residual_time, last.spread) == (0.0, None)


@pytest.mark.parametrize(("share", "time"), [(0.9, 1.09), (0.75, 2.65), (0.5, 7.29), (0.25, 21.6), (0.1, 62.0)])
def test_levels_are_where_these_shares_of_the_one_layer_spread_are_left(share: float, time: float) -> None:
    blocks = 2000
    alpha = math.sqrt(time / (blocks - time))
    assert kernel_spread([alpha] * blocks) / kernel_spread([1.0]) == pytest.approx(share, rel=5e-3)


@pytest.mark.parametrize(
    ("time", "level"),
    [
        (1e-9, "ok"),
        (1.1, "ok"),
        (1.11, "mild"),
        (7.3, "mild"),
        (7.31, "degrading"),
        (62.0, "degrading"),
        (63.0, "degenerate"),
    ],
)
def test_levels_have_the_limits_of_the_note(time: float, level: str) -> None:
    assert scaling.level(time) == level


# where there is no answer ---------------------------------------------------------------------------------------


def test_both_scales_are_given_where_the_network_runs_and_auto_measures() -> None:
    settings = {"samples": 2}
    both = scaling.analyse(subject_of(SMALL["pre"], **settings))
    assert both.method == "measured"
    assert all(row.alpha_weights is not None and row.alpha == row.alpha_measured for row in both.blocks)
    alone = scaling.analyse(subject_of(SMALL["pre"], method="weights", **settings))
    assert [row.alpha for row in alone.blocks] == [row.alpha_weights for row in both.blocks]
    assert resnet_audit.scaling(graph_of(SMALL["pre"]), Settings(method="weights")) == alone


def closed(graph: ResidualGraph) -> ResidualGraph:
    return replace(graph, runnable_reason="it was saved in training mode")


def test_a_network_that_does_not_run_has_scales_from_weights_and_refuses_to_be_measured() -> None:
    graph = closed(graph_of(SMALL["pre"]))
    assert scaling.analyse(Subject(graph)).method == "weights"
    with pytest.raises(NotRunnable, match="saved in training mode"):
        scaling.analyse(Subject(graph, Settings(method="measured")))
    with pytest.raises(NotRunnable, match="saved in training mode"):
        scaling.analyse(Subject(closed(graph_of(SMALL["bare-relu"]))))


def test_names_of_layers_without_a_dataflow_are_no_ground_for_a_scale() -> None:
    graph = graph_of(SMALL["pre"])
    bare = replace(graph, nodes=(), runnable_reason="no input size")
    with pytest.raises(NotRunnable, match="no input size"):
        scaling.analyse(Subject(bare))


def test_a_network_without_blocks_or_without_sums_is_refused() -> None:
    plain = graph_of(replace(SMALL["post"], skips=False))
    with pytest.raises(NoBlocks, match="no residual block"):
        scaling.analyse(Subject(plain))
    kernel = torch.ones(2, 2, 1, 1)
    nodes = with_shapes(
        (
            Node(name="x", op=Input()),
            Node(name="a.conv", op=Conv(weight=kernel, bias=None, stride=(1, 1), padding=(0, 0)), inputs=("x",)),
            Node(name="join", op=Concat(), inputs=("x", "a.conv")),
        ),
        (2, 4, 4),
    )
    dense = ResidualGraph(source="weights", family=None, nodes=nodes, blocks=find_blocks(nodes, "graph"))
    assert len(dense.blocks) == 1
    with pytest.raises(NoBlocks, match="no block ends in a sum"):
        scaling.analyse(Subject(dense))


def gated() -> ResidualGraph:
    """x + x * conv(x): the branch ends in a product, for whose gain no rule exists."""
    kernel = torch.full((2, 2, 1, 1), 0.3)
    nodes = with_shapes(
        (
            Node(name="x", op=Input()),
            Node(name="a.conv", op=Conv(weight=kernel, bias=None, stride=(1, 1), padding=(0, 0)), inputs=("x",)),
            Node(name="product", op=Multiply(), inputs=("x", "a.conv")),
            Node(name="sum", op=Add(), inputs=("x", "product")),
        ),
        (2, 4, 4),
    )
    return ResidualGraph(source="weights", family=None, nodes=nodes, blocks=find_blocks(nodes, "graph"))


def test_a_branch_without_a_rule_is_measured_and_its_weights_are_a_note() -> None:
    graph = gated()
    result = scaling.analyse(Subject(graph, Settings(samples=3)))
    assert result.blocks[0].alpha_weights is None
    assert result.blocks[0].alpha > 0
    assert result.blocks[0].parameters == ()
    assert [note.code for note in result.notes] == ["no_rule"]
    with pytest.raises(NoRule):
        scaling.analyse(Subject(graph, Settings(method="weights")))


@pytest.mark.parametrize("method", ["weights", "measured"])
def test_nan_in_the_weights_leaves_every_scale_undefined(method: str) -> None:
    net = SMALL["pre"]
    net = replace(
        net, blocks=(replace(net.blocks[0], convs=(net.blocks[0].convs[0], net.blocks[0].convs[1] * math.nan)),)
    )
    with pytest.raises(NonFinite):
        scaling.analyse(subject_of(net, method=method))


def test_a_shortcut_of_zeros_is_a_note_and_leaves_the_network_without_a_time() -> None:
    net = SMALL["post-project"]
    blocks = tuple(
        block if block.projection is None else replace(block, projection=block.projection * 0) for block in net.blocks
    )
    result = scaling.analyse(subject_of(replace(net, blocks=blocks)))
    (lost,) = [row for row in result.blocks if row.alpha is None]
    assert [note.where for note in result.notes if note.code == "no_alpha"] == [lost.name]
    assert (result.residual_time, result.spread, result.level, result.rms_alpha) == (None, None, None, None)
    assert result.recommended.factor is None
    assert result.recommended.uniform_alpha == pytest.approx(math.sqrt(1 / 2))


def test_blocks_inside_blocks_have_no_row_and_a_note() -> None:
    kernel = torch.full((2, 2, 1, 1), 0.3)
    conv = Conv(weight=kernel, bias=None, stride=(1, 1), padding=(0, 0))
    nodes = with_shapes(
        (
            Node(name="x", op=Input()),
            Node(name="a.conv", op=conv, inputs=("x",)),
            Node(name="b.conv", op=conv, inputs=("a.conv",)),
            Node(name="inner", op=Add(), inputs=("a.conv", "b.conv")),
            Node(name="c.conv", op=conv, inputs=("inner",)),
            Node(name="outer", op=Add(), inputs=("x", "c.conv")),
        ),
        (2, 4, 4),
    )
    graph = ResidualGraph(source="weights", family=None, nodes=nodes, blocks=find_blocks(nodes, "graph"))
    assert len(graph.blocks) == 2
    result = scaling.analyse(Subject(graph, Settings(samples=2)))
    assert len(result.blocks) == 1
    assert [note.code for note in result.notes] == ["nested_blocks"]


def test_convolutions_of_the_oracle_are_padded_as_in_the_package() -> None:
    assert same_conv(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 3, 3), 1)[0, 0, 0, 0] == 4.0
