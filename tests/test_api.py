"""The public surface: its names, its signatures, its fields and its examples are the ones that are promised."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import resnet_audit
from resnet_audit import results
from resnet_audit.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = str(ROOT / "sample_checkpoints" / "digits_resnet" / "epoch24.pt")
OF_A_GRAPH = "graph, settings=None"
SIGNATURES = {
    "load": "path, key=None",
    "discover": "checkpoint, settings=None",
    "ResidualGraph.forward": "self, x",
    "bound": OF_A_GRAPH,
    "spectrum": OF_A_GRAPH,
    "gradient": OF_A_GRAPH,
    "ensemble": OF_A_GRAPH,
    "shortcut": OF_A_GRAPH,
    "scaling": OF_A_GRAPH,
    "conv_singular_values": "weight, size, stride=(1, 1), groups=1, dilation=(1, 1)",
    "conv_norm_upper": "weight, *, size, stride, padding, dilation, groups",
    "procrustes": "weight, size, stride=(1, 1), groups=1, dilation=(1, 1), *, target='auto', iterations=30",
    "rntk": "alphas, cosines, *, train_embedding=False, train_readout=False",
}
SETTINGS = {
    "input_size": None,
    "key": None,
    "assume": False,
    "arch": None,
    "patterns": None,
    "blocks": (),
    "data": None,
    "inputs": "auto",
    "samples": 32,
    "seed": 0,
    "dtype": "float32",
    "device": "cpu",
    "threads": None,
    "objective": "logit",
    "recalibrate": False,
    "unit": "blocks",
    "fast": False,
    "veit": False,
    "max_depth": None,
    "hessian": False,
    "method": "auto",
    "n_train": None,
    "x_rms": None,
    "margin": 1.0,
    "epsilon": None,
    "delta": 0.01,
    "preset": "paper",
    "reference": None,
}
RESULTS = {
    "bound": "BoundResult",
    "spectrum": "SpectrumResult",
    "gradient": "GradientResult",
    "ensemble": "EnsembleResult",
    "shortcut": "ShortcutResult",
    "scaling": "ScalingResult",
}
EXAMPLES = ("Settings", "load", "discover", "ResidualGraph", *RESULTS, "rntk")
ON_WEIGHTS = ("conv_singular_values", "conv_norm_upper", "procrustes")


def public(path: str) -> Any:
    """The object that a dotted name of the package stands for."""
    found: Any = resnet_audit
    for step in path.split("."):
        found = getattr(found, step)
    return found


def written(function: Any) -> str:
    """A signature without its types."""
    signature = inspect.signature(function)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return str(inspect.Signature(bare))[1:-1]


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_signature_is_the_promised_one_and_typed(name) -> None:
    function = public(name)
    assert written(function) == SIGNATURES[name]
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    assert all(parameter.annotation is not inspect.Parameter.empty for parameter in parameters)
    assert inspect.signature(function).return_annotation is not inspect.Signature.empty


def test_every_public_function_has_a_signature_here() -> None:
    functions = {name for name in resnet_audit.__all__ if not inspect.isclass(public(name))}
    assert functions == {name for name in SIGNATURES if "." not in name}


def test_the_settings_have_these_fields_and_defaults_and_are_given_by_name() -> None:
    assert {field.name: field.default for field in fields(Settings)} == SETTINGS
    kinds = {parameter.kind for parameter in inspect.signature(Settings).parameters.values()}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("name", RESULTS)
def test_an_analysis_returns_frozen_data_of_its_own_type_without_tensors(name) -> None:
    graph = resnet_audit.discover(resnet_audit.load(SAMPLE), Settings(input_size=(1, 8, 8)))
    found = public(name)(graph, Settings(samples=2, threads=1))
    assert type(found) is getattr(results, RESULTS[name])
    assert RESULTS[name] in results.__all__
    with pytest.raises(FrozenInstanceError):
        setattr(found, fields(found)[0].name, None)
    assert not any(isinstance(value, torch.Tensor) for value in _values(found))


def _values(found: object) -> list[object]:
    """Everything inside a result."""
    if is_dataclass(found):
        return [value for field in fields(found) for value in _values(getattr(found, field.name))]
    if isinstance(found, dict):
        return [value for one in found.values() for value in _values(one)]
    return [value for one in found for value in _values(one)] if isinstance(found, tuple) else [found]


@pytest.mark.parametrize("name", [*EXAMPLES, *ON_WEIGHTS])
def test_the_examples_in_the_docstrings_hold(name, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    given = {one: public(one) for one in ("Settings", *ON_WEIGHTS, "rntk")}
    tests = doctest.DocTestFinder().find(public(name), name, module=False, globs=given)
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.REPORT_NDIFF)
    assert sum(runner.run(test).attempted for test in tests) > 0
    assert runner.summarize(verbose=False).failed == 0


def test_every_public_name_has_an_example_but_the_two_plain_ones() -> None:
    assert {*EXAMPLES, *ON_WEIGHTS} == set(resnet_audit.__all__) - {"AuditError", "Checkpoint"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"device": "cuda"}, "device cuda: this version computes on the CPU only"),
        ({"device": "mps:0"}, "device mps:0"),
        ({"samples": 0}, "--samples 0 is less than 1"),
        ({"seed": -1}, "--seed -1 is less than 0"),
        ({"threads": 0}, "--threads 0 is less than 1"),
        ({"n_train": 0}, "--n-train 0 is less than 1"),
        ({"dtype": "float16"}, "--dtype float16 is none of float32, float64"),
        ({"inputs": "white"}, "--inputs white is none of auto, gaussian, pink, matched"),
        ({"objective": "loss"}, "--objective loss is none of logit, ce, random"),
        ({"preset": "loose"}, "--preset loose is none of paper, strict"),
        ({"delta": 1.0}, "--delta 1.0 does not lie between 0 and 1"),
        ({"recalibrate": True}, "--recalibrate measures batch statistics on data"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", RESULTS)
def test_a_setting_that_cannot_be_followed_is_refused_from_python_too(name, settings, words) -> None:
    graph = resnet_audit.discover(resnet_audit.load(SAMPLE), Settings(input_size=(1, 8, 8)))
    with pytest.raises(resnet_audit.AuditError) as refused:
        public(name)(graph, Settings(**settings))
    assert str(refused.value).startswith(words)
    assert "\n" not in str(refused.value)


TYPED = """
from typing import assert_type

