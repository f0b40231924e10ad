"""ClayBench: a fixed list of 100 drag tasks with their truth, from seeds on which nothing is trained or tuned.

The room is not called `bench`, because `dragnb.clay.bench()` is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dragnb.clay.kinds import FAMILIES
from dragnb.clay.oracle import figures
from dragnb.clay.scene import RESERVED_SEED, VERSION
from dragnb.clay.tasks import EDITS, ClayTask, task, task_name
from dragnb.task import DragTask

PER_FAMILY = 25
PAIRS = (
    1,
    2,
    1,
    3,
    1,
)  # of a family's tasks in turn: three in five have one pair, as about half of DragBench's


@dataclass(frozen=True)
class Entry:
    """One task of ClayBench, drawn when `clay` or `task` is first asked for; like a `dragbench.Sample` to a runner."""

    seed: int
    kind: str
    edit: str
    pairs: int
    version: int = VERSION

    @property
    def name(self) -> str:
        """What it is, and its seed; no other entry's."""
        return task_name(self.seed, self.kind, self.edit, self.pairs, self.version)

    @property
    def category(self) -> str:
        """The family of its kind."""
        return next(family for family, kinds in FAMILIES.items() if self.kind in kinds)

    @cached_property
    def clay(self) -> ClayTask:
        """The task with its truth: both scenes, the true picture afterwards, the true correspondence."""
        return task(self.seed, self.kind, self.edit, self.pairs, self.version)

    def task(self) -> DragTask:
        """The drag task alone, as an edit takes it."""
        return self.clay.task

    def truth(self, image: np.ndarray) -> dict:
        """What the clay world knows of an edit: where its content went, how near it is to the true picture."""
        return figures(self.clay, image)

    @property
    def truth_image(self) -> np.ndarray:
        """The true picture after the drag, (256, 256, 3) uint8."""
        return self.clay.picture_after


def bench(version: int = VERSION) -> tuple[Entry, ...]:
    """The 100 entries of a version of ClayBench, PER_FAMILY of each family; nothing is drawn yet.

    Families take turns, so that any first part is balanced too; in a family the kinds take turns, and in a kind its
    edits. A mean over all gives each family the same weight, however few kinds it has.
    """
    entries = []
    for turn in range(PER_FAMILY):
        for kinds in FAMILIES.values():
            kind = kinds[turn % len(kinds)]
            edits = tuple(EDITS[kind])
            edit = edits[turn // len(kinds) % len(edits)]
            pairs = PAIRS[turn % len(PAIRS)]
            entries.append(Entry(RESERVED_SEED + len(entries), kind, edit, pairs, version))
    return tuple(entries)


def digest(version: int = VERSION) -> str:
    """sha256 of version and names, to stand beside figures; the test of this room pins it to VERSION."""
    names = "\n".join(entry.name for entry in bench(version))
    return hashlib.sha256(f"ClayBench {version}\n{names}".encode()).hexdigest()
