"""ConvNeXt and the vision transformer, from the names that their published implementations give their layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from resnet_audit.errors import UsageError
from resnet_audit.graph.execute import like
from resnet_audit.graph.families_attention import attention, heads_of
from resnet_audit.graph.families_nodes import Writer
from resnet_audit.graph.families_plan import NotThisFamily
from resnet_audit.graph.ir import Flatten, Opaque, Permute, Pool

if TYPE_CHECKING:
    from torch import Tensor

    from resnet_audit.graph.families_nodes import Given, Recipe

EPS = 1e-6
"""The eps of layer normalisation in published ConvNeXts and vision transformers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvNextNames:
    """Names of the layers; `even` and `odd` count the stages by twos, `block` is a block's container.

    members: depthwise convolution, norm, two linear layers; scale: its layer scale. head: norm and linear layer.
    """

    stem: tuple[str, str]
    down: tuple[str, str]
    block: str
    members: tuple[str, str, str, str]
    scale: str
    head: tuple[str, str]


CONVNEXTS = (
    ConvNextNames(
        stem=("features.0.0", "features.0.1"),
        down=("features.{even}.0", "features.{even}.1"),
        block="features.{odd}.{block}",
        members=("block.0", "block.2", "block.3", "block.5"),
        scale="layer_scale",
        head=("classifier.0", "classifier.2"),
    ),
    ConvNextNames(
        stem=("stem.0", "stem.1"),
        down=("stages.{stage}.downsample.0", "stages.{stage}.downsample.1"),
        block="stages.{stage}.blocks.{block}",
        members=("conv_dw", "norm", "mlp.fc1", "mlp.fc2"),
        scale="gamma",
        head=("head.norm", "head.fc"),
    ),
    ConvNextNames(
        stem=("downsample_layers.0.0", "downsample_layers.0.1"),
        down=("downsample_layers.{stage}.0", "downsample_layers.{stage}.1"),
        block="stages.{stage}.{block}",
        members=("dwconv", "norm", "pwconv1", "pwconv2"),
        scale="gamma",
        head=("norm", "head"),
    ),
)
"""torchvision, timm, and the authors."""


def convnext(given: Given) -> Recipe:
    """A ConvNeXt: depthwise convolution, layer norm, two linear layers with a GELU, a layer scale."""
    names = next((names for names in CONVNEXTS if f"{names.stem[0]}.weight" in given.tensors), None)
    if names is None:
        raise NotThisFamily("no stem of a ConvNeXt")
    kernel = given.tensors[f"{names.stem[0]}.weight"]
    write = Writer(given, (kernel.shape[1], 224, 224), "the usual one of the family; --input-size sets another")
    write.conv(names.stem[0], stride=kernel.shape[2], padding=0)
    write.layer_norm(names.stem[1], eps=EPS, channels_first=True)
    stage = 0
    while _convnext_stage(write, names, stage):
        stage += 1
    write.assume("the last map is averaged over all positions before the last norm")
    write.add("pool", Pool(kind="avg", kernel=None))
    write.add("flatten", Flatten())
    write.layer_norm(names.head[0], eps=EPS)
    write.linear(names.head[1])
    write.assume(
        f"the stem strides by its {kernel.shape[2]}x{kernel.shape[3]} kernel, each transition by 2, nothing else does",
        f"activations are GELU, eps of the layer norms is {EPS:g}",
    )
    return write.recipe("ConvNeXt")


def _convnext_stage(write: Writer, names: ConvNextNames, stage: int) -> bool:
    """Write a stage and the transition before it, if there is one of this number."""
    numbers = {"stage": stage, "even": 2 * stage, "odd": 2 * stage + 1}
    norm, conv = (name.format(**numbers) for name in names.down)
    if not write.has(f"{names.block.format(**numbers, block=0)}.{names.members[0]}.weight"):
        return False
    if stage and write.has(f"{conv}.weight"):
        write.layer_norm(norm, eps=EPS, channels_first=True)
        write.conv(conv, stride=2, padding=0)
    block = 0
    while write.has(f"{(name := names.block.format(**numbers, block=block))}.{names.members[0]}.weight"):
        depthwise, *mlp = (f"{name}.{member}" for member in names.members)
        before = write.last
        write.conv(depthwise)
        _convnext_mlp(write, name, mlp)
        if write.has(f"{name}.{names.scale}"):
            write.scale(f"{name}.{names.scale}", channels_first=True)
        write.sum(name, write.last, before)
        block += 1
    return True


def _convnext_mlp(write: Writer, name: str, members: list[str]) -> None:
    """A norm and two layers, with the channels last, or as pointwise convolutions on the map."""
    norm, first, second = members
    if write.has(f"{first}.weight") and write.rest[f"{first}.weight"].ndim == 4:
        write.layer_norm(norm, eps=EPS, channels_first=True)
        write.activation("gelu", write.conv(first))
        write.conv(second)
        return
    write.add(f"{name}.channels_last", Permute(dims=(0, 2, 3, 1)))
    write.layer_norm(norm, eps=EPS)
    write.activation("gelu", write.linear(first))
    write.linear(second)
    write.add(f"{name}.channels_first", Permute(dims=(0, 3, 1, 2)))


@dataclass(frozen=True, slots=True, kw_only=True)
class VitNames:
    """Names of the layers of a vision transformer; members of a block are relative to it, alternatives in order.

    qkv: the packed projection's weight and bias. scales: the layer scales of attention and mlp, where there are any.
    """

    patch: str
    token: str
    position: str
    block: str
    norms: tuple[str, str]
    qkv: tuple[str, str]
    out: str
    mlp: tuple[tuple[str, str], ...]
    scales: tuple[str, str]
    norm: str
    head: str


