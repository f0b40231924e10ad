"""Every number of an edit, named, bounded and explained; the stages that read them; what suits which model.

Profiles and drag methods differ in nothing but these numbers and the method's own loop.
"""

import functools
import importlib
import math
from dataclasses import asdict, dataclass, field, fields, replace
from numbers import Integral, Real
from typing import ClassVar

from dragnb import ddim
from dragnb.errors import InputError, did_you_mean

MAX_SEED = 2**63 - 1
PAPER = "dragdiffusion"  # the paper's own drag method: `drag.optimise`


@dataclass(frozen=True)
class Stage:
    """A stage of an edit.

    title  what people read; needs: the stages whose outcome it works on; kept: its own outcome is kept on disk
    """

    title: str
    needs: tuple[str, ...] = ()
    kept: bool = False


# The one table of stages, in the order in which they run. Which settings a stage reads is said at each setting.
STAGES = {
    "load": Stage("load"),
    "encode": Stage("encode", kept=True),
    "finetune": Stage("fine-tune", ("encode",), kept=True),
    "invert": Stage("invert", ("finetune",), kept=True),
    "reference": Stage("reference", ("invert",), kept=True),
    "drag": Stage("drag", ("invert",)),
    "denoise": Stage("denoise", ("reference", "drag")),
    "decode": Stage("decode", ("denoise",)),
    "done": Stage("done", ("decode",)),
}


def number(default, low, high, stage, meaning):
    """A field holding a number in [low, high] (low itself excluded where it is a float 0.0: a rate)."""
    return field(default=default, metadata={"low": low, "high": high, "stage": stage, "meaning": meaning})


def one_of(default, choices, stage, meaning):
    """A field holding one of `choices`, or, where the default is a tuple, several different ones."""
    return field(default=default, metadata={"choices": choices, "stage": stage, "meaning": meaning})


