"""The same model definitions from their state dicts alone: how many residual blocks names and shapes show.

Networks of a recognised family are also run, against their own forward.
"""

from __future__ import annotations

import importlib
import random
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from definitions_models import DEFINITIONS, Definition
from definitions_truth import truth_of

from resnet_audit.graph.from_weights import discover
from resnet_audit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from resnet_audit.graph import ResidualGraph

pytestmark = [pytest.mark.definitions, pytest.mark.filterwarnings("ignore")]

NO_STRIDE = "the stride, or that a shortcut was left out, is not stored, and widths agree there"
KNOWN_MISSES: dict[str, str] = {
    "timm:mobilenetv2_050": NO_STRIDE,
    "timm:mnasnet_small": NO_STRIDE,
    "transformers:MobileNetV2Model": NO_STRIDE,
    "timm:rexnet_100": "the shortcut covers only some of the channels, so no block keeps its width",
    "timm:ghostnet_050": "the layers of a block are halves that are concatenated, no chain",
    "timm:starnet_s1": "the layers of a block are multiplied, no chain",
    "timm:twins_svt_small": "position embeddings by a convolution with a shortcut of their own, one weight layer each",
    "transformers:Wav2Vec2Model": "position embeddings by a convolution with a shortcut of their own",
    "transformers:HubertModel": "position embeddings by a convolution with a shortcut of their own",
    "transformers:GPTNeoXModel": "attention and mlp are parallel with two norms, as in sequential layers",
    "transformers:PoolFormerModel": "pooling in place of attention has no weights, and no name says so",
}
"""Definitions that come out otherwise, and why."""

TRUTH = {"transformers:SiglipVisionModel": 5}
"""Where the pooling head has a residual sum that the rules of the truth leave out."""


@pytest.fixture(scope="module", autouse=True)
def schemas() -> object:
    """The operators that torchvision declares beside its own kernels; without these torchvision cannot be imported."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def built(definition: Definition) -> nn.Module:
    pytest.importorskip(definition.package, exc_type=ImportError)
    importlib.import_module(definition.package)
    torch.set_num_threads(1)
    return definition.build().eval()


def graph_of(tensors: Mapping[str, Tensor], **choices: object) -> ResidualGraph:
    return discover(SimpleNamespace(tensors=tensors, format="torch-zip", config=None), Settings(**choices))


def summary(graph: ResidualGraph) -> list[tuple[object, ...]]:
    return sorted((block.name, block.skip_kind, sorted(block.layers), block.evidence) for block in graph.blocks)


@pytest.mark.parametrize("definition", DEFINITIONS, ids=str)
def test_blocks_from_weights_alone_are_as_many_as_in_the_module_tree(definition: Definition, schemas) -> None:
    net = built(definition)
    truth = truth_of(net)
    tensors = {key: value for key, value in net.state_dict().items() if isinstance(value, torch.Tensor)}
    graph = graph_of(tensors)
    keys = list(tensors)
    random.Random(0).shuffle(keys)  # noqa: S311 - an order, no secret
    for order in (sorted(tensors), keys):
        assert summary(graph_of({key: tensors[key] for key in order})) == summary(graph)
    wanted = TRUTH.get(str(definition), truth.adds + truth.concats)
    if wanted == 0:
        assert graph.blocks == ()
    if str(definition) in KNOWN_MISSES:
        assert len(graph.blocks) != wanted, "the miss is mended: take it from the list"
        pytest.xfail(KNOWN_MISSES[str(definition)])
    assert len(graph.blocks) == wanted


RUN = [
    "torchvision:resnet18",
    "torchvision:resnext50_32x4d",
    "torchvision:wide_resnet50_2",
    "torchvision:mobilenet_v2",
    "torchvision:convnext_tiny",
    "torchvision:densenet121",
    "timm:seresnet18",
    "timm:convnext_atto",
    "timm:vit_tiny_patch16_224",
    "timm:deit_tiny_patch16_224",
    "timm:deit3_small_patch16_224",
    "transformers:GPT2LMHeadModel",
    "transformers:BertModel",
]
HEADS = {"transformers:GPT2LMHeadModel": 4, "transformers:BertModel": 4}
"""Head counts that the configuration beside the weights gives."""


@pytest.mark.parametrize("definition", [one for one in DEFINITIONS if str(one) in RUN], ids=str)
def test_a_recognised_family_computes_what_its_definition_computes(definition: Definition, schemas) -> None:
    net, x = built(definition), definition.example()
    heads = HEADS.get(str(definition))
    given = SimpleNamespace(
        tensors=net.state_dict(), format="torch-zip", config={"num_attention_heads": heads} if heads else {}
    )
    graph = discover(given, Settings(input_size=tuple(definition.size)))
    assert graph.runnable, graph.runnable_reason
    with torch.no_grad():
        expected, got = net(x), graph.forward(x)
    if not isinstance(expected, torch.Tensor):
        pooled = expected.get("pooler_output")
        expected = expected["logits"] if pooled is None else pooled
    assert torch.allclose(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
