"""Loads mutated checkpoints one after the other, with little memory and little time for each. Run as a program.

    python fuzz_worker.py FOLDER BASES SEED COUNT

BASES: a JSON list of [name, file to mutate, path to load]. Before each load the number of the mutation goes to stdout,
so that whoever started the program knows which one stopped it.
"""

from __future__ import annotations

import io
import json
import random
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


def main(folder: Path, bases: list[list[str]], seed: int, count: int) -> None:
    """Loads `count` mutations; anything but a checkpoint or a refusal in one printable line ends the program."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from resnet_audit.checkpoint import load  # noqa: PLC0415 (its path is set above)
    from resnet_audit.errors import UnreadableCheckpoint  # noqa: PLC0415 (as above)

    warnings.simplefilter("error")
    for _, _, path in bases:
        load(path)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    outcomes = {name: [0, 0] for name, _, _ in bases}
    slowest = 0.0
    for number in range(seed, seed + count):
        chance = random.Random(number)  # noqa: S311 (repeatable, not secret)
        name, source, path = bases[number % len(bases)]
        data = Path(source).read_bytes()
        inside = data.startswith(b"PK") and chance.random() < 0.6
        target = folder / "mutated"
        if Path(path).is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(path, target)
            (target / Path(source).name).write_bytes(mutated(data, chance))
        else:
            target = folder / "mutated.bin"
            target.unlink(missing_ok=True)  # the pages of the last one may still be mapped
            target.write_bytes(mutated_inside(data, chance) if inside else mutated(data, chance))
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
    print(json.dumps({"outcomes": outcomes, "slowest": slowest}))  # noqa: T201 (as above)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
