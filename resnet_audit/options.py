"""The flags that all commands share, declared once, and what they say as one value."""

from __future__ import annotations

import inspect
import os
from dataclasses import dataclass, replace
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

import typer

from resnet_audit.errors import UsageError
from resnet_audit.settings import InputKind, Many, Precision, Settings

if TYPE_CHECKING:
    from collections.abc import Callable

Format = Literal["table", "json", "jsonl", "markdown", "html", "sarif", "junit", "github"]
OF_CHECK: tuple[Format, ...] = ("sarif", "junit", "github")
"""Formats of a verdict, which only `check` gives."""

SUFFIXES: dict[str, Format] = {".json": "json", ".jsonl": "jsonl", ".md": "markdown", ".html": "html", ".txt": "table"}

Models = Annotated[
    list[str] | None,
    typer.Argument(metavar="MODEL", help="A file, a folder or a glob. Without one: the only checkpoint here."),
]
OUTPUT, PASSES, GRAPH, TALK = "Output", "Passes through the network", "The network", "Messages"
MANY = "Many checkpoints"


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """What the shared flags say. figure: the file of `--figure`; many: of commands that go through many files."""

    settings: Settings
    format: Format
    output: str | None
    figure: str | None
    wide: bool
    quiet: bool
    verbose: bool
    debug: bool
    many: Many


def _size(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) not in {1, 3} or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"--input-size {text} is not CxHxW such as 3x32x32, nor a number of tokens")
    return tuple(int(part) for part in parts)


def _format(given: str | None, output: str | None) -> Format:
    """The format that was asked for, else the one of the output's suffix, else a table. Raises UsageError."""
    name = given
    if name is None and output is not None:
        suffix = output[output.rfind(".") :] if "." in output else ""
        name = SUFFIXES.get(suffix)
        if name is None:
            known = ", ".join(SUFFIXES)
            raise UsageError(f"--output {output}: the suffix is none of {known}; name the format with --format")
    if name is not None and name not in get_args(Format):
        raise UsageError(f"--format {name} is none of {', '.join(get_args(Format))}")
    return cast("Format", name or "table")


def _no_device(name: str) -> str:
    """Why a device other than the CPU cannot be used."""
    import torch  # noqa: PLC0415 - slow to import, and only a refusal needs it here

    if name.partition(":")[0] == "cuda" and not torch.cuda.is_available():
        return f"--device {name}: torch sees no CUDA device on this machine; leave the flag out to use the CPU"
    return f"--device {name}: this version computes on the CPU only; leave the flag out"


