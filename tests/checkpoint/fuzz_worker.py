"""Loads mutated checkpoints one after the other, with little memory and little time for each. Run as a program.

    python fuzz_worker.py FOLDER BASES SEED COUNT [whole]

BASES: a JSON list of [name, file to mutate, path to load]. Before each load the number of the mutation goes to stdout,
so that whoever started the program knows which one stopped it. With `whole`, each mutation goes through the command
`graph` as well, and the tracebacks of all internal errors are told at the end.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
import resource
import shutil
import signal
import sys
import time
import warnings
import zipfile
from pathlib import Path

SECONDS = 10
MEMORY = 2 * 2**30


def mutated(data: bytes, chance: random.Random) -> bytes:
    """`data` after one to four changes: bytes, cuts, copies of one part over another, fields that hold a length."""
    content = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        if not content:
            break
        at = chance.randrange(len(content))
        if chance.random() < 0.5:  # the structure is at the ends
            at = min(at, chance.randrange(1, 1500)) if chance.random() < 0.5 else max(at, len(content) - 1500)
            at %= len(content)
        length = chance.randint(1, 64)
        match chance.randrange(8):
            case 0:
                content[at] ^= 1 << chance.randrange(8)
            case 1:
                content[at] = chance.randrange(256)
            case 2:
                del content[at:]
            case 3:
                del content[at : at + length]
            case 4:
                start = chance.randrange(len(content))
                content[at:at] = content[start : start + length]
            case 5:
                start = chance.randrange(len(content))
                content[at : at + length] = content[start : start + length]
            case 6:
                size = chance.choice([1, 2, 4, 8])
                number = chance.choice(
                    [0, 1, -1, 2 ** (8 * size - 1), 2 ** (8 * size) - 2, chance.getrandbits(8 * size)]
                )
                content[at : at + size] = (number % 2 ** (8 * size)).to_bytes(size, "little")
            case 7:
                content[at:at] = chance.choice(
                    [b".", b"0", b"R", b"b", b"Q", b"(", b"}", b"u", b"t", b"\x93", b"h\x00"]
                )
    return bytes(content)


def mutated_inside(data: bytes, chance: random.Random) -> bytes:
    """A zip with one of its records mutated and every checksum right."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    told = [name for name in records if name.endswith((".pkl", ".json", ".npy"))]
    chosen = chance.choice(told or list(records))
    records[chosen] = mutated(records[chosen], chance)
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w", chance.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for name, record in records.items():
            archive.writestr(name, record)
    return result.getvalue()


def audited(path: str) -> str:
    """What happened when the whole command `graph` read `path`: `graph`, `error`, or the traceback of a defect."""
    from resnet_audit.report import audit  # noqa: PLC0415 (its path is set by main)
    from resnet_audit.settings import Settings  # noqa: PLC0415 (as above)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as the command line does: warnings of torch about old programs
        outcome = audit([path], "graph", [], Settings(threads=1))
    (entry,) = outcome.document["checkpoints"]
    told = [line.removeprefix(path) for line in (*outcome.failures, *filter(None, [entry["error"]]))]
    if any("internal error" in line for line in told):
        return "\n".join((*told[:1], *outcome.tracebacks))
    assert all(line.isprintable() for line in told), told
    assert bool(told) == ("graph" not in entry), told
    return "error" if told else "graph"


def memory(line: str) -> int:
    """`VmRSS`, the resident memory now, or `VmHWM`, its largest so far, in bytes."""
    return int(re.findall(rf"{line}:\s*(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024


def limited() -> int:
    """The resident memory now, from which the peak is measured; every address space beyond MEMORY is refused."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    with contextlib.suppress(OSError):  # where it may not be set back, the peak is that of the bases or more
        Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def write_mutation(base: list[str], folder: Path, chance: random.Random) -> Path:
    """One mutation of a base in `folder`, under the suffix of its path: torch looks at that of a program."""
    _, source, path = base
    data = Path(source).read_bytes()
    inside = data.startswith(b"PK") and chance.random() < 0.6
    if Path(path).is_dir():
        target = folder / "mutated"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(path, target)
        (target / Path(source).name).write_bytes(mutated(data, chance))
    else:
        target = folder / f"mutated{Path(path).suffix or '.bin'}"
        target.unlink(missing_ok=True)  # the pages of the last one may still be mapped
        target.write_bytes(mutated_inside(data, chance) if inside else mutated(data, chance))
    return target


def main(folder: Path, bases: list[list[str]], seed: int, count: int, *, whole: bool) -> None:
    """Loads `count` mutations; anything but a checkpoint or a refusal in one printable line ends the program."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from resnet_audit.checkpoint import load  # noqa: PLC0415 (its path is set above)
    from resnet_audit.errors import UnreadableCheckpoint  # noqa: PLC0415 (as above)

    warnings.simplefilter("error")
    for _, _, path in bases:
        load(path)
        assert not whole or audited(path) == "graph", path
    begun_with = limited()
    outcomes = {name: [0, 0] for name, _, _ in bases}
    commands = {name: [0, 0] for name, _, _ in bases}
    internal: list[str] = []
    slowest = 0.0
    for number in range(seed, seed + count):
        chance = random.Random(number)  # noqa: S311 (repeatable, not secret)
        base = bases[number % len(bases)]
        name, target = base[0], write_mutation(base, folder, chance)
        print(f"{number} {name}", flush=True)  # noqa: T201 (the protocol of this program)
        signal.alarm(SECONDS)
        begun = time.monotonic()
        try:
            checkpoint = load(str(target))
            outcomes[name][0] += 1
            assert all(key.isprintable() for key in checkpoint.tensors)
        except UnreadableCheckpoint as error:
            outcomes[name][1] += 1
            text = str(error).removeprefix(str(target))
            assert text.isprintable(), text
            assert text.count("; ") >= 2, text
        signal.alarm(0)
        slowest = max(slowest, time.monotonic() - begun)
        if whole:
            signal.alarm(SECONDS)
            begun = time.monotonic()
            told = audited(str(target))
            signal.alarm(0)
            slowest = max(slowest, time.monotonic() - begun)
            if told in {"graph", "error"}:
                commands[name][told == "error"] += 1
            else:
                internal.append(f"{number} {name}: {told}")
    result = {"outcomes": outcomes, "commands": commands, "internal": internal, "slowest": slowest}
    print(json.dumps(result | {"memory": memory("VmHWM") - begun_with}))  # noqa: T201 (as above)


if __name__ == "__main__":
    main(
        Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), whole=sys.argv[5:] == ["whole"]
    )
