"""What is known of the values of an ONNX graph: constants, computed as far as no input is needed, and live values.

A live value carries a tensor without storage that has its shape and dtype, so that every rule is tried on shapes before
it is believed. The batch is `BATCH` there, a prime that no other size has by chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from resnet_audit.checkpoint.names import safe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto
    from torch import Tensor

    Array = np.ndarray

BATCH = 7919
"""The batch of the tensors without storage."""

_LARGEST = 2**26
"""Numbers in a constant that is computed here; a longer one stays unknown."""

_COMPUTED = frozenset(
    {
        *("Identity", "Cast", "Shape", "Size", "Gather", "Unsqueeze", "Squeeze", "Concat", "Slice", "Transpose"),
        *("Reshape", "Flatten", "Add", "Sub", "Mul", "Div", "Mod", "Neg", "Abs", "Pow", "Sqrt", "Exp", "Log"),
        *("Reciprocal", "Floor", "Ceil", "Min", "Max", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"),
        *("Not", "And", "Or", "Where", "ReduceProd", "ReduceSum", "ReduceMean", "Split"),
        *("ConstantOfShape", "Range", "Expand", "Tile"),
    }
)
_MAKE_ROOM = frozenset({"ConstantOfShape", "Range", "Expand", "Tile", "Pow", "Exp"})
_KEEPS_ORIGIN = frozenset({"Identity", "Cast", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "DequantizeLinear"})
_KEPT_RAW = {"bfloat16": (np.int16, torch.bfloat16)}


@dataclass(frozen=True, slots=True)
class Live:
    """A value that depends on the input: the node that gives it, and its shape and dtype, None where unknown."""

    node: str
    meta: Tensor | None

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape without batch; None where it is unknown."""
        return None if self.meta is None else tuple(self.meta.shape[1:])

    @property
    def rank(self) -> int | None:
        """The number of axes, batch included."""
        return None if self.meta is None else self.meta.ndim


@dataclass(frozen=True, slots=True)
class Constant:
    """A value that no input changes, and the initialiser that it is made of."""

    array: Array
    origin: str

    @property
    def tensor(self) -> Tensor:
        """The numbers as a tensor; of constants expanded to the batch, one sample."""
        array = self.array[:1] if self.array.ndim and self.array.shape[0] == BATCH else self.array
        return as_tensor(array)

    @property
    def ints(self) -> tuple[int, ...]:
        """The numbers as whole numbers."""
        return tuple(int(number) for number in self.array.reshape(-1))

    @property
    def layer(self) -> str:
        """The name of the layer whose weight this is."""
        return safe(self.origin).removesuffix(".weight") or "weight"


@dataclass(frozen=True, slots=True)
class Unknown:
    """A value that depends on another input of the network, or that is too large or odd to compute."""

    name: str


Value = Live | Constant | Unknown


def as_tensor(array: Array) -> Tensor:
    """The array as a tensor of the same numbers, sharing its memory where that can be written to."""
    if array.dtype.name in _KEPT_RAW:
        raw, dtype = _KEPT_RAW[array.dtype.name]
        return torch.from_numpy(np.array(array).view(raw)).view(dtype)
    try:
        return torch.from_numpy(array if array.flags.writeable else np.array(array))
    except TypeError:  # a type that torch has not, such as 4-bit integers
        return torch.from_numpy(array.astype(np.float32))


def array_of(proto: TensorProto | None) -> Array | None:
    """The numbers of a tensor of the file; None if it is damaged: dimensions and bytes that do not agree."""
    from onnx import numpy_helper  # noqa: PLC0415 (an optional extra)

    if proto is None:
        return None

    held = len(proto.raw_data) * 8 or 64 * max(
        len(proto.float_data), len(proto.int32_data), len(proto.int64_data), len(proto.double_data)
    )
    count = 1
    for size in proto.dims:
        count *= size
    if not 0 <= count <= max(held, len(proto.uint64_data)):
        return None
    try:
        return np.asarray(numpy_helper.to_array(proto))
    except Exception:  # noqa: BLE001 (hostile bytes make it raise nearly anything)
        return None


def compute(
    node: NodeProto, inputs: Sequence[Value | None], attributes: Mapping[str, object], opset: int
) -> list[Value] | None:
    """The outputs of a node that depends on constants alone, or on the shape of a live value; None if it does not."""
    kind = node.op_type
    if node.domain not in {"", "ai.onnx"} or kind == "If":
        return None
    if kind in {"Shape", "Size"} and inputs and isinstance(inputs[0], Live):
        return _shape_of(kind, inputs[0], attributes)
    constants = [value for value in inputs if isinstance(value, Constant)]
    if len(constants) < sum(value is not None for value in inputs) or not constants:
        return None
    origin = node.output[0]
    if kind in _KEEPS_ORIGIN:
        origin = constants[0].origin
    if kind == "DequantizeLinear":
        return [_dequantized(constants, attributes, origin)]
    if kind not in _COMPUTED or not _has_room(kind, constants):
        return [Unknown(name) for name in node.output]
    arrays = _evaluate(node, [value.array for value in inputs if isinstance(value, Constant)], opset)
    if arrays is None:
        return [Unknown(name) for name in node.output]
    return [Constant(array, origin) for array in arrays]


