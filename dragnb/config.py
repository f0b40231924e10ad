"""Every number of an edit, named, bounded and explained. Profiles differ in nothing but these."""

import math
from dataclasses import asdict, dataclass, field, fields, replace
from numbers import Integral, Real

from dragnb import ddim
from dragnb.errors import InputError, did_you_mean

MAX_SEED = 2**63 - 1


def _number(default, low, high, stage, meaning):
    """A field holding a number in [low, high] (low itself excluded where it is a float 0.0: a rate)."""
    return field(default=default, metadata={"low": low, "high": high, "stage": stage, "meaning": meaning})


def _one_of(default, choices, stage, meaning):
    """A field holding one of `choices`, or, where the default is a tuple, several different ones."""
    return field(default=default, metadata={"choices": choices, "stage": stage, "meaning": meaning})


@dataclass(frozen=True)
class Settings:
    """The settings of one edit; InputError names field, value and range. Make variants by `replace`."""

    lora_rank: int = _number(16, 1, 256, "lora", "rank of the adapter; = alpha, so that its scale is 1")
    lora_steps: int = _number(80, 0, 10_000, "lora", "steps of the fine-tune; 0: none")
    lora_batch: int = _number(4, 1, 64, "lora", "samples a step; fewer need less memory")
    lora_lr: float = _number(5e-4, 0.0, 1.0, "lora", "learning rate of the fine-tune")
    lora_targets: tuple[str, ...] = _one_of(
        ("to_q", "to_k", "to_v"),
        ("to_q", "to_k", "to_v", "to_out.0"),
        "lora",
        "attention projections that are adapted",
    )
    lora_t: str = _one_of("all", ("all", "used"), "lora", "timesteps it learns: all, or up to the drag's")
    lora_stop: float = _number(
        0.0, 0, 1, "lora", "ends its second half when 10 steps lower its score by less; 0: off"
    )
    seed: int = _number(42, 0, MAX_SEED, "lora", "decides all that is random: the fine-tune")

    steps: int = _number(50, 1, 500, "invert", "DDIM steps of the whole schedule; divides 1000")
    strength: float = _number(0.7, 0.0, 1.0, "invert", "part of the schedule that is inverted")
    guidance: float = _number(1.0, 0, 50, "invert", "classifier-free guidance; 1 is off")

    drag_steps: int = _number(80, 0, 10_000, "drag", "most iterations of the latent optimisation")
    drag_lr: float = _number(0.01, 0.0, 10.0, "drag", "Adam moves each latent value by about this a step")
    lam: float = _number(0.1, 0, 1e6, "drag", "weight of 'keep what is outside the mask' (eq. 3); 0: off")
    r1: int = _number(1, 0, 64, "drag", "motion supervision pulls a patch of (2 r1 + 1)² cells")
    r2: int = _number(3, 1, 64, "drag", "the tracker looks into a window of (2 r2 + 1)² cells")
    block: int = _number(3, 1, 4, "drag", "whose features: up_blocks[block - 1]; lower is coarser")
    motion_norm: str = _one_of("mean", ("sum", "mean"), "drag", "eq. 3's sum, or the public code's mean")
    mask_on: str = _one_of("prev", ("prev", "now"), "drag", "mask term on z one step denoised, or on z")
    supersample: float = _number(0.5, 0.0, 1.0, "drag", "side of the feature map / side of the picture")
    stop: float = _number(1.0, 0, 64, "drag", "'reached': this near, in cells of that map")

    reference: bool = _one_of(True, (True, False), "denoise", "reference-latent-control (§3.4)")
    ref_blocks: tuple[int, ...] = _one_of((1, 2, 3), (0, 1, 2, 3), "denoise", "up_blocks that are controlled")
    ref_start: int = _number(0, 0, 500, "denoise", "first denoising step that is controlled")

    def __post_init__(self):
        for f in fields(self):
            check = _check_choice if "choices" in f.metadata else _check_number
            object.__setattr__(self, f.name, check(f, getattr(self, f.name)))
        ddim.start_index(self.steps, self.strength)  # steps divides 1000, strength leaves a step to run

    def replace(self, **changes) -> "Settings":
        """A copy with some fields changed; an unknown name raises InputError with the nearest known one."""
        _known_only(changes)
        return replace(self, **changes)

    @property
    def t(self) -> int:
        """The timestep of the latent that is dragged: the highest one that an edit visits."""
        return ddim.timesteps(self.steps)[ddim.start_index(self.steps, self.strength)]

    def as_dict(self) -> dict:
        return asdict(self)

    def stage_key(self, stage: str) -> dict:
        """The fields that decide the outcome of a stage, its own and those of the stages before it.

        stage is "lora", "invert", "drag" or "denoise"; two edits that agree on these may share the stage's
        result. So a new `lam` repeats the drag and the denoising, and nothing else.
        """
        if stage not in STAGES:
            raise InputError(f"stage = {stage!r} is unknown{did_you_mean(stage, STAGES)}")
        upto = STAGES[: STAGES.index(stage) + 1]
        key = {f.name: getattr(self, f.name) for f in fields(self) if f.metadata["stage"] in upto}
        if stage == "lora" and self.lora_t == "used":
            key["t"] = self.t
        return {name: value for name, value in key.items() if LATER.get(name, _UNSET) != value}


# Settings that came after the first caches were filled: at these values they are left out of a stage's key.
LATER = {"lora_t": "all", "lora_stop": 0.0}
_UNSET = object()
STAGES = ("lora", "invert", "drag", "denoise")


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


def _known_only(names) -> None:
    known = [f.name for f in fields(Settings)]
    for name in names:
        if name not in known:
            raise InputError(f"settings: unknown setting {name!r}{did_you_mean(name, known)}")


# The paper's text leaves the size of the feature map open; all profiles read it at half the picture's side.
PROFILES = {
    "paper": {"motion_norm": "sum"},
    "reference": {
        "lora_targets": ("to_q", "to_k", "to_v", "to_out.0"),
        "stop": 2.0,
        "ref_blocks": (2, 3),
    },
    "fast": {"mask_on": "now", "lora_stop": 0.015},
    "clay": {"mask_on": "now", "block": 2, "r1": 4, "lora_steps": 40},
}


def profile(name: str = "fast", **overrides) -> Settings:
    """Settings by name, with some changed: "paper" (its text), "reference" (its public code), "fast", "clay".

    "fast" measures the mask term on the latent itself, so that the U-Net may stop after the feature block, and ends the
    fine-tune where its second half brings little (measured on clay: `tools/speed/NOTES.md`). "clay" suits the bundled
    model, whose features hold a part best in the coarser second block and over a larger patch, and which needs half of
    the fine-tune, since it was trained on this very world; it was chosen on clay tasks (eight with seeds from 820,000,
    16 from 820,500) on which nothing else is measured.
    """
    if name not in PROFILES:
        raise InputError(f"profile = {name!r} is unknown{did_you_mean(name, PROFILES)}")
    _known_only(overrides)
    return Settings(**{**PROFILES[name], **overrides})


def nearest_profile(settings: Settings) -> tuple[str, dict]:
    """The profile with the fewest differences from `settings`, and these: profile(name, **changes) == settings."""
    found = {}
    for name in PROFILES:
        base = profile(name).as_dict()
        found[name] = {key: value for key, value in settings.as_dict().items() if value != base[key]}
    name = min(found, key=lambda name: len(found[name]))
    return name, found[name]


def meaning(name: str) -> str:
    """What a setting is for, in a line."""
    _known_only([name])
    return next(f.metadata["meaning"] for f in fields(Settings) if f.name == name)
