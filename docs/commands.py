"""Write the generated parts of docs/commands/*.md: a real example, what kind of number each metric is, all flags.

`python docs/commands.py` writes them; with `--check` it fails where a page does not tell what happens. Text between
`<!-- NAME: begin -->` and `<!-- NAME: end -->` is generated, all else is written by hand.
"""

from __future__ import annotations

import inspect
import io
import os
import re
import shlex
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args
from unittest.mock import patch

import typer.main

from resnet_audit.cli import app, main
from resnet_audit.explain import chapters
from resnet_audit.explain.texts import Status
from resnet_audit.options import common

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resnet_audit.explain import Chapter

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "commands"
SHARED = PAGES / "shared.md"
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # it is a group
TERMINAL = ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "PYTHONIOENCODING", "TERM")

BAR = "\\|"
"""A bar inside a table of Markdown."""

NET = "sample_checkpoints/digits_resnet/epoch24.pt"
DATA = "--data sample_checkpoints/digits.npz"


@dataclass(frozen=True, slots=True)
class Shown:
    """The example of a page: its command line, how many lines of the answer to print, and the exit code."""

    line: str
    lines: int = 100
    code: int = 0


SHOWN = {
    "graph": Shown("graph sample_checkpoints/digits_preact.safetensors --blocks '*.0'"),
    "bound": Shown(f"bound {NET} {DATA} --n-train 1297 --blocks 'layer3.*'"),
    "spectrum": Shown(f"spectrum {NET} --blocks 'layer3.*'"),
    "gradient": Shown(f"gradient {NET} {DATA}"),
    "ensemble": Shown(f"ensemble {NET} {DATA} --blocks 'layer3.*'"),
    "shortcut": Shown(f"shortcut {NET} {DATA} --blocks 'layer3.*'"),
    "scaling": Shown(f"scaling {NET} {DATA} --blocks 'layer3.*'"),
    "report": Shown(f"report {NET} {DATA} --blocks layer3.2", lines=30),
    "compare": Shown(f"compare sample_checkpoints/digits_resnet {DATA}"),
    "check": Shown(f"check {NET} {DATA} --max spectrum.sigma_max=4.5 --min ensemble.depth_mean=2", code=1),
    "procrustes": Shown(f"procrustes {NET} {DATA} -o isometric.pt"),
    "explain": Shown("explain ensemble.depth_mean"),
    "schema": Shown("schema", lines=12),
}
CHAPTERS = {"compare": ("comparison",), "check": ("findings", "summary")}
"""The chapters of `explain` that a page has, where they are not called as the command."""


# running a command ---------------------------------------------------------------------------------------------------


