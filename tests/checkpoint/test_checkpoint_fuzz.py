"""A damaged or forged file is a checkpoint or a refusal: never another error, a crash, a hang or a full memory."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_builders import save_legacy, save_safetensors, save_zip, weights
from torch import nn
from torch.distributed import checkpoint as dcp

WORKER = Path(__file__).with_name("fuzz_worker.py")
pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of the old forms of normalisation and quantisation, which are met in files
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits on memory are set as on Linux"),
]


def model() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4), nn.utils.spectral_norm(nn.Linear(4, 4))
    )
    return made.eval()


class Residual(nn.Module):
    """A small network with two residual blocks under the names of a ResNet, so that a mutation can reach its graph."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.layer1 = nn.ModuleList(
            nn.ModuleDict(
                {
                    "conv1": nn.Conv2d(4, 4, 3, padding=1, bias=False),
                    "bn1": nn.BatchNorm2d(4),
                    "conv2": nn.Conv2d(4, 4, 3, padding=1, bias=False),
                    "bn2": nn.BatchNorm2d(4),
                }
            )
            for _ in range(2)
        )
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        for block in self.layer1:
            branch = torch.relu(block["bn1"](block["conv1"](x)))
            x = torch.relu(x + block["bn2"](block["conv2"](branch)))
        return self.fc(x.mean((2, 3)))


def residual_files(folder: Path) -> None:
    """One residual network as weights and as the two kinds of program of torch."""
    torch.manual_seed(0)
    net, image = Residual().eval(), torch.zeros(1, 3, 8, 8)
    save_zip(folder / "residual-zip", net.state_dict())
    save_legacy(folder / "residual-legacy", net.state_dict())
    save_safetensors(folder / "residual-safetensors", net.state_dict())
    torch.jit.trace(net, image).save(folder / "residual-torchscript")
    torch.export.save(torch.export.export(net, (image,)), folder / "residual-program.pt2")
    if all(map(importlib.util.find_spec, ("onnx", "onnxscript"))):
        torch.onnx.export(net, (image,), folder / "residual-onnx", dynamo=True, external_data=False, verbose=False)


def onnx_file(path: Path) -> None:
    onnx = importlib.import_module("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, kind, [1, 16]) for name in "xy"]
    tensor = onnx.numpy_helper.from_array(weights()["layer0.weight"].numpy(), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [tensor])
    path.write_bytes(helper.make_model(graph).SerializeToString())


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> list[list[str]]:
    """[name, file to mutate, path to load] of every format that is read."""
    folder = tmp_path_factory.mktemp("bases")
    quantised = torch.quantize_per_channel(
        torch.randn(4, 3), torch.rand(4).double() + 0.1, torch.zeros(4).long(), 0, torch.qint8
    )
    mixed = {"model": model(), "args": {1: 2, "q": {"w": quantised}}, "best": np.float64(3.0)}
    save_zip(folder / "zip", weights())
    save_legacy(folder / "legacy", {"state_dict": weights(), "epoch": 3})
    save_zip(folder / "module", mixed)
    save_safetensors(folder / "safetensors", weights())
    with (folder / "npz").open("wb") as file:
        np.savez_compressed(file, **{name: tensor.numpy() for name, tensor in weights().items()})
    torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))).save(folder / "torchscript")
    torch.export.save(torch.export.export(nn.Linear(3, 2), (torch.zeros(1, 3),)), folder / "program.pt2")
    dcp.save({"model": weights()}, checkpoint_id=str(folder / "dcp"), no_dist=True)
    (folder / "sharded").mkdir()
    save_safetensors(folder / "sharded" / "a", weights())
    index = folder / "sharded" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(weights(), "a")}))
    found = [[file.name, str(file), str(file)] for file in sorted(folder.iterdir()) if file.is_file()]
    found.append(["metadata", str(folder / "dcp" / ".metadata"), str(folder / "dcp")])
    found.append(["index", str(index), str(folder / "sharded")])
    if importlib.util.find_spec("onnx"):
        onnx_file(folder / "onnx")
        found.append(["onnx", str(folder / "onnx"), str(folder / "onnx")])
    return found


def fuzz(bases: list[list[str]], folder: Path, seed: int, count: int, *words: str) -> dict[str, Any]:
    command = [sys.executable, str(WORKER), str(folder), json.dumps(bases), str(seed), str(count), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines() or ["none"]
    assert done.returncode == 0, f"mutation {lines[-1]} ended with {done.returncode}: {done.stderr[-2000:]}"
    result = json.loads(lines[-1])
    assert result["slowest"] < 10
    return result


def test_mutations_of_every_format_are_read_or_refused(bases, tmp_path):
    outcomes = fuzz(bases, tmp_path, 0, 220)["outcomes"]
    assert all(sum(counts) >= 16 for counts in outcomes.values())
    assert sum(read for read, _ in outcomes.values()) > 10  # else the mutations reach nothing but the first check
    assert sum(refused for _, refused in outcomes.values()) > 60


@pytest.fixture(scope="module")
def all_bases(bases, tmp_path_factory) -> list[list[str]]:
    folder = tmp_path_factory.mktemp("residual")
    residual_files(folder)
    return [*bases, *([file.name, str(file), str(file)] for file in sorted(folder.iterdir()))]


@pytest.mark.long
@pytest.mark.parametrize("seed", [1000, 2000, 3000, 4000])
def test_thousands_of_mutations_are_read_or_refused_by_the_whole_command(all_bases, tmp_path, seed):
    result = fuzz(all_bases, tmp_path, seed, 1000, "whole")
    print(json.dumps({key: result[key] for key in ("outcomes", "commands", "slowest", "memory")}))  # noqa: T201 (-s)
    assert len(all_bases) >= 8
    assert result["memory"] < 2**30
    assert not result["internal"], "\n\n".join(result["internal"])
    assert sum(map(sum, result["commands"].values())) == 1000