def _shape_of(kind: str, value: Live, attributes: Mapping[str, object]) -> list[Value] | None:
    if value.meta is None:
        return [Unknown(value.node)]
    if kind == "Size":
        return [Constant(np.array(value.meta.numel(), dtype=np.int64), "size")]
    start, end = attributes.get("start", 0), attributes.get("end", None)
    shape = np.array(tuple(value.meta.shape), dtype=np.int64)
    return [Constant(shape[start if isinstance(start, int) else 0 : end if isinstance(end, int) else None], "shape")]


def _has_room(kind: str, constants: Sequence[Constant]) -> bool:
    """Whether the result is surely of a size that may be computed."""
    sizes = [constant.array.size for constant in constants]
    if sum(sizes) > _LARGEST:
        return False
    if kind not in _MAKE_ROOM:
        return True
    numbers = [constant.array.astype(np.float64) for constant in constants]
    if kind == "ConstantOfShape":
        return bool(np.prod(np.abs(numbers[0])) <= _LARGEST)
    if kind == "Range":
        return bool(abs(numbers[1] - numbers[0]) <= _LARGEST * abs(numbers[2]) > 0) if len(numbers) > 2 else False
    if kind in {"Expand", "Tile"}:
        return bool(np.prod(np.maximum(np.abs(numbers[1]), 1.0)) * sizes[0] <= _LARGEST)
    return True


def _evaluate(node: NodeProto, arrays: Sequence[Array], opset: int) -> list[Array] | None:
    """The outputs of one node by onnx's reference implementation; None where it has none or fails."""
    from onnx import TypeProto, helper  # noqa: PLC0415 (an optional extra)
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 (as above)

    names = [name for name in node.input if name]
    feeds = dict(zip(names, arrays, strict=True))
    outputs = [name for name in node.output if name]
    graph = helper.make_graph(
        [node],
        "constant",
        [helper.make_value_info(name, TypeProto()) for name in feeds],
        [helper.make_value_info(name, TypeProto()) for name in outputs],
    )
    try:
        with np.errstate(all="ignore"):
            model: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
            found = ReferenceEvaluator(model).run(None, feeds)
    except Exception:  # noqa: BLE001 (it raises nearly anything on odd nodes)
        return None
    return [np.asarray(array) for array in found]


def _dequantized(constants: Sequence[Constant], attributes: Mapping[str, object], origin: str) -> Value:
    """(x - zero point) * scale, per tensor or along one axis."""
    numbers, scale = constants[0].array, constants[1].array
    zero = constants[2].array if len(constants) > 2 else np.zeros_like(scale)
    axis = attributes.get("axis", 1)
    if scale.ndim == 1 and scale.size > 1 and isinstance(axis, int) and -numbers.ndim <= axis < numbers.ndim:
        along = [1] * numbers.ndim
        along[axis] = -1
        scale, zero = scale.reshape(along), zero.reshape(along)
    try:
        found = (numbers.astype(np.float32) - zero.astype(np.float32)) * scale.astype(np.float32)
    except ValueError:
        return Unknown(origin)
    return Constant(found.astype(np.float32), origin)


def inferred_shapes(model: ModelProto, source: str, meta: Tensor | None) -> dict[str, tuple[int, ...]]:
    """Shapes, batch included, that onnx infers or the file states; large weights are left out, only their shapes count.

    The batch of the input `source` becomes `BATCH` where the file leaves it open.
    """
    import onnx  # noqa: PLC0415 (an optional extra)

    light = onnx.ModelProto()
    light.ir_version = model.ir_version
    light.opset_import.extend(model.opset_import)
    light.graph.name = "shapes"
    light.graph.node.extend(model.graph.node)
    light.graph.output.extend(model.graph.output)
    light.graph.value_info.extend(model.graph.value_info)
    held = {tensor.name for tensor in model.graph.initializer}
    light.graph.input.extend(value for value in model.graph.input if value.name not in held)
    for tensor in model.graph.initializer:
        small = len(tensor.raw_data) <= 1024 and len(tensor.float_data) <= 256 and len(tensor.int64_data) <= 256
        if small:
            light.graph.initializer.append(tensor)
        light.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    for value in light.graph.input:
        if value.name == source and meta is not None:
            _state(value, tuple(meta.shape))
    try:
        light = onnx.shape_inference.infer_shapes(light, check_type=False, strict_mode=False, data_prop=True)
    except Exception:  # noqa: BLE001 (it raises nearly anything on odd graphs; what the file states is left)
        return {}
    found = {}
    for value in (*light.graph.value_info, *light.graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.dim_value > 0 for dim in dims):
            found[value.name] = tuple(dim.dim_value for dim in dims)
    return found


def _state(value: ValueInfoProto, shape: tuple[int, ...]) -> None:
    """Write `shape` into the dimensions that the file leaves open."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        for _ in shape:
            tensor.shape.dim.add()
    for dim, size in zip(tensor.shape.dim, shape, strict=False):
        if dim.dim_value < 1:
            dim.dim_value = size
