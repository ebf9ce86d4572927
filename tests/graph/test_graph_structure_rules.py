"""Blocks from names and shapes alone: the rules find those of residual networks and none in networks without any."""

from __future__ import annotations

import random

import pytest
import torch
from graph_builders import found
from graph_oracles import shuffled

from resnet_audit.errors import UsageError
from resnet_audit.graph.patterns import Patterns, known_family, load_patterns
from resnet_audit.graph.structure import structure


class Shapes:
    """A state dict without numbers: tensors of these shapes that take no memory."""

    def __init__(self) -> None:
        self.state: dict[str, torch.Tensor] = {}

    def put(self, name: str, *shape: int) -> Shapes:
        self.state[f"{name}.weight"] = torch.empty(shape, device="meta")
        return self

    def norm(self, name: str, width: int) -> Shapes:
        return self.put(name, width)


def transformer(attention, mlp, *, norms=2, count=3, width=8):
    net = Shapes()
    for k in range(count):
        for member in attention:
            net.put(f"encoder.layers.{k}.{member}", width, width)
        for index, member in enumerate(mlp):
            net.put(f"encoder.layers.{k}.{member}", *((32, width) if index + 1 < len(mlp) else (width, 32)))
        for index in range(norms):
            net.norm(f"encoder.layers.{k}.norm{index}", width)
    return net.put("head", 5, width).state


