"""The fixed table of calls in a pickle that have a value, all without effects, and the names that would have had some.

Every function here takes what a file says and may raise anything on nonsense; none imports, opens or runs what the file
names. To add one is to extend what a stranger's file can ask for: it must be a pure function of its arguments, and must
not allocate more than its storages hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from resnet_audit.checkpoint.inert import BrokenPickle, Global, Storage, Stub

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SPARSE = frozenset({"torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_nested_tensor"})
"""Calls that make tensors which are no dense arrays: they stay stubs, and are refused by name."""

_STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "QInt8Storage": torch.int8,
    "QUInt8Storage": torch.uint8,
    "QInt32Storage": torch.int32,
    "UntypedStorage": torch.uint8,
}
_DTYPES = {
    f"torch.{name}": value for name, value in sorted(vars(torch).items()) if isinstance(value, torch.dtype)
}  # of this torch, so that a dtype that comes later is read as well

_DIMENSIONS_MAX = 64  # torch's own limit


@dataclass(frozen=True, slots=True, eq=False)
class Quantised:
    """A quantised tensor, not yet multiplied out: weight = scale * (values - zero), the same along all but `axis`."""

    values: Tensor
    scale: object
    zero: object
    axis: int | None


def element_size(kind: str) -> int:
    """The bytes of one element of a storage of this kind; 1 for kinds that torch does not have."""
    return _STORAGE_DTYPES.get(kind, torch.uint8).itemsize


def call(name: str, args: tuple[object, ...]) -> object:
    """What the call of `name` gives, None where it is not in the table. Raises nearly anything on false arguments."""
    function = _TABLE.get(name)
    return None if function is None else function(*args)


def dtype_of(value: object) -> torch.dtype:
    """The dtype that a name in a pickle means. Raises BrokenPickle for any other value."""
    if isinstance(value, Global) and value.name in _DTYPES:
        return _DTYPES[value.name]
    raise BrokenPickle("a dtype that torch does not have")


def strided(data: torch.UntypedStorage, dtype: torch.dtype, place: object, size: object, stride: object) -> Tensor:
    """The tensor at `place` elements into `data`. Raises BrokenPickle unless every one of its numbers is in there."""
    sizes, strides = _whole_numbers(size), _whole_numbers(stride)
    if not isinstance(place, int) or place < 0 or len(sizes) != len(strides) or len(sizes) > _DIMENSIONS_MAX:
        raise BrokenPickle("a tensor with a shape that torch does not have")
    count = 1
    for n in sizes:
        count *= n
    last = place + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True)) if count else -1
    if count >= 2**62 or (last + 1) * dtype.itemsize > data.nbytes():
        raise BrokenPickle("a tensor that is larger than its storage")
    # A storage of memory would grow where the tensor is larger, hence the check above and not torch's own.
    return torch.empty(0, dtype=dtype, device=data.device).set_(data, place if count else 0, sizes, strides)


def _whole_numbers(value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or not all(isinstance(n, int) and 0 <= n < 2**62 for n in value):
        raise BrokenPickle("a tensor with a shape that torch does not have")
    return tuple(int(n) for n in value)


def _tensor(storage: object, place: object, size: object, stride: object, *_: object) -> object:
    """`torch._utils._rebuild_tensor` and `_v2`: the dtype is that of the storage."""
    if not isinstance(storage, Storage) or storage.kind not in _STORAGE_DTYPES:
        raise BrokenPickle("a tensor without a storage")
    return strided(storage.data, _STORAGE_DTYPES[storage.kind], place, size, stride)


def _tensor_v3(
    storage: object,
    place: object,
    size: object,
    stride: object,
    _grad: object,
    _hooks: object,
    dtype: object,
    *_: object,
) -> object:
    if not isinstance(storage, Storage):
        raise BrokenPickle("a tensor without a storage")
    return strided(storage.data, dtype_of(dtype), place, size, stride)


def _quantised(storage: object, place: object, size: object, stride: object, scheme: object, *_: object) -> object:
    values = _tensor(storage, place, size, stride)
    match scheme:
        case (Global(), scale, zero) if isinstance(values, Tensor):
            return Quantised(values, scale, zero, None)
        case (Global(), scale, zero, int(axis)) if isinstance(values, Tensor) and 0 <= axis < values.dim():
            return Quantised(values, scale, zero, axis)
    raise BrokenPickle("a quantised tensor of a scheme that torch does not have")


def _meta(dtype: object, size: object, stride: object, *_: object) -> object:
    sizes, strides = _whole_numbers(size), _whole_numbers(stride)
    return torch.empty_strided(sizes, strides, dtype=dtype_of(dtype), device="meta")


def _first(value: object = None, *_: object) -> object:
    """For wrappers around one value: a Parameter is its tensor, a Size its tuple, a set the list of its members."""
    return value


def _of_type(function: object, _type: object, args: object, *_: object) -> object:
    """A tensor of a subclass is the tensor that its first argument makes."""
    if isinstance(function, Global) and isinstance(args, tuple) and function.name in _PURE:
        return _PURE[function.name](*args)
    return None


def _sequence(values: object = None, *_: object) -> object:
    return values if isinstance(values, list | tuple) else None


def _complex(real: object = 0.0, imaginary: object = 0.0) -> object:
    return complex(real, imaginary) if isinstance(real, float) and isinstance(imaginary, float) else None


_OF_TYPE = frozenset({"torch._tensor._rebuild_from_type", "torch._tensor._rebuild_from_type_v2"})
_PURE: dict[str, Callable[..., object]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_qtensor": _quantised,
    "torch._utils._rebuild_meta_tensor_no_storage": _meta,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first,
    "torch.nn.parameter.Parameter": _first,
    "torch.autograd.variable.Variable": _first,
    "torch.Size": _sequence,
    "builtins.set": _sequence,
    "builtins.frozenset": _sequence,
    "__builtin__.set": _sequence,
    "__builtin__.frozenset": _sequence,
    "builtins.complex": _complex,
    "__builtin__.complex": _complex,
    "torch.jit._pickle.build_intlist": _sequence,
    "torch.jit._pickle.build_doublelist": _sequence,
    "torch.jit._pickle.build_boollist": _sequence,
    "torch.jit._pickle.build_tensorlist": _sequence,
    "torch.jit._pickle.restore_type_tag": _first,
}
_TABLE = _PURE | dict.fromkeys(_OF_TYPE, _of_type)

# What runs code, reaches files or the network, or imports: `module.member` or any member of the module.
_DANGEROUS = """
    _io _pickle _posixsubprocess _thread aiohttp asyncio bdb cffi cloudpickle code codeop commands ctypes dill ftplib
    functools.reduce http httplib imaplib imp importlib io.open joblib.load linecache marshal mmap multiprocessing
    numpy.f2py numpy.load numpy.testing nt operator os pdb pickle pip pkgutil platform popen2 posix profile pty pydoc
    requests runpy shelve shutil signal site smtplib socket sqlite3 ssl subprocess sys tempfile threading timeit
    torch._dynamo torch._inductor torch.classes torch.distributed.rpc torch.hub torch.jit.load torch.load torch.ops
    torch.package torch.serialization.load torch.utils.cpp_extension trace types.CodeType types.FunctionType urllib
    urllib2 venv webbrowser xmlrpc zipimport
