"""Loading gives the tensors that were saved, by clean names, and says what was undone on the way."""

from __future__ import annotations

import hashlib
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from checkpoint_builders import SAVERS, rewrite_zip, save_legacy, save_zip, weights
from torch import nn

from resnet_audit.checkpoint import Checkpoint, load
from resnet_audit.errors import UnreadableCheckpoint


def codes(checkpoint: Checkpoint) -> set[str]:
    return {note.code for note in checkpoint.notes}


# real files, trained by others ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters"), [("20", 269_722), ("32", 464_154), ("44", 658_586), ("56", 853_018)]
)  # the counts that the authors publish
def test_real_cifar_resnets_have_the_published_number_of_parameters(checkpoints, name, parameters):
    checkpoint = load(str(checkpoints / f"resnet{name}.th"))
    assert checkpoint.parameters == parameters
    assert (checkpoint.format, checkpoint.wrapper, checkpoint.prefix) == ("torch-legacy", "state_dict", "module.")
    assert checkpoint.tensors["conv1.weight"].shape == (16, 3, 3, 3)
    assert codes(checkpoint) == {"wrapper", "prefix"}


@pytest.mark.parametrize(
    ("name", "kind", "wrapper", "count"),
    [
        ("pyhessian_net.pkl", "torch-legacy", None, 128),
        ("cgcnn_bandgap.pth.tar", "torch-legacy", "state_dict", 46),
        ("picklescan_pytorch_model.bin", "torch-legacy", None, 38),
        ("candle_with_key.pt", "torch-zip", "model_state_dict", 1),
        ("silero_vad_16k.safetensors", "safetensors", None, 15),
        ("azg_santorini.pt", "torch-zip", "full_model", 85),
        ("silero_vad.jit", "torchscript", None, 32),
    ],
)
def test_real_files_are_read_whatever_their_names_say(checkpoints, name, kind, wrapper, count):
    checkpoint = load(str(checkpoints / name))
    assert (checkpoint.format, checkpoint.wrapper, len(checkpoint.tensors)) == (kind, wrapper, count)


def test_a_real_pickled_model_has_its_classes_and_geometry(checkpoints):
    checkpoint = load(str(checkpoints / "azg_santorini.pt"))
    modules = checkpoint.modules
    blocks = [name for name, module in modules.items() if module.class_name == "SimpleResBlock"]
    assert blocks == [f"trunk.{i}" for i in range(5)]
    assert modules[""].class_name == "SantoriniNNet"
    first = modules["first_layer.0"]
    assert first.class_name == "Conv2d"
    assert first.attributes["kernel_size"] == (3, 3)
    assert first.attributes["out_channels"] == checkpoint.tensors["first_layer.0.weight"].shape[0]
    assert checkpoint.dangerous_globals == ()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("allennlp_basic_model.tar.gz", "gzip archive"),
        ("README.md", "a text file"),
    ],
)
def test_real_files_that_are_not_read_are_refused_in_one_sentence(checkpoints, name, words):
    with pytest.raises(UnreadableCheckpoint, match=words) as caught:
        load(str(checkpoints / name))
    assert "\n" not in str(caught.value)


# round trips ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SAVERS)
@pytest.mark.parametrize("name", ["m.pt", "m.safetensors", "m", "é.pt"])
def test_what_was_saved_is_what_is_loaded(kind, name, tmp_path):
    saved = weights() | {
        "half": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
        "count": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(0.5, dtype=torch.float64),
    }
    path = SAVERS[kind](tmp_path / name, saved)
    checkpoint = load(str(path))
    assert set(checkpoint.tensors) == set(saved)
    for key, tensor in saved.items():
        assert checkpoint.tensors[key].dtype == tensor.dtype
        assert torch.equal(checkpoint.tensors[key], tensor)
    assert checkpoint.path == str(path)
    assert checkpoint.format == kind
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert checkpoint.notes == ()
    assert checkpoint.parameters == 10 * 256 + 6 + 1


def test_the_tensors_of_a_checkpoint_cannot_be_replaced(tmp_path):
    checkpoint = load(str(save_zip(tmp_path / "m.pt", weights())))
    with pytest.raises(TypeError):
        checkpoint.tensors["new"] = torch.zeros(1)
    with pytest.raises(AttributeError):
        checkpoint.path = "other"