def run(line: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command line in the current folder, as off a terminal of 80 columns."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2))
    plain = {name: value for name, value in os.environ.items() if name not in TERMINAL}
    argv = ["resnet-audit", *shlex.split(line)]
    code: object = None
    with patch.dict(os.environ, plain, clear=True), patch.object(sys, "argv", argv):
        try:
            with redirect_stdout(out), redirect_stderr(err):
                main()
        except SystemExit as stop:
            code = stop.code
    return int(str(code)), *(_text(stream) for stream in (out, err))  # type: ignore[return-value]  # two texts


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode()  # type: ignore[attr-defined]  # a BytesIO


def example(command: str) -> str:
    """The command line and its answer, as two blocks of Markdown; run in a folder that sees the samples."""
    shown = SHOWN[command]
    code, out, err = run(shown.line)
    if code != shown.code:
        sys.exit(f"{shown.line}: exit code {code}: {err}")
    lines = [line.rstrip() for line in out.rstrip("\n").split("\n")]
    if len(lines) > shown.lines:
        lines = [*lines[: shown.lines], "[and so on]"]
    code_line = f"\nExit code {code}.\n" if code else ""
    return f"```sh\nresnet-audit {shown.line}\n```\n\n```text\n" + "\n".join(lines) + f"\n```\n{code_line}"


# what the numbers are ------------------------------------------------------------------------------------------------


def chapters_of(command: str) -> list[Chapter]:
    """The chapters of `explain` that belong on the page of a command."""
    names = CHAPTERS.get(command, (command,))
    return [one for one in chapters() if one.name in names]


def numbers(command: str) -> str:
    """A row for every kind of number, with the paths below the chapter; all of them lead to `explain`."""
    return "\n\n".join(map(_kinds, chapters_of(command))) + "\n"


def _kinds(chapter: Chapter) -> str:
    rows = []
    for status in get_args(Status):
        paths = [path for entry in chapter.entries if entry.status == status for path in (entry.path, *entry.also)]
        below = [path.removeprefix(f"{chapter.name}.") for path in paths]
        if below:
            rows.append(f"| {status} | {', '.join(f'`{path}`' for path in below)} |")
    sets = [f"{capitals} is any of {', '.join(f'`{one}`' for one in members)}." for capitals, members in chapter.sets]
    text = f"`resnet-audit explain {chapter.name}.METRIC` has the formula, the unit, the source and how to read each."
    return "\n".join(["| kind | metrics |", "|---|---|", *rows, "", text, *sets])


# flags ---------------------------------------------------------------------------------------------------------------


def is_shared(parameter: Any) -> bool:  # noqa: ANN401 - a parameter of typer's own click
    """Whether a flag is one that all commands have; procrustes has an --output of its own."""
    known = inspect.signature(common).parameters
    return parameter.name in known and bool(getattr(parameter, "rich_help_panel", None))


def row(parameter: Any) -> str:  # noqa: ANN401 - as above
    """A row of the table for one flag or argument."""
    names = ", ".join(f"`{name}`" for name in parameter.opts) if parameter.param_type_name == "option" else "argument"
    value = "" if getattr(parameter, "is_flag", False) else parameter.metavar or _kind(parameter)
    default = "" if parameter.default is None or parameter.default is False else f"`{parameter.default}`"
    cells = (names, f"`{value}`" if value else "", "required" if parameter.required else default, parameter.help)
    return f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |"


def _kind(parameter: Any) -> str:  # noqa: ANN401 - as above
    annotation = parameter.type_descriptor.annotation
    return "|".join(get_args(annotation)) or {int: "INT", float: "NUM"}.get(annotation, "TEXT")


def flags(command: str) -> str:
    """The table of a command's own flags, and the names of the shared ones."""
    own = [parameter for parameter in COMMANDS[command].params if not is_shared(parameter) and parameter.name != "help"]
    shared = [p.opts[-1] for p in COMMANDS[command].params if is_shared(p)]
    lines = ["| flag | value | default | meaning |", "|---|---|---|---|", *map(row, own)]
    if shared:
        lines += ["", f"As [every command](shared.md): {', '.join(f'`{name}`' for name in shared)}."]
    return "\n".join(lines) + "\n"


def shared_flags() -> str:
    """A table of the shared flags for each of their panels."""
    lines: list[str] = []
    panel = None
    for parameter in filter(is_shared, COMMANDS["graph"].params):
        if parameter.rich_help_panel != panel:
            panel = parameter.rich_help_panel
            lines += ["", f"**{panel}**", "", "| flag | value | default | meaning |", "|---|---|---|---|"]
        lines.append(row(parameter))
    return "\n".join(lines).strip() + "\n"


# the pages -----------------------------------------------------------------------------------------------------------


def parts(command: str) -> Iterator[tuple[str, str]]:
    """(name, text) of the generated parts of a command's page."""
    yield "example", example(command)
    if chapters_of(command):
        yield "numbers", numbers(command)
    yield "flags", flags(command)


def between(page: str, name: str) -> tuple[str, str, str]:
    """A page before, between and after the markers of one part; exits where they are missing."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        sys.exit(f"a page has no part {name}, or two")
    before, _, rest = page.partition(begin)
    inside, _, after = rest.partition(end)
    return before + begin, inside, end + after


NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]\d+)?")


def same(one: str, other: str) -> bool:
    """Whether two texts agree, numbers to a unit of their last digit: processors round differently.

    What is below 1e-5 and written with an exponent is rounding itself.
    """
    if NUMBER.sub("0", one) != NUMBER.sub("0", other):
        return False
    return all(_near(a, b) for a, b in zip(NUMBER.findall(one), NUMBER.findall(other), strict=True))


def _near(one: str, other: str) -> bool:
    a, b = float(one), float(other)
    if "e-" in one and max(a, b) < 1e-5:
        return True
    digits, _, exponent = one.partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))
    return abs(a - b) <= (1.01 * unit if "." in one or exponent else 0.0)


def stale(*, write: bool) -> Iterator[str]:
    """The parts of the pages that do not tell what happens, written anew if asked to."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "sample_checkpoints").symlink_to(ROOT / "sample_checkpoints")
        before = Path.cwd()
        os.chdir(folder)
        try:
            made = {PAGES / f"{command}.md": dict(parts(command)) for command in sorted(COMMANDS)}
        finally:
            os.chdir(before)
    for path, texts in {**made, SHARED: {"flags": shared_flags()}}.items():
        page = path.read_text(encoding="utf-8")
        for name, text in texts.items():
            start, inside, end = between(page, name)
            if not same(inside, text):
                yield f"{path.relative_to(ROOT)}: {name}"
                page = start + text + end
        if write:
            path.write_text(page, encoding="utf-8")


def script() -> None:
    """Write the pages, or with --check compare them."""
    check = sys.argv[1:] == ["--check"]
    found = list(stale(write=not check))
    if check and found:
        sys.exit(f"not what happens: {', '.join(found)}; python docs/commands.py writes them anew")


if __name__ == "__main__":
    script()
