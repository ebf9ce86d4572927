"""Every other format that is read gives the tensors that were saved in it, and its claims are checked first."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tracemalloc
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from checkpoint_builders import Tiny, save_legacy, save_safetensors, save_zip, weights
from torch import nn
from torch.distributed import checkpoint as dcp

from resnet_audit.checkpoint import load
from resnet_audit.checkpoint.inert import BrokenPickle, Machine, NoStorages
from resnet_audit.checkpoint.rebuild import call
from resnet_audit.errors import UnreadableCheckpoint

if TYPE_CHECKING:
    from pathlib import Path

HALVES = ("layer0.weight", "layer1.weight")


def refused(path: Path, key: str | None = None) -> str:
    with pytest.raises(UnreadableCheckpoint) as caught:
        load(str(path), key)
    text = str(caught.value).removeprefix(str(path))
    assert text.isprintable()
    assert text.count("; ") >= 2
    return text


def same(checkpoint, state) -> bool:
    return set(checkpoint.tensors) == set(state) and all(
        torch.equal(checkpoint.tensors[name], tensor) for name, tensor in state.items()
    )


def network() -> nn.Sequential:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, dilation=2)
    return nn.Sequential(nn.Sequential(conv, nn.BatchNorm2d(6), nn.ReLU()), nn.Flatten(), nn.Linear(6, 2)).eval()


# whole modules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [save_zip, save_legacy])
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_a_pickled_model_is_its_state_dict_and_its_geometry(save, tmp_path):
    model = network()
    checkpoint = load(str(save(tmp_path / "m.pt", model)))
    assert same(checkpoint, model.state_dict())
    assert list(checkpoint.tensors) == list(model.state_dict())
    assert [*checkpoint.modules] == [name for name, _ in model.named_modules()]
    conv = checkpoint.modules["0.0"]
    assert conv.class_name == "Conv2d"
    wanted = {"stride": (2, 2), "padding": (1, 1), "groups": 2, "dilation": (2, 2), "kernel_size": (3, 3)}
    assert wanted.items() <= conv.attributes.items()
    assert checkpoint.modules["0.1"].attributes["eps"] == 1e-5
    assert checkpoint.dangerous_globals == ()


def test_buffers_that_a_state_dict_leaves_out_are_left_out(tmp_path):
    model = Tiny()
    model.register_buffer("mask", torch.ones(3), persistent=False)
    model.register_buffer("kept", torch.ones(3))
    assert same(load(str(save_zip(tmp_path / "m.pt", model))), model.state_dict())


def test_the_prefix_of_wrapped_models_leaves_their_modules_too(tmp_path):
    model = network()
    checkpoint = load(str(save_zip(tmp_path / "m.pt", nn.DataParallel(model))))
    assert same(checkpoint, model.state_dict())
    assert checkpoint.prefix == "module."
    assert checkpoint.modules["0.0"].class_name == "Conv2d"
    assert checkpoint.modules[""].class_name == "Sequential"


def test_a_model_beside_its_own_state_dict_is_no_rival(tmp_path):
    model = network()
    content = {"state_dict": {name: t.clone() for name, t in model.state_dict().items()}, "model": model}
    checkpoint = load(str(save_zip(tmp_path / "m.pt", content)))
    assert checkpoint.wrapper == "model"
    assert checkpoint.modules


def test_a_module_that_holds_itself_has_no_end_and_is_refused(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2))
    model[0]._modules["loop"] = model
    assert "no end" in refused(save_zip(tmp_path / "m.pt", {"model": model}))


class Trainer:
    """An object of somebody's own that holds the model, as training frameworks pickle."""

    def __init__(self) -> None:
        self.optimizer = torch.optim.SGD([torch.zeros(3, requires_grad=True)])
        self.steps = [{"a": 1}]
        self.model = network()


