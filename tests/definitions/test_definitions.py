"""Residual joins of model definitions that others wrote, against their module trees."""

from __future__ import annotations

import importlib
import re

import pytest
import torch
from definitions_models import DEFINITIONS, Definition
from definitions_truth import truth_of

from resnet_audit.graph.from_export import _FirstOutput, from_module

pytestmark = [pytest.mark.definitions, pytest.mark.filterwarnings("ignore")]

KNOWN_MISSES = {
    "timm:cait_xxs24_224": "the class token is a constant, and the second class attention also reads the patches",
}
"""Definitions that come out otherwise, and why."""

FIXED_KERNELS = {"timm:resnetblur18"}
"""Definitions whose branches hold convolutions with kernels that are no parameters: these count as layers too."""


@pytest.fixture(scope="module", autouse=True)
def schemas() -> object:
    """The operators that torchvision declares beside its own kernels; without these torchvision cannot be imported."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def plain(layer: str) -> str:
    """A layer's name without the count of its uses."""
    return re.sub(r"#\d+$", "", layer)


@pytest.mark.parametrize("definition", DEFINITIONS, ids=str)
def test_residual_joins_are_those_of_the_module_tree(definition: Definition, schemas, record_property) -> None:
    pytest.importorskip(definition.package, exc_type=ImportError)
    importlib.import_module(definition.package)
    torch.set_num_threads(1)
    net = definition.build().eval()
    truth = truth_of(net)
    x = definition.example()
    graph = from_module(net, x)
    adds = [block for block in graph.blocks if block.skip_kind != "concat"]
    found = {
        "adds": len(adds),
        "projections": sum(block.skip_kind == "projection" for block in adds),
        **({"concats": len(graph.blocks) - len(adds)} if truth.concats else {}),
    }
    wanted = {key: getattr(truth, key) for key in found}
    with torch.no_grad():
        expected = _FirstOutput(net)(x)
    assert torch.allclose(graph.forward(x), expected, rtol=1e-4, atol=1e-5 * (1 + float(expected.abs().max())))
    if str(definition) in KNOWN_MISSES:
        assert found != wanted, "the miss is mended: take it from the list"
        pytest.xfail(KNOWN_MISSES[str(definition)])
    assert found == wanted
    if truth.branches is not None and str(definition) not in FIXED_KERNELS:
        branches = {frozenset(plain(layer) for layer in block.layers) for block in adds}
        assert branches == truth.branches
    record_property("branches", truth.branches is not None)
