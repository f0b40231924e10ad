"""How large the stage cache may grow: sizes in words, what was used when, what goes first.

An entry's time of change is when it was last used. Whoever reads one holds a lock on it, and what is locked stays.
"""

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dragnb.errors import InputError
from dragnb.store.files import ENDS, discard

VARIABLE = "DRAGNB_CACHE_SIZE"
DEFAULT = "20 GB"
OURS = "dragnb stage cache"  # in the header of every entry: nothing else in the folder counts, or goes
KEPT = ("lpips",)  # kinds that were fetched from the network: no room is made of these
UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?|)b?\s*", re.IGNORECASE)
HASHED = re.compile(r"[0-9a-f]{64}")  # names of entries that earlier versions made, without the header


@dataclass(frozen=True)
class Entry:
    """A file of the cache: its kind (the folder), bytes, and when it was last used, seconds since 1970."""

    path: Path
    kind: str
    size: int
    used: float

    @property
    def age(self) -> float:
        """Seconds since it was last used; 0 where the clock has stepped back since."""
        return max(0.0, time.time() - self.used)


def allowed(value: int | str | None = None) -> int:
    """A limit in bytes, of a number, a text like "5 GB" or "512 MiB", or $DRAGNB_CACHE_SIZE, or DEFAULT."""
    name = "limit" if value is not None else VARIABLE
    text = str(value if value is not None else os.environ.get(VARIABLE) or DEFAULT)
    match = SIZE.fullmatch(text)
    if not match:
        raise InputError(f'{name} = {text!r} is no size; write it like "5 GB", or bytes as a number')
    return int(float(match[1]) * UNITS[match[2].lower()])


def text_of(size: float) -> str:
    """Bytes in words, like "1.5 GB"."""
    unit = next(u for u in "tgmk " if size >= UNITS[u.strip()] or u == " ").strip()
    return f"{size / UNITS[unit]:.{1 if unit else 0}f} {unit.upper()}B"


def free(root: Path) -> int:
    """Bytes that are free on the disk of a folder that may not be there yet; 0 where that cannot be told."""
    for folder in (root, *root.absolute().parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(folder).free
    return 0


def entries(root: Path) -> Iterator[Entry]:
    """The entries of a cache, those used least recently first. Files that are none of the cache's are passed over."""
    found = []
    for path in root.glob("*/*.safetensors"):
        with contextlib.suppress(OSError):  # another process has removed it
            stat = path.stat()
            found.append(Entry(path, path.parent.name, stat.st_size, stat.st_mtime))
    yield from sorted(found, key=lambda entry: entry.used)


def is_entry(path: Path) -> bool:
    """Did the cache write this file?"""
    if HASHED.fullmatch(path.stem):
        return True
    with open(path, "rb") as file:
        return OURS.encode() in file.read(ENDS)


def read(path: Path) -> bytes:
    """An entry's content, used now; while it is read no other process makes room of it."""
    with open(path, "rb") as file, _locked(file, shared=True):
        content = file.read()
    with contextlib.suppress(OSError):  # a cache that may only be read
        os.utime(path)
    return content


def shrink(root: Path, most: int, keep: Path) -> None:
    """Remove what was used least recently until the entries take `most` bytes; never `keep`, or what is being read."""
    found = [entry for entry in entries(root) if entry.kind not in KEPT]
    total = sum(entry.size for entry in found)
    if total <= most:
        return
    found = [entry for entry in found if _surely(entry.path)]
    total = sum(entry.size for entry in found)
    for entry in found:
        if total <= most:
            return
        if entry.path != keep and remove(entry):
            total -= entry.size


def remove(entry: Entry) -> bool:
    """Remove an entry, unless it is being read."""
    try:
        with open(entry.path, "rb") as file, _locked(file, shared=False):
            discard(entry.path, is_entry)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return not entry.path.exists()


def _surely(path: Path) -> bool:
    try:
        return is_entry(path)
    except OSError:
        return False


@contextlib.contextmanager
def _locked(file, shared: bool) -> Iterator[None]:
    """Hold a lock on an open file. BlockingIOError where it is to be for oneself and another has it.

    Where there are no locks (Windows, which removes no open file anyway; some network disks) it goes without.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass
    yield
