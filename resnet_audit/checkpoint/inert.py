"""A pickle read as data: the instructions are carried out on stand-ins, and nothing that they name is ever looked up.

There is no unpickler here. `pickletools` splits the bytes into instructions and a small machine keeps the stack and the
memo. Constants and containers become what they are. A call becomes a tensor if its function stands in the fixed table
of `rebuild`; every other call, instance or state becomes a `Stub` that records what the file says. So a pickle can
import nothing and call nothing, and what it can ask for in time and memory is counted.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

    from torch import UntypedStorage

    Stream = IO[bytes] | mmap.mmap

INSTRUCTIONS_MAX = 20_000_000
"""Instructions and copied entries of one pickle. Real checkpoints have some ten thousands; each costs 100 bytes."""


class BrokenPickle(ValueError):
    """The bytes are not a pickle that ends, or it describes its tensors in no way that torch ever did."""


@dataclass(frozen=True, slots=True)
class Global:
    """A name in a pickle, `module.member`. Only a name: nothing stands behind it."""

    name: str


@dataclass(slots=True, eq=False)
class Stub:
    """An object that the file describes and nobody makes: class or function, arguments, state, and what it contains."""

    name: str
    args: tuple[object, ...] = ()
    state: object = None
    items: list[object] = field(default_factory=list)
    entries: dict[object, object] = field(default_factory=dict)

    @property
    def attributes(self) -> dict[object, object]:
        """What its state would make its attributes: a dict, or the dict and the slots that `copyreg` writes."""
        return {key: value for part in self._states() for key, value in part.items()}

    def attribute(self, name: str) -> object:
        """One of the attributes, None without it; the others are not gone through."""
        return next((part[name] for part in self._states() if name in part), None)

    def _states(self) -> tuple[dict[object, object], ...]:
        pair = isinstance(self.state, tuple) and len(self.state) == 2
        return tuple(part for part in (self.state if pair else (self.state,)) if isinstance(part, dict))  # type: ignore[attr-defined]  # a pair is a tuple


@dataclass(frozen=True, slots=True, eq=False)
class OddKey:
    """A key of a dict that is no text and no small number. Its own value is never hashed: that can take for ever."""

    value: object


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """The bytes of one or more tensors. kind: torch's name for it, as `FloatStorage`."""

    kind: str
    data: UntypedStorage


class Storages(Protocol):
    """Where the storages of a pickle come from."""

    def get(self, identifier: object) -> Storage | Global:
        """The storage, or the class, that an identifier means. Raises BrokenPickle where it claims too much."""


class NoStorages:
    """For pickles that refer to nothing outside."""

    def get(self, identifier: object) -> Storage | Global:
        """Raises BrokenPickle."""
        del identifier
        raise BrokenPickle("a reference to a storage where there are none")


