"""The command line as a function: arguments in, exit code and both streams out."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cli_documents import look_at

from resnet_audit.cli import main

SAMPLES = Path(__file__).resolve().parent.parent.parent / "sample_checkpoints"
TRAINED = str(SAMPLES / "digits_resnet" / "epoch24.pt")
PLAIN = str(SAMPLES / "digits_plain.pt")
SCRIPT = str(Path(sys.executable).with_name("resnet-audit"))
COMMANDS = ("graph", "bound", "spectrum", "gradient", "ensemble", "report")
SMALL = ("--input-size", "1x8x8", "--samples", "4")
VARIABLES = ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "PYTHONIOENCODING", "TERM")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How one run of the command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.out, parse_constant=_no_constant)

    @property
    def lines(self) -> list[str]:
        """What stands on stderr, blank lines included."""
        return self.err.splitlines()


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def invoke(*arguments: str, encoding: str = "utf-8") -> Ran:
    """Run the command line in this process. An exception that escapes, or a JSON that is not valid, fails the test."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="") for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["resnet-audit", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
    code = stopped.value.code
    assert isinstance(code, int)
    ran = Ran(code=code, out=_text(out), err=_text(err))
    look_at(arguments, ran.out, ran.code)
    return ran


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode()


@cache
def sample(*arguments: str) -> Ran:
    """A run on samples that several tests look at."""
    return invoke(*arguments)


def small(command: str) -> Any:
    """The document of a command on the trained sample, at its own input size."""
    ran = sample(command, TRAINED, *SMALL, "-f", "json")
    assert ran.code == 0, ran.err
    return ran.json


def script(*arguments: str, **variables: str) -> Ran:
    """Run the installed script in a process of its own, off a terminal, with only these of the terminal's variables."""
    done = subprocess.run([SCRIPT, *arguments], capture_output=True, env=environment(**variables), check=False)
    ran = Ran(code=done.returncode, out=done.stdout.decode(), err=done.stderr.decode())
    look_at(arguments, ran.out, ran.code)
    return ran


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without what says how a terminal looks, and with `variables`."""
    return {name: value for name, value in os.environ.items() if name not in VARIABLES} | variables


def python(code: str) -> Ran:
    """Run a few lines in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, env=environment(), check=False)
    return Ran(code=done.returncode, out=done.stdout.decode(), err=done.stderr.decode())
