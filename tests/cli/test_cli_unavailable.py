"""What has no answer: no blocks, no way to run, NaN weights, hostile names, defects of our own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cli_runner import PLAIN, SMALL, TRAINED, invoke, sample

import resnet_audit.report as report_package
import resnet_audit.report.report as report_module

ANALYSES = ("bound", "spectrum", "gradient", "ensemble")
ASSUMED = (PLAIN, "--assume", *SMALL)


def entry(*arguments: str) -> dict[str, Any]:
    (found,) = sample(*arguments, "-f", "json").json["checkpoints"]
    return found


def codes(found: dict[str, Any], where: str) -> list[str]:
    return [note["code"] for note in found["notes"] if note["where"] == where]


# no blocks --------------------------------------------------------------------------------------------------


def test_a_chain_has_a_graph_without_blocks() -> None:
    assert sample("graph", *ASSUMED, "-f", "json").code == 0
    graph = entry("graph", *ASSUMED)["graph"]
    assert (graph["blocks"], graph["block_count"], graph["runnable"]) == ([], 0, True)


@pytest.mark.parametrize("command", ["bound", "spectrum"])
def test_what_is_defined_without_blocks_is_given_of_a_chain(command) -> None:
    assert sample(command, *ASSUMED, "-f", "json").code == 0
    assert entry(command, *ASSUMED)[command]["layers"]


def test_a_chain_has_all_its_gradient_at_depth_0() -> None:
    ensemble = entry("ensemble", *ASSUMED)["ensemble"]
    assert ensemble["distribution"]["norm"] == [1.0]
    assert ensemble["distribution"]["energy"] == [1.0]
    assert ensemble["depth_mean"] == 0.0


def test_gradient_of_a_chain_is_refused_with_a_note() -> None:
    ran = sample("gradient", *ASSUMED, "-f", "json")
    assert ran.code == 2
    assert len(ran.lines) == 1
    assert ran.lines[0].startswith(f"{PLAIN}: ")
    found = entry("gradient", *ASSUMED)
    assert found["gradient"] is None
    assert codes(found, "gradient") == ["no_blocks"]


def test_report_of_a_chain_lacks_the_gradient_and_is_no_failure() -> None:
    ran = sample("report", *ASSUMED, "-f", "json")
    assert (ran.code, ran.err) == (0, "")
    found = entry("report", *ASSUMED)
    assert [name for name in ANALYSES if found[name] is None] == ["gradient"]
    assert codes(found, "gradient") == ["no_blocks"]


# not runnable -----------------------------------------------------------------------------------------------


def test_a_chain_is_not_run_without_consent_and_the_reason_names_the_flag() -> None:
    assert sample("graph", PLAIN, "-f", "json").code == 0
    graph = entry("graph", PLAIN)["graph"]
    assert graph["runnable"] is False
    assert "--assume" in graph["runnable_reason"]
    ran = sample("gradient", PLAIN)
    assert ran.code == 2
    assert ran.lines == [f"{PLAIN}: {graph['runnable_reason']}"]


def test_the_header_of_what_does_not_run_does_not_deny_its_layers() -> None:
    assert "0 weight layers" not in sample("graph", PLAIN).out


def test_a_structure_that_is_not_known_has_a_graph_and_no_gradient(checkpoints) -> None:
    path = str(checkpoints / "picklescan_pytorch_model.bin")
    assert sample("graph", path).code == 0
    assert entry("graph", path)["graph"]["runnable"] is False
    assert entry("graph", path)["graph"]["runnable_reason"]
    assert sample("gradient", path).code == 2
    assert codes(entry("gradient", path), "gradient") == ["not_runnable"]


def test_report_fails_only_where_every_analysis_does(checkpoints) -> None:
    path = str(checkpoints / "picklescan_pytorch_model.bin")
    found = entry("report", path)
    missing = [name for name in ANALYSES if found[name] is None]
    assert {"gradient", "ensemble"} <= set(missing)
    for name in missing:
        assert codes(found, name), name
    assert sample("report", path, "-f", "json").code == (2 if len(missing) == len(ANALYSES) else 0)


# NaN --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["graph", "bound", "spectrum", "gradient", "ensemble", "report"])
def test_nan_weights_are_counted_and_never_a_failure(command, nan) -> None:
    ran = invoke(command, nan, *SMALL, "-f", "json")
    assert (ran.code, ran.err) == (0, "")
    (found,) = ran.json["checkpoints"]
    assert found["graph"]["nonfinite_count"] == 1
    assert "nonfinite" in [note["code"] for note in found["notes"]]
    for name in {"bound", "gradient", "ensemble"} & found.keys():
        assert found[name] is None
        assert codes(found, name) == ["nonfinite"]


def test_the_spectrum_of_nan_weights_is_null_where_they_are_and_given_elsewhere(nan) -> None:
    (found,) = invoke("spectrum", nan, *SMALL, "-f", "json").json["checkpoints"]
    layers = {row["name"]: row["sigma_max"] for row in found["spectrum"]["layers"]}
    assert [name for name, value in layers.items() if value is None] == ["layer2.1.conv1"]
    (whole,) = sample("spectrum", TRAINED, *SMALL, "-f", "json").json["checkpoints"]
    for row in whole["spectrum"]["layers"]:
        if row["name"] != "layer2.1.conv1":
            assert layers[row["name"]] == row["sigma_max"], row["name"]


# hostile names ----------------------------------------------------------------------------------------------

HOSTILE = "x\x1b[31m\x07\u202e\r\n[bold]y[/bold]<b>"


@pytest.mark.parametrize("command", ["graph", "spectrum", "gradient"])
@pytest.mark.parametrize("form", ["table", "json"])
def test_a_hostile_name_reaches_no_stream_raw(command, form, trained, tmp_path) -> None:
    renamed = {name.replace("layer", HOSTILE): value for name, value in trained.items()}
    torch.save(renamed, tmp_path / "hostile.pt")
    ran = invoke(command, str(tmp_path / "hostile.pt"), *SMALL, "-f", form)
    assert ran.code in {0, 2}
    assert not {"\x1b", "\x07", "\u202e", "\r"} & set(ran.out + ran.err)
    assert "\\u001b" not in ran.out
    assert "[bold]y[/bold]<b>" in ran.out
    assert len(ran.lines) == (1 if ran.code else 0)


# defects of our own -----------------------------------------------------------------------------------------


def broken(_subject: object) -> None:
    raise ZeroDivisionError("a defect\nin two lines")


@pytest.fixture
def _defect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "analysis", lambda _name: broken)


@pytest.mark.usefixtures("_defect")
def test_a_defect_is_one_line_and_a_document_and_exit_2() -> None:
    ran = invoke("spectrum", TRAINED, "-f", "json")
    assert ran.code == 2
    assert len(ran.lines) == 1
    assert ran.lines == [ran.json["checkpoints"][0]["error"]]
    assert ran.lines[0].startswith(f"{TRAINED}: internal error (ZeroDivisionError: a defect in two lines)")
    assert "Traceback" not in ran.err


@pytest.mark.usefixtures("_defect")
def test_a_defect_with_debug_shows_its_traceback() -> None:
    ran = invoke("spectrum", TRAINED, "--debug")
    assert ran.code == 2
    assert "Traceback (most recent call last)" in ran.err
    assert "in broken" in ran.err


@pytest.mark.usefixtures("_defect")
def test_a_defect_with_debug_still_gives_one_document() -> None:
    ran = invoke("spectrum", TRAINED, "-f", "json", "--debug")
    assert ran.code == 2
    assert "internal error" in ran.json["checkpoints"][0]["error"]


@pytest.mark.parametrize(
    "error", [RuntimeError("boom"), MemoryError(), RecursionError("deep"), GeneratorExit(), SystemExit(1)], ids=repr
)
def test_whatever_escapes_an_audit_is_never_exit_1(error, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(report_package, "audit_all", fail)
    ran = invoke("graph", TRAINED)
    assert (ran.code, ran.out) == (2, "")
    assert "Traceback" not in ran.err
    assert len([line for line in ran.lines if line]) <= 1


def test_an_interruption_is_130_and_one_line(monkeypatch) -> None:
    def interrupt(_subject: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(report_module, "analysis", lambda _name: interrupt)
    ran = invoke("spectrum", TRAINED)
    assert (ran.code, ran.out) == (130, "")
    assert ran.lines == ["interrupted"]
