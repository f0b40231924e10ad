"""DragBench and its like, as people have them: a folder or zip of samples, each read into a drag task.

    samples, problems = dragbench.read("drag_bench_data.zip")

A sample is a folder of the benchmark in one of the `layouts`: DragBench as published (meta_data.pkl) or without
pickles (drag_instruction.json), Drag100 (points.json), or drag files of ours (task.json).
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dragnb.errors import InputError
from dragnb.sweep import archive, layouts
from dragnb.task import TASK_JSON, DragTask


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture of a benchmark with its pairs, as labelled; pixels are read when `task` is called.

    name      category/folder, or the folder alone where there are no categories; no other sample's
    handles   float (n, 2), x and y in picture pixels; all that were labelled, with pairs of no length
    targets   float (n, 2)
    size      (width, height) of the picture
    notes     what is odd about it, a sentence each
    """

    name: str
    category: str
    prompt: str
    handles: np.ndarray
    targets: np.ndarray
    size: tuple[int, int]
    notes: tuple[str, ...]
    path: Path = field(repr=False)
    members: dict[str, str] = field(repr=False)

    def task(self) -> DragTask:
        """The drag task. Pairs of no length are left out: DragDiffusion's loss skips a point at its target too.

        Raises InputError with the sample's name where no pair is left, or the files have changed since `read`.
        """
        try:
            return _task(self.name, layouts.read(self.path, self.members))
        except InputError as error:
            raise InputError(f"{self.name}: {error}") from None


class Found(NamedTuple):
    """What `read` found: the samples, and what kept others from being one, a sentence each."""

    samples: tuple[Sample, ...]
    problems: tuple[str, ...]


def read(path: str | os.PathLike) -> Found:
    """The samples of a benchmark's folder or zip in the order of their names, and the problems of the others.

    Every sample is read and checked once, pixels too, so that what is wrong is known before a long run; no pixels
    are kept. A sample with a problem is left out and does no harm to the rest. The path may also lead to one
    category or one sample. Raises InputError where nothing there looks like a sample.
    """
    path = Path(path).resolve()
    folders, refused = archive.scan(path, layouts.KNOWN)
    if not folders and not refused:
        raise InputError(f"{path} holds no samples; one is a folder with {', '.join(layouts.PICTURES)}")
    problems = [f"{folder or path.name}: {reason}" for folder, reason in refused.items()]
    samples, names, seen = [], {}, {}
    for folder, members in folders.items():
        name, category = _name(path, folder, members)
        try:
            if name in names:
                raise InputError(f"the folder {names[name]} has the same name; rename one")
            names[name] = folder
            samples.append(_sample(name, category, path, members, seen))
        except InputError as error:
            problems.append(f"{name}: {error}")
    return Found(tuple(sorted(samples, key=lambda sample: sample.name)), tuple(problems))


def _name(path: Path, folder: str, members: dict[str, str]) -> tuple[str, str]:
    """(name, category) of a sample: the same for a zip and its folder, from wherever in them it is read."""
    root = path.parts[1:] if path.is_dir() else (path.stem,)
    parts = (*root, *filter(None, folder.split("/")))
    if len(parts) == 1 or layouts.source_of(members) in (layouts.DRAG100, TASK_JSON):
        return parts[-1], ""
    return "/".join(parts[-2:]), parts[-2]


def _sample(name: str, category: str, path: Path, members: dict[str, str], seen: dict[str, str]) -> Sample:
    """The sample, checked; `seen` maps what earlier ones held to their names and is added to."""
    content = layouts.read(path, members)
    size = (content.image.shape[1], content.image.shape[0])
    notes = [
        f"pairs[{k}] has no length: handle and target are both {content.handles[k].tolist()}; task() leaves it out"
        for k in np.flatnonzero((content.handles == content.targets).all(1))
    ]
    if len(notes) < len(content.handles):
        _task(name, content)
    if any(side % 8 for side in size):
        notes.append(f"the picture is {size[0]}×{size[1]}: not a multiple of 8")
    if not content.prompt.strip() and layouts.source_of(members) in (layouts.PICKLE, layouts.INSTRUCTION):
        notes.append("the prompt is empty")
    if {layouts.PICKLE, layouts.INSTRUCTION} <= set(members):
        notes += layouts.disagreement(content, path, members)
    if content.digest in seen:
        notes.append(f"it has the picture and the pairs of {seen[content.digest]}")
    seen.setdefault(content.digest, name)
    return Sample(
        name, category, content.prompt, content.handles, content.targets, size, tuple(notes), path, members
    )


def _task(name: str, content: layouts.Content) -> DragTask:
    """The task without the pairs of no length."""
    kept = (content.handles != content.targets).any(1)
    return DragTask(
        content.image, content.handles[kept], content.targets[kept], content.mask, content.prompt, name
    )
