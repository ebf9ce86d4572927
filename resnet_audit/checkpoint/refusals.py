"""The sentence for every format that is recognised and not read. Each says what to do instead."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from resnet_audit.checkpoint.names import listed, quoted
from resnet_audit.checkpoint.sniff import Format, checkpoints_among, record_names
from resnet_audit.errors import UnreadableCheckpoint

if TYPE_CHECKING:
    from collections.abc import Iterable

_SAVE = "save model.state_dict() with torch.save or safetensors and name that file"
_EXTRACT = "extract it and name the weights inside"

# format: what it is, why it cannot be used, what to do
_SENTENCES: dict[Format, tuple[str, str, str]] = {
    Format.NPY: ("a numpy array", "one array has no layer names", _SAVE),
    Format.ZIP: ("a zip archive", "it holds no torch data and no file that looks like a checkpoint", _EXTRACT),
    Format.ZIP_BROKEN: (
        "a zip file without its list of records",
        "the end of the file is missing or damaged, as after an interrupted download",
        "fetch it or save it again",
    ),
    Format.TAR: (
        "a tar archive",
        "it may hold several files, or be a checkpoint of torch before 0.1.10",
        "extract it and name the weights inside, or load it with an old torch and save it again",
    ),
    Format.GZIP: ("a gzip archive", "an archive can hold several files", _EXTRACT),
    Format.PICKLE: (
        "a bare pickle",
        "reading it would run whatever it says, and nothing in a checkpoint is run",
        "save the state_dict with torch.save or safetensors where the file comes from",
    ),
    Format.GGUF: (
        "a GGUF file",
        "its weights are packed for inference and this version does not read them",
        "name the checkpoint it was converted from",
    ),
    Format.HDF5: (
        "an HDF5 file",
        "this version does not read Keras or HDF5 weights",
        "save the weights as safetensors and name that file",
    ),
    Format.LFS_POINTER: (
        "a git-lfs pointer",
        "the weights themselves were not downloaded",
        "run git lfs pull in that repository",
    ),
    Format.HTML: (
        "a web page or other markup",
        "a download that failed often leaves one under the name of the weights",
        "download the file itself",
    ),
    Format.TEXT: ("a text file", "it holds no weights", "name the checkpoint"),
    Format.EMPTY: ("an empty file", "there is nothing to read", "fetch it or save it again"),
    Format.FOLDER: ("a folder", "no file in it is a checkpoint that can be read", "name a file"),
    Format.UNKNOWN: (
        "a file of no known format",
        "its first bytes are not those of a torch or safetensors file; it may be damaged or encrypted",
        _SAVE,
    ),
}


def refusal(path: str, kind: Format) -> UnreadableCheckpoint:
    """The error that refuses the file at `path`, whose format is `kind`, not a supported one."""
    if kind is Format.ZIP_OF_CHECKPOINTS:
        inside = listed(checkpoints_among(record_names(path)))
        return UnreadableCheckpoint(
            path, "a zip archive", f"it holds files that look like checkpoints: {inside}", "extract one and name it"
        )
    return UnreadableCheckpoint(path, *_SENTENCES[kind])


# a name of a tensor: what its file is, what to do
_PACKED = (
    (re.compile(r".*\.qzeros|.*\.qweight"), "a checkpoint with GPTQ or AWQ weights", "dequantise it first"),
    (
        re.compile(r".*\.(absmax|quant_map|nested_absmax|SCB)|.*\.quant_state\..*"),
        "a checkpoint with bitsandbytes weights",
        "dequantise it first",
    ),
    (
        re.compile(r"(.*[._])?lora_(A|B|up|down|embedding_A|embedding_B)(\..+)?"),
        "a LoRA adapter",
        "merge it into the model that it adapts, with merge_and_unload() or its like, and save that",
    ),
)


def refuse_by_names(path: str, names: Iterable[str]) -> None:
    """Raises UnreadableCheckpoint where the names say that tensors are packed, or a part of the weights only."""
    for name in names:
        for pattern, what, todo in _PACKED:
            if pattern.fullmatch(name):
                why = "its tensors are not the weights of its layers"
                raise UnreadableCheckpoint(path, f"{what} ({quoted(name)})", why, todo)
