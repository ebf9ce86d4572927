"""The inputs of measured numbers: noise of known spectrum, and data that is read without running anything."""

from __future__ import annotations

import io
import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from passes_oracles import SIZE, centred_spectrum, images, npy_header, npz_bytes, write_npz, zip_bytes
from safetensors.torch import save_file

from resnet_audit.errors import AuditError, UnreadableCheckpoint, UsageError
from resnet_audit.measure import inputs as module
from resnet_audit.measure.inputs import make_inputs, pink, read_data
from resnet_audit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor


def noise(kind: str, size: tuple[int, ...] = (3, 32, 32), **settings: object) -> Tensor:
    return make_inputs(size, Settings(inputs=kind, **settings)).values


each_kind = pytest.mark.parametrize("kind", ["pink", "gaussian"])


# noise --------------------------------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("size", [(3, 32, 32), (1, 9, 6), (2, 5, 12), (1, 7, 7)])
def test_noise_has_unit_variance(kind: str, size: tuple[int, ...]) -> None:
    """The mean square of n independent pixels (or modes) has a standard error near sqrt(2 / n); 1/f has few modes."""
    values = noise(kind, size, samples=4000 if size[1] < 32 else 300, dtype="float64")
    assert float(values.square().mean()) == pytest.approx(1.0, abs=0.03)
    assert float(values.mean()) == pytest.approx(0.0, abs=0.03)


def test_variance_of_pink_noise_is_exactly_one_on_a_full_orthonormal_set() -> None:
    """The expectation of the squared norm is the squared Frobenius norm of the filter."""
    for height, width in ((4, 6), (5, 4), (3, 7), (1, 1), (2, 2), (1, 5)):
        count = height * width
        filtered = pink(torch.eye(count, dtype=torch.float64).reshape(count, height, width))
        assert float(filtered.square().sum()) / count == pytest.approx(1.0, rel=1e-6)


def test_amplitude_of_pink_noise_falls_as_one_over_frequency() -> None:
    fields = noise("pink", samples=200, dtype="float64").flatten(0, 1)
    frequency, amplitude = centred_spectrum(fields)
    used = frequency > 0
    x, y = frequency[used].log(), amplitude[used].log()
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    assert slope == pytest.approx(-1.0, abs=0.02)
    # 600 fields: each amplitude is known to about 1 / sqrt(4 * 600), and 1023 modes are looked at.
    scaled = (amplitude * frequency)[used]
    assert float(scaled.max() / scaled.min()) < 1.35


def test_mean_of_a_pink_image_has_the_amplitude_of_the_lowest_frequency() -> None:
    _, amplitude = centred_spectrum(noise("pink", samples=700, dtype="float64").flatten(0, 1))
    assert float(amplitude[0, 0] / amplitude[0, 1]) == pytest.approx(1.0, abs=0.1)


def test_gaussian_noise_is_white() -> None:
    frequency, amplitude = centred_spectrum(noise("gaussian", samples=200, dtype="float64").flatten(0, 1))
    low = amplitude[(frequency > 0) & (frequency < 0.1)].mean()
    assert float(low / amplitude[frequency > 0.4].mean()) == pytest.approx(1.0, abs=0.05)


def test_channels_and_samples_of_noise_are_independent() -> None:
    values = noise("gaussian", samples=50, dtype="float64").flatten(2)
    pairs = torch.corrcoef(values.flatten(0, 1)[:40]) - torch.eye(40)
    assert float(pairs.abs().max()) < 0.2


@each_kind
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_seed_gives_the_same_bytes_and_another_seed_others(kind: str, dtype: str) -> None:
    first, again, other = (noise(kind, samples=2, seed=seed, dtype=dtype) for seed in (5, 5, 6))
    assert first.dtype == getattr(torch, dtype)
    assert first.numpy().tobytes() == again.numpy().tobytes()
    assert not torch.equal(first, other)


@each_kind
def test_precision_changes_nothing_but_the_last_bits(kind: str) -> None:
    wide, narrow = (noise(kind, samples=2, dtype=dtype) for dtype in ("float64", "float32"))
    assert torch.equal(wide.float(), narrow)


@each_kind
@pytest.mark.parametrize("size", [(3, 32, 32), (1, 8, 8), (3, 224, 224)])
def test_the_first_sample_does_not_depend_on_how_many_there_are(kind: str, size: tuple[int, ...]) -> None:
    few, more = noise(kind, size, samples=1), noise(kind, size, samples=5)
    assert torch.equal(few[0], more[0])


@each_kind
def test_the_first_sample_of_an_odd_size_does_not_depend_on_how_many_there_are(kind: str) -> None:
    few, more = noise(kind, (3, 5, 5), samples=1), noise(kind, (3, 5, 5), samples=5)
    assert torch.equal(few[0], more[0])


