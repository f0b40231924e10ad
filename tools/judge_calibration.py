"""Count which controls of the clay world's judge succeed, on tuning seeds; writes data/results/judge_calibration.json.

The truth through the autoencoder must succeed, everything else must not, but for a light blur of the truth.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from dragnb.clay import oracle
from dragnb.clay.kinds import FAMILIES, POSES
from dragnb.clay.scene import KINDS, VERSION
from dragnb.clay.tasks import EDITS, task
from dragnb.errors import InputError
from dragnb.geometry import warp
from dragnb.store import replacing
from dragnb.sweep.grids import encoded

SEED, COUNT = 840_000, 110
BOUNDS = ("NEAR", "NEAR_PX", "MUSH", "BLOTCH", "BLOTCH_PX", "PRESENT")
RESULT = Path(__file__).parents[1] / "data" / "results" / "judge_calibration.json"
CHILDREN = {  # how the names end of what goes with a part that is painted out
    "right ear": "right inner ear",
    "cabin": "window",
    "shade": "bulb",
    "head": ("ear", "eye", "pupil", "muzzle", "nose", "mouth"),
}


def calibration_tasks():
    """Tasks of all kinds and edits in turn; from the second turn on every other one has two or three pairs."""
    every = [(kind, edit) for kind in KINDS for edit in EDITS[kind]]
    for i, (kind, edit) in enumerate(islice(cycle(every), COUNT)):
        try:
            yield task(SEED + i, kind, edit, 2 + i // 2 % 2 if i >= len(every) and i % 2 else 1)
        except InputError:  # its moving surface is too small for more pairs
            yield task(SEED + i, kind, edit)


def as_kind(scene, kind):
    """The picture of another kind in the scene: same colours, same place, the same pose where the kind has it."""
    bounds = POSES[kind]
    pose = {name: float(np.clip(scene.pose.get(name, sum(b) / 2), *b)) for name, b in bounds.items()}
    return replace(scene, kind=kind, pose=pose).picture()


def controls(clay):
    """(name, picture) of what must not succeed, each made of the truth and of the picture before; blurs last."""
    yield "no edit", clay.task.image
    yield "pixel warp", warp(clay.task)
    kin = [kind for kind in FAMILIES[clay.family] if kind != clay.kind]
    far = [kind for kind in KINDS if kind not in FAMILIES[clay.family]]
    for which, scene in (("truth", clay.after), ("before", clay.before)):
        children = CHILDREN.get(clay.part, clay.part)
        out = [s.name for s in scene.solids if s.name == clay.part or s.name.endswith(children)]
        yield f"{which}, part painted out", scene.picture(without=out)
        if kin:
            yield f"{which}, kind of its family", as_kind(scene, kin[clay.seed % len(kin)])
        yield f"{which}, kind of another family", as_kind(scene, far[clay.seed % len(far)])
    pictures = {"truth": clay.picture_after.astype(np.float32), "before": clay.task.image.astype(np.float32)}
    for which, sigma in (*(("truth", sigma) for sigma in (1, 2, 3, 4, 6, 12)), ("before", 4)):
        blurred = gaussian_filter(pictures[which], (sigma, sigma, 0)).round().astype(np.uint8)
        yield f"{which}, blur of {sigma} px", blurred


if __name__ == "__main__":
    counts = {}
    for clay in calibration_tasks():
        for name, picture in (("truth, encoded", encoded(clay.picture_after)), *controls(clay)):
            verdict = oracle.judge(clay, picture)
            row = counts.setdefault(name, {"tasks": 0, "success": 0, "arrived": 0, "gone": 0})
            row["tasks"] += 1
            for key in ("success", "arrived", "gone"):
                row[key] += getattr(verdict, key)
    bounds = {name: getattr(oracle, name) for name in BOUNDS}
    result = {"version": VERSION, "seed": SEED, "bounds": bounds, "controls": counts}
    with replacing(RESULT) as temp:
        temp.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
