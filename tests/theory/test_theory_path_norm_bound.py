"""The path-norm term: what is read off the graph, the formula by hand, and the figures of the trained nets."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from bound_oracles import GLOBAL_MEAN, RELU, conv, graph_of, one_thread, preact_state, subject_of, tensor
from hypothesis import given
from hypothesis import strategies as st

from resnet_audit.checkpoint import load
from resnet_audit.graph.from_weights import discover
from resnet_audit.graph.ir import Add, Concat, Flatten, Linear, Pool
from resnet_audit.measure.pathnorm import path_norm
from resnet_audit.measure.subject import Subject
from resnet_audit.settings import Settings
from resnet_audit.theory.path_norm_bound import Peeling, log_first_factor, log_path_norm_term, peeling

if TYPE_CHECKING:
    from pathlib import Path

    from resnet_audit.graph.ir import Node

_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)
LN10 = math.log(10)


def pooled() -> tuple[Node, ...]:
    """conv, 3x3 max-pool, a block of two layers whose shortcut has a 2x2 max-pool and one layer, and a head."""
    rng = np.random.default_rng(0)

    def kernel(size: int, stride: int = 1) -> object:
        return conv(tensor(rng, 2, 2, size, size), stride=stride)

    return graph_of(
        (2, 8, 8),
        ("stem", kernel(3), "input"),
        ("relu", RELU, "stem"),
        ("max", Pool(kind="max", kernel=(3, 3), stride=(2, 2), padding=(1, 1)), "relu"),
        ("a", kernel(3, 2), "max"),
        ("relu_a", RELU, "a"),
        ("b", kernel(3), "relu_a"),
        ("half", Pool(kind="max", kernel=(2, 2), stride=(2, 2)), "max"),
        ("sum", Add(), "b", "half"),
        ("cat", Concat(), "sum", "half"),
        ("pool", GLOBAL_MEAN, "cat"),
        ("flat", Flatten(), "pool"),
        ("fc", Linear(weight=tensor(rng, 5, 4), bias=None), "flat"),
    ).nodes


def test_depth_counts_layers_and_pools_of_the_longest_path() -> None:
    assert peeling(pooled()) == Peeling(depth=5, max_pools=2, window=9, inputs=128, outputs=5)


def test_norms_left_alone_are_layers() -> None:
    found = peeling(subject_of(preact_state()).folded)
    # Stem and its folded norm, then norm and convolution, and so on: two blocks, the last norm and the head.
    layers = sum(hasattr(node.op, "weight") for node in subject_of(preact_state()).folded)
    assert found == Peeling(depth=layers, max_pools=0, window=1, inputs=192, outputs=5)


def test_the_term_is_the_published_product() -> None:
    nodes = pooled()
    squared = 5 * math.log(3) + 2 * math.log(9) + math.log(129 * 5)
    norm = math.exp(path_norm(nodes).log_sum)
    expected = 4 * math.sqrt(squared) * 3.5 / math.sqrt(1000) * norm / 0.25
    found = log_path_norm_term(
        nodes, log_path_norm=path_norm(nodes).log_sum, largest_entry=3.5, n_train=1000, margin=0.25
    )
    assert math.exp(found) == pytest.approx(expected, rel=1e-12)


@given(entry=st.floats(0.01, 100), n=st.integers(1, 10**9))
def test_the_factor_grows_with_entries_beyond_the_constant_input_and_falls_as_one_over_root_n(
    entry: float, n: int
) -> None:
    found = Peeling(depth=3, max_pools=0, window=1, inputs=7, outputs=2)
    one = log_first_factor(found, largest_entry=1, n_train=1)
    expected = one + math.log(max(entry, 1)) - math.log(n) / 2
    assert log_first_factor(found, largest_entry=entry, n_train=n) == pytest.approx(expected, abs=1e-12)


def test_a_net_without_paths_has_no_term() -> None:
    term = log_path_norm_term(pooled(), log_path_norm=-math.inf, largest_entry=1, n_train=10, margin=1)
    assert term == -math.inf


def test_the_term_bounds_the_rademacher_complexity_of_one_linear_unit() -> None:
    # {x -> <w, x>: ||w||_1 <= 1} has the complexity E max_i |sum_k e_k x_ki| / n, seen here on random signs.
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (200, 6))
    signs = rng.choice([-1, 1], (2000, 200))
    complexity = np.abs(signs @ x).max(1).mean() / 200
    nodes = graph_of(
        (6, 1, 1), ("flat", Flatten(), "input"), ("fc", Linear(weight=torch.ones(1, 6).double() / 6, bias=None), "flat")
    ).nodes
    term = log_path_norm_term(
        nodes, log_path_norm=path_norm(nodes).log_sum, largest_entry=float(np.abs(x).max()), n_train=200, margin=1
    )
    assert path_norm(nodes).log_sum == pytest.approx(0, abs=1e-12)
    assert 2 * complexity <= math.exp(term)


@pytest.mark.parametrize(("depth", "expected"), [(20, 21.395), (32, 31.638), (44, 40.940), (56, 49.496)])
def test_trained_nets_have_the_terms_of_the_theory_note(checkpoints: Path, depth: int, expected: float) -> None:
    """Theory note `bound`, 5, reproduced by the sharpened factor; the general one with K = 9 is 1.5 times as large."""
    chosen = Settings(threads=1)
    folded = Subject(discover(load(str(checkpoints / f"resnet{depth}.th")), chosen), chosen).folded
    assert peeling(folded) == Peeling(depth=depth, max_pools=0, window=1, inputs=3072, outputs=10)
    norm = path_norm(folded).log_sum
    found = log_path_norm_term(folded, log_path_norm=norm, largest_entry=2.64, n_train=50_000, margin=1)
    assert found / LN10 == pytest.approx(expected, abs=6e-4)
    general = 4 * math.sqrt(depth * math.log(27) + math.log(3073 * 10)) * 2.64 / math.sqrt(50_000)
    assert (math.log(general) + norm) / LN10 > expected + 0.15
