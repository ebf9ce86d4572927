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
from networks import FAMILIES, conv, state_of
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from resnet_audit import Settings, discover, load
from resnet_audit.checkpoint.sniff import SUPPORTED, Format, sniff
from resnet_audit.errors import UnreadableCheckpoint
from resnet_audit.graph.ir import Input

if TYPE_CHECKING:
    from collections.abc import Callable

    from resnet_audit import Checkpoint, ResidualGraph

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
