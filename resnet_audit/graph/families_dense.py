"""DenseNet and MobileNetV2 from the names that torchvision gives their layers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from resnet_audit.graph.families import natural
from resnet_audit.graph.families_nodes import Writer
from resnet_audit.graph.families_plan import NotThisFamily
from resnet_audit.graph.ir import Concat, Pool

if TYPE_CHECKING:
    from resnet_audit.graph.families_nodes import Given, Recipe

IMAGE = (224, 224)
USUAL = "the usual one of the family; --input-size sets another"


def densenet(given: Given) -> Recipe:
    """A DenseNet: pre-activated bottleneck layers whose outputs are concatenated, transitions that halve the map."""
    channels = _channels(given, "features.conv0.weight")
    write = Writer(given, (channels, *IMAGE), USUAL)
    write.conv("features.conv0", stride=2)
    write.activation("relu", write.batch_norm("features.norm0"))
    write.add("pool0", Pool(kind="max", kernel=(3, 3), stride=(2, 2), padding=(1, 1)))
    for block in _numbers(given, r"features\.denseblock(\d+)\."):
        name = f"features.denseblock{block}"
        for layer in _numbers(given, rf"features\.denseblock{block}\.denselayer(\d+)\."):
            _dense_layer(write, f"{name}.denselayer{layer}")
        transition = f"features.transition{block}"
        if write.has(f"{transition}.conv.weight"):
            write.activation("relu", write.batch_norm(f"{transition}.norm"))
            write.conv(f"{transition}.conv")
            write.add(f"{transition}.pool", Pool(kind="avg", kernel=(2, 2), stride=(2, 2)))
    write.activation("relu", write.batch_norm("features.norm5"))
    write.pooled()
    write.linear("classifier")
    write.assume(
        "stem: stride 2, then 3x3 max-pooling with stride 2",
        "each layer is norm-ReLU-1x1-norm-ReLU-3x3 with stride 1, and its output is put after all that it read",
        "transitions end in 2x2 average pooling with stride 2",
        "normalisation eps is 1e-5",
    )
    return write.recipe("DenseNet")


def _dense_layer(write: Writer, name: str) -> None:
    before = write.last
    for index in ("1", "2"):
        write.activation("relu", write.batch_norm(f"{name}.norm{index}"))
        write.conv(f"{name}.conv{index}")
    write.add(f"{name}.concat", Concat(), before, write.last)


def mobilenet_v2(given: Given) -> Recipe:
    """A MobileNetV2: inverted residual blocks with a linear bottleneck, residual where nothing changes shape."""
    channels = _channels(given, "features.0.0.weight")
    write = Writer(given, (channels, *IMAGE), USUAL)
    last = max(_numbers(given, r"features\.(\d+)\."))
    strided = _strided(given, last)
    _conv_norm(write, "features.0", stride=2)
    for index in range(1, last):
        _inverted(write, f"features.{index}", stride=2 if index in strided else 1)
    _conv_norm(write, f"features.{last}")
    write.pooled()
    write.linear("classifier.1")
    write.assume(
        "activations are ReLU6, none after the last convolution of a block; normalisation eps is 1e-5",
        f"stride 2 in the stem and in blocks {', '.join(map(str, sorted(strided)))}, where published nets have it",
        "blocks that keep shape are residual",
    )
    return write.recipe("MobileNetV2")


def _strided(given: Given, last: int) -> set[int]:
    """The blocks that begin the second, third, fourth and sixth width: the published strides 1, 2, 2, 2, 1, 2, 1."""
    starts, before = [], None
    for index in range(1, last):
        keys = [key for key in given.tensors if re.fullmatch(rf"features\.{index}\.conv\.\d+(\.0)?\.weight", key)]
        convs = [given.tensors[key] for key in sorted(keys, key=natural) if given.tensors[key].ndim == 4]
        if not convs:
            raise NotThisFamily(f"features.{index} is no inverted residual block")
        first, width = convs[0], convs[-1].shape[0]
        reads = first.shape[0] if first.shape[1] == 1 else first.shape[1]
        if before is None or width != before or reads != width:
            starts.append(index)
        before = width
    if len(starts) != 7:
        raise NotThisFamily(f"the blocks have {len(starts)} stages where MobileNetV2 has 7, so strides are not known")
    return {starts[stage] for stage in (1, 2, 3, 5)}


def _conv_norm(write: Writer, name: str, stride: int = 1) -> None:
    write.conv(f"{name}.0", stride=stride)
    write.activation("relu6", write.batch_norm(f"{name}.1"))


def _inverted(write: Writer, name: str, stride: int) -> None:
    before = write.last
    if write.has(f"{name}.conv.1.0.weight"):
        _conv_norm(write, f"{name}.conv.0")
        _conv_norm(write, f"{name}.conv.1", stride)
        end = 2
    else:
        _conv_norm(write, f"{name}.conv.0", stride)
        end = 1
    write.conv(f"{name}.conv.{end}")
    write.batch_norm(f"{name}.conv.{end + 1}")
    if write.shape == write.shapes[before]:
        write.sum(name, write.last, before)


def _channels(given: Given, key: str) -> int:
    if key not in given.tensors or given.tensors[key].ndim != 4:
        raise NotThisFamily(f"{key} is no stem convolution")
    return int(given.tensors[key].shape[1])


def _numbers(given: Given, pattern: str) -> list[int]:
    """The numbers at the pattern's group in the keys, ascending."""
    return sorted({int(found[1]) for key in given.tensors if (found := re.match(pattern, key))})