def test_a_model_inside_an_object_of_an_unknown_class_is_found(tmp_path):
    trainer = Trainer()
    checkpoint = load(str(save_zip(tmp_path / "m.pt", {"run": trainer})))
    assert checkpoint.wrapper == "run.model"
    assert same(checkpoint, trainer.model.state_dict())


def test_a_huge_module_that_many_share_does_not_fill_the_memory(tmp_path):
    shared = nn.Module()
    tensor = torch.zeros(1)
    for i in range(2000):
        shared.register_buffer(f"b{i}", tensor)
    model = nn.Module()
    model._modules = {f"m{i}": shared for i in range(2000)}
    assert "no end" in refused(save_zip(tmp_path / "m.pt", model))


def test_the_ordered_dicts_of_python_2_are_read():
    def text(value: bytes) -> bytes:
        return b"X" + len(value).to_bytes(4, "little") + value

    data = b"\x80\x02ccollections\nOrderedDict\n](](" + text(b"a") + b"K\x01e](" + text(b"b") + b"K\x02ee\x85R."
    assert Machine(NoStorages(), call).run(io.BytesIO(data)) == {"a": 1, "b": 2}


def test_a_pickle_of_too_many_instructions_is_given_up(monkeypatch):
    monkeypatch.setattr("resnet_audit.checkpoint.inert.INSTRUCTIONS_MAX", 1000)
    with pytest.raises(BrokenPickle, match="more than 1,000 instructions"):
        Machine(NoStorages(), call).run(io.BytesIO(b"\x80\x02](" + b"N" * 2000 + b"e."))


# npz ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_arrays_are_tensors_by_name(save, tmp_path):
    arrays = {"a.weight": np.arange(12, dtype=np.float32).reshape(3, 4), "f": np.asfortranarray(np.random.rand(3, 2))}  # noqa: NPY002 (any numbers)
    arrays |= {"big": np.arange(3, dtype=">f4"), "n": np.array(3), "words": np.array(["x"]), "half": np.ones(2, "f2")}
    save(tmp_path / "m.npz", **arrays)
    checkpoint = load(str(tmp_path / "m.npz"))
    assert set(checkpoint.tensors) == set(arrays) - {"words"}
    for name, tensor in checkpoint.tensors.items():
        assert np.array_equal(tensor.numpy(), arrays[name])
    assert checkpoint.format == "npz"


def test_an_npz_of_objects_is_refused(tmp_path):
    np.savez(tmp_path / "m.npz", a=np.array([{}], dtype=object))
    assert "array of Python objects (a.npy)" in refused(tmp_path / "m.npz")


def test_an_npz_header_that_claims_terabytes_is_refused_before_it_is_asked_for(tmp_path):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (2**40,)})
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
        archive.writestr("a.npy", buffer.getvalue() + bytes(8))
    assert "claims 4,398,046,511,104 bytes" in refused(tmp_path / "m.npz")


def test_an_npz_bomb_is_refused_before_it_is_unpacked(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "m.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.npy", "w") as record,
    ):
        for _ in range(300):
            record.write(bytes(2**20))
    tracemalloc.start()
    text = refused(tmp_path / "m.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "claim to unpack to 314," in text
    assert peak < 20 * 2**20


# programs -------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, torch.zeros(1, 4, 4, 4))])
def test_torchscript_weights_are_read_and_the_program_is_not_run(make, tmp_path, monkeypatch):
    model = network()
    make(model).save(tmp_path / "m.pt")
    monkeypatch.setattr(torch.jit, "load", None)
    checkpoint = load(str(tmp_path / "m.pt"))
    assert same(checkpoint, model.state_dict())
    assert checkpoint.format == "torchscript"
    assert checkpoint.modules["0.0"].class_name == "Conv2d"
    assert checkpoint.dangerous_globals == ()


@pytest.mark.filterwarnings("ignore")
def test_frozen_torchscript_is_refused(tmp_path):
    torch.jit.freeze(torch.jit.script(network())).save(tmp_path / "m.pt")
    assert "frozen TorchScript" in refused(tmp_path / "m.pt")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_weights_of_an_exported_program_are_read(dtype, tmp_path, monkeypatch):
    model = network().to(dtype)
    model.tied = model[2].weight  # two names, one weight
    torch.export.save(torch.export.export(model, (torch.zeros(1, 4, 4, 4, dtype=dtype),)), tmp_path / "m.pt2")
    monkeypatch.setattr(torch.export, "load", None)
    checkpoint = load(str(tmp_path / "m.pt2"))
    assert checkpoint.format == "pt2"
    wanted = dict(model.state_dict())
    found = {name: tensor for name, tensor in checkpoint.tensors.items() if name != "tied"}
    wanted.pop("tied")
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name], wanted[name]) and found[name].dtype == wanted[name].dtype for name in wanted)


