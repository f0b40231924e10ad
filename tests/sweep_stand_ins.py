"""Samples, settings and a score so small that a run of them is about its records. Workers import them from here."""

import hashlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dragnb.errors import InputError
from dragnb.task import DragTask


@dataclass(frozen=True)
class Sample:
    """A noisy picture that its name decides, with one pair of points."""

    name: str
    category: str = "noise"

    def task(self):
        if "broken" in self.name:
            raise InputError(f"{self.name}: image.png is cut off")
        rng = np.random.default_rng(list(hashlib.sha256(self.name.encode()).digest()))
        return DragTask(
            rng.integers(0, 255, (64, 64, 3), dtype=np.uint8), [[20, 30]], [[40, 30]], None, "a cat"
        )


@dataclass(frozen=True)
class Known(Sample):
    """A sample whose outcome is known: all bright."""

    def truth(self, image):
        return {"mean": float(image.mean()), "of": len(self.name)}

    @property
    def truth_image(self):
        return brighter(self, None, None)


def samples(count):
    return [Sample(f"s/{k:02}") for k in range(count)]


def judge(image, task, name, truth, truth_image):
    """Figures that differ for any two pictures and names."""
    digest = hashlib.sha256(image.tobytes() + name.encode()).digest()
    return {"mark": int.from_bytes(digest[:6]) / 2**48, "mean": float(image.mean()), "none": None}


def judge_by_truth(image, task, name, truth, truth_image):
    """What the sample knows, and whether the edit is the true picture."""
    return {} if truth is None else truth(image) | {"right": bool((image == truth_image).all())}


def floor(sample, model, store):
    return np.array(sample.task().image)


def brighter(sample, model, store):
    time.sleep(0.002)
    return np.minimum(sample.task().image, 200) + np.uint8(40)


@dataclass(frozen=True)
class Logged:
    """`brighter`, after which a line stands in a file."""

    log: str

    def describe(self):
        return "brighter, logged"

    def __call__(self, sample, model, store):
        found = brighter(sample, model, store)
        file = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, b"\n")
        os.close(file)
        return found


@dataclass(frozen=True)
class Flaky:
    """Fails on sample `bad` until the file `mended` is there."""

    mended: str
    bad: str = "s/01"

    def __call__(self, sample, model, store):
        if sample.name == self.bad and not Path(self.mended).exists():
            raise RuntimeError("no luck\n  today")
        return floor(sample, model, store)


@dataclass(frozen=True)
class Deadly:
    """Kills its process: on sample `always`, and on sample `once` when it is first tried."""

    always: str
    once: str
    folder: str

    def __call__(self, sample, model, store):
        first = Path(self.folder) / "tried"
        if sample.name == self.always or sample.name == self.once and not first.exists():
            if sample.name == self.once:
                first.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return floor(sample, model, store)


@dataclass(frozen=True)
class Waiting:
    """Says that it has begun, and who it is, and waits until it is let go."""

    folder: str

    def __call__(self, sample, model, store):
        (Path(self.folder) / f"began-{os.getpid()}").touch()
        while not (Path(self.folder) / "go").exists():
            time.sleep(0.01)
        return floor(sample, model, store)
