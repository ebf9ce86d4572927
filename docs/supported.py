"""Write the README's tables of what loads and what runs, from what really happens to files made here.

`python docs/supported.py` writes them between the two markers; with `--check` it fails where README.md differs.
"""

from __future__ import annotations

import io
import json
import pickle
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING
from unittest.mock import patch

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from resnet_audit import Settings, discover, load
from resnet_audit.checkpoint.sniff import SUPPORTED, Format, sniff
from resnet_audit.errors import UnreadableCheckpoint
from resnet_audit.graph.ir import Input

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from resnet_audit import Checkpoint, ResidualGraph

    Layers = Mapping[str, nn.Module | Tensor]

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- supported: begin -->", "<!-- supported: end -->"


# formats -------------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """A basic residual block that keeps its width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """relu(x + branch(x))."""
        branch = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(x + self.bn2(self.conv2(branch)))


class Net(nn.Module):
    """A residual network of two blocks, under the names of a CIFAR ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(4, 3, 3), nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(Block(4), Block(4))
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images (N, 3, H, W)."""
        x = self.layer1(torch.relu(self.bn1(self.conv1(x))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def conv(outputs: int, inputs: int, size: int = 1, *, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    """A convolution whose padding keeps the map."""
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups, bias=bias)


def network() -> tuple[Net, Tensor]:
    """The network of every format, the same each time, and an input."""
    torch.manual_seed(0)
    return Net().eval(), torch.zeros(2, 3, 8, 8)


def _wrapped(path: Path) -> None:
    net, _ = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    state = {f"module.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"state_dict": state, "optimizer": optimizer.state_dict(), "epoch": 3}, path)


def _npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, **{name: tensor.numpy() for name, tensor in network()[0].state_dict().items()})


def _sharded(path: Path, index: str, save: Callable[[dict[str, Tensor], Path], None]) -> None:
    path.mkdir()
    items = list(network()[0].state_dict().items())
    places: dict[str, str] = {}
    for number, part in enumerate((items[:5], items[5:]), start=1):
        shard = f"part{number}"
        save(dict(part), path / shard)
        places |= dict.fromkeys(dict(part), shard)
    (path / index).write_text(json.dumps({"weight_map": places}))


def _model_folder(path: Path) -> None:
    path.mkdir()
    save_file(network()[0].state_dict(), path / "model.safetensors")
    (path / "config.json").write_text("{}")


def _exported(path: Path) -> None:
    net, x = network()
    torch.export.save(torch.export.export(net, (x,)), path)


def _onnx(path: Path) -> None:
    net, x = network()
    torch.onnx.export(net, (x,), path, dynamo=True, external_data=False, verbose=False)


def _weights(path: Path) -> None:
    torch.save(network()[0].state_dict(), path)


FORMATS: dict[str, Callable[[Path], object]] = {
    "torch zip file of tensors": _weights,
    "torch legacy file": lambda path: torch.save(network()[0].state_dict(), path, _use_new_zipfile_serialization=False),
    "wrapped with an optimizer, names behind `module.`": _wrapped,
    "pickled whole module": lambda path: torch.save(network()[0], path),
    "safetensors": lambda path: save_file(network()[0].state_dict(), path),
    "safetensors in shards, with its index": lambda path: _sharded(path, "model.safetensors.index.json", save_file),
    "torch files in shards, with their index": lambda path: _sharded(path, "pytorch_model.bin.index.json", torch.save),
    "model folder with config.json": _model_folder,
    "torch.distributed.checkpoint folder": lambda path: save_distributed(
        {"model": network()[0].state_dict()}, checkpoint_id=str(path), no_dist=True
    ),
    "numpy npz": _npz,
    "TorchScript (trace)": lambda path: torch.jit.trace(*network()).save(str(path)),  # type: ignore[no-untyped-call]  # torch has no types here
    "torch.export program (.pt2)": _exported,
    "ONNX": _onnx,
    "standard input (`-`)": _weights,
}
"""How a file of each format is made."""


def format_rows(folder: Path) -> list[tuple[str, ...]]:
    """(what the file is, the format it is told to be, what loads, blocks, whether it runs) of every format."""
    rows: list[tuple[str, ...]] = []
    for number, (title, make) in enumerate(FORMATS.items()):
        path = folder / f"{number}.pt2"  # torch looks at the suffix of a program; this project never does
        make(path)
        if "standard input" in title:
            with path.open("rb") as file, patch("sys.stdin", SimpleNamespace(buffer=file)):
                checkpoint = load("-")
        else:
            checkpoint = load(str(path))
        rows.append((title, checkpoint.format, _loaded(checkpoint), *_outcome(checkpoint)))
    return rows


def formats_made(folder: Path) -> set[Format]:
    """The formats of the files that `format_rows` left in the folder."""
    return {sniff(str(path)) for path in folder.iterdir()}


def _loaded(checkpoint: Checkpoint) -> str:
    """Which of the network's weights and biases are in the checkpoint, under their own names and equal."""
    wanted = {name: parameter.detach() for name, parameter in network()[0].named_parameters()}
    got = checkpoint.tensors
    equal = sum(name in got and torch.equal(got[name], tensor) for name, tensor in wanted.items())
    return "all" if equal == len(wanted) else "in part"


def _outcome(checkpoint: Checkpoint) -> tuple[str, str]:
    """The blocks that are found, by the kind of their shortcut, and whether the network runs."""
    graph = discover(checkpoint)
    runs = "yes" if _runs(graph) else "no"
    if runs == "no":
        assumed = discover(checkpoint, Settings(assume=True))
        if _runs(assumed):
            graph, runs = assumed, "with `--assume`"
    kinds = [block.skip_kind for block in graph.blocks]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)) or "none", runs


