"""Formats are told by content, and each one that is not read is refused in one sentence of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from checkpoint_builders import FOREIGN, SAVERS, onnx, weights
from hypothesis import given
from hypothesis import strategies as st

from resnet_audit.checkpoint import load
from resnet_audit.checkpoint.sniff import SUPPORTED, Format, _kind, sniff
from resnet_audit.errors import UnreadableCheckpoint


@pytest.mark.parametrize("kind", SAVERS)
def test_a_supported_format_is_told_whatever_the_file_is_called(kind, tmp_path):
    path = SAVERS[kind](tmp_path / "model.tar.gz", weights())
    assert sniff(str(path)) == kind


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_a_legacy_file_is_told_at_any_pickle_protocol(protocol, tmp_path):
    path = tmp_path / "m.pt"
    torch.save(weights(), path, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    assert sniff(str(path)) is Format.TORCH_LEGACY


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_format_is_told_and_refused_in_its_own_words(kind, tmp_path):
    build, words = FOREIGN[kind]
    path = str(build(tmp_path / "model.pt"))
    assert sniff(path) == kind
    with pytest.raises(UnreadableCheckpoint) as caught:
        load(path)
    text = str(caught.value)
    assert words in text
    assert text.startswith(f"{path}: ")
    assert len(text.removeprefix(path).split("; ")) >= 3
    assert "\n" not in text


def test_every_format_is_read_or_has_its_refusal_tested():
    assert {str(kind) for kind in SUPPORTED} | set(FOREIGN) == {str(kind) for kind in Format}


def test_a_program_saved_by_torch_export_is_told(tmp_path):
    model = torch.nn.Linear(2, 2)
    program = torch.export.export(model, (torch.zeros(1, 2),))
    torch.export.save(program, tmp_path / "program.pt2")
    assert sniff(str(tmp_path / "program.pt2")) is Format.PT2


def test_a_zip_with_two_top_folders_is_not_taken_for_a_torch_file(tmp_path):
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"")
        archive.writestr("b/data.pkl", b"")
    assert sniff(str(path)) not in SUPPORTED


def test_an_onnx_file_that_is_cut_is_not_taken_for_one(tmp_path):
    path = onnx(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes()[:12])
    assert sniff(str(path)) is Format.UNKNOWN


def test_text_is_told_although_the_head_ends_within_a_character(tmp_path):
    path = tmp_path / "notes"
    path.write_text("a" + "é" * 5000, encoding="utf-8")
    assert sniff(str(path)) is Format.TEXT


@given(st.binary(max_size=400))
def test_any_bytes_at_all_have_some_format(data):
    assert isinstance(_kind(data, len(data)), Format)


@given(st.binary(max_size=60))
def test_bytes_after_an_onnx_version_never_stop_the_sniffer(data):
    assert isinstance(_kind(b"\x08\x07" + data, len(data) + 2), Format)


def _missing(folder: Path) -> Path:
    return folder / "absent.pt"


def _link(folder: Path) -> Path:
    (folder / "link.pt").symlink_to(folder / "absent.pt")
    return folder / "link.pt"


def _loop(folder: Path) -> Path:
    (folder / "loop").symlink_to(folder / "loop")
    return folder / "loop"


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def _below_a_file(folder: Path) -> Path:
    (folder / "file").write_bytes(b"x")
    return folder / "file" / "m.pt"


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (_missing, "no such file"),
        (_link, "broken link"),
        (_loop, "cannot be opened"),
        (_pipe, "not a regular file"),
        (_below_a_file, "no such file"),
        (lambda folder: folder / "nul\0", "cannot be opened"),
        (lambda folder: folder / ("x" * 5000), "cannot be opened"),
        (lambda _: "-", "standard input"),
    ],
)
def test_what_cannot_be_opened_is_refused_in_one_sentence(build, words, tmp_path):
    with pytest.raises(UnreadableCheckpoint, match=words):
        sniff(str(build(tmp_path)))


def test_a_file_without_permission_is_refused_in_one_sentence(tmp_path, monkeypatch):
    path = SAVERS["torch-zip"](tmp_path / "m.pt", weights())

    def closed(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", closed)  # permissions do not hold back the superuser, who may run the tests
    with pytest.raises(UnreadableCheckpoint, match="permission is denied"):
        load(str(path))


def test_recognising_formats_does_not_import_torch():
    code = (
        "import sys, resnet_audit.checkpoint, resnet_audit.checkpoint.sniff, resnet_audit.checkpoint.expand\n"
        "sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root).returncode == 0
