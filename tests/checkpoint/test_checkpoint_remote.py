"""Addresses as checkpoints: spooled, read like any other file, and gone afterwards; each refusal is one line."""

from __future__ import annotations

import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec
import pytest
import torch

from resnet_audit.checkpoint import expand, load
from resnet_audit.checkpoint.remote import is_of_this_process, is_remote, spooled
from resnet_audit.errors import UnreadableCheckpoint
from resnet_audit.render.json import to_json
from resnet_audit.report import audit
from resnet_audit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

SMALL = Settings(input_size=(1, 8, 8), samples=2, threads=1)


@pytest.fixture
def local(samples: Path) -> str:
    return str(samples / "digits_resnet" / "epoch24.pt")


@pytest.fixture
def memory(local: str) -> Iterator[fsspec.AbstractFileSystem]:
    """A file system in memory with a run in it."""
    system = fsspec.filesystem("memory")
    content = Path(local).read_bytes()
    for name in ("epoch10.pt", "epoch2.pt", "epoch2.txt"):
        system.pipe(f"/run/{name}", content if name.endswith("pt") else b"loss\n")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path_factory, monkeypatch) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("spool")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield
    # torch keeps a folder of its own for what it compiles.
    assert [path for path in folder.iterdir() if not path.name.startswith("torchinductor")] == []


def refused(path: str) -> list[str]:
    """What the line about a path consists of."""
    with pytest.raises(UnreadableCheckpoint) as stopped:
        load(path)
    line = str(stopped.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    return line.removeprefix(f"{path}: ").split("; ")


def test_an_address_is_read_as_the_file_would_be(memory, local) -> None:
    there, here = load("memory://run/epoch2.pt"), load(local)
    assert there.path == "memory://run/epoch2.pt"
    assert (there.sha256, there.format, there.parameters) == (here.sha256, here.format, here.parameters)
    assert all(torch.equal(there.tensors[name], tensor) for name, tensor in here.tensors.items())


def test_a_file_address_is_a_file(local) -> None:
    assert load(f"file://{local}").sha256 == load(local).sha256


def test_an_audit_of_an_address_differs_in_its_path_only(memory, local) -> None:
    there, here = (audit([path], "report", ["spectrum"], SMALL) for path in ("memory://run/epoch2.pt", local))
    assert to_json(there.document) == to_json(here.document).replace(local, "memory://run/epoch2.pt")


def test_a_program_at_an_address_is_opened_there(memory, tmp_path) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.ReLU()).eval()
    torch.export.save(torch.export.export(module, (torch.zeros(2, 1, 8, 8),)), tmp_path / "net.pt2")
    memory.pipe("/net.pt2", (tmp_path / "net.pt2").read_bytes())
    outcome = audit(["memory://net.pt2"], "graph", [], SMALL)
    assert outcome.failures == ()
    assert outcome.document["checkpoints"][0]["format"] == "pt2"


def test_a_pattern_is_expanded_in_natural_order(memory) -> None:
    assert expand(["memory://run/*.pt"]) == (["memory:///run/epoch2.pt", "memory:///run/epoch10.pt"], [])
    assert load("memory:///run/epoch10.pt").format == "torch-zip"


def test_what_is_no_pattern_or_matches_nothing_stays_as_it_is(memory) -> None:
    given = ["memory://run/epoch2.pt", "memory://run/*.th", "s3://bucket/*.pt", "foo://x*", "http://127.0.0.1:1/a?b=c"]
    assert expand(given) == (given, [])


def test_a_local_file_that_looks_like_an_address_is_a_file(memory, local, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("memory:/run").mkdir(parents=True)
    Path("memory:/run/epoch2.pt").write_text("no checkpoint\n")
    assert not is_remote("memory://run/epoch2.pt")
    assert refused("memory://run/epoch2.pt")[0] == "a text file"


@pytest.mark.parametrize(
    "path", ["net.pt", "./a:b", "C:\\x", "://x", "1s3://x", "simplecache::memory://run/a.pt", "-", ""]
)
def test_other_paths_are_no_addresses(path) -> None:
    assert not is_remote(path)


def test_only_standard_input_and_memory_belong_to_one_process() -> None:
    assert [is_of_this_process(path) for path in ("-", "memory://a", "s3://a/b", "a.pt")] == [True, True, False, False]


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("memory://gone.pt", ["no such remote file", "there is nothing to read", "check the address"]),
        ("memory://run/*.th", ["no file matches this pattern", "there is nothing to read", "check the address"]),
        ("memory://run/epoch2.txt", ["a text file", "it holds no weights", "name the checkpoint"]),
        ("file:///gone/net.pt", ["no such remote file", "there is nothing to read", "check the address"]),
    ],
)
def test_what_is_not_there_is_said_of_the_address_as_given(path, parts, memory) -> None:
    assert refused(path) == parts


def test_a_remote_folder_is_refused(memory) -> None:
    assert refused("memory://run")[:2] == ["a remote folder", "only single files are fetched"]


def test_an_unknown_protocol_is_said() -> None:
    assert "Protocol not known: foo" in refused("foo://x/net.pt")[1]


@pytest.mark.parametrize(("protocol", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("https", "aiohttp")])
def test_a_missing_package_is_named(protocol, package, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(sys.modules["fsspec.registry"], "_registry", {})
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    what, why, todo = refused(f"{protocol}://host/net.pt")
    assert what == "a remote file"
    assert why == f"{protocol}:// needs the package {package}, which is not installed"
    assert f"pip install {package}" in todo


def test_an_error_of_the_other_side_is_one_line(memory, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("403; Forbidden\nand more\x1b[31m")

    monkeypatch.setattr(type(memory), "get_file", broken)
    _, why, _ = refused("memory://run/epoch2.pt")
    assert why == "fetching it failed: 403, Forbidden"


def test_an_error_about_another_file_keeps_its_name(memory) -> None:
    with (
        pytest.raises(UnreadableCheckpoint, match=r"other\.pt: what; why; todo"),
        spooled("memory://run/epoch2.pt"),
    ):
        raise UnreadableCheckpoint("other.pt", "what", "why", "todo")


class Quiet(SimpleHTTPRequestHandler):
    """A server that writes no log."""

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def web(tmp_path) -> Iterator[str]:
    """The address of a web server of the test's folder."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_web_server_is_read(web, local, tmp_path) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed: fsspec needs it for http")
    for name in ("epoch2.pt", "epoch10.pt"):
        (tmp_path / name).write_bytes(Path(local).read_bytes())
    assert load(f"{web}/epoch2.pt").sha256 == load(local).sha256
    assert load(f"{web}/epoch2.pt?version=3").sha256 == load(local).sha256
    assert expand([f"{web}/epoch*.pt"])[0] == [f"{web}/epoch2.pt", f"{web}/epoch10.pt"]
    assert refused(f"{web}/gone.pt")[0] == "no such remote file"
