"""Shapes painted on a mask, bool (h, w): they change it in place where they cover a pixel's centre.

Places are (x, y) in picture pixels and may lie outside; `value` is True to free pixels, False to hold them.
"""

import numpy as np
from PIL import Image, ImageDraw


def stroke(mask: np.ndarray, start, end, radius: float, value: bool = True) -> None:
    """All pixels within `radius` of the line from `start` to `end`: a round brush."""
    (ax, ay), (bx, by) = start, end
    rows, cols = _box(mask, [start, end], radius)
    y, x = np.ogrid[rows, cols]
    dx, dy = bx - ax, by - ay
    along = np.clip(((x - ax) * dx + (y - ay) * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
    near = (x - ax - along * dx) ** 2 + (y - ay - along * dy) ** 2 <= radius**2
    mask[rows, cols][near] = value


def rectangle(mask: np.ndarray, corner, opposite, value: bool = True) -> None:
    """All pixels between two opposite corners, both included."""
    mask[_box(mask, np.rint([corner, opposite]))] = value


def polygon(mask: np.ndarray, places, value: bool = True) -> None:
    """All pixels inside the closed line through `places`, and those it runs over."""
    rows, cols = _box(mask, places)
    patch = Image.new("L", (cols.stop - cols.start, rows.stop - rows.start))
    if 0 in patch.size:
        return
    ImageDraw.Draw(patch).polygon([(x - cols.start, y - rows.start) for x, y in places], fill=1, outline=1)
    mask[rows, cols][np.array(patch, bool)] = value


def alike(likeness: np.ndarray, place, least: float) -> np.ndarray:
    """The part around a place whose likeness is `least` or more, without holes; bool (h, w), never empty.

    likeness  (h, w), how like the place every pixel is, from -1 to 1
    """
    from scipy import ndimage

    h, w = likeness.shape
    x, y = (min(max(round(v), 0), n - 1) for v, n in zip(place, (w, h), strict=True))
    parts, _ = ndimage.label(likeness >= min(least, likeness[y, x]))
    return ndimage.binary_fill_holes(parts == parts[y, x])


def holes(mask: np.ndarray) -> np.ndarray:
    """Where nothing is painted, but all ways to the border are cut off by paint; bool (h, w)."""
    from scipy import ndimage  # half a second, for one button

    parts, n = ndimage.label(~mask)
    enclosed = np.ones(n + 1, bool)
    for border in (parts[0], parts[-1], parts[:, 0], parts[:, -1]):
        enclosed[border] = False
    return enclosed[parts] & ~mask


# how far a suggested mask reaches around a path, in lengths of the path, and at least, in longer sides of the picture
REACH, LEAST_REACH = 3 / 2, 1 / 5


def around(mask: np.ndarray, points) -> None:
    """A generous region around every path from handle to target: a first guess at what has to change."""
    for handle, target in zip(points[0::2], points[1::2], strict=False):
        radius = max(REACH * np.hypot(*np.subtract(target, handle)), LEAST_REACH * max(mask.shape))
        stroke(mask, handle, target, radius)


def _box(mask: np.ndarray, places, margin: float = 0) -> tuple[slice, slice]:
    """The rows and columns that hold all `places` and `margin` around them, cut at the mask's border."""
    low, high = np.min(places, axis=0) - margin, np.max(places, axis=0) + margin
    ends = [(int(np.floor(a)), int(np.ceil(b)) + 1) for a, b in zip(low, high, strict=True)]
    (x0, x1), (y0, y1) = ends
    h, w = mask.shape
    return slice(*np.clip((y0, y1), 0, h).tolist()), slice(*np.clip((x0, x1), 0, w).tolist())
