"""Opening programs: TorchScript, torch.export and ONNX files. Nothing else in the package opens them.

Loading   TorchScript and .pt2 files are programs: `torch.jit.load` and `torch.export.load` build what the file says,
          and loading one can run code that it contains. So open one only where its structure or its values are needed,
          and print a notice first.
ONNX      is data: a graph of operators, read and never run as a program. Weights outside the file are read from its own
          folder only, from files that are named without a path.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from resnet_audit.checkpoint.names import listed, quoted
from resnet_audit.checkpoint.refusals import refusal
from resnet_audit.checkpoint.sniff import Format
from resnet_audit.errors import UnreadableCheckpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import GraphProto, ModelProto, TensorProto
    from torch.export import ExportedProgram
    from torch.jit import ScriptModule

PROGRAMS = frozenset({Format.TORCHSCRIPT, Format.PT2, Format.ONNX})
"""The formats that `open_program` opens."""

RUNS_CODE = frozenset({Format.TORCHSCRIPT, Format.PT2})
"""Those that can run code of their own when they are loaded: a caller prints a notice."""

_WHAT = {
    Format.TORCHSCRIPT: "a TorchScript program",
    Format.PT2: "a torch.export program (.pt2)",
    Format.ONNX: "an ONNX model",
}
_AGAIN = "fetch it or save it again"


def open_program(path: str, kind: str) -> Any:  # noqa: ANN401 (which of three classes, `kind` says and no type can)
    """The program in the file at `path`, on the CPU: a ScriptModule, an ExportedProgram or a ModelProto.

    A TorchScript or .pt2 file can run what it contains while it is loaded: callers print a notice before they call.
    Raises UnreadableCheckpoint, one line, for a damaged file, for TorchScript whose weights were frozen into its code,
    for ONNX whose weights lie outside its folder, and where the onnx package is not installed.
    """
    match kind:
        case Format.TORCHSCRIPT:
            return _torchscript(path)
        case Format.PT2:
            return _exported(path)
        case Format.ONNX:
            return _onnx(path)
    raise refusal(path, Format(kind))


def _torchscript(path: str) -> ScriptModule:
    import torch  # noqa: PLC0415 (names of formats must not wait for torch)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # their text would carry names out of the file to the terminal
            module: ScriptModule = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]  # torch has no types here
            held = any(True for _ in module.parameters()) or any(True for _ in module.buffers())
    except Exception as error:  # noqa: BLE001 (hostile bytes make torch raise nearly anything)
        _damaged(path, Format.TORCHSCRIPT, error)
    if not held:
        raise UnreadableCheckpoint(
            path,
            "a frozen TorchScript program",
            "freezing wrote its weights into its code as constants, and it has no parameters left",
            "save the module before torch.jit.freeze and name that file",
        )
    return module


def _exported(path: str) -> ExportedProgram:
    import logging  # noqa: PLC0415 (as torch)

    import torch  # noqa: PLC0415 (as above)

    log = logging.getLogger("torch.export")
    silent = log.disabled
    try:
        log.disabled = True  # it logs whole tracebacks before it raises
        # An open file: torch believes a path only if it ends in .pt2.
        with warnings.catch_warnings(), Path(path).open("rb") as file:
            warnings.simplefilter("ignore")
            return torch.export.load(file)
    except Exception as error:  # noqa: BLE001 (hostile bytes make torch raise nearly anything)
        _damaged(path, Format.PT2, error)
    finally:
        log.disabled = silent


def _onnx(path: str) -> ModelProto:
    try:
        import onnx  # noqa: PLC0415 (an optional extra)
    except ImportError:
        raise UnreadableCheckpoint(
            path, _WHAT[Format.ONNX], "reading it needs the onnx package", 'pip install "resnet-audit[onnx]"'
        ) from None
    try:
        model = onnx.load(path, load_external_data=False)
        if not model.graph.node:
            raise ValueError("its graph has no nodes")  # noqa: TRY301 (one sentence for all damage)
        if not all(isinstance(name, str) for graph in _graphs(model.graph) for name in _names(graph)):
            raise ValueError("a name in it is no text")  # noqa: TRY301 (as above)
    except Exception as error:  # noqa: BLE001 (protobuf has its own tree of exceptions)
        _damaged(path, Format.ONNX, error)
    outside = [tensor for tensor in tensors_in(model.graph) if tensor.data_location == onnx.TensorProto.EXTERNAL]
    if outside:
        _check_external(path, outside)
        try:
            onnx.load_external_data_for_model(model, str(Path(path).parent))
        except Exception as error:  # noqa: BLE001 (as above)
            _damaged(path, Format.ONNX, error)
    return model


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and all graphs inside it."""
    pending = [graph]
    while pending:
        current = pending.pop()
        yield current
        for attribute in (attribute for node in current.node for attribute in node.attribute):
            pending.extend([*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs])


def _names(graph: GraphProto) -> Iterator[object]:
    """Every name in a graph; protobuf gives bytes for one that is no text."""
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
    for named in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
        yield named.name


def tensors_in(graph: GraphProto) -> Iterator[TensorProto]:
    """Every tensor that a graph holds: initialisers, and attributes of its nodes, subgraphs included."""
    for current in _graphs(graph):
        yield from current.initializer
        for sparse in current.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for attribute in (attribute for node in current.node for attribute in node.attribute):
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _check_external(path: str, tensors: list[TensorProto]) -> None:
    """Refuses weights outside the file that are not in a plain file of its own folder, or claim more than it holds.

    Names are checked and not resolved paths: a download cache links such files out of the folder.
    """
    folder = Path(path).parent
    missing = set()
    for tensor in tensors:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        name = entries.get("location", "")
        if not name or name in {".", ".."} or any(mark in name for mark in "/\\:\0"):
            raise UnreadableCheckpoint(
                path,
                "an ONNX model with weights in other files",
                f"it names {quoted(name) or 'no file'} for them, and only plain names in its own folder are read",
                "distrust it; if it is yours, save it again with its weights beside it",
            )
        file = folder / name
        if not file.is_file():
            missing.add(name)
            continue
        try:
            offset, length = int(entries.get("offset", "0")), int(entries.get("length", "0"))
        except ValueError:
            offset = length = -1
        if min(offset, length) < 0 or offset + length > file.stat().st_size:
            why = f"{quoted(name)} holds {file.stat().st_size:,} bytes and the model claims more"
            raise UnreadableCheckpoint(path, "an ONNX model that is damaged or cut short", why, _AGAIN)
    if missing:
        raise UnreadableCheckpoint(
            path, "an ONNX model with weights in other files", f"{listed(sorted(missing))} is not beside it", _AGAIN
        )


def _damaged(path: str, kind: Format, error: BaseException) -> NoReturn:
    """The one-line error for what a library says in many."""
    if isinstance(error, MemoryError):
        why = "it asks for more memory than there is"
    else:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        why = quoted(lines[0].replace(";", ","), 120) if lines else type(error).__name__
    raise UnreadableCheckpoint(path, f"{_WHAT[kind]} that is damaged or cut short", why, _AGAIN) from None
