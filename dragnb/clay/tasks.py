"""Drag tasks with their truth: one pose parameter is changed, a surface point shows where it goes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dragnb.clay import heldout
from dragnb.clay.kinds import FAMILIES, POSES
from dragnb.clay.scene import KINDS, VERSION, Scene, sample
from dragnb.clay.truth import Flow, flow, grow, is_visible, moved, place_of
from dragnb.errors import InputError
from dragnb.task import DragTask

# edit -> (pose parameter, part that is dragged, point of the part in its own coordinates)
_ANIMAL = {
    "turn": ("yaw", "nose", (0, 0, 1)),
    "nod": ("pitch", "nose", (0, 0, 1)),
    "tilt": ("roll", "head", (0, -0.75, 0.66)),
    "stretch": ("ear", "right ear", (0, -0.8, 0.6)),
    "raise": ("arm", "right arm", (0, 0.75, 0.66)),
    "move": ("x", "belly", (0, 0, 1)),
}
EDITS = {
    **heldout.EDITS,
    **dict.fromkeys(FAMILIES["animals"], _ANIMAL),
    "flower": {
        "bend": ("bend", "heart", (0, 0, 1)),
        "stretch": ("height", "heart", (0, 0, 1)),
        "move": ("x", "heart", (0, 0, 1)),
    },
    "mushroom": {
        "bend": ("lean", "spot 2", (0, 0, 1)),
        "stretch": ("height", "spot 2", (0, 0, 1)),
        "open": ("cap", "spot 4", (0, 0, 1)),
        "move": ("x", "spot 2", (0, 0, 1)),
    },
    "tree": {
        "bend": ("lean", "fruit 2", (0, 0, 1)),
        "stretch": ("height", "fruit 0", (0, 0, 1)),
        "move": ("x", "fruit 0", (0, 0, 1)),
    },
    "car": {
        "move": ("x", "front hub", (0, 0, 1)),
        "turn": ("yaw", "headlight", (-0.6, 0, 0.8)),
        "stretch": ("roof", "cabin", (0, -0.9, 0.43)),
    },
    "boat": {
        "turn": ("roll", "sail", (0, -0.5, 0.49)),
        "stretch": ("sail", "sail", (0, -0.8, 0.2)),
        "move": ("x", "hull", (0, 0.5, 0.86)),
    },
    "lamp": {
        "raise": ("high", "shade", (0, -0.2, 0.9)),
        "bend": ("low", "elbow", (0, 0, 1)),
        "turn": ("head", "shade", (0, 0.6, 1.3)),
        "move": ("x", "foot", (0, -0.5, 0.86)),
    },
    "balloon": {
        "raise": ("y", "band", (0, -0.05, 1)),
        "move": ("x", "band", (0, -0.05, 1)),
        "turn": ("sway", "basket", (0, 0, 1)),
    },
    "hills": {
        "raise": ("sun_y", "sun", (0, 0, 1)),
        "move": ("sun_x", "sun", (0, 0, 1)),
        "stretch": ("peak", "far hill", (0, -0.9, 0.43)),
    },
}
EDITS["dog"] = {**_ANIMAL, "stretch": ("ear", "right ear", (0, 0.8, 0.6))}  # a dog's ears hang
EDITS["bear"] = {name: edit for name, edit in _ANIMAL.items() if name != "stretch"}  # a bear's are too short
MIN_DRAG, MAX_DRAG = 12.0, 48.0  # picture pixels at 256 px
MIN_APART = 12.0  # picture pixels between the handles of one task
_EDGE = 5  # pixels from an outline: nearer, a patch of features shows more of what lies behind
_TRIES = 60
_NAME = re.compile(r"(\w+)-(\w+)(?:-(\d{1,2})-pairs)?-(\d{1,18})(?:-v(\d{1,2}))?")  # as `task_name` makes it
_PIXEL = 0.5 + 1e-6  # what a point moves by when it is rounded


@dataclass(frozen=True)
class ClayTask:
    """A drag task of the clay world with its truth: the two scenes, what was moved, and by which point it was taken."""

    seed: int
    edit: str
    parameter: str
    part: str
    point: tuple
    before: Scene
    after: Scene
    task: DragTask

    @property
    def kind(self) -> str:
        """The kind of the scene."""
        return self.before.kind

    @property
    def family(self) -> str:
        """The family of the kind."""
        known = (*FAMILIES.items(), *heldout.FAMILIES.items())
        return next(family for family, kinds in known if self.kind in kinds)

    @cached_property
    def picture_after(self):
        """The true picture after the drag, (256, 256, 3) uint8."""
        return self.after.picture()

    @cached_property
    def flow(self) -> Flow:
        """The true correspondence from before to after."""
        return flow(self.before, self.after)


def task(
    seed: int, kind: str | None = None, edit: str | None = None, pairs: int = 1, version: int = VERSION
) -> ClayTask:
    """The drag task of a seed in a version of the world.

    `kind` and `edit` (a key of EDITS[kind]) choose where None leaves it to the seed.
    Handle and target are the same surface point before and after, visible in both, MIN_DRAG to MAX_DRAG px apart.
    Of several pairs all show the one change, by points MIN_APART px or more from each other; the first is `point`.
    """
    if edit is not None and edit not in EDITS.get(kind or "", {}):
        known = ", ".join(EDITS[kind]) if kind in EDITS else f"none without a kind ({', '.join(KINDS)})"
        raise InputError(f"edit: {edit!r} is not known for kind {kind!r}; choose one of {known}")
    rng = np.random.default_rng([seed, 0xD4A6])
    for attempt in range(_TRIES):
        before = sample(seed + attempt * 10_000_019, kind, version=version)
        name = edit or str(rng.choice(list(EDITS[before.kind])))
        parameter, part, point = EDITS[before.kind][name]
        low, high = POSES[before.kind][parameter]
        after = before.posed(**{parameter: float(rng.uniform(low, high))})
        (a, _), (b, _) = place_of(before, part, point), place_of(after, part, point)
        far_enough = MIN_DRAG <= np.hypot(*(b - a)) <= MAX_DRAG
        if far_enough and is_visible(before, part, point) and is_visible(after, part, point):
            more = _further_pairs(before, after, a, pairs - 1)
            if more is None:
                continue
            dragged = DragTask(
                image=before.picture(),
                handles=np.array([a, *more[0]]),
                targets=np.array([b, *more[1]]),
                mask=moved(before, after),
                prompt=before.caption,
                name=task_name(seed, before.kind, name, pairs, version),
            )
            return ClayTask(seed, name, parameter, part, point, before, after, dragged)
    raise InputError(
        f"task: seed {seed} gives no visible {edit or 'edit'} of a {kind or 'scene'}; try another seed"
    )


def task_name(seed: int, kind: str, edit: str, pairs: int = 1, version: int = 1) -> str:
    """The name of a task: what it is, its seed, and the world's version from the second on."""
    more = f"-{pairs}-pairs" if pairs > 1 else ""
    return f"{kind}-{edit}{more}-{seed}{f'-v{version}' if version > 1 else ''}"


