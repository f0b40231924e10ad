"""Files on disk: the one module that replaces, renames and removes anything. `tests/test_ownership.py` sees to it.

Nothing is removed or replaced that this package did not make. A whole folder of ours holds the file MARKER; a single
file says it itself, by SIGNATURE or by its content, which `ours=` tells; all else is refused with an InputError.

A file or folder is written under a temporary name beside its place, checked, and then renamed.
"""

import contextlib
import errno
import hashlib
import os
import platform
import re
import shutil
import stat
import struct
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from dragnb.errors import InputError, WriteError
from dragnb.store.checks import check
from dragnb.store.remedies import ELSEWHERE, write_errors

MARKER = ".dragnb"  # a file in a folder that this package made with all that is in it
SIGNATURE = "Made by dragnb, which may replace it."
ENDS = 2**16  # bytes at both ends of a file in which SIGNATURE is looked for
PNG_END = 12  # bytes of a PNG's last chunk
LOOKS = 8  # times that nothing was found, in a row, before a place is called empty
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
PATIENCE = 0.5  # seconds in which a writer that lives has long done its two renames

Ours = Callable[[Path], bool]


def _host() -> str:
    """This machine and, in a container, its own world of processes: ids of processes mean something only there."""
    world = ""
    with contextlib.suppress(OSError, AttributeError):
        world = f"_{os.stat('/proc/self/ns/pid').st_ino}"
    return re.sub(r"\W", "_", platform.node()) + world


HOST = _host()
SCRAP = re.compile(rf"\.{re.escape(HOST)}-(\d+)-\d+-\d+-[0-9a-f]+\.(?:tmp|old)")


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike,
    elsewhere: str = ELSEWHERE,
    ours: Ours | None = None,
    members: tuple[str, ...] | None = None,
) -> Iterator[Path]:
    """A temporary name beside `path`, for a file or a folder that takes `path`'s place when the block succeeds.

    elsewhere  what to do where the place cannot be written, for the message
    ours       may the file that is there be replaced? Without it the caller knows that the place is the package's own
    members    of a folder: what in it is the package's own; all else that is found there is the user's and is kept

    The name is nobody else's: of several writers the last one counts. What was written is read back first
    (`checks.check`). Readers see the old file or the new one, never a part. If the block raises, or the disk is full,
    `path` is as it was. Raises WriteError, which names the file and the remedy, and InputError for a file not of ours.
    """
    path = Path(path)
    with write_errors(path, elsewhere):
        path.parent.mkdir(parents=True, exist_ok=True)
        clean(path.parent)
        temp = path.with_name(_temporary(path))
        try:
            yield temp
            _sync(temp)
            check(temp, path.suffix)
            _place(temp, path, ours, members)
        finally:
            _remove(temp)


def _temporary(path: Path) -> str:
    """A name of this process, thread and moment, and of the place it is for; `clean` and `recover` read it."""
    who = f"{os.getpid()}-{threading.get_native_id()}-{time.time_ns()}"
    return f".{HOST}-{who}-{uuid.uuid4().hex[:12]}{_place_id(path)}.tmp"


def _place_id(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]


def _sync(temp: Path) -> None:
    """Have the disk take all that was written; a full one says so here at the latest."""
    for file in temp.rglob("*") if temp.is_dir() else [temp]:
        if file.is_file() and not file.is_symlink():
            with open(file, "rb+") as opened:
                os.fsync(opened.fileno())


def _place(temp: Path, path: Path, ours: Ours | None, members: tuple[str, ...] | None) -> None:
    """Rename what was written to its place, over nothing but a file of ours."""
    if temp.is_dir():
        _replace_folder(temp, path, members)
        return
    if ours is not None and not os.path.lexists(path):
        try:
            os.link(temp, path)  # fails where another has just come there, which a rename would overwrite
            return
        except FileExistsError:
            pass
        except OSError:  # a disk without links
            os.replace(temp, path)
            return
    if ours is not None:
        require_ours(path, ours)
    os.replace(temp, path)


