"""What is what: the seed of an edit, the digest of a sample, the description of a setting or a score."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any

import dragnb
from dragnb.config import Settings
from dragnb.store import Store
from dragnb.task import DragTask


def seed_of(settings: Settings, name: str) -> int:
    """The seed of an edit: that of the settings mixed with the sample's name.

    So no sample's number hangs on the order or on its neighbours, and what chance does to one says nothing about the
    others, as an interval over samples supposes. All settings of one seed share a sample's fine-tune.
    """
    return int.from_bytes(hashlib.sha256(f"{settings.seed} {name}".encode()).digest()[:4])


def digest_of(task: DragTask) -> str:
    """16 hex digits of all that decides an edit: picture, points, mask, prompt."""
    parts = {field: getattr(task, field) for field in ("image", "handles", "targets", "mask", "prompt")}
    return Store.key(**parts)[:16]


@functools.cache
def code() -> str:
    """A digest of this package's own sources."""
    package = Path(dragnb.__file__).parent
    found = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        found.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return found.hexdigest()


def describe(thing) -> Any:
    """What a setting or a score is, as plain values: its own `describe()`, its fields, or its full name."""
    if hasattr(thing, "describe"):
        return thing.describe()
    if isinstance(thing, Settings):
        return thing.as_dict()
    if isinstance(thing, functools.partial):
        return {"call": describe(thing.func), "args": [*map(repr, thing.args)], "named": repr(thing.keywords)}
    kind = thing if hasattr(thing, "__qualname__") else type(thing)
    name = f"{kind.__module__}.{kind.__qualname__}"
    return {"is": name} | dataclasses.asdict(thing) if dataclasses.is_dataclass(thing) else name
