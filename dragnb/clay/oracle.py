"""Where did the content go? In the clay world this has an exact answer: the pose whose picture is nearest the edit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dragnb.clay.kinds import POSES
from dragnb.clay.render import grid, to_pixel
from dragnb.clay.tasks import ClayTask
from dragnb.clay.truth import place_of

_COARSE, _FINE, _ROUNDS = 17, 5, 2
_HIGHEST_PSNR = 99.0  # dB: where nothing differs, a figure that a mean and a JSON file can hold
_SIZE = 128  # pictures are compared at half resolution: the autoencoder's loss of detail must not decide


@dataclass(frozen=True)
class Verdict:
    """value: the dragged pose parameter read off the edit; place: the first handle's (x, y) there, px; moved: the
    fraction of the way from handle to target that the content went along the drag (1 = there, 0 = stayed, below 0 =
    away); distance: px that are left from the content's place to the target. Of several pairs `moved` is what fits all
    their ways best and `distance` the mean; places (n, 2) and distances (n,) are those of each pair. residual: the
    root mean square difference to the nearest pose's picture, grey levels of 255; some 3 for the autoencoder's loss
    alone. Where it is large the edit looks like no pose of this scene, and the rest is a poor description of it."""

    value: float
    place: np.ndarray
    moved: float
    distance: float
    places: np.ndarray
    distances: np.ndarray
    residual: float


def halve(rgb):
    """A picture (h, w, 3) averaged over 2 x 2 pixels, float32."""
    h, w, _ = rgb.shape
    return rgb.astype(np.float32).reshape(h // 2, 2, w // 2, 2, 3).mean((1, 3))


def locate(clay: ClayTask, edited) -> Verdict:
    """Among the scenes reachable by the dragged parameter, the one whose picture is nearest `edited` (uint8, 256 px).

    No feature matching and no learned judge: squared error between pictures, over the whole range of the parameter,
    coarse to fine. All pairs of a task show one change, so its one parameter places them all.
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
    there = places(clay, clay.before.posed(**{clay.parameter: float(best)}))
    ways, gone = clay.task.targets - clay.task.handles, there - clay.task.handles
    left = np.hypot(*(there - clay.task.targets).T)
    moved = float(gone.ravel() @ ways.ravel() / (ways.ravel() @ ways.ravel()))
    return Verdict(float(best), there[0], moved, float(left.mean()), there, left, cost(best) ** 0.5)


def figures(clay: ClayTask, image) -> dict:
    """What the truth says of an edit (uint8, 256 px), by the names of `summary.METRICS`: its verdict, and the PSNR
    against the true picture, at most 99 dB."""
    verdict = locate(clay, image)
    error = np.square((np.asarray(image, np.float64) - clay.picture_after) / 255).mean()
    return {
        "oracle_distance": verdict.distance,
        "moved": verdict.moved,
        "oracle_residual": verdict.residual,
        "truth_psnr": float(min(-10 * np.log10(error), _HIGHEST_PSNR)) if error else _HIGHEST_PSNR,
    }


def places(clay: ClayTask, scene) -> np.ndarray:
    """(n, 2) where the surface points under a task's handles lie in another pose of its scene, in pixels (x, y).

    The first handle's point is known by name; that of a further one is what the picture before shows at its pixel.
    """
    size = clay.task.size[0]
    found = [place_of(scene, clay.part, clay.point, size)[0]]
    if len(clay.task.handles) > 1:
        (depth, part), axis = clay.before.trace(size), grid(size)
        for x, y in np.rint(clay.task.handles[1:]).astype(int):
            a, b = (pose.solids[part[y, x]] for pose in (clay.before, scene))
            world = b.world(np.stack(a.local(axis[x], axis[y], depth[y, x]), -1))
            found.append(to_pixel(world[:2], size))
    return np.array(found)
