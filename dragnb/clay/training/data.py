"""Pictures of the clay world in bulk, for training: drawn by several processes into one memory-mapped file."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from dragnb.clay.scene import sample

_CHUNK = 64


def _draw(path, shape, start, stop, seed):
    out = np.load(path, mmap_mode="r+")
    for i in range(start, stop):
        out[i] = sample(seed + i).picture(shape[1])
    return stop - start


def draw_set(path, count, seed=0, size=256, workers=None, progress=lambda done, total: None):
    """The pictures of seeds seed .. seed + count - 1 as a (count, size, size, 3) uint8 memory map at `path`.

    A finished file is used again; an unfinished one (killed on the way) bears another name and is begun anew.
    """
    path, shape = Path(path), (count, size, size, 3)
    if path.exists() and np.load(path, mmap_mode="r").shape == shape:
        return np.load(path, mmap_mode="r")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npy")
    np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape).flush()
    with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
        starts = range(0, count, _CHUNK)
        jobs = [pool.submit(_draw, partial, shape, a, min(a + _CHUNK, count), seed) for a in starts]
        for k, job in enumerate(jobs):
            job.result()
            progress(min((k + 1) * _CHUNK, count), count)
    os.replace(partial, path)
    return np.load(path, mmap_mode="r")