"""
_DANGEROUS_BUILTINS = """
    __import__ apply breakpoint compile delattr eval exec execfile exit file filter getattr globals help input locals
    map open quit reload setattr vars
"""
_ANYWHERE = """
    __builtins__ __code__ __globals__ __import__ __subclasses__ builtins ctypes eval exec importlib os pickle popen
    posix runpy shutil socket subprocess sys system
"""  # a name may take a way through any module that imports one of these, as torch.serialization.os.system
_OF_BUILTINS = {f"{owner}.{name}" for owner in ("builtins", "__builtin__") for name in _DANGEROUS_BUILTINS.split()}
_DANGEROUS_NAMES = frozenset(_DANGEROUS.split()) | _OF_BUILTINS
_DANGEROUS_PARTS = frozenset(_ANYWHERE.split())


def dangerous(names: Sequence[str]) -> tuple[str, ...]:
    """Those of the `names` in a pickle that a real unpickler would have let run code or leave the process."""
    return tuple(name for name in names if _is_dangerous(name))


def _is_dangerous(name: str) -> bool:
    parts = name.split(".")
    starts = {".".join(parts[: n + 1]) for n in range(min(len(parts), 8))}
    extension = name.startswith("copyreg.extension-")  # a number for a name that only the other process knows
    return extension or not (_DANGEROUS_NAMES.isdisjoint(starts) and _DANGEROUS_PARTS.isdisjoint(parts[1:]))


def is_sparse(value: object) -> bool:
    """Whether a value of a state dict is a tensor that is no dense array."""
    return isinstance(value, Stub) and value.name in SPARSE
