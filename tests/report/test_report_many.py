"""Many files: the same bytes whoever computes them, processes that die, and results that are kept."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shutil
import sys
import time
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from many_work import calls, counted, deadly, slow

from resnet_audit.errors import AuditError, UsageError
from resnet_audit.render.json import to_json, to_jsonl
from resnet_audit.report import Outcome, Watch, Work, audit_all, compare_all, registered
from resnet_audit.report.cluster import _number_of_workers, _require_alike
from resnet_audit.report.registry import ANALYSES
from resnet_audit.report.resume import run_of
from resnet_audit.settings import Many, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

SMALL = Settings(input_size=(1, 8, 8), samples=2, threads=1, fast=True)
FAST = ("spectrum",)
TWO = Many(workers=2)


@pytest.fixture
def files(samples: Path, tmp_path: Path) -> list[str]:
    """Four checkpoints and three files that are none, as paths."""
    folder = tmp_path / "files"
    folder.mkdir()
    for name in ("epoch00.pt", "epoch04.pt", "epoch24.pt"):
        shutil.copy(samples / "digits_resnet" / name, folder)
    shutil.copy(samples / "digits_preact.safetensors", folder)
    (folder / "empty.pt").touch()
    (folder / "text.pt").write_text("no checkpoint\n")
    return [*(str(path) for path in sorted(folder.iterdir())), str(folder / "gone.pt")]


@pytest.fixture
def told(tmp_path: Path) -> str:
    """The folder in which the analyses tell their calls."""
    (tmp_path / "told").mkdir()
    return str(tmp_path / "told")


def good(files: list[str]) -> list[str]:
    return [path for path in files if Path(path).name.startswith(("epoch", "digits"))]


def run(paths: list[str], analyse: Any = registered, *, many: Many = Many(), settings=SMALL, **watch: Any) -> Outcome:  # noqa: B008 - frozen
    work = Work(analyses=FAST, settings=settings, analyse=analyse)
    return audit_all(paths, "report", work, many=many, watch=Watch(line=to_jsonl, **watch))


def same(one: Outcome, other: Outcome) -> bool:
    return (to_json(one.document), one.failures) == (to_json(other.document), other.failures)


# several processes ------------------------------------------------------------------------------------------


def test_all_analyses_by_two_processes_are_those_of_one_byte_for_byte(files) -> None:
    work = Work(analyses=tuple(ANALYSES), settings=dataclasses.replace(SMALL, fast=False), analyse=registered)
    one, two = (audit_all(files, "report", work, many=many) for many in (Many(), TWO))
    assert same(one, two)
    assert len(one.failures) == 3
    assert len(two.tracebacks) == 3


def test_a_comparison_by_two_processes_is_that_of_one_byte_for_byte(files) -> None:
    assert same(compare_all(files, SMALL), compare_all(files, SMALL, many=TWO))


def test_the_work_is_done_elsewhere_and_each_file_once(files, told) -> None:
    run(files, partial(counted, folder=told), many=TWO)
    pids = {path.name.split(".")[-2] for path in Path(told).iterdir()}
    assert calls(told) == 4
    assert str(os.getpid()) not in pids
    assert 1 <= len(pids) <= 2


def test_results_are_handed_on_in_the_order_of_the_files_as_soon_as_they_can_be(files, told) -> None:
    paths = good(files)
    shown: list[str] = []
    progress: list[tuple[str, int, int]] = []
    run(
        paths,
        partial(slow, folder=told, first=Path(paths[0]).name, others=2),
        many=TWO,
        done=lambda one: shown.append(one.entry["path"]),
        progress=lambda *told: progress.append(told),
    )
    assert shown == paths
    assert progress == [("checkpoints", done, 4) for done in (1, 2, 3, 4)]


def test_no_file_needs_no_process() -> None:
    assert run([], many=Many(workers=8)).document["checkpoints"] == []


def test_more_processes_than_files_are_not_started(files, told) -> None:
    one = good(files)[:1]
    assert same(run(one, many=Many(workers=64)), run(one))


def test_a_process_that_dies_takes_nothing_with_it(files, told) -> None:
    analyse = partial(deadly, folder=told, victim="epoch04.pt", deaths=1)
    assert same(run(files, analyse, many=TWO), run(files))
    assert calls(told, "epoch04.pt") == 2


def test_a_file_that_kills_its_process_twice_is_the_only_one_with_an_error(files, told) -> None:
    analyse = partial(deadly, folder=told, victim="epoch04.pt", deaths=99)
    outcome, usual = run(files, analyse, many=TWO), run(files)
    (line,) = set(outcome.failures) - set(usual.failures)
    assert "epoch04.pt: not audited; the process that audited it died twice" in line
    assert calls(told, "epoch04.pt") == 2
    for entry, expected in zip(outcome.document["checkpoints"], usual.document["checkpoints"], strict=True):
        if entry["path"].endswith("epoch04.pt"):
            assert (entry["error"], entry["sha256"], "graph" in entry) == (line, None, False)
        else:
            assert entry == expected


def test_two_such_files_are_told_apart_from_the_rest(files, told) -> None:
    paths = good(files)
    first = partial(deadly, folder=told, victim="epoch00.pt", deaths=99)
    outcome = run([*paths, paths[1]], first, many=TWO)
    assert [entry["error"] is None for entry in outcome.document["checkpoints"]] == [True, False, True, True, False]


def test_relative_paths_are_those_of_the_current_folder(files, monkeypatch) -> None:
    monkeypatch.chdir(Path(files[0]).parent)
    names = [Path(path).name for path in files]
    assert same(run(names, many=TWO), run(names))


def test_an_exception_of_a_listener_ends_the_processes_at_once(files, told) -> None:
    before = set(multiprocessing.active_children())

    class LeftError(Exception):
        pass

    def leave(_: object) -> None:
        raise LeftError

    begun = time.monotonic()
    with pytest.raises(LeftError):
        run(good(files), partial(slow, folder=told, first="epoch00.pt", others=99), many=TWO, done=leave)
    assert set(multiprocessing.active_children()) <= before
    assert time.monotonic() - begun < 40, "the process that waits for a minute was not waited for"


# resume -----------------------------------------------------------------------------------------------------


def keeping(tmp_path: Path, workers: int = 1) -> Many:
    return Many(workers=workers, resume=str(tmp_path / "kept"))


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_kept_is_not_computed_again_and_the_answer_is_the_same(files, told, tmp_path, workers) -> None:
    analyse = partial(counted, folder=told)
    run(good(files)[:2], analyse, many=keeping(tmp_path))
    whole = run(files, analyse, many=keeping(tmp_path, workers))
    assert calls(told) == 4
    again = run(files, analyse, many=keeping(tmp_path, workers))
    assert calls(told) == 4
    assert same(whole, run(files))
    assert same(again, whole)


def test_a_comparison_goes_on_with_its_family(files, tmp_path) -> None:
    usual = compare_all(good(files), SMALL)
    watch = Watch(line=to_jsonl)
    for _ in range(2):
        assert same(compare_all(good(files), SMALL, many=keeping(tmp_path), watch=watch), usual)


def test_every_line_is_a_document_of_its_own_with_its_key(files, tmp_path) -> None:
    run(files, many=keeping(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "kept").read_text().splitlines()]
    assert [line["checkpoints"][0]["path"] for line in lines] == good(files)
    assert all(list(line)[-1] == "run" and len(line["run"]["key"]) == 64 for line in lines)


def test_results_are_kept_as_they_come_and_not_in_the_order_of_the_answer(files, told, tmp_path) -> None:
    paths = good(files)
    seen: list[int] = []
    run(
        paths,
        partial(slow, folder=told, first=Path(paths[0]).name, others=3),
        many=keeping(tmp_path, 2),
        done=lambda _: seen.append(len((tmp_path / "kept").read_text().splitlines())),
    )
    assert seen[0] >= 3


def test_a_result_is_that_of_the_content_wherever_the_file_is(files, told, tmp_path) -> None:
    analyse = partial(counted, folder=told)
    run(good(files), analyse, many=keeping(tmp_path))
    moved = [str(shutil.copy(path, tmp_path / f"moved{number}")) for number, path in enumerate(good(files))]
    assert same(run(moved, analyse, many=keeping(tmp_path)), run(moved))
    assert calls(told) == 4


def test_a_file_that_changed_is_computed_again(files, told, tmp_path) -> None:
    analyse = partial(counted, folder=told)
    run(good(files), analyse, many=keeping(tmp_path))
    shutil.copy(good(files)[1], good(files)[2])
    shutil.copy(good(files)[0], good(files)[3])
    with Path(good(files)[1]).open("ab") as file:
        file.write(b"\0")
    whole = run(good(files), analyse, many=keeping(tmp_path))
    assert same(whole, run(good(files)))
    assert calls(told) == 5


def test_what_failed_is_tried_again(files, tmp_path, samples) -> None:
    run(files, many=keeping(tmp_path))
    shutil.copy(samples / "digits_resnet" / "epoch08.pt", files[-1])
    outcome = run(files, many=keeping(tmp_path))
    assert len(outcome.failures) == 2
    assert outcome.document["checkpoints"][-1]["error"] is None


def test_other_settings_and_other_commands_share_the_file_and_not_the_results(files, told, tmp_path) -> None:
    analyse = partial(counted, folder=told)
    paths = good(files)[:1]
    for settings in (SMALL, dataclasses.replace(SMALL, seed=1), SMALL):
        assert same(run(paths, analyse, many=keeping(tmp_path), settings=settings), run(paths, settings=settings))
    assert calls(told) == 2
    work = Work(analyses=FAST, settings=SMALL, analyse=analyse)
    audit_all(paths, "check", work, many=keeping(tmp_path), watch=Watch(line=to_jsonl))
    assert calls(told) == 3
    assert len((tmp_path / "kept").read_text().splitlines()) == 3


OTHER: dict[str, object] = {
    "input_size": (1, 9, 9),
    "key": "net",
    "assume": True,
    "patterns": "more.toml",
    "blocks": ("layer1.*",),
    "data": "data.npz",
    "inputs": "gaussian",
    "samples": 3,
    "seed": 1,
    "dtype": "float64",
    "device": "cuda",
    "threads": 2,
    "objective": "ce",
    "recalibrate": True,
    "unit": "layers",
    "fast": False,
    "veit": True,
    "max_depth": 3,
    "hessian": True,
    "method": "weights",
    "n_train": 10,
    "x_rms": 2.0,
    "margin": 2.0,
    "epsilon": 2.0,
    "delta": 0.1,
    "preset": "strict",
    "reference": "start.pt",
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Settings) if field.name != "arch"])
def test_every_setting_is_part_of_the_key(name) -> None:
    work = Work(analyses=FAST, settings=SMALL, analyse=registered)
    changed = dataclasses.replace(work, settings=dataclasses.replace(SMALL, **{name: OTHER[name]}))
    assert run_of("report", work) != run_of("report", changed)


def test_analyses_versions_and_the_content_of_named_files_are_part_of_the_key(tmp_path, monkeypatch) -> None:
    images = tmp_path / "images"
    images.mkdir()
    keys = [run_of("report", Work(analyses=FAST, settings=SMALL, analyse=registered))]
    keys.append(run_of("report", Work(analyses=("bound",), settings=SMALL, analyse=registered)))
    for name in ("data", "patterns", "reference"):
        named = Work(
            analyses=FAST, settings=dataclasses.replace(SMALL, **{name: str(tmp_path / "file")}), analyse=registered
        )
        for text in ("one", "two"):
            (tmp_path / "file").write_text(text)
            keys.append(run_of("report", named))
    folder = Work(analyses=FAST, settings=dataclasses.replace(SMALL, data=str(images)), analyse=registered)
    keys.append(run_of("report", folder))
    (images / "a.png").touch()
    keys.append(run_of("report", folder))
    monkeypatch.setattr("resnet_audit.report.resume.version", lambda package: f"{package} 99")
    keys.append(run_of("report", Work(analyses=FAST, settings=SMALL, analyse=registered)))
    assert len(set(keys)) == len(keys) == 11


def test_weights_outside_an_onnx_file_are_part_of_its_content(tmp_path) -> None:
    onnx = pytest.importorskip("onnx")
    from resnet_audit.checkpoint.digest import content_of, sha256_of  # noqa: PLC0415 - only here

    weight = onnx.numpy_helper.from_array(__import__("numpy").ones((8, 8), "float32"), "w")
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(name, 1, [1, 8]) for name in "xy")
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [x], [y], [weight]))
    path = tmp_path / "net.onnx"
    onnx.save(model, path, save_as_external_data=True, location="net.data", size_threshold=0)
    (tmp_path / "else.data").write_bytes(b"1")
    before = content_of(str(path)), sha256_of(str(path))
    (tmp_path / "else.data").write_bytes(b"2")
    assert content_of(str(path)) == before[0]
    (tmp_path / "net.data").write_bytes(bytes(8 * 8 * 4))
    assert content_of(str(path)) != before[0]
    assert sha256_of(str(path)) == before[1]


@pytest.mark.parametrize("left", [1, 20, 200, -200, -1])
def test_a_last_line_that_was_cut_off_is_computed_again(files, told, tmp_path, left) -> None:
    analyse = partial(counted, folder=told)
    usual = run(good(files), analyse, many=keeping(tmp_path))
    whole = (tmp_path / "kept").read_bytes()
    lines = whole.splitlines(keepends=True)
    (tmp_path / "kept").write_bytes(b"".join(lines[:3]) + lines[3][:left])
    assert same(run(good(files), analyse, many=keeping(tmp_path)), usual)
    assert calls(told) == 5
    assert (tmp_path / "kept").read_bytes() == whole


@pytest.mark.parametrize(
    "content",
    [
        b"text",
        b"text\n",
        b"\n",
        b"{}\n",
        b"[]\n",
        b"\x80\x02",
        b'{"schema_version": "1.0", "run": 3}\n',
        b'{"run": {"key": "k"}}\n',
        b'{"schema_version": "1.0", "run": {"key": "k", "beside": null}}\ntext',
        b'{"schema_version": "1.0", "run": {"key": "k", "beside": null}}\ntext\n',
        b"[" * 100_000 + b"\n",
    ],
    ids=lambda content: repr(content[:30]),
)
def test_a_file_that_is_something_else_is_refused_and_left_alone(files, tmp_path, content) -> None:
    (tmp_path / "kept").write_bytes(content)
    with pytest.raises(UsageError, match="is no result of --resume; nothing was written to it; name another file"):
        run(files, many=keeping(tmp_path))
    assert (tmp_path / "kept").read_bytes() == content


def test_the_answer_of_another_run_is_no_file_to_go_on_from(files, tmp_path) -> None:
    (tmp_path / "kept").write_text(to_jsonl(run(files).document))
    with pytest.raises(UsageError, match="line 1 is no result"):
        run(files, many=keeping(tmp_path))


def test_a_result_that_someone_changed_is_refused(files, tmp_path) -> None:
    run(good(files), many=keeping(tmp_path))
    text = (tmp_path / "kept").read_text()
    (tmp_path / "kept").write_text(text.replace('"parameters": 67906', '"parameters": "many"'))
    with pytest.raises(AuditError, match="--resume"):
        run(good(files), many=keeping(tmp_path))


def test_one_file_is_for_one_run_at_a_time(files, tmp_path) -> None:
    def again(_: object) -> None:
        with pytest.raises(UsageError, match="another run keeps its results there"):
            run(files, many=keeping(tmp_path))

    run(files, many=keeping(tmp_path), done=again)


def test_a_folder_a_device_and_a_full_disk_are_one_sentence(files) -> None:
    for path in ("/", "/dev/null"):
        with pytest.raises(UsageError, match=f"--resume {path}: .*; nothing was written to it; "):
            run(files, many=Many(resume=path))


def test_a_full_disk_is_one_sentence(files, tmp_path, monkeypatch) -> None:
    def full(_descriptor: int, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("resnet_audit.report.resume.os.write", full)
    with pytest.raises(AuditError, match="no space left on device; results cannot be kept"):
        run(files, many=keeping(tmp_path))


def test_code_of_the_users_cannot_be_resumed(files, tmp_path) -> None:
    with pytest.raises(UsageError, match="--resume and --arch contradict each other"):
        run(files, many=keeping(tmp_path), settings=dataclasses.replace(SMALL, arch="a:b"))


# dask -------------------------------------------------------------------------------------------------------


@contextmanager
def cluster(**config: object) -> Iterator[str]:
    """The address of a scheduler with two worker processes."""
    distributed = pytest.importorskip("distributed", reason="distributed is not installed: the extra `dask` brings it")
    import dask  # noqa: PLC0415 - as above

    with (
        dask.config.set({"distributed.worker.daemon": True, **config}),
        distributed.LocalCluster(processes=True, n_workers=2, dashboard_address=None, silence_logs=50) as local,
    ):
        yield local.scheduler_address


def test_a_cluster_gives_the_same_bytes_in_the_same_order_and_loses_nothing_with_a_worker(
    files, told, tmp_path
) -> None:
    shown: list[str] = []
    with cluster() as address:
        many = Many(dask=address, resume=str(tmp_path / "kept"))
        outcome = run(files, partial(counted, folder=told), many=many, done=lambda one: shown.append(one.entry["path"]))
        assert same(outcome, run(files))
        assert same(run(files, partial(counted, folder=told), many=many), outcome)
        assert (shown, calls(told)) == (files, 4)
        assert same(compare_all(files, SMALL, many=Many(dask=address)), compare_all(files, SMALL))
        analyse = partial(deadly, folder=told, victim="epoch04.pt", deaths=2)
        assert same(run(files, analyse, many=Many(dask=address)), run(files))
        assert calls(told, "epoch04.pt") == 3


def test_a_file_that_kills_workers_of_a_cluster_is_the_only_one_with_an_error(files, told) -> None:
    with cluster(**{"distributed.scheduler.allowed-failures": 0}) as address:
        analyse = partial(deadly, folder=told, victim="epoch04.pt", deaths=99)
        outcome = run(good(files), analyse, many=Many(dask=address))
    assert [entry["error"] is None for entry in outcome.document["checkpoints"]] == [True, True, False, True]
    assert "died twice" in outcome.failures[0]


class Workers:
    """A client of two workers, as far as it is asked who they are."""

    def __init__(self, folder: str, torch: str, number: int = 2) -> None:
        self.names, self.folder, self.torch = [f"worker{n}" for n in range(number)], folder, torch

    def wait_for_workers(self, number: int, timeout: float) -> None:
        if len(self.names) < number:
            raise TimeoutError(timeout)

    def nthreads(self) -> dict[str, int]:
        return dict.fromkeys(self.names, 1)

    def run(self, function, *given, **_how: str) -> dict[str, str]:
        usual = os.getcwd() if function is os.getcwd else version(*given)  # noqa: PTH109 - as it is asked
        other = self.folder if function is os.getcwd else self.torch if given == ("torch",) else usual
        return dict(zip(self.names, (usual, other), strict=False))


HERE = str(Path.cwd())


def test_workers_like_this_process_are_as_many_files_at_once() -> None:
    assert _number_of_workers(Workers(HERE, version("torch")), "a:1") == 2
    _require_alike(Workers(HERE, version("torch")), "a:1", ["x.pt", "-"])
    _require_alike(Workers("/", version("torch")), "a:1", ["/x.pt", "s3://a/b", "-"])


@pytest.mark.parametrize(
    ("workers", "sentence"),
    [
        (Workers(HERE, "1.0"), f"a worker has torch 1.0 where this has {version('torch')}; install the same on all"),
        (Workers("/", version("torch")), "a worker runs in /, where x.pt is another file; name files by whole paths"),
    ],
    ids=["versions", "folder"],
)
def test_workers_that_would_do_something_else_are_refused(workers, sentence) -> None:
    with pytest.raises(UsageError) as stopped:
        _require_alike(workers, "a:1", ["/y.pt", "x.pt"])
    assert str(stopped.value).startswith(f"--dask a:1: {sentence}")


def test_a_scheduler_without_workers_is_refused() -> None:
    with pytest.raises(UsageError, match="--dask a:1: the scheduler has no workers; start one with `dask worker a:1`"):
        _number_of_workers(Workers(HERE, "", 0), "a:1")


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nowhere", "foo://x", "", "tcp://127.0.0.1:x"])
def test_an_address_where_no_scheduler_answers_is_one_sentence(address, files, monkeypatch) -> None:
    pytest.importorskip("distributed", reason="distributed is not installed: the extra `dask` brings it")
    monkeypatch.setattr("resnet_audit.report.cluster.PATIENCE", 0.5)
    with pytest.raises(UsageError) as stopped:
        run(files, many=Many(dask=address))
    assert str(stopped.value).startswith(f"--dask {address}: no scheduler answers there (")
    assert "\n" not in str(stopped.value)


def test_without_distributed_the_sentence_says_what_to_install(files, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"distributed is not installed; pip install 'resnet-audit\[dask\]' brings it"):
        run(files, many=Many(dask="127.0.0.1:1"))
