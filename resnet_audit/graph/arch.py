"""A network from code that the user names, with the checkpoint's tensors in it. This runs that code, by consent.

PACKAGE.MODULE:FACTORY      called without arguments; modules of the current folder are found too
torchvision:NAME            torchvision.models.NAME
timm:NAME                   timm.create_model(NAME)
transformers:CLASS          with its own default configuration, or transformers:CLASS@CONFIG.json
"""

from __future__ import annotations

import copy
import importlib
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from resnet_audit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import Tensor

SHOWN = 3
"""How many names an error gives."""


def load_architecture(spec: str, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The module that `spec` names, in evaluation mode, with exactly the checkpoint's tensors in it.

    Raises UsageError, in one line, where the code cannot be found or run, or does not fit the checkpoint.
    """
    package, _, name = spec.partition(":")
    if not package or not name:
        raise UsageError(f"--arch {spec} names no factory; write PACKAGE.MODULE:FACTORY, or torchvision:NAME")
    with _current_folder():
        module = _built(spec, _imported(spec, package), name)
    if not isinstance(module, nn.Module):
        raise UsageError(f"--arch {spec} gave a {type(module).__name__}; the factory must return a torch.nn.Module")
    # A module that exists once, or a factory that hands out the same one, must not share tensors between checkpoints.
    module = copy.deepcopy(module)
    _fill(spec, module, tensors)
    return module.eval()


@contextmanager
def _current_folder() -> Iterator[None]:
    """Modules of the current folder can be imported, as under `python -m`."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


def _imported(spec: str, package: str) -> Any:  # noqa: ANN401 (a module of the user's, with any names in it)
    try:
        return importlib.import_module("torchvision.models" if package == "torchvision" else package)
    except ModuleNotFoundError as error:
        missing = error.name or package
        raise UsageError(
            f"--arch {spec}: there is no module {missing}; install it or run in the folder that holds it"
        ) from error
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise _failed(spec, f"{package} cannot be imported", error) from error


def _built(spec: str, owner: Any, name: str) -> object:  # noqa: ANN401 (as above)
    library = spec.partition(":")[0]
    try:
        if library == "timm":
            return owner.create_model(name, pretrained=False)
        if library == "transformers":
            kind, _, config = name.partition("@")
            factory = getattr(owner, kind)
            settings = factory.config_class
            return factory(settings.from_json_file(config) if config else settings())
        factory = owner
        for part in name.split("."):
            factory = getattr(factory, part)
        return factory if isinstance(factory, nn.Module) else factory()
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise _failed(spec, f"{name} cannot be built", error) from error


def _failed(spec: str, what: str, error: BaseException) -> UsageError:
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "it says no more")
    return UsageError(f"--arch {spec}: {what}; {type(error).__name__}: {said}; correct the code or name another")


def _fill(spec: str, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy the tensors into the module. Raises UsageError unless names and shapes are the same."""
    wanted = module.state_dict(keep_vars=True)
    given = _prefixed(tensors, wanted)
    shared = {id(wanted[name]) for name in wanted.keys() & given.keys()}
    missing = [
        name
        for name, tensor in wanted.items()
        # A tied weight may be stored once, a counter of batches not at all.
        if name not in given and id(tensor) not in shared and not _is_counter(tensor)
    ]
    unexpected = [name for name in given if name not in wanted]
    if missing or unexpected:
        faults = [f"the checkpoint has no {_few(missing)}"] if missing else []
        faults += [f"the network has no {_few(unexpected)}"] if unexpected else []
        raise UsageError(
            f"--arch {spec} is not the network of this checkpoint; {'; '.join(faults)}; name the right one"
        )
    wrong = [
        f"{name} ({_size(tensor)} in the checkpoint, {_size(wanted[name])} in the network)"
        for name, tensor in given.items()
        if tensor.shape != wanted[name].shape
    ]
    if wrong:
        raise UsageError(
            f"--arch {spec} is not the network of this checkpoint; other shapes: {_few(wrong)}; "
            "name a factory with the right sizes"
        )
    module.load_state_dict(dict(given), strict=False)


def _is_counter(tensor: Tensor) -> bool:
    return tensor.ndim == 0 and not tensor.is_floating_point()


def _prefixed(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors under the module's names: a prefix that all of these share may have been stripped on reading."""
    first = {name.partition(".")[0] for name in wanted}
    if len(first) != 1 or wanted.keys() & tensors.keys():
        return tensors
    (prefix,) = first
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _few(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
