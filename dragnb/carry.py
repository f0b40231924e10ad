"""Carry a picture's own pixels along a drag: the object moves as rigidly as what is held lets it.

`carry` finds the object in the mask, moves it by moving least squares (Schaefer et al. 2006, "Image deformation using
moving least squares", rigid, eq. 8), and fills what it uncovers from around it. What is moved is the picture itself;
what is filled or torn is for a model to paint (`dragnb.methods.warp_inpaint`). After the split of a drag into a warp
and an inpainting by Lu and Han (Inpaint4Drag, ICCV 2025).

Lengths are given for a picture of 256 pixels, its longer side, and grow with it.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from dragnb.task import DragTask

SIDE = 256  # the longer side that lengths are given for
LOOK = 128  # the object is looked for at this longer side
BORDER = 2  # of its pixels: the rim of the picture that shows what is behind an object
LIKE = 4.0  # weight of a colour's channels, of 1, against the height in the picture, from -1 to 1
SHADE = (1.0, 0.85, 0.7, 0.55)  # what is behind may lie in a shadow: its colours times these
OBJECT = 0.25  # how unlike the rim, so weighted, an object is at least
SPECK = 12  # pixels at LOOK: what is smaller is noise
REACH = 8.0  # px: a handle that is farther from all that was found is on no object
GAP = 4.0  # px: parts of one object may be so far apart
ANCHORS = 64  # places of what is held that hold it
CLOSED = 6.0  # px: width of the gaps of a mask; any hole in it is one too
ABOUT = 6.0  # degrees: nothing is turned farther about a gap of the mask; then what it leaves out goes along
SOFTER = 3  # times that `near` is doubled
LOST = 0.02  # share of an object that may be moved out of the mask, where it is not seen
STEP = 4.0  # px between the places at which the field is worked out
JOINT = 2.0  # px of what is held that go along with what moves beside it
RIM = 3.0  # px: what lies so near to an object's outline is shaded by it, and is filled anew
BLURS = (2, 4, 8, 16, 32, 64)  # px: a hole is filled from the nearest surroundings that reach it
KNOWN = 0.05  # share of a blur's weight that must be known


@dataclass(frozen=True, eq=False)
class Carried:
    """A picture with its object moved.

    image   uint8 (height, width, 3); outside the mask the original to the bit
    kept    float32 (height, width): share of a pixel that is the picture's own, moved or outside the mask; the rest is
            filled, and a guess
    region  bool (height, width): what was moved, where it was
    """

    image: np.ndarray
    kept: np.ndarray
    region: np.ndarray


def carry(task: DragTask, near: float = 0.25, hold: float = 4.0, region: np.ndarray | None = None) -> Carried:
    """A DragTask's object, moved from its handles to their targets.

    What of the object lies outside the mask holds it. What a hole or narrow gap of the mask leaves out holds it only
    where the drag does not turn it about the gap, or the mask has no room for all of it. Outside the mask no pixel
    changes.

    near    distances to a handle count this much: the lower, the more of the object goes as the handle goes; it is
            doubled where so much would go that the object left the mask
    hold    weight of the object's part outside the mask, which stays, against one handle's
    region  bool (height, width), what moves; None: `object_at_handles`
    """
    width, height = task.size
    free = np.ones((height, width), bool) if task.free else task.mask
    found = figure(task.image) if region is None else region
    for motion in _motions(task, found, free, region, near, hold):
        part, still, at = motion
        if _shown(part, at)[~free & ~found].sum() <= LOST * part.sum():
            break
    joint = still & _grown(part, JOINT * _unit(part))
    shown = _shown(part | joint, at) * free  # no edge is seen where the mask cuts the object
    moved = _read(task.image, at)
    hole = _grown(part, RIM * _unit(part)) & free & ~still
    behind = _filled(task.image, hole, hole | found)
    image = behind + shown[..., None] * (moved - behind)
    kept = np.where(free, shown, 1.0)
    image = np.where(free[..., None], image, task.image)
    return Carried(image.round().clip(0, 255).astype(np.uint8), kept.astype(np.float32), part)


def figure(image: np.ndarray) -> np.ndarray:
    """What stands before a picture's background, bool (height, width): colours that its rim does not show.

    Compared at about the same height, and also in a shadow's darker shades. A background that does not reach the rim,
    or an object that lies along it, is not told apart: then give `carry` a region.
    """
    height, width = image.shape[:2]
    scale = LOOK / max(height, width)
    rows, cols = (max(2 * BORDER + 1, round(n * scale)) for n in (height, width))
    small = ndimage.zoom(
        image.astype(np.float32) / 255,
        (rows / height, cols / width, 1),
        order=1,
        grid_mode=True,
        mode="nearest",
    )
    high = np.repeat(np.linspace(-1, 1, rows)[:, None, None], cols, 1)
    looks = np.concatenate([small * LIKE, high], -1)
    rim = _rim((rows, cols), BORDER, below=False)
    shades = [looks[rim] * (shade, shade, shade, 1) for shade in SHADE]
    unlike = cKDTree(np.concatenate(shades)).query(looks.reshape(-1, 4), k=3)[0].mean(1).reshape(rows, cols)
    found = ndimage.binary_fill_holes(ndimage.median_filter(unlike > OBJECT, 3))
    parts, _ = ndimage.label(found)
    found &= np.bincount(parts.ravel())[parts] > SPECK
    return (
        ndimage.zoom(
            found.astype(np.float32), (height / rows, width / cols), order=1, grid_mode=True, mode="nearest"
        )
        > 0.5
    )


def object_at_handles(found: np.ndarray, task: DragTask) -> np.ndarray:
    """Of what was found the parts that a handle is on, or near; none where no handle is."""
    unit = _unit(found)
    parts, _ = ndimage.label(_grown(found, GAP * unit / 2))
    parts *= found
    wanted = set()
    for x, y in np.rint(task.handles).astype(int):
        distance, (row, col) = _nearest(found, y, x)
        if distance <= REACH * unit:
            wanted.add(int(parts[row, col]))
    return np.isin(parts, list(wanted - {0}))


def rigid(places: np.ndarray, ends: np.ndarray, starts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Where `places` come from when `starts` went to `ends`: moving least squares by rotations and shifts alone.

    places (n, 2); ends, starts (m, 2); weights (n, m), of each pair at each place
    Returns (n, 2): at an end whose weight outweighs all others its start, elsewhere as rigid a motion as they allow.
    """
    weights = weights / weights.sum(1, keepdims=True)
    end, start = weights @ ends, weights @ starts
    e, s = ends - end[:, None], starts - start[:, None]  # (n, m, 2)
    along = (weights * (e * s).sum(-1)).sum(1)
    across = (weights * (e[..., 0] * s[..., 1] - e[..., 1] * s[..., 0])).sum(1)
    length = np.hypot(along, across)
    cos, sin = (np.divide(part, length, out=np.full_like(length, other), where=length > 1e-9)
                for part, other in ((along, 1.0), (across, 0.0)))  # fmt: skip
    x, y = (places - end).T
    return np.stack([cos * x - sin * y, sin * x + cos * y], -1) + start


