"""Warnings before a drag: a sentence for everything that is allowed but may not be meant."""

from __future__ import annotations

import numpy as np

from dragnb import checkpoints, doubts, sd
from dragnb.config import PAPER, Settings
from dragnb.geometry import Frame
from dragnb.ui.picks import Picks

# of clay's renderings 0.87 to 0.95 of the pixels are smooth by this step, in grey levels
SMOOTH_PART, STEP = 0.8, 0.75
# pixels of a side that are looked at, for a large picture's sake
CLOSE_LOOK = 1024


def notes(picks: Picks, settings: Settings | None = None, side: int | None = None, model=None) -> list[str]:
    """Sentences on the picks as they are, empty when all is well: those of `doubts.of_drag`, and more.

    settings  of the run, for how far it can reach
    side      the model's picture size in pixels, for what is lost by resizing; without it both are left out
    model     by name or loaded: the bundled one knows one kind of picture only, and the tokenizer of one that is
              loaded knows how much of the prompt is read, which is estimated otherwise
    """
    ends = np.array(picks.points[: len(picks.points) // 2 * 2], float).reshape(-1, 2, 2)
    known = doubts.of_drag(ends[:, 0], ends[:, 1], picks.mask, picks.prompt, sd.tokenizer_of(model))
    sentences = _on_model(picks.image, model) + known
    if picks.waiting:
        sentences.append(f"pair {len(ends) + 1} has no target yet")
    if side is not None:
        frame = Frame.fit(*picks.size, side, settings.fit if settings is not None else "longer")
        sentences += _on_reach(ends, frame, settings) if settings is not None else []
        sentences += _on_size(frame)
    return sentences


def _on_model(image: np.ndarray, model) -> list[str]:
    """The bundled model has seen rendered clay, which is smooth nearly everywhere; a photograph is not."""
    if getattr(model, "name", model) not in checkpoints.BUNDLED or _smooth_part(image) >= SMOOTH_PART:
        return []
    return [
        "the bundled model knows rendered clay figures only, and repaints a photograph as one wherever it may: choose "
        "another model, or expect clay inside the mask"
    ]


def _smooth_part(image: np.ndarray) -> float:
    """The part of the pixels whose grey is the mean of their neighbours', but for STEP levels."""
    grey = image[:CLOSE_LOOK, :CLOSE_LOOK].astype(np.float32).mean(axis=2)
    if min(grey.shape) < 3:
        return 1.0
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((np.abs(grey[1:-1, 1:-1] - around / 4) < STEP).mean())


def _on_reach(ends: np.ndarray, frame: Frame, settings: Settings) -> list[str]:
    """A step asks every handle to go one cell of the feature map, and `stop` cells count as arrived."""
    cell = frame.width / frame.inner_width / settings.supersample  # picture pixels
    far, near = settings.drag_steps * cell, settings.stop * cell
    sentences: list[str] = []
    if settings.method != PAPER:
        return sentences
    for k, (handle, target) in enumerate(ends, 1):
        length = np.hypot(*(target - handle))
        if length > far:
            sentences.append(
                f"pair {k} is {length:.0f} px long, and {settings.drag_steps} steps of one {cell:.1f} px cell "
                f"reach {far:.0f} px: allow more steps, or drag in two rounds"
            )
        elif 0 < length < near:
            sentences.append(
                f"pair {k} is {length:.1f} px long: under {near:.1f} px a handle counts as arrived"
            )
    return sentences


def _on_size(frame: Frame) -> list[str]:
    if (frame.inner_width, frame.inner_height) == (frame.width, frame.height):
        return []
    inner = f"{frame.inner_width}×{frame.inner_height}"
    return [f"the model works at {inner}; the result is scaled back to {frame.width}×{frame.height}"]
