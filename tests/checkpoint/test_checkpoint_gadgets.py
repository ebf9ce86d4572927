"""Pickles that would run code, in every way that a pickle can, in every place where one is read: nothing happens.

Each file is loaded in a process of its own under an audit hook, after a harmless file of the same format was loaded: no
import, no compiled or executed code, no process, no socket, no file but the checkpoint. A control shows that the real
unpickler would have run the very same bytes.
"""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from checkpoint_builders import rewrite_zip, save_legacy, save_zip, weights
from torch import nn
from torch.distributed import checkpoint as dcp

if TYPE_CHECKING:
    from collections.abc import Callable

MARKER = "gadget-marker"
COMMAND = f"touch {MARKER}".encode()
CODE = f"open('{MARKER}','w').close()".encode()


def text(value: bytes) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value


# Each leaves one object on the stack of a pickle of protocol 4 that began without a mark.
GADGETS: dict[str, bytes] = {
    "reduce": b"cos\nsystem\n" + text(COMMAND) + b"\x85R",
    "stack global": text(b"os") + text(b"system") + b"\x93" + text(COMMAND) + b"\x85R",
    "inst": b"(" + text(COMMAND) + b"ios\nsystem\n",
    "obj": b"(cos\nsystem\n" + text(COMMAND) + b"o",
    "newobj": b"csubprocess\nPopen\n" + text(b"true") + b"\x85\x81",
    "newobj_ex": b"csubprocess\nPopen\n)}" + text(b"args") + text(b"true") + b"s\x92",
    "eval": b"cbuiltins\neval\n" + text(CODE) + b"\x85R",
    "python 2 names": b"c__builtin__\neval\n" + text(CODE) + b"\x85R",
    "exec through getattr": b"cbuiltins\ngetattr\nc__builtin__\n__dict__\n"
    + text(b"exec")
    + b"\x86R"
    + text(CODE)
    + b"\x85R",
    "nested names": text(b"torch.serialization") + text(b"os.system") + b"\x93" + text(COMMAND) + b"\x85R",
    "import by name": b"cimportlib\nimport_module\n" + text(b"antigravity") + b"\x85R",
    "import by class": b"cthis\ns\n",
    "memo tricks": b"cos\nsystem\n\x94" + b"0" + text(COMMAND) + b"\x85\x94" + b"0" + b"h\x00h\x01R",
    "state": b"cfunctools\npartial\ncos\nsystem\n\x85R(cos\nsystem\n" + text(COMMAND) + b"\x85}NtbN\x85R",
    "setstate": b"cpathlib\nPurePath\n)\x81}" + text(b"__setstate__") + b"cos\nsystem\nsb" + text(COMMAND) + b"b",
    "dict subclass": b"ccollections\nOrderedDict\n)R}"
    + text(b"__setitem__")
    + b"cos\nsystem\nsb"
    + text(COMMAND)
    + b"Ns",
    "list subclass": b"ccollections\nUserList\n)\x81(" + text(COMMAND) + b"e",
    "reduce in reduce": b"cbuiltins\nmap\ncos\nsystem\n" + text(COMMAND) + b"\x85\x86R" + b"cbuiltins\nlist\n0",
    "torch.load": b"ctorch\nload\n" + text(MARKER.encode()) + b"\x85R",
    "torch.hub": b"ctorch.hub\nload\n" + text(b"a/b") + b"\x85R",
    "extension": b"\x82\x01)R",
    "hook of a parameter": b"ctorch._utils\n_rebuild_parameter\nN\x88cos\nsystem\n" + text(COMMAND) + b"\x85R\x87R",
    "type tag": b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\ncos\nsystem\n" + text(COMMAND) + b"\x85}tR",
    "numpy": b"cnumpy\nload\n" + text(b"x.npy") + b"\x85R",
    "codecs": b"c_codecs\nencode\n" + text(b"x") + text(b"rot13") + b"\x86R",
}
RUNS = ["reduce", "stack global", "inst", "obj", "eval", "nested names", "memo tricks", "type tag"]
"""Those that the control runs with the real unpickler."""

QUIET = {"import by class", "list subclass", "codecs"}
"""Those whose own names are data, and dangerous only with a real unpickler."""


def evil(gadget: bytes, good: bytes) -> bytes:
    """The pickle `good` with the gadget carried out, and dropped, before everything else."""
    return b"\x80\x04" + gadget + b"0" + (good[2:] if good[:1] == b"\x80" else good)


def in_zip(folder: Path, gadget: bytes) -> Path:
    path = save_zip(folder / "m.pt", weights())
    return rewrite_zip(path, {"m/data.pkl": evil(gadget, _record(path, "m/data.pkl"))})


def in_legacy(folder: Path, gadget: bytes) -> Path:
    path = save_legacy(folder / "m.pt", weights())
    data = path.read_bytes()
    stream = io.BytesIO(data)
    for _ in range(3):
        pickle.load(stream)  # noqa: S301 (our own header)
    at = stream.tell()
    path.write_bytes(data[:at] + evil(gadget, data[at:]))
    return path


def in_legacy_header(folder: Path, gadget: bytes) -> Path:
    path = save_legacy(folder / "m.pt", weights())
    data = path.read_bytes()
    stream = io.BytesIO(data)
    for _ in range(2):
        pickle.load(stream)  # noqa: S301 (our own header)
    at = stream.tell()
    path.write_bytes(data[:at] + evil(gadget, data[at:]))
    return path


