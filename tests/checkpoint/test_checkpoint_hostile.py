"""A hostile file runs nothing, fills no memory, and is refused in one sentence without torch's own words."""

from __future__ import annotations

import argparse
import collections
import datetime as dt
import functools
import json
import os
import pickle
import re
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_builders import rewrite_zip, save_legacy, save_safetensors, save_zip, weights
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import resnet_audit.checkpoint as package
from resnet_audit.checkpoint import load
from resnet_audit.errors import UnreadableCheckpoint

BOTH = pytest.mark.parametrize("save", [save_zip, save_legacy])


def refused(path: Path) -> str:
    """The text of the refusal, which must be one printable line in three parts."""
    with pytest.raises(UnreadableCheckpoint) as caught:
        load(str(path))
    text = str(caught.value).removeprefix(str(path))
    assert text.isprintable()
    assert text.count("; ") >= 2
    assert "weights_only" not in text
    assert len(text) < 500
    return text


class Command:
    """Pickles as a call of os.system that would leave a file behind."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.marker}",)


class Evaluation(Command):
    """Pickles as a call of eval that would leave a file behind."""

    def __reduce__(self) -> tuple[object, ...]:
        return eval, (f"open({str(self.marker)!r}, 'w')",)


@BOTH
@pytest.mark.parametrize(
    ("evil", "name"), [(Command, r"posix\.system|nt\.system"), (Evaluation, r"_*builtin\w*\.eval")]
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_in_an_evil_pickle_runs(save, evil, name, protocol, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    marker = tmp_path / "marker"
    content = {"state_dict": weights(), "extra": evil(marker)}
    legacy = save is save_legacy
    torch.save(content, tmp_path / "m.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    checkpoint = load(str(tmp_path / "m.pt"))
    assert set(checkpoint.tensors) == set(weights())
    (found,) = checkpoint.dangerous_globals
    assert re.fullmatch(name, found)
    assert any(note.code == "dangerous_globals" and found in note.message for note in checkpoint.notes)
    assert not marker.exists()


def test_an_evil_bare_pickle_is_not_opened(tmp_path):
    marker = tmp_path / "marker"
    (tmp_path / "m.pt").write_bytes(pickle.dumps(Command(marker)))
    assert "bare pickle" in refused(tmp_path / "m.pt")
    assert not marker.exists()


def test_an_evil_pickle_in_the_header_of_a_legacy_file_does_not_run(tmp_path):
    marker = tmp_path / "marker"
    data = save_legacy(tmp_path / "m.pt", weights()).read_bytes()
    system = data.index(b"\x80\x02}q\x00(X\x10\x00\x00\x00protocol_version")
    (tmp_path / "m.pt").write_bytes(data[:system] + pickle.dumps(Command(marker), protocol=2) + data[system:])
    refused(tmp_path / "m.pt")
    assert not marker.exists()


@BOTH
@pytest.mark.parametrize(
    "extra",
    [
        argparse.Namespace(lr=0.1),
        np.float64(0.9),
        np.zeros(3),
        Path("x"),
        dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        functools.partial(len),
        {1, 2},
        frozenset({"a"}),
        2 + 3j,
        slice(1, 2),
        bytearray(b"x"),
        collections.defaultdict(list, a=[1]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_python_objects_beside_the_weights_are_passed_over(save, extra, tmp_path):
    checkpoint = load(str(save(tmp_path / "m.pt", {"net": weights(), "extra": extra})))
    assert checkpoint.wrapper == "net"
    assert checkpoint.dangerous_globals == ()
    assert all(torch.equal(checkpoint.tensors[name], tensor) for name, tensor in weights().items())


@pytest.mark.parametrize(
    ("evil", "shown"),
    [
        (b"\x80\x02cos\nsys\x1b[31mtem\n)R", "os.sys\ufffd[31mtem"),
        (b"\x80\x04X\x02\x00\x00\x00osX\x04\x00\x00\x00b\xe2\x80\xae\x93)\x81", "os.b\ufffd"),
    ],
)
def test_the_names_in_a_notice_are_safe(evil, shown, tmp_path):
    path = save_zip(tmp_path / "m.pt", weights())
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read("m/data.pkl")
    rewrite_zip(path, {"data.pkl": evil + b"0" + pickled[2:]})
    checkpoint = load(str(path))
    assert checkpoint.dangerous_globals == (shown,)
    assert set(checkpoint.tensors) == set(weights())


def test_a_name_that_is_not_ascii_breaks_the_pickle(tmp_path):
    evil = b"\x80\x02carg\xc2\x9bparse\nName\n)\x81."
    path = rewrite_zip(save_zip(tmp_path / "m.pt", weights()), {"data.pkl": evil})
    assert "not ASCII" in refused(path)


@BOTH
def test_a_tensor_that_is_larger_than_its_storage_is_refused(save, tmp_path):
    bomb = torch.zeros(1).expand(2**20, 2**20)
    path = save(tmp_path / "m.pt", {"a": torch.zeros(3), "bomb": bomb})
    assert path.stat().st_size < 5000
    assert "claims 4,398,046,511,104 bytes and stores 4" in refused(path)


def test_a_storage_that_is_longer_than_its_record_is_refused(tmp_path):
    path = save_zip(tmp_path / "m.pt", {"a": torch.zeros(213)})  # 852 bytes
    rewrite_zip(path, {"data/0": bytes(256)})
    assert "claims 852 bytes and has 256" in refused(path)


def test_a_storage_without_a_record_is_refused(tmp_path):
    path = save_zip(tmp_path / "m.pt", {"a": torch.zeros(213)})
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read("m/data.pkl")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", pickled)
    assert "claims 852 bytes and has 0" in refused(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("twin", ["m/data/0", "m/DATA/0"])
def test_two_records_of_one_name_are_refused(twin, tmp_path):
    path = save_zip(tmp_path / "m.pt", {"a": torch.zeros(213)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(twin, bytes(852))
    assert "same name" in refused(path)


def test_a_small_file_that_unpacks_to_a_huge_one_is_refused_before_it_is_unpacked(tmp_path):
    path = save_zip(tmp_path / "m.pt", {"a": torch.zeros(3)})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("m/data/9", "w") as record:
        for _ in range(300):
            record.write(bytes(2**20))
    tracemalloc.start()
    text = refused(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "claim to unpack to 314," in text
    assert peak < 20 * 2**20


def test_a_legacy_storage_of_terabytes_is_refused_before_it_is_asked_for(tmp_path):
    path = save_legacy(tmp_path / "m.pt", {"a": torch.zeros(0x4142)})
    data = path.read_bytes()
    claim = b"M\x42\x41"  # BININT2, in the storage and in the shape
    assert data.count(claim) == 2
    path.write_bytes(data.replace(claim, b"\x8a\x06" + (2**40).to_bytes(6, "little")))  # LONG1
    assert "claim 4,398,046,511,104 bytes" in refused(path)


def test_a_legacy_storage_that_is_never_filled_is_refused(tmp_path):
    path = save_legacy(tmp_path / "m.pt", {"a": torch.zeros(4)})
    data = path.read_bytes()
    keys = data.rindex(b"\x80\x02]")
    path.write_bytes(data[:keys] + pickle.dumps([], protocol=2) + bytes(64))
    assert "no bytes in the file" in refused(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.eye(3).to_sparse(), "sparse or nested"),
        (lambda: torch.zeros(3, device="meta"), "without data"),
    ],
)
@BOTH
def test_a_tensor_that_is_no_plain_array_is_refused(save, make, words, tmp_path):
    assert re.search(words, refused(save(tmp_path / "m.pt", {"a": make(), "b": torch.zeros(2)})))


def test_containers_that_hold_themselves_or_go_very_deep_do_not_trap_the_search(tmp_path):
    circle: dict[str, object] = {"state_dict": weights()}
    circle["self"] = circle
    circle |= {10**500: {1: 2}, ("a", ("b",)): [3]}
    assert load(str(save_zip(tmp_path / "m.pt", circle))).wrapper == "state_dict"
    # {"a": {"a": ...}} a hundred thousand deep, written by hand: pickling it would exceed the recursion limit itself.
    depth = 100_000
    deep = b"\x80\x02" + b"}X\x01\x00\x00\x00a" * depth + b"}" + b"s" * depth + b"."
    rewrite_zip(tmp_path / "m.pt", {"data.pkl": deep})
    assert "nothing to analyse" in refused(tmp_path / "m.pt")


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 2**63]}},
        {"a\u001b": {"dtype": "X\u001b99", "shape": [2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
        [],
    ],
)
def test_a_lying_safetensors_header_is_refused(header, tmp_path):
    text = json.dumps(header).encode().replace(b"[]", b"{]")
    (tmp_path / "m").write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    refused(tmp_path / "m")


@pytest.mark.parametrize("save", [save_zip, save_legacy, save_safetensors])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_is_a_checkpoint_or_a_refusal(save, data, tmp_path):
    path = save(tmp_path / "m.pt", weights())
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        # The heads and tails of the formats are where the structure is.
        at = data.draw(st.integers(0, min(2500, len(content) - 1)) | st.integers(-1500, -1))
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        load(str(path))
    except UnreadableCheckpoint as error:
        assert str(error).removeprefix(str(path)).isprintable()  # noqa: PT017 (both outcomes are right)


def test_no_file_of_the_package_unpickles():
    for file in Path(package.__file__).parent.glob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"torch\.load\(|pickle\.loads?\(|Unpickler\(|import pickle\b", text), file.name
