"""Where each property of the theory note `shortcut-scaling`, section D, is tested.

Those that the note calls checked only once (6, 7, 11, 12 and 17 to 20) are among them. What the tests catch is in
test_theory_shortcut_mutants.py.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent
SHORTCUT = "theory/test_theory_shortcut.py"
HESSIAN = "measure/test_measure_hessian.py"
RNTK = "measure/test_measure_rntk.py"
SCALING = "theory/test_theory_scaling.py"
FAMILY = "report/test_report_family_fit.py"

PROPERTIES = {
    1: ("two layers: spectrum +-s(B), once a hidden channel and block", SHORTCUT, (
        "test_the_spectrum_at_zero_is_plus_minus_b_once_a_hidden_channel_and_block",)),
    2: ("condition invariant to rotation of the inputs and to scale", SHORTCUT, (
        "test_the_condition_is_invariant_to_rotation_and_scale",)),
    3: ("three and four layers: the Hessian is exactly 0", SHORTCUT, (
        "test_with_three_or_more_layers_the_hessian_at_zero_weights_is_zero",)),
    4: ("one layer: closed form of width 1; condition linear in the number of blocks", SHORTCUT, (
        "test_with_one_layer_the_condition_grows_with_the_number_of_blocks",)),
    5: ("nothing to gain: the Hessian is 0 and its condition undefined", SHORTCUT, (
        "test_where_nothing_can_be_gained_the_condition_is_undefined",)),
    6: ("B of convolutions is the dense Hessian: padding, flip, stride", SHORTCUT, (
        "test_b_of_convolutions_is_the_dense_hessian",)),
    7: ("one B for all blocks of a stage", SHORTCUT, (
        "test_the_blocks_of_a_stage_have_the_same_b",)),
    8: ("Lanczos of all steps is the dense spectrum, its vectors orthonormal", HESSIAN, (
        "test_lanczos_with_as_many_steps_as_rows_is_the_whole_spectrum",
        "test_orthogonality_survives_converged_pairs")),
    9: ("Lanczos on the zero Hessian stops after 2 d steps", SHORTCUT, (
        "test_lanczos_sees_each_value_of_the_zero_hessian_once",)),
    10: ("quadrature from random signs: the trace of a diagonal matrix exactly", HESSIAN, (
        "test_the_quadrature_of_random_signs_has_the_trace_of_a_diagonal_matrix",)),
    11: ("the ends of a block within those of the whole", HESSIAN, (
        "test_the_ends_of_a_part_lie_within_those_of_the_whole",)),
    12: ("products are symmetric and linear", HESSIAN, (
        "test_products_are_symmetric_and_linear",)),
    13: ("kernel 1 between equal inputs; correlation ordered and rising; Gram matrix without negative values", RNTK, (
        "test_kernel_is_one_between_equal_inputs_and_its_diagonal_twice_the_residual_time",
        "test_correlation_stays_ordered_and_only_rises",
        "test_gram_matrix_is_positive_semidefinite")),
    14: ("one block: any scale the same kernel; small scales: that of one layer", RNTK, (
        "test_one_block_has_the_one_layer_kernel_whatever_its_scale",
        "test_small_scales_give_the_one_layer_kernel")),
    15: ("scale 1 and 20000 blocks: a quarter off the diagonal", RNTK, (
        "test_deep_plain_network_has_a_quarter_off_the_diagonal",)),
    16: ("equal residual times: one kernel", RNTK, (
        "test_equal_residual_times_give_one_kernel",)),
    17: ("order of the blocks: the time exactly, the kernel nearly", RNTK, (
        "test_order_of_blocks_leaves_the_time_exactly_and_the_kernel_nearly",)),
    18: ("a factor on the last gamma and beta is a factor on the scale", SCALING, (
        "test_a_factor_on_the_named_parameters_multiplies_the_scale_of_that_block",)),
    19: ("last gamma and beta 0: scale 0, nothing added to the time", SCALING, (
        "test_a_branch_of_zeros_has_the_scale_0_and_adds_nothing",)),
    20: ("a made family gives its exponent back", FAMILY, (
        "test_a_made_family_gives_its_exponent_back",)),
}  # fmt: skip


@cache
def functions_of(file: str) -> frozenset[str]:
    """The functions of a test file that pytest runs."""
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name[:5] == "test_")


def test_the_twenty_properties_are_all_here() -> None:
    assert list(PROPERTIES) == list(range(1, 21))


@pytest.mark.parametrize("number", PROPERTIES)
def test_a_property_has_the_tests_that_it_names(number: int) -> None:
    _, file, names = PROPERTIES[number]
    assert names
    assert set(names) <= functions_of(file)
