"""Pages and pictures by the command line: every command has them, or says in one line that it has none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cli_runner import SMALL, TRAINED, environment, invoke, sample, script

SINGLE = ("graph", "bound", "spectrum", "gradient", "ensemble", "shortcut", "scaling")


@pytest.mark.parametrize("command", SINGLE)
@pytest.mark.parametrize(
    ("form", "start"), [("html", "<!DOCTYPE html>\n"), ("markdown", "# Audit of residual networks")]
)
def test_every_command_has_a_page(command, form, start) -> None:
    ran = sample(command, TRAINED, *SMALL, "-f", form)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(start)
    assert ran.out.endswith("\n")
    assert f"Audit of residual networks: {command}" in ran.out


def test_a_page_says_what_the_report_as_json_says() -> None:
    told = sample("report", TRAINED, *SMALL, "-f", "json").json
    page = sample("report", TRAINED, *SMALL, "-f", "html").out
    (entry,) = told["checkpoints"]
    assert entry["sha256"] in page
    for name in SINGLE:
        assert f"<h3>{name}</h3>" in page
    for block in entry["graph"]["blocks"]:
        assert f">{block['name']}<" in page
    assert f"<b>{entry['graph']['block_count']}</b>" in page


def test_a_page_has_no_escape_even_if_colour_is_forced() -> None:
    for form in ("markdown", "html"):
        ran = script("graph", TRAINED, "-f", form, FORCE_COLOR="1", TERM="xterm-256color")
        assert (ran.code, ran.err) == (0, "")
        assert "\x1b" not in ran.out


def test_a_page_is_utf_8_on_a_terminal_that_is_not() -> None:
    plain = sample("gradient", TRAINED, *SMALL, "-f", "markdown").out
    ran = invoke("gradient", TRAINED, *SMALL, "-f", "markdown", encoding="ascii")
    assert (ran.code, ran.out) == (0, plain)
    assert not plain.isascii()


def test_a_page_names_the_file_that_could_not_be_read_and_the_exit_code_is_2(tmp_path) -> None:
    broken = tmp_path / "broken.pt"
    broken.write_text("no checkpoint")
    for form in ("html", "markdown"):
        ran = invoke("graph", TRAINED, str(broken), "-f", form)
        assert ran.code == 2
        assert len(ran.lines) == 1
        assert "broken.pt" in ran.out
        assert "error:" in ran.out
        assert "layer1.0" in ran.out


def test_html_needs_no_matplotlib(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ran = invoke("gradient", TRAINED, *SMALL, "-f", "html")
    assert ran.code == 0
    assert "<svg" in ran.out


@pytest.mark.parametrize("command", ["graph", "gradient"])
def test_a_figure_is_written_beside_the_answer(command, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    target = tmp_path / "x.pdf"
    ran = invoke(command, TRAINED, *SMALL, "--figure", str(target))
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == sample(command, TRAINED, *SMALL).out
    assert target.read_bytes().startswith(b"%PDF")
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("command", [*SINGLE, "report"])
def test_a_figure_that_cannot_be_drawn_is_refused_before_anything_is_read(command, tmp_path) -> None:
    ran = invoke(command, str(tmp_path / "nowhere.pt"), "--figure", "x.gif")
    assert (ran.code, ran.out) == (2, "")
    assert len(ran.lines) == 1
    assert "the suffix is none of .svg, .pdf, .png" in ran.err


def test_without_matplotlib_a_figure_is_refused_before_anything_is_read(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ran = invoke("report", str(tmp_path / "nowhere.pt"), "--figure", "x.svg")
    assert (ran.code, ran.out) == (2, "")
    assert ran.lines == ["--figure x.svg: matplotlib is not installed; pip install 'resnet-audit[plot]' brings it"]


def test_procrustes_has_no_figure_and_says_so_before_it_writes_a_model(tmp_path) -> None:
    target = tmp_path / "better.pt"
    ran = invoke("procrustes", TRAINED, "-o", str(target), "--figure", str(tmp_path / "x.svg"))
    assert (ran.code, ran.out) == (2, "")
    assert len(ran.lines) == 1
    assert "procrustes has no figure; leave the flag out" in ran.err
    assert not list(tmp_path.iterdir())


def test_nothing_to_draw_is_one_line_behind_the_answer(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    plain = str(Path(TRAINED).parent.parent / "digits_plain.pt")
    ran = invoke("graph", plain, "--figure", str(tmp_path / "x.svg"))
    assert ran.code == 2
    assert "no residual block was found" in ran.out
    assert ran.lines[-1].endswith("leave --figure out")
    assert not list(tmp_path.iterdir())


def test_a_page_is_the_same_in_another_process() -> None:
    assert "PYTHONHASHSEED" not in environment()
    ran = script("graph", TRAINED, "-f", "html", PYTHONHASHSEED="3")
    assert ran.out == script("graph", TRAINED, "-f", "html", PYTHONHASHSEED="4").out