def test_writing_into_a_mapped_tensor_leaves_the_file_alone(tmp_path):
    path = save_zip(tmp_path / "m.pt", weights())
    before = path.read_bytes()
    load(str(path)).tensors["layer0.weight"].zero_()
    assert path.read_bytes() == before


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_a_tied_weight_is_counted_once(save, tmp_path):
    shared = torch.randn(5, 7)
    path = save(tmp_path / "m.pt", {"embed.weight": shared, "head.weight": shared, "other": torch.randn(35)})
    assert load(str(path)).parameters == 70


def test_parameters_and_gradients_load_as_bare_tensors(tmp_path):
    weight = nn.Parameter(torch.randn(3, 3))
    loaded = load(str(save_zip(tmp_path / "m.pt", {"weight": weight}))).tensors["weight"]
    assert type(loaded) is torch.Tensor
    assert not loaded.requires_grad


def test_statistics_of_batch_normalisation_are_no_parameters(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    checkpoint = load(str(save_zip(tmp_path / "m.pt", model.state_dict())))
    assert checkpoint.parameters == sum(p.numel() for p in model.parameters())
    assert len(checkpoint.tensors) == len(model.state_dict())


def test_a_recompressed_torch_file_is_read_without_mapping(tmp_path):
    path = rewrite_zip(save_zip(tmp_path / "m.pt", weights()), {}, zipfile.ZIP_DEFLATED)
    checkpoint = load(str(path))
    assert all(torch.equal(checkpoint.tensors[key], tensor) for key, tensor in weights().items())


def test_a_file_without_checksums_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        path = save_zip(tmp_path / "m.pt", weights())
    finally:
        torch.serialization.set_crc32_options(True)
    assert load(str(path)).notes == ()


def test_a_flipped_bit_in_the_weights_is_noted(tmp_path):
    path = save_zip(tmp_path / "m.pt", weights())
    data = bytearray(path.read_bytes())
    at = data.find(weights()["layer3.weight"].numpy().tobytes())
    data[at + 100] ^= 1
    path.write_bytes(data)
    (note,) = load(str(path)).notes
    assert note.code == "checksum"
    assert note.where == "m/data/3"


# truncation -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SAVERS)
@pytest.mark.parametrize("share", [0, 0.0001, 0.01, 0.05, 0.3, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_short_is_refused_in_one_sentence(kind, share, tmp_path):
    path = SAVERS[kind](tmp_path / "m.pt", weights())
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UnreadableCheckpoint) as caught:
        load(str(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 300


def test_a_legacy_file_that_is_cut_short_says_how_much_is_missing(tmp_path):
    path = save_legacy(tmp_path / "m.pt", weights())
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(UnreadableCheckpoint, match=r"claim 10,240 bytes and 5,\d\d\d are there"):
        load(str(path))


# wrappers, rivals, prefixes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict", "network", "ema", "net", "params"])
@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_the_state_dict_is_found_under_any_wrapper(wrapper, save, tmp_path):
    moments = {i: {"exp_avg": torch.zeros(16, 16), "exp_avg_sq": torch.zeros(16, 16)} for i in range(10)}
    content = {
        "epoch": 3,
        "optimizer": {"state": moments, "deep": weights() | {"x": torch.zeros(1)}},
        wrapper: weights(),
    }
    checkpoint = load(str(save(tmp_path / "m.pt", content)))
    assert checkpoint.wrapper == wrapper
    assert set(checkpoint.tensors) == set(weights())
    assert codes(checkpoint) == {"wrapper"}


def test_a_wrapper_in_a_wrapper_is_a_dotted_path(tmp_path):
    content = {"run": [{"ignored": 1}, {"model": OrderedDict(weights())}]}
    assert load(str(save_zip(tmp_path / "m.pt", content))).wrapper == "run.1.model"


def test_smaller_state_dicts_beside_the_chosen_one_are_named(tmp_path):
    content = {"generator": weights(), "critic": {"a": torch.zeros(3), "b": torch.zeros(3)}}
    (note,) = load(str(save_zip(tmp_path / "m.pt", content))).notes
    assert "under the key generator" in note.message
    assert "critic (2)" in note.message


def test_rivals_ask_for_a_key_and_the_key_chooses(tmp_path):
    averaged = {f"module.{name}": tensor for name, tensor in weights(1).items()} | {"n_averaged": torch.tensor(3)}
    path = str(save_zip(tmp_path / "m.pt", {"model": weights(0), "ema": averaged}))
    with pytest.raises(UnreadableCheckpoint, match=r"model, ema; .*--key model"):
        load(path)
    for key, seed in (("model", 0), ("ema", 1)):
        checkpoint = load(path, key)
        assert checkpoint.wrapper == key
        assert torch.equal(checkpoint.tensors["layer0.weight"], weights(seed)["layer0.weight"])
    assert codes(load(path, "ema")) == {"wrapper", "prefix", "averaged"}
    with pytest.raises(UnreadableCheckpoint, match="without the key teacher; it has model, ema"):
        load(path, "teacher")


def test_one_state_dict_under_two_keys_is_no_rival_of_itself(tmp_path):
    state = weights()
    assert load(str(save_zip(tmp_path / "m.pt", {"last": state, "best": state}))).wrapper == "last"


def test_the_top_of_the_file_can_be_chosen_too(tmp_path):
    path = str(save_zip(tmp_path / "m.pt", weights(0) | {"ema": weights(1)}))
    with pytest.raises(UnreadableCheckpoint, match=r"\(top\), ema; .*--key ema"):
        load(path)
    checkpoint = load(path, "(top)")
    assert checkpoint.wrapper is None
    assert torch.equal(checkpoint.tensors["layer0.weight"], weights(0)["layer0.weight"])


def test_a_key_for_a_bare_state_dict_is_refused(tmp_path):
    with pytest.raises(UnreadableCheckpoint, match="leave out --key"):
        load(str(save_zip(tmp_path / "m.pt", weights())), "model")


def test_the_names_of_wrapped_modules_are_those_of_the_module(tmp_path):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    for wrapped in (nn.DataParallel(model), torch.optim.swa_utils.AveragedModel(model)):
        checkpoint = load(str(save_zip(tmp_path / "m.pt", wrapped.state_dict())))
        assert set(checkpoint.tensors) == set(model.state_dict())
        assert checkpoint.prefix == "module."


def test_odd_entries_are_counted_and_ignored(tmp_path):
    content = weights() | {3: torch.zeros(2), (1, 2): 5, "epoch": 7, "shape": torch.Size([2])}
    checkpoint = load(str(save_zip(tmp_path / "m.pt", content)))
    assert set(checkpoint.tensors) == set(weights())
    (note,) = checkpoint.notes
    assert note.code == "ignored"
    assert "2 without a name and 2 that are not tensors" in note.message


def test_hostile_names_are_replaced_and_noted(tmp_path):
    content = {"a\x1b[31m": torch.zeros(1), "a\x07[31m": torch.ones(1), "b\u202e": torch.zeros(1)}
    checkpoint = load(str(save_zip(tmp_path / "m.pt", {"st\x1b]ate": content})))
    assert set(checkpoint.tensors) == {"a\ufffd[31m", "a\ufffd[31m~2", "b\ufffd"}
    assert codes(checkpoint) == {"wrapper", "unsafe_names"}
    assert all(note.message.isprintable() for note in checkpoint.notes)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"optimizer": weights()}, [torch.zeros(3)], torch.zeros(3), 5])
@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_a_file_without_named_tensors_has_nothing_to_analyse(content, save, tmp_path):
    with pytest.raises(UnreadableCheckpoint, match="nothing to analyse"):
        load(str(save(tmp_path / "m.pt", content)))


def test_an_empty_safetensors_file_has_nothing_to_analyse(tmp_path):
    path = SAVERS["safetensors"](tmp_path / "m", {})
    with pytest.raises(UnreadableCheckpoint, match="nothing to analyse"):
        load(str(path))


def test_the_public_names_are_those_that_are_exported():
    from resnet_audit import checkpoint  # noqa: PLC0415

    assert checkpoint.__all__ == ["Checkpoint", "expand", "load"]
    with pytest.raises(AttributeError):
        _ = checkpoint.absent
    assert Path(checkpoint.__file__).parent.name == "checkpoint"
