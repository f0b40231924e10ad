"""Rival drag methods by name: each file here is one, `drag(problem)` and, where it has numbers of its own, `Settings`.

A file that is put here is a method everywhere: `config.profile`, `sweep.grids.rivals`, the studio, the command line.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable

from dragnb import config, drag
from dragnb.errors import InputError, did_you_mean


def names() -> tuple[str, ...]:
    """The methods beside the paper's own, in alphabetical order."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def drag_of(name: str) -> Callable[[drag.Problem], object]:
    """The generator of states by the method's name; InputError for an unknown one."""
    return drag.optimise if name == config.PAPER else _module(name).drag


def settings_class(name: str) -> type[config.Settings]:
    """The class of the method's settings: its own, or the plain one."""
    return getattr(_module(name), "Settings", config.Settings)


def settings(name: str, base: config.Settings | None = None, **changes) -> config.Settings:
    """A method's settings: what it says itself, then what `base` says (which suits a model), then the common values."""
    kind = settings_class(name)
    common = {f.name: f.default for f in dataclasses.fields(config.Settings)}
    own = {f.name for f in dataclasses.fields(kind) if common.get(f.name, dataclasses.MISSING) != f.default}
    shared = {k: v for k, v in (base.as_dict() if base else {}).items() if k in common and k not in own}
    config.known_only(changes, kind)
    return kind(**{**shared, "method": name, **changes})


def _module(name: str):
    if name not in names():
        raise InputError(f"method = {name!r} is unknown{did_you_mean(str(name), [config.PAPER, *names()])}")
    return importlib.import_module(f"{__name__}.{name}")
