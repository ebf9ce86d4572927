"""What the commands print comes back as it was: every document of a real run, whole and in lines."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from cli_runner import PLAIN, SAMPLES, SMALL, TRAINED, Ran, invoke, sample

from resnet_audit.render.json import to_json, to_jsonl
from resnet_audit.report.read import read_document

PREACT = str(SAMPLES / "digits_preact.safetensors")
SERIES = tuple(str(SAMPLES / "digits_resnet" / f"epoch{epoch}.pt") for epoch in ("00", "08", "24"))
LABELLED = ("--n-train", "500", "--data", str(SAMPLES / "digits.npz"))
RUNS = {
    "graph": ("graph", TRAINED, PLAIN, PREACT),
    "bound": ("bound", TRAINED, *SMALL),
    "bound-data": ("bound", TRAINED, PREACT, *SMALL, *LABELLED),
    "spectrum": ("spectrum", TRAINED, *SMALL, "--blocks", "layer2.*"),
    "gradient": ("gradient", TRAINED, *SMALL),
    "ensemble": ("ensemble", TRAINED, *SMALL, "--veit"),
    "ensemble-fast": ("ensemble", TRAINED, *SMALL, "--fast"),
    "shortcut": ("shortcut", TRAINED, *SMALL, "--hessian", "--blocks", "layer3.2"),
    "scaling": ("scaling", TRAINED, *SMALL),
    "report": ("report", TRAINED, PLAIN, *SMALL),
    "compare": ("compare", *SERIES, *SMALL),
    "check": ("check", TRAINED, "gone.pt", *SMALL, "--max", "gradient.blocks.ratio=1.3", "--max", "parameters=9"),
    "one broken": ("report", TRAINED, "gone.pt", *SMALL),
    "all broken": ("gradient", "gone.pt", PLAIN),
    "no model": ("compare", TRAINED),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_document_comes_back_byte_for_byte(name) -> None:
    assert_same(sample(*RUNS[name], "-f", "json"))


@pytest.mark.parametrize("name", ["report", "compare", "check", "all broken", "no model"])
def test_the_lines_of_a_run_come_back_as_its_document(name) -> None:
    lines = sample(*RUNS[name], "-f", "jsonl").out
    back = read_document(lines)
    assert to_jsonl(back) == lines
    assert to_json(back) == sample(*RUNS[name], "-f", "json").out


def test_a_written_model_s_document_comes_back(tmp_path) -> None:
    assert_same(invoke("procrustes", TRAINED, "-o", str(tmp_path / "out.pt"), *SMALL, "-f", "json"))


def test_nulls_for_weights_that_are_not_finite_come_back(nan) -> None:
    assert_same(invoke("report", nan, *SMALL, "-f", "json"))


def test_a_path_that_is_no_text_comes_back(tmp_path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/net\xff.pt")
    shutil.copy(TRAINED, path)
    assert_same(invoke("graph", path, "-f", "json"))


def assert_same(ran: Ran) -> None:
    back = read_document(ran.out)
    assert to_json(back) == ran.out
    assert json.loads(to_json(back)) == ran.json
