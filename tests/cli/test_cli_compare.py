"""`compare`: rows that say what the single commands say, exit codes, what is refused, and the figure."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from cli_runner import PLAIN, SAMPLES, SMALL, TRAINED, Ran, invoke, sample
from pydantic import TypeAdapter

from resnet_audit.results import Document

SERIES = SAMPLES / "digits_resnet"
EPOCHS = (0, 1, 2, 4, 8, 16, 24)
SOURCES = {
    "log10_spectral_complexity": ("bound", "covers", "operator", "log10_spectral_complexity"),
    "log10_spectral_complexity_patch": ("bound", "covers", "patch", "log10_spectral_complexity"),
    "log10_lipschitz": ("bound", "log10_lipschitz"),
    "log10_path_norm_l1": ("bound", "log10_path_norm_l1"),
    "sigma_max": ("spectrum", "sigma_max"),
    "ratio_median": ("gradient", "ratio_median"),
    "ratio_worst": ("gradient", "ratio_worst"),
    "c_hat": ("gradient", "c_hat"),
    "depth_mean": ("ensemble", "depth_mean"),
    "projection_mean": ("ensemble", "projection_mean"),
    "cancellation": ("ensemble", "cancellation"),
    "identity_residual": ("ensemble", "identity_residual"),
    "block_count": ("graph", "block_count"),
    "branch_gamma": ("graph", "branch_gamma"),
    "residual_time": ("scaling", "residual_time"),
}
"""Where a single command has the number of a row."""


def whole(form: str = "json") -> Ran:
    return sample("compare", str(SERIES), *SMALL, "-f", form)


def comparison() -> Any:
    return whole().json["comparison"]


def at(entry: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        entry = entry[key]
    return entry


# rows and trends --------------------------------------------------------------------------------------------


def test_a_folder_is_a_series_in_the_order_of_its_epochs() -> None:
    assert (whole().code, whole().err) == (0, "")
    found = comparison()
    assert found["trend_of"] == "epoch"
    assert [row["x"] for row in found["rows"]] == list(EPOCHS)
    assert [row["path"] for row in found["rows"]] == [str(SERIES / f"epoch{epoch:02}.pt") for epoch in EPOCHS]
    assert [row["path"] for row in found["rows"]] == [entry["path"] for entry in whole().json["checkpoints"]]


@pytest.mark.parametrize("command", ["bound", "spectrum", "gradient", "ensemble", "graph", "scaling"])
def test_a_row_says_what_the_single_command_says(command) -> None:
    (entry,) = sample(command, TRAINED, *SMALL, "-f", "json").json["checkpoints"]
    row = comparison()["rows"][-1]
    for name, path in SOURCES.items():
        if path[0] == command:
            assert row[name] == pytest.approx(at(entry, path), rel=1e-9, abs=0), name
    assert row["parameters"] == entry["parameters"]


def test_branch_gamma_is_the_mean_scale_of_the_second_normalisations(trained) -> None:
    scales = [trained[f"layer{stage}.{i}.bn2.weight"].double().abs().mean() for stage in (1, 2, 3) for i in range(3)]
    assert comparison()["rows"][-1]["branch_gamma"] == pytest.approx(float(sum(scales) / 9), rel=1e-12)


def test_branch_gamma_of_a_pre_activation_network_is_that_before_the_last_convolution() -> None:
    (entry,) = sample("graph", str(SAMPLES / "digits_preact.safetensors"), *SMALL, "-f", "json").json["checkpoints"]
    from safetensors.torch import load_file  # noqa: PLC0415 - only here

    tensors = load_file(SAMPLES / "digits_preact.safetensors")
    for block in entry["graph"]["blocks"]:
        scale = tensors[f"{block['name']}.bn2.weight"]
        assert block["branch_gamma"] == pytest.approx(float(scale.double().abs().mean()), rel=1e-12)


def test_a_filter_of_blocks_leaves_every_row_as_it_was() -> None:
    ran = invoke("compare", TRAINED, str(SERIES / "epoch00.pt"), *SMALL, "-f", "json", "--blocks", "layer1.0")
    first, last = ran.json["comparison"]["rows"]
    rows = comparison()["rows"]
    assert (first, last) == ({**rows[0], "x": 0.0}, {**rows[-1], "x": 24.0})
    assert len(ran.json["checkpoints"][0]["gradient"]["blocks"]) == 1


def test_the_order_of_the_arguments_changes_nothing() -> None:
    paths = [str(SERIES / f"epoch{epoch}.pt") for epoch in ("16", "02", "08")]
    one, other = (invoke("compare", *given, *SMALL).out for given in (paths, paths[::-1]))
    assert one == other
    assert one.index("epoch02") < one.index("epoch08") < one.index("epoch16")


def test_the_document_is_valid_by_the_schema_and_by_the_types() -> None:
    jsonschema.validate(whole().json, sample("schema").json, cls=jsonschema.Draft202012Validator)
    TypeAdapter(Document).validate_json(whole().out)
    assert list(whole().json)[-1] == "comparison"


def test_the_table_has_a_row_each_and_the_trends() -> None:
    ran = whole("table")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("epoch")] == [f"epoch{e:02}" for e in EPOCHS]
    assert any(line.startswith("depth, mean") and "falls" in line for line in lines)
    assert max(map(len, lines)) <= 80


def test_a_family_is_compared_along_its_depth(checkpoints) -> None:
    names = [str(checkpoints / f"resnet{depth}.th") for depth in (32, 20)]
    found = invoke("compare", *names, "--samples", "2", "-f", "json").json["comparison"]
    assert found["trend_of"] == "blocks"
    assert [(row["block_count"], row["x"]) for row in found["rows"]] == [(9, 9.0), (15, 15.0)]
    assert found["rows"][0]["log10_spectral_complexity"] < found["rows"][1]["log10_spectral_complexity"]


def test_four_trained_networks_are_inconclusive_from_weights_and_fast_as_measured(checkpoints) -> None:
    """Theory note `shortcut-scaling`, B4: 0.617 +- 0.228 from weights."""
    names = [str(checkpoints / f"resnet{depth}.th") for depth in (20, 32, 44, 56)]
    ran = invoke("compare", *names, "--samples", "2", "--blocks", "layer1.0", "-f", "json")
    found = ran.json["comparison"]
    fit, measured = found["family_fit"], found["family_fit_measured"]
    assert fit["gamma"] == pytest.approx(0.617, abs=5e-4)
    assert (fit["high"] - fit["low"]) / 2 == pytest.approx(0.228, abs=5e-4)
    assert (fit["n"], fit["method"], fit["verdict"]) == (4, "weights", "inconclusive")
    assert (measured["n"], measured["method"]) == (4, "measured")
    assert measured["low"] > 0.5
    assert measured["verdict"] == "fast"
    assert "no_family_fit" not in {note["code"] for note in found["notes"]}
    jsonschema.validate(ran.json, sample("schema").json, cls=jsonschema.Draft202012Validator)


def test_a_series_of_one_depth_has_no_fit_and_the_json_says_why() -> None:
    found = comparison()
    assert (found["family_fit"], found["family_fit_measured"]) == (None, None)
    reasons = [note["message"] for note in found["notes"] if note["code"] == "no_family_fit"]
    assert reasons == ["no family fit: a fit over depths needs networks of 3 depths or more, not 1"] * 2
    assert "no family fit" not in whole("table").out


# what is missing --------------------------------------------------------------------------------------------


def test_an_analysis_without_an_answer_is_a_null_and_no_failure() -> None:
    ran = invoke("compare", PLAIN, TRAINED, "--assume", *SMALL, "-f", "json")
    assert (ran.code, ran.err) == (0, "")
    chain, trained = ran.json["comparison"]["rows"]
    assert chain["ratio_median"] is None
    assert chain["branch_gamma"] is None
    assert chain["depth_mean"] == 0.0
    assert trained["ratio_median"] is not None
    codes = [note["code"] for note in ran.json["checkpoints"][0]["notes"] if note["where"] == "gradient"]
    assert codes == ["no_blocks"]


def test_nan_weights_leave_nulls_and_the_other_rows(nan) -> None:
    ran = invoke("compare", nan, TRAINED, *SMALL, "-f", "json")
    assert (ran.code, ran.err) == (0, "")
    rows = {Path(row["path"]).name: row for row in ran.json["comparison"]["rows"]}
    assert rows["nan.pt"]["depth_mean"] is None
    assert rows["epoch24.pt"]["depth_mean"] is not None


def test_a_broken_file_is_exit_2_and_the_others_are_compared(tmp_path) -> None:
    (tmp_path / "broken.pt").write_bytes(b"no checkpoint")
    paths = [str(tmp_path / "broken.pt"), TRAINED, str(SERIES / "epoch00.pt")]
    ran = invoke("compare", *paths, *SMALL, "-f", "json")
    assert ran.code == 2
    assert [line.partition(":")[0] for line in ran.lines] == [paths[0]]
    assert len(ran.json["checkpoints"]) == 3
    assert len(ran.json["comparison"]["rows"]) == 2
    shown = invoke("compare", *paths, *SMALL)
    assert shown.code == 2
    assert "2 checkpoints" in shown.out


def test_only_broken_files_are_still_one_document(tmp_path) -> None:
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).write_bytes(b"no checkpoint")
    ran = invoke("compare", str(tmp_path / "a.pt"), str(tmp_path / "b.pt"), "-f", "json")
    assert ran.code == 2
    assert len(ran.lines) == 2
    assert ran.json["comparison"]["rows"] == []


def test_names_of_epochs_are_numbers(tmp_path, trained) -> None:
    for epoch in (2, 10):
        torch.save(trained, tmp_path / f"epoch{epoch}.pt")
    rows = invoke("compare", str(tmp_path), *SMALL, "-f", "json").json["comparison"]["rows"]
    assert [Path(row["path"]).name for row in rows] == ["epoch2.pt", "epoch10.pt"]


# what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("models", [(TRAINED,), (TRAINED, TRAINED)])
def test_one_checkpoint_is_refused_by_a_sentence(models) -> None:
    ran = invoke("compare", *models)
    assert (ran.code, ran.out) == (2, "")
    assert len(ran.lines) == 1
    assert ran.lines[0].startswith("compare needs two checkpoints or more and MODEL leads to one (")


def test_one_checkpoint_is_still_a_document_as_json() -> None:
    ran = invoke("compare", TRAINED, "-f", "json")
    assert (ran.code, ran.json["checkpoints"]) == (2, [])


def test_a_path_named_twice_is_a_notice() -> None:
    ran = invoke("compare", TRAINED, str(SERIES / "epoch00.pt"), TRAINED, *SMALL, "-f", "json")
    assert (ran.code, ran.lines) == (0, [f"{TRAINED}: named more than once, compared once"])
    assert len(ran.json["comparison"]["rows"]) == 2


def test_the_help_names_the_figure_and_fits_80_columns() -> None:
    ran = invoke("compare", "--help")
    assert (ran.code, ran.err) == (0, "")
    assert "--figure" in ran.out.split()
    assert max(map(len, ran.out.splitlines())) <= 80
    assert "…" not in ran.out


# the figure -------------------------------------------------------------------------------------------------


def test_a_figure_without_matplotlib_is_one_line_that_says_what_to_install(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    target = tmp_path / "x.svg"
    ran = invoke("compare", str(SERIES), "--figure", str(target))
    assert (ran.code, ran.out) == (2, "")
    assert ran.lines == [f"--figure {target}: matplotlib is not installed; pip install 'resnet-audit[plot]' brings it"]
    assert not target.exists()


def test_a_figure_of_another_format_is_refused_before_anything_is_computed(tmp_path) -> None:
    ran = invoke("compare", str(SERIES), "--figure", str(tmp_path / "x.jpg"))
    assert (ran.code, ran.out) == (2, "")
    assert "the suffix is none of .svg, .pdf, .png" in ran.lines[0]


def test_a_figure_is_written_beside_the_table(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    target = tmp_path / "x.svg"
    ran = invoke("compare", TRAINED, str(SERIES / "epoch00.pt"), *SMALL, "--figure", str(target))
    assert (ran.code, ran.err) == (0, "")
    assert "2 checkpoints" in ran.out
    assert target.read_bytes().startswith(b"<?xml")
    assert list(tmp_path.iterdir()) == [target]


def test_a_figure_that_cannot_be_written_is_exit_2_behind_the_answer(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    target = tmp_path / "gone" / "x.svg"
    ran = invoke("compare", TRAINED, str(SERIES / "epoch00.pt"), *SMALL, "--figure", str(target))
    assert ran.code == 2
    assert "2 checkpoints" in ran.out
    assert ran.lines[0].startswith(f"{target}: ")