def _runs(graph: ResidualGraph) -> bool:
    """Whether an input really goes through the graph and comes out finite."""
    if not graph.runnable:
        return False
    source, size = graph.nodes[0].op, graph.input_size
    assert isinstance(source, Input)  # noqa: S101 (every graph that runs begins with one)
    assert size is not None  # noqa: S101 (as above)
    x = torch.zeros(2, *size, dtype=torch.long) if source.vocabulary else torch.ones(2, *size)
    with torch.no_grad():
        return bool(graph.forward(x).isfinite().all())


# families ------------------------------------------------------------------------------------------------------------


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


def family_rows(folder: Path) -> list[tuple[str, ...]]:
    """(the family as it is named, what was built, blocks, whether it runs) of every family, from weights alone."""
    rows: list[tuple[str, ...]] = []
    for number, (title, build) in enumerate(FAMILIES.items()):
        torch.manual_seed(0)
        path = folder / str(number)
        torch.save(state_of(build()), path)
        checkpoint = load(str(path))
        name = discover(checkpoint).family or "not named"
        rows.append((name, title.removesuffix(f" ({name})"), *_outcome(checkpoint)))
    return rows


# refusals ------------------------------------------------------------------------------------------------------------


def _zip(*names: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    return made.getvalue()


def _npy() -> bytes:
    made = io.BytesIO()
    np.save(made, np.zeros(3))
    return made.getvalue()


REFUSED = {
    Format.NPY: _npy(),
    Format.ZIP_OF_CHECKPOINTS: _zip("weights.pth"),
    Format.ZIP: _zip("notes.txt"),
    Format.ZIP_BROKEN: b"PK\3\4" + bytes(100),
    Format.TAR: bytes(257) + b"ustar\x0000" + bytes(248),
    Format.GZIP: b"\x1f\x8b\x08" + bytes(30),
    Format.PICKLE: pickle.dumps({"a": 1}, protocol=2),
    Format.GGUF: b"GGUF" + bytes(30),
    Format.HDF5: b"\x89HDF\r\n\x1a\n" + bytes(30),
    Format.LFS_POINTER: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    Format.HTML: b"<!DOCTYPE html><html></html>",
    Format.TEXT: b"not found\n",
    Format.EMPTY: b"",
    Format.UNKNOWN: bytes(range(128, 256)),
    Format.FOLDER: None,
}
"""The bytes of a file of each format that is refused; None: a folder."""


def refusals(folder: Path) -> list[str]:
    """What each refused file is, and why, in the words of its refusal."""
    lines = []
    for number, (kind, data) in enumerate(REFUSED.items()):
        path = folder / str(number)
        path.mkdir() if data is None else path.write_bytes(data)
        assert sniff(str(path)) is kind, kind  # noqa: S101 (else the file is not what it was made to be)
        try:
            load(str(path))
            lines.append(f"- {kind}: not refused")
        except UnreadableCheckpoint as error:
            lines.append(f"- {error.what}: {error.why}")
    return lines


# the part of the README ----------------------------------------------------------------------------------------------


_FOLDED = ("In part: torch's exporter folds norms into convolutions before it writes ONNX.", "")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    head_line, *lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return [head_line, "|---" * len(head) + "|", *lines]


def supported(folder: Path) -> str:
    """The README's part between its markers, made anew with files in `folder`."""
    places = [folder / name for name in ("formats", "families", "refused")]
    for place in places:
        place.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch about its own formats that are going out of use
        formats, families, refused = format_rows(places[0]), family_rows(places[1]), refusals(places[2])
    missing = {*Format} - formats_made(places[0]) - REFUSED.keys()
    assert not missing, missing  # noqa: S101 (a format without a row)
    assert not SUPPORTED & REFUSED.keys()  # noqa: S101 (each is read or refused)
    return "\n".join(
        [
            "",
            "One small residual network in every format, which is judged by content and never by name:",
            "",
            *_table(("file", "`format` in the answer", "weights read", "blocks found", "runs"), formats),
            "",
            *_FOLDED * any(row[1:3] == (Format.ONNX, "in part") for row in formats),
            "A small network of every family, as a bare state dict:",
            "",
            *_table(("`family` in the answer", "as built here", "blocks found", "runs"), families),
            "",
            "Anything else: blocks as far as names and shapes show them, weight layers listed as unplaced with the",
            "reason, `spectrum` with `--input-size`, and everything with `--arch`.",
            "",
            "Refused, each with a sentence that ends in what to do:",
            "",
            *refused,
            "",
            "",
        ]
    )


def parts(text: str) -> tuple[str, str, str]:
    """The README before, between and after the markers."""
    before, _, rest = text.partition(BEGIN)
    between, _, after = rest.partition(END)
    return before, between, after


def main() -> None:
    """Write the tables, or with --check compare them."""
    with tempfile.TemporaryDirectory() as folder:
        made = supported(Path(folder))
    before, between, after = parts(README.read_text(encoding="utf-8"))
    if sys.argv[1:] != ["--check"]:
        README.write_text(f"{before}{BEGIN}\n{made.strip()}\n{END}{after}", encoding="utf-8")
    elif between.strip() != made.strip():
        sys.exit(f"{README.name} does not tell what happens; python docs/supported.py writes it anew")


if __name__ == "__main__":
    main()
