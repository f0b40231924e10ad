"""A clock that steps back, an hour at every look or between two runs: the same bits, nothing lost, no negative age."""

import contextlib
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .campaign import Child, Row, part_of, timed
from .kills import fresh
from .works import WORKS, Work, model, write_cache

HOUR = 3600.0
TIMES = {"fine-tune": 4, "edit with exports": 4, "sweep, 1 process": 2, "training": 2, "cache writes": 8}


def run(share: float, seed: int) -> Iterator[Row]:
    """A row for each work, and one for the cache's command."""
    model()
    for name, times in TIMES.items():
        row = Row(f"clock back: {name}", "an hour at each look at the clock; files of tomorrow beside it")
        with timed(row):
            stepped(WORKS[name], part_of(share, times), row)
        yield row
    row = Row("clock back: the cache's command", "entries that were used tomorrow", 1, "shown and emptied")
    with timed(row):
        shown(row)
    yield row


def backwards(work: Callable, folder: Path) -> None:
    """Do a work while every look at the clock is an hour before the last."""
    now, looks = time.time(), 0

    def earlier() -> float:
        nonlocal looks
        looks += 1
        return now - looks * HOUR

    time.time, time.time_ns = earlier, lambda: int(earlier() * 1e9)
    work(folder)


def tomorrow(folder: Path) -> None:
    """Give all files of a folder a time of change that is still to come."""
    later = time.time() + 24 * HOUR
    for path in folder.rglob("*"):
        os.utime(path, (later, later))


def stepped(work: Work, times: int, row: Row) -> None:
    """Do a work with a clock that goes back, twice in one folder, and compare with an undisturbed one."""
    with tempfile.TemporaryDirectory() as place:
        place, log = Path(place), Path(place) / "log"
        folder = fresh(place, "whole")
        error = Child(work.do, folder, log=log).end()
        wanted = work.kept(folder)
        row.expect(not error and bool(wanted), f"{work.name}: undisturbed: {error}")
        for k in range(times):
            folder = fresh(place, f"out{k}")
            for _ in range(2):
                error = Child(backwards, work.do, folder, log=log).end()
                row.expect(not error, f"{work.name}: {error}")
                row.expect(work.kept(folder) == wanted, f"{work.name}: other bits")
                tomorrow(folder)
            row.count += 1
    row.outcome = f"{len(wanted)} results, the same bits, twice"


def shown(row: Row) -> None:
    """The cache's command says no age below zero, and empties what is from tomorrow."""
    from dragnb.store import __main__ as command

    with tempfile.TemporaryDirectory() as place:
        write_cache(Path(place))
        tomorrow(Path(place))
        with contextlib.redirect_stdout(said := io.StringIO()):
            codes = [command.main(["--root", f"{place}/cache", *more]) for more in ([], ["empty"], [])]
        row.expect(codes == [0, 0, 0], f"exit status {codes}")
        row.expect("-" not in said.getvalue().replace(place, ""), f"an age below zero: {said.getvalue()}")
        row.expect(not [*Path(place).rglob("*.safetensors")], "entries from tomorrow are not removed")
