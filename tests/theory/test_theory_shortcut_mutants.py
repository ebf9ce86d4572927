"""Faults put into the source, one at a time, and the check of the suite that fails by each.

A mutant is a module executed anew from its source with a few strings replaced, each of which occurs once. What imports
it is executed anew as well, and so is the test file with the check: the same check passes there if nothing is replaced.
The ten seeded mutants of the theory note `shortcut-scaling`, section D, are all here, some more than once.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import torch

import resnet_audit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PACKAGE = Path(resnet_audit.__file__).parent
TESTS = Path(__file__).resolve().parent.parent

SEEDED = (
    "kappa0 dropped from the product",
    "K factor dropped",
    "kappa0 used for kappa1",
    "alpha unsquared",
    "trace factor",
    "kappa1 typo",
    "no reorthogonalisation",
    "no normalisation",
    "missing skip",
    "missing 1/2",
)
"""The ten of the note, in its words."""

RNTK, SPECTRUM, ZERO = "measure/rntk.py", "measure/hessian_spectrum.py", "measure/zero_hessian.py"
GRAPH, BRANCH, EXECUTE = "measure/hessian_graph.py", "measure/branch.py", "graph/execute.py"
TEST_RNTK, TEST_HESSIAN = "measure/test_measure_rntk.py", "measure/test_measure_hessian.py"
TEST_SHORTCUT, TEST_GRAPH = "theory/test_theory_shortcut.py", "measure/test_measure_hessian_graph.py"
USERS = {GRAPH: ("measure/hessian.py",), EXECUTE: (GRAPH, "measure/hessian.py", ZERO)}
"""What else is executed anew, in this order, for a mutant of a file."""

FAILURES = (AssertionError, FloatingPointError, KeyError)
"""How a check fails: by what it says, or because nothing sensible comes back."""

TANGENTS = "test_kernel_is_that_of_neural_tangents"
DENSE = "test_b_of_convolutions_is_the_dense_hessian"


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """What is wrong, how, and what notices. seeded: which of the ten it is, if any; given: arguments of the check."""

    what: str
    file: str
    swaps: Mapping[str, str]
    test: str
    check: str
    given: Mapping[str, Any] | Callable[[ModuleType], Mapping[str, Any]] = field(default_factory=dict)
    seeded: str | None = None


THREE = {"blocks": 3, "alpha": 0.7, "readout": False}
PRODUCT, SUM = "(1.0 - share + share * k0) * tangent", "part * ((1.0 - u) * (1.0 + k0) + rise)"

KERNEL = [
    Mutant(
        what="kappa0 left out of the product",
        seeded="kappa0 dropped from the product",
        file=RNTK,
        swaps={PRODUCT: "(1.0 - share + share) * tangent"},
        test=TEST_RNTK,
        check=TANGENTS,
        given=THREE,
    ),
    Mutant(
        what="K left out of K kappa0",
        seeded="K factor dropped",
        file=RNTK,
        swaps={SUM: "part * (1.0 - u + rise + k0)"},
        test=TEST_RNTK,
        check=TANGENTS,
        given=THREE,
    ),
    Mutant(
        what="K kappa0 left out of the sum",
        seeded="K factor dropped",
        file=RNTK,
        swaps={SUM: "part * (1.0 - u + rise)"},
        test=TEST_RNTK,
        check="test_small_scales_give_the_one_layer_kernel",
        given={"blocks": 2},
    ),
    Mutant(
        what="kappa0 for kappa1",
        seeded="kappa0 used for kappa1",
        file=RNTK,
        swaps={SUM: "part * (k0 + (1.0 - u) * k0)"},
        test=TEST_RNTK,
        check=TANGENTS,
        given=THREE,
    ),
    Mutant(
        what="alpha not squared in the kernel",
        seeded="alpha unsquared",
        file=RNTK,
        swaps={"shares = np.square(sines)": "shares = sines", "np.square(sines / largest)": "sines / largest"},
        test=TEST_RNTK,
        check=TANGENTS,
        given=THREE,
    ),
    Mutant(
        what="alpha not squared in the residual time",
        seeded="alpha unsquared",
        file=RNTK,
        swaps={"math.fsum(np.square(scales / np.hypot(1.0, scales)))": "math.fsum(scales / np.hypot(1.0, scales))"},
        test=TEST_RNTK,
        check="test_residual_time_is_its_formula_and_adds_up",
    ),
    Mutant(
        what="the diagonal without its factor 2",
        seeded="trace factor",
        file=RNTK,
        swaps={"diagonal = 2.0 * math.fsum(parts)": "diagonal = math.fsum(parts)"},
        test=TEST_RNTK,
        check="test_kernel_is_one_between_equal_inputs_and_its_diagonal_twice_the_residual_time",
        given={"alphas": [0.5, 1.5]},
    ),
    Mutant(
        what="kappa1 with a wrong sign",
        seeded="kappa1 typo",
        file=RNTK,
        swaps={"np.sin(angle) - angle * np.cos(angle)": "np.sin(angle) + angle * np.cos(angle)"},
        test=TEST_RNTK,
        check=TANGENTS,
        given=THREE,
    ),
    Mutant(
        what="kappa1 without its sine",
        seeded="kappa1 typo",
        file=RNTK,
        swaps={"np.sin(angle) - angle * np.cos(angle)": "-angle * np.cos(angle)"},
        test=TEST_RNTK,
        check="test_spread_is_taken_at_41_equal_angles_from_that_of_0_95",
    ),
    Mutant(
        what="no shortcut in the recursion of the correlation",
        seeded="missing skip",
        file=RNTK,
        swaps={"u = u - share * rise": "u = u - rise"},
        test=TEST_RNTK,
        check=TANGENTS,
        given=THREE,
    ),
    Mutant(
        what="no shortcut in the recursion of the kernel",
        seeded="missing skip",
        file=RNTK,
        swaps={PRODUCT: "share * k0 * tangent"},
        test=TEST_RNTK,
        check=TANGENTS,
        given=THREE,
    ),
    Mutant(
        what="half the power behind a ReLU not made up for",
        seeded="missing 1/2",
        file=RNTK,
        swaps={"    sines = scales / np.hypot(1.0, scales)": "    sines = scales / np.hypot(math.sqrt(2.0), scales)"},
        test=TEST_RNTK,
        check=TANGENTS,
        given=THREE,
    ),
    Mutant(
        what="rho instead of 1 - rho",
        file=RNTK,
        swaps={"u = u - share * rise": "u = 1.0 - ((1.0 - u) + share * rise)"},
        test=TEST_RNTK,
        check="test_recursion_keeps_its_digits_where_inputs_are_all_but_equal",
        given={"start": "1e-9", "blocks": 40},
    ),
]

LANCZOS = [
    Mutant(
        what="vectors not orthogonalised anew",
        seeded="no reorthogonalisation",
        file=SPECTRUM,
        swaps={"            _project_out(image, basis[: step + 1])\n": "            pass\n"},
        test=TEST_HESSIAN,
        check="test_orthogonality_survives_converged_pairs",
        given={"seed": 0},
    ),
    Mutant(
        what="a start of any length",
        seeded="no normalisation",
        file=SPECTRUM,
        swaps={"unit: Tensor = start / start.norm()": "unit: Tensor = start"},
        test=TEST_HESSIAN,
        check="test_lanczos_with_as_many_steps_as_rows_is_the_whole_spectrum",
        given={"size": 20, "seed": 0},
    ),
    Mutant(
        what="Lanczos vectors of any length",
        seeded="no normalisation",
        file=SPECTRUM,
        swaps={"vector = image / beta": "vector = image"},
        test=TEST_HESSIAN,
        check="test_lanczos_with_as_many_steps_as_rows_is_the_whole_spectrum",
        given={"size": 5, "seed": 0},
    ),
    Mutant(
        what="half of the samples' mean in the trace",
        seeded="trace factor",
        file=SPECTRUM,
        swaps={"return within + mean, ": "return within + mean / 2, "},
        test=TEST_HESSIAN,
        check="test_the_trace_is_unbiased_for_any_basis",
    ),
    Mutant(
        what="the last components for the first in the quadrature",
        file=SPECTRUM,
        swaps={"vectors[0] ** 2": "vectors[-1] ** 2"},
        test=TEST_HESSIAN,
        check="test_the_quadrature_is_exact_for_polynomials_of_low_degree",
        given={"size": 9, "seed": 0},
    ),
]

HESSIANS = [
    Mutant(
        what="a sum that reads its first operand alone",
        seeded="missing skip",
        file=EXECUTE,
        swaps={"return sum(others, first)": "return first"},
        test=TEST_SHORTCUT,
        check="test_with_one_layer_the_condition_grows_with_the_number_of_blocks",
    ),
    Mutant(
        what="the shortcut dropped with the branch",
        seeded="missing skip",
        file=ZERO,
        swaps={"left += (taps[node.name],)": "left = (taps[node.name],)"},
        test=TEST_SHORTCUT,
        check=DENSE,
        given={"name": "3x3", "activation": None, "count": 2},
    ),
    Mutant(
        what="the mean over places instead of their sum",
        seeded="missing 1/2",
        file=ZERO,
        swaps={"total.addmm_(one, other.T)": "total.addmm_(one, other.T, alpha=1 / one.shape[1])"},
        test=TEST_SHORTCUT,
        check=DENSE,
        given={"name": "3x3", "activation": None, "count": 1},
    ),
    Mutant(
        what="the loss not divided by the number of inputs",
        seeded="no normalisation",
        file=ZERO,
        swaps={"targets.flatten())": 'targets.flatten(), reduction="sum")'},
        test=TEST_SHORTCUT,
        check="test_the_spectrum_at_zero_is_plus_minus_b_once_a_hidden_channel_and_block",
        given={"count": 1, "hidden": 2, "seed": 0},
    ),
    Mutant(
        what="cotangents not spread by the stride of the second layer",
        file=ZERO,
        swaps={"stuffed[:, :, :: op.stride[0], :: op.stride[1]]": "stuffed[:, :, : delta.shape[2], : delta.shape[3]]"},
        test=TEST_SHORTCUT,
        check=DENSE,
        given={"name": "stride in the second", "activation": None, "count": 1},
    ),
    Mutant(
        what="the stride of the first layer left out",
        file=ZERO,
        swaps={"first.padding, first.stride)": "first.padding, 1)", "first.stride[axis]": "1"},
        test=TEST_SHORTCUT,
        check=DENSE,
        given={"name": "stride in the first", "activation": None, "count": 1},
    ),
    Mutant(
        what="a normalisation overlooked before the sum",
        file=BRANCH,
        swaps={"case Norm(weight=weight) if weight is not None:": "case Norm(weight=weight) if weight is False:"},
        test=TEST_SHORTCUT,
        check="test_the_zero_point_is_what_comes_first_before_the_sum",
        given=lambda tests: {"ops": (tests.kernel(), tests.norm(0.5, -0.1)), "kind": "gamma", "size": 0.3},
    ),
    Mutant(
        what="no shift along the bias in the second derivative",
        file=GRAPH,
        swaps={"both.product(weight, along_x, along_bias)": "both.product(weight, along_x)"},
        test=TEST_GRAPH,
        check="test_value_and_second_derivative_are_those_of_torch",
        given=lambda tests: {"case": plain(tests), "seed": 0, "layout": torch.contiguous_format},
    ),
    Mutant(
        what="the normalisation's scale missing from the kernel",
        file=GRAPH,
        swaps={"weight = weight * scale.view(-1, 1, 1, 1)": "weight = weight * 1.0"},
        test=TEST_GRAPH,
        check="test_value_and_second_derivative_are_those_of_torch",
        given=lambda tests: {"case": plain(tests), "seed": 0, "layout": torch.contiguous_format},
    ),
    Mutant(
        what="a convolution folded although others read it",
        file=GRAPH,
        swaps={" and len(readers[source.name]) == 1": ""},
        test=TEST_GRAPH,
        check="test_a_convolution_that_others_read_too_keeps_its_own_node",
    ),
]
MUTANTS = {mutant.what: mutant for mutant in (*KERNEL, *LANCZOS, *HESSIANS)}


def plain(tests: ModuleType) -> Any:
    """A 3x3 convolution with bias and normalisation, all parameters varying."""
    return tests.Case(
        kernel=(3, 3),
        stride=(1, 1),
        padding=(1, 1),
        dilation=(1, 1),
        groups=1,
        bias=True,
        norm=True,
        affine=True,
        only=frozenset({"first", "conv", "norm", "last"}),
    )


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def executed(name: str, path: Path, source: str, patch: pytest.MonkeyPatch) -> ModuleType:
    """A module from its source, under its name for as long as the patch lasts."""
    module = ModuleType(name)
    module.__file__ = str(path)
    patch.setitem(sys.modules, name, module)
    exec(compile(source, str(path), "exec"), module.__dict__)  # noqa: S102 - our own source, changed here
    return module


def run_check(mutant: Mutant, swaps: Mapping[str, str], patch: pytest.MonkeyPatch) -> None:
    """Execute the changed module, those that import it and the test file; then run the check."""
    for file in (mutant.file, *USERS.get(mutant.file, ())):
        source = (PACKAGE / file).read_text(encoding="utf-8")
        for old, new in swaps.items() if file == mutant.file else ():
            assert source.count(old) == 1, f"{old!r} occurs {source.count(old)} times in {file}"
            source = source.replace(old, new)
        executed(f"resnet_audit.{file.removesuffix('.py').replace('/', '.')}", PACKAGE / file, source, patch)
    path = TESTS / mutant.test
    tests = executed(f"mutant_of_{path.stem}", path, path.read_text(encoding="utf-8"), patch)
    check = getattr(tests, mutant.check)
    # Of a property test the body with one example: it neither searches nor shrinks.
    body = check.hypothesis.inner_test if hasattr(check, "hypothesis") else check
    body(**(mutant.given(tests) if callable(mutant.given) else mutant.given))


def test_the_ten_seeded_mutants_are_all_here() -> None:
    assert {mutant.seeded for mutant in MUTANTS.values()} - {None} == set(SEEDED)
    assert len(SEEDED) == 10


@pytest.mark.parametrize("what", MUTANTS)
def test_a_fault_is_caught_by_the_check_that_is_named(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = MUTANTS[what]
    with monkeypatch.context() as patch:
        run_check(mutant, {}, patch)
    with monkeypatch.context() as patch, pytest.raises(FAILURES) as caught:
        run_check(mutant, mutant.swaps, patch)
    # Not the assertion above, that what is replaced occurs once.
    assert "times in" not in str(caught.value)
