"""The sample checkpoints are what sample_checkpoints/README.md says they are."""

import importlib.util
import re
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

SAMPLES = Path(__file__).parents[2] / "sample_checkpoints"
SERIES = [f"digits_resnet/epoch{epoch:02}.pt" for epoch in (0, 1, 2, 4, 8, 16, 24)]
BOTTLENECK = "digits_bottleneck_training.pth"
CLASSES = {
    **dict.fromkeys(SERIES, "ResNet"),
    "digits_plain.pt": "Plain",
    "digits_preact.safetensors": "PreactNet",
    BOTTLENECK: "BottleneckNet",
}
ROW = re.compile(r"^\| `(?P<file>\S+)` \| (?P<parameters>\d+) \| (?P<accuracy>\d\.\d{3}) \|$", re.MULTILINE)
TABLE = {row["file"]: row for row in ROW.finditer((SAMPLES / "README.md").read_text())}
LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f920")

each_file = pytest.mark.parametrize("name", CLASSES)


@pytest.fixture(scope="module")
def models() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sample_models", SAMPLES / "models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def held_out() -> tuple[Tensor, Tensor]:
    with np.load(SAMPLES / "digits.npz") as arrays:
        return torch.from_numpy(arrays["inputs"]), torch.from_numpy(arrays["labels"])


def read(name: str) -> dict:
    path = SAMPLES / name
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


def weights(name: str) -> dict[str, Tensor]:
    content = read(name)
    if name != BOTTLENECK:
        return content
    assert all(key.startswith("module.") for key in content["state_dict"])
    return {key.removeprefix("module."): value for key, value in content["state_dict"].items()}


def network(models: ModuleType, name: str) -> nn.Module:
    net = getattr(models, CLASSES[name])()
    net.load_state_dict(weights(name), strict=True)
    return net.eval().double()


def test_the_readme_lists_every_checkpoint_and_no_other() -> None:
    written = {
        path.relative_to(SAMPLES).as_posix()
        for path in SAMPLES.rglob("*")
        if path.suffix in {".pt", ".pth", ".safetensors"}
    }
    assert set(TABLE) == set(CLASSES) == written


def test_all_files_together_stay_below_six_megabytes() -> None:
    files = [SAMPLES / name for name in ("README.md", "make.py", "models.py", "digits.npz", *CLASSES)]
    assert sum(path.stat().st_size for path in files) < 6e6


@each_file
def test_the_file_loads_strictly_and_has_the_parameters_of_the_readme(models: ModuleType, name: str) -> None:
    net = network(models, name)
    assert sum(p.numel() for p in net.parameters()) == int(TABLE[name]["parameters"])


@each_file
def test_the_accuracy_is_the_one_of_the_readme(models: ModuleType, held_out: tuple[Tensor, Tensor], name: str) -> None:
    inputs, labels = held_out
    with torch.no_grad():
        right = network(models, name)(inputs.double()).argmax(dim=1) == labels
    assert f"{right.double().mean():.3f}" == TABLE[name]["accuracy"]


@pytest.mark.parametrize("name", [SERIES[-1], "digits_plain.pt", "digits_preact.safetensors", BOTTLENECK])
def test_a_network_at_the_end_of_training_names_97_percent_rightly(name: str) -> None:
    assert float(TABLE[name]["accuracy"]) >= 0.97


@each_file
def test_the_running_statistics_are_measured_and_not_those_of_a_fresh_network(name: str) -> None:
    state = weights(name)
    variances = [value for key, value in state.items() if key.endswith("running_var")]
    assert variances
    assert all(bool((value > 0).all()) and bool((value != 1).any()) for value in variances)
    assert all(int(value) > 0 for key, value in state.items() if key.endswith("num_batches_tracked"))


def test_the_files_of_the_series_are_one_architecture_with_moving_weights() -> None:
    states = [weights(name) for name in SERIES]
    assert all(list(state) == list(states[0]) for state in states)
    assert all(not torch.equal(a["layer1.0.conv1.weight"], b["layer1.0.conv1.weight"]) for a, b in pairwise(states))


def test_the_series_begins_at_the_initialisation() -> None:
    state = weights(SERIES[0])
    scales = [value for key, value in state.items() if re.search(r"bn\d\.weight$", key)]
    assert len(scales) == 19
    assert all(bool((value == 1).all()) for value in scales)


def test_the_plain_net_has_the_layers_of_the_residual_net_in_the_same_order() -> None:
    plain, residual = weights("digits_plain.pt"), weights(SERIES[0])
    assert [value.shape for value in plain.values()] == [value.shape for value in residual.values()]


def test_the_names_of_the_plain_net_carry_no_block_structure() -> None:
    modules = {key.rpartition(".")[0] for key in weights("digits_plain.pt")}
    assert modules == {f"{kind}{i}" for kind in ("conv", "bn") for i in range(1, 20)} | {"linear"}


def test_the_training_state_is_in_the_legacy_format() -> None:
    assert (SAMPLES / BOTTLENECK).read_bytes().startswith(LEGACY_MAGIC)


def test_the_training_state_has_a_momentum_for_every_parameter(models: ModuleType) -> None:
    state = read(BOTTLENECK)
    assert set(state) == {"epoch", "state_dict", "optimizer", "best_acc"}
    assert isinstance(state["best_acc"], float)
    momenta = [entry["momentum_buffer"] for entry in state["optimizer"]["state"].values()]
    assert [m.shape for m in momenta] == [p.shape for p in models.BottleneckNet().parameters()]
    assert all(bool(m.abs().max() > 0) for m in momenta)
    assert state["optimizer"]["param_groups"][0]["nesterov"] is True


def test_the_held_out_digits_are_digits_of_scikit_learn(held_out: tuple[Tensor, Tensor]) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    inputs, labels = held_out
    assert (inputs.dtype, inputs.shape, labels.dtype) == (torch.float32, (500, 1, 8, 8), torch.int64)
    images, targets = datasets.load_digits(return_X_y=True)
    known = {tuple(image): int(target) for image, target in zip(images, targets, strict=True)}
    low, high = float(inputs.min()), float(inputs.max())  # grey values 0 and 16
    greys = ((inputs.flatten(1).double() - low) * 16 / (high - low)).round().numpy()
    assert [known[tuple(image)] for image in greys] == labels.tolist()