from torch import Tensor

from resnet_audit import Checkpoint, ResidualGraph, Settings, bound, conv_norm_upper, conv_singular_values
from resnet_audit import discover, ensemble, gradient, load, procrustes, rntk, scaling, shortcut, spectrum
from resnet_audit.results import (
    BoundResult, EnsembleResult, GradientResult, ScalingResult, ShortcutResult, SpectrumResult,
)

graph = discover(load("net.pt"), Settings(input_size=(1, 8, 8)))
assert_type(load("net.pt", key="ema"), Checkpoint)
assert_type(graph, ResidualGraph)
assert_type(bound(graph), BoundResult)
assert_type(spectrum(graph), SpectrumResult)
assert_type(gradient(graph, Settings()), GradientResult)
assert_type(ensemble(graph, None), EnsembleResult)
assert_type(shortcut(graph), ShortcutResult)
assert_type(scaling(graph), ScalingResult)


def of(kernel: Tensor) -> None:
    assert_type(graph.forward(kernel), Tensor)
    assert_type(conv_singular_values(kernel, (8, 8), (2, 2), 1, (1, 1)), Tensor)
    assert_type(
        conv_norm_upper(kernel, size=(8, 8), stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=1), float
    )
    assert_type(procrustes(kernel, (8, 8), target=1.0).weight, Tensor)
    assert_type(rntk([1.0], [0.0]).tangent, Tensor)
"""


def test_the_types_reach_whoever_uses_the_package(tmp_path) -> None:
    """mypy on a file of a user, strict; `py.typed` is what lets it look inside."""
    pytest.importorskip("mypy")
    (tmp_path / "user.py").write_text(TYPED, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml"), "user.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = TYPED.replace("assert_type(bound(graph), BoundResult)", "assert_type(bound(graph), int)")
    (tmp_path / "user.py").write_text(wrong, encoding="utf-8")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "assert-type" in done.stdout
