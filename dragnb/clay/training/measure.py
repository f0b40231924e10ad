"""How good trained parts are on pictures that no training meets, figures apart from the background."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dragnb import metrics, sd
from dragnb.clay.scene import VERSION, sample
from dragnb.clay.training.data import HELDOUT_SEED
from dragnb.geometry import Frame


def reconstruct(model: sd.Model, picture: np.ndarray) -> np.ndarray:
    """A 256 px picture through a model's autoencoder, uint8 as it was."""
    frame = Frame.fit(256, 256, 256)
    return frame.from_canvas(sd.decode(model, sd.encode(model, frame.to_canvas(picture))))


def autoencoder_psnr(model: sd.Model, count: int = 200, world: int = VERSION) -> Iterator[dict[str, float]]:
    """PSNR in dB of encoding and decoding `count` held-out pictures, one by one: of the whole, figure and backdrop.

    The backdrop is most of a picture and nearly flat, so the figure's own pixels are told apart from it.
    """
    for seed in range(HELDOUT_SEED, HELDOUT_SEED + count):
        scene = sample(seed, version=world)
        picture, figure = scene.picture(), scene.trace()[1] >= 0
        back = reconstruct(model, picture)
        regions = {"whole": None, "figure": figure, "backdrop": ~figure}
        yield {name: metrics.psnr(back, picture, mask) for name, mask in regions.items()}
