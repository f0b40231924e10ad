"""What an edit leaves: the picture, the states of its drag, where it comes from, and places to go on from."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from torch import Tensor

from dragnb.config import Settings
from dragnb.drag import DragState
from dragnb.errors import InputError
from dragnb.prepare import Prepared, versions
from dragnb.task import DragTask


class Start(NamedTuple):
    """A latent to begin a drag at, instead of the picture's own; `Result.at` makes one.

    z       (1, 4, h, w) at timestep t
    origin  where it comes from, for the record of the drag that begins here
    """

    z: Tensor
    t: int
    origin: dict | None = None


@dataclass(frozen=True, eq=False)
class Result:
    """A finished edit.

    image        uint8 (height, width, 3), the task's own size
    prepared     None in a copy made by `light`
    states       the drag's, first to last; z: the denoised latent, (1, 4, h, w)
    tracks_xy    (states, n, 2) where the handles were seen, in picture pixels
    timings      seconds by stage; from_cache: the stages that were read from disk
    record       where the picture comes from, as plain values that a file can carry
    interrupted  Ctrl-C came; the image is the best there was
    """

    image: np.ndarray
    task: DragTask
    settings: Settings
    prepared: Prepared | None
    states: tuple[DragState, ...]
    tracks_xy: np.ndarray
    z: Tensor
    timings: dict[str, float]
    from_cache: frozenset[str]
    record: dict
    interrupted: bool = False

    @property
    def reached(self) -> bool:
        """Did the tracker see every handle arrive?"""
        return self.states[-1].reached

    @property
    def losses(self) -> list[float]:
        """Eq. 3 at every state."""
        return [state.loss for state in self.states]

    def at(self, step: int) -> Start:
        """The latent after `step` updates, to begin another drag at; InputError where there was no such step."""
        if not 0 <= step < len(self.states):
            raise InputError(f"step = {step}: this drag has the steps 0 to {len(self.states) - 1}")
        return Start(self.states[step].z, self.record["t"], {"step": step, "of": self.record})

    def light(self) -> Result:
        """A copy without model and reference, which may take a gigabyte: to keep many."""
        return replace(self, prepared=None)


def tracks_xy(prepared: Prepared, states) -> np.ndarray:
    """(states, n, 2) where the handles were seen, in picture pixels."""
    to_xy, map_hw = prepared.frame.yx_to_xy, prepared.map_hw
    return np.stack([to_xy(state.handles_yx, map_hw).numpy() for state in states])


def record(task: DragTask, prepared: Prepared, states, start: Start | None) -> dict:
    """Where a result comes from: points, settings, model, versions, and the drag it began at. No paths, no times."""
    model, frame = prepared.model, prepared.frame
    name = os.path.basename(model.name) if os.path.isabs(model.name) else model.name
    return {
        "pairs": np.stack([task.handles, task.targets], axis=1).tolist(),
        "prompt": task.prompt,
        "settings": prepared.settings.as_dict(),
        "seed": prepared.settings.seed,
        "model": {"name": name, "hash": model.hash, "dtype": str(model.dtype).removeprefix("torch.")},
        "versions": versions(),
        "side": max(frame.inner_width, frame.inner_height),
        "t": prepared.ts[0],
        "drag_steps": len(states) - 1,
        "began": start.origin if start else None,
    }
