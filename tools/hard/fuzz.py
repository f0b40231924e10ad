"""Damaged inputs at every boundary: each is read, or is one InputError of one line; nothing else ever comes out.

    python -m tools.hard.fuzz --cases 100000 --seed 0
    python -m tools.hard.fuzz --only picture --seed 0 --case 1234    # one case again, with its traceback

A case is decided by boundary, seed and number alone, whatever else is run.
"""

import argparse
import contextlib
import copy
import io
import json
import pickle
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dragnb.errors import InputError

from . import seeds

SLOW = 20.0  # seconds that no case may take


@dataclass
class Tally:
    """What came of one boundary's cases: how many were read and refused, and which ended otherwise."""

    boundary: str
    read: int = 0
    refused: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with one to four faults: bits, runs, cuts, repeats, huge numbers."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        place, size = int(rng.integers(len(data) + 1)), int(rng.integers(1, 17))
        kind = rng.integers(7)
        if kind == 0 and data:
            data[place % len(data)] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[place : place + size] = rng.bytes(size)
        elif kind == 2:
            del data[place:]
        elif kind == 3:
            del data[place : place + size]
        elif kind == 4:
            data[place:place] = data[place : place + size * 8]
        elif kind == 5:
            data[place : place + size] = bytes([rng.choice([0, 255])]) * size
        else:
            data[place : place + 4] = [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\x80"][
                rng.integers(3)
            ]
    return bytes(data)


