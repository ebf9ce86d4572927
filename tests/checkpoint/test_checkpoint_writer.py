"""Writing a checkpoint again: what comes back, what cannot, and that nothing else is touched."""

from __future__ import annotations

import argparse
import collections
import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from checkpoint_builders import SAVERS, Tiny, save_legacy, save_zip, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from resnet_audit.checkpoint import load
from resnet_audit.checkpoint.savable import savable
from resnet_audit.checkpoint.writer import TORCH_SUFFIXES, check_output, rewrite
from resnet_audit.errors import AuditError, UnreadableCheckpoint, UsageError

if TYPE_CHECKING:
    from resnet_audit.results import Note

CHANGED = "layer3.weight"


def mixed() -> dict[str, Tensor]:
    """Weights of many dtypes, with bits that only a copy of bytes keeps."""
    odd = torch.tensor([float("nan"), -0.0, float("inf"), 1e-310], dtype=torch.float64)
    return weights() | {
        "norm.weight": torch.ones(16, dtype=torch.bfloat16),
        "norm.num_batches_tracked": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "odd": odd,
    }


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same_but(changed: dict[str, Tensor], got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        wanted = changed.get(name, tensor)
        assert (got[name].dtype, got[name].shape) == (wanted.dtype, wanted.shape)
        assert bits(got[name]) == bits(wanted), name


def new(seed: int = 1) -> Tensor:
    return torch.randn(16, 16, generator=torch.Generator().manual_seed(seed))


def lost(notes: tuple[Note, ...]) -> str:
    assert {note.code for note in notes} <= {"not_written"}
    return " ".join(note.message for note in notes)


# round trips -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", *TORCH_SUFFIXES])
@pytest.mark.parametrize("kind", SAVERS)
def test_all_tensors_but_the_changed_one_come_back_bit_by_bit(kind: str, suffix: str, tmp_path: Path) -> None:
    path, out = SAVERS[kind](tmp_path / "in.x", mixed()), tmp_path / f"out{suffix}"
    before = path.read_bytes()
    assert rewrite(str(path), str(out), {CHANGED: new()}) == ()
    read = load_file(out) if suffix == ".safetensors" else torch.load(out, weights_only=True)
    assert_same_but({CHANGED: new()}, read, mixed())
    assert_same_but({CHANGED: new()}, dict(load(str(out)).tensors), mixed())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p not in {path, out}] == []


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_the_wrapper_and_the_names_stay(save, tmp_path: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in mixed().items()}
    net = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {
        "epoch": 7,
        "best": 0.25,
        "name": "résumé",
        "done": True,
        "none": None,
        "big": 2**70,
        "z": 1 + 2j,
        "raw": b"\0\1",
        "dtype": torch.float16,
        "lr": [0.1, (1, "a")],
        3: "a number as key",
        "state_dict": state,
        "ema": {name: tensor + 1 for name, tensor in weights().items() if name != "layer0.weight"},
        "optimizer": optimizer.state_dict(),
    }
    path, out = save(tmp_path / "in.pth", content), tmp_path / "out.pth"
    assert rewrite(str(path), str(out), {CHANGED: new()}) == ()
    got = torch.load(out, weights_only=True)
    assert list(got) == list(content)
    plain = {key: value for key, value in content.items() if key not in {"state_dict", "ema", "optimizer"}}
    assert {key: got[key] for key in plain} == plain
    assert_same_but({f"module.{CHANGED}": new()}, got["state_dict"], state)
    assert_same_but({}, got["ema"], content["ema"])
    optimizer.load_state_dict(got["optimizer"])
    assert load(str(out)).wrapper == "state_dict"


