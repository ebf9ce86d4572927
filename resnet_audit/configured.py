"""`[tool.resnet-audit]` as defaults of the flags: of every command that has them, beaten by the command line."""

from __future__ import annotations

import inspect
import os
import sys
from dataclasses import dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, cast, get_args, get_origin

from resnet_audit.check import Configuration, read_configuration
from resnet_audit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import typer
    from typer.exceptions import TyperException

TALKING = ("explain", "schema")
"""Commands that audit nothing: no configuration concerns them."""

TYPES: Mapping[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    float: ((int, float), "a number"),
    int: ((int,), "a whole number"),
    str: ((str,), "a text"),
}
"""What a value in TOML must be for each type of flag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A flag of a command: the name and the type of its parameter, and whether it may be given several times."""

    name: str
    kind: type
    multiple: bool


def configure(context: typer.Context) -> None:
    """Read the configuration of the current folder into the defaults of all commands, and into `context.obj`.

    Raises UsageError, which names the file, for what it cannot be used for.
    """
    context.obj = Configuration()
    if context.invoked_subcommand in TALKING or {"-h", "--help"} & set(sys.argv[1:]):
        return
    commands: dict[str, Any] = context.command.commands  # type: ignore[attr-defined]  # an application with commands is a group
    flags = {name: _flags(command) for name, command in commands.items() if name not in TALKING}
    found = read_configuration(os.curdir, {word for words in flags.values() for word in words})
    context.obj = found
    defaults: dict[str, dict[str, Any]] = {}
    for name, words in flags.items():
        given = words.keys() & found.flags.keys()
        defaults[name] = {words[word].name: _checked(words[word], word, found) for word in sorted(given)}
        if found.models:
            defaults[name]["models"] = list(found.models)
    context.default_map = defaults


def told(error: TyperException) -> str:
    """What typer refuses, and where the value stands if it is of the configuration."""
    text = error.format_message().replace("Value error, ", "")  # a word of the library under typer
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    source = None if context is None or parameter is None else context.get_parameter_source(parameter.name)
    if context is None or source is None or source.name != "DEFAULT_MAP":
        return text
    return f"{context.find_root().obj.path}, [tool.resnet-audit]: {text.rstrip('.')}; correct it"


def _flags(command: Any) -> dict[str, Flag]:  # noqa: ANN401 - typer names no type for the commands that it makes
    """The flags of a command by their words, without dashes."""
    parameters = inspect.signature(command.callback).parameters
    return {
        word[2:]: Flag(name=one.name, kind=_kind(parameters[one.name].annotation), multiple=one.multiple)
        for one in command.params
        for word in one.opts
        if word.startswith("--") and one.name in parameters
    }


def _kind(hint: Any) -> type:  # noqa: ANN401 - an annotation
    """The type of one value of a parameter: `int` of `Annotated[int | None, ...]`, `str` of a Literal of texts."""
    inner = [one for one in get_args(hint) if one is not NoneType]
    match get_origin(hint):
        case None:
            return cast("type", hint)
        case origin if origin is Literal:
            return type(inner[0])
        case _:
            return _kind(inner[0])


def _checked(flag: Flag, word: str, found: Configuration) -> object:
    """The value of a word, which must be of the type of its flag. Raises UsageError."""
    value = found.flags[word]
    kinds, wanted = TYPES[flag.kind]
    values = value if flag.multiple and isinstance(value, list) else [value]
    if (flag.multiple and values is not value) or not all(_is_one_of(one, kinds) for one in values):
        wanted = f"a list, each {wanted}" if flag.multiple else wanted
        raise UsageError(f"{found.path}, [tool.resnet-audit]: {word} = {value!r} is not {wanted}; correct it")
    return value


def _is_one_of(value: object, kinds: tuple[type, ...]) -> bool:
    """Whether a value is of one of the types; true and false are no numbers."""
    return isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