def in_torchscript(folder: Path, gadget: bytes) -> Path:
    torch.jit.script(nn.Linear(2, 2)).save(folder / "m.pt")
    return rewrite_zip(folder / "m.pt", {"m/data.pkl": evil(gadget, _record(folder / "m.pt", "m/data.pkl"))})


def in_metadata(folder: Path, gadget: bytes) -> Path:
    dcp.save({"w": torch.zeros(2)}, checkpoint_id=str(folder / "m"), no_dist=True)
    file = folder / "m" / ".metadata"
    data = file.read_bytes()
    frame = data.index(b"\x95")  # a frame has a length: leave it out, its contents stay
    file.write_bytes(b"\x80\x04" + gadget + b"0" + data[frame + 9 :])
    return folder / "m"


PLACES: dict[str, Callable[[Path, bytes], Path]] = {
    "zip": in_zip,
    "legacy": in_legacy,
    "legacy header": in_legacy_header,
    "torchscript": in_torchscript,
    "metadata": in_metadata,
}


def _record(path: Path, name: str) -> bytes:
    import zipfile  # noqa: PLC0415 (one use)

    with zipfile.ZipFile(path) as archive:
        return archive.read(name)


WATCHER = """
import json, os, sys
from resnet_audit.checkpoint import load
from resnet_audit.errors import UnreadableCheckpoint
given = [tuple(pair) for pair in json.loads(sys.stdin.read())]
for warm, _ in given:
    load(warm)
seen, watching, allowed = [], False, ""
names = ("import", "exec", "compile", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "subprocess",
         "socket", "ctypes", "shutil", "os.remove", "os.rename", "os.mkdir", "pickle.find_class", "marshal", "urllib")
def hook(event, args):
    if not watching:
        return
    if event == "open" and not str(args[0]).startswith(allowed):
        seen.append([event, str(args[0])])
    elif event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        seen.append([event, args[1]])
    elif event.startswith(names):
        seen.append([event, repr(args)[:200]])
sys.addaudithook(hook)
results = []
for _, path in given:
    seen.clear()
    allowed = path
    watching = True
    try:
        found = load(path)
        result = [len(found.tensors), list(found.dangerous_globals)]
    except UnreadableCheckpoint as error:
        result = [0, str(error)]
    watching = False
    results.append([result, list(seen)])
print(json.dumps(results))
"""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("place", PLACES)
def test_no_gadget_has_any_effect(place, tmp_path):
    pairs = []
    for number, gadget in enumerate(GADGETS.values()):
        folders = [tmp_path / kind / str(number) for kind in ("good", "evil")]
        for folder in folders:
            folder.mkdir(parents=True)
        good = PLACES[place](folders[0], b"N")
        pairs.append((str(good), str(PLACES[place](folders[1], gadget))))
    work = tmp_path / "work"
    work.mkdir()
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{textwrap.dedent(WATCHER)}"],
        input=json.dumps(pairs),
        capture_output=True,
        text=True,
        check=False,
        cwd=work,
    )
    assert done.returncode == 0, done.stderr
    assert list(work.iterdir()) == []
    for name, (result, seen) in zip(GADGETS, json.loads(done.stdout), strict=True):
        assert seen == [], name
        count, dangerous = result
        if (place, name) == ("metadata", "memo tricks"):
            assert "places no chunks" in dangerous  # it moves the entries that the rest of this pickle recalls
            continue
        assert count, f"{name}: {dangerous}"
        assert bool(dangerous) != (name in QUIET), f"{name}: {dangerous}"


@pytest.mark.parametrize("name", RUNS)
def test_the_real_unpickler_runs_the_same_bytes(name, tmp_path):
    data = b"\x80\x04" + GADGETS[name] + b"."
    module = "torch" if b"torch" in data else "os"
    code = "import pickle, sys, os\ntry: pickle.loads(sys.stdin.buffer.read())\nexcept Exception: pass"
    subprocess.run([sys.executable, "-c", f"import {module}\n{code}"], input=data, cwd=tmp_path, check=True)
    assert [file.name for file in tmp_path.iterdir()] == [MARKER]


@pytest.mark.parametrize(
    "identifier",
    [
        b"cos\nsystem\nQ",
        b"(cos\nsystem\n" + text(COMMAND) + b"tQ",
        b"(" + text(b"storage") + b"cos\nsystem\n" + text(b"0") + text(b"cpu") + b"K\x01tQ",
        b"P" + COMMAND + b"\n",
    ],
)
def test_a_persistent_identifier_runs_nothing(identifier, tmp_path, monkeypatch):
    from resnet_audit.checkpoint import load  # noqa: PLC0415 (beside the processes above, the only use)
    from resnet_audit.errors import UnreadableCheckpoint  # noqa: PLC0415 (as above)

    monkeypatch.chdir(tmp_path)
    path = in_zip(tmp_path, identifier)
    with pytest.raises(UnreadableCheckpoint):
        load(str(path))
    assert not (tmp_path / MARKER).exists()


@pytest.mark.parametrize("depth", [30, 3000])
def test_nested_tuples_as_keys_of_dicts_are_never_hashed(depth, tmp_path):
    from resnet_audit.checkpoint import load  # noqa: PLC0415 (as above)

    # t = (t, t), again and again: hashing the last would take 2**depth steps.
    laughs = (
        b")" + b"\x94h\x00\x86" + b"".join(b"\x94" + b"j" + n.to_bytes(4, "little") + b"\x86" for n in range(1, depth))
    )
    gadget = b"}(" + laughs + b"N" + b"u"
    assert len(load(str(in_zip(tmp_path, gadget))).tensors) == len(weights())
