"""Figures: pictures side by side, a drag drawn on its picture, tracks, curves, tables in colour; a line of progress.

Every function returns a Figure that a notebook shows as the last value of a cell, or draws on the axes it is given.
Nothing here uses pyplot: no global state, no figure shown twice. Colours are Okabe and Ito's, maps are viridis, so
that a reader who sees no red or green loses nothing; handles and targets differ in shape as well.
"""

from __future__ import annotations

import io
import itertools
import textwrap
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from dragnb.errors import InputError
from dragnb.store.files import replacing, sign_png, signed

# Okabe and Ito; their yellow is too pale for a mark on white, so the last is brown
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C510A")
DASHES = ("-", "--", "-.", ":")
# one more than colours, so that a ninth thing has a look of its own
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*", "<")
HANDLE, TARGET = "#D55E00", "#0072B2"  # vermillion circle, blue square
DIMMED = 0.45  # how much of the picture is left where the mask holds it still
GREY = 128
BETTER, WORSE, OPEN = COLORS[0], COLORS[1], "0.6"  # what an interval says of a difference
DPI = 90
TITLE = 10
LINE = 36  # characters of a title that fit over a picture of 3 inches
HALO = [withStroke(linewidth=3, foreground="white")]
WORD = 8  # characters that fit under a cell of a table in colour
DOTTED = 20  # curves of up to this many points show them


class Shown(Figure):
    """A Figure that Jupyter shows without pyplot or a backend."""

    def _repr_png_(self) -> bytes:
        return png(self)


def figure(rows: int = 1, columns: int = 1, size=(3.0, 3.0), suptitle: str | None = None, **kwargs):
    """An empty Figure and its axes, a (rows, columns) array; size is (width, height) in inches of one of them."""
    fig = Shown(figsize=(columns * size[0], rows * size[1]), dpi=DPI, layout="constrained")
    axes = fig.subplots(rows, columns, squeeze=False, **kwargs)
    if suptitle:
        fig.suptitle(suptitle, fontsize=12)
    return fig, axes


def as_shown(image) -> np.ndarray:
    """A picture in any of the house's conventions as matplotlib takes it.

    uint8 (h, w, 3) or float (h, w, 3) in [0, 1] stay; a tensor (1, 3, h, w) or (3, h, w) in [-1, 1] becomes (h, w, 3)
    in [0, 1]; a map (h, w) of numbers or truth values stays (h, w). InputError on any other shape.
    """
    if hasattr(image, "detach"):
        image = image.detach().float().cpu().numpy()
        image = image[0] if image.ndim == 4 and len(image) == 1 else image
        if image.ndim == 3 and len(image) == 3:
            return np.clip(image.transpose(1, 2, 0) / 2 + 0.5, 0, 1)
    image = np.asarray(image)
    if image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4)):
        return image if image.dtype == np.uint8 or image.ndim == 2 else np.clip(image, 0, 1)
    raise InputError(f"picture: shape {image.shape}; give (h, w, 3), (h, w) or a tensor (1, 3, h, w)")


def show(ax, image, title: str | None = None, **kwargs):
    """Draw one picture or map on axes, without ticks; maps are drawn in viridis, masks in black and white."""
    image = as_shown(image)
    cmap = "gray" if image.dtype == bool else "viridis"
    drawn = ax.imshow(image, **({"cmap": cmap, "interpolation": "nearest"} | kwargs))
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    if title:
        ax.set_title(title, fontsize=TITLE)
    return drawn


