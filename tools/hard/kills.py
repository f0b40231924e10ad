"""kill -9 at random moments of every work: nothing is lost, nothing half-written, and the same bits come out after."""

import contextlib
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from .campaign import FORK, Child, Row, part_of, timed
from .works import CLUSTER, WORKS, Work, model

KILLS = 50
# shares of the kills: what takes a second is killed more often than what takes a minute
SHARES = {
    "fine-tune": 9,
    "edit with exports": 12,
    "sweep, 1 process": 8,
    "sweep, 2 processes": 4,
    "sweep on Dask": 4,
    "training": 6,
    "cache writes": 7,
}
USERS = "years of work"  # of a file that stands beside what is made


def run(share: float, seed: int) -> Iterator[Row]:
    """A row for each work."""
    rng, tried = np.random.default_rng(seed), "at random moments, then again to the end"
    yield from each("kill -9", tried, SHARES, share, lambda work, kills, row: killed(work, kills, rng, row))


def each(campaign: str, tried: str, plan: dict[str, int], share: float, do: Callable) -> Iterator[Row]:
    """A row for each work of a plan, {name: how often}: `do(work, times, row)` fills it; Dask has a cluster for it."""
    model()
    with cluster() as missing:
        for name, times in plan.items():
            row = Row(f"{campaign}: {name}", tried)
            if missing and name == "sweep on Dask":
                row.skipped = missing
            else:
                with timed(row):
                    do(WORKS[name], part_of(share, times), row)
            yield row


@contextlib.contextmanager
def cluster() -> Iterator[str]:
    """A Dask cluster of two workers in a process of its own; says what is missing where it is not installed."""
    try:
        import distributed  # noqa: F401
    except ImportError:
        yield "distributed is missing: pip install 'dragnb[bench]'"
        return
    ours, theirs = multiprocessing.Pipe()
    process = FORK.Process(target=_serve, args=(theirs,))
    process.start()
    try:
        CLUSTER["address"] = ours.recv()
        yield ""
    finally:
        with contextlib.suppress(OSError):
            ours.send("end")
        process.join(30)
        process.kill()


def _serve(pipe) -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as local:
        pipe.send(local.scheduler_address)
        pipe.recv()


def killed(work: Work, kills: int, rng: np.random.Generator, row: Row) -> None:
    """Do a work whole once; then kill it so often, each time in the folder as the last kill left it, and compare."""
    with tempfile.TemporaryDirectory() as place:
        place, log = Path(place), Path(place) / "log"
        folder = fresh(place, "whole")
        began = time.monotonic()
        error = Child(work.do, folder, log=log).end()
        takes, wanted = time.monotonic() - began, work.kept(folder)
        row.expect(not error and bool(wanted), f"{work.name}: whole and undisturbed: {error}")
        survived = 0
        while row.count < kills and not row.failures:
            folder, before = fresh(place, f"out{survived}"), {}
            survived += 1
            while row.count < kills:
                began = time.monotonic()
                child = Child(work.do, folder, log=log)
                if not child.kill_after(rng.uniform(0, takes)):
                    takes = time.monotonic() - began  # what is warm by now is quicker
                    row.expect(child.process.exitcode in (0, -9), f"{work.name}: {child.end()}")
                    break
                row.count += 1
                before = looked_at(work, folder, child, before, row)
            error = Child(work.do, folder, log=log).end()
            row.expect(not error, f"{work.name}: after {row.count} kills: {error}")
            row.expect(
                work.kept(folder) == wanted, f"{work.name}: after {row.count} kills other bits came out"
            )
            scraps = [path.name for path in folder.rglob(".*.tmp")] + [p.name for p in folder.rglob(".*.old")]
            row.expect(not scraps, f"{work.name}: these are left: {scraps[:3]}")
        row.outcome = f"{len(wanted)} results, the same bits, in {survived} folders"


def looked_at(work: Work, folder: Path, child: Child, before: dict, row: Row) -> dict:
    """What is whole after a kill; a failure where less is there than before, or something by halves."""
    try:
        now = work.kept(folder)
    except Exception as error:
        row.failures.append(f"{work.name}: kill {row.count} left something by halves: {error!r}")
        return before
    lost = sorted(before.items() - now.items())
    row.expect(not lost, f"{work.name}: kill {row.count} lost {lost[:3]}")
    row.expect((folder / "thesis.txt").read_text() == USERS, f"{work.name}: a file of the user's is gone")
    if left := child.left_behind():
        row.failures.append(f"{work.name}: kill {row.count} left processes running: {left}")
    return now


def fresh(place: Path, name: str) -> Path:
    """A new folder in a temporary place, with a file of the user's in it."""
    folder = place / name
    folder.mkdir()
    (folder / "thesis.txt").write_text(USERS)
    return folder
