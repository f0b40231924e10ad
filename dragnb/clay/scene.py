"""A scene of the clay world: what it is, how it looks, how it is posed; drawn, captioned, sampled from a seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from dragnb.clay.kinds import FAMILIES, POSES, build
from dragnb.clay.render import Backdrop, paint, trace
from dragnb.clay.solids import Kit, hsv, lighter
from dragnb.errors import InputError

KINDS = tuple(kind for family in FAMILIES.values() for kind in family)
COLORS = {"red": (0.01, 0.72, 0.86), "orange": (0.075, 0.72, 0.93), "yellow": (0.14, 0.66, 0.93),
          "green": (0.33, 0.48, 0.68), "blue": (0.58, 0.55, 0.85), "purple": (0.77, 0.42, 0.76),
          "pink": (0.94, 0.36, 0.95), "brown": (0.07, 0.52, 0.62), "grey": (0.08, 0.05, 0.74)}  # fmt: skip
SKIES = {
    "blue": (0.57, 0.34, 0.95),
    "pink": (0.96, 0.22, 0.97),
    "yellow": (0.13, 0.26, 0.98),
    "grey": (0.62, 0.06, 0.86),
}
GROUNDS = {
    "green": (0.30, 0.32, 0.76),
    "sandy": (0.11, 0.28, 0.90),
    "white": (0.60, 0.04, 0.94),
    "blue": (0.56, 0.34, 0.82),
}
_COLORS_OF = {
    "tree": ("green", "orange", "yellow", "pink", "red"),
    "hills": ("green", "brown", "purple", "orange", "blue"),
}
_SCALE = {
    "car": 1.14,
    "boat": 1.08,
    "lamp": 1.25,
    "mushroom": 1.12,
}  # so that small kinds fill the picture too
_SHARE = {
    "animals": 0.46,
    "plants": 0.22,
    "things": 0.26,
    "landscapes": 0.06,
}  # animals are the hardest to learn
RESERVED_SEED = 900_000


@dataclass(frozen=True)
class Scene:
    """One scene. `pose` maps each pose parameter of the kind to a value within its bounds (`POSES[kind]`)."""

    kind: str
    color: str
    second: str
    sky: str
    ground: str
    size: float
    pose: dict
    tint: tuple = (0.0, 0.0, 0.0)

    def __post_init__(self):
        if self.kind not in POSES:
            raise InputError(
                f"kind: {self.kind!r} is not in the clay world; choose one of {', '.join(KINDS)}"
            )
        for name, value in self.pose.items():
            if name not in POSES[self.kind]:
                raise InputError(f"pose: a {self.kind} has no {name!r}; it has {', '.join(POSES[self.kind])}")
            low, high = POSES[self.kind][name]
            if not low - 1e-6 <= value <= high + 1e-6:
                raise InputError(f"pose[{name!r}] = {value} of a {self.kind} must lie in [{low}, {high}]")

    def posed(self, **changes) -> Scene:
        """The same scene with some pose parameters changed."""
        return replace(self, pose={**self.pose, **changes})

    @property
    def caption(self) -> str:
        """What the text encoder is trained on; it names kind, colours and place, never the pose."""
        return f"a {self.color} {self.kind} on {self.ground} ground under a {self.sky} sky"

    @cached_property
    def solids(self):
        """The scene's solids, in an order that does not depend on the pose."""
        shift = np.asarray(self.tint)
        main, second = (np.array(COLORS[name]) + shift * (1, 1, 1) for name in (self.color, self.second))
        kit = Kit(self.size, hsv(*np.clip(main, (-1, 0, 0), 1)), hsv(*np.clip(second, (-1, 0, 0), 1)))
        return tuple(build(self.kind, kit, self.pose))

    @property
    def backdrop(self):
        """Sky and ground."""
        sky = hsv(*SKIES[self.sky])
        return Backdrop(sky, lighter(sky, 0.55), hsv(*GROUNDS[self.ground]))

    def picture(self, size=256, samples=2):
        """The picture, (size, size, 3) uint8."""
        return paint(self.solids, self.backdrop, size, samples)

    def trace(self, size=256):
        """Depth map and part map, (size, size); part i is `solids[i]`, -1 is the backdrop."""
        return trace(self.solids, size)


def sample(seed: int, kind: str | None = None) -> Scene:
    """The scene of a seed: same seed and kind, same bits. Seeds from 900,000 up are kept for measuring."""
    rng = np.random.default_rng([seed, 0x0C1A])
    family = rng.choice(list(_SHARE), p=list(_SHARE.values()))
    drawn = str(rng.choice(FAMILIES[family]))
    kind = kind or drawn
    if kind not in POSES:
        raise InputError(f"kind: {kind!r} is not in the clay world; choose one of {', '.join(KINDS)}")
    color = str(rng.choice(_COLORS_OF.get(kind, tuple(COLORS))))
    second = str(rng.choice([c for c in ("red", "yellow", "blue", "orange", "purple") if c != color]))
    ground = "blue" if kind == "boat" else str(rng.choice(["green", "sandy", "white"]))
    pose = {name: float(rng.uniform(low, high)) for name, (low, high) in POSES[kind].items()}
    tint = tuple(rng.uniform((-0.012, -0.06, -0.05), (0.012, 0.06, 0.05)).tolist())
    size = 1.0 if kind == "hills" else float(rng.uniform(0.88, 1.06)) * _SCALE.get(kind, 1.0)
    return Scene(kind, color, second, str(rng.choice(list(SKIES))), ground, size, pose, tint)
