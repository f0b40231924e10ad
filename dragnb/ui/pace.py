"""How long a drag takes here, by drags that were made here: seconds a step of each stage, kept between sessions.

Nothing is guessed from the name of a device. What was never measured is said to be unknown.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from dragnb import checkpoints, ddim, sd
from dragnb.config import Settings
from dragnb.geometry import Frame
from dragnb.prepare import Event
from dragnb.result import Result
from dragnb.store import Store

DECIDES = {  # stage -> the settings that decide what one step of it costs
    "load": (),
    "encode": (),
    "finetune": ("lora_rank", "lora_batch"),
    "invert": ("reference",),
    "drag": ("block", "mask_on"),
    "denoise": ("reference",),
    "decode": (),
}
GUIDED = ("invert", "denoise")  # twice the work where guidance is on
NAMES = {"finetune": "fine-tune", "invert": "inversion"}
UNKNOWN = 'how long a drag takes here is not measured yet: the first one tells, or "measure" in the studio'
PEAK_RESET = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Expected:
    """seconds by stage; the stages that were never measured; bytes at the peak, 0 where unknown."""

    seconds: dict[str, float]
    unknown: tuple[str, ...]
    memory: int


def steps(settings: Settings) -> dict[str, int]:
    """How many steps each stage has at most."""
    n = settings.steps - ddim.start_index(settings.steps, settings.strength)
    way = n * (2 if settings.reference else 1)
    many = {"finetune": settings.lora_steps, "invert": way, "drag": settings.drag_steps, "denoise": n}
    return {stage: many.get(stage, 1) for stage in DECIDES}


def trial(settings: Settings) -> Settings:
    """Two steps of each stage, each as dear as one of the whole drag."""
    strength = min(1.0, 2 / settings.steps)
    return settings.replace(lora_steps=min(2, settings.lora_steps), strength=strength, drag_steps=2, stop=0.0)


class Pace:
    """What the stages took, by model, device, size of the canvas and the settings that decide; kept in the cache."""

    def __init__(self, store: Store):
        self.store, self._known = store, {}

    def keep(
        self, model, result: Result, began: dict[str, Event], ended: dict[str, Event], peak: int
    ) -> None:
        """Remember a run: the first and the last event of each stage that was worked on, and the peak of memory."""
        frame, settings = result.prepared.frame, result.settings
        self._put(self._key("side", model), [result.prepared.model.side])
        for stage in DECIDES.keys() & ended.keys():
            first, last = began[stage], ended[stage]
            if last.n and not last.cached:
                each = (last.seconds - first.seconds) / max(last.i - first.i, 1)
                self._put(self._key(stage, model, settings, frame), [first.seconds, each, peak])

    def side(self, model) -> int | None:
        """The side at which a model works when nobody says; None where only its first drag here will tell."""
        if isinstance(model, sd.Model):
            return model.side
        found = self._get(self._key("side", model))
        return int(found[0]) if found else checkpoints.side(model)

    def expect(self, model, settings: Settings, frame: Frame, done: Collection[str] = ()) -> Expected:
        """What a run will take at most, without the stages that are `done` already."""
        seconds, unknown, memory = {}, [], 0
        for stage, n in steps(settings).items():
            if not n or stage in done:
                continue
            found = self._get(self._key(stage, model, settings, frame))
            if found is None:
                unknown.append(stage)
                continue
            first, each, peak = found
            seconds[stage], memory = first + each * (n - 1), max(memory, int(peak))
        return Expected(seconds, tuple(unknown), memory)

    def notes(self, model, settings: Settings, size, side: int | None = None, done=()) -> list[str]:
        """What to expect of a drag on a picture of `size`, as a sentence for the pre-flight."""
        side = side or self.side(model)
        return [UNKNOWN if side is None else says(self.expect(model, settings, Frame.fit(*size, side), done))]

    def _key(self, what: str, model, settings: Settings | None = None, frame: Frame | None = None) -> str:
        ready = isinstance(model, sd.Model)
        name, device = (model.name, model.device) if ready else (model, sd.pick_device("auto"))
        parts = {"name": str(name), "device": str(device), "threads": torch.get_num_threads(), "what": what}
        if settings is not None:
            parts |= {name: getattr(settings, name) for name in DECIDES[what]}
            if what != "load":
                parts |= {"width": frame.canvas_width, "height": frame.canvas_height}
            parts |= {"guided": what in GUIDED and settings.guidance != 1}
        return self.store.key(**parts)

    def _put(self, key: str, values: list[float]) -> None:
        self._known[key] = values
        self.store.put("pace", key, {"values": torch.tensor(values, dtype=torch.float64)})

    def _get(self, key: str) -> list[float] | None:
        if key not in self._known and self.store.has("pace", key):
            found = self.store.get("pace", key)
            if found is not None:
                self._known[key] = found["values"].tolist()
        return self._known.get(key)


def says(expected: Expected) -> str:
    """What is expected, in a sentence."""
    if not expected.seconds:
        return UNKNOWN
    total = sum(expected.seconds.values())
    long = [(s, NAMES.get(stage, stage)) for stage, s in expected.seconds.items() if s >= 1]
    parts = ", ".join(f"{name} {s:.0f}" for s, name in sorted(long, reverse=True)[:3])
    said = f"expected: at most {total:.0f} s" + (f" ({parts})" if parts else "")
    said += f", {expected.memory / 2**30:.1f} GiB of memory" if expected.memory else ""
    said += ", as the last drags took on this device"
    names = ", ".join(NAMES.get(stage, stage) for stage in expected.unknown)
    return said + (f"; not measured yet: {names}" if names else "")


def reset_peak(device: torch.device) -> None:
    """Begin to look for the peak of memory anew, where the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            PEAK_RESET.write_text("5")


def peak(device: torch.device) -> int:
    """Bytes: of the device's own memory on CUDA, else of this process; 0 where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
