"""Weights that are plain arrays: .npz files, ONNX initialisers, and the weights of a torch.export program."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from resnet_audit.checkpoint.archive import Archive
from resnet_audit.checkpoint.content import Content, damaged, first_line
from resnet_audit.checkpoint.inert import BrokenPickle
from resnet_audit.checkpoint.names import quoted
from resnet_audit.checkpoint.programs import open_program
from resnet_audit.checkpoint.rebuild import strided
from resnet_audit.checkpoint.sniff import Format
from resnet_audit.checkpoint.torchfiles import torch_zip
from resnet_audit.errors import UnreadableCheckpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_JSON_MAX = 100_000_000

# torch._export.serde.schema.ScalarType: numbers that torch writes into the file
_EXPORT_DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    9: torch.complex32,
    10: torch.complex64,
    11: torch.complex128,
    12: torch.bool,
    13: torch.bfloat16,
    28: torch.uint16,
    29: torch.float8_e4m3fn,
    30: torch.float8_e5m2,
    31: torch.float8_e4m3fnuz,
    32: torch.float8_e5m2fnuz,
}


def npz(path: str) -> Content:
    """The arrays of an .npz file by name. Raises UnreadableCheckpoint for Python objects in them: those are pickles."""
    kind = Format.NPZ
    with Archive(path, kind) as archive:
        found: dict[str, object] = {}
        for name in archive.records:
            data = archive.storage(name)
            raw = torch.empty(0, dtype=torch.uint8).set_(data).numpy()
            found[name.removesuffix(".npy")] = tensor_of(_array(path, name, archive, raw))
        return Content(value=found, notes=archive.notes)


def _array(path: str, name: str, archive: Archive, raw: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, Any]:
    with archive.stream(name) as stream:
        try:
            version = np.lib.format.read_magic(stream)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = header(stream)
            at = stream.tell()
        except Exception as error:  # noqa: BLE001 (numpy and onnx raise nearly anything)
            damaged(path, Format.NPZ, first_line(error))
    if dtype.hasobject:
        raise UnreadableCheckpoint(
            path,
            f"an .npz file with an array of Python objects ({quoted(name)})",
            "those are pickles, and nothing in a checkpoint is run",
            "save each weight as an array of numbers",
        )
    count = 1
    for n in shape:
        count *= n
    if min(shape, default=0) < 0 or count * dtype.itemsize != len(raw) - at:
        damaged(path, Format.NPZ, f"array {quoted(name)} claims {count * dtype.itemsize:,} bytes")
    flat = np.ndarray(count, dtype, raw[at:].tobytes())
    return flat.reshape(shape, order="F" if fortran else "C")


def tensor_of(array: np.ndarray[Any, Any]) -> object:
    """`array` as a tensor; None for text, dates and records, which are no weights."""
    own = array.astype(array.dtype.newbyteorder("="))  # a copy: writable, and of this machine's byte order
    wide = getattr(torch, array.dtype.name, None)  # bfloat16 and float8, which numpy knows by extension only
    if array.dtype.kind in "biufc":
        try:
            return torch.from_numpy(own)
        except TypeError:  # 80-bit floats
            return None
    if isinstance(wide, torch.dtype) and wide.itemsize == array.dtype.itemsize:
        return torch.from_numpy(own.view(f"u{wide.itemsize}")).view(wide)
    return None


def onnx_weights(path: str) -> Content:
    """The initialisers of an ONNX model by name, and its floating constants by the name of what they compute."""
    model = open_program(path, Format.ONNX)
    import onnx  # noqa: PLC0415 (an extra; open_program has said so if it is not there)

    found: dict[str, object] = {}
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop(0)
        named = [(tensor.name, tensor) for tensor in graph.initializer]
        for node in graph.node:
            graphs += [a.g for a in node.attribute if a.HasField("g")] + [g for a in node.attribute for g in a.graphs]
            if node.op_type == "Constant" and node.output:
                named += [(node.output[0], a.t) for a in node.attribute if a.HasField("t") and a.t.dims]
        for name, tensor in named:
            try:
                value = tensor_of(onnx.numpy_helper.to_array(tensor))
            except Exception as error:  # noqa: BLE001 (numpy and onnx raise nearly anything)
                damaged(path, Format.ONNX, first_line(error))
            found.setdefault(name, value)
    return Content(value=found)


def pt2(path: str) -> Content:
    """The weights of a torch.export program, by the names of its state dict. The program is neither read nor run."""
    kind = Format.PT2
    with Archive(path, kind) as archive:
        for name in archive.records:
            # Up to torch 2.8 they are a torch file inside the archive.
            old = name.rpartition("/")[2] == "serialized_state_dict.pt"
            if old or ("data/weights/" in name and name.endswith(".pt")):
                return torch_zip(path, kind, inside=archive.read(name))
        configs = [name for name in archive.records if name.endswith("_weights_config.json")]
        if len(configs) != 1:
            raise UnreadableCheckpoint(
                path,
                "a torch.export program (.pt2)",
                "it holds no list of weights, or several",
                "load it with torch.export.load and save the state_dict of the program",
            )
        if archive.size(configs[0]) > _JSON_MAX:
            damaged(path, kind, "its list of weights is larger than any real one")
        try:
            listed = json.loads(archive.read(configs[0]))["config"]
            folder = configs[0].rpartition("/")[0]
            found = {name: _exported(path, archive, folder, entry) for name, entry in listed.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, RuntimeError) as error:
            damaged(path, kind, first_line(error))
        return Content(value=found, notes=archive.notes)


def _exported(path: str, archive: Archive, folder: str, entry: Mapping[str, Any]) -> object:
    record, meta = f"{folder}/{entry['path_name']}", entry["tensor_meta"]
    if record not in archive.records:
        raise BrokenPickle(f"it has no record {quoted(record)}")
    if entry["use_pickle"]:
        return torch_zip(path, Format.PT2, inside=archive.read(record)).value
    dtype = _EXPORT_DTYPES.get(meta["dtype"])
    if dtype is None:
        raise BrokenPickle(f"a dtype of the unknown number {quoted(str(meta['dtype']))}")
    sizes, strides = ([n["as_int"] for n in meta[key]] for key in ("sizes", "strides"))
    tensor: Tensor = strided(archive.storage(record), dtype, meta["storage_offset"]["as_int"], sizes, strides)
    return tensor
