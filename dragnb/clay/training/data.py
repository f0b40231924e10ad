"""What is trained on, and how: every number of a training in one frozen dataclass, and the pictures in bulk."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from joblib import cpu_count

from dragnb.clay.scene import VERSION, sample
from dragnb.processes import end_with_parent
from dragnb.store import replacing

HELDOUT_SEED = 800_000  # seeds from here on are never trained on
_CHUNK = 64
_CAPTION = 120  # bytes of the longest caption


@dataclass(frozen=True)
class Recipe:
    """Settings of a training run. Steps are optimiser steps; learning rates fall by a cosine after `decay_from`."""

    size: str = "clay"  # a key of parts.SIZES
    seed: int = 0
    world: int = VERSION  # the version of the clay world that is drawn
    older: bool = False  # the versions before it are drawn as well, in turn by seed
    pictures: int = 9_000  # drawn once and kept; 0: drawn anew for every step (many cores and a GPU)
    vae_steps: int = 7_000
    encoder: bool = True  # False: the autoencoder's decoder alone is trained, on the latents that there are
    vae_batch: int = 8
    vae_crop: int = 96  # the autoencoder has no norm layers, so crops train it as well as whole pictures
    vae_lr: float = 2e-3
    vae_ema: float = 0.995
    vae_square: float = 1.0  # weight of the squared error beside the absolute one
    latent_spread: float = 5e-3  # weight that keeps each latent channel's variance at one
    latent_noise: float = 0.05  # added to latents before decoding, so that small denoising errors do not show
    unet_steps: int = 5_300
    unet_batch: int = 16
    unet_lr: float = 1e-3
    focus: tuple = (250, 800)  # half of the samples have a timestep in here, where shape and pose are decided
    min_snr: float = 5.0  # weight of a noise level is min(SNR, this) / SNR (Hang et al. 2023)
    caption_dropout: float = 0.1  # trains the empty prompt, which classifier-free guidance needs
    ema: float = 0.999
    decay_from: float = 0.4  # fraction of the steps at full learning rate
    warmup: int = 150
    save_every: int = 250
    workers: int = 2
    autocast: bool = False  # bfloat16 on the CPU too: a quarter faster where the CPU multiplies bfloat16


RECIPES = {
    "cpu": Recipe(),
    "gpu": Recipe(pictures=0, vae_steps=40_000, vae_batch=32, vae_crop=128, unet_steps=60_000, unet_batch=128,
                  ema=0.9998, save_every=1000, workers=14),
    "smoke": Recipe(size="smoke", pictures=24, vae_steps=6, vae_batch=2, vae_crop=64, unet_steps=6,
                    unet_batch=2, warmup=2, save_every=2, workers=1),
}  # fmt: skip


def worlds_of(recipe):
    """The versions of the world that a recipe or plan draws; a picture has that of its seed, in turn."""
    return tuple(range(1, recipe.world + 1)) if recipe.older else (recipe.world,)


def scene(seed, worlds):
    """The scene of a seed of the training set."""
    return sample(seed, version=worlds[seed % len(worlds)])


def _draw(path, shape, start, stop, worlds):
    out = np.load(path, mmap_mode="r+")
    for i in range(start, stop):
        out[i] = scene(i, worlds).picture(shape[1])
    return stop - start


def _take_room(path):
    """Have the disk give all of a sparse file's room: where it is full it says so here, and later by SIGBUS."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "rb+") as file:
            os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))


def _pool(workers=None):
    """Processes to draw in, as many as said or as there are cores."""
    return ProcessPoolExecutor(workers or os.cpu_count(), initializer=end_with_parent)


def draw_set(path, count, worlds=(VERSION,), size=256, workers=None, progress=lambda done, total: None):
    """The pictures of seeds 0 to count - 1 as a (count, size, size, 3) uint8 memory map at `path`.

    A finished file is used again; an unfinished one (killed on the way) bears another name and is begun anew.
    """
    path, shape = Path(path), (count, size, size, 3)
    if path.exists() and np.load(path, mmap_mode="r").shape == shape:
        return np.load(path, mmap_mode="r")
    with replacing(path) as partial, _pool(workers) as pool:
        np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape).flush()
        _take_room(partial)
        starts = range(0, count, _CHUNK)
        jobs = [pool.submit(_draw, partial, shape, a, min(a + _CHUNK, count), worlds) for a in starts]
        for k, job in enumerate(jobs):
            job.result()
            progress(min((k + 1) * _CHUNK, count), count)
    return np.load(path, mmap_mode="r")


