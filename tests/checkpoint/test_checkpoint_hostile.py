"""A hostile file runs nothing, fills no memory, and is refused in one sentence without torch's own words."""

from __future__ import annotations

import argparse
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
from checkpoint_builders import Tiny, rewrite_zip, save_legacy, save_safetensors, save_zip, weights
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

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
@pytest.mark.parametrize(("evil", "name"), [(Command, r"posix\.system|nt\.system"), (Evaluation, r"builtin\w*\.eval")])
@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_in_an_evil_pickle_runs(save, evil, name, protocol, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    marker = tmp_path / "marker"
    content = {"state_dict": weights(), "extra": evil(marker)}
    legacy = save is save_legacy
    torch.save(content, tmp_path / "m.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    text = refused(tmp_path / "m.pt")
    assert re.search(name, text)
    assert "nothing in a checkpoint is run" in text
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
    ("content", "words"),
    [
        (nn.Sequential(nn.Linear(2, 2)), r"pickled model \(torch\.nn\.modules\.container\.Sequential"),
        ({"net": Tiny(), "args": argparse.Namespace(lr=0.1)}, r"pickled model \(checkpoint_builders\.Tiny, argparse"),
        (
            {"net": weights(), "args": argparse.Namespace(lr=0.1)},
            r"Python objects beside its weights \(argparse\.Names",
        ),
        ({"net": weights(), "best": np.float64(0.9)}, r"Python objects beside its weights \(numpy"),
        ({"net": weights(), "curve": np.zeros(3)}, r"Python objects beside its weights \(numpy"),
    ],
)
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_a_file_with_more_than_weights_is_refused_by_what_it_holds(save, content, words, tmp_path):
    text = refused(save(tmp_path / "m.pt", content))
    assert re.search(words, text)
    assert "state_dict()" in text


@pytest.mark.parametrize(
    ("evil", "shown"),
    [
        (b"\x80\x02cargparse\x1b[31m\nName\n)\x81.", "argparse\ufffd[31m.Name"),
        (b"\x80\x04X\x03\x00\x00\x00a\xc2\x9bX\x04\x00\x00\x00b\xe2\x80\xae\x93)\x81.", "a\ufffd.b\ufffd"),
        (b"\x80\x02carg\xc2\x9bparse\nName\n)\x81.", "not ASCII"),
    ],
)
def test_the_names_in_a_refusal_are_safe(evil, shown, tmp_path):
    path = rewrite_zip(save_zip(tmp_path / "m.pt", weights()), {"data.pkl": evil})
    assert shown in refused(path)


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
        (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "quantised checkpoint .*qint8"),
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


def test_pickles_are_loaded_in_one_place_and_only_as_weights():
    sources = {file.name: file.read_text(encoding="utf-8") for file in Path(package.__file__).parent.glob("*.py")}
    loading = {name for name, text in sources.items() if re.search(r"torch\.load\(|pickle\.loads?\(|Unpickler\(", text)}
    assert loading == {"readers.py"}
    assert sources["readers.py"].count("torch.load(") == sources["readers.py"].count("weights_only=True, mmap") == 1
    assert not any(re.search(r"weights_only\s*=\s*False", text) for text in sources.values())