def test_a_lying_list_of_weights_in_an_exported_program_is_refused(tmp_path):
    def entry(size: int) -> dict[str, object]:
        one = {"as_int": size}
        meta = {"dtype": 7, "sizes": [one], "strides": [{"as_int": 1}], "storage_offset": {"as_int": 0}}
        return {"config": {"w": {"path_name": "weight_0", "use_pickle": False, "tensor_meta": meta}}}

    for content in (entry(2**40), entry(-1), {}, [], {"config": {"w": 3}}):
        with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
            archive.writestr("m/archive_format", "pt2")
            archive.writestr("m/data/weights/weight_0", bytes(8))
            archive.writestr("m/data/weights/model_weights_config.json", json.dumps(content))
        assert "damaged" in refused(tmp_path / "m.pt2")


def onnx_model(folder: Path, location: str | None = None):
    onnx = pytest.importorskip("onnx", reason="the onnx extra is not installed")
    array = weights()["layer0.weight"].numpy()
    tensor = onnx.numpy_helper.from_array(array, "layer0.weight")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    node = helper.make_node("MatMul", ["x", "layer0.weight"], ["y"])
    ends = [helper.make_tensor_value_info(name, kind, [1, 16]) for name in "xy"]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [tensor])
    model = helper.make_model(graph)
    if location is not None:
        onnx.external_data_helper.set_external_data(model.graph.initializer[0], location, 0, array.nbytes)
        model.graph.initializer[0].ClearField("raw_data")
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx", array


def test_onnx_initialisers_are_tensors_by_name(tmp_path):
    path, array = onnx_model(tmp_path)
    checkpoint = load(str(path))
    assert checkpoint.format == "onnx"
    assert np.array_equal(checkpoint.tensors["layer0.weight"].numpy(), array)


def test_onnx_weights_in_other_files_are_read_beside_it_only(tmp_path):
    path, array = onnx_model(tmp_path, "w.bin")
    assert "is not beside it" in refused(path)
    (tmp_path / "w.bin").write_bytes(array.tobytes())
    assert np.array_equal(load(str(path)).tensors["layer0.weight"].numpy(), array)
    (tmp_path / "below").mkdir()
    for place in ("../w.bin", str(tmp_path / "w.bin")):
        path, _ = onnx_model(tmp_path / "below", place)
        assert "only plain names" in refused(path)


