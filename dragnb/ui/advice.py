"""What a drag will meet, said before it is run: a sentence for everything that is allowed but may not be meant."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from dragnb.config import Settings
from dragnb.geometry import Frame
from dragnb.ui.picks import Picks


def notes(picks: Picks, settings: Settings | None = None, side: int | None = None) -> list[str]:
    """Sentences on the picks as they are, empty when all is well; pairs are numbered from 1.

    settings  of the run, for how far it can reach
    side      the model's picture size in pixels, for what is lost by resizing; without it nothing is said of either
    """
    ends = np.array(picks.points[: len(picks.points) // 2 * 2], float).reshape(-1, 2, 2)
    said = _of_prompt(picks) + _of_mask(picks) + _of_paths(ends)
    if picks.waiting:
        said.append(f"pair {len(ends) + 1} has no target yet")
    if side is not None:
        frame = Frame.fit(*picks.size, side)
        said += _of_reach(ends, frame, settings) if settings is not None else []
        said += _of_size(frame)
    return said


def _of_prompt(picks: Picks) -> list[str]:
    if picks.prompt.strip():
        return []
    return ["no prompt: say what the picture shows, or the model may take it for something else"]


def _of_mask(picks: Picks) -> list[str]:
    if not picks.mask.any():
        return ["no mask: the whole picture may change; paint what may, and the rest is held"]
    if picks.mask.all():
        return ["the mask covers everything: nothing is held in place"]
    handles = [picks.snap(x, y) for x, y in picks.points[::2]]
    held = [k for k, (x, y) in enumerate(handles, 1) if not picks.mask[int(y), int(x)]]
    return [f"pair {k}: its handle lies outside the mask, so it is held in place" for k in held]


def _of_paths(ends: np.ndarray) -> list[str]:
    said = [
        f"pair {k} has no length: its target lies on its handle"
        for k, (handle, target) in enumerate(ends, 1)
        if (handle == target).all()
    ]
    for (j, one), (k, other) in combinations(enumerate(ends, 1), 2):
        if _cross(*one, *other):
            said.append(f"the paths of pairs {j} and {k} cross: what meets there cannot go both ways")
    return said


def _of_reach(ends: np.ndarray, frame: Frame, settings: Settings) -> list[str]:
    """A step asks every handle to go one cell of the feature map, and `stop` cells count as arrived."""
    cell = frame.width / frame.inner_width / settings.supersample  # picture pixels
    far, near = settings.drag_steps * cell, settings.stop * cell
    said = []
    for k, (handle, target) in enumerate(ends, 1):
        length = np.hypot(*(target - handle))
        if length > far:
            said.append(
                f"pair {k} is {length:.0f} px long, and {settings.drag_steps} steps of one {cell:.1f} px cell "
                f"reach {far:.0f} px: allow more steps, or drag in two rounds"
            )
        elif 0 < length < near:
            said.append(f"pair {k} is {length:.1f} px long: under {near:.1f} px a handle counts as arrived")
    return said


def _of_size(frame: Frame) -> list[str]:
    if (frame.inner_width, frame.inner_height) == (frame.width, frame.height):
        return []
    inner = f"{frame.inner_width}×{frame.inner_height}"
    return [f"the model works at {inner}; the result is scaled back to {frame.width}×{frame.height}"]


def _cross(a, b, c, d) -> bool:
    """Do the segments a-b and c-d cross properly, and not just touch?"""

    def side(p, q, r):
        return np.sign((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]))

    return bool(side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0)