def pictures(images, titles=None, columns: int | None = None, size: float = 2.6, suptitle: str | None = None):
    """A grid of pictures, `size` inches wide each, `columns` in a row (default: all of them)."""
    images = list(images)
    titles = [None] * len(images) if titles is None else list(titles)
    if not images or len(images) != len(titles):
        raise InputError(
            f"pictures: {len(images)} pictures and {len(titles)} titles; give one title for each"
        )
    columns = min(columns or len(images), len(images))
    h, w = as_shown(images[0]).shape[:2]
    size = (size, size * h / w + 0.3)
    fig, axes = figure(-(-len(images) // columns), columns, size, suptitle)
    for ax, image, title in itertools.zip_longest(axes.flat, images, titles):
        ax.set_visible(image is not None)
        if image is not None:
            show(ax, image, title)
    return fig


def dimmed(task) -> np.ndarray:
    """The task's picture, greyed where its mask holds it still, uint8 (h, w, 3)."""
    if task.free:
        return np.array(task.image)
    pale = (DIMMED * task.image + (1 - DIMMED) * GREY).round().astype(np.uint8)
    return np.where(task.mask[:, :, None], task.image, pale)


def draw_drag(ax, task, mask: bool = True, title: str | None = None, image=None):
    """Draw a task: its picture (or `image`), greyed outside the mask, an arrow from every handle to its target."""
    show(ax, (dimmed(task) if mask else task.image) if image is None else image, title)
    for k, (handle, target) in enumerate(zip(task.handles, task.targets, strict=True), start=1):
        arrow = dict(arrowstyle="-|>", color="black", lw=1.5, shrinkA=0, shrinkB=3, path_effects=HALO)
        ax.annotate("", xy=target, xytext=handle, arrowprops=arrow, zorder=3)
        ax.plot(*handle, "o", ms=7, color=HANDLE, mec="white", mew=1.2, zorder=4)
        ax.plot(*target, "s", ms=6.5, color=TARGET, mec="white", mew=1.2, zorder=4)
        if len(task.handles) > 1:
            _number(ax, k, handle, target)
    return ax


def _number(ax, k, handle, target):
    """Write a pair's number behind its handle, seen from the target, where it hides neither of them nor the arrow."""
    away = np.subtract(handle, target, dtype=float) * (1, -1)  # the picture's y goes down, the page's up
    away *= 10 / max(np.hypot(*away), 1e-9)
    place = dict(textcoords="offset points", ha="center", va="center", annotation_clip=False)
    ax.annotate(str(k), handle, tuple(away), path_effects=HALO, zorder=5, **place)


def task_figure(task, size: float = 3.0):
    """The task's picture, and beside it the drag: handles (circles), targets (squares), what is held (grey)."""
    w, h = task.size
    fig, axes = figure(1, 2, (size, size * h / w + 0.5))
    prompt = textwrap.fill(textwrap.shorten(task.prompt, 2 * LINE, placeholder=" ..."), LINE)
    show(axes[0, 0], task.image, prompt)
    draw_drag(axes[0, 1], task, title="circle to square; grey stays" if not task.free else "circle to square")
    return fig


def draw_tracks(ax, tracks_xy, task, title: str | None = None, image=None, margin: float | None = None):
    """Draw where handles were seen, over the task or `image`: dots from the circle to a star.

    tracks_xy  (states, n, 2) picture pixels
    margin     show only so many pixels around the points; None shows the whole picture
    """
    show(ax, task.image if image is None else image, title)
    for track, handle, target in zip(
        np.moveaxis(np.asarray(tracks_xy), 1, 0), task.handles, task.targets, strict=True
    ):
        ax.plot(*track.T, ".-", color="black", lw=1.5, ms=4, path_effects=HALO, zorder=3)
        ax.plot(*handle, "o", ms=7, color=HANDLE, mec="white", mew=1.2, zorder=4)
        ax.plot(*target, "s", ms=6.5, color=TARGET, mec="white", mew=1.2, zorder=2)
        ax.plot(*track[-1], "*", ms=11, color="#F0E442", mec="black", zorder=5)
    if margin is not None:
        places = np.concatenate([np.reshape(tracks_xy, (-1, 2)), task.handles, task.targets])
        (x0, y0), (x1, y1) = places.min(0) - margin, places.max(0) + margin
        ax.set(xlim=(x0, x1), ylim=(y1, y0))
    return ax


def curves(series, xlabel, ylabel, title=None, marks=None, levels=None, ax=None, size=(5.2, 3.2), **axis):
    """Curves on one axis, told apart by colour and dash, with a legend where there are several.

    series  {label: (x, y)}, or {label: y} against 0, 1, 2 ...
    marks, levels  {label: x} and {label: y}: thin vertical and horizontal lines, with their label written on
    axis    anything axes have a setter for, as yscale="log" or ylim=(0, 1)
    Returns the Figure.
    """
    ax = figure(size=size)[1][0, 0] if ax is None else ax
    for k, (label, line) in enumerate(series.items()):
        x, y = line if isinstance(line, tuple) and len(line) == 2 else (range(len(line)), line)
        look = dict(color=COLORS[k % len(COLORS)], ls=DASHES[k % len(DASHES)], lw=1.8, label=label)
        ax.plot(np.asarray(x), np.asarray(y), marker="o" if len(y) <= DOTTED else None, ms=4, **look)
    for label, x in (marks or {}).items():
        ax.axvline(x, color="0.4", lw=1, ls=":")
        ax.annotate(label, (x, 1), (3, -3), xycoords=("data", "axes fraction"), textcoords="offset points",
                    rotation=90, va="top", fontsize=8, color="0.3")  # fmt: skip
    for label, y in (levels or {}).items():
        ax.axhline(y, color="0.4", lw=1, ls=":")
        ax.annotate(label, (1, y), (-3, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
                    ha="right", fontsize=8, color="0.3")  # fmt: skip
    ax.set(xlabel=xlabel, ylabel=ylabel, **axis)
    ax.set_title(title or "", fontsize=TITLE)
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    if len(series) > 1:
        ax.legend(frameon=False, fontsize=9)
    return ax.figure


def spans(series, xlabel, ylabel, title=None, levels=None, ax=None, size=(5.2, 3.2), **axis):
    """Curves with the interval of every point as a band: {label: (x, [(value, low, high), ...])}; else as `curves`."""
    ax = figure(size=size)[1][0, 0] if ax is None else ax
    lines = {label: (x, [value for value, _, _ in found]) for label, (x, found) in series.items()}
    for k, (x, found) in enumerate(series.values()):
        _, low, high = np.asarray(found, dtype=float).T
        ax.fill_between(x, low, high, color=COLORS[k % len(COLORS)], alpha=0.18, lw=0)
    return curves(lines, xlabel, ylabel, title, levels=levels, ax=ax, **axis)


def plane(points, xlabel, ylabel, title=None, ax=None, size=(6.2, 3.8), **axis):
    """Things that two figures tell apart, as marks with the intervals of both, and a legend at the right.

    points  {label: (x, y)}, each of both (value, low, high); what has no finite value is left out
    Returns the Figure.
    """
    ax = figure(size=size)[1][0, 0] if ax is None else ax
    for k, (label, found) in enumerate(points.items()):
        (x, *dx), (y, *dy) = np.asarray(found, dtype=float)
        if np.isfinite([x, y]).all():
            reach = dict(xerr=[[x - dx[0]], [dx[1] - x]], yerr=[[y - dy[0]], [dy[1] - y]])
            look = dict(color=COLORS[k % len(COLORS)], marker=MARKS[k % len(MARKS)], lw=0)
            look["ms"] = 6 if k else 10  # the first is seen behind another that lies on it
            ax.errorbar(x, y, **reach, **look, elinewidth=1.2, capsize=2.5, label=label)
    ax.set(xlabel=xlabel, ylabel=ylabel, **axis)
    ax.set_title(title or "", fontsize=TITLE)
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax.figure


def verdict(low: float, high: float, better: int) -> str:
    """The colour of a difference by its interval: BETTER, WORSE, or OPEN where zero lies inside.

    better  1 where more is better, -1 where less is
    """
    gains = low * better, high * better
    return BETTER if min(gains) > 0 else WORSE if max(gains) < 0 else OPEN


def differences(found, better, xlabel="", title=None, ax=None, size=(3.2, 2.6), certain=None):
    """Differences and their intervals, one a row from the top, in the colours of `verdict`; a line stands at zero.

    found    {label: (value, low, high)}; better as in `verdict`
    certain  labels of those that may count as different, where many are asked at once (`tables.q_values`); the others
             are grey whatever their interval. None: each is asked alone
    Returns the Figure.
    """
    ax = figure(size=size)[1][0, 0] if ax is None else ax
    for k, (name, (value, low, high)) in enumerate(found.items()):
        shown = (low, high) if certain is None else (value, value)
        color = verdict(*shown, better) if certain is None or name in certain else OPEN
        ax.plot([low, high], [k, k], lw=3, alpha=0.5, color=color)
        ax.plot(value, k, "o", color=color)
    ax.axvline(0, color="black", lw=1)
    ax.locator_params(axis="x", nbins=4)  # panels are narrow, and their numbers must not touch
    ax.set_yticks(range(len(found)), list(found))
    ax.set(xlabel=xlabel, ylim=(max(len(found), 1) - 0.5, -0.5))
    ax.set_title(title or "", fontsize=TITLE)
    return ax.figure


def heat(values, rows, cols, xlabel="", ylabel="", title=None, label="", fmt="{:.2f}", ax=None, size=None):
    """A table of numbers (rows, columns) in colour, each written in its cell. Returns the Figure."""
    values = np.asarray(values, dtype=float)
    size = size or (1.6 + 0.75 * values.shape[1], 1.2 + 0.42 * values.shape[0])
    ax = figure(size=size)[1][0, 0] if ax is None else ax
    drawn = ax.imshow(values, cmap="viridis", aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        ink = "black" if drawn.norm(value) > 0.6 else "white"
        ax.text(j, i, fmt.format(value), ha="center", va="center", color=ink, fontsize=9)
    names = [str(c) for c in cols]
    slanted = dict(rotation=30, ha="right", rotation_mode="anchor") if max(map(len, names)) > WORD else {}
    ax.set_xticks(range(len(cols)), names, **slanted)
    ax.set_yticks(range(len(rows)), [str(r) for r in rows])
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.set_title(title or "", fontsize=TITLE)
    ax.figure.colorbar(drawn, ax=ax, label=label)
    return ax.figure


def png(fig: Figure, dpi: int = DPI) -> bytes:
    """The figure as PNG: same figure, same bytes (no time, no version in it), packed small."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None}, pil_kwargs={"optimize": True})
    return sign_png(buffer.getvalue())


def save(fig: Figure, folder, name: str, dpi: int = DPI) -> Path:
    """Write the figure to folder/name.png and return the path; the folder is made if it is missing.

    Raises InputError where another picture than one of these lies there.
    """
    path = Path(folder) / f"{name}.png"
    with replacing(path, ours=signed) as temp:
        temp.write_bytes(png(fig, dpi))
    return path
