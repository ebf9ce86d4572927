"""`--workers`, `--dask`, `--resume` and jsonl as whole processes: kills, interrupts, what is left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cli_runner import SAMPLES, SCRIPT, SMALL, TRAINED, environment, invoke, script

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FLAGS = (*SMALL, "--threads", "1")
PATIENCE = 120.0


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> list[str]:
    """A dozen checkpoints that differ, and two files that are none."""
    folder = tmp_path_factory.mktemp("series")
    for number, path in enumerate(sorted((SAMPLES / "digits_resnet").iterdir())):
        shutil.copy(path, folder / f"epoch{number}.pt")
    shutil.copy(SAMPLES / "digits_preact.safetensors", folder)
    (folder / "text.pt").write_text("no checkpoint\n")
    return [*(str(path) for path in sorted(folder.iterdir())), str(folder / "gone.pt")]


@pytest.fixture(scope="module")
def serial(series) -> dict[str, str]:
    """What one process says, by format."""
    return {form: invoke("report", *series, *FLAGS, "-f", form).out for form in ("json", "jsonl")}


@contextmanager
def started(*arguments: str, **where: object) -> Iterator[subprocess.Popen[str]]:
    """The script in a session of its own; nothing of the session is left afterwards."""
    process = subprocess.Popen(
        [SCRIPT, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
        # A shell starts what runs behind `&` with interrupts ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no thread of ours runs here
        **where,
    )
    try:
        with process:
            yield process
    finally:
        for pid in of_session(process.pid):
            os.kill(pid, signal.SIGKILL)


def of_session(session: int) -> list[int]:
    """The processes of a session that are no zombies, from /proc."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split() if entry.name.isdecimal() else []
        except OSError:  # it went away in between
            continue
        if fields and int(fields[3]) == session and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def workers_of(session: int) -> list[int]:
    """The processes that audit: those whose parent is neither the test nor the command, but the one they fork from."""
    parents = {}
    for pid in of_session(session):
        try:
            parents[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    return [pid for pid, parent in parents.items() if parent in parents and parent != session]


def wait_until(holds: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.02)


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_two_processes_print_the_bytes_of_one(series, serial, form) -> None:
    ran = script("report", *series, *FLAGS, "-f", form, "--workers", "2")
    assert (ran.code, ran.out) == (2, serial[form])
    assert [line.partition(": ")[0] for line in ran.lines] == series[-2:]


def test_the_parent_of_workers_computes_nothing_and_does_not_import_torch(series) -> None:
    code = f"""
import sys
from resnet_audit.cli import main
if __name__ == "__main__":
    sys.argv = ["resnet-audit", "graph", "x"]
    sys.argv = ["resnet-audit", "report", {series[0]!r}, *{FLAGS!r}, "--workers", "2", "-f", "jsonl"]
    try:
        main()
    finally:
        print("torch" in sys.modules, file=sys.stderr)
"""
    from cli_runner import python  # noqa: PLC0415 - only here

    ran = python(code)
    assert (ran.code, ran.err) == (0, "False\n")


def test_a_worker_that_is_killed_in_the_middle_changes_nothing(series, serial, tmp_path) -> None:
    kept = tmp_path / "kept"
    with started("report", *series, *FLAGS, "-f", "json", "--workers", "2", "--resume", str(kept)) as process:
        wait_until(lambda: lines_in(kept) >= 2)
        os.kill(workers_of(process.pid)[0], signal.SIGKILL)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (2, serial["json"])
    assert [line.partition(": ")[0] for line in err.splitlines()] == series[-2:]


def test_an_interrupt_is_130_and_one_line_and_leaves_whole_lines_and_no_process(series, serial) -> None:
    with started("report", *series, *FLAGS, "-f", "jsonl", "--workers", "2") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to everybody
        # Not `communicate`: it would leave out what the reader of the first line has read ahead.
        out, err = process.stdout.read(), process.stderr.read()
        process.wait(timeout=PATIENCE)
        wait_until(lambda: not of_session(process.pid))
    assert (process.returncode, err) == (130, "interrupted\n")
    assert serial["jsonl"].startswith(first + out)
    assert first.endswith("\n")


def test_an_interrupted_file_of_lines_holds_whole_ones(series, serial, tmp_path) -> None:
    target = tmp_path / "out.jsonl"
    with started("report", *series, *FLAGS, "-o", str(target), "--workers", "2") as process:
        wait_until(lambda: lines_in(target) >= 1)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    text = target.read_text()
    assert serial["jsonl"].startswith(text)
    assert text.endswith("\n")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_run_that_was_killed_goes_on_where_it_was(series, serial, tmp_path, workers) -> None:
    kept = tmp_path / "kept"
    arguments = ("report", *series, *FLAGS, "-f", "json", "--workers", workers, "--resume", str(kept))
    with started(*arguments) as process:
        wait_until(lambda: lines_in(kept) >= 3)
        process.kill()
        process.communicate(timeout=PATIENCE)
        wait_until(lambda: not of_session(process.pid))
    before = kept.read_bytes()
    before = before[: before.rfind(b"\n") + 1]
    ran = script(*arguments)
    assert (ran.code, ran.out) == (2, serial["json"])
    after = kept.read_bytes()
    # What was there is there still, and what was not was computed once.
    assert after.startswith(before)
    paths = [json.loads(line)["checkpoints"][0]["path"] for line in after.splitlines()]
    assert sorted(paths) == sorted(series[:-2]), "each good file once"


def test_lines_come_while_others_are_still_computed(series) -> None:
    with started("report", *series, *FLAGS, "-f", "jsonl") as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert process.poll() is None
        process.kill()
    assert [entry["path"] for entry in first["checkpoints"]] == series[:1]


def test_a_reader_that_leaves_ends_the_run(series) -> None:
    with started("report", *series, *FLAGS, "-f", "jsonl", "--workers", "2") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
        code = process.wait(timeout=PATIENCE)
    assert (code, err) == (0, "")


def test_lines_of_a_comparison_end_with_what_is_beside_the_checkpoints(series, tmp_path) -> None:
    out = invoke("compare", *series[:3], *FLAGS, "-f", "jsonl").out
    *each, last = [json.loads(line) for line in out.splitlines()]
    assert [entry["path"] for line in each for entry in line["checkpoints"]] == series[:3]
    assert (last["checkpoints"], len(last["comparison"]["rows"])) == ([], 3)
    target = tmp_path / "out.jsonl"
    target.write_text("what was there before\n")
    assert invoke("compare", *series[:3], *FLAGS, "-o", str(target)).code == 0
    assert target.read_text() == out


def test_nothing_in_the_current_folder_is_imported(series, tmp_path) -> None:
    for module in ("torch", "numpy", "multiprocessing", "concurrent", "resnet_audit", "threading", "random"):
        (tmp_path / f"{module}.py").write_text("open('imported', 'w').close()\n")
    with started("graph", "x.pt", cwd=tmp_path) as process:
        process.communicate(timeout=PATIENCE)
    with started("report", series[0], *FLAGS, "--workers", "2", cwd=tmp_path) as process:
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert not (tmp_path / "imported").exists()


def test_an_option_of_the_baseline_command_has_them_too(series, tmp_path) -> None:
    one, two = (
        invoke("check", *series[:3], *FLAGS, "--max", "spectrum.sigma_max=1", "-f", "json", *more)
        for more in ((), ("--workers", "2", "--resume", str(tmp_path / "kept")))
    )
    assert (one.code, one.out, one.err) == (two.code, two.out, two.err)
    assert one.code == 1
    assert lines_in(tmp_path / "kept") == 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--workers", "2", "--dask", "a:1"), "--workers 2 and --dask a:1 contradict each other; give one of them"),
        (("--workers", "1", "--dask", "a:1"), "--workers 1 and --dask a:1 contradict each other; give one of them"),
        (("--workers", "0"), "--workers"),
        (("--workers", "-3"), "--workers"),
        (("--workers", "many"), "--workers"),
        (("--resume", "x", "-o", "./x", "-f", "json"), "--output ./x would replace the file of --resume"),
        (("--resume", "/gone/x"), "--resume /gone/x: no such file or directory; nothing was written to it"),
        (("--resume", TRAINED), f"--resume {TRAINED}: line 1 is no result of --resume; nothing was written to it"),
        (("--resume", "x", "--arch", "a:b"), "--resume and --arch contradict each other"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
@pytest.mark.parametrize("command", ["report", "compare", "check"])
def test_what_cannot_be_had_is_one_sentence(command, arguments, sentence, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    limits = ("--max", "spectrum.sigma_max=1") if command == "check" else ()
    before = Path(TRAINED).read_bytes()
    ran = invoke(command, TRAINED, str(SAMPLES / "digits_resnet" / "epoch00.pt"), *limits, *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert len(ran.lines) == 1
    assert sentence in ran.lines[0]
    assert Path(TRAINED).read_bytes() == before


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_what_cannot_be_had_is_still_one_document(form) -> None:
    ran = invoke("report", TRAINED, "--resume", TRAINED, "-f", form)
    assert (ran.code, ran.json["checkpoints"]) == (2, [])


@pytest.mark.parametrize("command", ["report", "compare", "check"])
def test_the_help_names_them(command) -> None:
    ran = invoke(command, "--help")
    assert {"--workers", "--dask", "--resume"} <= set(ran.out.split())
    assert max(map(len, ran.out.splitlines())) <= 80


@pytest.mark.parametrize("command", ["graph", "bound", "spectrum", "gradient", "ensemble", "shortcut", "scaling"])
def test_single_analyses_do_not_have_them(command) -> None:
    assert "--workers" not in invoke(command, "--help").out
