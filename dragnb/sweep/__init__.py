r"""Many edits, measured: every sample under every setting, one record each, in a folder that survives anything.

    for progress in sweep.run(clay.bench(), {"full": config.profile("clay")}, "outputs/sweep", score=Judge()):
        print(progress, end="\r")

Killed at any moment, the same call goes on where it was; what is lost is the trials in work. One process, several, or
a Dask cluster (`client=`) give the same records but for what each says it measured of its machine (`facts`).

On a cluster under SLURM, `dask-jobqueue` starts the workers: a job, a process, and a task at a time for each GPU.

    cluster = SLURMCluster(cores=1, job_cpu=4, memory="32GB", job_extra_directives=["--gres=gpu:1"],
                           worker_extra_args=["--resources", "GPU=1"])
    cluster.scale(8)
    sweep.run(..., client=Client(cluster), resources={"GPU": 1})
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dragnb import sd
from dragnb.config import Settings
from dragnb.errors import InputError
from dragnb.store import Store, files, versions
from dragnb.store.names import LONGEST, safe_stem
from dragnb.sweep import records, workers
from dragnb.sweep.records import about, code, describe, picture_path, read
from dragnb.sweep.trial import Plan, Unit, seed_of

__all__ = [
    "Progress",
    "about",
    "facts",
    "folder",
    "picture_path",
    "read",
    "row",
    "run",
    "seed_of",
    "table",
]


@dataclass(frozen=True)
class Progress:
    """A trial has been done: its record, and how far the run is.

    done, total  trials, those of earlier runs in this folder counted in; failed: how many of the done are errors
    seconds      since this run began; left: until it ends at this pace
    """

    record: dict
    done: int
    total: int
    failed: int
    seconds: float
    left: float

    def __str__(self):
        failed = f", {self.failed} failed" if self.failed else ""
        what = f"{self.record['sample']} / {self.record['setting']}"
        return (
            f"{self.done} of {self.total}{failed}, {_clock(self.seconds)}, {_clock(self.left)} left: {what}"
        )


def run(
    samples: Iterable,
    settings: dict,
    out: str | os.PathLike,
    model: str | sd.Model = "clay",
    score=None,
    *,
    jobs: int = 1,
    client=None,
    resources: dict | None = None,
    store: Store | str | os.PathLike | None = None,
    side: int | None = None,
    threads: int = 1,
    keep: bool = False,
    retry_failed: bool = False,
    data: str = "",
) -> Iterator[Progress]:
    """Do what is still to be done of samples × settings; yields a Progress for every record that is added to `out`.

    samples   with `name`, `category`, `task()`: `datasets.Sample`, ClayBench's `Entry`. One whose outcome is known
              has `truth`, a callable (image) -> dict of figures, and `truth_image`, the picture that would be right
    settings  name -> Settings, or a callable (sample, model, store) -> uint8 picture, to stand beside them
    score     callable (image, task, name, truth, truth_image) -> flat dict, the record's `metrics`: `judge.Judge`
    jobs      processes; each loads the model. Above 1, and with a client, all must be importable from modules
    client    a `distributed.Client`: one task a sample on its workers, each taking `resources`, like {"GPU": 1}
    store     a cache that is kept; by default each sample's is deleted when the sample is done
    threads   of torch in each process. Bits may hang on this number, and on nothing else of how a run is laid out
    keep      write the pictures too (`picture_path`)
    data      what the samples are, in words; a folder begun with others is refused

    A trial that fails is a record with its `error`; it is done again where `retry_failed`. Ctrl-C, a break or a kill
    leave a folder to go on from. InputError for what cannot be run or written, and for a folder of another run.
    """
    samples, plan = [*samples], _plan(settings, out, model, score, store, side, threads, keep)
    _require_names("sample", [sample.name for sample in samples], depth=4)
    start = functools.partial(workers.results, plan, jobs=jobs, client=client, resources=resources)
    return _run(samples, plan, out, data, start, retry_failed)


def _run(samples, plan: Plan, out, data: str, start, retry_failed: bool) -> Iterator[Progress]:
    wanted = {(sample.name, name) for sample in samples for name in plan.settings}
    with records.held(out, _about(plan, data)) as known:
        done = {k for k, r in known.items() if k in wanted and not (retry_failed and r["error"])}
        failed = sum(bool(known[key]["error"]) for key in done)
        lacking = [(s, tuple(name for name in plan.settings if (s.name, name) not in done)) for s in samples]
        digests = {r["sample"]: r["sample_digest"] for r in known.values() if r["sample_digest"]}
        units = [Unit(sample, names, digests.get(sample.name)) for sample, names in lacking if names]
        began, before = time.perf_counter(), len(done)
        with contextlib.closing(start(units)) as results:
            for record, image in results:
                records.write(out, record, image)
                done.add(records.key_of(record))
                failed += bool(record["error"])
                seconds = time.perf_counter() - began
                left = seconds / (len(done) - before) * (len(wanted) - len(done))
                yield Progress(record, len(done), len(wanted), failed, seconds, left)
        files.remove_own(Path(out) / records.WORK)


def folder(
    parent: str | os.PathLike, settings: dict, model="clay", score=None, side=None, data: str = ""
) -> Path:
    """A place in `parent` for the run of these arguments, named after them: another run has another.

    Named after the package's sources as well: a notebook that is run again goes on where it was, but shows nothing that
    other code has made.
    """
    plan = _plan(settings, parent, model, score, None, side, 1, False)
    return Path(parent) / Store.key(run=_about(plan, data), code=code())[:8]


def facts(record: dict) -> dict:
    """A record without what was measured of the machine: the same wherever and in whatever order it was made."""
    return {name: value for name, value in record.items() if name != "measured"}


def row(record: dict) -> dict:
    """A record as a flat row: sample, category, setting, error, metrics, the drag's own figures, seconds, peak_mib."""
    measured = {name: record["measured"].get(name) for name in ("seconds", "peak_mib")}
    stages = {f"{name}_s": s for name, s in record["measured"].get("timings", {}).items()}
    head = {name: record[name] for name in ("sample", "category", "setting", "error")}
    return head | record["metrics"] | record["drag"] | measured | stages