def _motions(task: DragTask, found, free, region, near: float, hold: float):
    """Yield what moves, what holds it, and the (rows, columns) that pixels are read at: the most rigid motion first,
    softer ones for a mask that has no room for it."""
    gaps = found & _closed(free) & ~free
    along = gaps.any() and _turn(task, gaps) > ABOUT
    for room in (free | gaps, free) if along else (free,):
        part = object_at_handles(found & room, task) if region is None else region & room
        still = found & ~room
        if not part.any():  # the handles are on no object: all of the mask moves, held at its rim
            part, still = free, ~free if not free.all() else _rim(free.shape)
        for softer in range(SOFTER + 1 if still.any() else 1):
            source = _source(task, part, still, near * 2**softer, hold)
            yield part, still, (source[..., 1], source[..., 0])


def _source(task: DragTask, region, still, near: float, hold: float) -> np.ndarray:
    """(height, width, 2) the place (x, y) that each pixel is read at."""
    unit, (height, width) = _unit(region), region.shape
    y, x = np.nonzero(still & _grown(region, 1.5))
    anchors = np.stack([x, y], -1)[np.linspace(0, len(x) - 1, min(ANCHORS, len(x))).astype(int)].reshape(
        -1, 2
    )
    ends, starts = (np.concatenate([points, anchors]) for points in (task.targets, task.handles))
    pull = np.full(len(ends), hold / max(1, len(anchors)))
    pull[: len(task.handles)] = 1 / near**2
    rows, cols = (np.linspace(0, n - 1, max(2, round(n / (STEP * unit)))) for n in (height, width))
    places = np.stack(np.meshgrid(cols, rows), -1).reshape(-1, 2)
    far = np.square(places[:, None] - ends).sum(-1).clip(1e-3 * unit**2)
    source = rigid(places, ends, starts, pull / far) - places
    shifts = source.reshape(len(rows), len(cols), 2)
    down, across = np.mgrid[:height, :width].astype(np.float64)
    at = down * (len(rows) - 1) / max(1, height - 1), across * (len(cols) - 1) / max(1, width - 1)
    read = [ndimage.map_coordinates(shifts[..., k], at, order=1) for k in (0, 1)]
    return np.stack([across + read[0], down + read[1]], -1)


