"""A scene of the clay world: what it is, how it looks, how it is posed; drawn, captioned, sampled from a seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from dragnb.clay import patterns
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
# of the families, by the world's version; animals are the hardest to learn
_SHARE = {
    1: {"animals": 0.46, "plants": 0.22, "things": 0.26, "landscapes": 0.06},
    2: {"animals": 0.36, "plants": 0.28, "things": 0.32, "landscapes": 0.04},
}
# version 2: how much larger than in version 1 (1.22 where nothing is said), so that the tallest stays in the picture
_GROWTH = {
    "rabbit": 1.13,
    "flower": 1.18,
    "car": 1.15,
    "lamp": 1.15,
    "owl": 1.15,
    "cactus": 1.5,
    "rocket": 1.25,
}
_NEAR = 0.4  # version 2: how far in front of the floor's middle figures stand, scene units
_PATTERNED, _GROUND_PATTERNED = 0.5, 0.3
VERSION = (
    1  # of the world that the bundled model knows, and of ClayBench; figures of two versions do not compare
)
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
    version: int = VERSION
    near: float = 0.0
    pattern: patterns.Pattern | None = None
    ground_pattern: patterns.Pattern | None = None

    def __post_init__(self):
        if self.kind not in POSES:
            raise InputError(
                f"kind: {self.kind!r} is not in the clay world; choose one of {', '.join(POSES)}"
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
        """What the text encoder is trained on; it names kind, colours, patterns and place, never the pose."""
        article = "an " if self.version > 1 and self.color[0] in "aeiou" else "a "
        article = "" if self.version > 1 and self.kind == "hills" else article
        clay = f" with {self.pattern.ink} {self.pattern.name}" if self.pattern else ""
        ground = f"{patterns.GROUND_WORD[self.ground_pattern.name]} " if self.ground_pattern else ""
        figure = f"{article}{self.color} {self.kind}{clay}"
        return f"{figure} on {ground}{self.ground} ground under a {self.sky} sky"

    @cached_property
    def solids(self):
        """The scene's solids, in an order that does not depend on the pose."""
        shift = np.asarray(self.tint)
        main, second = (np.array(COLORS[name]) + shift * (1, 1, 1) for name in (self.color, self.second))
        colors = [hsv(*np.clip(color, (-1, 0, 0), 1)) for color in (main, second)]
        kit = Kit(self.size, *colors, self.near)
        solids = build(self.kind, kit, self.pose)
        if not self.pattern:
            return tuple(solids)
        middle = {name: (low + high) / 2 for name, (low, high) in POSES[self.kind].items()}
        rest = build(self.kind, Kit(self.size, *colors), middle)
        return tuple(
            replace(solid, pattern=self.pattern, rest=tuple(at.r)) if solid.color is kit.main else solid
            for solid, at in zip(solids, rest, strict=True)
        )

    @property
    def backdrop(self):
        """Sky and ground."""
        sky = hsv(*SKIES[self.sky])
        return Backdrop(sky, lighter(sky, 0.55), hsv(*GROUNDS[self.ground]), pattern=self.ground_pattern)

    def picture(self, size=256, samples=2, without=()):
        """The picture, (size, size, 3) uint8; `without` names solids that are left out, their shadows too."""
        solids = [s for s in self.solids if s.name not in without] if without else self.solids
        return paint(solids, self.backdrop, size, samples)

    def trace(self, size=256):
        """Depth map and part map, (size, size); part i is `solids[i]`, -1 is the backdrop."""
        return trace(self.solids, size)


def sample(seed: int, kind: str | None = None, pattern: str | None = None, version: int = VERSION) -> Scene:
    """The scene of a seed: same arguments, same bits. Seeds from 900,000 up are kept for measuring.

    kind      one of KINDS or of `heldout.POSES`; None leaves it to the seed, which never draws a held-out one
    pattern   on the clay, a key of `patterns.PATTERNS`; None leaves it to the seed (version 1 has none by itself)
    """
    if version not in _SHARE:
        raise InputError(f"version: {version!r} of the clay world is not known; choose one of {[*_SHARE]}")
    rng = np.random.default_rng([seed, 0x0C1A] if version == 1 else [seed, 0x0C1A, version])
    family = rng.choice(list(_SHARE[version]), p=list(_SHARE[version].values()))
    drawn = str(rng.choice(FAMILIES[family]))
    kind = kind or drawn
    if kind not in POSES:
        raise InputError(f"kind: {kind!r} is not in the clay world; choose one of {', '.join(POSES)}")
    color = str(rng.choice(_COLORS_OF.get(kind, tuple(COLORS))))
    second = str(rng.choice([c for c in ("red", "yellow", "blue", "orange", "purple") if c != color]))
    ground = "blue" if kind == "boat" else str(rng.choice(["green", "sandy", "white"]))
    pose = {name: float(rng.uniform(low, high)) for name, (low, high) in POSES[kind].items()}
    tint = tuple(rng.uniform((-0.012, -0.06, -0.05), (0.012, 0.06, 0.05)).tolist())
    size = 1.0 if kind == "hills" else float(rng.uniform(0.88, 1.06)) * _SCALE.get(kind, 1.0)
    made = Scene(kind, color, second, str(rng.choice(list(SKIES))), ground, size, pose, tint, version)
    if version == 1:
        return replace(made, pattern=_pattern(rng, color, pattern)) if pattern else made
    return _version_2(made, rng, pattern)


def _version_2(made: Scene, rng, pattern: str | None) -> Scene:
    """What version 2 adds: larger figures that stand nearer, patterns on half of them and on some grounds."""
    chosen, ground = rng.choice(list(patterns.TRAINED), 2)
    on_clay, on_ground = rng.uniform(size=2) < (_PATTERNED, _GROUND_PATTERNED)
    clay = _pattern(rng, made.color, pattern or str(chosen))
    floor = patterns.Pattern(str(ground), "", float(rng.uniform(0.22, 0.34)), tuple(rng.uniform(size=3)))
    if made.kind == "hills":
        return replace(made, pattern=clay if pattern or on_clay else None)
    return replace(
        made, size=made.size * _GROWTH.get(made.kind, 1.22), near=0.0 if made.kind == "balloon" else _NEAR,
        pattern=clay if pattern or on_clay else None, ground_pattern=floor if on_ground else None,
    )  # fmt: skip


def _pattern(rng, color: str, name: str) -> patterns.Pattern:
    """A pattern in an ink that can be told from a colour."""
    if name not in patterns.PATTERNS:
        known = ", ".join(patterns.PATTERNS)
        raise InputError(f"pattern: {name!r} is not in the clay world; choose one of {known}")
    ink = str(rng.choice(patterns.inks_on(hsv(*COLORS[color]))))
    return patterns.Pattern(name, ink, float(rng.uniform(0.16, 0.23)), tuple(rng.uniform(size=3)))
