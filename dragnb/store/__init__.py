"""The stage cache: tensors on disk, under the hash of everything they depend on.

A file appears whole or not at all, writers of one key do not disturb each other, and a cache that cannot be written
costs time, never the work. A large value (LARGE) is written where the disk has room for it (SHARE), and the last one
is kept in memory, too. The folder keeps to a size: what was used least recently goes first. `python -m dragnb.store`
shows the cache and empties it.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import platformdirs
import safetensors
import safetensors.torch
import torch
from torch import Tensor

import dragnb
from dragnb.errors import InputError, WriteError
from dragnb.store import limit
from dragnb.store.files import HOST, recover, replacing
from dragnb.store.limit import allowed

__all__ = ["HOST", "Store", "cache_dir", "forget", "is_large", "recover", "replacing", "versions"]

LIBRARIES = ("torch", "diffusers", "peft", "transformers")
FORMAT = 2  # part of every key: raise it when what is stored, or how a key is made, changes
VARIABLE = "DRAGNB_CACHE"
LARGE = 256 * 2**20  # bytes; what is larger goes to the disk only where there is much room
SHARE = 0.1  # of the bytes free on the cache's disk, which one large value may take
_last_large: dict[tuple[str, str], dict[str, Tensor]] = {}  # by kind and key, at most one


def cache_dir() -> Path:
    """$DRAGNB_CACHE, else the platform's folder for caches, else (no home) the one for temporary files."""
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE])
    with contextlib.suppress(RuntimeError):  # a user without a home; older platformdirs give a path with "~"
        folder = platformdirs.user_cache_path("dragnb", appauthor=False, opinion=False)
        if folder.is_absolute():
            return folder
    return Path(tempfile.gettempdir()) / "dragnb"


def versions() -> dict[str, str]:
    """Of this package and of the libraries that decide what comes out: a part of every stage's key."""
    return {"dragnb": dragnb.__version__} | {name: importlib.metadata.version(name) for name in LIBRARIES}


def is_large(size: int) -> bool:
    """Is a value of so many bytes one that only a disk with much room is given (LARGE)?"""
    return size > LARGE


def forget() -> None:
    """Let go of the value kept in memory, as a new process would begin."""
    _last_large.clear()


class Store:
    """A folder of tensors by content: `root`/`kind`/`key`.safetensors. The root is made when first needed.

    limit  bytes that it may take on disk, a number or text like "5 GB"; default: $DRAGNB_CACHE_SIZE, else 20 GB
    """

    def __init__(self, root: str | os.PathLike | None = None, limit: int | str | None = None):
        self.root = Path(root) if root is not None else cache_dir()
        self.limit = allowed(limit)
        self._warned = False

    @staticmethod
    def key(**parts) -> str:
        """A name for a combination of values: 64 hex digits, the same in every process and on every machine.

        Takes None, bool, int, float, str, bytes, paths, numpy arrays and torch tensors (by dtype, shape and
        content), dataclasses, dicts, sets, lists and tuples of these; InputError for anything else. A tuple counts
        as a list, and a tensor as the array of its numbers.
        """
        form = json.dumps(_form({"format": FORMAT, **parts}, "key"), ensure_ascii=False)
        return hashlib.sha256(form.encode("utf-8", "surrogatepass")).hexdigest()

    def path(self, kind: str, key: str) -> Path:
        return self.root / kind / f"{key}.safetensors"

    def get(self, kind: str, key: str) -> dict[str, Tensor] | None:
        """The tensors under this key; None where there are none or they are damaged.

        They are on the CPU, but for the large ones that this process has put: those are where they were.
        """
        if (kind, key) in _last_large:
            return _last_large[kind, key]
        path = self.path(kind, key)
        try:
            return safetensors.torch.load(limit.read(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, safetensors.SafetensorError) as error:
            warnings.warn(f"cache: {path} is damaged ({error}); it is made anew", stacklevel=2)
            return None

    def put(self, kind: str, key: str, tensors: dict[str, Tensor]) -> bool:
        """Keep the tensors; False, with one warning per store, where the disk is full, read-only, or the limit is less.

        Of those over LARGE the last are kept in memory, where they are, whatever becomes of the file. It is written if
        it takes at most SHARE of what is free on the disk, and at most the limit: else a new process makes it again.
        """
        size, path = sum(x.nbytes for x in tensors.values()), self.path(kind, key)
        if is_large(size):
            _last_large.clear()
            _last_large[kind, key] = tensors
            if size > min(self.limit, SHARE * limit.free(self.root)):
                return True
        if size > self.limit:
            self._warn_once(f"a value of {limit.text_of(size)} is over its limit", f"raise {limit.VARIABLE}")
            return False
        try:
            with replacing(path, f"set {VARIABLE} to a folder with room") as temp:
                temp.write_bytes(safetensors.torch.save(_plain(tensors), {limit.OURS: limit.OURS}))
        except WriteError as error:
            self._warn_once(f"it cannot be written ({error.reason})", error.remedy)
            return False
        limit.shrink(self.root, self.limit, keep=path)
        return True

    def _warn_once(self, reason: str, remedy: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"cache: {self.root}: {reason}; going on without it, {remedy}", stacklevel=3)


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}


def _form(value, where: str):
    """A value in plain JSON, no two different ones alike: a scalar, or a list that begins with the value's kind.

    JSON tells 1, 1.0, "1", true and null apart, and writes a float with all its digits.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, bytes):
        return ["bytes", value.hex()]
    if isinstance(value, os.PathLike):
        return ["path", os.fsdecode(value)]
    if isinstance(value, Tensor):
        x = value.detach().cpu().contiguous()
        return _array(str(x.dtype).removeprefix("torch."), x.shape, x.reshape(-1).view(torch.uint8).numpy())
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return _array(value.dtype.name, value.shape, value.astype(value.dtype.newbyteorder("<")))
    if isinstance(value, (list, tuple)):
        return ["list", *(_form(item, f"{where}[{k}]") for k, item in enumerate(value))]
    if isinstance(value, (set, frozenset)):
        return ["set", *sorted((_form(item, where) for item in value), key=json.dumps)]
    if isinstance(value, dict):
        pairs = ([_form(name, where), _form(item, f"{where}.{name}")] for name, item in value.items())
        return ["dict", *sorted(pairs, key=json.dumps)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return ["dataclass", type(value).__name__, _form(own, where)]
    raise InputError(f"{where} is a {type(value).__name__}, which has no lasting content to hash")


def _array(dtype: str, shape, values: np.ndarray) -> list:
    return ["array", dtype, list(shape), hashlib.sha256(values.tobytes()).hexdigest()]
