"""`[tool.resnet-audit]`: the nearest file, known words, right types, and paths as seen from the current folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from resnet_audit.check import Configuration, read_configuration
from resnet_audit.check.configuration import CALLED_ONLY
from resnet_audit.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

KNOWN = {"samples", "seed", "data", "patterns", *CALLED_ONLY}
WHOLE = """
[tool.resnet-audit]
samples = 64
data = "inputs.npz"
models = ["runs/*.pt"]
baseline = "audit.json"
ignore = ["bound.margin", "gradient.blocks.ratio[layer3.*]"]
[tool.resnet-audit.max]
"spectrum.sigma_max" = 8.5
[tool.resnet-audit.min]
"ensemble.depth_mean" = 3
[tool.resnet-audit.max-increase]
"gradient.ratio_worst" = "5%"
[tool.resnet-audit.max-decrease]
"gradient.ratio_worst" = 0.5
"""


def write(folder: Path, text: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    return str(folder)


def test_every_word_is_read(tmp_path) -> None:
    found = read_configuration(write(tmp_path, WHOLE), KNOWN)
    assert found.flags == {"samples": 64, "data": "inputs.npz"}
    assert (found.path, found.models, found.baseline) == ("pyproject.toml", ("runs/*.pt",), "audit.json")
    assert [(one.metric, one.glob) for one in found.ignored] == [
        ("bound.margin", None),
        ("gradient.blocks.ratio", "layer3.*"),
    ]
    assert [(one.rule, one.metric, one.amount, one.percent) for one in found.thresholds] == [
        ("max", "spectrum.sigma_max", 8.5, False),
        ("min", "ensemble.depth_mean", 3.0, False),
        ("max-increase", "gradient.ratio_worst", 5.0, True),
        ("max-decrease", "gradient.ratio_worst", 0.5, False),
    ]


def test_the_nearest_file_upward_holds_and_its_paths_are_beside_it(tmp_path) -> None:
    write(tmp_path, WHOLE)
    (tmp_path / "a" / "b").mkdir(parents=True)
    found = read_configuration(str(tmp_path / "a" / "b"), KNOWN)
    assert found.path == "../../pyproject.toml"
    assert (found.models, found.baseline) == (("../../runs/*.pt",), "../../audit.json")
    assert found.flags["data"] == "../../inputs.npz"
    write(tmp_path / "a", "[project]\nname = 'another'\n")
    assert read_configuration(str(tmp_path / "a" / "b"), KNOWN) == Configuration()


def test_absolute_paths_stay(tmp_path) -> None:
    write(tmp_path, '[tool.resnet-audit]\nbaseline = "/srv/audit.json"\n')
    (tmp_path / "a").mkdir()
    assert read_configuration(str(tmp_path / "a"), KNOWN).baseline == "/srv/audit.json"


@pytest.mark.parametrize("text", ["", "[tool.other]\nx = 1\n", "[project]\n"])
def test_a_file_that_does_not_speak_of_us_says_nothing(text, tmp_path) -> None:
    assert read_configuration(write(tmp_path, text), KNOWN) == Configuration()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sample = 3", "did you mean samples"),
        ("maximum = 3", "maximum is no flag"),
        ("max_increase = {}", "did you mean max-increase"),
        ("max = 3", "max is no table"),
        ("max = [1]", "max is no table"),
        ('max."spectrum.sigma_mx" = 3', "did you mean spectrum.sigma_max"),
        ("max.spectrum.sigma_max = 3", "put the whole path in quotes"),
        ('max."spectrum.sigma_max" = "x"', "no finite number"),
        ('max."spectrum.sigma_max" = nan', "no finite number"),
        ('max."spectrum.sigma_max" = inf', "no finite number"),
        ('max."spectrum.sigma_max" = true', "no finite number"),
        ('max."spectrum.sigma_max" = "5%"', "a percentage is of a baseline"),
        ('max-increase."spectrum.sigma_max" = -1', "is not negative"),
        ('ignore = "bound.margin"', "ignore is no list"),
        ("ignore = [1]", "ignore is no list"),
        ('ignore = ["bound.margn"]', "did you mean bound.margin"),
        ('models = "x.pt"', "models is no list"),
        ("baseline = 3", "baseline is no text"),
        *((f"{word} = 1", f"{word} is given on the command line only") for word in CALLED_ONLY),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_file(text, said, tmp_path) -> None:
    folder = write(tmp_path, f"[tool.resnet-audit]\n{text}\n")
    with pytest.raises(UsageError) as stopped:
        read_configuration(folder, KNOWN)
    assert str(stopped.value).startswith("pyproject.toml, [tool.resnet-audit]: ")
    assert said in str(stopped.value)
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize("content", [b"tool = ", b"\xff", b"tool = 3\n"])
def test_a_file_that_cannot_be_read_is_named(content, tmp_path) -> None:
    (tmp_path / "pyproject.toml").write_bytes(content)
    with pytest.raises(UsageError, match=r"^pyproject.toml: "):
        read_configuration(str(tmp_path), KNOWN)


def test_our_table_must_be_a_table(tmp_path) -> None:
    with pytest.raises(UsageError, match="no table"):
        read_configuration(write(tmp_path, "[tool]\nresnet-audit = 3\n"), KNOWN)
