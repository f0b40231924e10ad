"""Two of everything at once, in one folder: both end well, or one is told that the other is at it; the same bits."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from .campaign import Child, Row
from .kills import USERS, each, fresh
from .works import Work

PAIRS = {
    "fine-tune": 6,
    "edit with exports": 6,
    "sweep, 1 process": 4,
    "sweep, 2 processes": 1,
    "sweep on Dask": 1,
    "training": 4,
    "cache writes": 12,
}
IN_USE = "is in use: "


def run(share: float, seed: int) -> Iterator[Row]:
    """A row for each work."""
    yield from each("two at once", "two processes in one folder", PAIRS, share, doubled)


def doubled(work: Work, pairs: int, row: Row) -> None:
    """Begin a work twice in one folder, so often, and compare with what one alone gives."""
    with tempfile.TemporaryDirectory() as place:
        place, refused = Path(place), 0
        folder = fresh(place, "whole")
        error = Child(work.do, folder, log=place / "log").end()
        wanted = work.kept(folder)
        row.expect(not error and bool(wanted), f"{work.name}: alone: {error}")
        for k in range(pairs):
            folder = fresh(place, f"out{k}")
            two = [Child(work.do, folder, log=place / f"log{n}") for n in (1, 2)]
            errors = [child.end() for child in two]
            told = [error for error in errors if IN_USE in error]
            row.expect(len(told) < 2 and errors.count("") == 2 - len(told), f"{work.name}: {errors}")
            row.expect(work.kept(folder) == wanted, f"{work.name}: other bits")
            row.expect((folder / "thesis.txt").read_text() == USERS, "a file of the user's is gone")
            scraps = [path.name for path in folder.rglob(".*.tmp")]
            row.expect(not scraps, f"{work.name}: these are left: {scraps[:3]}")
            row.count, refused = row.count + 1, refused + len(told)
        row.outcome = "the same bits" + (
            f"; {refused} times the second was told of the first" if refused else ""
        )