SELF = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj")
TRANSFORMERS = {
    "members of their own": (transformer(SELF, ("mlp.up", "mlp.down")), 6),
    "two linear layers": (transformer(SELF, ("fc1", "fc2")), 6),
    "cross attention": (transformer((*SELF, "encoder_attn.q_proj", "encoder_attn.out_proj"), ("fc1", "fc2")), 9),
    "post-norm with an intermediate": (
        transformer(("attention.self.query", "attention.output.dense"), ("intermediate.dense", "output.dense")),
        6,
    ),
    "one norm, so parallel": (transformer(SELF, ("mlp.up", "mlp.down"), norms=1), 3),
    "one layer": (transformer(SELF, ("ffn.0", "ffn.3"), count=1), 2),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_attention_and_mlp_make_one_sum_each(name):
    state, blocks = TRANSFORMERS[name]
    got = structure(state)
    assert len(got) == blocks
    assert {(block.evidence, block.skip_kind) for block in got} == {("named", "identity")}
    layers = [layer for block in got for layer in block.layers]
    assert sorted(layers) == sorted(key.removesuffix(".weight") for key, value in state.items() if value.ndim > 1)[:-1]


def stages(widths, count, *, shortcut=None, names=("conv1", "conv2"), first=4, rank=2):
    """Stages of blocks of 3-wide convolutions, projections where the width changes if `shortcut` names them."""
    net, inputs, window = Shapes(), first, (3,) * rank
    net.put("stem", first, 3, *window)
    for stage, outputs in enumerate(widths):
        for k in range(count):
            block = f"stage{stage}.{k}"
            for name, channels in zip(names, (inputs, outputs), strict=True):
                net.put(f"{block}.{name}", outputs, channels, *window).norm(f"{block}.bn_{name}", outputs)
            if shortcut and inputs != outputs:
                net.put(f"{block}.{shortcut}", outputs, inputs, *(1,) * rank)
            inputs = outputs
    return net.put("fc", 5, inputs).state


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("shortcut", ["downsample.0", "shortcut", "skip_conv", "res_conv", "match_dimensions"])
def test_a_named_shortcut_makes_a_projection_and_its_family_identities(shortcut, rank):
    got = structure(stages((4, 8, 16), 3, shortcut=shortcut, rank=rank))
    assert [block.skip_kind == "projection" for block in got] == [False, False, False, *(2 * [True, False, False])]
    assert {block.evidence for block in got} == {"named"}
    assert [block.stage for block in got] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [block.weight_layers for block in got] == [2] * 9
    assert [len(block.skip_layers) for block in got] == [0, 0, 0, 1, 0, 0, 1, 0, 0]


def test_without_any_shortcut_a_family_that_mostly_keeps_its_width_is_a_guess():
    got = structure(stages((4, 8, 16), 3))
    assert {block.evidence for block in got} == {"shape"}
    assert [block.skip_kind for block in got].count("resample") == 2
    assert len(got) == 9


def test_a_shortcut_that_leads_elsewhere_is_none():
    net = Shapes()
    for k in range(3):
        net.put(f"stage.{k}.downsample.0", 2 ** (k + 4), 2 ** (k + 3), 2, 2)
        net.put(f"stage.{k}.conv1", 2 ** (k + 4), 2 ** (k + 4), 3, 3)
    assert structure(net.state) == ()


def test_siblings_that_read_all_before_them_concatenate():
    net = Shapes()
    for k in range(5):
        net.put(f"block.layer{k}.conv1", 16, 6 + 4 * k, 1, 1).put(f"block.layer{k}.conv2", 4, 16, 3, 3)
    assert [block.skip_kind for block in structure(net.state)] == ["concat"] * 5


def test_gates_are_no_blocks_and_belong_to_the_branch():
    state = stages((4, 8), 3, shortcut="shortcut")
    for stage, width in enumerate((4, 8)):
        for k in range(3):
            for name, shape in (("fc1", (2, width)), ("fc2", (width, 2))):
                state[f"stage{stage}.{k}.se.{name}.weight"] = torch.empty(shape, device="meta")
    got = structure(state)
    assert len(got) == 6
    assert all(
        {layer.rpartition(".")[2] for layer in block.layers} == {"conv1", "conv2", "fc1", "fc2"} for block in got
    )
    assert {block.weight_layers for block in got} == {2}


def test_a_norm_as_shortcut_and_parallel_kernels_are_one_block_each():
    net = Shapes()
    for k, (inputs, outputs) in enumerate([(4, 8), (8, 8), (8, 8)]):
        net.put(f"stage.{k}.rbr_dense.conv", outputs, inputs, 3, 3).put(
            f"stage.{k}.rbr_1x1.conv", outputs, inputs, 1, 1
        )
        if inputs == outputs:
            net.norm(f"stage.{k}.rbr_identity", outputs)
    assert [block.skip_kind for block in structure(net.state)] == ["projection", "norm", "norm"]


# networks without residual blocks -----------------------------------------------------------------------------------


def chain(*layers):
    net = Shapes()
    for name, *shape in layers:
        net.put(name, *shape)
    return net.state


def u_net():
    net = Shapes()
    for k, (inputs, outputs) in enumerate([(3, 8), (8, 16), (16, 32), (32, 64), (64, 64)]):
        net.put(f"down{k}.double_conv.0", outputs, inputs, 3, 3).put(f"down{k}.double_conv.3", outputs, outputs, 3, 3)
    for k, (inputs, outputs) in enumerate([(128, 32), (64, 16), (32, 8), (16, 8)]):
        net.put(f"up{k}.conv.double_conv.0", inputs // 2, inputs, 3, 3)
        net.put(f"up{k}.conv.double_conv.3", outputs, inputs // 2, 3, 3)
    return net.put("outc.conv", 2, 8, 1, 1).state


def separable():
    net = Shapes()
    for k, (inputs, outputs) in enumerate([(8, 16), (16, 16), (16, 32), (32, 32), (32, 32)]):
        net.put(f"layers.{k}.conv1", inputs, 1, 3, 3).put(f"layers.{k}.conv2", outputs, inputs, 1, 1)
    return net.state


def fire():
    net = Shapes()
    for k, inputs in enumerate((96, 128, 128)):
        net.put(f"features.{k}.squeeze", 16, inputs, 1, 1)
        net.put(f"features.{k}.expand1x1", 64, 16, 1, 1).put(f"features.{k}.expand3x3", 64, 16, 3, 3)
    return net.state


def inception():
    net = Shapes()
    for k in range(3):
        net.put(f"mixed{k}.branch1x1.conv", 64, 128, 1, 1)
        net.put(f"mixed{k}.branch3x3_1.conv", 64, 128, 1, 1).put(f"mixed{k}.branch3x3_2.conv", 64, 64, 3, 3)
    return net.state


def gathered():
    """Chains whose every output is concatenated by a layer beside them."""
    net = Shapes()
    for k in range(3):
        for layer in range(3):
            net.put(f"stage{k}.mid.{layer}", 16, 16, 3, 3)
        net.put(f"stage{k}.gather", 32, 16 * 4, 1, 1)
    return net.state


def shuffle_units():
    net = Shapes()
    for k in range(4):
        net.put(f"stage.{k}.branch2.0", 24, 24, 1, 1).put(f"stage.{k}.branch2.3", 24, 1, 3, 3)
        net.put(f"stage.{k}.branch2.5", 24, 24, 1, 1)
    return net.state


def recurrent():
    state = torch.nn.LSTM(8, 8, 3, bidirectional=True).state_dict()
    return {f"lstm.{key}": value for key, value in state.items()} | chain(("fc", 5, 16))


WITHOUT = {
    "vgg": chain(
        *[(f"features.{3 * k}", 8, 8, 3, 3) for k in range(8)], ("classifier.0", 8, 8), ("classifier.3", 5, 8)
    ),
    "vgg in stages": chain(
        *[(f"stage{k}.conv{j}", 2 ** (k + 3), 2 ** (k + 3 - (j == 0)), 3, 3) for k in range(4) for j in range(3)]
    ),
    "perceptron": chain(*[(f"layers.{2 * k}", 16, 16) for k in range(6)]),
    "perceptron of numbered parts": chain(*[(f"block{k}.fc1", 16, 16) for k in range(6)]),
    "autoencoder": chain(("encoder.0", 8, 16), ("encoder.2", 4, 8), ("decoder.0", 8, 4), ("decoder.2", 16, 8)),
    "u-net": u_net(),
    "separable": separable(),
    "fire": fire(),
    "inception": inception(),
    "gathered": gathered(),
    "shuffle units": shuffle_units(),
    "recurrent": recurrent(),
    "embedding": chain(("embed", 100, 16), ("hidden", 16, 16), ("out", 100, 16)),
    "one attention": chain(("attention.w", 16, 16), ("attention.v", 1, 16), ("mlp.0", 16, 16), ("mlp.2", 2, 16)),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_a_network_without_residual_blocks_has_none(name):
    for seed in range(3):
        assert structure(shuffled(WITHOUT[name], seed)) == ()


EVERY = [state for state, _ in TRANSFORMERS.values()] + [stages((4, 8), 3, shortcut="shortcut"), stages((4, 8), 3)]


@pytest.mark.parametrize("index", range(len(EVERY)))
def test_the_order_of_the_file_changes_no_block(index):
    state = EVERY[index]
    keys = sorted(state)
    random.Random(index).shuffle(keys)  # noqa: S311 - an order, no secret
    assert structure({key: state[key] for key in keys}) == structure(state)


def test_a_layer_is_in_one_block_or_unplaced_and_the_reason_ends_with_what_to_do():
    state = {key: torch.zeros(value.shape) for key, value in TRANSFORMERS["two linear layers"][0].items()}
    graph = found(state)
    inside = [layer for block in graph.blocks for layer in (*block.layers, *block.skip_layers)]
    loose = [node.name for node in graph.loose]
    assert sorted(inside + [name for name in graph.unplaced if name in loose]) == sorted(loose)
    assert graph.runnable_reason.endswith("--arch PACKAGE.MODULE:FACTORY")
    assert (graph.placement, graph.nodes) == ({}, ())


def test_a_family_that_names_give_away_is_offered_by_name():
    known = known_family(["roberta.encoder.layer.0.attention.self.query.weight"])
    assert (known.family, known.arch) == ("BERT", "transformers:NAME")
    assert known_family(["a.weight"]) is None


# the user's own names -----------------------------------------------------------------------------------------------


def test_a_user_file_adds_names(tmp_path):
    state = stages((4, 8, 16), 1, shortcut="bridge")
    file = tmp_path / "patterns.toml"
    file.write_text("shortcut = ['bridge']\n")
    assert structure(state) == ()
    assert [b.skip_kind for b in structure(state, load_patterns(str(file)))] == ["identity", "projection", "projection"]
    assert load_patterns(str(file)).mlp == Patterns().mlp


@pytest.mark.parametrize(
    "text", ["shortcut = 'bridge'", "shortcut = ['(']", "shortcuts = ['x']", "shortcut = [1]", "no toml", "\x00"]
)
def test_a_broken_user_file_is_a_usage_error(tmp_path, text):
    file = tmp_path / "patterns.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=r"patterns\.toml"):
        load_patterns(str(file))


def test_a_user_file_that_is_not_there_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="give a TOML file"):
        load_patterns(str(tmp_path / "none.toml"))
