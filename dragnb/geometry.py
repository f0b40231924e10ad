"""The only coordinate converter: picture pixels, the model's canvas, and feature cells. And the plain pixel warp.

A picture of any size is scaled (never cropped) onto a canvas: one whose sides are multiples of 64, padded right and
below with its own edge, or one of just its own size. `_xy` are picture pixels, x right and y down, the centre of the
top left pixel at (0, 0). `_yx` are cells of a map laid over the canvas, the centre of its first cell at (0, 0):
half-pixel exact, torch's align_corners=False.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from dragnb.errors import InputError

CELL = 8  # pixels of the canvas, a side, that one cell of the latent stands for
MULTIPLE = 64  # canvas sides: 8 of the VAE times 8 of the U-Net
FITS = ("longer", "width", "native")
TOUCH = 1e-6  # overlaps thinner than this, in pixels, are rounding


@dataclass(frozen=True)
class Frame:
    """How a picture lies on the canvas. Make one with `Frame.fit`; it carries picture, mask and points."""

    width: int  # the picture, in its own pixels
    height: int
    inner_width: int  # the picture on the canvas, at its top left
    inner_height: int
    canvas_width: int
    canvas_height: int

    @classmethod
    def fit(cls, width: int, height: int, side: int = 512, fit: str = "longer") -> "Frame":
        """The frame of a picture; one of side x side is carried unchanged to the bit.

        fit  "longer": its longer side becomes `side`, a multiple of 64, and it is padded to multiples of 64
             "width": its width becomes `side`, its height follows, cut down to whole pixels, and nothing is padded; as
             the public code has it, whose latent has height // 8 rows
             "native": the picture as it is, whatever `side` says; DragBench's are 512 wide, so here both are one

        Raises InputError for impossible sizes.
        """
        if fit not in FITS:
            raise InputError(f"fit = {fit!r} is not one of {', '.join(map(repr, FITS))}")
        if min(width, height) < 1:
            raise InputError(f"a picture of {width}×{height} pixels has no content")
        if fit != "longer":
            inner = (width, height) if fit == "native" else (side, int(side * height / width))
            if min(inner) < CELL:
                raise InputError(
                    f"fit = {fit!r} makes the picture {inner[0]}×{inner[1]} pixels, less than one cell of the latent "
                    f"({CELL}); use fit = 'longer', or a larger side"
                )
            return cls(width, height, *inner, *inner)
        if side < MULTIPLE or side % MULTIPLE:
            near = max(MULTIPLE, round(side / MULTIPLE) * MULTIPLE)
            raise InputError(f"side = {side} is not a positive multiple of {MULTIPLE}; use {near}")
        scale = side / max(width, height)
        inner = [max(1, round(width * scale)), max(1, round(height * scale))]
        canvas = [math.ceil(n / MULTIPLE) * MULTIPLE for n in inner]
        return cls(width, height, *inner, *canvas)

    def to_canvas(self, rgb: np.ndarray) -> Tensor:
        """uint8 (height, width, 3) -> float32 (1, 3, canvas_height, canvas_width) in [-1, 1]."""
        self._require("image", rgb)
        rgb = _resize(rgb, self.inner_width, self.inner_height)
        x = torch.from_numpy(np.array(rgb)).permute(2, 0, 1)[None].float() / 127.5 - 1
        pad = (0, self.canvas_width - self.inner_width, 0, self.canvas_height - self.inner_height)
        return functional.pad(x, pad, mode="replicate")

    def from_canvas(self, x: Tensor) -> np.ndarray:
        """(1, 3, canvas_height, canvas_width) in [-1, 1], clipped -> uint8 (height, width, 3): the way
        back, to the picture's own size. Values are rounded; the public code cuts them down.

        Of a canvas that is not whole cells, a decoder makes whole ones: these are stretched back over it.
        """
        want = (1, 3, self.canvas_height, self.canvas_width)
        if tuple(x.shape) != want:
            whole = [{n // CELL * CELL, math.ceil(n / CELL) * CELL} for n in want[2:]]
            if x.shape[:2] != want[:2] or not all(
                n in sides for n, sides in zip(x.shape[2:], whole, strict=True)
            ):
                raise InputError(f"the canvas has shape {tuple(x.shape)}, not {want}")
            x = functional.interpolate(x.detach().float(), want[2:], mode="bilinear")
        inner = x.detach()[0, :, : self.inner_height, : self.inner_width].float().cpu()
        rgb = ((inner.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
        return _resize(rgb, self.width, self.height)

    def mask_to_canvas(
        self, mask: np.ndarray | None, h: int, w: int, via: tuple[int, int] | None = None
    ) -> Tensor:
        """bool (height, width), True = editable -> float32 (1, 1, h, w) of 0 and 1 over the canvas.

        A cell is editable where the mask touches it at all, so that no stroke is too thin to survive; the
        padding is not. None or an empty mask frees everything: all ones.

        via  the rows and columns of a map between: the mask is read as the public code reads it, by nearest pixels
             first for that map and then for the cells. A thin stroke may vanish; a mask that vanishes whole is empty.
        """
        if mask is None or not np.any(mask):
            return torch.ones(1, 1, h, w)
        self._require("mask", mask)
        if via is not None:
            cells = functional.interpolate(functional.interpolate(self._nearest(mask), via), (h, w))
            return cells if cells.any() else torch.ones(1, 1, h, w)
        rows = _overlaps(self.height, self.inner_height * h / self.canvas_height, h)
        cols = _overlaps(self.width, self.inner_width * w / self.canvas_width, w)
        touched = rows @ torch.from_numpy(np.asarray(mask) != 0).float() @ cols.T > 0
        return touched.float()[None, None]

    def _nearest(self, mask: np.ndarray) -> Tensor:
        """The mask over the canvas, (1, 1, canvas_height, canvas_width), by nearest pixels; not the padding."""
        inner = functional.interpolate(
            torch.from_numpy(np.asarray(mask) != 0).float()[None, None], (self.inner_height, self.inner_width)
        )
        pad = (0, self.canvas_width - self.inner_width, 0, self.canvas_height - self.inner_height)
        return functional.pad(inner, pad)

    def xy_to_yx(self, points, map_hw: tuple[int, int], whole: bool = False) -> Tensor:
        """(n, 2) picture pixels -> (n, 2) float32 cells (row, column) of an h x w map, clamped into it.

        With `whole` the cells are whole ones, the public code's: the pixel's number scaled and rounded half to even,
        which is up to 3/4 of a cell of a half-size map away from the pixel's place on it.
        """
        if isinstance(points, np.ndarray):
            points = points.copy()  # a task's may not be written to, which torch warns of
        xy = torch.as_tensor(points, dtype=torch.float64).reshape(-1, 2)
        scale = self._cells_per_pixel(map_hw)
        yx = (xy.flip(1) * scale).round() if whole else (xy.flip(1) + 0.5) * scale - 0.5
        last = torch.tensor(map_hw, dtype=torch.float64) - 1
        return torch.minimum(yx.clamp(min=0), last).float()

    def map_to_picture(self, values: np.ndarray) -> np.ndarray:
        """A map's values in [-1, 1], (h, w), enlarged to the picture, (height, width) float32, in steps of 1/127.5."""
        canvas = torch.from_numpy(values)[None, None].expand(1, 3, -1, -1)
        size = self.canvas_height, self.canvas_width
        canvas = functional.interpolate(canvas, size, mode="bilinear", align_corners=False)
        return self.from_canvas(canvas)[..., 0].astype(np.float32) / 127.5 - 1

    def yx_to_xy(self, cells, map_hw: tuple[int, int]) -> Tensor:
        """(n, 2) cells -> (n, 2) float32 picture pixels, clamped into the picture: the way back."""
        yx = torch.as_tensor(cells).detach().cpu().double().reshape(-1, 2)
        xy = ((yx + 0.5) / self._cells_per_pixel(map_hw) - 0.5).flip(1)
        last = torch.tensor([self.width, self.height], dtype=torch.float64) - 1
        return torch.minimum(xy.clamp(min=0), last).float()

    def _cells_per_pixel(self, map_hw) -> Tensor:
        h, w = map_hw
        rows = self.inner_height / self.height * h / self.canvas_height
        cols = self.inner_width / self.width * w / self.canvas_width
        return torch.tensor([rows, cols], dtype=torch.float64)

    def _require(self, what: str, array: np.ndarray) -> None:
        if array.shape[:2] != (self.height, self.width):
            size = f"{array.shape[1]}×{array.shape[0]}" if array.ndim > 1 else f"of shape {array.shape}"
            raise InputError(f"{what} is {size}, the frame was made for {self.width}×{self.height}")