def test_without_the_onnx_package_an_onnx_file_says_what_to_install(tmp_path):
    path, _ = onnx_model(tmp_path)
    code = (
        "import sys; sys.modules['onnx'] = None\n"
        "from resnet_audit.checkpoint import load\n"
        "try: load(sys.argv[1])\nexcept Exception as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert "needs the onnx package" in done.stdout


# folders --------------------------------------------------------------------------------------------------------------


def shards(folder: Path, save=save_safetensors, suffix: str = "safetensors") -> Path:
    folder.mkdir(exist_ok=True)
    first = {name: tensor for name, tensor in weights().items() if name in HALVES}
    second = {name: tensor for name, tensor in weights().items() if name not in HALVES}
    for number, part in enumerate((first, second), 1):
        save(folder / f"model-{number}.{suffix}", part)
    places = {name: f"model-{1 if name in HALVES else 2}.{suffix}" for name in weights()}
    (folder / f"model.{suffix}.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "config.json").write_text('{"head_size": 3}')
    return folder


def folder_digest(folder: Path) -> str:
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in folder.iterdir()]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


@pytest.mark.parametrize(
    ("save", "suffix"), [(save_safetensors, "safetensors"), (save_zip, "bin"), (save_legacy, "bin")]
)
def test_a_sharded_folder_is_one_checkpoint(save, suffix, tmp_path):
    folder = shards(tmp_path / "m", save, suffix)
    checkpoint = load(str(folder))
    assert same(checkpoint, weights())
    assert checkpoint.format == "sharded checkpoint"
    assert checkpoint.config == {"head_size": 3}
    assert checkpoint.sha256 == folder_digest(folder)


def test_shards_may_be_links_out_of_the_folder(tmp_path):
    folder = shards(tmp_path / "m")
    (folder / "model-1.safetensors").rename(tmp_path / "blob")
    (folder / "model-1.safetensors").symlink_to(tmp_path / "blob")
    assert same(load(str(folder)), weights())


@pytest.mark.parametrize("name", ["../blob", "/etc/passwd", "a/b", "..", "", "c:\\x", "nul\0"])
def test_an_index_that_names_a_path_is_refused(name, tmp_path):
    folder = shards(tmp_path / "m")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    assert "no plain name" in refused(folder)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', "[" * 100_000])
def test_an_index_that_makes_no_sense_is_refused(text, tmp_path):
    folder = shards(tmp_path / "m")
    (folder / "model.safetensors.index.json").write_text(text)
    assert "damaged or incomplete" in refused(folder)


def test_a_missing_shard_and_a_missing_tensor_are_told(tmp_path):
    folder = shards(tmp_path / "m")
    save_safetensors(folder / "model-2.safetensors", {"other": torch.zeros(1)})
    assert "lacks layer2.weight" in refused(folder)
    (folder / "model-1.safetensors").unlink()
    assert "model-1.safetensors is missing" in refused(folder)


def test_a_model_folder_has_its_config_and_one_weight_file(tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text('{"num_heads": 3}')
    assert "no weight file" in refused(folder)
    save_zip(folder / "a.bin", weights())
    checkpoint = load(str(folder))
    assert same(checkpoint, weights())
    assert checkpoint.config == {"num_heads": 3}
    save_zip(folder / "b.bin", weights())
    assert "several weight files (a.bin, b.bin)" in refused(folder)
    save_safetensors(folder / "model.safetensors", weights(1))
    assert same(load(str(folder)), weights(1))


def saved_dcp(folder: Path, content: dict[str, object]) -> Path:
    dcp.save(content, checkpoint_id=str(folder), no_dist=True)
    return folder


@pytest.mark.filterwarnings("ignore")
def test_a_distributed_checkpoint_is_put_together(tmp_path):
    half = {"half": torch.ones(3, 2, dtype=torch.bfloat16), "count": torch.tensor(3)}
    content = {"model": weights() | half, "optimizer": {"state": {"x": torch.ones(2)}}, "epoch": 4}
    checkpoint = load(str(saved_dcp(tmp_path / "m", content)))
    assert same(checkpoint, weights() | half)
    assert (checkpoint.wrapper, checkpoint.format) == ("model", "distributed checkpoint")
    assert checkpoint.dangerous_globals == ()
    assert checkpoint.sha256 == folder_digest(tmp_path / "m")


@pytest.mark.filterwarnings("ignore")
def test_chunks_of_a_distributed_tensor_are_joined_and_must_make_it_up(tmp_path, monkeypatch):
    folder = saved_dcp(tmp_path / "m", {"top": torch.zeros(2, 3), "low": torch.ones(1, 3)})
    metadata = dcp.FileSystemReader(str(folder)).read_metadata()
    kinds = dcp.metadata
    (one, two) = (metadata.state_dict_metadata[name] for name in ("top", "low"))
    places = {index.fqn: info for index, info in metadata.storage_data.items()}

    def written(second: int) -> Path:
        chunks = [kinds.ChunkStorageMetadata(torch.Size((0, 0)), torch.Size((2, 3)))]
        chunks.append(kinds.ChunkStorageMetadata(torch.Size((second, 0)), torch.Size((1, 3))))
        whole = kinds.TensorStorageMetadata(one.properties, torch.Size((3, 3)), chunks)
        stored = {kinds.MetadataIndex("w", torch.Size((0, 0))): places["top"]}
        stored[kinds.MetadataIndex("w", torch.Size((second, 0)))] = places["low"]
        metadata.state_dict_metadata = {"w": whole}
        metadata.storage_data = stored
        metadata.planner_data = None
        import pickle  # noqa: PLC0415 (writing one by hand is the point)

        (folder / ".metadata").write_bytes(pickle.dumps(metadata))
        return folder

    assert two.size == (1, 3)
    assert same(load(str(written(2))), {"w": torch.cat([torch.zeros(2, 3), torch.ones(1, 3)])})
    assert "do not make it up" in refused(written(1))
    assert "outside of it" in refused(written(3))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"__0_0.distcp", b"../../_.dist", "no plain name"),
        (b"__0_0.distcp", b"__0_9.distcp", "is missing"),
        (b"state_dict_metadata", b"state_dict_metadatb", "describes no tensors"),
    ],
)
def test_distributed_metadata_that_lies_is_refused(old, new, words, tmp_path):
    folder = saved_dcp(tmp_path / "m", weights())
    data = (folder / ".metadata").read_bytes()
    assert old in data
    (folder / ".metadata").write_bytes(data.replace(old, new))
    assert words in refused(folder)


