"""Whole works, as small as can be, that write into one folder: they are killed, starved of room, doubled, misplaced.

Each is done again in the same folder after whatever befell it, and gives the same bits. `kept` says what of it is
whole, by name and digest, read as a user's next command would read it; it raises where something is there by halves.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from dragnb import config, lora, pipeline, sd, store, sweep
from dragnb.clay.training import loop
from dragnb.clay.training.data import RECIPES
from dragnb.config import Settings
from dragnb.task import DragTask, read_image, read_record
from dragnb.ui import export, frames

from . import seeds

SETTINGS = config.profile("fast", steps=5, lora_steps=3, lora_rank=2, lora_batch=1, drag_steps=3)
RECIPE = replace(RECIPES["smoke"], pictures=8, vae_steps=4, unet_steps=4)
VALUES = 40
SAMPLES = 3
CLUSTER = {"address": ""}  # of the Dask scheduler that `sweep_dask` uses


@dataclass(frozen=True)
class Work:
    """Something that writes into a folder, and what of it is whole there."""

    name: str
    do: Callable[[Path], None]
    kept: Callable[[Path], dict[str, str]]


def digest(content) -> str:
    data = content.tobytes() if isinstance(content, np.ndarray) else content
    return hashlib.sha256(data if isinstance(data, bytes) else str(data).encode()).hexdigest()[:12]


def task(name: str = "cat", prompt: str = "a cat", seed: int = 0) -> DragTask:
    """A noisy picture that a seed decides, one pair of points, a mask."""
    image = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[10:50, 10:60] = True
    return DragTask(image, [[20, 30]], [[40, 30]], mask, prompt, name)


def model() -> sd.Model:
    """The smoke model."""
    return sd.load(str(seeds.model_folder()), device="cpu")


def edited(folder: Path, settings: Settings = SETTINGS, which: DragTask | None = None) -> pipeline.Result:
    """A whole edit with a cache in this folder."""
    return pipeline.edit(which or task(), model(), settings, store.Store(folder / "cache"))


def fine_tune(folder: Path) -> None:
    prepared = pipeline.prepare(task(), model(), SETTINGS, store.Store(folder / "cache"))
    lora.save(folder / "cat.safetensors", prepared.weights)


def kept_fine_tune(folder: Path) -> dict[str, str]:
    path = folder / "cat.safetensors"
    if not path.exists():
        return {}
    weights = lora.load(path)
    return {"LoRA": digest(b"".join(digest(weights[k].numpy()).encode() for k in sorted(weights)))}


def edit_and_export(folder: Path) -> None:
    result = edited(folder)
    result.task.save(folder / "drag")
    export.save_png(folder / "after.png", result)
    export.save_zip(folder / "after.zip", result)
    frames.save_gif(folder / "after.gif", [result.task.image, result.image])
    with contextlib.suppress(ImportError):
        import imageio_ffmpeg  # noqa: F401, the films need it

        frames.save_mp4(folder / "after.mp4", [result.task.image, result.image])
    export.save_notebook(folder / "drag.ipynb", result, str(seeds.model_folder()))


def kept_edit(folder: Path) -> dict[str, str]:
    store.recover(folder / "drag")
    found = {}
    for name in ("drag", "after.png", "after.zip", "drag.zip"):
        if (folder / name).exists():
            one = DragTask.load(folder / name)
            found[name] = digest(one.image.tobytes() + one.handles.tobytes() + one.mask.tobytes())
    if "after.png" in found:
        assert read_record(folder / "after.png")["model"]["hash"]
        found["after.png"] = digest(read_image(folder / "after.png"))
    for name in ("after.gif", "after.mp4", "drag.ipynb"):
        if (folder / name).exists():
            store.checks.check(folder / name, Path(name).suffix)
            found[name] = "whole"
    if "drag.ipynb" in found:
        json.loads((folder / "drag.ipynb").read_text())
    return found


@dataclass(frozen=True)
class Sample:
    """A sample whose number decides its picture."""

    number: int
    category: str = "noise"

    @property
    def name(self) -> str:
        return f"s/{self.number}"

    def task(self) -> DragTask:
        return task(self.name.replace("/", " "), seed=self.number)


def brightness(image, task, name, truth, truth_image) -> dict:
    """A figure that differs for any two pictures."""
    return {"mark": int.from_bytes(hashlib.sha256(image.tobytes()).digest()[:6]) / 2**48}


def _sweep(folder: Path, **options) -> None:
    settings = {"whole": SETTINGS, "short": SETTINGS.replace(drag_steps=1)}
    samples = [Sample(k) for k in range(SAMPLES)]
    name = str(seeds.model_folder())
    for progress in sweep.run(samples, settings, folder / "sweep", name, brightness, keep=True, **options):
        if progress.record["error"]:
            raise RuntimeError(progress.record["error"])


def sweep_1(folder: Path) -> None:
    _sweep(folder)


def sweep_2(folder: Path) -> None:
    _sweep(folder, jobs=2)


def sweep_dask(folder: Path) -> None:
    from distributed import Client

    with Client(CLUSTER["address"]) as client:
        _sweep(folder, client=client)


def kept_sweep(folder: Path) -> dict[str, str]:
    out = folder / "sweep"
    if not (out / "run.json").exists():
        return {}
    records = {(r["sample"], r["setting"]): r for r in sweep.read(out)}
    assert len(records) == len([*(out / "records").rglob("*.json")]), "a record is there by halves"
    for path in (out / "pictures").rglob("*.png"):
        read_image(path)
    return {f"record {key}": digest(json.dumps(sweep.facts(r), sort_keys=True)) for key, r in records.items()}


def train(folder: Path) -> None:
    out = folder / "training"
    out.mkdir(exist_ok=True)
    for part in (loop.train_autoencoder, loop.train_unet):
        for _ in part(RECIPE, out, "cpu"):
            pass
    loop.export(RECIPE, out, folder / "model")


def kept_training(folder: Path) -> dict[str, str]:
    found = {}
    for name, last in (("autoencoder", RECIPE.vae_steps), ("unet", RECIPE.unet_steps)):
        steps = loop.saved_step(folder / "training", name)
        found |= {f"{name}, step {k}": "saved" for k in range(1, steps + 1)}
        if steps == last:
            saved = torch.load(folder / "training" / f"{name}.pt", weights_only=True)["averages"]
            flat = {f"{m}.{k}": w.contiguous() for m, part in saved.items() for k, w in part.items()}
            found[name] = digest(safetensors.torch.save(flat))
    store.recover(folder / "model")
    if (folder / "model").exists():
        sd.load(str(folder / "model"), device="cpu")
        sd._loaded.clear()
        files = sorted((folder / "model").rglob("*.safetensors"))
        found["model"] = digest(b"".join(path.read_bytes() for path in files))
    return found


def value(k: int) -> dict[str, torch.Tensor]:
    return {"z": torch.full((4000,), float(k))}


def write_cache(folder: Path) -> None:
    cache = store.Store(folder / "cache", limit="10 MB")
    for k in range(VALUES):
        have = cache.get("z", cache.key(k=k))
        if have is not None and not torch.equal(have["z"], value(k)["z"]):
            raise RuntimeError(f"value {k} is another one")
        cache.put("z", cache.key(k=k), value(k))


def kept_cache(folder: Path) -> dict[str, str]:
    cache, found = store.Store(folder / "cache"), {}
    for k in range(VALUES):
        path = cache.path("z", cache.key(k=k))
        if path.exists():
            found[f"value {k}"] = digest(safetensors.torch.load_file(path)["z"].numpy())
    return found


WORKS = {
    work.name: work
    for work in (
        Work("fine-tune", fine_tune, kept_fine_tune),
        Work("edit with exports", edit_and_export, kept_edit),
        Work("sweep, 1 process", sweep_1, kept_sweep),
        Work("sweep, 2 processes", sweep_2, kept_sweep),
        Work("sweep on Dask", sweep_dask, kept_sweep),
        Work("training", train, kept_training),
        Work("cache writes", write_cache, kept_cache),
    )
}
