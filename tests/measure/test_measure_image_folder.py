"""A folder of images as inputs: geometry and numbers by an oracle of its own, and hostile files."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_audit.errors import UnreadableCheckpoint, UsageError
from resnet_audit.measure import image_folder as module
from resnet_audit.measure.image_folder import FORMATS, image_files, normalisation, read_image_files
from resnet_audit.measure.inputs import data_size, make_inputs, read_images
from resnet_audit.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

MEAN, SD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def filled(folder: Path, count: int, size: tuple[int, int] = (8, 8)) -> list[np.ndarray]:
    """That many pictures, `a00.png`, `a01.png`, ..."""
    pictures = [picture(*size, seed=index) for index in range(count)]
    for index, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(folder / f"a{index:02}.png")
    return pictures


# numbers ------------------------------------------------------------------------------------------------------------


def test_images_of_the_networks_size_are_their_pixels_normalised(tmp_path: Path) -> None:
    pictures = filled(tmp_path, 3)
    found, labels = read_images(str(tmp_path), (3, 8, 8))
    expected = (np.stack(pictures) / 255 - MEAN) / SD
    assert labels is None
    assert found.dtype == torch.float32
    assert np.allclose(found.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-6)


def test_height_and_width_of_the_network_are_not_swapped(tmp_path: Path) -> None:
    (pixels,) = filled(tmp_path, 1, size=(6, 11))
    (found,) = read_images(str(tmp_path), (3, 6, 11))[0].numpy()
    assert np.allclose(found.transpose(1, 2, 0), (pixels / 255 - MEAN) / SD, atol=1e-6)


def test_grey_networks_get_the_luminance_with_the_average_constants(tmp_path: Path) -> None:
    (pixels,) = filled(tmp_path, 1)
    (found,) = read_images(str(tmp_path), (1, 8, 8))[0].numpy()
    luminance = pixels @ np.array([0.299, 0.587, 0.114]) / 255
    assert np.allclose(found[0], (luminance - MEAN.mean()) / SD.mean(), atol=0.5 / 255 / SD.mean() + 1e-3)
    assert [numbers[0] for numbers in normalisation(1)] == pytest.approx([MEAN.mean(), SD.mean()])


@pytest.mark.parametrize(("height", "width"), [(24, 60), (60, 24), (16, 16), (5, 9)])
def test_the_short_side_fits_and_the_middle_is_cut_out(height: int, width: int, tmp_path: Path) -> None:
    """A ramp along either axis: its mean is that of the middle, its slope says how much of it was kept."""
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    for axis, numbers in (("rows", rows), ("columns", columns)):
        folder = tmp_path / axis
        folder.mkdir()
        ramp = 255 * numbers / max(height - 1, width - 1)
        Image.fromarray(ramp.round().astype(np.uint8)).save(folder / "a.png")
        (found,) = read_images(str(folder), (1, 8, 8))[0].double().numpy()
        values = (found[0] * SD.mean() + MEAN.mean()) * 255
        along = values.mean(1 if axis == "rows" else 0)
        short = min(height, width)
        assert values.mean() == pytest.approx(ramp.mean(), abs=2.0)
        slope = (along[-3] - along[2]) / 3
        assert slope == pytest.approx(255 / max(height - 1, width - 1) * short / 8, rel=0.15)


@pytest.mark.parametrize(
    "suffix", [suffix for suffix in FORMATS if suffix not in {".jpg", ".jpeg", ".pgm", ".webp", ".gif"}]
)
def test_lossless_formats_give_the_same_pixels(suffix: str, tmp_path: Path) -> None:
    pixels = picture(8, 8)
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}")
    found = read_images(str(tmp_path), (3, 8, 8))[0].numpy()[0].transpose(1, 2, 0)
    assert np.allclose(found * SD + MEAN, pixels / 255, atol=1e-6)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp", ".gif", ".JPG", ".PnG"])
def test_other_formats_and_capitals_are_read(suffix: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (200, 100, 50)).save(tmp_path / f"a{suffix}")
    found = read_images(str(tmp_path), (3, 8, 8))[0].numpy()[0].transpose(1, 2, 0)
    assert np.allclose(found * SD + MEAN, np.array([200, 100, 50]) / 255, atol=0.03)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_mode_of_8_bits_is_read_for_colour_and_grey(mode: str, tmp_path: Path) -> None:
    name = "a.tif" if mode == "CMYK" else "a.png"
    Image.new("RGB", (9, 9), (255, 255, 255)).convert(mode).save(tmp_path / name)
    for channels in (1, 3):
        found = read_images(str(tmp_path), (channels, 8, 8))[0].numpy()[0].transpose(1, 2, 0)
        mean, sd = normalisation(channels)
        assert np.allclose(found * np.array(sd) + np.array(mean), 1.0, atol=0.01)


# which files --------------------------------------------------------------------------------------------------------


def test_files_are_those_with_a_known_suffix_by_name_and_not_below(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "page.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    (tmp_path / "below.png").mkdir()
    assert image_files(str(tmp_path)) == [str(tmp_path / name) for name in ("a00.png", "a01.png")]


def test_a_sample_opens_the_chosen_files_alone(tmp_path: Path) -> None:
    pictures = filled(tmp_path, 20)
    settings = Settings(data=str(tmp_path), samples=5, seed=3)
    found = make_inputs((3, 8, 8), settings)
    whole = read_images(str(tmp_path), (3, 8, 8))[0]
    rows = [int((whole - image).abs().sum((1, 2, 3)).argmin()) for image in found.values]
    assert (found.kind, found.labels, len(set(rows))) == ("data", None, 5)
    assert rows == sorted(rows)
    assert torch.equal(found.values, whole[rows])
    np.save(tmp_path / "all.npy", whole.numpy())
    as_array = make_inputs((3, 8, 8), Settings(data=str(tmp_path / "all.npy"), samples=5, seed=3))
    assert torch.equal(found.values, as_array.values), "the same seed chooses the same rows of a file of arrays"
    for index in set(range(len(pictures))) - set(rows):
        (tmp_path / f"a{index:02}.png").write_bytes(b"no longer an image")
    assert torch.equal(make_inputs((3, 8, 8), settings).values, found.values)


def test_a_folder_has_no_size_of_its_own(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    assert data_size(str(tmp_path)) is None


# refusals -----------------------------------------------------------------------------------------------------------


def png(width: int, height: int, data: bytes) -> bytes:
    """A PNG of one grey channel that declares any size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def encoded(form: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(64, 64)).save(file, form)
    return file.getvalue()


