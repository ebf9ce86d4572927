"""A graph found in weights computes what the network that the weights come from computes."""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch
from graph_builders import found
from graph_nets import NETS, option_a, projection
from graph_oracles import Oracle, normal, shuffled

from resnet_audit.checkpoint import load
from resnet_audit.errors import UsageError
from resnet_audit.graph import discover
from resnet_audit.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from torch import Tensor

each_net = pytest.mark.parametrize("name", NETS)
each_precision = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=["float32", "float64"]
)
REAL = {
    "resnet20.th": option_a,
    "resnet56.th": option_a,
    "pyhessian_net.pkl": partial(projection, member="downsample", head="fc"),
}
SAMPLES = {
    "digits_resnet/epoch00.pt": "ResNet",
    "digits_resnet/epoch24.pt": "ResNet",
    "digits_plain.pt": "Plain",
    "digits_preact.safetensors": "PreactNet",
    "digits_bottleneck_training.pth": "BottleneckNet",
}


def error(got: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected value."""
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.fixture(scope="module")
def models(samples: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("sample_models_for_graphs", samples / "models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@each_net
@each_precision
def test_logits_equal_those_of_the_network_written_out(name, dtype, tolerance):
    net = NETS[name]
    weights, images = net.weights(seed=3), net.images().to(dtype)
    graph = found(weights, input_size=net.size)
    assert graph.runnable
    assert error(graph.forward(images), net.forward(Oracle(weights), images)) < tolerance


@each_net
def test_a_file_gives_the_same_network_as_its_tensors(name, tmp_path):
    net = NETS[name]
    weights, images = net.weights(), net.images()
    path = tmp_path / "net.pt"
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in weights.items()}}, path)
    graph = discover(load(str(path)), Settings(input_size=net.size))
    assert error(graph.forward(images), net.forward(Oracle(weights), images)) < 1e-10


@each_net
def test_one_image_gives_what_it_gives_in_a_batch(name):
    net = NETS[name]
    graph, images = found(net.weights(), input_size=net.size), net.images(3)
    alone = torch.cat([graph.forward(image[None]) for image in images])
    torch.testing.assert_close(graph.forward(images), alone, rtol=0, atol=1e-11)


@pytest.mark.parametrize("height", range(8, 14))
def test_logits_are_right_at_every_remainder_of_the_strides(height):
    for name in ("option A", "projections", "wide"):
        net = NETS[name]
        weights, images = net.weights(), normal(1, 3, height, 21 - height, seed=height)
        graph = found(weights, input_size=(3, height, 21 - height))
        assert error(graph.forward(images), net.forward(Oracle(weights), images)) < 1e-10


def test_weights_in_half_precision_are_used_as_stored():
    net = NETS["option A"]
    weights = {key: value.half() if value.is_floating_point() else value for key, value in net.weights().items()}
    images = net.images()
    got = found(weights, input_size=net.size).forward(images)
    assert error(got, net.forward(Oracle(weights), images)) < 1e-10


@pytest.mark.parametrize("seed", range(3))
def test_logits_do_not_depend_on_the_order_of_the_file(seed):
    for net in NETS.values():
        weights, images = net.weights(), net.images()
        graph = found(shuffled(weights, seed), input_size=net.size)
        assert torch.equal(graph.forward(images), found(weights, input_size=net.size).forward(images))


@each_precision
@pytest.mark.parametrize("file", REAL)
def test_real_networks_give_the_logits_of_their_architecture(checkpoints, file, dtype, tolerance):
    checkpoint = load(str(checkpoints / file))
    images = normal(3, 3, 32, 32).to(dtype)
    graph = discover(checkpoint, Settings())
    assert error(graph.forward(images), REAL[file](Oracle(checkpoint.tensors), images)) < tolerance


@each_precision
@pytest.mark.parametrize("file", SAMPLES)
def test_samples_give_the_logits_of_their_models(samples, models, file, dtype, tolerance):
    checkpoint = load(str(samples / file))
    model = getattr(models, SAMPLES[file])()
    model.load_state_dict(checkpoint.tensors)
    images = normal(3, 1, 8, 8).to(dtype)
    graph = discover(checkpoint, Settings(input_size=(1, 8, 8), assume=file == "digits_plain.pt"))
    with torch.no_grad():
        expected = model.to(dtype).eval()(images)
    assert error(graph.forward(images), expected) < tolerance


@pytest.mark.parametrize("size", [(1, 32, 32), (4, 32, 32), (3, 32), (3, 0, 32), (3,)])
def test_an_input_size_that_does_not_fit_is_refused_with_the_option_to_change(size):
    with pytest.raises(UsageError, match=r"not fit .*--input-size") as caught:
        found(NETS["option A"].weights(), input_size=size)
    assert "x".join(map(str, size)) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_image_of_one_pixel_is_large_enough():
    assert found(NETS["bottlenecks, 7x7 stem"].weights(), input_size=(3, 1, 1)).runnable
    assert found(NETS["option A"].weights(), input_size=(3, 1, 1)).runnable


def test_the_input_size_is_224_for_a_7x7_stem_and_32_for_a_3x3_stem():
    assert found(NETS["bottlenecks, 7x7 stem"].weights()).input_size == (3, 224, 224)
    assert found(NETS["option A"].weights()).input_size == (3, 32, 32)
    assert found(NETS["option A"].weights(), input_size=(3, 8, 9)).input_size == (3, 8, 9)