def repaired(png: bytes) -> bytes:
    """A damaged PNG with the checksums of its chunks made right, so that the damage reaches the decoder."""
    out, place = png[:8], 8
    while place + 12 <= len(png):
        size = int.from_bytes(png[place : place + 4], "big")
        body = png[place + 4 : place + 8 + size]
        out += png[place : place + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        place += 12 + size
    return out


def picture(rng, folder: Path):
    from dragnb.inputs import pictures

    kinds = seeds.pictures()
    name = list(kinds)[rng.integers(len(kinds))]
    data = damage(kinds[name], rng)
    data = repaired(data) if name.startswith("PNG") and rng.random() < 0.7 else data
    if rng.random() < 0.3:
        mask = pictures.read_mask(io.BytesIO(data), seeds.SIZE)
        assert mask.dtype == bool and mask.shape == seeds.SIZE[::-1]
        return
    image = pictures.read_image(io.BytesIO(data))
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3


def drag_file(rng, folder: Path):
    from dragnb.task import DragTask, read_record

    kinds = seeds.drag_files()
    name = list(kinds)[rng.integers(len(kinds))]
    path = folder / name
    path.write_bytes(damage(kinds[name], rng))
    if rng.random() < 0.2:
        read_record(path)
    task = DragTask.load(path)
    task.packed(), task.warnings()


def json_text(rng, folder: Path):
    from dragnb.task import DragTask, parse_task_json

    data = json.loads(seeds.TASK_JSON)
    if rng.random() < 0.4:
        text = damage(seeds.TASK_JSON.encode(), rng)
    else:
        for _ in range(rng.integers(1, 3)):
            _change(data, rng)
        text = json.dumps(data).encode("utf-8", "surrogatepass")
    fields = parse_task_json(text)
    handles, targets = ([pair[end] for pair in fields["pairs"]] for end in ("handle", "target"))
    image = np.zeros((48, 64, 3), np.uint8)
    DragTask(image, handles, targets, None, fields.get("prompt", ""), fields.get("name", "")).packed()


ODD = (
    None,
    True,
    -1,
    0.5,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\ud800",
    "\0",
    [],
    {},
    [[]],
    [1],
    "1",
    2**63,
)


def _change(data, rng) -> None:
    """Put an odd value somewhere into nested dicts and lists."""
    while True:
        keys = list(data) if isinstance(data, dict) else list(range(len(data)))
        if not keys:
            return
        key = keys[rng.integers(len(keys))]
        if isinstance(data[key], (dict, list)) and rng.random() < 0.7:
            data = data[key]
            continue
        data[key] = copy.deepcopy(ODD[rng.integers(len(ODD))])
        return


def pickled(rng, folder: Path):
    from dragnb.sweep import pickles

    data = pickle.dumps(seeds.sample(), int(rng.integers(2, 6)))
    value = pickles.read(damage(data, rng), "meta_data.pkl")
    assert isinstance(value, dict)


def dataset(rng, folder: Path):
    from dragnb.sweep import datasets

    good, bad = seeds.instructed(), seeds.published() if rng.random() < 0.5 else seeds.instructed()
    name = list(bad)[rng.integers(len(bad))]
    if name == "drag_instruction.json" and rng.random() < 0.6:
        fields = json.loads(bad[name])
        _change(fields, rng)
        bad |= {name: json.dumps(fields).encode()}
    else:
        bad |= {name: damage(bad[name], rng)}
    files = {f"a/bad/{k}": v for k, v in bad.items()} | {f"a/good/{k}": v for k, v in good.items()}
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        for member, data in files.items():
            archive.writestr(member, data)
    found = datasets.read(folder / "set.zip")
    assert "a/good" in [sample.name for sample in found.samples], "a bad sample took a good one with it"
    for problem in found.problems:
        raise InputError(problem)


def dataset_zip(rng, folder: Path):
    from dragnb.sweep import datasets

    (folder / "set.zip").write_bytes(damage(seeds.dataset_zip(), rng))
    for sample in datasets.read(folder / "set.zip").samples:
        sample.task()


def lora_file(rng, folder: Path):
    from dragnb import lora

    (folder / "lora.safetensors").write_bytes(seeds.safetensors(rng, damage))
    lora.load(folder / "lora.safetensors")


def model_folder(rng, folder: Path):
    from dragnb import sd

    root = seeds.model_folder()
    files = sorted(p.relative_to(root) for p in root.rglob("*.json"))
    files += [p.relative_to(root) for p in root.rglob("*.safetensors")] if rng.random() < 0.1 else []
    bad = files[rng.integers(len(files))]
    for path in root.rglob("*"):
        if path.is_file() and path != root / bad:
            (folder / path.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
            (folder / path.relative_to(root)).symlink_to(path)
    (folder / bad).parent.mkdir(parents=True, exist_ok=True)
    if bad.suffix == ".json" and rng.random() < 0.6:
        value = json.loads((root / bad).read_text())
        _change(value, rng)
        (folder / bad).write_text(json.dumps(value))
    else:
        (folder / bad).write_bytes(damage((root / bad).read_bytes(), rng))
    try:
        sd.load(str(folder), device="cpu")
    finally:
        sd._loaded.clear()


def web_address(rng, folder: Path):
    from dragnb.inputs import web

    with seeds.answering(damage(seeds.ANSWER, rng)) as url:
        if rng.random() < 0.3:
            begin = url.index("/", 8) + 1
            url = url[:begin] + damage(b"a b.png?q=1", rng).decode("latin1")
        web.fetch(url)


BOUNDARIES: dict[str, tuple[Callable, int]] = {  # how many cases of a hundred
    "picture": (picture, 35),
    "drag file": (drag_file, 15),
    "json": (json_text, 20),
    "pickle": (pickled, 15),
    "dataset": (dataset, 4),
    "dataset's zip": (dataset_zip, 4),
    "LoRA": (lora_file, 5),
    "model folder": (model_folder, 1),
    "web address": (web_address, 1),
}


def run(cases: int, seed: int, only: str | None = None) -> Iterator[Tally]:
    """All boundaries' cases; one Tally each."""
    for name, (function, share) in BOUNDARIES.items():
        if only in (None, name):
            tally, began = Tally(name), time.monotonic()
            for k in range(max(1, cases * share // 100)):
                one(function, name, seed, k, tally)
            tally.seconds = time.monotonic() - began
            yield tally


def one(function: Callable, name: str, seed: int, case: int, tally: Tally, raising: bool = False) -> None:
    """One case, counted; what ends otherwise is noted with what repeats it."""
    rng, began = np.random.default_rng([seed, zlib.crc32(name.encode()), case]), time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(io.StringIO()):
                function(rng, Path(folder))
        tally.read += 1
    except InputError as error:
        tally.refused += 1
        if "\n" in str(error) or len(str(error)) > 1000 or not str(error):
            _fail(tally, seed, case, f"its message is no short line: {str(error)[:200]!r}")
    except Exception as error:
        if raising:
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        _fail(
            tally, seed, case, f"{type(error).__name__}: {str(error)[:200]} ({where.filename}:{where.lineno})"
        )
    if time.monotonic() - began > SLOW:
        _fail(tally, seed, case, f"it took {time.monotonic() - began:.0f} s")


def _fail(tally: Tally, seed: int, case: int, what: str) -> None:
    tally.failures.append(f'--only "{tally.boundary}" --seed {seed} --case {case}: {what}')


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(BOUNDARIES))
    parser.add_argument("--case", type=int, help="this one alone, of the boundary in --only")
    args = parser.parse_args(argv)
    if args.case is not None:
        one(
            BOUNDARIES[args.only][0], args.only, args.seed, args.case, tally := Tally(args.only), raising=True
        )
        print(tally)
        return len(tally.failures)
    print(f"seed {args.seed}\n{'boundary':<15}{'cases':>8}{'read':>8}{'refused':>9}{'otherwise':>10}{'s':>7}")
    failures = []
    for tally in run(args.cases, args.seed, args.only):
        n, bad = tally.read + tally.refused, len(tally.failures)
        print(f"{tally.boundary:<15}{n:>8}{tally.read:>8}{tally.refused:>9}{bad:>10}{tally.seconds:>7.0f}")
        failures += tally.failures
    print(*failures[:50], sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
