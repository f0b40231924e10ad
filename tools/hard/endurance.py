"""A hundred edits, and a hundred drags in one studio, in one process: memory and open files stay as they were."""

import gc
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from . import works
from .campaign import Child, Row, part_of, timed

TIMES = 100
WARM = 0.2  # of the times, after which everything has been allocated once
# a studio's memory settles over its first drags (60 were looked at: 652 MiB, after 20 of them 664, at the end 672)
WARM_AT_LEAST = 20
GROWTH = 24 * 2**20  # bytes of noise that an allocator may make over the rest
HANDLES = 2


def run(share: float, seed: int) -> Iterator[Row]:
    """A row for the edits and one for the studio's drags."""
    works.model()
    times = part_of(share, TIMES, 40)
    for name, tried, work in (
        ("edits in a row", "each of another picture, in one process", edits),
        ("studio drags in a row", "one studio, looked at, exported, deleted", drags),
    ):
        row = Row(name, tried, times)
        with timed(row), tempfile.TemporaryDirectory() as place:
            log = Path(place) / "log"
            error = Child(work, Path(place), times, log=log).end()
            row.expect(not error, f"{name}: {error}")
            row.outcome = log.read_text(errors="replace").strip().splitlines()[-1] if not error else ""
        yield row


def edits(folder: Path, times: int) -> None:
    """Edits of pictures that no cache knows."""
    level(lambda k: works.edited(folder, which=works.task(seed=k)), times)


def drags(folder: Path, times: int) -> None:
    """Press Run, look at a step, export, press Run again; the oldest drags are deleted."""
    from dragnb.store import Store
    from dragnb.ui import Studio

    settings = works.SETTINGS.replace(keep_outside=True)
    studio = Studio(works.task(), works.model(), settings, store=Store(folder / "cache"), out=folder / "out")

    def once(k: int) -> None:
        studio.picker.load(works.task(seed=k))
        studio.run_button.click()
        done = studio.session.wait(120) and len(studio.session.snapshots) > 0
        studio.session.look(1)
        assert done and studio.session.wait(120) and not studio.session.problem, studio.session.problem
        studio.export("png")
        if len(studio.session.snapshots) > 3:
            studio.session.delete(studio.session.snapshots[0])

    level(once, times)
    assert studio.session.made == times, f"{studio.session.made} of {times} drags were made"
    studio.close()


def level(once: Callable[[int], object], times: int) -> None:
    """Do something so often; RuntimeError where memory or open files grow after the first ones."""
    me, first, warm = psutil.Process(), None, max(round(times * WARM), min(WARM_AT_LEAST, times // 2))
    for k in range(times):
        once(k)
        gc.collect()
        now = me.memory_info().rss, len(os.listdir("/proc/self/fd")), me.num_threads()
        first = now if k + 1 == warm else first
    grown, handles, threads = (b - a for a, b in zip(first, now, strict=True))
    words = f"memory {grown / 2**20:+.1f} MiB, open files {handles:+d}, threads {threads:+d} after the first {warm}"
    if grown > GROWTH or handles > HANDLES or threads > HANDLES:
        raise RuntimeError(words)
    print(words)