def table(out: str | os.PathLike):
    """The records of a run as a pandas DataFrame, a `row` each."""
    import pandas

    return pandas.DataFrame([row(record) for record in read(out)])


def _plan(settings, out, model, score, store, side, threads, keep) -> Plan:
    if not settings:
        raise InputError("settings: there are none; give a dict of names to Settings")
    for name, thing in settings.items():
        if not isinstance(thing, Settings) and not callable(thing):
            raise InputError(f"settings[{name!r}] is a {type(thing).__name__}; give Settings or a callable")
    _require_names("setting", [*settings], depth=1)
    return Plan(
        settings=dict(settings),
        described={name: describe(thing) for name, thing in settings.items()},
        model=model,
        hash=sd.hash_of(model),
        score=score,
        judge=None if score is None else describe(score),
        side=side,
        threads=threads,
        keep=keep,
        work=str(Path(out).resolve()),
        store=None if store is None else str(getattr(store, "root", store)),
    )


def _about(plan: Plan, data: str) -> dict:
    name = getattr(plan.model, "name", plan.model)
    return {
        "data": data,
        "model": {"name": os.path.basename(str(name)), "hash": plan.hash},
        "side": plan.side,
        "judge": plan.judge,
        "versions": versions(),
        "settings": plan.described,
    }


def _require_names(what: str, names: list, depth: int) -> None:
    """The names must do as names of files of `depth` folders at most, and no two may be alike."""
    for name in names:
        parts = name.split("/") if isinstance(name, str) else [""]
        if max(len(part.encode("utf-8", "surrogatepass")) for part in parts) > LONGEST:
            raise InputError(f"{what} {name!r}: the name is longer than {LONGEST} bytes")
        if not len(parts) <= depth or any(not part or safe_stem(part) != part for part in parts):
            raise InputError(f"{what} {name!r}: the name must do as a file name too")
    count = Counter(name.lower() for name in names)
    for name in names:
        if count[name.lower()] > 1:
            raise InputError(f"{what}s: two are called {name!r}; rename one")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