def require_ours(path: Path, ours: Ours) -> None:
    """InputError where something stands at `path` that this package did not make, or cannot tell."""
    try:
        mine = not os.path.lexists(path) or (path.exists() and ours(path))
    except Exception:  # whatever a reader makes of a file that it does not know
        mine = False
    if not mine:
        raise InputError(
            f"{path} is there already and was not made by dragnb; move it away or give another name"
        )


def signed(path: Path) -> bool:
    """Does a file say, near its beginning or its end, that this package made it?"""
    with open(path, "rb") as file:
        ends = file.read(ENDS)
        file.seek(max(len(ends), os.path.getsize(path) - ENDS))
        return SIGNATURE.encode() in ends + file.read()


def sign_png(content: bytes) -> bytes:
    """A PNG with SIGNATURE in a chunk of our own, which no reader shows; the same picture, the same again."""
    chunk = b"drBY" + SIGNATURE.encode()
    whole = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return content if chunk in content else content[:-PNG_END] + whole + content[-PNG_END:]


def _replace_folder(folder: Path, path: Path, members: tuple[str, ...] | None) -> None:
    """Rename a folder to `path`. The one that was there steps aside for a moment and is then deleted.

    members  what the package owns in the folder; all else that steps aside is the user's and is brought over before
             the deletion. None: the whole folder is the package's

    A kill between the two renames leaves the old one aside, and `recover` brings it back. Of several writers that do
    this at once the last one counts.
    """
    aside = folder.with_suffix(".old")
    while True:
        if os.path.lexists(path):
            with contextlib.suppress(FileNotFoundError):  # another writer was quicker
                os.replace(path, aside)
        try:
            os.replace(folder, path)
            break
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and path.is_dir():
                _retire(aside, folder, members)  # another's new folder came between: ours replaces it
                continue
            if aside.exists() and not path.exists():
                os.replace(aside, path)
            raise
    _retire(aside, path, members)


def _retire(aside: Path, path: Path, members: tuple[str, ...] | None) -> None:
    """Remove a folder that was set aside, once what is the user's in it is at `path`.

    A file is there already as a copy, unless it came or was changed after the copying.
    """
    for name in os.listdir(aside) if members is not None and aside.is_dir() else ():
        if name not in members and not SCRAP.fullmatch(name):
            _bring(aside / name, path / name)
    _remove(aside)


def _bring(old: Path, new: Path) -> None:
    """Move a user's file, or what a folder holds, to a place that may hold an older copy of it."""
    if old.is_dir() and not old.is_symlink() and new.is_dir():
        for name in os.listdir(old):
            _bring(old / name, new / name)
        return
    # a reader may have taken all of it for what a killed writer left, and put it back
    while os.path.lexists(old):
        with contextlib.suppress(FileNotFoundError):  # the folder is being replaced by another writer
            if os.path.lexists(new) and old.lstat().st_mtime_ns <= new.lstat().st_mtime_ns:
                return
            os.replace(old, new)
        if recover(new.parent) is None:  # the new folder was made before this part of it was there
            new.parent.mkdir(parents=True, exist_ok=True)


def recover(path: str | os.PathLike) -> str | None:
    """What is at a place, "folder", "file" or None, of one moment; a folder that a writer has set aside counts.

    The folder of a writer that was killed between its two renames is brought back.
    """
    path, end, absent = Path(path), time.monotonic() + PATIENCE, 0
    while absent < LOOKS:
        try:
            return "folder" if stat.S_ISDIR(path.stat().st_mode) else "file"
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno not in ABSENT:
                raise
            if os.path.islink(path):
                return None
        asides = sorted(path.parent.glob(f".*{_place_id(path)}.old"), key=lambda a: a.name.split("-")[-2])
        absent = 0 if asides else absent + 1  # a writer may have finished between the two looks
        if asides and time.monotonic() > end:
            with contextlib.suppress(OSError):
                os.replace(asides[-1], path)
        elif asides:
            time.sleep(0.01)
    return None


