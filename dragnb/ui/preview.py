"""The picture's own pixels, pulled along the arrows while they are drawn: quick, and nothing of the model in it."""

from __future__ import annotations

import time

import numpy as np
from PIL import Image

from dragnb import geometry
from dragnb.errors import InputError
from dragnb.task import DragTask
from dragnb.ui import masks
from dragnb.ui.picks import Picks

CAPTION = "preview: the picture's own pixels, pulled"
# pixels of the longer side that are pulled; a frame takes 9 ms at this size
SIDE = 256
# the next frame comes this many times as long later as the last one took
REST = 2


class Warp:
    """Makes the preview of picks, no more often than a machine can bear. `shown` is for whoever shows it."""

    def __init__(self):
        self.shown = False
        self._next = 0.0
        self._small_of, self._small = None, None

    def image(self, picks: Picks, target=None) -> np.ndarray | None:
        """The picture with its pixels pulled; None while it is too soon for the next one, or there is no whole pair.

        target  where the handle that has none yet would be pulled
        """
        points = list(picks.points) + ([target] if target is not None and picks.waiting else [])
        begin, points = time.monotonic(), points[: len(points) // 2 * 2]
        if not points or begin < self._next:
            return None
        small = self._shrunk(picks.image)
        h, w = small.shape[:2]
        scale = np.array([w, h]) / picks.size
        places = (np.array(points) + 0.5) * scale - 0.5
        if picks.mask.any():
            mask = np.array(Image.fromarray(picks.mask).resize((w, h)))
        else:
            masks.around(mask := np.zeros((h, w), bool), places)
        places = places.clip(0, np.array([w, h]) - 1)
        try:
            warped = geometry.warp(DragTask(small, places[0::2], places[1::2], mask))
        except InputError:  # a target on its handle, for as long as it lies there
            return None
        now = time.monotonic()
        self._next = now + REST * (now - begin)
        return warped

    def _shrunk(self, image: np.ndarray) -> np.ndarray:
        if self._small_of is not image:
            picture = Image.fromarray(image)
            picture.thumbnail((SIDE, SIDE))
            self._small_of, self._small = image, np.asarray(picture)
        return self._small
