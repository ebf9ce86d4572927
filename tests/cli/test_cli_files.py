"""MODEL: what a name stands for, and what is said of one that cannot be used."""

from __future__ import annotations

import shutil
from pathlib import Path

import jsonschema
import pytest
import torch
from cli_runner import SAMPLES, TRAINED, Ran, invoke, sample


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """Three checkpoints of a run, and a file that is none."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("epoch10.pt", "epoch2.pt", "epoch1.pt"):
        shutil.copy(TRAINED, folder / name)
    (folder / "log.txt").write_text("loss 0.1\n")
    return folder


@pytest.fixture
def bad(tmp_path: Path) -> dict[str, str]:
    """Files that cannot be used, by what is wrong with them."""
    whole = Path(TRAINED).read_bytes()
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_text("this is no checkpoint\n")
    torch.save({"step": torch.tensor(3)}, tmp_path / "counter.pt")
    torch.save({"lora_A.weight": torch.ones(2, 2), "lora_B.weight": torch.ones(2, 2)}, tmp_path / "adapter.pt")
    names = {"missing": "gone.pt", "empty": "empty.pt", "cut": "cut.pt", "text": "text.pt", "no layer": "counter.pt"}
    return {kind: str(tmp_path / name) for kind, name in (names | {"adapter": "adapter.pt"}).items()}


BAD = ("missing", "empty", "cut", "text", "no layer", "adapter")


def paths(ran: Ran) -> list[str]:
    return [Path(entry["path"]).name for entry in ran.json["checkpoints"]]


def parts(line: str, path: str) -> list[str]:
    """What stands between the semicolons behind `PATH: `."""
    assert line.startswith(f"{path}: ")
    return line.removeprefix(f"{path}: ").split("; ")


@pytest.mark.parametrize("command", ["graph", "report"])
@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_cannot_be_used_is_one_line_on_stderr(kind, command, bad) -> None:
    ran = invoke(command, bad[kind])
    assert (ran.code, ran.out) == (2, "")
    assert len(ran.lines) == 1
    assert "internal error" not in ran.err
    assert len(parts(ran.lines[0], bad[kind])) >= 2


@pytest.mark.parametrize("kind", [kind for kind in BAD if kind != "no layer"])
def test_a_file_that_cannot_be_read_says_what_it_is_why_and_what_to_do(kind, bad) -> None:
    assert len(parts(invoke("graph", bad[kind]).lines[0], bad[kind])) == 3


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_cannot_be_used_still_gives_one_valid_document(kind, bad) -> None:
    ran = invoke("spectrum", bad[kind], "-f", "json")
    assert ran.code == 2
    jsonschema.validate(ran.json, sample("schema").json, cls=jsonschema.Draft202012Validator)
    (entry,) = ran.json["checkpoints"]
    assert ran.lines == [entry["error"]]
    assert entry["path"] == bad[kind]
    assert not {"graph", "spectrum"} & {key for key, value in entry.items() if value is not None}


@pytest.mark.parametrize("kind", ["missing", "no layer"])
def test_debug_changes_neither_the_document_nor_the_line(kind, bad) -> None:
    usual = invoke("graph", bad[kind], TRAINED, "-f", "json")
    debugging = invoke("graph", bad[kind], TRAINED, "-f", "json", "--debug")
    assert debugging.code == 2
    assert debugging.out == usual.out
    assert usual.lines[0] in debugging.lines


@pytest.mark.parametrize("command", ["graph", "gradient", "report"])
def test_a_bad_file_does_not_keep_the_others_from_being_audited(command, bad) -> None:
    small = ("--input-size", "1x8x8", "--samples", "2")
    ran = invoke(command, TRAINED, bad["cut"], bad["missing"], TRAINED, "-f", "json", *small)
    assert ran.code == 2
    assert len(ran.lines) == 2
    first, cut, missing, last = ran.json["checkpoints"]
    assert (first["error"], last["error"]) == (None, None)
    assert ran.lines == [cut["error"], missing["error"]]
    assert first == last
    assert first["graph"]["block_count"] == 9


def test_a_table_of_good_and_bad_files_shows_the_good_ones(bad) -> None:
    ran = invoke("graph", bad["empty"], TRAINED)
    assert ran.code == 2
    assert ran.out == invoke("graph", TRAINED).out
    assert len(ran.lines) == 1


def test_a_file_name_with_line_breaks_is_still_one_line(tmp_path) -> None:
    ran = invoke("graph", str(tmp_path / "gone\nnet\r.pt"))
    assert ran.code == 2
    assert len(ran.lines) == 1


def test_a_file_name_cannot_steer_the_terminal(tmp_path) -> None:
    name = "\x1b[31mred\x07\u202e.pt"
    shutil.copy(TRAINED, tmp_path / name)
    for ran in (invoke("graph", str(tmp_path)), invoke("graph", str(tmp_path / f"no{name}"))):
        assert not {"\x1b", "\x07", "\u202e"} & set(ran.out + ran.err)


# folders, patterns, nothing ---------------------------------------------------------------------------------


def test_a_folder_is_its_checkpoints_in_natural_order_and_the_rest_is_one_notice(training) -> None:
    ran = invoke("graph", str(training), "-f", "json")
    assert ran.code == 0
    assert paths(ran) == ["epoch1.pt", "epoch2.pt", "epoch10.pt"]
    assert len(ran.lines) == 1
    assert "1 other file" in ran.err


def test_quiet_silences_the_notice_and_no_error(training) -> None:
    assert invoke("graph", str(training), "-q").err == ""
    assert len(invoke("graph", str(training), str(training / "gone.pt"), "-q").lines) == 1


def test_a_pattern_is_expanded_in_natural_order(training) -> None:
    ran = invoke("graph", str(training / "epoch*.pt"), "-f", "json")
    assert (ran.code, ran.err) == (0, "")
    assert paths(ran) == ["epoch1.pt", "epoch2.pt", "epoch10.pt"]


def test_several_models_keep_the_order_in_which_they_were_named(training) -> None:
    ran = invoke("graph", str(training / "epoch10.pt"), str(training / "epoch1.pt"), "-f", "json")
    assert paths(ran) == ["epoch10.pt", "epoch1.pt"]


def test_the_shipped_training_run_needs_no_notice() -> None:
    ran = invoke("graph", str(SAMPLES / "digits_resnet"), "-f", "json")
    assert (ran.code, ran.err) == (0, "")
    assert paths(ran) == [f"epoch{n}.pt" for n in ("00", "01", "02", "04", "08", "16", "24")]


@pytest.mark.parametrize("what", ["pattern", "folder", "standard input"])
def test_where_nothing_is_left_to_audit_one_line_and_an_empty_document_say_so(what, tmp_path) -> None:
    (tmp_path / "log.txt").write_text("loss\n")
    argument = {"pattern": str(tmp_path / "*.ckpt"), "folder": str(tmp_path), "standard input": "-"}[what]
    ran = invoke("graph", argument, "-f", "json")
    assert ran.code == 2
    assert len(ran.lines) == 1
    assert all(entry["error"] is not None for entry in ran.json["checkpoints"])
    jsonschema.validate(ran.json, sample("schema").json, cls=jsonschema.Draft202012Validator)


def test_a_pattern_without_a_match_takes_nothing_from_the_other_models(tmp_path) -> None:
    ran = invoke("graph", TRAINED, str(tmp_path / "*.ckpt"), "-f", "json")
    assert ran.code == 2
    assert len(ran.lines) == 1
    assert [entry["path"] for entry in ran.json["checkpoints"] if entry["error"] is None] == [TRAINED]


def test_without_a_model_the_only_checkpoint_here_is_audited(training, monkeypatch) -> None:
    monkeypatch.chdir(training)
    (training / "epoch1.pt").unlink()
    (training / "epoch2.pt").unlink()
    ran = invoke("graph", "-f", "json")
    assert (ran.code, ran.err) == (0, "")
    assert [entry["path"] for entry in ran.json["checkpoints"]] == ["epoch10.pt"]


def test_without_a_model_several_checkpoints_are_listed_and_none_is_taken(training, monkeypatch) -> None:
    monkeypatch.chdir(training)
    ran = invoke("graph")
    assert (ran.code, ran.out) == (2, "")
    assert len(ran.lines) == 1
    assert "epoch1.pt, epoch2.pt, epoch10.pt" in ran.err


def test_without_a_model_and_without_a_checkpoint_here_it_is_a_usage_error(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = invoke("graph")
    assert (ran.code, ran.out) == (2, "")
    assert len(ran.lines) == 1


def test_a_key_chooses_between_rival_state_dicts(trained, tmp_path) -> None:
    averaged = {name: value / 2 for name, value in trained.items()}
    torch.save({"model": trained, "ema": averaged}, tmp_path / "rivals.pt")
    path = str(tmp_path / "rivals.pt")
    undecided = invoke("graph", path)
    assert undecided.code == 2
    assert "--key" in undecided.lines[0]
    chosen = invoke("graph", path, "--key", "ema", "-f", "json")
    assert chosen.code == 0
    assert chosen.json["checkpoints"][0]["graph"]["block_count"] == 9


def test_an_input_size_that_does_not_fit_names_the_flag() -> None:
    ran = invoke("gradient", TRAINED, "--input-size", "3x8x8")
    assert ran.code == 2
    assert len(ran.lines) == 1
    assert "--input-size" in ran.err


def test_a_pickled_module_is_read_and_audited_without_its_class(tmp_path) -> None:
    torch.save(torch.nn.Sequential(torch.nn.Linear(4, 3)), tmp_path / "model.pt")
    ran = invoke("graph", str(tmp_path / "model.pt"), "-f", "json")
    assert ran.code == 0
    assert ran.json["checkpoints"][0]["graph"]["unplaced"] == ["0"]
