"""What a pickle says, read as a list of instructions and never carried out.

`torch.load` decides what may be loaded. This reading comes before it, for what torch does not check (how many bytes
each storage claims) and for what its messages do not say well (which globals a refused file names).
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import mmap

    Stream = IO[bytes] | mmap.mmap

_BYTES_PER_ELEMENT = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "ComplexDoubleStorage": 16,
    "ComplexFloatStorage": 8,
    "QInt32Storage": 4,
}  # all others take one byte an element: Char, Byte, Bool, the 8-bit quantised ones, and UntypedStorage by definition


class BrokenPickle(ValueError):
    """The bytes are not a pickle that ends, or it describes its storages in no way that torch ever did."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What one pickle names: globals as `module.name`, each once, and the bytes that each storage key claims."""

    globals: tuple[str, ...]
    storages: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Global:
    name: str


_MARK = object()
_OPAQUE = object()


def scan(stream: Stream) -> Scan:
    """What the pickle at the position of `stream` names; the position is then behind it. Raises BrokenPickle."""
    reading = _Reading()
    try:
        for op, arg, _ in pickletools.genops(stream):  # type: ignore[arg-type]  # it needs read and readline only
            reading.step(op, arg)
    except BrokenPickle:
        raise
    except UnicodeDecodeError:  # pickletools reads the names of globals as ASCII; torch's own all are
        raise BrokenPickle("a name in its pickle that is not ASCII") from None
    except Exception as error:  # noqa: BLE001 (hostile bytes make pickletools raise nearly anything)
        raise BrokenPickle(str(error)) from None
    return Scan(tuple(reading.globals), reading.storages)


def strings(stream: Stream) -> frozenset[str]:
    """Every string of the pickle at the position of `stream`; the position is then behind it. Raises BrokenPickle."""
    try:
        found = [arg for _, arg, _ in pickletools.genops(stream)]  # type: ignore[arg-type]  # any stream reads
    except Exception as error:  # noqa: BLE001 (as above)
        raise BrokenPickle(str(error)) from None
    return frozenset(str(arg) for arg in found if isinstance(arg, str | int))


class _Reading:
    """The stack of an unpickler on which only strings, integers, tuples and names of globals have a value."""

    def __init__(self) -> None:
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}
        self.globals: dict[str, None] = {}
        self.storages: dict[str, int] = {}

    def step(self, op: pickletools.OpcodeInfo, arg: object) -> None:
        match op.name:
            case "PUT" | "BINPUT" | "LONG_BINPUT" if isinstance(arg, int):
                self.memo[arg] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET" if isinstance(arg, int):
                self.stack.append(self.memo[arg])
            case "DUP":
                self.stack.append(self.stack[-1])
            case "MARK":
                self.stack.append(_MARK)
            case "GLOBAL":
                self.stack.append(self._named(str(arg).replace(" ", ".", 1)))
            case "PERSID":
                raise BrokenPickle("a storage that is named by a line of text")
            case _:
                self._generic(op, arg)

    def _generic(self, op: pickletools.OpcodeInfo, arg: object) -> None:
        """Any other instruction: its operands leave the stack as pickletools lists them, its results come."""
        before = op.stack_before
        operands: list[object] = []
        if pickletools.markobject in before:
            while (top := self.stack.pop()) is not _MARK:
                operands.append(top)
        single = before.index(pickletools.markobject) if pickletools.markobject in before else len(before)
        operands += [self.stack.pop() for _ in range(single)]
        operands.reverse()
        if op.name == "BINPERSID":
            self._persistent(operands[0])
        if op.name == "INST":
            self._named(str(arg).replace(" ", ".", 1))
        self.stack += [self._result(op.name, arg, operands)] * len(op.stack_after)

    def _result(self, name: str, arg: object, operands: list[object]) -> object:
        if name in {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE"}:
            return tuple(operands)
        if name == "STACK_GLOBAL":
            return self._named(".".join(str(part) if isinstance(part, str) else "?" for part in operands))
        # Constants are the instructions that bring their value with them and take nothing.
        return arg if isinstance(arg, str | int) and not operands else _OPAQUE

    def _named(self, name: str) -> _Global:
        self.globals[name] = None
        return _Global(name)

    def _persistent(self, identifier: object) -> None:
        match identifier:
            case ("module", *_):  # a whole module of torch < 1.6 with its source code; its class is among the globals
                return
            case ("storage", _Global(kind), str() | int() as key, _, int(count), *_) if count >= 0:
                size = count * _BYTES_PER_ELEMENT.get(kind.rpartition(".")[2], 1)
                # Torch believes whichever claim comes first; the largest is the one that must be affordable.
                self.storages[str(key)] = max(size, self.storages.get(str(key), 0))
            case _:
                raise BrokenPickle("a storage that is described in no way that torch writes")