def test_safetensors_gets_the_names_of_the_state_dict_and_a_notice_of_the_rest(tmp_path: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in weights().items()} | {"module.extra": "text"}
    content = {"epoch": 7, "net": {"state_dict": state, "step": 3}, "optimizer": {"state": {}}}
    path, out = save_zip(tmp_path / "in.pt", content), tmp_path / "out.safetensors"
    message = lost(rewrite(str(path), str(out), {CHANGED: new()}))
    assert message == "safetensors holds tensors alone: not written are epoch, optimizer, step, module.extra"
    expected = {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    assert_same_but({f"module.{CHANGED}": new()}, load_file(out), expected)


@pytest.mark.parametrize("metadata", [{"format": "pt", "epoch": "7"}, None])
def test_the_metadata_of_safetensors_stays(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "in.safetensors", metadata)
    out = tmp_path / "out.safetensors"
    assert rewrite(str(tmp_path / "in.safetensors"), str(out), {CHANGED: new()}) == ()
    with safe_open(out, framework="pt") as file:
        assert file.metadata() == metadata
    message = lost(rewrite(str(tmp_path / "in.safetensors"), str(tmp_path / "out.pt"), {CHANGED: new()}))
    assert message == ("a torch file holds no metadata: not written are epoch, format" if metadata else "")


def test_weights_from_elsewhere_get_the_metadata_that_readers_expect(tmp_path: Path) -> None:
    path = save_zip(tmp_path / "in.pt", weights())
    rewrite(str(path), str(tmp_path / "out.safetensors"), {})
    with safe_open(tmp_path / "out.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_same_input_gives_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "in.safetensors", dict.fromkeys("abcdefgh", "é\n"))
    outs = [tmp_path / f"{index}{suffix}" for index in range(3)]
    for path in (save_zip(tmp_path / "in.pt", {"model": mixed(), "epoch": 3}), tmp_path / "in.safetensors"):
        for out in outs:
            rewrite(str(path), str(out), {CHANGED: new()})
        assert len({out.read_bytes() for out in outs}) == 1


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**80), 2**80)
        | st.floats(allow_nan=False)
        | st.text(max_size=5)
        | st.binary(min_size=1, max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.tuples(inner, inner)
            | st.dictionaries(st.text(max_size=3) | st.integers(0, 9), inner, max_size=3)
        ),
        max_leaves=12,
    )
)
def test_plain_values_around_a_state_dict_come_back_as_they_were(value: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = save_zip(Path(folder) / "in.pt", {"model": {"w.weight": torch.ones(2, 2)}, "other": value})
        out = Path(folder) / "out.pt"
        assert rewrite(str(path), str(out), {}) == ()
        assert torch.load(out, weights_only=True)["other"] == value


# shared memory ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_tied_weights_change_together_and_stay_tied(save, tmp_path: Path) -> None:
    state = weights()
    state["tied.weight"] = state[CHANGED]
    state["part.weight"] = state[CHANGED][:4]
    path, out = save(tmp_path / "in.pt", state), tmp_path / "out.pt"
    rewrite(str(path), str(out), {CHANGED: new()})
    got = torch.load(out, weights_only=True)
    assert_same_but({CHANGED: new(), "tied.weight": new(), "part.weight": new()[:4]}, got, state)
    assert len({got[name].untyped_storage().data_ptr() for name in (CHANGED, "tied.weight", "part.weight")}) == 1
    assert out.stat().st_size < 1.3 * path.stat().st_size
    rewrite(str(path), str(tmp_path / "out.safetensors"), {CHANGED: new()})
    assert_same_but({}, load_file(tmp_path / "out.safetensors"), got)


def test_weights_that_are_not_contiguous_come_back(tmp_path: Path) -> None:
    state = weights() | {CHANGED: weights()[CHANGED].T}
    path = save_zip(tmp_path / "in.pt", state)
    for suffix in (".pt", ".safetensors"):
        rewrite(str(path), str(tmp_path / f"out{suffix}"), {CHANGED: new()})
        assert_same_but({CHANGED: new()}, dict(load(str(tmp_path / f"out{suffix}")).tensors), state)


def test_one_of_rival_state_dicts_is_changed(tmp_path: Path) -> None:
    path, out = save_zip(tmp_path / "in.pt", {"model": weights(), "ema": weights(5)}), tmp_path / "out.pt"
    rewrite(str(path), str(out), {CHANGED: new()}, "ema")
    got = torch.load(out, weights_only=True)
    assert_same_but({}, got["model"], weights())
    assert_same_but({CHANGED: new()}, got["ema"], weights(5))


# what cannot be kept ---------------------------------------------------------------------------------------


class Bomb:
    """What runs when a pickle of it is unpickled for real."""

    def __reduce__(self):
        return os.system, ("touch exploded",)


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_objects_are_named_and_neither_made_nor_written(save, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = {
        "state_dict": weights(),
        "args": argparse.Namespace(lr=0.1),
        "best": np.float64(0.5),
        "history": [1.0, Path("a"), 2.0],
        "evil": Bomb(),
        "empty": b"",
        (1, 2): "a key that is no text",
    }
    path = save(tmp_path / "in.pt", content)
    message = lost(rewrite(str(path), "out.pt", {CHANGED: new()}))
    for name in ("args", "best", "history.1", "evil", "empty", "?"):
        assert name in message.partition("written: ")[2].split(", ")
    got = torch.load("out.pt", weights_only=True)
    assert list(got) == ["state_dict", "history"]
    assert got["history"] == [1.0, None, 2.0]
    assert not Path("exploded").exists()
    with zipfile.ZipFile("out.pt") as archive:
        assert b"system" not in archive.read("archive/data.pkl")
    assert load("out.pt").dangerous_globals == ()


def test_what_was_a_set_or_an_ordered_dict_comes_back_as_list_and_dict(tmp_path: Path) -> None:
    content = {"model": collections.OrderedDict(weights()), "seen": {1}, "shape": torch.Size([2, 3])}
    path = save_zip(tmp_path / "in.pt", content)
    rewrite(str(path), str(tmp_path / "out.pt"), {})
    got = torch.load(tmp_path / "out.pt", weights_only=True)
    assert (type(got["model"]), got["seen"], got["shape"]) == (dict, [1], (2, 3))


def test_circles_and_deep_nests_are_left_out_by_name() -> None:
    circle: dict[str, object] = {"a": 1}
    circle["self"] = circle
    kept, names = savable(circle)
    assert (kept, names) == ({"a": 1}, ("self",))
    deep: list[object] = []
    for _ in range(10_000):
        deep = [deep]
    kept, names = savable({"deep": deep})
    assert len(names) == 1
    wide: list[object] = []
    for _ in range(60):
        wide = [wide, wide]
    assert savable(wide)[1] == ()


REFUSED = {
    "module": lambda folder: save_zip(folder / "in.pt", Tiny()),
    "module in a dict": lambda folder: save_zip(folder / "in.pt", {"net": Tiny(), "epoch": 1}),
    "torchscript": lambda folder: scripted(folder / "in.pt"),
    "sharded": lambda folder: sharded(folder / "in"),
    "object": lambda folder: save_zip(
        folder / "in.pt", argparse.Namespace(net={"conv.weight": torch.ones(4, 3, 3, 3)})
    ),
}


def scripted(path: Path) -> Path:
    torch.jit.trace(Tiny().conv, torch.ones(1, 3, 8, 8)).save(path)
    return path


def sharded(folder: Path) -> Path:
    folder.mkdir()
    save_file({"conv.weight": torch.ones(4, 3, 3, 3)}, folder / "a.safetensors")
    save_file({"conv.bias": torch.ones(4)}, folder / "b.safetensors")
    index = {"weight_map": {"conv.weight": "a.safetensors", "conv.bias": "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_only_its_code_can_make_is_refused_and_its_weights_can_be_had(kind: str, tmp_path: Path) -> None:
    path = REFUSED[kind](tmp_path)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    bytes_before = [file.read_bytes() for file in files]
    loaded = load(str(path))
    name = next(name for name in loaded.tensors if name.endswith("weight"))
    changed = {name: torch.randn_like(loaded.tensors[name])}
    expected = dict(loaded.tensors)
    with pytest.raises(UnreadableCheckpoint, match=r"only its weights can; give an output that ends in .safetensors"):
        rewrite(str(path), str(tmp_path / "out.pt"), changed)
    assert not (tmp_path / "out.pt").exists()
    rewrite(str(path), str(tmp_path / "out.safetensors"), changed)
    assert_same_but(changed, dict(load(str(tmp_path / "out.safetensors")).tensors), expected)
    assert [file.read_bytes() for file in files] == bytes_before


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("norm", [parametrizations.weight_norm, nn.utils.weight_norm, nn.utils.spectral_norm])
def test_a_kernel_that_is_stored_in_parts_is_refused(norm, suffix: str, tmp_path: Path) -> None:
    path = save_zip(tmp_path / "in.pt", nn.Sequential(norm(nn.Conv2d(3, 4, 3)), nn.Conv2d(4, 4, 1)).state_dict())
    out = tmp_path / f"out{suffix}"
    with pytest.raises(UnreadableCheckpoint, match=r"stores 0\.weight in parts or packed"):
        rewrite(str(path), str(out), {"0.weight": torch.ones(4, 3, 3, 3)})
    assert not out.exists()
    assert rewrite(str(path), str(out), {"1.weight": torch.ones(4, 4, 1, 1)}) == ()
    assert torch.equal(load(str(out)).tensors["1.weight"], torch.ones(4, 4, 1, 1))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_quantised_weights_are_refused_rather_than_lost(suffix: str, tmp_path: Path) -> None:
    packed = torch.quantize_per_tensor(torch.ones(4, 4), 0.1, 0, torch.qint8)
    path = save_zip(tmp_path / "in.pt", weights() | {"head.weight": packed})
    with pytest.raises(UnreadableCheckpoint, match=r"packed weights \(head.weight\)"):
        rewrite(str(path), str(tmp_path / f"out{suffix}"), {CHANGED: new()})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.pt"]


@pytest.mark.parametrize("weight", [torch.ones(16, 15), torch.ones(16, 16, dtype=torch.float64)])
def test_a_weight_of_another_kind_is_the_callers_mistake(weight: Tensor, tmp_path: Path) -> None:
    path = save_zip(tmp_path / "in.pt", weights())
    with pytest.raises(ValueError, match=f"{CHANGED} is torch.float32"):
        rewrite(str(path), str(tmp_path / "out.pt"), {CHANGED: weight})


# where it is written ---------------------------------------------------------------------------------------


def test_an_output_that_would_replace_what_is_read_is_refused(tmp_path: Path) -> None:
    path = save_zip(tmp_path / "in.pt", weights())
    (tmp_path / "link.pt").symlink_to(path)
    (tmp_path / "hard.pt").hardlink_to(path)
    folder = sharded(tmp_path / "shards")
    for source, out in (
        (path, path),
        (path, tmp_path / "." / "in.pt"),
        (path, tmp_path / "link.pt"),
        (path, tmp_path / "hard.pt"),
        (tmp_path / "link.pt", path),
        (folder, folder / "a.safetensors"),
        (folder, folder / "c.pt"),
    ):
        with pytest.raises(UsageError, match="it would replace"):
            rewrite(str(source), str(out), {CHANGED: new()})
    with pytest.raises(UsageError, match="it would replace"):
        check_output(str(tmp_path / "data.npz.pt"), [str(path), str(tmp_path / "data.npz.pt")])


def test_an_output_that_is_no_place_for_a_file_is_refused(tmp_path: Path) -> None:
    path = save_zip(tmp_path / "in.pt", weights())
    (tmp_path / "folder.pt").mkdir()
    os.mkfifo(tmp_path / "pipe.pt")
    for out, message in {
        "out": "the suffix names the format",
        "out.json": "the suffix names the format",
        "-": "the suffix names the format",
        "folder.pt": "this is no file",
        "pipe.pt": "this is no file",
        "gone/out.pt": "its folder is not there",
    }.items():
        with pytest.raises(UsageError, match=message):
            check_output(str(tmp_path / out), [str(path)])


def test_a_file_that_is_there_is_replaced_with_its_permissions(tmp_path: Path) -> None:
    path, out = save_zip(tmp_path / "in.pt", weights()), tmp_path / "out.pt"
    out.write_bytes(b"old")
    out.chmod(0o640)
    (tmp_path / "link.pt").symlink_to(out)
    rewrite(str(path), str(tmp_path / "link.pt"), {CHANGED: new()})
    assert (tmp_path / "link.pt").is_symlink()
    assert out.stat().st_mode & 0o777 == 0o640
    assert torch.equal(torch.load(out, weights_only=True)[CHANGED], new())


@pytest.mark.parametrize("error", [RuntimeError("PytorchStreamWriter failed"), OSError(28, "No space left on device")])
def test_a_write_that_fails_leaves_everything_as_it_was(error: Exception, tmp_path: Path, monkeypatch) -> None:
    path, out = save_zip(tmp_path / "in.pt", weights()), tmp_path / "out.pt"
    out.write_bytes(b"old")

    def half(_: object, file) -> None:
        file.write(b"half")
        raise error

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(AuditError, match=r"out.pt: .*; nothing was written; "):
        rewrite(str(path), str(out), {CHANGED: new()})
    assert out.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.pt", "out.pt"]


def test_a_name_that_safetensors_cannot_hold_is_one_line(tmp_path: Path) -> None:
    path = save_zip(tmp_path / "in.pt", weights() | {"\ud800.weight": torch.ones(2)})
    with pytest.raises(AuditError, match="nothing was written"):
        rewrite(str(path), str(tmp_path / "out.safetensors"), {CHANGED: new()})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.pt"]


@pytest.mark.parametrize("name", ["resnet56.th", "azg_santorini.pt", "cgcnn_bandgap.pth.tar", "candle_with_key.pt"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_real_checkpoints_come_back(name: str, suffix: str, checkpoints: Path, tmp_path: Path) -> None:
    path, out = str(checkpoints / name), str(tmp_path / f"out{suffix}")
    message = lost(rewrite(path, out, {}))
    assert_same_but({}, dict(load(out).tensors), dict(load(path).tensors))
    if suffix == ".pt":
        assert message.endswith("full_model" if name == "azg_santorini.pt" else "")


def test_a_real_program_can_be_had_as_weights_alone(checkpoints: Path, tmp_path: Path) -> None:
    for name in ("silero_vad.jit", "silero_vad.onnx"):
        path, out = str(checkpoints / name), str(tmp_path / f"{name}.safetensors")
        with pytest.raises(UnreadableCheckpoint, match="only its weights can"):
            rewrite(path, str(tmp_path / "out.pt"), {})
        rewrite(path, out, {})
        assert_same_but({}, dict(load(out).tensors), dict(load(path).tensors))