def common(  # noqa: PLR0913 - one parameter a flag
    *,
    format: Annotated[  # noqa: A002 - the flag's name
        str | None,
        typer.Option(
            "-f",
            "--format",
            metavar="FORMAT",
            help=f"{', '.join(name for name in get_args(Format) if name not in OF_CHECK)}; "
            f"check also: {', '.join(OF_CHECK)}. Table by default.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Write there; the suffix tells the format.", rich_help_panel=OUTPUT
        ),
    ] = None,
    figure: Annotated[
        str | None,
        typer.Option(
            "--figure", metavar="FILE", help="Draw it there (.svg .pdf .png); extra `plot`.", rich_help_panel=OUTPUT
        ),
    ] = None,
    wide: Annotated[bool, typer.Option("--wide", help="All columns, however wide.", rich_help_panel=OUTPUT)] = False,
    blocks: Annotated[
        list[str] | None,
        typer.Option(
            "--blocks", metavar="GLOB", help="Only rows of these blocks; totals stay.", rich_help_panel=OUTPUT
        ),
    ] = None,
    input_size: Annotated[
        str | None,
        typer.Option(
            "--input-size", metavar="CxHxW", help="Size of one input, such as 3x32x32; T tokens.", rich_help_panel=GRAPH
        ),
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="NAME", help="Which of rival state dicts.", rich_help_panel=GRAPH)
    ] = None,
    assume: Annotated[bool, typer.Option("--assume", help="Run a guessed structure.", rich_help_panel=GRAPH)] = False,
    arch: Annotated[
        str | None,
        typer.Option(
            "--arch",
            metavar="PACKAGE.MODULE:FACTORY",
            help="Build the network by your own code; or torchvision:NAME, timm:NAME, transformers:NAME.",
            rich_help_panel=GRAPH,
        ),
    ] = None,
    patterns: Annotated[
        str | None,
        typer.Option("--patterns", metavar="FILE", help="More names of parts, as TOML lists.", rich_help_panel=GRAPH),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="FILE",
            help="inputs, optional labels (.npz .npy .pt .safetensors); or a folder of images.",
            rich_help_panel=PASSES,
        ),
    ] = None,
    inputs: Annotated[
        InputKind,
        typer.Option(
            "--inputs",
            help="auto: data if given, else pink (1/f noise). matched: to the batch statistics.",
            rich_help_panel=PASSES,
        ),
    ] = "auto",
    samples: Annotated[
        int, typer.Option("--samples", min=1, help="Inputs to measure on.", rich_help_panel=PASSES)
    ] = 32,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of everything random.", rich_help_panel=PASSES)] = 0,
    dtype: Annotated[
        Precision, typer.Option("--dtype", help="Of passes; spectra and bounds are float64.", rich_help_panel=PASSES)
    ] = "float32",
    device: Annotated[str, typer.Option("--device", help="Only cpu in this version.", rich_help_panel=PASSES)] = "cpu",
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="All processors by default.", rich_help_panel=PASSES)
    ] = None,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="No notices, no progress.", rich_help_panel=TALK)
    ] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say each stage.", rich_help_panel=TALK)] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Tracebacks.", rich_help_panel=TALK)] = False,
) -> Common:
    """The shared flags as one value. Raises UsageError where they contradict each other or this version."""
    if data is not None and inputs != "auto":
        raise UsageError(f"--data and --inputs {inputs} contradict each other; give one of them")
    if device != "cpu":
        raise UsageError(_no_device(device))
    settings = Settings(
        input_size=_size(input_size),
        key=key,
        assume=assume,
        arch=arch,
        patterns=patterns,
        blocks=tuple(blocks or ()),
        data=data,
        inputs=inputs,
        samples=samples,
        seed=seed,
        dtype=dtype,
        device=device,
        threads=threads,
    )
    file = None if output == "-" else output  # as other tools have it: standard output
    return Common(
        settings=settings,
        format=_format(format, file),
        output=file,
        figure=figure,
        wide=wide,
        quiet=quiet,
        verbose=verbose,
        debug=debug,
        many=Many(),
    )


def many_files(
    *,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", metavar="N", min=1, help="Processes, each with --threads of its own.", rich_help_panel=MANY
        ),
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option("--dask", metavar="ADDRESS", help="Of a running scheduler; extra `dask`.", rich_help_panel=MANY),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option("--resume", metavar="FILE", help="Keep results there and go on from it.", rich_help_panel=MANY),
    ] = None,
) -> Many:
    """How to go through many files. Raises UsageError where the flags contradict each other."""
    if workers is not None and dask is not None:
        raise UsageError(f"--workers {workers} and --dask {dask} contradict each other; give one of them")
    return Many(workers=workers or 1, dask=dask, resume=resume)


def with_common(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the shared flags after its own; it receives them as one argument `shared`.

    A flag of its own replaces the shared one of the same name, which then keeps its default.
    """
    return _with_flags(command, [])


def with_many(command: Callable[..., None]) -> Callable[..., None]:
    """As `with_common`, with the flags of a command that goes through many files; they come as `shared.many`."""
    return _with_flags(command, _parameters(many_files))


def _with_flags(command: Callable[..., None], several: list[inspect.Parameter]) -> Callable[..., None]:
    own = [parameter for parameter in _parameters(command) if parameter.name != "shared"]
    names = {parameter.name for parameter in own}
    flags = [flag for flag in _parameters(common) if flag.name not in names]

    @wraps(command)
    def wrapper(**given: Any) -> None:  # noqa: ANN401 - typer has checked each against its own annotation
        shared = common(**{flag.name: given.pop(flag.name) for flag in flags})
        many = many_files(**{flag.name: given.pop(flag.name) for flag in several})
        if shared.format in OF_CHECK and command.__name__ != "check":
            raise UsageError(f"--format {shared.format} is of a verdict; give it to `check`")
        _require_apart(shared.output, many.resume)
        command(shared=replace(shared, many=many), **given)

    parameters = [*(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own), *several, *flags]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # how inspect is told
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


def _parameters(function: Callable[..., object]) -> list[inspect.Parameter]:
    return list(inspect.signature(function, eval_str=True).parameters.values())


def _require_apart(output: str | None, resume: str | None) -> None:
    if None not in (output, resume) and os.path.realpath(str(output)) == os.path.realpath(str(resume)):
        raise UsageError(f"--output {output} would replace the file of --resume; give another name")