@dataclass(frozen=True)
class Settings:
    """The settings of one edit; InputError names field, value and range. Make variants by `replace`.

    effort  the settings by which more work makes it better, if any; unread: those that the method makes nothing of
    """

    effort: ClassVar[tuple[str, ...]] = ("lora_steps", "drag_steps")
    unread: ClassVar[tuple[str, ...]] = ()
    lora_rank: int = number(16, 1, 256, "finetune", "rank of the adapter; = alpha, so that its scale is 1")
    lora_steps: int = number(80, 0, 10_000, "finetune", "steps of the fine-tune; 0: none")
    lora_batch: int = number(4, 1, 64, "finetune", "samples a step; fewer need less memory")
    lora_lr: float = number(5e-4, 0.0, 1.0, "finetune", "learning rate of the fine-tune")
    lora_targets: tuple[str, ...] = one_of(
        ("to_q", "to_k", "to_v"),
        ("to_q", "to_k", "to_v", "to_out.0"),
        "finetune",
        "attention projections that are adapted",
    )
    lora_t: str = one_of("all", ("all", "used"), "finetune", "timesteps it learns: all, or up to the drag's")
    lora_stop: float = number(
        0.0, 0, 1, "finetune", "ends its second half when 10 steps lower its score by less; 0: off"
    )
    seed: int = number(42, 0, MAX_SEED, "finetune", "decides all that is random: the fine-tune")

    fit: str = one_of(
        "longer",
        ("longer", "width", "native"),
        "encode",
        "what `side` is of the picture: longer side, width, nothing",
    )

    steps: int = number(50, 1, 500, "invert", "DDIM steps of the whole schedule; divides 1000")
    strength: float = number(0.7, 0.0, 1.0, "invert", "part of the schedule that is inverted")
    guidance: float = number(1.0, 0, 50, "invert", "classifier-free guidance; 1 is off")

    method: str = field(default=PAPER, metadata={"stage": "drag", "meaning": "how the latent is dragged"})
    drag_steps: int = number(80, 0, 10_000, "drag", "most iterations of the latent optimisation")
    drag_lr: float = number(0.01, 0.0, 10.0, "drag", "Adam moves each latent value by about this a step")
    lam: float = number(0.1, 0, 1e6, "drag", "weight of 'keep what is outside the mask' (eq. 3); 0: off")
    r1: int = number(1, 0, 64, "drag", "motion supervision pulls a patch of (2 r1 + 1)² cells")
    r2: int = number(3, 1, 64, "drag", "the tracker looks into a window of (2 r2 + 1)² cells")
    block: int = number(3, 1, 4, "drag", "whose features: up_blocks[block - 1]; lower is coarser")
    motion_norm: str = one_of("mean", ("sum", "mean"), "drag", "eq. 3's sum, or the public code's mean")
    mask_on: str = one_of("prev", ("prev", "now"), "drag", "mask term on z one step denoised, or on z")
    supersample: float = number(0.5, 0.0, 1.0, "drag", "side of the feature map / side of the picture")
    stop: float = number(1.0, 0, 64, "drag", "'reached': this near, in cells of that map")
    between: str = one_of(
        "own", ("own", "fine"), "drag", "whose cells are mixed between cells: the U-Net's own, or that map's"
    )
    points: str = one_of(
        "fractional", ("fractional", "rounded"), "drag", "points as they are, or whole cells"
    )
    mask_cells: str = one_of(
        "touch",
        ("touch", "nearest"),
        "drag",
        "a cell is free if the mask touches it, or at its nearest pixel",
    )

    reference: bool = one_of(True, (True, False), "reference", "reference-latent-control (§3.4)")
    ref_blocks: tuple[int, ...] = one_of(
        (1, 2, 3), (0, 1, 2, 3), "reference", "up_blocks that are controlled"
    )
    ref_start: int = number(0, 0, 500, "reference", "first denoising step that is controlled")

    keep_outside: bool = one_of(
        False, (True, False), "decode", "puts the original back outside the mask, at the picture's own size"
    )
    feather: int = number(
        6, 0, 512, "decode", "soft edge inside the mask where the original is kept, picture px"
    )

    def __post_init__(self):
        for f in fields(self):
            if f.name == "method":
                _check_method(self)
                continue
            check = _check_choice if "choices" in f.metadata else _check_number
            object.__setattr__(self, f.name, check(f, getattr(self, f.name)))
        ddim.start_index(self.steps, self.strength)  # steps divides 1000, strength leaves a step to run

    def replace(self, **changes) -> "Settings":
        """A copy with some fields changed; an unknown name raises InputError with the nearest known one."""
        known_only(changes, type(self))
        return replace(self, **changes)

    @property
    def t(self) -> int:
        """The timestep of the latent that is dragged: the highest one that an edit visits."""
        return ddim.timesteps(self.steps)[ddim.start_index(self.steps, self.strength)]

    def as_dict(self) -> dict:
        return asdict(self)

    def stage_steps(self) -> dict[str, int]:
        """How many steps each stage of an edit has at most; 0: the stage is left out."""
        visited = self.steps - ddim.start_index(self.steps, self.strength)
        many = {"finetune": self.lora_steps, "invert": visited, "reference": visited if self.reference else 0}
        return dict.fromkeys(STAGES, 1) | many | {"drag": self.drag_steps, "denoise": visited}

    def deciding(self, stage: str) -> dict:
        """The settings that decide the outcome of a stage: those that it reads, and of the stages that it needs.

        Two edits that agree on these may share the stage's outcome, so this is its key in the cache: a new `lam`
        repeats the drag and the denoising, and nothing else.
        """
        stages = _with_needs(stage)
        key = {f.name: getattr(self, f.name) for f in fields(self) if f.metadata["stage"] in stages}
        if "finetune" in stages and self.lora_t == "used":
            key["t"] = self.t
        return key


@functools.cache
def _with_needs(stage: str) -> frozenset[str]:
    """A stage and all stages whose outcome it works on."""
    if stage not in STAGES:
        raise InputError(f"stage = {stage!r} is unknown{did_you_mean(stage, STAGES)}")
    return frozenset({stage}).union(*map(_with_needs, STAGES[stage].needs))


def _check_method(settings) -> None:
    """A method of `dragnb.methods` may bring a class of settings of its own, and then takes no other."""
    if settings.method != PAPER and not isinstance(settings, _methods().settings_class(settings.method)):
        raise InputError(
            f"settings: method = {settings.method!r} has numbers of its own; make it by profile({settings.method!r})"
        )


def _methods():
    """The folder of drag methods, imported when one is named: each imports this module."""
    return importlib.import_module("dragnb.methods")


def _check_number(f, value):
    whole, low, high = isinstance(f.default, int), f.metadata["low"], f.metadata["high"]
    above = isinstance(low, float)  # a float bound 0.0 means "more than 0"
    right = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if right and math.isfinite(value) and low <= value <= high and not (above and value == low):
        return int(value) if whole else float(value)
    kind = "a whole number" if whole else "a number"
    span = f"above {low:g} and at most {high:g}" if above else f"from {low} to {high}"
    raise InputError(f"settings: {f.name} = {value!r} is not {kind} {span}; the default is {f.default!r}")


