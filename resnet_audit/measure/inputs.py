"""The inputs that measured numbers are measured on.

Without data they are 1/f noise (`pink`): closer to the statistics of natural images than white noise, and far from real
data all the same. Every report says which kind was used and how far it is from the data behind the BN statistics.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from resnet_audit.checkpoint import load
from resnet_audit.errors import UnreadableCheckpoint, UsageError
from resnet_audit.measure.image_folder import image_files, is_folder, read_image_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from resnet_audit.settings import Settings

LARGEST_DATA = 4 << 30
"""Declared bytes of a data file beyond which it is refused rather than unpacked into memory."""

DATA_OF_TOKENS = "--data holds images; token models are measured on seeded random tokens in this version"
"""Why data is refused for a network that reads tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """A batch (N, C, H, W) with its kind (data, pink, gaussian, matched) and, from data that has them, labels (N,)."""

    kind: str
    values: Tensor
    labels: Tensor | None = None


def make_inputs(size: tuple[int, ...], settings: Settings, vocabulary: int | None = None) -> Inputs:
    """The inputs that the settings ask for, each of `size` = (C, H, W); for `matched` those that it begins with.

    Raises UsageError, UnreadableCheckpoint.
    """
    dtype = getattr(torch, settings.dtype)
    if vocabulary is not None:
        return Inputs(kind="tokens", values=_tokens(size, vocabulary, settings))
    if settings.data is not None:
        values, labels = _sampled(settings.data, size, settings)
        values = values.to(dtype)
        require_finite(values, settings.data)
        return Inputs(kind="data", values=values, labels=labels)
    generator = torch.Generator().manual_seed(settings.seed)
    # One draw a sample: torch fills the end of a tensor differently, and a sample must not depend on their number.
    draws = [torch.randn(size, generator=generator, dtype=torch.float64) for _ in range(settings.samples)]
    white = torch.stack(draws)
    if settings.inputs == "gaussian":
        return Inputs(kind="gaussian", values=white.to(dtype))
    return Inputs(kind="pink", values=pink(white).to(dtype))


def _tokens(size: tuple[int, ...], vocabulary: int, settings: Settings) -> Tensor:
    """Seeded uniform token numbers below `vocabulary`."""
    if settings.data is not None:
        raise UsageError(DATA_OF_TOKENS)
    generator = torch.Generator().manual_seed(settings.seed)
    return torch.randint(vocabulary, (settings.samples, *size), generator=generator)


def pink(white: Tensor) -> Tensor:
    """1/f noise of unit variance from white noise (..., H, W): each Fourier amplitude is divided by its frequency.

    The constant gets the amplitude of the lowest frequency, so that images differ in their mean.
    """
    height, width = white.shape[-2:]
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None, :]).double()
    amplitude = frequency.clamp(min=1.0 / max(height, width)).reciprocal()
    both_halves = torch.full_like(amplitude, 2.0)
    both_halves[:, 0] = 1.0
    if width % 2 == 0:
        both_halves[:, -1] = 1.0
    power = (both_halves * amplitude**2).sum() / (height * width)
    noise: Tensor = torch.fft.irfft2(torch.fft.rfft2(white) * amplitude, s=(height, width))
    return noise / power.sqrt()


def _sampled(path: str, size: tuple[int, ...], settings: Settings) -> tuple[Tensor, Tensor | None]:
    """As many images as the settings ask for, and their labels; of a folder no other file is opened."""
    if is_folder(path):
        files = image_files(path)
        chosen = [files[row] for row in _chosen_rows(len(files), settings).tolist()]
        return read_image_files(chosen, size, path), None
    inputs, labels = read_images(path, size)
    rows = _chosen_rows(len(inputs), settings)
    return inputs[rows], None if labels is None else labels[rows]


def data_size(path: str) -> tuple[int, ...] | None:
    """The shape of one input of a data file; None for a folder of images, which come in any size."""
    return None if is_folder(path) else tuple(read_data(path)["inputs"].shape[1:])


