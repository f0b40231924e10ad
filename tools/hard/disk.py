"""A full disk at every point of every work: one clear error, no half file, the user's own whole; with room, the same.

A small tmpfs is mounted for it, which root alone may do. Without that the size of single files is limited instead.
"""

import contextlib
import os
import resource
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .campaign import Child, Row, part_of, timed
from .kills import USERS, fresh
from .works import WORKS, Work, model

ROOMS = 24  # sizes that are tried of each work
NAMES = ("fine-tune", "edit with exports", "sweep, 1 process", "training", "cache writes")
PAGE = 4096
ROOMY = 2**28
# what a work may end with: the package's own errors
OURS = ("dragnb.errors.WriteError", "dragnb.errors.InputError")


def run(share: float, seed: int) -> Iterator[Row]:
    """A row for each work."""
    model()
    for name in NAMES:
        row = Row(f"disk full: {name}", "a small tmpfs, filled at another point each time, then with room")
        if not mounts():
            row.tried = "RLIMIT_FSIZE, for want of root: files that end at another size each time, then whole"
        with timed(row):
            starved(WORKS[name], part_of(share, ROOMS, 2), row)
        yield row


def mounts() -> bool:
    """May this process mount a disk?"""
    with tempfile.TemporaryDirectory() as place, contextlib.suppress(OSError, subprocess.CalledProcessError):
        with small_disk(Path(place), ROOMY):
            return True
    return False


@contextlib.contextmanager
def small_disk(place: Path, size: int) -> Iterator[None]:
    """A tmpfs of so many bytes at `place`."""
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    subprocess.run(["mount", *options], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True, capture_output=True)


def grow(place: Path) -> None:
    subprocess.run(["mount", "-o", f"remount,size={ROOMY}", str(place)], check=True, capture_output=True)


def starved(work: Work, rooms: int, row: Row) -> None:
    """Do a work on a disk of each size up to what it takes, look at what is left, and do it again with room."""
    disk = mounts()
    with tempfile.TemporaryDirectory() as place:
        place, log, refused = Path(place), Path(place) / "log", 0
        folder = fresh(place, "whole")
        error = Child(work.do, folder, log=log).end()
        wanted, most = work.kept(folder), (takes if disk else largest)(folder)
        row.expect(not error and bool(wanted), f"{work.name}: whole and undisturbed: {error}")
        for k in range(rooms):
            size = 2 * PAGE + (most - PAGE) * k // rooms
            (mount := place / f"disk{k}").mkdir()
            with small_disk(mount, size // PAGE * PAGE) if disk else contextlib.nullcontext():
                refused += once(work, fresh(mount, "out"), wanted, size, disk, log, row)
            row.count += 1
        row.outcome = (
            f"{refused} ended in one line, {rooms - refused} went on without a cache; the same bits with room"
        )


def once(work: Work, folder: Path, wanted: dict, size: int, disk: bool, log: Path, row: Row) -> bool:
    """One size: was the work refused?"""
    where = f"{work.name}, {size} bytes"
    child = Child(work.do if disk else _limited, *([folder] if disk else [work.do, size, folder]), log=log)
    error = child.end()
    row.expect(not error or error.startswith(OURS), f"{where}: {error}")
    if left := child.left_behind():
        row.failures.append(f"{where}: processes are left: {left}")
    try:
        wrong = sorted(work.kept(folder).items() - wanted.items())
        row.expect(not wrong, f"{where}: other bits: {wrong[:3]}")
    except Exception as broken:
        row.failures.append(f"{where}: something is there by halves: {broken!r}")
    row.expect((folder / "thesis.txt").read_text() == USERS, f"{where}: a file of the user's is gone")
    scraps = [path.name for path in folder.rglob(".*.tmp")]
    row.expect(not scraps, f"{where}: these are left: {scraps[:3]}")
    if disk:
        grow(folder.parent)
    again = Child(work.do, folder, log=log).end()
    row.expect(
        not again and work.kept(folder) == wanted, f"{where}: with room again: {again or 'other bits'}"
    )
    return bool(error)


def _limited(work, size: int, folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    work(folder)


def takes(folder: Path) -> int:
    """Bytes that a folder takes on a disk in pages."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return sum(-(-size // PAGE) * PAGE for size in sizes) + PAGE


def largest(folder: Path) -> int:
    """Bytes of a folder's largest file."""
    return max(os.path.getsize(path) for path in folder.rglob("*") if path.is_file())