HOSTILE = {
    "a bomb": (png(60_000, 60_000, zlib.compress(bytes(1000))), "over 89478485 pixels"),
    "half a bomb": (png(10_000, 10_000, zlib.compress(bytes(1000))), "over 89478485 pixels"),
    "cut off": (encoded("JPEG")[:900], "damaged"),
    "a format that is not for images of networks": (encoded("PCX"), "damaged"),
    "no data": (png(8, 8, b""), "damaged"),
    "no image": (b"hello", "damaged"),
    "empty": (b"", "damaged"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "damaged"),
}


@pytest.mark.parametrize(("content", "match"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_image_is_refused_in_one_line_with_its_own_name(content: bytes, match: str, tmp_path: Path) -> None:
    filled(tmp_path, 2)
    (tmp_path / "b.png").write_bytes(content)
    with pytest.raises(UnreadableCheckpoint, match=match) as caught:
        read_images(str(tmp_path), (3, 8, 8))
    assert str(caught.value).startswith(f"{tmp_path / 'b.png'}: ")
    assert "\n" not in str(caught.value)


def test_more_than_8_bits_are_refused_and_not_cut_off(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(UnreadableCheckpoint, match="more than 8 bits a channel"):
        read_images(str(tmp_path), (1, 8, 8))


@pytest.mark.parametrize("size", [(4, 8, 8), (2, 8, 8), (16,)])
def test_a_network_that_reads_no_pictures_is_refused(size: tuple[int, ...], tmp_path: Path) -> None:
    filled(tmp_path, 1)
    with pytest.raises(UsageError, match="images have 1 or 3 channels"):
        read_images(str(tmp_path), size)


def test_more_images_than_fit_are_refused_before_any_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"never opened")
    monkeypatch.setattr(module, "LARGEST_IMAGES", 3 * 8 * 8 * 4 - 1)
    with pytest.raises(UnreadableCheckpoint, match="give --data fewer"):
        read_images(str(tmp_path), (3, 8, 8))


def test_without_pillow_one_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, 1)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UsageError, match=r'needs Pillow; pip install "resnet-audit\[images\]"') as caught:
        read_image_files(image_files(str(tmp_path)), (3, 8, 8), str(tmp_path))
    assert "\n" not in str(caught.value)
