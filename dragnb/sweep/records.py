"""A run's folder: what the run is (run.json) and its records (records.jsonl), a line each, never half a one.

Only one process writes; it may be killed at any moment. A line is written at once and reaches the disk before the next
trial counts; what a kill or a full disk left of a line is cut off by the next run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import warnings
from pathlib import Path

import filelock
import numpy as np
from PIL import Image

from dragnb.errors import InputError
from dragnb.store import replacing
from dragnb.task import parse_json

FORMAT = 1  # raise it when a record changes its meaning: folders of another format are refused
RUN, RECORDS, HOLDER, LOCK, WORK, PICTURES = (
    *("run.json", "records.jsonl", "holder.json", ".lock"),
    *("work", "pictures"),
)
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
