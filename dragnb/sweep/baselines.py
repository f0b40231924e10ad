"""What every figure stands beside: the floor (no edit), a plain pixel warp, and the ceiling of a clay task."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from dragnb import sd
from dragnb.clay.tasks import ClayTask
from dragnb.geometry import Frame
from dragnb.task import DragTask


def no_edit(task: DragTask) -> np.ndarray:
    """The picture as it was, uint8 (height, width, 3): IF 1, and the mean length of the pairs as MD."""
    return np.array(task.image)


def warp(task: DragTask) -> np.ndarray:
    """The picture's own pixels pulled from handles to targets, uint8 (height, width, 3); no model, no new content.

    Each pixel is read where it comes from: the shifts of all pairs weighted by one over the squared distance to their
    targets, against no shift at all weighted so by the distance to what is held. So the colour at a handle stands at
    its target, the picture outside the mask is the same to the bit, and nothing tears at the rim. An empty mask frees
    the whole picture, whose border is held then. (Inverse distance weighting: Shepard 1968.)
    """
    width, height = task.size
    free = np.ones((height, width), bool) if task.free else task.mask
    held = np.square(ndimage.distance_transform_edt(np.pad(free, 1))[1:-1, 1:-1])
    y, x = np.nonzero(free)
    pixels = np.stack([x, y], -1).astype(np.float64)
    weights = 1 / np.stack([np.square(pixels - target).sum(1) for target in task.targets], 1).clip(
        1e-6
    )  # (pixels, n)
    shifts = weights @ (task.handles - task.targets) / (weights.sum(1) + 1 / held[y, x])[:, None]
    source = (pixels + shifts).T[::-1]  # rows, then columns
    out = np.array(task.image)
    for colour in range(3):
        read = ndimage.map_coordinates(
            task.image[..., colour].astype(np.float64), source, order=1, mode="nearest"
        )
        out[y, x, colour] = read.round().clip(0, 255)
    return out


def truth_encoded(clay: ClayTask, model: str | sd.Model = "clay") -> np.ndarray:
    """The true picture after a clay drag, through the model's autoencoder: the best that any edit by it can give."""
    model = sd.load(model)
    frame = Frame.fit(*clay.task.size, model.side)
    return frame.from_canvas(sd.decode(model, sd.encode(model, frame.to_canvas(clay.picture_after))))