def _check_choice(f, value):
    choices, default = f.metadata["choices"], f.default
    if not isinstance(default, tuple):
        if any(type(value) is type(c) and value == c for c in choices):
            return value
        raise InputError(f"settings: {f.name} = {value!r} is not one of {', '.join(map(repr, choices))}")
    if isinstance(value, (list, tuple, set)) and value and all(v in choices for v in value):
        if all(type(v) is type(choices[0]) for v in value) and len(set(value)) == len(value):
            return tuple(c for c in choices if c in value)
    example = list(default)
    raise InputError(
        f"settings: {f.name} = {value!r} is not a list of different ones of {list(choices)}, like {example}"
    )


def known_only(names, kind=Settings) -> None:
    known = [f.name for f in fields(kind)]
    for name in names:
        if name not in known:
            raise InputError(f"settings: unknown setting {name!r}{did_you_mean(name, known)}")


# The paper's text leaves the size of the feature map open; all profiles read it at half the picture's side.
# "reference" is held to numbers that the public code computed (tests/test_parity.py). Three things still differ there:
# it draws the fine-tune's noise from another stream, it trains on random 512 x 512 crops of a picture that is no square
# (here: on the whole picture), and it cuts the picture's values down to whole ones (here: they are rounded).
PROFILES = {
    "paper": {"motion_norm": "sum"},
    "reference": {
        "lora_targets": ("to_q", "to_k", "to_v", "to_out.0"),
        "fit": "width",
        "stop": 2.0,
        "between": "fine",
        "points": "rounded",
        "mask_cells": "nearest",
        "ref_blocks": (2, 3),
    },
    "fast": {"mask_on": "now", "lora_stop": 0.015},
    "clay": {"mask_on": "now", "r1": 2, "lora_steps": 40},
}


def profile(name: str = "fast", **overrides) -> Settings:
    """Settings by name, with some changed: "paper" (its text), "reference" (its public code), "fast", "clay".

    Or another method's name (`dragnb.methods`), such as "warp_inpaint", which an edit on the bundled model goes by.

    "fast" measures the mask term on the latent itself, so that the U-Net may stop after the feature block, and ends the
    fine-tune where its second half brings little (measured on clay: `tools/speed/NOTES.md`). "clay" suits the bundled
    model where the paper's method drags: a larger patch, and half of the fine-tune, since it was trained on this very
    world; it was chosen on 60 clay tasks (seeds from 820,000) on which nothing else is measured.
    """
    if name in PROFILES:
        known_only(overrides)
        return Settings(**{**PROFILES[name], **overrides})
    if name in _methods().names():
        return _methods().settings(name, **overrides)
    raise InputError(f"profile = {name!r} is unknown{did_you_mean(name, profile_names())}")


def profile_names() -> tuple[str, ...]:
    """What `profile` takes: the presets of the paper's method, then the other methods."""
    return (*PROFILES, *_methods().names())


@dataclass(frozen=True)
class Suited:
    """What suits a model: the profile of its edits; which features these are judged by, at which (t, block).

    profile   of an edit where none is asked for; paper: that of the paper's own method
    guidance  of a picture that it makes of a prompt
    """

    profile: str
    paper: str
    matcher: str
    t: int
    block: int
    guidance: float = 7.5


_CLAY = Suited(
    "warp_inpaint", "clay", "clay", 81, 3, 1.0
)  # t and block: what notebook 01 finds best on "clay"
SUITED = {"clay": _CLAY, "clay2": _CLAY}  # the bundled models; one judge for both
ANY_OTHER = Suited("fast", "fast", "sd21", 261, 2)  # as DIFT and DragDiffusion's script have it, of SD 2.1


def suited(model) -> Suited:
    """What suits a model, given by name or as a loaded `sd.Model`."""
    return SUITED.get(getattr(model, "name", model), ANY_OTHER)


def suited_settings(model) -> Settings:
    """The settings that an edit takes where none are given."""
    return profile(suited(model).profile)


def nearest_profile(settings: Settings) -> tuple[str, dict]:
    """The profile with the fewest differences from `settings`, and these: profile(name, **changes) == settings."""
    names = PROFILES if settings.method == PAPER else (settings.method,)
    changes = {}
    for name in names:
        base = profile(name).as_dict()
        changes[name] = {key: value for key, value in settings.as_dict().items() if value != base[key]}
    nearest = min(changes, key=lambda name: len(changes[name]))
    return nearest, changes[nearest]


def meaning(name: str) -> str:
    """What a setting is for, in a line."""
    known_only([name])
    return next(f.metadata["meaning"] for f in fields(Settings) if f.name == name)
