"""A run's folder: run.json says what the run is, records/SAMPLE/SETTING.json what came of a trial, one file each.

A file is there whole or not at all, at whatever moment a process is killed. One process writes, anyone may read.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import errno
import functools
import hashlib
import json
import os
import platform
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from PIL import Image

import dragnb
from dragnb.config import Settings
from dragnb.errors import InputError, WriteError
from dragnb.store import files, remedies
from dragnb.store.files import replacing
from dragnb.task import parse_json

FORMAT = 2  # raise it when a record changes its meaning: folders of another format are refused
RUN, RECORDS, PICTURES, WORK, LOCK, HOLDER = "run.json", "records", "pictures", "work", ".lock", "holder.json"
DIGITS = 5  # significant ones: far below any difference that means something
OTHER_RUN = "give another folder, or move this one away"

Key = tuple[str, str]  # (sample, setting): what a record is of


@contextlib.contextmanager
def held(out: str | os.PathLike, run: dict) -> Iterator[dict[Key, dict]]:
    """Hold a run's folder against other processes; gives the records that it has.

    out  the folder, made where it is missing
    run  what the run is, plain values: `settings` maps names to what they stand for; all else must be as it was when
         the folder was begun. More samples and more settings may join a run, none may change

    Raises InputError, with the remedy, for a folder that another process writes to, of another run or another format,
    and where the disk is full; what is in it then stays as it was.
    """
    out, run = Path(out), json.loads(json.dumps({"format": FORMAT} | run))
    with contextlib.ExitStack() as stack:
        with _room(out):
            _require_free(out)
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_locked(out))
            _settle(out, run)
            files.own_folder(out / WORK)
            for folder in (out, *(p for p in (out / RECORDS, out / PICTURES) if p.is_dir())):
                for place in {folder, *(path.parent for path in folder.rglob(".*"))}:
                    files.clean(place)
        yield {key_of(record): record for record in _read(out, "what they held is done again")}


def write(out: str | os.PathLike, record: dict, image: np.ndarray | None = None) -> None:
    """Write a record, in place of an older one, and before it the picture where one is kept."""
    with _room(out):
        if image is not None:
            with replacing(picture_path(out, *key_of(record))) as temp:
                Image.fromarray(image).save(temp, format="PNG")
        with replacing(_path(out, *key_of(record))) as temp:
            temp.write_text(_json(record), encoding="utf-8")


def read(out: str | os.PathLike) -> list[dict]:
    """The records of a run, by the samples' names and in the run's order of settings; also while the run goes on."""
    return _read(Path(out), "what they held is left out")


def about(out: str | os.PathLike) -> dict:
    """What the run in a folder is; InputError where there is none, or it is of another format."""
    path = Path(out) / RUN
    if not path.exists():
        raise InputError(f"{out} holds no run: there is no {RUN}")
    run = parse_json(path.read_bytes(), str(path))
    have = run.get("format") if isinstance(run, dict) else None
    if have != FORMAT:
        raise InputError(f"{path} is of format {have!r}, this version reads {FORMAT}; {OTHER_RUN}")
    return run


def key_of(record: dict) -> Key:
    """(sample, setting) of a record."""
    return record["sample"], record["setting"]


def picture_path(out: str | os.PathLike, sample: str, setting: str) -> Path:
    """Where the edited picture of a sample and setting lies, if the run keeps them."""
    return Path(out) / PICTURES / sample / f"{setting}.png"


def _path(out: str | os.PathLike, sample: str, setting: str) -> Path:
    return Path(out) / RECORDS / sample / f"{setting}.json"


def _json(value) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _read(out: Path, fate: str) -> list[dict]:
    """The records; a warning says which files are damaged, and the fate of what they held."""
    settings, records, damaged = list(about(out)["settings"]), [], []
    for path in sorted((out / RECORDS).rglob("*.json")):
        try:
            record = json.loads(path.read_bytes())
            if _path(out, *key_of(record)) != path or record["setting"] not in settings:
                raise ValueError
            records.append(record)
        except (ValueError, TypeError, KeyError):
            damaged.append(str(path.relative_to(out)))
    if damaged:
        warnings.warn(f"{out}: {', '.join(damaged)} are no records of this run; {fate}", stacklevel=3)
    return sorted(records, key=lambda record: (record["sample"], settings.index(record["setting"])))


def _require_free(out: Path) -> None:
    """InputError where a run would write over what no run has made."""
    made = {RECORDS: False, PICTURES: False, HOLDER: _names_a_holder(out), LOCK: (out / LOCK).is_file()}
    made[LOCK] = made[LOCK] and (out / LOCK).stat().st_size == 0
    if (out / RUN).exists():
        about(out)  # of a run, or refused
        made |= {RECORDS: True, PICTURES: True}
    for name, mine in made.items():
        if (out / name).exists() and not mine:
            what = (
                f"{RECORDS} without {RUN}: not a whole run"
                if name == RECORDS
                else f"{name}, which no run made"
            )
            raise InputError(f"{out} holds {what}; {OTHER_RUN}")


def _names_a_holder(out: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return {*json.loads((out / HOLDER).read_text())} == {"pid", "host"}
    return False


def _settle(out: Path, run: dict) -> None:
    """Begin the folder, or make sure that it is of this run."""
    before = run
    if (out / RUN).exists():
        before = about(out)
    for name in sorted({*before, *run} - {"settings"}):
        if before.get(name) != run.get(name):
            was, now = _short(before.get(name)), _short(run.get(name))
            raise InputError(f"{out} is of another run: {name} was {was}, now it is {now}; {OTHER_RUN}")
    for name in sorted({*before["settings"]} & {*run["settings"]}):
        was, now = before["settings"][name], run["settings"][name]
        if was != now:
            change = _difference(was, now)
            raise InputError(
                f"{out} is of another run: setting {name!r} {change}; give it another name, or {OTHER_RUN}"
            )
    with replacing(out / RUN) as temp:
        temp.write_text(_json(run | {"settings": before["settings"] | run["settings"]}), encoding="utf-8")


@contextlib.contextmanager
def _locked(out: Path):
    """Hold the folder against other processes; says who has it."""
    lock = filelock.FileLock(out / LOCK)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise InputError(f"{out} is in use: {_holder(out)}; wait for it, or give another folder") from None
    except NotImplementedError as error:  # filelock's word for a disk without locks
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK)) from error
    try:
        with replacing(out / HOLDER) as temp:
            temp.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        yield
    finally:
        files.discard(out / HOLDER, lambda _: _names_a_holder(out))
        lock.release()


def _holder(out: Path) -> str:
    try:
        holder = json.loads((out / HOLDER).read_text())
        return f"process {holder['pid']} on {holder['host']} writes to it"
    except (OSError, ValueError, KeyError):
        return "another process writes to it"


@contextlib.contextmanager
def _room(out):
    """Make an InputError of a disk that cannot be written."""
    full = "make room and run again: what is done is kept"
    try:
        yield
    except WriteError as error:
        system = OSError(error.errno, error.reason)
        raise WriteError(out, system, _remedy(system, full)) from error
    except OSError as error:
        raise WriteError(out, error, _remedy(error, full)) from error


def _remedy(error: OSError, full: str) -> str:
    is_full = error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
    return full if is_full else remedies.remedy(error, "give another folder")


def _short(value) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:200] + "…"


def _difference(was, now) -> str:
    """How two descriptions of a setting differ."""
    if isinstance(was, dict) and isinstance(now, dict):
        names = sorted(n for n in {*was, *now} if was.get(n) != now.get(n))
        return "had " + ", ".join(f"{n} = {_short(was.get(n))}, now {_short(now.get(n))}" for n in names)
    return f"was {_short(was)}, now it is {_short(now)}"


@functools.cache
def code() -> str:
    """A digest of this package's own sources."""
    package = Path(dragnb.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def describe(thing) -> Any:
    """What a setting or a score is, as plain values: its own `describe()`, its fields, or its full name."""
    if hasattr(thing, "describe"):
        return thing.describe()
    if isinstance(thing, Settings):
        return thing.as_dict()
    if isinstance(thing, functools.partial):
        return {"call": describe(thing.func), "args": [*map(repr, thing.args)], "named": repr(thing.keywords)}
    kind = thing if hasattr(thing, "__qualname__") else type(thing)
    name = f"{kind.__module__}.{kind.__qualname__}"
    return {"is": name} | dataclasses.asdict(thing) if dataclasses.is_dataclass(thing) else name


def export(out: str | os.PathLike, path: str | os.PathLike) -> tuple[Path, Path]:
    """Write `path` (.csv: sample, category, setting, figures, seconds) and its .json of provenance; gives both paths.

    Rows are sorted by sample and setting, numbers rounded to DIGITS, trials that failed left out and named in the json.
    Two runs of the same figures give the same csv but for its seconds. InputError where the run has no records.
    """
    path = Path(path)
    if path.suffix != ".csv":
        raise InputError(f"{path}: the table's name must end in .csv")
    records = sorted(read(out), key=lambda record: (record["sample"], record["setting"]))
    rows = [_row(record) for record in records if not record["error"]]
    if not rows:
        raise InputError(f"{out} has no record without an error; run it first")
    names = list(dict.fromkeys(name for row in rows for name in row))
    beside = path.with_suffix(".json")
    files.require_ours(path, _is_table)
    with replacing(beside, ours=_is_provenance) as temp:
        temp.write_text(_json(_provenance(out, records, rows)), encoding="utf-8")
        write_table(path, rows, names, _is_table)
    return path, beside


def write_table(path: Path, rows: list[dict], names, ours: files.Ours) -> None:
    """Write rows as csv, over nothing but a file of ours."""
    with replacing(path, ours=ours) as temp, open(temp, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, names, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def begins_with(path: Path, names) -> bool:
    """Are these the first columns of a csv?"""
    with open(path, encoding="utf-8") as file:
        return file.readline().rstrip("\n").split(",")[: len(names)] == [*names]


def _is_table(path: Path) -> bool:
    return begins_with(path, ("sample", "category", "setting"))


def _is_provenance(path: Path) -> bool:
    return {"format", "settings", "samples_digest"} <= {*json.loads(path.read_bytes())}


def _row(record: dict) -> dict:
    figures = record["metrics"] | record["drag"] | {"seconds": record["measured"].get("seconds")}
    head = {name: record[name] for name in ("sample", "category", "setting")}
    return head | {name: _cell(value) for name, value in figures.items()}


def _cell(value):
    if isinstance(value, list):
        return " ".join(str(_cell(v)) for v in value)
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _provenance(out, records: list[dict], rows: list[dict]) -> dict:
    digests = sorted({(r["sample"], r["sample_digest"]) for r in records if r["sample_digest"]})
    return about(out) | {
        "samples": len({row["sample"] for row in rows}),
        "samples_digest": hashlib.sha256(json.dumps(digests).encode()).hexdigest(),
        "trials": len(rows),
        "failed": {f"{r['sample']} / {r['setting']}": r["error"] for r in records if r["error"]},
        "hours": round(sum(row["seconds"] or 0 for row in rows) / 3600, 2),
        "devices": sorted({r["measured"]["device"] for r in records if "device" in r["measured"]}),
        "threads": sorted({r["measured"]["threads"] for r in records if "threads" in r["measured"]}),
        "processor": processor(),
        "python": platform.python_version(),
    }


def processor() -> str:
    """The processor by its name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