def test_noise_is_pink_unless_told_and_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    found = make_inputs(SIZE, Settings(samples=3))
    assert (found.kind, tuple(found.values.shape), found.labels) == ("pink", (3, *SIZE), None)
    assert torch.equal(found.values, pink(noise("gaussian", SIZE, samples=3, dtype="float64")).float())
    assert torch.equal(before, torch.get_rng_state())


# data that is read --------------------------------------------------------------------------------------------------


def as_npz(path: Path, values: np.ndarray, labels: np.ndarray) -> None:
    path.write_bytes(npz_bytes(inputs=values, labels=labels))


def as_compressed_npz(path: Path, values: np.ndarray, labels: np.ndarray) -> None:
    path.write_bytes(npz_bytes(compressed=True, inputs=values, labels=labels))


def as_pt(path: Path, values: np.ndarray, labels: np.ndarray) -> None:
    torch.save({"inputs": torch.from_numpy(values), "labels": torch.from_numpy(labels)}, path)


def as_safetensors(path: Path, values: np.ndarray, labels: np.ndarray) -> None:
    save_file({"inputs": torch.from_numpy(values), "labels": torch.from_numpy(labels)}, path)


@pytest.mark.parametrize("write", [as_npz, as_compressed_npz, as_pt, as_safetensors])
@pytest.mark.parametrize("name", ["data", "data.npy", "data.bin"])
def test_data_is_read_by_content_whatever_its_name(
    write: Callable[[Path, np.ndarray, np.ndarray], None], name: str, tmp_path: Path
) -> None:
    path, values, labels = tmp_path / name, images(6), np.array([3, 1, 4, 1, 5, 9])
    write(path, values, labels)
    found = make_inputs(SIZE, Settings(data=str(path), samples=32))
    assert found.kind == "data"
    assert torch.equal(found.values, torch.from_numpy(values))
    assert found.labels is not None
    assert found.labels.dtype == torch.int64
    assert found.labels.tolist() == labels.tolist()


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_single_array_is_inputs_without_labels(order: str, tmp_path: Path) -> None:
    path, values = tmp_path / "images.npy", images(4)
    np.save(path, np.asarray(values, order=order))
    found = make_inputs(SIZE, Settings(data=str(path)))
    assert torch.equal(found.values, torch.from_numpy(values))
    assert found.labels is None


def test_data_is_given_in_the_precision_of_the_settings(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "half.npz", inputs=images(3).astype(np.float16))
    for dtype in ("float32", "float64"):
        assert make_inputs(SIZE, Settings(data=path, dtype=dtype)).values.dtype == getattr(torch, dtype)


def test_other_arrays_of_a_file_are_not_even_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "more.npz"
    path.write_bytes(zip_bytes(inputs=npy_bytes(images(3)), names=b"not an array"))
    assert set(read_data(str(path))) == {"inputs"}


def npy_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_a_subset_of_data_is_seeded_ordered_without_repeats_and_keeps_its_labels(tmp_path: Path) -> None:
    values, labels = images(50), np.arange(50)
    path = write_npz(tmp_path / "data.npz", inputs=values, labels=labels)
    chosen = {}
    for seed in (0, 0, 1, 2):
        found = make_inputs(SIZE, Settings(data=path, samples=10, seed=seed))
        assert found.labels is not None
        rows = found.labels.tolist()
        assert rows == sorted(set(rows))
        assert len(rows) == 10
        assert torch.equal(found.values, torch.from_numpy(values[rows]))
        assert chosen.setdefault(seed, rows) == rows
    assert len({tuple(rows) for rows in chosen.values()}) == 3


def test_subsets_reach_every_part_of_the_data(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "data.npz", inputs=images(20), labels=np.arange(20))
    seen: set[int] = set()
    for seed in range(20):
        found = make_inputs(SIZE, Settings(data=path, samples=4, seed=seed))
        assert found.labels is not None
        seen |= set(found.labels.tolist())
    assert len(seen) > 15


def test_only_the_chosen_samples_must_be_finite(tmp_path: Path) -> None:
    values = images(40)
    clean = make_inputs(
        SIZE, Settings(data=write_npz(tmp_path / "a.npz", inputs=values, labels=np.arange(40)), samples=5)
    )
    assert clean.labels is not None
    kept = set(clean.labels.tolist())
    values[next(row for row in range(40) if row not in kept)] = np.nan
    path = write_npz(tmp_path / "b.npz", inputs=values)
    assert torch.equal(make_inputs(SIZE, Settings(data=path, samples=5)).values, clean.values)


# refusals -----------------------------------------------------------------------------------------------------------


