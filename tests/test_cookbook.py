"""Every recipe of docs/ci.md is run, or at least parsed; so are the action, its example and the pre-commit hook."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main

from resnet_audit.cli import app

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "sample_checkpoints"
PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
RUN = re.findall(r"<!-- run: exit (\d) -->\n```sh\n(.*?)```", PAGE, flags=re.DOTALL)
YAMLS = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # it is a group
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
WORKFLOW = yaml.safe_load((ROOT / "examples" / "workflow.yml").read_text(encoding="utf-8"))
HOOKS = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))


def place(folder: Path) -> dict[str, str]:
    """Fill a folder with what the page says is there; the environment to run in."""
    (folder / "checkpoints").mkdir()
    for epoch in ("00", "16"):
        shutil.copy(SAMPLES / "digits_resnet" / f"epoch{epoch}.pt", folder / "checkpoints")
    shutil.copy(SAMPLES / "digits_resnet" / "epoch24.pt", folder / "best.pt")
    shutil.copy(SAMPLES / "digits.npz", folder / "validation.npz")
    return {"PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin", "HOME": str(folder), "LC_ALL": "C.UTF-8"}


def shell(script: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a script as GitHub does: it stops at the first command that fails."""
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def parse(line: str) -> str:
    """The command of a line of ours, after its parser has taken every word; raises what the parser raises."""
    words = [word for word in shlex.split(line) if word not in {"$MODELS", "$AUDIT", "$CHECK"}]
    assert words[0] == "resnet-audit"
    COMMANDS[words[1]].make_context(words[1], words[2:] or [], resilient_parsing=False).close()
    return words[1]


def ours(script: str) -> list[str]:
    """The command lines of resnet-audit in a script, without what the shell does around them."""
    joined = script.replace("\\\n", " ")
    found = re.findall(r"^[ \t-]*(?:run: *)?(resnet-audit [^\n|>]*)", joined, flags=re.MULTILINE)
    return [line.strip() for line in found]


@pytest.mark.parametrize(("code", "script"), RUN, ids=[script.split("\n")[0][:60] for _, script in RUN])
def test_a_recipe_ends_as_the_page_says(code, script, tmp_path) -> None:
    if "jq " in script and shutil.which("jq") is None:
        pytest.skip("jq is not here")
    done = shell(script, tmp_path, place(tmp_path))
    assert str(done.returncode) == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_the_page_has_recipes_of_every_exit_code() -> None:
    assert {code for code, _ in RUN} == {"0", "1", "2"}
    assert len(RUN) >= 8


@pytest.mark.parametrize("text", YAMLS, ids=lambda text: text.split("\n")[0])
def test_a_block_of_yaml_is_yaml_and_its_command_lines_parse(text) -> None:
    assert isinstance(yaml.safe_load(text), dict)
    for line in ours(text):
        parse(line)


def test_the_page_is_about_formats_that_are_there() -> None:
    for form in ("github", "junit", "sarif", "markdown", "html", "jsonl"):
        assert f"-f {form}" in PAGE
    assert len([line for text in YAMLS for line in ours(text)]) >= 8


# the action ---------------------------------------------------------------------------------------------------------


def test_the_action_is_composite_and_every_step_has_a_shell() -> None:
    assert ACTION["runs"]["using"] == "composite"
    assert {"name", "description", "inputs", "runs"} <= ACTION.keys()
    assert all(step["shell"] == "bash" and step["run"] for step in ACTION["runs"]["steps"])
    assert all(one["description"] for one in ACTION["inputs"].values())


def test_no_input_is_pasted_into_a_script() -> None:
    """An input in `run:` would be a shell injection; in `env:` it is data."""
    assert not any("${{" in step["run"] for step in ACTION["runs"]["steps"])
    used = set(re.findall(r"inputs\.(\w+)", (ROOT / "action.yml").read_text(encoding="utf-8")))
    assert used == set(ACTION["inputs"])