# standard input -------------------------------------------------------------------------------------------------------


def from_stdin(data: bytes) -> str:
    code = (
        "from resnet_audit.checkpoint import load\n"
        "try:\n c = load('-')\n"
        " print(c.path, c.format, len(c.tensors), c.sha256, float(sum(t.sum() for t in c.tensors.values())))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    environment = os.environ | {"PYTHONWARNINGS": "error"}
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True, env=environment)
    assert done.stderr == b""
    return done.stdout.decode()


def test_a_checkpoint_on_standard_input_is_read(tmp_path):
    data = save_zip(tmp_path / "m.pt", weights()).read_bytes()
    words = from_stdin(data).split()
    assert words[:3] == ["-", "torch-zip", "10"]
    assert words[3] == hashlib.sha256(data).hexdigest()
    assert float(words[4]) == pytest.approx(float(sum(tensor.sum() for tensor in weights().values())), abs=1e-3)


def test_rubbish_on_standard_input_is_refused_by_its_own_name():
    assert re.match("UnreadableCheckpoint -: an empty file; ", from_stdin(b""))
    assert re.match("UnreadableCheckpoint -: a gzip archive; ", from_stdin(b"\x1f\x8b" + bytes(30)))


# refusals by names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("base.layers.0.q_proj.lora_A.weight", "LoRA adapter"),
        ("layers.0.lora_B.default.weight", "LoRA adapter"),
        ("lora_unet_down.lora_up.weight", "LoRA adapter"),
        ("layers.0.q_proj.qweight", "GPTQ or AWQ"),
        ("layers.0.q_proj.weight.absmax", "bitsandbytes"),
        ("layers.0.q_proj.SCB", "bitsandbytes"),
    ],
)
def test_adapters_and_packed_weights_are_refused_by_their_names(name, words, tmp_path):
    path = save_safetensors(tmp_path / "m", {name: torch.zeros(4, 4), "other.weight": torch.zeros(2)})
    assert words in refused(path)
