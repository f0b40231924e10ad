"""Did a drag succeed? In the clay world this has an exact answer: where the content went, and what should be there.

`locate` reads the place: the pose whose picture is nearest the edit. Of a picture that looks like no pose it answers
all the same, so `judge` asks as well whether the edit looks like the truth there, and whether the part is still in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from dragnb.clay.kinds import POSES
from dragnb.clay.render import grid, to_pixel
from dragnb.clay.tasks import ClayTask
from dragnb.clay.truth import place_of
from dragnb.errors import InputError
from dragnb.geometry import warp

_COARSE, _FINE, _ROUNDS = 17, 5, 2
_HIGHEST_PSNR = 99.0  # dB: where nothing differs, a figure that a mean and a JSON file can hold
_SIZE = 128  # pictures are compared at half resolution: the autoencoder's loss of detail must not decide

# The bounds of a success, in pixels of the 256 px picture and grey levels of 255. NEAR is the definition of "arrived";
# the others were chosen on tuning seeds, where tools/judge_calibration.py counts what succeeds: the truth through the
# autoencoder in 107 of 110 tasks, a blur of it by 1 or 2 px always; a blur of 3 px, another kind, a part that is
# painted out (0.3 of it seems present at most), no edit and the warp never.
NEAR, NEAR_PX = 0.25, 4.0  # of the way, or px: what may be left to the target
MUSH = 2.7  # px: the mask's inside must be nearer to the scene than the scene is to itself, blurred by this sigma
BLOTCH = 60.0  # grey levels that no place may differ by: what a viewer points at
BLOTCH_PX = 6.0  # px: sigma of a place
PRESENT = 0.4  # share of the dragged part's own contrast to what is behind it that must be seen


@dataclass(frozen=True)
class Location:
    """Where the content of an edit is.

    value      the dragged pose parameter read off the edit
    place      (2,) the first handle's content there, (x, y) in px; places (n, 2): that of each pair
    moved      fraction of the way from handle to target that the content went along the drag: 1 = there, 0 = stayed,
               below 0 = away, above 1 = too far; of several pairs what fits all their ways best
    distance   px left from place to target, in the mean of the pairs; distances (n,): of each pair
    residual   root mean square difference to that pose's picture, grey levels; some 6 for the autoencoder's loss
    """

    value: float
    place: np.ndarray
    moved: float
    distance: float
    places: np.ndarray
    distances: np.ndarray
    residual: float

    @property
    def moved_clipped(self) -> float:
        """`moved` within [0, 1], for means: going too far is no merit, and is counted by `distance`."""
        return float(np.clip(self.moved, 0, 1))


@dataclass(frozen=True)
class Verdict(Location):
    """A Location, and whether the edit looks like the truth there.

    residual_inside        as residual, inside the task's mask, but with each place of the picture where it lies best:
                           what is NEAR_PX off is near enough, here as there
    mush_inside            the same of that pose's picture blurred by MUSH: the bound of residual_inside
    blotch                 the largest difference to that pose's picture at one place of the whole picture, grey levels
    present                share of the dragged part that is seen where it should be in that pose: 1 = as rendered,
                           0 = what is behind it is seen instead; 1 too where the pose hides the part
    psnr_inside            dB to the true picture inside the mask; that of doing nothing and of the pixel warp beside it
    arrived                every pair is within NEAR of its way, or NEAR_PX, of its target
    gone                   "content gone": less than PRESENT of the part is seen, so its place means nothing
    success                arrived, not gone, nearer to the scene than mush, no blotch, and nearer to the truth than
                           doing nothing and than the warp
    """

    residual_inside: float
    mush_inside: float
    blotch: float
    present: float
    psnr_inside: float
    no_edit_psnr_inside: float
    warp_psnr_inside: float
    arrived: bool
    gone: bool
    success: bool


def judge(clay: ClayTask, image) -> Verdict:
    """The verdict on an edit of a clay task (uint8, 256 px)."""
    location = locate(clay, image)
    scene, mask = clay.before.posed(**{clay.parameter: location.value}), clay.task.mask
    looks = _looks(clay, scene, halve(image))
    psnr, no_edit, warped = (
        _psnr(picture[mask], clay.picture_after[mask])
        for picture in (np.asarray(image), clay.task.image, warp(clay.task))
    )
    ways = np.hypot(*(clay.task.targets - clay.task.handles).T)
    arrived = bool((location.distances <= np.maximum(NEAR * ways, NEAR_PX)).all())
    gone = looks["present"] < PRESENT
    alike = looks["residual_inside"] < looks["mush_inside"] and looks["blotch"] < BLOTCH
    return Verdict(
        **vars(location),
        **looks,
        psnr_inside=psnr,
        no_edit_psnr_inside=no_edit,
        warp_psnr_inside=warped,
        arrived=arrived,
        gone=gone,
        success=arrived and not gone and alike and psnr > max(no_edit, warped),
    )


def figures(clay: ClayTask, image) -> dict:
    """What the truth says of an edit (uint8, 256 px), by the names of `metrics.METRICS`: its verdict, with `moved`
    clipped and 0 or 1 for success and gone, and the PSNR of the whole picture against the true one."""
    verdict = judge(clay, image)
    return {
        "success": int(verdict.success),
        "gone": int(verdict.gone),
        "oracle_distance": verdict.distance,
        "moved": verdict.moved_clipped,
        "oracle_residual": verdict.residual,
        "residual_inside": verdict.residual_inside,
        "psnr_inside": verdict.psnr_inside,
        "truth_psnr": _psnr(np.asarray(image), clay.picture_after),
    }


def _looks(clay: ClayTask, scene, edit) -> dict:
    """How an edit of half size differs from a scene: inside the mask, at the worst place, in the dragged part."""
    best = scene.picture(_SIZE).astype(np.float32)
    blurred = gaussian_filter(best, (MUSH / 2, MUSH / 2, 0))
    error, mush = (_unlike(picture, best) for picture in (edit, blurred))
    inside = clay.task.mask.reshape(_SIZE, 2, _SIZE, 2).any((1, 3))
    part = scene.trace(_SIZE)[1] == [s.name for s in scene.solids].index(clay.part)
    behind = scene.picture(_SIZE, without=(clay.part,)).astype(np.float32)[part]
    contrast = best[part] - behind
    strength = np.square(contrast).sum()
    return {
        "residual_inside": float(error[inside].mean() ** 0.5),
        "mush_inside": float(mush[inside].mean() ** 0.5),
        "blotch": float(error.max() ** 0.5),
        "present": float(((edit[part] - behind) * contrast).sum() / strength) if strength > 0 else 1.0,
    }


def _unlike(picture, scene) -> np.ndarray:
    """Mean square difference of a picture to a scene at each place, where both lie best: NEAR_PX off is near enough.

    Both (h, w, 3) float32 of half size; a place is as wide as BLOTCH_PX, so a picture shifted by less is not unlike.
    """
    reach, (h, w, _) = int(NEAR_PX / 2), scene.shape
    around = np.pad(scene, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    shifts = [
        (y, x)
        for y in range(2 * reach + 1)
        for x in range(2 * reach + 1)
        if np.hypot(y - reach, x - reach) <= reach
    ]
    errors = (np.square(picture - around[y : y + h, x : x + w]).mean(-1) for y, x in shifts)
    return np.min([gaussian_filter(error, BLOTCH_PX / 2) for error in errors], axis=0)


def _psnr(a, b) -> float:
    error = np.square(a.astype(np.float32) - b).mean()
    return min(_HIGHEST_PSNR, float(10 * np.log10(255**2 / error))) if error else _HIGHEST_PSNR


def halve(rgb):
    """A picture (h, w, 3) averaged over 2 x 2 pixels, float32."""
    h, w, _ = np.shape(rgb)
    return np.asarray(rgb).astype(np.float32).reshape(h // 2, 2, w // 2, 2, 3).mean((1, 3))


def locate(clay: ClayTask, edited) -> Location:
    """Among the scenes reachable by the dragged parameter, the one whose picture is nearest `edited` (uint8, 256 px).

    No feature matching and no learned judge: squared error between pictures, over the whole range of the parameter,
    coarse to fine. All pairs of a task show one change, so its one parameter places them all.
    """
    low, high = POSES[clay.kind][clay.parameter]
    edited = np.asarray(edited)
    if edited.shape != clay.task.image.shape:
        raise InputError(
            f"image: its shape is {edited.shape}, but that of the task's picture {clay.task.image.shape}"
        )
    goal = halve(edited)

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
    return Location(float(best), there[0], moved, float(left.mean()), there, left, cost(best) ** 0.5)


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