def test_the_command_lines_of_the_action_parse() -> None:
    lines = [line for step in ACTION["runs"]["steps"] for line in ours(step["run"])]
    assert [parse(line) for line in lines] == ["report", "report", "report", "check", "check"]


def test_the_example_gives_the_action_only_inputs_that_it_has() -> None:
    (step,) = [one for one in WORKFLOW["jobs"]["audit"]["steps"] if "resnet-audit" in one.get("uses", "")]
    required = {name for name, one in ACTION["inputs"].items() if one.get("required")}
    assert required <= step["with"].keys() <= ACTION["inputs"].keys()
    assert parse(f"resnet-audit check x.json {step['with']['check']}") == "check"
    assert parse(f"resnet-audit report x.pt {step['with']['audit']}") == "report"


def test_the_steps_of_the_action_run_one_after_the_other(tmp_path) -> None:
    """A runner in a few lines: inputs into the environment, steps in order, outputs into a file."""
    environment = place(tmp_path) | {"RUNNER_TEMP": str(tmp_path), "GITHUB_OUTPUT": str(tmp_path / "outputs")}
    environment |= {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    given = {name: one.get("default", "") for name, one in ACTION["inputs"].items()}
    given |= {"models": "best.pt checkpoints/epoch16.pt", "audit": "--data validation.npz --samples 4"}
    given |= {"check": "--max spectrum.sigma_max=4", "html": "audit.html", "sarif": "audit.sarif"}

    def run(step: dict[str, Any]) -> int:
        variables = {
            key: re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda m: given[m[1]], value)
            for key, value in step.get("env", {}).items()
        }
        return shell(step["run"], tmp_path, environment | variables).returncode

    steps = ACTION["runs"]["steps"][1:]
    assert [run(step) for step in steps] == [0, 0, 0, 0, 1]
    given["check"] = "--max spectrum.sigma_max=12"
    assert run(steps[-1]) == 0
    outputs = (tmp_path / "outputs").read_text(encoding="utf-8").splitlines()
    assert [line for line in outputs if line.startswith("verdict")] == ["verdict=1", "verdict=0"]
    assert "best.pt" in (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert (tmp_path / "audit.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert '"version": "2.1.0"' in (tmp_path / "audit.sarif").read_text(encoding="utf-8")


# pre-commit ---------------------------------------------------------------------------------------------------------


def test_the_hook_runs_check_on_files_of_weights_in_one_process() -> None:
    (hook,) = HOOKS
    assert hook["language"] == "python"
    assert hook["require_serial"] is True
    assert parse(f"{hook['entry']} best.pt") == "check"
    for name in ("a.pt", "b/c.safetensors", "d.ckpt", "e.th", "f.pth"):
        assert re.search(hook["files"], name), name
    for name in ("a.py", "pt", "model.pt.md", "notes.txt"):
        assert not re.search(hook["files"], name), name


def test_the_hook_of_the_page_is_the_one_that_is_shipped() -> None:
    (used,) = [yaml.safe_load(text)["repos"][0]["hooks"][0] for text in YAMLS if "repos:" in text]
    assert used["id"] == HOOKS[0]["id"]
    assert parse(" ".join([HOOKS[0]["entry"], *used["args"], "best.pt"])) == "check"


# citation -----------------------------------------------------------------------------------------------------------


def test_the_citation_has_the_required_keys_and_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert all(one.keys() & {"name", "family-names"} for one in citation["authors"])


def test_the_five_papers_are_cited_by_the_ids_of_the_theory_files() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    cited = {one["identifiers"][0]["value"].removeprefix("arXiv:"): one for one in citation["references"]}
    assert len(cited) == 5
    for number, paper in cited.items():
        assert {"type", "title", "authors", "year"} <= paper.keys()
        assert paper["url"].endswith(number)
    theory = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "resnet_audit").rglob("*.py"))
    assert all(number in theory for number in cited)
