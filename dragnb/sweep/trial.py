"""The work itself: one sample under all its settings, a record each. What happens here is the same wherever it runs."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dragnb import pipeline, sd
from dragnb.config import Settings
from dragnb.errors import InputError
from dragnb.store import Store, files, versions
from dragnb.sweep.records import WORK
from dragnb.task import DragTask

STATUS, PEAK_RESET = (
    Path("/proc/self/status"),
    Path("/proc/self/clear_refs"),
)  # Linux; elsewhere no process peak


@dataclass(frozen=True)
class Plan:
    """What all units of a run share; it travels to every worker once.

    settings  name -> Settings, or a callable (sample, model, store) -> uint8 picture of the sample's size
    described name -> what the setting is, as plain values, and `judge` what the score is: both made once, at the start
    model     as `sd.load` takes it; `hash` is that of its weights
    score     callable (image, task, name, truth, truth_image) -> flat dict of numbers, lists of them or None; None
              scores nothing. The last two are the sample's own, each None where it has none
    work      folder for the caches of samples in work; None: temporary folders of the machine's own
    store     folder of a cache that is kept, instead
    threads   of torch in a process: the bits of a result may hang on it, and on nothing else of where it was made
    """

    settings: dict[str, Any]
    described: dict[str, Any]
    model: str | sd.Model
    hash: str
    score: Callable | None = None
    judge: Any = None
    side: int | None = None
    threads: int = 1
    keep: bool = False
    work: str | None = None
    store: str | None = None

    def ordered(self, names) -> list[str]:
        """Settings that share a fine-tune follow each other, and among them those that share an inversion."""
        seen: dict[str, int] = {}

        def first_seen(**key):
            return seen.setdefault(Store.key(**key), len(seen))

        def rank(name):
            thing = self.settings[name]
            if not isinstance(thing, Settings):
                return (-1,)
            return first_seen(**thing.deciding("finetune")), first_seen(**thing.deciding("invert"))

        return sorted(names, key=rank)


@dataclass(frozen=True)
class Unit:
    """One sample, the names of the settings that it still lacks, and its digest where it is on record already."""

    sample: Any
    names: tuple[str, ...]
    digest: str | None = None


def trials(plan: Plan, unit: Unit) -> Iterator[tuple[dict, np.ndarray | None]]:
    """(record, picture if it is kept) for each setting of the unit; a failure is a record too, and the rest go on."""
    try:
        model = sd.load(plan.model)
        if model.hash != plan.hash:
            raise InputError(f"model = {plan.model!r}: here it has other weights than where the run began")
        task = unit.sample.task()
        truth = tuple(getattr(unit.sample, name, None) for name in ("truth", "truth_image"))
        digest = digest_of(task)
        if unit.digest not in (None, digest):
            raise InputError(f"{unit.sample.name} has changed since its first records; give another folder")
    except Exception as error:
        for name in plan.ordered(unit.names):
            yield failure(plan, unit.sample, name, message_of(error)), None
        return
    with _cache(plan, unit.sample.name) as store:
        for name in plan.ordered(unit.names):
            with _threads(plan.threads):
                record, image = _trial(plan, unit, name, model, store, task, truth)
            yield record | {"sample_digest": digest}, image


def failure(plan: Plan, sample, name: str, error: str) -> dict:
    """The record of a setting that could not even be tried."""
    return _blank(plan, sample, name) | {"error": error}


def message_of(error: Exception) -> str:
    """An error in a line: its type, what it says, and where it came from unless it is about the input."""
    text = " ".join(str(error).split())
    frames = [] if isinstance(error, InputError) else traceback.extract_tb(error.__traceback__)
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{where}"


def seed_of(settings: Settings, name: str) -> int:
    """The seed of an edit: that of the settings mixed with the sample's name.

    So no sample's number hangs on the order or on its neighbours, and what chance does to one says nothing about the
    others, as an interval over samples supposes. All settings of one seed share a sample's fine-tune.
    """
    return int.from_bytes(hashlib.sha256(f"{settings.seed} {name}".encode()).digest()[:4])


def digest_of(task: DragTask) -> str:
    """16 hex digits of all that decides an edit: picture, points, mask, prompt."""
    parts = {field: getattr(task, field) for field in ("image", "handles", "targets", "mask", "prompt")}
    return Store.key(**parts)[:16]


def _blank(plan: Plan, sample, name: str) -> dict:
    thing = plan.settings[name]
    return {
        "sample": sample.name,
        "category": sample.category,
        "setting": name,
        "seed": seed_of(thing, sample.name) if isinstance(thing, Settings) else None,
        "sample_digest": None,
        "setting_digest": Store.key(setting=plan.described[name])[:16],
        "side": plan.side,
        "model": plan.hash,
        "judge": plan.judge,
        "versions": versions(),
        "metrics": {},
        "drag": {},
        "error": None,
        "measured": {},
    }


def _trial(plan: Plan, unit: Unit, name: str, model, store: Store, task, truth):
    """One sample under one setting: the record and the picture."""
    sample = unit.sample
    record, timings, image = _blank(plan, sample, name), {}, None
    measured = {"timings": timings, "from_cache": [], "threads": plan.threads, "device": str(model.device)}
    began = time.perf_counter()
    _reset_peaks(model)
    try:
        thing = plan.settings[name]
        if isinstance(thing, Settings):
            settings = thing.replace(seed=record["seed"])
            result = _edited(task, model, settings, store, plan.side)
            image, measured["from_cache"] = result.unpasted, sorted(result.from_cache)
            timings |= {stage: round(seconds, 4) for stage, seconds in result.timings.items()}
            left = np.linalg.norm(result.tracks_xy[-1] - task.targets, axis=1).mean()
            ended = {"steps": len(result.states) - 1, "reached": bool(result.reached)}
            record["drag"] = _flat(ended | {"tracker_px": left, "loss": result.losses[-1]}, "the drag")
        else:
            image = _of_size(thing(sample, model, store), task)
        timings["score"] = -time.perf_counter()
        if plan.score is not None:
            record["metrics"] = _flat(plan.score(image, task, sample.name, *truth), "the score")
        timings["score"] = round(timings["score"] + time.perf_counter(), 4)
    except Exception as error:
        record |= {"metrics": {}, "drag": {}, "error": message_of(error)}
        timings.pop("score", None)
    record["measured"] = measured | {"seconds": round(time.perf_counter() - began, 4), **_peaks(model)}
    return record, image if plan.keep else None


def _edited(task, model, settings: Settings, store: Store, side):
    """The Result of a whole edit; Ctrl-C ends the run, and what it cut short is no result."""
    event = None
    for event in pipeline.run(task, model, settings, store, side=side):  # noqa: B007
        pass
    if event.data.interrupted:
        raise KeyboardInterrupt
    return event.data


def _of_size(image, task) -> np.ndarray:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape != task.image.shape:
        have = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"the setting gave {have}; wanted is a uint8 picture {task.image.shape}")
    return image


def _flat(figures, whose: str) -> dict:
    """The figures as plain finite numbers, lists of these, or None."""

    def plain(value):
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        if value is None or isinstance(value, (bool, int)):
            return value
        number = float(value)
        if not math.isfinite(number):
            raise ValueError
        return number

    try:
        return {str(name): plain(value) for name, value in figures.items()}
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"{whose} gave {figures!r}; wanted is a flat dict of finite numbers") from None


@contextlib.contextmanager
def _cache(plan: Plan, name: str) -> Iterator[Store]:
    """The cache of a sample. Without a store of the run's own it goes when the sample is done: the disk is bounded."""
    if plan.store is not None:
        yield Store(plan.store)
    elif plan.work is None:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            yield Store(folder)
    else:  # left where the sample is not done: the next run goes on from it
        store = Store(files.own_folder(Path(plan.work) / WORK) / Store.key(sample=name)[:16])
        yield store
        files.remove_own(store.root)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _reset_peaks(model: sd.Model) -> None:
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
    with contextlib.suppress(OSError):
        PEAK_RESET.write_text("5")


def _peaks(model: sd.Model) -> dict[str, int]:
    """Peak MiB of the process and of the device's allocator since the reset, as far as the system says."""
    peaks = {}
    with contextlib.suppress(OSError, StopIteration):
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        peaks["peak_mib"] = int(line.split()[1]) // 1024
    if model.device.type == "cuda":
        peaks["peak_device_mib"] = torch.cuda.max_memory_allocated(model.device) // 2**20
    return peaks
