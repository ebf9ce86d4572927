"""A folder of image files as inputs: resized, cut to the network's size, and normalised as for ImageNet.

Read      every file of the folder (not below it) with a suffix of FORMATS, in the order of the names; the first
          frame, in colour for networks of 3 channels and in grey for those of 1.
Geometry  scaled so that the network's input just fits in, and its centre cut out.
Numbers   (value / 255 - mean) / sd, with the constants of ImageNet: pixels say nothing of how a network was trained.
Safety    only the formats of FORMATS are tried (others, such as PostScript, start programs); a picture of more than
          Pillow's limit of pixels is refused before it is unpacked, and so is what is cut off or damaged.
"""

from __future__ import annotations

import math
import os
import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch

from resnet_audit.errors import UnreadableCheckpoint, UsageError
from resnet_audit.results import Note

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from torch import Tensor

FORMATS = {
    ".bmp": "BMP",
    ".gif": "GIF",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".pgm": "PPM",
    ".png": "PNG",
    ".ppm": "PPM",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
"""What is read, by suffix."""

EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
"""Pillow's modes of at most 8 bits a channel; it cuts wider ones off instead of scaling them."""

MEAN, SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, of red, green and blue in [0, 1]. A grey channel takes their averages."""

LARGEST_IMAGES = 4 << 30
"""Bytes of images beyond which they are refused rather than held at once."""


def is_folder(path: str) -> bool:
    """Whether the data are a folder of images and no file."""
    return os.path.isdir(path)  # noqa: PTH112 - paths are kept as the user wrote them


def image_files(path: str) -> list[str]:
    """The image files of a folder, by name. Raises UnreadableCheckpoint without any."""
    try:
        names = sorted(entry.name for entry in os.scandir(path) if entry.is_file() and _format(entry.name))
    except OSError as error:
        reason = (error.strerror or "unreadable").lower()
        raise UnreadableCheckpoint(path, reason, "no images can be read", "give --data a readable folder") from None
    if not names:
        why = f"no file in it ends in {' '.join(FORMATS)}"
        raise UnreadableCheckpoint(path, "a folder without images", why, "name one that has some")
    return [os.path.join(path, name) for name in names]  # noqa: PTH118 - as above


def read_image_files(files: Sequence[str], size: tuple[int, ...], folder: str) -> Tensor:
    """Images (N, *size) in float32, normalised, for size (C, H, W) with C of 1 or 3.

    Raises UsageError without Pillow and for another size, UnreadableCheckpoint with the file's name for one that
    cannot be read and with the folder's for too many.
    """
    if len(size) != 3 or size[0] not in {1, 3}:
        given = "x".join(map(str, size))
        raise UsageError(f"{folder}: images have 1 or 3 channels, and the network reads {given}; give --data arrays")
    pillow = _pillow(folder)
    if len(files) * math.prod(size) * 4 > LARGEST_IMAGES:
        what = f"{len(files)} images"
        raise UnreadableCheckpoint(folder, what, "they take over 4 GiB at this size", "give --data fewer of them")
    pillow = _pillow(folder)
    values = np.empty((len(files), *size), np.float32)
    mean, sd = normalisation(size[0])
    for index, file in enumerate(files):
        pixels = _pixels(pillow, file, size).transpose(2, 0, 1) / np.float32(255.0)
        values[index] = (pixels - np.array(mean)[:, None, None]) / np.array(sd)[:, None, None]
    return torch.from_numpy(values)


def normalisation(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel that are taken off pixels in [0, 1]: colours, or their average."""
    return (MEAN, SD) if channels == 3 else ((sum(MEAN) / 3,), (sum(SD) / 3,))


def assumption(folder: str, channels: int) -> Note:
    """What is assumed of the images of a folder, as a note."""
    mean, sd = (" ".join(f"{number:.3g}" for number in numbers) for numbers in normalisation(channels))
    message = (
        f"the images of {folder} are scaled to [0, 1] and normalised as for ImageNet (mean {mean}, sd {sd}); "
        "if the network was trained otherwise, give --data arrays"
    )
    return Note(code="image_normalisation", message=message)


def _format(name: str) -> str | None:
    return FORMATS.get(os.path.splitext(name)[1].lower())  # noqa: PTH122 - a name alone


def _pillow(folder: str) -> ModuleType:
    try:
        from PIL import Image  # noqa: PLC0415 - an optional extra
    except ImportError:
        what = "a folder of images; reading them needs Pillow"
        raise UsageError(f'{folder}: {what}; pip install "resnet-audit[images]"') from None
    return Image


def _pixels(pillow: ModuleType, file: str, size: tuple[int, ...]) -> np.ndarray:
    """The centre of one image at (H, W, C), values 0 to 255."""
    from PIL import ImageOps  # noqa: PLC0415 - _pillow has said so if it is not there

    channels, height, width = size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            with pillow.open(file, formats=sorted(set(FORMATS.values()))) as image:
                mode = image.mode
                whole = image.convert("RGB" if channels == 3 else "L") if mode in EIGHT_BITS else None
    except (pillow.DecompressionBombWarning, pillow.DecompressionBombError):
        what = f"an image of over {pillow.MAX_IMAGE_PIXELS} pixels"
        raise UnreadableCheckpoint(file, what, "unpacking it could fill the memory", "make it smaller") from None
    except Exception:  # noqa: BLE001 - hostile bytes make decoders raise nearly anything
        what = "no image, or a damaged one"
        raise UnreadableCheckpoint(file, what, "its pixels cannot be read", "remove or mend it") from None
    if whole is None:
        what = f"an image of mode {mode}"
        raise UnreadableCheckpoint(file, what, "it has more than 8 bits a channel", "save it with 8 bits")
    cut = ImageOps.fit(whole, (width, height), pillow.Resampling.BICUBIC)
    return np.asarray(cut, dtype=np.float32).reshape(height, width, channels)