VITS = (
    VitNames(
        patch="conv_proj",
        token="class_token",  # noqa: S106 - the name of a tensor, no password
        position="encoder.pos_embedding",
        block="encoder.layers.encoder_layer_{}",
        norms=("ln_1", "ln_2"),
        qkv=("self_attention.in_proj_weight", "self_attention.in_proj_bias"),
        out="self_attention.out_proj",
        mlp=(("mlp.0", "mlp.3"), ("mlp.linear_1", "mlp.linear_2")),
        scales=("ls_1", "ls_2"),
        norm="encoder.ln",
        head="heads.head",
    ),
    VitNames(
        patch="patch_embed.proj",
        token="cls_token",  # noqa: S106 - the name of a tensor, no password
        position="pos_embed",
        block="blocks.{}",
        norms=("norm1", "norm2"),
        qkv=("attn.qkv.weight", "attn.qkv.bias"),
        out="attn.proj",
        mlp=(("mlp.fc1", "mlp.fc2"),),
        scales=("ls1.gamma", "ls2.gamma"),
        norm="norm",
        head="head",
    ),
)
"""torchvision; timm and the authors of DeiT."""


def vit(given: Given) -> Recipe:
    """A vision transformer with a class token: pre-normalised attention and mlp, each with its shortcut."""
    names = next((n for n in VITS if {f"{n.patch}.weight", n.token, n.position} <= given.tensors.keys()), None)
    if names is None:
        raise NotThisFamily("no patch embedding with a class token and position embeddings")
    kernel, places = given.tensors[f"{names.patch}.weight"], given.tensors[names.position]
    if kernel.ndim != 4 or kernel.shape[2] != kernel.shape[3] or places.ndim != 3:
        raise NotThisFamily(f"{names.patch} is no square patch embedding with its positions")
    side, patch = math.isqrt(places.shape[1]), kernel.shape[2]
    if places.shape[1] - side * side not in {0, 1}:
        raise NotThisFamily(f"{names.position} is no square of patches with or without one class token")
    size = (kernel.shape[1], side * patch, side * patch)
    write = Writer(given, size, "from the position embeddings")
    if write.input_size != size:
        raise UsageError(
            f"{names.position} holds {side}x{side} patches; an input of another size does not fit; "
            f"give --input-size {'x'.join(map(str, size))}"
        )
    _embed(write, names, patch, side * side)
    heads = heads_of(write, given, kernel.shape[0])
    index = 0
    while write.has(f"{names.block.format(index)}.{names.norms[0]}.weight"):
        _vit_block(write, names, names.block.format(index), heads)
        index += 1
    write.layer_norm(names.norm, eps=EPS)
    write.add("class_token", Opaque(name="select", function=_first), shape=(kernel.shape[0],))
    write.linear(names.head)
    write.assume(
        f"patches do not overlap; activations are GELU, eps of the layer norms is {EPS:g}",
        "the head reads the class token after the last norm",
    )
    return write.recipe("ViT")


def _first(x: Tensor) -> Tensor:
    return x[:, 0]


def _embed(write: Writer, names: VitNames, patch: int, patches: int) -> None:
    """Patches as tokens, the class token before them, and positions: of all tokens, or of the patches alone."""
    write.conv(names.patch, stride=patch, padding=0)
    width = write.shape[0]
    write.view("patches", width, patches)
    write.add("tokens", Permute(dims=(0, 2, 1)))
    token, places = write.take(names.token, 1, 1, width), write.take(names.position)
    tokens = places.shape[1]
    if tuple(places.shape) != (1, tokens, width):
        raise NotThisFamily(f"{names.position} does not hold {width} numbers for each token")

    def prepend(x: Tensor) -> Tensor:
        return torch.cat([like(token, x).expand(len(x), 1, width), x], dim=1)

    def place(x: Tensor) -> Tensor:
        return x + like(places, x)

    steps = [(names.token, Opaque(name="class_token", function=prepend), patches + 1)]
    steps.insert(tokens - patches, (names.position, Opaque(name="position_embedding", function=place), tokens))
    for name, op, length in steps:
        write.add(name, op, shape=(length, width))


def _vit_block(write: Writer, names: VitNames, name: str, heads: int) -> None:
    before = write.last
    write.layer_norm(f"{name}.{names.norms[0]}", eps=EPS)
    weight, bias = write.take(f"{name}.{names.qkv[0]}"), write.maybe(f"{name}.{names.qkv[1]}")
    write.matrix(f"{name}.{names.qkv[0]}".removesuffix(".weight"), weight, bias)
    attention(write, f"{name}.attention", (write.last,), heads)
    write.linear(f"{name}.{names.out}")
    _scaled(write, f"{name}.{names.scales[0]}")
    before = write.sum(f"{name}.attention", write.last, before)
    write.layer_norm(f"{name}.{names.norms[1]}", eps=EPS)
    pair = next((pair for pair in names.mlp if write.has(f"{name}.{pair[0]}.weight")), names.mlp[0])
    write.activation("gelu", write.linear(f"{name}.{pair[0]}"))
    write.linear(f"{name}.{pair[1]}")
    _scaled(write, f"{name}.{names.scales[1]}")
    write.sum(f"{name}.mlp", write.last, before)


def _scaled(write: Writer, key: str) -> None:
    if write.has(key):
        write.scale(key)
