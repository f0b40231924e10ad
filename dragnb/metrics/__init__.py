"""Figures: how alike two pictures are, and how far points lie from where they should be.

A picture is uint8 (h, w, 3), or a float tensor (1, 3, h, w) or (3, h, w) in [-1, 1]; both may be mixed.
`python -m dragnb.metrics fetch` gets the weights that `image_fidelity` needs.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dragnb.errors import InputError
from dragnb.metrics import lpips

FIDELITY_SIDE = 224  # DragDiffusion's evaluation script
LEAST_RADIUS = 5  # pixels; RegionDrag's smallest disc


def as_unit(image) -> Tensor:
    """A picture of either convention as (1, 3, h, w) float64 in [0, 1]."""
    if isinstance(image, Tensor) and image.is_floating_point():
        x = image.detach().cpu().double()
        x = (x if x.ndim == 4 else x[None]).clamp(-1, 1) / 2 + 0.5
    else:
        array = np.asarray(image)
        if array.dtype != np.uint8 or array.ndim != 3:
            raise InputError(
                f"picture: {array.dtype} {array.shape}; give uint8 (h, w, 3) or a float tensor in [-1, 1]"
            )
        x = torch.from_numpy(array.copy()).permute(2, 0, 1)[None].double() / 255
    if x.ndim != 4 or x.shape[:2] != (1, 3):
        raise InputError(f"picture: shape {tuple(x.shape)}; one picture of three colours is needed")
    return x


def _pair(a, b) -> tuple[Tensor, Tensor]:
    a, b = as_unit(a), as_unit(b)
    if a.shape != b.shape:
        raise InputError(
            f"pictures: {tuple(a.shape[2:])} against {tuple(b.shape[2:])}; both must have one size"
        )
    return a, b


def psnr(a, b, mask=None) -> float:
    """Peak signal-to-noise ratio in dB, infinite for equal pictures; the peak is the full range of a pixel.

    mask  (h, w) or (1, 1, h, w), true where pixels count; give the inverse of a drag's mask for "the rest"
    """
    a, b = _pair(a, b)
    error = (a - b).square().mean(dim=(0, 1))
    if mask is not None:
        counted = torch.as_tensor(np.array(mask)).reshape(error.shape) > 0
        if not counted.any():
            raise InputError("mask: it is empty, so no pixel counts; leave it out for the whole picture")
        error = error[counted]
    mean = error.mean().item()
    return math.inf if mean == 0 else -10 * math.log10(mean)


def image_fidelity(a, b, weights: lpips.Weights | None = None) -> float:
    """IF = 1 - LPIPS of two pictures, 1 for equal ones (DragDiffusion, sec. 4; LPIPS as its script calls it).

    Both are scaled to 224x224, bilinear without antialiasing, and compared by AlexNet's LPIPS v0.1.

    weights  what `lpips.load` gives; by default those in the cache. InputError, with the remedy, where there are none
    """
    weights = weights if weights is not None else lpips.load()
    side = (FIDELITY_SIDE, FIDELITY_SIDE)
    a, b = (F.interpolate((2 * x - 1).float(), side, mode="bilinear") for x in _pair(a, b))
    return 1 - lpips.distance(a, b, weights).item()


def distances(found, wanted) -> Tensor:
    """(n,) Euclidean distances between two lists of points (n, 2), in their own unit."""
    found, wanted = (torch.as_tensor(np.array(p)).double() for p in (found, wanted))
    if found.shape != wanted.shape or found.ndim != 2 or found.shape[1] != 2:
        raise InputError(f"points: {tuple(found.shape)} against {tuple(wanted.shape)}; give two lists (n, 2)")
    return (found - wanted).norm(dim=1)


def mean_distance(found, wanted) -> float:
    """Mean distance between points and where they should be (the paper's MD, given the points found)."""
    return distances(found, wanted).mean().item()


def pck(found, wanted, radius: float) -> float:
    """Percentage of correct keypoints as a fraction: how many points lie within `radius` of where they should."""
    return (distances(found, wanted) <= radius).double().mean().item()


def discs(handles, targets, size) -> np.ndarray:
    """(n, height, width) bool: the pixels nearer to a pair's handle or target than its length / sqrt 2, or 5 px.

    RegionDrag searches nowhere else, so its distance is small whatever was done: a point not found in the disc of the
    target is taken to be in that of the handle.
    """
    handles, targets = (np.asarray(p, dtype=np.float64) for p in (handles, targets))
    radius = np.maximum(np.linalg.norm(targets - handles, axis=1) / math.sqrt(2), LEAST_RADIUS)
    pixels = np.stack(np.meshgrid(np.arange(size[0]), np.arange(size[1])), -1)
    away = (np.linalg.norm(pixels - p[:, None, None], axis=-1) for p in (handles, targets))
    return np.minimum(*away) < radius[:, None, None]


def dai(before, after, handles, targets, radius: int) -> float:
    """GoodDrag's drag accuracy index: how unlike the handles' patches the edit is at the targets; 0 is best.

    The squared difference of (2 radius + 1)^2 patches, colours in [0, 1] summed, pixels averaged, then pairs averaged.
    Where a patch leaves the picture only pixels inside both pictures count; points are rounded to whole pixels. The
    public code divides by the number of pairs twice, and takes a patch over the left or upper edge for an empty one.
    """
    if radius < 0:
        raise InputError(f"radius = {radius}: a patch reaches 0 pixels or more to each side")
    a, b = (x[0].numpy() for x in _pair(before, after))
    last = np.array(a.shape[:0:-1]) - 1  # (x, y)
    pairs = [np.floor(np.asarray(p, dtype=np.float64) + 0.5).astype(int) for p in (handles, targets)]
    unlike = []
    for handle, target in zip(*pairs, strict=True):
        low, high = (
            -np.minimum(radius, np.minimum(handle, target)),
            np.minimum(radius, last - np.maximum(handle, target)),
        )
        x, y = ([np.arange(p[i] + low[i], p[i] + high[i] + 1) for p in (handle, target)] for i in (0, 1))
        apart = a[:, y[0][:, None], x[0]] - b[:, y[1][:, None], x[1]]
        unlike.append(np.square(apart).sum(0).mean())
    return float(np.mean(unlike))
