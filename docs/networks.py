"""A small network of every family as a bare state dict, built with torch.nn alone, for the tables of the README."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Layers = Mapping[str, nn.Module | Tensor]


def conv(outputs: int, inputs: int, size: int = 1, *, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    """A convolution whose padding keeps the map."""
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups, bias=bias)


def state_of(layers: Layers) -> dict[str, Tensor]:
    """The state dict of layers by their dotted names."""
    found: dict[str, Tensor] = {}
    for name, layer in layers.items():
        members = {"": layer} if isinstance(layer, Tensor) else layer.state_dict(prefix=".")
        found |= {f"{name}{member}": tensor for member, tensor in members.items()}
    return found


def normed(
    conv_name: str, norm_name: str, outputs: int, inputs: int, size: int = 1, groups: int = 1
) -> dict[str, nn.Module | Tensor]:
    """A convolution and the norm of its output."""
    return {conv_name: conv(outputs, inputs, size, groups=groups), norm_name: nn.BatchNorm2d(outputs)}


def resnet(
    stem: int = 3, *, bottleneck: bool = False, groups: int = 1, pad: bool = False, gate: str | None = None
) -> Layers:
    """A post-activated ResNet of two stages; `pad`: shortcuts without parameters; `gate`: linear or conv."""
    layers = dict(normed("conv1", "bn1", 4, 3, stem))
    inputs = 4
    for stage, width in ((1, 4), (2, 8)):
        outputs = 4 * width if bottleneck else width
        sizes = ((width, inputs, 1), (width, width, 3), (outputs, width, 1))
        for index in range(2):
            name = f"layer{stage}.{index}"
            if not bottleneck:
                sizes = ((width, inputs, 3), (width, width, 3))  # type: ignore[assignment]  # two or three
            for number, (out, into, size) in enumerate(sizes, start=1):
                split = groups if number == 2 else 1
                into_ = inputs if number == 1 else into
                layers |= normed(f"{name}.conv{number}", f"{name}.bn{number}", out, into_, size, split)
            for number, (out, into) in enumerate(((2, outputs), (outputs, 2)), start=1):
                if gate:
                    layers[f"{name}.se.fc{number}"] = (
                        nn.Linear(into, out) if gate == "linear" else conv(out, into, bias=True)
                    )
            if inputs != outputs and not pad:
                layers |= normed(f"{name}.downsample.0", f"{name}.downsample.1", outputs, inputs)
            inputs = outputs
    return layers | {"fc": nn.Linear(inputs, 5)}


def preactivated(*, bottleneck: bool = False, wide: bool = False) -> Layers:
    """A ResNet with norms before convolutions and a last one before the head; `wide`: under the names of a wide one."""
    layers: dict[str, nn.Module | Tensor] = {"conv1": conv(4, 3, 3)}
    inputs = 4
    for stage, width in ((1, 4), (2, 8)):
        outputs = 4 * width if bottleneck else width
        for index in range(2):
            name, into = f"block{stage}.layer.{index}" if wide else f"layer{stage}.{index}", inputs
            for number, (out, size) in enumerate(
                ((width, 1), (width, 3), (outputs, 1)) if bottleneck else ((width, 3), (width, 3)), start=1
            ):
                layers |= {f"{name}.bn{number}": nn.BatchNorm2d(into), f"{name}.conv{number}": conv(out, into, size)}
                into = out
            if inputs != outputs:
                layers[f"{name}.{'convShortcut' if wide else 'shortcut.0'}"] = conv(outputs, inputs)
            inputs = outputs
    return layers | {"bn1" if wide else "bn": nn.BatchNorm2d(inputs), "fc": nn.Linear(inputs, 5)}


def densenet() -> Layers:
    """Two dense blocks of two layers with a transition between them."""
    layers = dict(normed("features.conv0", "features.norm0", 4, 3, 7))
    width = 4
    for block in (1, 2):
        for layer in (1, 2):
            name = f"features.denseblock{block}.denselayer{layer}"
            layers |= {f"{name}.norm1": nn.BatchNorm2d(width), f"{name}.conv1": conv(8, width)}
            layers |= {f"{name}.norm2": nn.BatchNorm2d(8), f"{name}.conv2": conv(2, 8, 3)}
            width += 2
        if block == 1:
            layers |= {"features.transition1.norm": nn.BatchNorm2d(width), "features.transition1.conv": conv(4, width)}
            width = 4
    return layers | {"features.norm5": nn.BatchNorm2d(width), "classifier": nn.Linear(width, 5)}


def mobilenet() -> Layers:
    """Inverted residuals: seven stages, of which the second has two blocks."""
    layers = dict(normed("features.0.0", "features.0.1", 4, 3, 3))
    inputs = 4
    for index, outputs in enumerate((6, 8, 8, 10, 12, 14, 16, 18), start=1):
        name, wide = f"features.{index}.conv", inputs if index == 1 else 2 * inputs
        place = 0
        if wide != inputs:
            layers |= normed(f"{name}.0.0", f"{name}.0.1", wide, inputs)
            place = 1
        layers |= normed(f"{name}.{place}.0", f"{name}.{place}.1", wide, wide, 3, wide)
        layers |= normed(f"{name}.{place + 1}", f"{name}.{place + 2}", outputs, wide)
        inputs = outputs
    return layers | normed("features.9.0", "features.9.1", 20, inputs) | {"classifier.1": nn.Linear(20, 5)}


def convnext(stem: str, down: str, block: str, members: tuple[str, ...], head: tuple[str, str]) -> Layers:
    """Two stages of one block each, under the names of one of the three implementations."""
    depthwise, norm, first, second, scale = members
    layers: dict[str, nn.Module | Tensor] = {f"{stem}.0": nn.Conv2d(3, 4, 4, 4), f"{stem}.1": nn.LayerNorm(4)}
    layers |= {f"{down}.0": nn.LayerNorm(4), f"{down}.1": nn.Conv2d(4, 6, 2, 2)}
    for stage, width in enumerate((4, 6)):
        name = block.format(stage=stage, odd=2 * stage + 1)
        layers |= {
            f"{name}.{depthwise}": conv(width, width, 7, groups=width, bias=True),
            f"{name}.{norm}": nn.LayerNorm(width),
            f"{name}.{first}": nn.Linear(width, 4 * width),
            f"{name}.{second}": nn.Linear(4 * width, width),
            f"{name}.{scale}": torch.ones(width, 1, 1) if scale == "layer_scale" else torch.ones(width),
        }
    return layers | {head[0]: nn.LayerNorm(6), head[1]: nn.Linear(6, 5)}


def vit(names: Mapping[str, str]) -> Layers:
    """Two blocks of attention and mlp on nine patches and a class token."""
    layers: dict[str, nn.Module | Tensor] = {
        names["patch"]: nn.Conv2d(3, 64, 4, 4),
        names["token"]: torch.zeros(1, 1, 64),
        names["position"]: torch.zeros(1, 10, 64),
    }
    for index in range(2):
        name = names["block"].format(index)
        layers |= {f"{name}.{names[norm]}": nn.LayerNorm(64) for norm in ("norm1", "norm2")}
        layers |= {f"{name}.{names['qkv']}weight": torch.randn(192, 64), f"{name}.{names['qkv']}bias": torch.zeros(192)}
        layers |= {f"{name}.{names['out']}": nn.Linear(64, 64)}
        layers |= {f"{name}.{names['up']}": nn.Linear(64, 32), f"{name}.{names['down']}": nn.Linear(32, 64)}
    return layers | {names["norm"]: nn.LayerNorm(64), names["head"]: nn.Linear(64, 5)}


def gpt2() -> Layers:
    """Two blocks; linear layers are stored as (inputs, outputs)."""
    layers: dict[str, nn.Module | Tensor] = {"wte": nn.Embedding(11, 64), "wpe": nn.Embedding(9, 64)}
    turned = {"attn.c_attn": (64, 192), "attn.c_proj": (64, 64), "mlp.c_fc": (64, 48), "mlp.c_proj": (48, 64)}
    for index in range(2):
        layers |= {f"h.{index}.ln_{norm}": nn.LayerNorm(64) for norm in (1, 2)}
        for name, (into, out) in turned.items():
            layers |= {f"h.{index}.{name}.weight": torch.randn(into, out), f"h.{index}.{name}.bias": torch.zeros(out)}
    return layers | {"ln_f": nn.LayerNorm(64)}


def bert() -> Layers:
    """Two layers and the pooler."""
    tables = {"word": 11, "position": 9, "token_type": 2}
    layers: dict[str, nn.Module | Tensor] = {
        f"embeddings.{kind}_embeddings": nn.Embedding(count, 64) for kind, count in tables.items()
    }
    layers["embeddings.LayerNorm"] = nn.LayerNorm(64)
    for index in range(2):
        name = f"encoder.layer.{index}"
        layers |= {f"{name}.attention.self.{part}": nn.Linear(64, 64) for part in ("query", "key", "value")}
        layers |= {f"{name}.{part}.LayerNorm": nn.LayerNorm(64) for part in ("attention.output", "output")}
        layers |= {f"{name}.attention.output.dense": nn.Linear(64, 64), f"{name}.output.dense": nn.Linear(24, 64)}
        layers[f"{name}.intermediate.dense"] = nn.Linear(64, 24)
    return layers | {"pooler.dense": nn.Linear(64, 64)}


def chain() -> Layers:
    """Three numbered convolutions, each with its norm, and a head."""
    layers: dict[str, nn.Module | Tensor] = {}
    for number, (out, into) in enumerate(((4, 3), (8, 4), (8, 8)), start=1):
        layers |= normed(f"conv{number}", f"bn{number}", out, into, 3)
    return layers | {"fc": nn.Linear(8, 5)}


def llama() -> Layers:
    """Two blocks of a family that weights alone do not complete."""
    layers: dict[str, nn.Module | Tensor] = {"model.embed_tokens": nn.Embedding(11, 64)}
    for index in range(2):
        name = f"model.layers.{index}"
        layers |= {f"{name}.self_attn.{part}_proj": nn.Linear(64, 64, bias=False) for part in "qkvo"}
        layers |= {f"{name}.mlp.{part}_proj": nn.Linear(64, 32, bias=False) for part in ("gate", "up")}
        layers[f"{name}.mlp.down_proj"] = nn.Linear(32, 64, bias=False)
        layers |= {f"{name}.{norm}_layernorm.weight": torch.ones(64) for norm in ("input", "post_attention")}
    return layers | {"model.norm.weight": torch.ones(64), "lm_head": nn.Linear(64, 11, bias=False)}


_TIMM = ("conv_dw", "norm", "mlp.fc1", "mlp.fc2", "gamma")
_AUTHORS = ("dwconv", "norm", "pwconv1", "pwconv2", "gamma")
_TORCHVISION = ("block.0", "block.2", "block.3", "block.5", "layer_scale")
_VIT_TIMM = {
    "patch": "patch_embed.proj",
    "token": "cls_token",
    "position": "pos_embed",
    "block": "blocks.{}",
    "norm1": "norm1",
    "norm2": "norm2",
    "qkv": "attn.qkv.",
    "out": "attn.proj",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
    "norm": "norm",
    "head": "head",
}
_VIT_TORCHVISION = {
    "patch": "conv_proj",
    "token": "class_token",
    "position": "encoder.pos_embedding",
    "block": "encoder.layers.encoder_layer_{}",
    "norm1": "ln_1",
    "norm2": "ln_2",
    "qkv": "self_attention.in_proj_",
    "out": "self_attention.out_proj",
    "up": "mlp.0",
    "down": "mlp.3",
    "norm": "encoder.ln",
    "head": "heads.head",
}

FAMILIES: dict[str, Callable[[], Layers]] = {
    "3x3 stem, shortcuts that subsample and pad": lambda: resnet(pad=True),
    "7x7 stem, 1x1 projections": lambda: resnet(7),
    "7x7 stem, bottlenecks": lambda: resnet(7, bottleneck=True),
    "grouped 3x3 convolutions": lambda: resnet(7, bottleneck=True, groups=2),
    "norms before convolutions": preactivated,
    "names of a wide ResNet": lambda: preactivated(wide=True),
    "norms before convolutions, bottlenecks": lambda: preactivated(bottleneck=True),
    "gates of linear layers": lambda: resnet(gate="linear"),
    "gates of 1x1 convolutions": lambda: resnet(7, gate="conv", bottleneck=True),
    "names of torchvision (DenseNet)": densenet,
    "names of torchvision (MobileNetV2)": mobilenet,
    "names of torchvision (ConvNeXt)": lambda: convnext(
        "features.0", "features.2", "features.{odd}.0", _TORCHVISION, ("classifier.0", "classifier.2")
    ),
    "names of timm (ConvNeXt)": lambda: convnext(
        "stem", "stages.1.downsample", "stages.{stage}.blocks.0", _TIMM, ("head.norm", "head.fc")
    ),
    "names of its authors (ConvNeXt)": lambda: convnext(
        "downsample_layers.0", "downsample_layers.1", "stages.{stage}.0", _AUTHORS, ("norm", "head")
    ),
    "names of torchvision (ViT)": lambda: vit(_VIT_TORCHVISION),
    "names of timm (ViT)": lambda: vit(_VIT_TIMM),
    "names of transformers (GPT-2)": gpt2,
    "names of transformers (BERT)": bert,
    "numbered convolutions and norms": chain,
    "names of transformers (Llama)": llama,
}
"""A small network of every family; the last stands for all that weights alone do not complete."""
