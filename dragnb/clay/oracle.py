"""Where did the content go? In the clay world this has an exact answer: the pose whose picture is nearest the edit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dragnb.clay.kinds import POSES
from dragnb.clay.tasks import ClayTask
from dragnb.clay.truth import place_of

_COARSE, _FINE, _ROUNDS = 17, 5, 2
_SIZE = 128  # pictures are compared at half resolution: the autoencoder's loss of detail must not decide


@dataclass(frozen=True)
class Verdict:
    """value: the dragged pose parameter read off the edit; place: the handle's (x, y) there, px; moved: the fraction
    of the way from handle to target that the content went along the drag (1 = there, 0 = stayed, below 0 = away)."""

    value: float
    place: np.ndarray
    moved: float
    distance: float


def halve(rgb):
    """A picture (h, w, 3) averaged over 2 x 2 pixels, float32."""
    h, w, _ = rgb.shape
    return rgb.astype(np.float32).reshape(h // 2, 2, w // 2, 2, 3).mean((1, 3))


def locate(clay: ClayTask, edited) -> Verdict:
    """Among the scenes reachable by the dragged parameter, the one whose picture is nearest `edited` (uint8, 256 px).

    No feature matching and no learned judge: squared error between pictures, over the whole range of the parameter,
    coarse to fine. `distance` is what is left from the content's place to the target, in pixels.
    """
    low, high = POSES[clay.kind][clay.parameter]
    goal = halve(np.asarray(edited))

    def cost(value):
        candidate = clay.before.posed(**{clay.parameter: float(np.clip(value, low, high))}).picture(_SIZE)
        return float(np.square(candidate - goal).mean())

    values = np.unique(np.append(np.linspace(low, high, _COARSE), clay.before.pose[clay.parameter]))
    step = (high - low) / (_COARSE - 1)
    best = min(values, key=cost)
    for _ in range(_ROUNDS):
        best = min(np.linspace(max(low, best - step), min(high, best + step), 2 * _FINE + 1), key=cost)
        step /= _FINE
    place, _ = place_of(clay.before.posed(**{clay.parameter: float(best)}), clay.part, clay.point)
    handle, target = clay.task.handles[0], clay.task.targets[0]
    way = target - handle
    return Verdict(
        float(best), place, float((place - handle) @ way / (way @ way)), float(np.hypot(*(place - target)))
    )
