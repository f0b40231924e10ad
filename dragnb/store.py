"""The stage cache: tensors on disk, under the hash of everything they depend on.

A file appears whole or not at all, writers of one key do not disturb each other, and a cache that cannot be written
costs time, never the work. The last value that is too large for the disk is kept in memory instead.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import platformdirs
import psutil
import safetensors
import safetensors.torch
import torch
from torch import Tensor

import dragnb
from dragnb.errors import InputError

LIBRARIES = ("torch", "diffusers", "peft", "transformers")
FORMAT = 2  # part of every key: raise it when what is stored, or how a key is made, changes
VARIABLE = "DRAGNB_CACHE"
LARGE = 256 * 2**20  # bytes; what is larger stays in memory, and is made again by a new process
_last_large: dict[tuple[str, str], dict[str, Tensor]] = {}  # by kind and key, at most one
HOST = re.sub(r"\W", "_", platform.node())  # a folder may be shared, and process ids are a machine's own


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


def forget() -> None:
    """Let go of the value kept in memory, as a new process would begin."""
    _last_large.clear()


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary name beside `path`, for a file or a folder that takes `path`'s place when the block succeeds.

    The name is nobody else's: of several writers the last one counts. Readers see the old file or the new one, never a
    part; an old folder steps aside for one rename. If the block raises, `path` is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f".{HOST}-{os.getpid()}-{uuid.uuid4().hex}.tmp")
    try:
        yield temp
        if temp.is_dir():
            _replace_folder(temp, path)
        else:
            with open(temp, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temp, path)
    finally:
        if temp.is_dir():
            shutil.rmtree(temp, ignore_errors=True)
        with contextlib.suppress(OSError):
            temp.unlink(missing_ok=True)


def _replace_folder(folder: Path, path: Path) -> None:
    """Rename a folder to `path`; the one that was there is deleted after it, or put back where it fails."""
    aside = folder.with_suffix(".old")
    if path.exists():
        os.replace(path, aside)
    try:
        os.replace(folder, path)
    except OSError:
        if aside.exists():
            os.replace(aside, path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Delete the temporary files that processes of this machine left behind when they were killed."""
    for left in folder.glob(f".{HOST}-*.tmp"):
        pid = left.name.split("-")[1]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            with contextlib.suppress(OSError):
                left.unlink()


class Store:
    """A folder of tensors by content: `root`/`kind`/`key`.safetensors. The root is made when first needed."""

    def __init__(self, root: str | os.PathLike | None = None):
        self.root = Path(root) if root is not None else cache_dir()
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
        """The tensors under this key, on the CPU but for large ones; None where there are none or they are damaged."""
        if (kind, key) in _last_large:
            return _last_large[kind, key]
        path = self.path(kind, key)
        try:
            return safetensors.torch.load(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, safetensors.SafetensorError) as error:
            warnings.warn(f"cache: {path} is damaged ({error}); it is made anew", stacklevel=2)
            return None

    def put(self, kind: str, key: str, tensors: dict[str, Tensor]) -> bool:
        """Keep the tensors; False, with one warning per store, where the disk is full or read-only.

        Of those over LARGE only the last are kept, in memory, where they are.
        """
        if sum(x.nbytes for x in tensors.values()) > LARGE:
            _last_large.clear()
            _last_large[kind, key] = tensors
            return True
        path = self.path(kind, key)
        try:
            _sweep(path.parent)
            with replacing(path) as temp:
                temp.write_bytes(safetensors.torch.save(_plain(tensors)))
        except OSError as error:
            self._warn_once(error)
            return False
        return True

    def _warn_once(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            remedy = f"set {VARIABLE} to a folder with room"
            warnings.warn(
                f"cache: {self.root} cannot be written ({error}); going on without it, {remedy}", stacklevel=3
            )


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
