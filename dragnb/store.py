"""The only cache: tensors on disk under the hash of everything they depend on.

A file appears whole or not at all, and a cache that cannot be written costs time, never the work. No lock is held: two
processes that want the same thing at once each make it, and the last to write it wins.
"""

import contextlib
import dataclasses
import hashlib
import os
import shutil
import struct
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from dragnb.errors import InputError

FORMAT = 1  # part of every key: raise it when what is stored changes its meaning
VARIABLE = "DRAGNB_CACHE"


def cache_dir() -> Path:
    """$DRAGNB_CACHE, else the platform's folder for caches, else (no home) the one for temporary files."""
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE])
    try:
        home = Path.home()
    except RuntimeError:
        return Path(tempfile.gettempdir()) / "dragnb"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "dragnb"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "dragnb"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "dragnb"


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary name beside `path` to write a file to; it takes `path`'s place when the block succeeds.

    Readers see the old file or the new one, never a part; if the block raises, `path` is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temp
        with open(temp, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temp, path)
    finally:
        if temp.is_dir():
            shutil.rmtree(temp, ignore_errors=True)
        with contextlib.suppress(OSError):
            temp.unlink(missing_ok=True)


class Store:
    """A folder of tensors by content: `root`/`kind`/`key`.safetensors. The root is made when first needed."""

    def __init__(self, root: str | os.PathLike | None = None):
        self.root = Path(root) if root is not None else cache_dir()
        self._warned = False

    @staticmethod
    def key(**parts) -> str:
        """A name for a combination of values: 64 hex digits, the same in every process and on every machine.

        Takes None, bool, int, float, str, bytes, paths, numpy arrays and torch tensors (by dtype, shape and
        content), dataclasses, dicts, sets, lists and tuples of these; InputError for anything else.
        """
        digest = hashlib.sha256()
        _feed(digest, {"format": FORMAT, **parts}, "key")
        return digest.hexdigest()

    def path(self, kind: str, key: str) -> Path:
        return self.root / kind / f"{key}.safetensors"

    def has(self, kind: str, key: str) -> bool:
        """Is there a file under this key? It may still turn out broken; `get` tells."""
        return self.path(kind, key).is_file()

    def get(self, kind: str, key: str) -> dict[str, Tensor] | None:
        """The tensors under this key, on the CPU; None where there are none or they are damaged."""
        path = self.path(kind, key)
        try:
            return safetensors.torch.load(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, safetensors.SafetensorError) as error:
            warnings.warn(f"cache: {path} is damaged ({error}); it is made anew", stacklevel=2)
            return None

    def put(self, kind: str, key: str, tensors: dict[str, Tensor]) -> bool:
        """Keep the tensors; False, with one warning per store, where the disk is full or read-only."""
        path = self.path(kind, key)
        try:
            for left in path.parent.glob(f".{path.name}.*.tmp"):  # by a process that was killed
                left.unlink(missing_ok=True)
            with replacing(path) as temp:
                temp.write_bytes(safetensors.torch.save(_plain(tensors)))
        except OSError as error:
            self._say_once(error)
            return False
        return True

    def _say_once(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            remedy = f"set {VARIABLE} to a folder with room"
            warnings.warn(
                f"cache: {self.root} cannot be written ({error}); going on without it, {remedy}", stacklevel=3
            )


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}


def _feed(digest, value, where: str) -> None:
    """Hash a value so that no two different ones look alike: every piece bears its type and its length."""

    def piece(kind: str, data: bytes = b"") -> None:
        digest.update(f"{kind}:{len(data)}:".encode() + data)

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        piece("dataclass", type(value).__name__.encode())
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Tensor):
        x = value.detach().cpu().contiguous()
        piece("array", f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}".encode())
        piece("data", x.reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        piece("array", f"{value.dtype.name} {value.shape}".encode())
        piece("data", np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes())
    elif value is None or isinstance(value, (bool, int, str, bytes, os.PathLike)):
        data = value if isinstance(value, bytes) else str(value).encode()
        piece("path" if isinstance(value, os.PathLike) else type(value).__name__, data)
    elif isinstance(value, float):
        piece("float", struct.pack("<d", value))
    elif isinstance(value, (list, tuple)):
        piece("list", str(len(value)).encode())
        for k, item in enumerate(value):
            _feed(digest, item, f"{where}[{k}]")
    elif isinstance(value, dict):
        piece("dict", str(len(value)).encode())
        for name in sorted(value, key=repr):
            _feed(digest, name, where)
            _feed(digest, value[name], f"{where}.{name}")
    elif isinstance(value, (set, frozenset)):
        _feed(digest, ["set", *sorted(value, key=repr)], where)
    else:
        raise InputError(f"{where} is a {type(value).__name__}, which has no lasting content to hash")
