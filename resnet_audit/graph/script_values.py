"""What TorchScript computes with plain objects, and how its nodes name their arguments."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch

from resnet_audit.checkpoint.names import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Refused(Exception):
    """The program does something that has no place in a graph; the text says what."""


class Misfit(Exception):
    """An operation does not take what reaches it: the example has another size, or batch, than the program wants."""


PLAIN: dict[str, Callable[..., Any]] = {
    "aten::__getitem__": operator.getitem,
    "aten::len": len,
    "aten::__is__": lambda a, b: a is b,
    "aten::__isnot__": lambda a, b: a is not b,
    "aten::__not__": operator.not_,
    "aten::__contains__": lambda box, item: item in box,
    "aten::eq": operator.eq,
    "aten::ne": operator.ne,
    "aten::lt": operator.lt,
    "aten::le": operator.le,
    "aten::gt": operator.gt,
    "aten::ge": operator.ge,
    "aten::add": lambda a, b, *_: a + b,
    "aten::sub": lambda a, b, *_: a - b,
    "aten::mul": operator.mul,
    "aten::div": lambda a, b, mode=None: a / b if mode is None else a // b if mode == "floor" else int(a / b),
    "aten::floor_divide": operator.floordiv,
    "aten::floordiv": operator.floordiv,
    "aten::remainder": operator.mod,
    "aten::neg": operator.neg,
    "aten::Int": int,
    "aten::Float": float,
    "aten::Bool": bool,
    "aten::ScalarImplicit": lambda a: a,
    "aten::IntImplicit": int,
    "aten::FloatImplicit": float,
    "aten::__and__": operator.and_,
    "aten::__or__": operator.or_,
    "aten::list": list,
    "aten::str": str,
    "aten::format": lambda *_: "",
    "aten::warn": lambda *_: None,
    "prim::min": min,
    "prim::max": max,
    "prim::NumToTensor": lambda a: a,
    "prim::unchecked_cast": lambda a: a,
    "prim::data": lambda a: a,
    "prim::ListConstruct": lambda *items: list(items),
    "prim::TupleConstruct": lambda *items: tuple(items),
    "prim::TupleIndex": operator.getitem,
    "prim::Uninitialized": lambda: None,
    "prim::requires_grad": lambda _: False,
    **dict.fromkeys(("prim::is_cuda", "prim::is_nested", "prim::is_sparse", "prim::is_quantized"), lambda _: False),
    "prim::DictConstruct": lambda *items: dict(zip(items[::2], items[1::2], strict=True)),
}
"""What TorchScript computes with plain objects. Tensors are handled elsewhere."""

ABOUT = {
    "aten::dim": lambda x: x.ndim,
    "aten::numel": lambda x: x.numel(),
    "aten::is_floating_point": lambda x: x.is_floating_point(),
    "aten::len": lambda x: x.shape[0],
    "prim::dtype": lambda x: x.dtype,
    "prim::device": lambda _: torch.device("cpu"),
    "prim::layout": lambda x: x.layout,
    "prim::shape": lambda x: list(x.shape),
    "aten::size": lambda x, *axis: x.shape[axis[0]] if axis else list(x.shape),
}
"""What is known of a live value without its numbers."""


def leaves(tree: object) -> Iterator[object]:
    """All values that are no list of values, in order."""
    if isinstance(tree, list | tuple):
        for branch in tree:
            yield from leaves(branch)
    else:
        yield tree


def constant_of(node: Any) -> object:  # noqa: ANN401 (torch's nodes have no types)
    """The value of a prim::Constant. Raises Refused for one that is not read."""
    value = node.output().toIValue()
    if (
        value is None
        and str(node.output().type()) not in {"NoneType", "Optional[Tensor]"}
        and node.hasAttribute("value")
    ):
        raise Refused("the program holds a constant of a kind that is not read here")
    return value


def function_of(target: str) -> Callable[..., Any]:
    """What torch calls by this name."""
    library, _, name = target.rpartition("::")
    found: Callable[..., Any] = getattr(getattr(torch.ops, library or "aten"), name)
    return found


def computed(kind: str, function: Callable[..., Any], positional: list[Any], named: dict[str, Any]) -> Any:  # noqa: ANN401 (any value)
    """The value of a function of constants. Raises Misfit where it fails."""
    try:
        with torch.no_grad():
            return function(*positional, **named)
    except Exception as error:  # noqa: BLE001 (constants of a hostile program have any type and any value)
        raise Misfit(f"{quoted(kind)} cannot take what reaches it: {line_of(error)}") from None


def split_arguments(node: Any, arguments: list[Any]) -> tuple[list[Any], dict[str, Any]]:  # noqa: ANN401 (as above)
    """Arguments by position and by name, as the operation's schema wants them."""
    schema = torch._C.parse_schema(node.schema())  # noqa: SLF001 (torch has no public reader of schemas)
    positional, named = [], {}
    for value, slot in zip(arguments, schema.arguments, strict=True):
        if slot.kwarg_only:
            named[slot.name] = value
        else:
            positional.append(value)
    return positional, named


def line_of(error: BaseException) -> str:
    """The first line of what an error says, fit to stand in a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return quoted(lines[0].replace(";", ","), 120) if lines else type(error).__name__