def _filled(image: np.ndarray, hole: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """The picture as float32, its hole filled from what is known around it: blurs of it, the narrowest that reach."""
    if not hole.any():
        return image.astype(np.float32)
    known = (~unknown if not unknown.all() else ~hole).astype(np.float32)
    if not known.any():
        return image.astype(np.float32)
    factor = min(1.0, SIDE / max(hole.shape))
    shape = [max(1, round(n * factor)) for n in hole.shape]
    scale = [n / m for n, m in zip(shape, hole.shape, strict=True)]
    small, weight = (
        ndimage.zoom(layer, [*scale, *[1] * (layer.ndim - 2)], order=1, grid_mode=True, mode="nearest")
        for layer in (image * known[..., None], known)
    )
    filled, done = np.zeros_like(small), np.zeros(shape, bool)
    for sigma in BLURS:
        reach = ndimage.gaussian_filter(weight, sigma)
        new = ~done & (reach > KNOWN) if sigma < BLURS[-1] else ~done
        filled[new] = (ndimage.gaussian_filter(small, (sigma, sigma, 0)) / reach.clip(1e-6)[..., None])[new]
        done |= new
    filled = ndimage.gaussian_filter(filled, (BLURS[0], BLURS[0], 0))
    back = [n / m for n, m in zip(hole.shape, shape, strict=True)]
    whole = ndimage.zoom(filled, (*back, 1), order=1, grid_mode=True, mode="nearest")
    return np.where(hole[..., None], whole, image)


def _shown(what: np.ndarray, at) -> np.ndarray:
    """Share of each pixel, 0 to 1, that reads from a region; its edge is as soft as a picture's own."""
    soft = ndimage.gaussian_filter(what.astype(np.float32), 0.7)
    return ((ndimage.map_coordinates(soft, at, order=1) - 0.25) * 2).clip(0, 1)


def _read(image: np.ndarray, at) -> np.ndarray:
    """Bilinear, (height, width, 3) float32; beyond the border its pixels."""
    layers = [
        ndimage.map_coordinates(image[..., c].astype(np.float32), at, order=1, mode="nearest")
        for c in range(3)
    ]
    return np.stack(layers, -1)


def _turn(task: DragTask, about: np.ndarray) -> float:
    """Degrees that the handles go around the middle of a region."""
    middle = np.argwhere(about).mean(0)[::-1]
    start, end = (complex(*(points.mean(0) - middle)) for points in (task.handles, task.targets))
    return abs(np.degrees(np.angle(end * start.conjugate())))


def _closed(mask: np.ndarray) -> np.ndarray:
    """A mask without its holes and narrow gaps."""
    radius = CLOSED * _unit(mask) / 2
    edge = int(np.ceil(radius)) + 1  # a gap at the picture's border is no narrow one
    grown = _grown(np.pad(mask, edge), radius)
    return ndimage.binary_fill_holes(~_grown(~grown, radius))[edge:-edge, edge:-edge] | mask


def _unit(picture: np.ndarray) -> float:
    return max(picture.shape[:2]) / SIDE


def _grown(region: np.ndarray, radius: float) -> np.ndarray:
    """All that is within `radius` pixels of a region."""
    return ndimage.distance_transform_edt(~region) <= radius if region.any() else region


def _nearest(found: np.ndarray, y: int, x: int) -> tuple[float, tuple[int, int]]:
    rows, cols = np.nonzero(found)
    if not len(rows):
        return np.inf, (0, 0)
    far = np.hypot(rows - y, cols - x)
    best = int(far.argmin())
    return float(far[best]), (rows[best], cols[best])


def _rim(shape, width: int = 1, below: bool = True) -> np.ndarray:
    """The rim of a picture; without its lower side where an object may stand on it."""
    rim = np.ones(shape, bool)
    rim[width : -width if below else None, width:-width] = False
    return rim