def known(drag: DragTask) -> ClayTask | None:
    """The task of this world that a drag file was saved from, found by its name; None of any other.

    Picture and points must be that task's own, the points to the pixel.
    """
    said = _NAME.fullmatch(drag.name)
    if said is None:
        return None
    kind, edit, pairs, seed, version = said.groups()
    try:
        found = task(int(seed), kind, edit, int(pairs or 1), int(version or 1))
    except (InputError, LookupError):
        return None
    own = found.task
    if not np.array_equal(own.image, drag.image) or own.handles.shape != drag.handles.shape:
        return None
    near = (np.abs(getattr(own, k) - getattr(drag, k)).max() <= _PIXEL for k in ("handles", "targets"))
    return found if all(near) else None


def _further_pairs(before: Scene, after: Scene, first, count: int):
    """(handles, targets) of `count` more surface points that move, each as far as may be from those before it.

    None where the moving surface is too small for them.
    """
    if count == 0:
        return [], []
    true = flow(before, after)
    height, width = true.solid.shape
    here = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)
    way = np.hypot(*np.moveaxis(true.xy - here, -1, 0))
    inside = ((true.xy >= 0) & (true.xy <= (width - 1, height - 1))).all(-1)
    fit = true.solid & true.visible & inside & (way >= MIN_DRAG) & (way <= MAX_DRAG)
    fit &= ~grow(~fit, _EDGE)
    chosen, places, nearest = [], here[fit], np.inf
    for _ in range(count):
        last = places[chosen[-1]] if chosen else first
        away = np.hypot(*(places - last).T).round(2)  # rounded, so that ties fall alike on every machine
        nearest = np.minimum(nearest, away)
        if not len(places) or nearest.max() < MIN_APART:
            return None
        chosen.append(int(nearest.argmax()))
    return places[chosen], true.xy[fit][chosen]


def tasks(count=24, seed=810_000, version=VERSION) -> list[ClayTask]:
    """`count` tasks in turn over all kinds, each kind's edits in turn; by default from seeds never trained on."""
    made = []
    for i in range(count):
        kind = KINDS[i % len(KINDS)]
        edits = list(EDITS[kind])
        made.append(task(seed + i, kind, edits[(i // len(KINDS) + i) % len(edits)], version=version))
    return made