class Bomb:
    """Leaves a trace if it is ever unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (_leave_trace, (str(self.trace),))


def _leave_trace(path: str) -> None:
    with open(path, "w") as file:  # noqa: PTH123 - the pickle names builtins alone
        file.write("executed")


def refused(path: Path | str, expected: type[AuditError], match: str, **settings: object) -> None:
    with pytest.raises(expected, match=match) as caught:
        make_inputs(SIZE, Settings(data=str(path), **settings))
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert ";" in text


GOOD = images(6)
WRONG_INPUTS = {
    "wrong channels": GOOD.repeat(3, axis=1),
    "wrong height": GOOD[:, :, :5],
    "no batch": GOOD[0],
    "no channels": GOOD[:, 0],
    "one more axis": GOOD[None],
    "a scalar": np.float32(1.0),
    "no samples": GOOD[:0],
    "bytes of pixels": np.zeros((6, *SIZE), np.uint8),
    "unsigned": np.zeros((6, *SIZE), np.uint16),
    "truth values": np.zeros((6, *SIZE), np.bool_),
}


@pytest.mark.parametrize("values", WRONG_INPUTS.values(), ids=WRONG_INPUTS)
def test_what_are_not_normalised_images_of_the_networks_size_is_refused(values: np.ndarray, tmp_path: Path) -> None:
    path = write_npz(tmp_path / "data.npz", inputs=values)
    refused(path, UsageError, r"are not normalised images of 1x8x8; save them as floats")


WRONG_LABELS = {
    "too few": np.arange(5),
    "too many": np.arange(7),
    "one-hot": np.eye(6, dtype=np.int64),
    "floats": np.arange(6.0),
    "a scalar": np.int64(1),
    "none": np.zeros(0, np.int64),
}


@pytest.mark.parametrize("labels", WRONG_LABELS.values(), ids=WRONG_LABELS)
def test_labels_that_are_not_one_integer_a_sample_are_refused(labels: np.ndarray, tmp_path: Path) -> None:
    path = write_npz(tmp_path / "data.npz", inputs=GOOD, labels=labels)
    with pytest.raises(UsageError, match="one integer for each of the 6 inputs"):
        make_inputs(SIZE, Settings(data=path))


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_inputs_that_are_not_finite_are_refused(number: float, tmp_path: Path) -> None:
    values = GOOD.copy()
    values[3, 0, 2, 5] = number
    refused(write_npz(tmp_path / "data.npz", inputs=values), UsageError, "not finite numbers; clean the data")


def test_inputs_that_overflow_the_precision_are_refused(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "data.npz", inputs=np.full((2, *SIZE), 1e300))
    refused(path, UsageError, "not finite numbers")
    assert torch.isfinite(make_inputs(SIZE, Settings(data=path, dtype="float64")).values).all()


@pytest.mark.parametrize("name", ["inputs", "labels"])
def test_arrays_of_python_objects_are_refused_without_unpickling(name: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    arrays = {"inputs": GOOD, name: np.array([Bomb(trace)] * 6, dtype=object)}
    path = tmp_path / "data.npz"
    path.write_bytes(npz_bytes(**arrays))
    refused(path, UnreadableCheckpoint, "Python objects; nothing is unpickled")
    assert not trace.exists()
    with np.load(path, allow_pickle=True) as unsafe:
        assert unsafe[name].shape == (6,)
    assert trace.exists(), "the bomb works, so its silence above means something"


def test_a_single_array_of_objects_and_a_bare_pickle_are_refused_without_unpickling(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    np.save(tmp_path / "objects.npy", np.array([Bomb(trace)], dtype=object))
    refused(tmp_path / "objects.npy", UnreadableCheckpoint, "Python objects; nothing is unpickled")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps({"inputs": Bomb(trace)}))
    refused(tmp_path / "bare.pt", UnreadableCheckpoint, "nothing in a checkpoint is run|cannot be used|pickle")
    assert not trace.exists()


@pytest.mark.parametrize("kind", ["npz", "pt", "safetensors"])
def test_a_file_without_inputs_says_what_they_must_be_called(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"data.{kind}"
    tensors = {"images": torch.from_numpy(GOOD), "targets": torch.arange(6)}
    if kind == "npz":
        path.write_bytes(npz_bytes(**{name: tensor.numpy() for name, tensor in tensors.items()}))
    elif kind == "pt":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    refused(path, UnreadableCheckpoint, "no array named `inputs`; name the images `inputs`")


def test_the_refusal_of_an_npz_without_inputs_names_what_it_holds(tmp_path: Path) -> None:
    refused(write_npz(tmp_path / "data.npz", images=GOOD), UnreadableCheckpoint, "a file with images; ")


@pytest.mark.parametrize("kept", [10, 100, 400, 1200, 1700])
def test_a_truncated_npz_is_refused(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    whole = npz_bytes(inputs=GOOD)
    assert kept < len(whole)
    path.write_bytes(whole[:kept])
    refused(path, UnreadableCheckpoint, "damaged")


@pytest.mark.parametrize("kept", [0, 4, 6, 9, 60, 200])
def test_a_truncated_npy_is_refused(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "data.npy"
    path.write_bytes(npy_bytes(GOOD)[:kept])
    refused(path, UnreadableCheckpoint, "damaged|an empty file|a text file|no known format")


def test_an_archive_that_declares_too_much_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(npz_bytes(compressed=True, inputs=np.zeros((2000, *SIZE), np.float32)))
    assert path.stat().st_size < 2000
    monkeypatch.setattr(module, "LARGEST_DATA", 500_000)
    with monkeypatch.context() as patch:
        patch.setattr(np, "load", unexpected)
        refused(path, UnreadableCheckpoint, "unpacks to over")
    monkeypatch.setattr(module, "LARGEST_DATA", 600_000)
    assert len(make_inputs(SIZE, Settings(data=str(path))).values) == 32


def unexpected(*_: object, **__: object) -> None:
    raise AssertionError("unpacked all the same")


def test_a_missing_file_and_a_folder_without_images_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none.npz", UnreadableCheckpoint, "no such file or directory; no inputs can be read")
    refused(tmp_path, UnreadableCheckpoint, "a folder without images; no file in it ends in .bmp")


def test_a_text_file_and_a_lone_tensor_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("1,2,3\n")
    refused(tmp_path / "data.csv", UnreadableCheckpoint, "a text file")
    torch.save(torch.from_numpy(GOOD), tmp_path / "tensor.pt")
    refused(tmp_path / "tensor.pt", UnreadableCheckpoint, "a single tensor")


# Files that come from elsewhere: each must be refused as a file, never end as an error of a library.

SHAPE = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s)}"


def patched(position: tuple[int, int], value: int) -> bytes:
    """An npz with one byte of its local and of its central record changed."""
    raw = npz_bytes(inputs=GOOD)
    raw[position[0]] = value
    raw[raw.index(b"PK\x01\x02") + position[1]] = value
    return bytes(raw)


def corrupted() -> bytes:
    raw = npz_bytes(compressed=True, inputs=images(60))
    for place in range(200, 4000, 7):
        raw[place] ^= 0x5A
    return bytes(raw)


HOSTILE = {
    "text": npz_bytes(inputs=np.array(["a", "b"])),
    "records": npz_bytes(inputs=np.zeros(3, dtype=[("a", "f4")])),
    "dates": npz_bytes(inputs=np.zeros((3, *SIZE), dtype="M8[s]")),
    "labels of text": npz_bytes(inputs=GOOD, labels=np.array(list("abcdef"))),
    "complex numbers": npz_bytes(inputs=GOOD.astype(np.complex64)),
    "complex labels": npz_bytes(inputs=GOOD, labels=np.ones(6, np.complex64)),
    "a damaged stream": corrupted(),
    "an encrypted member": patched((6, 8), 1),
    "an unknown compression": patched((8, 10), 99),
    "a member that is no array": zip_bytes(inputs=b"hello" * 30),
    "an unclosed header": npy_header("{'a': ('"),
    "an unclosed shape": npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1,"),
    "nested brackets": npy_header("(" * 5000),
    "a negative shape": npy_header(SHAPE % "-1,1,8,8"),
    "a shape beyond integers": npy_header(SHAPE % "100000000000000000000000,1,8,8"),
    "a packed shape beyond integers": zip_bytes(inputs=npy_header(SHAPE % "100000000000000000000000,1,8,8")),
    "a shape beyond memory": npy_header(SHAPE % "10000000000000,1,8,8"),
    "a packed shape beyond memory": zip_bytes(inputs=npy_header(SHAPE % "10000000000000,1,8,8")),
    "a shape of nothing": npy_header(SHAPE % "100,1,8,0"),
    "no header": b"\x93NUMPY",
    "numbers of no size": npy_header("{'descr': '|V0', 'fortran_order': False, 'shape': (3,1,8,8)}"),
}


@pytest.mark.parametrize(
    "content",
    [pytest.param(content, id=name) for name, content in HOSTILE.items()],
)
def test_a_hostile_numpy_file_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(AuditError) as caught:
        make_inputs(SIZE, Settings(data=str(path)))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("dtype", [">f4", "longdouble"])
def test_numbers_in_another_format_are_read_or_refused(dtype: str, tmp_path: Path) -> None:
    path = write_npz(tmp_path / "data.npz", inputs=GOOD.astype(dtype))
    try:
        found = make_inputs(SIZE, Settings(data=path)).values
    except AuditError:
        return
    assert torch.equal(found, torch.from_numpy(GOOD))
