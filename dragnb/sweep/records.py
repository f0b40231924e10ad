"""A run's folder: what the run is (run.json) and its records (records.jsonl), a line each, never half a one.

Only one process writes; it may be killed at any moment. A line is written at once and reaches the disk before the next
trial counts; what a kill or a full disk left of a line is cut off by the next run.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import hashlib
import json
import os
import platform
import shutil
import socket
import warnings
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from PIL import Image

import dragnb
from dragnb.config import Settings
from dragnb.errors import InputError
from dragnb.store import replacing
from dragnb.task import parse_json

FORMAT = 1  # raise it when a record changes its meaning: folders of another format are refused
RUN, RECORDS, HOLDER, LOCK, WORK, PICTURES = (
    *("run.json", "records.jsonl", "holder.json", ".lock"),
    *("work", "pictures"),
)
DIGITS = 5  # significant ones: far below any difference that means something
OTHER_RUN = "give another folder, or move this one away"


class Ledger:
    """The folder of a run, held by one process: a context manager that gives itself.

    out    the folder, made where it is missing
    about  what the run is, plain values: `settings` maps names to what they stand for; all else must be as it was
           when the folder was begun. More samples and more settings may join a run, none may change

    Raises InputError, with the remedy, for a folder that another process writes to, of another run or another format,
    and where the disk is full; what is in it then stays as it was.
    """

    def __init__(self, out: str | os.PathLike, about: dict):
        self.out = Path(out)
        self.about = json.loads(json.dumps({"format": FORMAT} | about))
        self.records: dict[tuple[str, str], dict] = {}

    def __enter__(self) -> Ledger:
        with contextlib.ExitStack() as stack, _room(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_held(self.out))
            self._settle()
            self.records = {key_of(record): record for record in self._mend()}
            self._file = os.open(self.out / RECORDS, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            stack.callback(os.close, self._file)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error):
        self._stack.close()

    def append(self, record: dict) -> None:
        """Add a record; on the disk whole, or not at all."""
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        with _room(self.out):
            size = os.fstat(self._file).st_size
            try:
                written = os.write(self._file, line)
                if written < len(line):  # a disk that was full after a part of it
                    os.write(self._file, line[written:])
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, size)
                raise
        self.records[key_of(record)] = record

    def keep(self, record: dict, image: np.ndarray) -> None:
        """Write the picture of a record, pictures/sample/setting.png."""
        with _room(self.out), replacing(picture_path(self.out, *key_of(record))) as temp:
            Image.fromarray(image).save(temp, format="PNG")

    def tidy(self) -> None:
        """Remove the caches of samples that are done."""
        shutil.rmtree(self.out / WORK, ignore_errors=True)

    def _settle(self) -> None:
        """Begin the folder, or make sure that it is of this run."""
        if not (self.out / RUN).exists():
            if (self.out / RECORDS).exists():
                raise InputError(f"{self.out} holds {RECORDS} without {RUN}: not a whole run; {OTHER_RUN}")
            return self._describe()
        before = about(self.out)
        for name in sorted({*before, *self.about} - {"settings"}):
            if before.get(name) != self.about.get(name):
                raise InputError(
                    f"{self.out} is of another run: {name} was {_short(before.get(name))}, "
                    f"now it is {_short(self.about.get(name))}; {OTHER_RUN}"
                )
        for name in sorted({*before["settings"]} & {*self.about["settings"]}):
            was, now = before["settings"][name], self.about["settings"][name]
            if was != now:
                raise InputError(
                    f"{self.out} is of another run: setting {name!r} {_difference(was, now)}; give it another "
                    f"name, or {OTHER_RUN}"
                )
        self.about["settings"] = before["settings"] | self.about["settings"]
        if self.about != before:
            self._describe()

    def _describe(self) -> None:
        with replacing(self.out / RUN) as temp:
            temp.write_text(json.dumps(self.about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def _mend(self) -> list[dict]:
        """The records; the file is left with these alone."""
        path = self.out / RECORDS
        content = path.read_bytes() if path.exists() else b""
        records, damaged = _parse(content, path)
        if damaged:
            warnings.warn(f"{path}: {damaged}; what they held is done again", stacklevel=4)
            with replacing(path) as temp:
                temp.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), "utf-8")
        elif not content.endswith(b"\n") and content:
            os.truncate(path, content.rfind(b"\n") + 1)
        return records


def key_of(record: dict) -> tuple[str, str]:
    """(sample, setting): what a record is of."""
    return record["sample"], record["setting"]


def about(out: str | os.PathLike) -> dict:
    """What the run in a folder is; InputError where there is none, or it is of another format."""
    path = Path(out) / RUN
    if not path.exists():
        raise InputError(f"{out} holds no run: there is no {RUN}")
    found = parse_json(path.read_bytes(), str(path))
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        have = found.get("format") if isinstance(found, dict) else None
        raise InputError(f"{path} is of format {have!r}, this version reads {FORMAT}; {OTHER_RUN}")
    return found


def read(out: str | os.PathLike) -> list[dict]:
    """The records of a run, the newest of each sample and setting; may be asked while the run goes on."""
    about(out)
    path = Path(out) / RECORDS
    records, damaged = _parse(path.read_bytes() if path.exists() else b"", path)
    if damaged:
        warnings.warn(f"{path}: {damaged} and left out", stacklevel=2)
    return list({key_of(record): record for record in records}.values())


def picture_path(out: str | os.PathLike, sample: str, setting: str) -> Path:
    """Where the edited picture of a sample and setting lies, if the run keeps them."""
    return Path(out) / PICTURES / sample / f"{setting}.png"


def _parse(content: bytes, path: Path) -> tuple[list[dict], str]:
    """All records in whole lines, and which lines are damaged; the last line counts only with its end."""
    records, damaged = [], []
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), 1):
        try:
            record = json.loads(line)
            key_of(record)
        except (ValueError, TypeError, KeyError):
            damaged.append(number)
            continue
        if record.get("format") != FORMAT:
            raise InputError(
                f"{path}: line {number} is of format {record.get('format')!r}, this version reads {FORMAT}; {OTHER_RUN}"
            )
        records.append(record)
    return records, f"lines {', '.join(map(str, damaged))} are damaged" if damaged else ""


@contextlib.contextmanager
def _held(out: Path):
    """Hold the folder against other processes; says who has it."""
    lock = filelock.FileLock(out / LOCK)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise InputError(f"{out} is in use: {_holder(out)}; wait for it, or give another folder") from None
    try:
        with replacing(out / HOLDER) as temp:
            temp.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        yield
    finally:
        with contextlib.suppress(OSError):
            (out / HOLDER).unlink(missing_ok=True)
        lock.release()


def _holder(out: Path) -> str:
    try:
        found = json.loads((out / HOLDER).read_text())
        return f"process {found['pid']} on {found['host']} writes to it"
    except (OSError, ValueError, KeyError):
        return "another process writes to it"


@contextlib.contextmanager
def _room(out: Path):
    """A disk that cannot be written, said plainly."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{out} cannot be written ({error.strerror or error}); make room and run again: what is done is kept"
        ) from error


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
    found = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        found.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return found.hexdigest()


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
    with replacing(path) as temp, open(temp, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, names, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    beside = path.with_suffix(".json")
    with replacing(beside) as temp:
        text = json.dumps(_provenance(out, records, rows), indent=1, ensure_ascii=False)
        temp.write_text(text + "\n", encoding="utf-8")
    return path, beside


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