def sample_bilinear(feat: Tensor, yx: Tensor) -> Tensor:
    """Read a map between its cells: feat (1, c, h, w) at yx (..., 2) -> (..., c).

    Places outside are read at the border. Built on gathers, so its gradients, towards the map and towards the
    places, are deterministic; whole-numbered places give the cell itself to the bit.
    """
    h, w = feat.shape[-2:]
    y, x = yx[..., 0].clamp(0, h - 1), yx[..., 1].clamp(0, w - 1)
    y0, x0 = y.detach().floor().long(), x.detach().floor().long()
    y1, x1 = (y0 + 1).clamp(max=h - 1), (x0 + 1).clamp(max=w - 1)
    fy, fx = (y - y0).to(feat.dtype), (x - x0).to(feat.dtype)
    top = feat[0, :, y0, x0] * (1 - fx) + feat[0, :, y0, x1] * fx
    bottom = feat[0, :, y1, x0] * (1 - fx) + feat[0, :, y1, x1] * fx
    return (top * (1 - fy) + bottom * fy).movedim(0, -1)


def mix_corners(read: Callable[[Tensor], Tensor], yx: Tensor) -> Tensor:
    """Bilinear between whole places: `read` (..., 2) -> (..., c) is asked at the four whole corners around each `yx`.

    A place on a whole row or column reads it alone, so no corner is asked for beyond it.
    """
    low, high = yx.detach().floor(), yx.detach().ceil()
    (y0, x0), (y1, x1) = low.unbind(-1), high.unbind(-1)
    fy, fx = (yx - low).split(1, dim=-1)
    top = read(low) * (1 - fx) + read(torch.stack([y0, x1], -1)) * fx
    bottom = read(torch.stack([y1, x0], -1)) * (1 - fx) + read(high) * fx
    return top * (1 - fy) + bottom * fy