class Machine:
    """Reads pickles. call: makes a value of a named call, or None for a stub. globals: every name met, in order."""

    def __init__(self, storages: Storages, call: Callable[[str, tuple[object, ...]], object]) -> None:
        self.globals: dict[str, None] = {}
        self._storages = storages
        self._call = call
        self._spent = 0
        self._stack: list[object] = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}

    def run(self, stream: Stream) -> object:
        """The value of the pickle at the position of `stream`; the position is then behind it. Raises BrokenPickle."""
        self._stack, self._marks, self._memo = [], [], {}
        try:
            for op, arg, _ in pickletools.genops(stream):  # type: ignore[arg-type]  # it needs read and readline only
                self._spend(1)
                self._step(op.name, arg)
            return self._stack[-1]
        except BrokenPickle:
            raise
        except UnicodeDecodeError:  # pickletools reads the names of globals as ASCII; torch's own all are
            raise BrokenPickle("a name in its pickle that is not ASCII") from None
        except IndexError:
            raise BrokenPickle("its pickle takes more than it has") from None
        except Exception as error:  # noqa: BLE001 (hostile bytes make pickletools raise nearly anything)
            raise BrokenPickle(str(error)) from None

    def _spend(self, amount: int) -> None:
        self._spent += amount
        if self._spent > INSTRUCTIONS_MAX:
            raise BrokenPickle(f"its pickle has more than {INSTRUCTIONS_MAX:,} instructions")

    def _step(self, name: str, arg: object) -> None:
        stack = self._stack
        match name:
            case "BINPUT" | "LONG_BINPUT" | "PUT" if isinstance(arg, int):
                self._memo[arg] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET" if isinstance(arg, int):
                stack.append(self._recalled(arg))
            case "MARK":
                self._marks.append(len(stack))
            case "POP":
                if self._marks and self._marks[-1] == len(stack):
                    self._marks.pop()
                else:
                    stack.pop()
            case "POP_MARK":
                self._since_mark()
            case "DUP":
                stack.append(stack[-1])
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "GLOBAL" | "STACK_GLOBAL" | "INST" | "OBJ" | "NEWOBJ" | "NEWOBJ_EX" | "REDUCE" | "BUILD":
                self._object(name, arg)
            case "EXT1" | "EXT2" | "EXT4":
                stack.append(self._named(f"copyreg.extension-{arg}"))
            case "PERSID" | "BINPERSID":
                stack.append(self._storages.get(arg if name == "PERSID" else stack.pop()))
            case "NEXT_BUFFER" | "READONLY_BUFFER":
                raise BrokenPickle("a reference to a buffer outside the file")
            case _:
                self._container(name, arg)

    def _container(self, name: str, arg: object) -> None:
        """Constants and containers. Sets become lists: to hash what a hostile file puts into one can take for ever."""
        stack = self._stack
        match name:
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._top(int(name[-1]))))
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "LIST" | "FROZENSET":
                stack.append(self._since_mark())
            case "DICT":
                pairs = self._since_mark()
                stack.append({})
                _set_items(stack[-1], pairs)
            case "SETITEM":
                pairs = self._top(2)
                _set_items(stack[-1], pairs)
            case "SETITEMS":
                pairs = self._since_mark()
                _set_items(stack[-1], pairs)
            case "APPEND":
                found = self._top(1)
                _extend(stack[-1], found)
            case "APPENDS" | "ADDITEMS":
                found = self._since_mark()
                _extend(stack[-1], found)
            case _ if isinstance(arg, bool | int | float | str | bytes | bytearray):
                stack.append(arg)
            case _:
                raise BrokenPickle(f"the instruction {name}, which is not known")

    def _object(self, name: str, arg: object) -> None:
        """Names, calls, instances and states."""
        stack = self._stack
        match name:
            case "GLOBAL":
                stack.append(self._named(str(arg).replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                parts = self._top(2)
                stack.append(self._named(".".join(part if isinstance(part, str) else "?" for part in parts)))
            case "INST":
                args = self._since_mark()
                stack.append(self._called(self._named(str(arg).replace(" ", ".", 1)), tuple(args)))
            case "OBJ":
                function, *args = self._since_mark() or [None]
                stack.append(self._called(function, tuple(args)))
            case "NEWOBJ_EX":
                function, given, _ = self._top(3)
                stack.append(self._called(function, given))
            case "REDUCE" | "NEWOBJ":
                function, given = self._top(2)
                stack.append(self._called(function, given))
            case "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], Stub):
                    stack[-1].state = state  # of a dict or a tensor: attributes that no analysis needs

    def _called(self, function: object, args: object) -> object:
        given = args if isinstance(args, tuple) else (args,)
        if not isinstance(function, Global):  # a call of something that was never made
            return Stub("?", given)
        if function.name in _EMPTY_DICTS:
            return self._mapping(function.name, given)
        made = self._call(function.name, given)
        return Stub(function.name, given) if made is None else made

    def _mapping(self, name: str, args: tuple[object, ...]) -> object:
        made: dict[object, object] = {}
        source = None if name.endswith("defaultdict") or not args else args[0]
        if isinstance(source, dict):
            self._spend(len(source))
            made.update(source)
        elif isinstance(source, list):  # Python 2 gives an OrderedDict its pairs at once
            self._spend(len(source))
            for pair in source:
                if isinstance(pair, list | tuple) and len(pair) == 2:
                    _set_items(made, list(pair))
        return made

    def _named(self, name: str) -> Global:
        self.globals[name] = None
        return Global(name)

    def _recalled(self, index: int) -> object:
        if index not in self._memo:
            raise BrokenPickle(f"its pickle recalls entry {index}, which it never stored")
        return self._memo[index]

    def _top(self, count: int) -> list[object]:
        if len(self._stack) - (self._marks[-1] if self._marks else 0) < count:
            raise BrokenPickle("its pickle takes more than it has")
        found = self._stack[-count:]
        del self._stack[-count:]
        return found

    def _since_mark(self) -> list[object]:
        at = self._marks.pop()
        found = self._stack[at:]
        del self._stack[at:]
        return found


_EMPTY_DICTS = frozenset(
    {"collections.OrderedDict", "collections.defaultdict", "collections.Counter", "builtins.dict", "__builtin__.dict"}
)


def _set_items(target: object, pairs: list[object]) -> None:
    entries = target.entries if isinstance(target, Stub) else target
    if isinstance(entries, dict):
        for key, value in zip(pairs[::2], pairs[1::2], strict=False):
            entries[_key(key)] = value


def _key(key: object) -> object:
    if key is None or isinstance(key, str | bytes | Stub):
        return key
    # Larger integers, and tuples of tuples, can be chosen so that hashing or comparing them takes quadratic time.
    return key if isinstance(key, int) and abs(key) < 2**60 else OddKey(key)


def _extend(target: object, found: list[object]) -> None:
    items = target.items if isinstance(target, Stub) else target
    if isinstance(items, list):
        items.extend(found)
