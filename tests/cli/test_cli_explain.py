"""`explain` on the command line: the list, a text, a typing error."""

from __future__ import annotations

import pytest
from cli_runner import invoke, python, script
from test_cli_process import with_closed_stdout


def test_without_a_metric_all_are_listed_by_analysis_within_80_columns() -> None:
    ran = invoke("explain")
    assert (ran.code, ran.err) == (0, "")
    heads = [
        head for head, colon, _ in (line.partition(": ") for line in ran.out.splitlines()) if colon and head.isalpha()
    ]
    assert heads == [
        "graph",
        "bound",
        "spectrum",
        "gradient",
        "ensemble",
        "shortcut",
        "scaling",
        "procrustes",
        "comparison",
        "findings",
        "summary",
    ]
    assert max(map(len, ran.out.splitlines())) <= 80


def test_an_analysis_lists_its_own() -> None:
    ran = invoke("explain", "bound")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("bound: ")
    assert "\n  tail " in ran.out
    assert "depth_mean" not in ran.out


@pytest.mark.parametrize("path", ["bound.tail", "checkpoints[0].bound.tail", ".checkpoints[].bound.tail"])
def test_a_path_of_the_document_gives_the_text(path) -> None:
    ran = invoke("explain", path)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("bound.tail  exact\n")
    assert "3 sqrt(ln(1/delta) / (2 N))" in ran.out


def test_a_typing_error_is_one_line_and_exit_2() -> None:
    ran = invoke("explain", "bound.tial")
    assert (ran.code, ran.out) == (2, "")
    assert ran.lines == [
        "bound.tial: no metric has this name; did you mean bound.tail? `resnet-audit explain` lists all"
    ]


def test_a_hostile_name_cannot_move_the_cursor() -> None:
    ran = invoke("explain", "\x1b[2J\nbound")
    assert (ran.code, ran.out, len(ran.lines)) == (2, "", 1)
    assert "\x1b" not in ran.err


def test_explain_does_not_import_torch() -> None:
    ran = python("""
import sys
from resnet_audit.cli import main
for words in (["explain"], ["explain", "bound.tail"], ["explain", "bogus"], ["explain", "--help"]):
    sys.argv = ["resnet-audit", *words]
    try:
        main()
    except SystemExit:
        pass
print("torch" in sys.modules, file=sys.stderr)
""")
    assert ran.lines[-1] == "False"


@pytest.mark.parametrize("arguments", [("explain",), ("explain", "bound.tail"), ("explain", "--help")], ids=" ".join)
def test_a_reader_that_leaves_is_no_error(arguments) -> None:
    assert with_closed_stdout(*arguments) == (0, "")


def test_a_plain_terminal_gets_plain_text_and_its_width_is_kept() -> None:
    usual = script("explain", "bound.bound")
    assert "\x1b" not in usual.out
    for variables in ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, {"TERM": "dumb", "FORCE_COLOR": "1"}):
        assert script("explain", "bound.bound", **variables).out == usual.out
    assert script("explain", "bound.bound", PYTHONIOENCODING="ascii").out == usual.out
    wide = script("explain", "bound.bound", COLUMNS="120")
    assert 80 < max(map(len, wide.out.splitlines())) <= 100