def read_data(path: str) -> dict[str, Tensor]:
    """`inputs` (N, C, H, W) and, if there, `labels` (N,) of a .npz, .npy, .pt or .safetensors file, by its content."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - paths are kept as the user wrote them
            head = file.read(8)
    except OSError as error:
        reason = (error.strerror or "unreadable").lower()
        raise UnreadableCheckpoint(path, reason, "no inputs can be read", "give --data a readable file") from None
    found = _numpy_tensors(path, head)
    tensors: Mapping[str, Tensor] = load(path).tensors if found is None else found
    if "inputs" not in tensors:
        what = f"a file with {', '.join(sorted(tensors)[:5]) or 'no array'}"
        raise UnreadableCheckpoint(path, what, "it has no array named `inputs`", "name the images `inputs`")
    return {name: tensors[name] for name in ("inputs", "labels") if name in tensors}


def _numpy_tensors(path: str, head: bytes) -> dict[str, Tensor] | None:
    """The arrays of a numpy file, or None if it is not one. Nothing is unpickled."""
    try:
        if head.startswith(b"\x93NUMPY"):
            # Mapped copy-on-write: torch wants arrays that it may write to, and the file stays as it is.
            return {"inputs": _tensor(np.load(path, mmap_mode="c", allow_pickle=False))}
        if head.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
            if not all(member.filename.endswith(".npy") for member in members):
                return None
            _check_size(path, sum(member.file_size for member in members))
            with np.load(path, allow_pickle=False) as arrays:
                wanted = {"inputs", "labels"} if "inputs" in arrays.files else set(arrays.files)
                return {name: _tensor(arrays[name]) for name in arrays.files if name in wanted}
    except UnreadableCheckpoint:
        raise
    except Exception:  # noqa: BLE001 - hostile bytes make numpy and zipfile raise nearly anything
        what = "a damaged numpy file, or one with text, dates or Python objects"
        raise UnreadableCheckpoint(path, what, "nothing is unpickled", "save plain numeric arrays") from None
    return None


def _check_size(path: str, size: int) -> None:
    if size > LARGEST_DATA:
        raise UnreadableCheckpoint(path, "an npz archive", "it unpacks to over 4 GiB", "give --data fewer samples")


def _tensor(array: np.ndarray) -> Tensor:
    """The array as a tensor in the machine's byte order, still mapped if it was. Raises TypeError for all but numbers.

    Of what has to be copied, no more than LARGEST_DATA is.
    """
    own = array.dtype.newbyteorder("=")
    mapped = isinstance(array, np.memmap) and array.dtype == own
    if array.dtype.kind not in "fiubc" or (array.nbytes > LARGEST_DATA and not mapped):
        raise TypeError(array.dtype)
    return torch.from_numpy(np.require(array, own, ["ALIGNED", "WRITEABLE"]))


def read_images(path: str, size: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
    """All images (N, *size) of a data file in the dtype as stored, and their labels (N,) as int64, if it has some.

    Those of a folder are float32 and have no labels.

    Whether the images are finite is left to whoever reads them. Raises UsageError, UnreadableCheckpoint.
    """
    if is_folder(path):
        return read_image_files(image_files(path), size, path), None
    data = read_data(path)
    inputs, labels = data["inputs"], data.get("labels")
    fits = tuple(inputs.shape[1:]) == size and len(inputs)
    # Unsigned integers are pixels as stored, which no network was trained on.
    if not fits or not (inputs.is_floating_point() or (is_integer(inputs) and inputs.dtype.is_signed)):
        raise UsageError(
            f"{path}: inputs of shape {tuple(inputs.shape)} and type {inputs.dtype}; they are not normalised "
            f"images of {'x'.join(map(str, size))}; save them as floats (N, C, H, W), normalised as in training"
        )
    if labels is not None and (labels.ndim != 1 or len(labels) != len(inputs) or not is_integer(labels)):
        raise UsageError(f"{path}: labels must be one integer for each of the {len(inputs)} inputs")
    return inputs, None if labels is None else labels.long()


def require_finite(values: Tensor, path: str) -> None:
    """Raise UsageError unless all the images that were taken from the data file at `path` are finite."""
    if not bool(torch.isfinite(values).all()):
        raise UsageError(f"{path}: some inputs are not finite numbers; clean the data first")


def _chosen_rows(count: int, settings: Settings) -> Tensor:
    """Numbers of as many of `count` images as the settings ask for, seeded and in order."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(settings.seed))
    return order[: settings.samples].sort().values


def is_integer(tensor: Tensor) -> bool:
    """Whether the entries are integers, of any width; truth values are not."""
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