def warp(task) -> np.ndarray:
    """A DragTask's picture, its own pixels pulled from handles to targets, uint8 (height, width, 3); nothing new in it.

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


def keep_outside(task, image: np.ndarray, feather: float = 0) -> np.ndarray:
    """An edit of a DragTask's picture with the original put back outside the mask, uint8 (height, width, 3).

    feather  picture pixels inside the mask's rim over which the edit fades in; a part of the mask that is thinner
             fades over half its own width, so that no stroke is lost

    Outside the mask the picture is the original to the bit. An empty mask frees everything: the edit comes back.
    """
    if task.free:
        return image
    depth = ndimage.distance_transform_edt(task.mask)
    parts, count = ndimage.label(task.mask)
    deepest = ndimage.maximum(depth, parts, np.arange(count + 1))
    alpha = np.minimum(1, depth / np.clip(deepest[parts], 1, feather + 1))[..., None]
    return (task.image + alpha * (image.astype(np.float64) - task.image)).round().astype(np.uint8)


def _resize(rgb: np.ndarray, width: int, height: int) -> np.ndarray:
    if rgb.shape[:2] == (height, width):
        return rgb
    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.LANCZOS))


def _overlaps(n: int, reach: float, cells: int) -> Tensor:
    """(cells, n) of 0 and 1: does pixel j, of n spread evenly over the first `reach` cells, touch cell k?"""
    edges = torch.arange(n + 1, dtype=torch.float64) * (reach / n)
    cell = torch.arange(cells, dtype=torch.float64)[:, None]
    shared = torch.minimum(edges[1:], cell + 1) - torch.maximum(edges[:-1], cell)
    return (shared > TOUCH).float()