def world_mark(recipe):
    """What the name of a file of pictures or latents bears from the world's second version on."""
    return f"-world{'-'.join(map(str, worlds_of(recipe)))}" if recipe.world > 1 else ""


def to_unit(pictures, device="cpu"):
    """uint8 pictures (b, h, w, 3) to tensors (b, 3, h, w) in [-1, 1]."""
    x = torch.as_tensor(pictures).to(device).permute(0, 3, 1, 2).float()
    return (x / 127.5 - 1).contiguous(memory_format=torch.channels_last)


class Pictures(torch.utils.data.Dataset):
    """Training pictures by index: read from the drawn set, or drawn on the fly where the recipe keeps none."""

    def __init__(self, recipe: Recipe, out: Path):
        self.recipe, self.path = recipe, out / f"pictures-{recipe.pictures}{world_mark(recipe)}.npy"
        self.drawn = None

    def prepare(self, progress=lambda done, total: None):
        """Draw the set, if the recipe keeps one."""
        if self.recipe.pictures:
            self.drawn = draw_set(
                self.path,
                self.recipe.pictures,
                worlds_of(self.recipe),
                workers=self.recipe.workers,
                progress=progress,
            )
        return self

    def __getitem__(self, index):
        return (
            self.drawn[index] if self.recipe.pictures else scene(int(index), worlds_of(self.recipe)).picture()
        )

    def seeds(self, step, batch, generator):
        """Which seeds make up a step's batch: shuffled from the drawn set, or ever new ones."""
        if self.recipe.pictures:
            return torch.randint(0, self.recipe.pictures, (batch,), generator=generator).tolist()
        return [(step * batch + i) % HELDOUT_SEED for i in range(batch)]


class Drawn:
    """Pictures and captions of `have` seeds from `seed` on in memory, while processes go on drawing; a context manager.

    worlds    versions of the clay world, in turn by seed
    workers   processes; 0: one less than there are cores
    """

    def __init__(self, count, worlds=(VERSION,), workers=0, seed=0):
        workers, spawn = workers or max(1, cpu_count() - 1), multiprocessing.get_context("spawn")
        places = [place for place in (Path("/dev/shm"), Path(tempfile.gettempdir())) if place.is_dir()]
        place = max(places, key=lambda place: shutil.disk_usage(place).free)
        count = min(
            count, HELDOUT_SEED - seed, int(0.8 * shutil.disk_usage(place).free / (256 * 256 * 3 + _CAPTION))
        )
        self.folder, self.done = tempfile.TemporaryDirectory(dir=place), spawn.Array("q", workers, lock=False)
        self._pictures, self._captions = _maps(self.folder.name, count, "w+")
        arguments = [(self.folder.name, count, worlds, seed, self.done, k) for k in range(workers)]
        self.crew = [spawn.Process(target=_go_on_drawing, args=a, daemon=True) for a in arguments]

    def __enter__(self):
        for process in self.crew:
            process.start()
        while not self.have:
            if not all(process.is_alive() for process in self.crew):
                raise RuntimeError("a process that draws pictures has ended; its error stands above")
            time.sleep(0.1)
        return self

    def __exit__(self, *error):
        for process in self.crew:
            process.terminate()
            process.join()
        self.folder.cleanup()

    @property
    def have(self):
        """How many pictures there are by now."""
        return min(self.done) * len(self.done)

    def pictures(self, first, last):
        """uint8, (last - first, 256, 256, 3)."""
        return torch.from_numpy(self._pictures[first:last])

    def captions(self, first, last):
        """Strings."""
        return [caption.decode() for caption in self._captions[first:last]]


def _maps(folder, count, mode):
    pictures = np.memmap(Path(folder) / "pictures", np.uint8, mode, shape=(count, 256, 256, 3))
    return pictures, np.memmap(Path(folder) / "captions", f"S{_CAPTION}", mode, shape=(count,))


def _go_on_drawing(folder, count, worlds, first, done, k):
    end_with_parent()
    if hasattr(os, "nice"):
        os.nice(10)  # the training waits for a compiler more than for pictures
    pictures, captions = _maps(folder, count, "r+")
    for place in range(k, count, len(done)):
        drawn = scene(first + place, worlds)
        pictures[place], captions[place] = drawn.picture(), drawn.caption.encode()
        done[k] += 1
