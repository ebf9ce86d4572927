"""--output: a whole file or none, in the format that its suffix names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli_runner import SMALL, TRAINED, invoke, sample


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_json_file_holds_the_bytes_of_stdout(tmp_path) -> None:
    target = tmp_path / "report.json"
    ran = invoke("report", TRAINED, *SMALL, "-o", str(target))
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    assert target.read_text(encoding="utf-8") == sample("report", TRAINED, *SMALL, "-f", "json").out


def test_a_txt_file_holds_the_table(tmp_path) -> None:
    target = tmp_path / "report.txt"
    assert invoke("spectrum", TRAINED, *SMALL, "--output", str(target)).code == 0
    assert target.read_text(encoding="utf-8") == sample("spectrum", TRAINED, *SMALL, "-f", "table").out


def test_a_given_format_beats_the_suffix(tmp_path) -> None:
    target = tmp_path / "report.data"
    assert invoke("graph", TRAINED, *SMALL, "-f", "json", "-o", str(target)).code == 0
    assert target.read_text(encoding="utf-8").startswith('{\n  "schema_version"')


def test_a_dash_is_standard_output(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke("graph", TRAINED, "-f", "json", "-o", "-").out == sample("graph", TRAINED, "-f", "json").out
    assert names(tmp_path) == []


def test_a_bare_name_is_a_file_of_the_current_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke("graph", TRAINED, "-o", "graph.json").code == 0
    assert names(tmp_path) == ["graph.json"]


def test_an_existing_file_is_replaced(tmp_path) -> None:
    target = tmp_path / "graph.txt"
    target.write_text("old " * 10_000)
    assert invoke("graph", TRAINED, "-o", str(target)).code == 0
    assert "old" not in target.read_text(encoding="utf-8")
    assert names(tmp_path) == ["graph.txt"]


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path) -> None:
    (tmp_path / "usual").write_text("")
    assert invoke("graph", TRAINED, "-o", str(tmp_path / "graph.json")).code == 0
    assert (tmp_path / "graph.json").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_link_stays_a_link_and_its_target_is_written(tmp_path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    assert invoke("graph", TRAINED, "-o", str(tmp_path / "link.json")).code == 0
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text(encoding="utf-8").startswith("{")


def test_a_failure_is_written_as_a_document_too(tmp_path) -> None:
    target = tmp_path / "graph.json"
    ran = invoke("graph", str(tmp_path / "gone.pt"), "-o", str(target))
    assert ran.code == 2
    assert len(ran.lines) == 1
    assert "gone.pt: no such file" in target.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["report", "report.csv", "report.JSON", "v1.json/report", ".json.gz"])
def test_an_unknown_suffix_is_refused_and_nothing_is_written(name, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = invoke("graph", TRAINED, "-o", name)
    assert (ran.code, ran.out) == (2, "")
    assert len(ran.lines) == 1
    assert "--output" in ran.err
    assert "--format" in ran.err
    assert names(tmp_path) == []


@pytest.mark.parametrize(("name", "form"), [("report.md", "markdown"), ("report.html", "html")])
def test_a_page_in_a_file_is_the_page_on_stdout(name, form, tmp_path) -> None:
    target = tmp_path / name
    ran = invoke("report", TRAINED, *SMALL, "-o", str(target))
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    assert target.read_text(encoding="utf-8") == sample("report", TRAINED, *SMALL, "-f", form).out


@pytest.mark.parametrize("name", ["nowhere/graph.json", "folder.json", "file.txt/graph.json"])
def test_a_place_that_cannot_be_written_is_one_line_and_leaves_nothing_behind(name, tmp_path) -> None:
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "file.txt").write_text("kept")
    before = sorted(tmp_path.rglob("*"))
    ran = invoke("graph", TRAINED, "-o", str(tmp_path / name))
    assert (ran.code, ran.out) == (2, "")
    assert len(ran.lines) == 1
    assert ran.err.startswith(str(tmp_path / name))
    assert "internal error" not in ran.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_one_line(tmp_path) -> None:
    tmp_path.chmod(0o500)
    ran = invoke("graph", TRAINED, "-o", str(tmp_path / "graph.json"))
    tmp_path.chmod(0o700)
    assert ran.code == 2
    assert len(ran.lines) == 1


def test_a_failure_while_writing_leaves_the_old_file_and_no_other(tmp_path, monkeypatch) -> None:
    def fail(_document: object) -> str:
        raise ZeroDivisionError

    target = tmp_path / "graph.json"
    target.write_text("old")
    monkeypatch.setattr("resnet_audit.render.json.to_json", fail)
    assert invoke("graph", TRAINED, "-o", str(target)).code == 2
    assert target.read_text() == "old"
    assert names(tmp_path) == ["graph.json"]


def test_a_table_in_a_file_has_no_escape_and_needs_no_terminal(tmp_path) -> None:
    target = Path(tmp_path / "graph.txt")
    invoke("graph", TRAINED, "-o", str(target))
    assert "\x1b" not in target.read_text(encoding="utf-8")