def replace_folder(
    path: str | os.PathLike,
    fill: Callable[[Path], None],
    members: tuple[str, ...],
    elsewhere: str = ELSEWHERE,
) -> None:
    """Write a folder whole or not at all: `fill` writes `members` into a copy of what else is in the folder.

    What comes into the folder while this is done is kept too: then it is done once more, and what comes at the last
    moment is brought over. The caller knows that the members that are there are of ours.
    """
    path = Path(path)
    while True:
        try:
            recover(path)
            before = _stamp(path)
            with replacing(path, elsewhere, members=members) as temp:
                if before is None:
                    temp.mkdir()
                else:
                    shutil.copytree(path, temp, symlinks=True, ignore=_at_top(path, members))
                fill(temp)
                if _stamp(path) != before:
                    raise _Changed
            return
        except _Changed:
            continue
        except WriteError as error:  # what was copied may have been replaced meanwhile
            if error.errno not in (errno.ENOENT, None) or _stamp(path) == before:
                raise


class _Changed(Exception):
    """A folder is not what it was when it was copied."""


def _at_top(path: Path, members: tuple[str, ...]):
    """For `copytree`: leave out these members of `path` itself, and temporary files of others."""
    return lambda folder, names: [
        n for n in names if SCRAP.fullmatch(n) or (Path(folder) == path and n in members)
    ]


def _stamp(path: Path) -> tuple | None:
    """Changes when a folder is replaced, or when something comes into it or goes; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def read_folder(path: str | os.PathLike, names: tuple[str, ...]) -> dict[str, bytes]:
    """The content of those of a folder's files that are there, all of one moment: never of an old and a new folder."""
    path, end = Path(path), time.monotonic() + 10 * PATIENCE
    while True:
        before = _stamp(path)
        try:
            files = {name: (path / name).read_bytes() for name in names if (path / name).exists()}
        except FileNotFoundError:  # it was replaced between the two
            files = None
        if files is not None and _stamp(path) == before is not None:
            return files
        if time.monotonic() > end:
            raise OSError(errno.EBUSY, "it is being replaced all the time")
        recover(path)


def own_folder(path: str | os.PathLike) -> Path:
    """Make a folder that is this package's with all in it, or take one that it made or that is empty.

    Raises InputError for a folder with things in it that has no MARKER.
    """
    path = Path(path)
    with write_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        if not (path / MARKER).exists():
            others = [name for name in os.listdir(path) if name != MARKER]
            if others and not (path / MARKER).exists():  # another process may have made it just now
                raise InputError(
                    f"{path} holds other things, which would be lost: there is no file {MARKER} in it, so dragnb did "
                    "not make it; move it away or give another place"
                )
            (path / MARKER).write_text(f"{SIGNATURE}\n", encoding="utf-8")
    return path


def remove_own(path: str | os.PathLike) -> bool:
    """Remove a folder that `own_folder` made, or one directly in such a folder; False, and it stays, for another."""
    path = Path(path)
    mine = not path.is_symlink() and any((place / MARKER).is_file() for place in (path, path.parent))
    if mine:
        shutil.rmtree(path, ignore_errors=True)
    return mine or not path.exists()


def renew_own(path: str | os.PathLike) -> Path:
    """An empty folder of this package's own, in place of the one that it made before; InputError for another's."""
    own_folder(path)
    remove_own(path)
    return own_folder(path)


def discard(path: str | os.PathLike, ours: Ours) -> None:
    """Remove a single file, if it is there and of ours."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        if ours(Path(path)):
            os.unlink(path)


def require_apart(one: str | os.PathLike, other: str | os.PathLike, what: str) -> None:
    """InputError where two paths are one place, also by a link, by `..`, or in another case where that is the same."""
    if os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other):
        raise InputError(
            f"{what} are one place, {other}: what is read there would be overwritten; give another one"
        )


def clean(folder: Path) -> None:
    """Remove what processes of this machine left in a folder when they were killed; of living ones nothing.

    An old folder whose new one is still beside it was not replaced: that is for `recover`.
    """
    for left in folder.glob(f".{HOST}-*"):
        match = SCRAP.fullmatch(left.name)
        if match and not psutil.pid_exists(int(match[1])):
            if not all(left.with_suffix(end).exists() for end in (".tmp", ".old")):
                _remove(left)


def _remove(scrap: Path) -> None:
    """Remove a temporary file or folder of this module's."""
    if scrap.is_dir() and not scrap.is_symlink():
        shutil.rmtree(scrap, ignore_errors=True)
    with contextlib.suppress(OSError):
        scrap.unlink(missing_ok=True)
