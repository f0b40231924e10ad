"""Write the bundled model's card, after `dragnb.clay.training.train export` and `dragnb.clay.evaluate`.

Everything in it is read from training.json and evaluation.json beside the weights or drawn from the model itself;
the hardware is given by hand: --hardware "two cores of an AMD EPYC".
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from dragnb import sd
from dragnb.clay.evaluate import BARS, decoded
from dragnb.clay.scene import KINDS, sample
from dragnb.clay.training.recipe import HELDOUT_SEED
from dragnb.geometry import Frame

NAMES = {
    "autoencoder_psnr": "autoencoder, mean PSNR over 200 held-out pictures (dB)",
    "roundtrip_psnr": "to t = 35 of 50 and back after the fine-tune, median PSNR against the picture (dB)",
    "moved": "content moved, median over 24 held-out clay tasks (fraction of the way)",
    "rest_psnr": "picture off the mask after the edit, median PSNR against the original (dB)",
}


def curves(history, path):
    """Both loss curves, drawn to a PNG."""
    fig = Figure(figsize=(8, 2.8), layout="constrained")
    for ax, (name, label) in zip(
        fig.subplots(1, 2),
        (("autoencoder", "squared error, pixels in [-1, 1]"), ("unet", "ε error")),
        strict=True,
    ):
        steps, losses = zip(*history[name]["curve"], strict=True)
        ax.semilogy(steps, losses)
        ax.set(title=name, xlabel="step", ylabel=label)
    fig.savefig(path, dpi=80, metadata={"Software": None})


def reconstructions(model, path):
    """Two rows: held-out pictures, the same encoded and decoded."""
    pictures = [sample(HELDOUT_SEED + 300 + i, kind).picture() for i, kind in enumerate(KINDS)]
    frame = Frame.fit(256, 256, 256)
    back = [decoded(model, sd.encode(model, frame.to_canvas(p))) for p in pictures]
    sheet([*pictures, *back], len(KINDS), path)


def samples(folder, path):
    """Samples of plain diffusers from captions of scenes nobody drew, with guidance."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    prompts = [sample(HELDOUT_SEED + 500 + i, kind).caption for i, kind in enumerate(KINDS)]
    made = pipe(
        prompts, num_inference_steps=50, guidance_scale=3.0, generator=torch.Generator().manual_seed(0)
    )
    sheet([np.asarray(image) for image in made.images], len(KINDS), path)
    return prompts


def sheet(pictures, columns, path):
    """A grid of pictures at half size."""
    rows = [np.concatenate(pictures[i : i + columns], 1) for i in range(0, len(pictures), columns)]
    grid = Image.fromarray(np.concatenate(rows, 0))
    grid.resize((grid.width // 2, grid.height // 2), Image.LANCZOS).save(path, optimize=True)


def unet_training(history):
    """What the U-Net went through, first training first, one line of Markdown each with its note."""
    lines, total = [], 0
    while history:
        recipe, unet = history["recipe"], history["unet"]
        total += unet["steps"] * recipe["unet_batch"]
        note = f"\n    {history['note'].strip()}" if history.get("note") else ""
        minutes, dropped = unet["seconds"] / 60, recipe["caption_dropout"]
        line = f"""  - {unet["steps"]} steps of {recipe["unet_batch"]} latents, {minutes:.0f} minutes; averaged weights
    (EMA {recipe["ema"]}); captions dropped with probability {dropped}.{note}"""
        lines.insert(0, line)
        history = history.get("before")
    rounds = (
        "in one go"
        if len(lines) == 1
        else f"in {len(lines)} goes, each from the averaged weights of the last"
    )
    return f"- U-Net and text encoder, jointly, {total:,} samples {rounds}:\n" + "\n".join(lines)


def text(history, found, hardware, prompts, sizes):
    """The card, in Markdown."""
    recipe, s = history["recipe"], found["summary"]
    rows = []
    for key, meaning in NAMES.items():
        gap = s[key] - BARS[key]
        rows.append(
            f"| {meaning} | {s[key]} | {BARS[key]} | {'reached' if gap >= 0 else f'missed by {-gap:.2f}'} |"
        )
    parts = "\n".join(f"| {name} | {count / 1e6:.2f} M |" for name, count in sizes.items())
    drawn = (
        f"{recipe['pictures']:,} pictures drawn once" if recipe["pictures"] else "pictures drawn on the fly"
    )
    return f"""---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# The clay model

Stable Diffusion 1's architecture (ε-prediction, scaled-linear noise, 4 latent channels at 1/8), only small, trained
from nothing on the procedural clay world of `dragnb.clay`: no picture and no weight comes from elsewhere. It is made
for teaching and measuring point drags offline; it knows twelve kinds of clay figures and nothing else.

| part | parameters |
|---|---|
{parts}

## Data
{drawn} (seeds 0 to {recipe["pictures"] - 1 if recipe["pictures"] else HELDOUT_SEED - 1}), 256 x 256, with captions that
name kind, colours, ground and sky. Held out: seeds from {HELDOUT_SEED}; those from 900000 are
ClayBench's: nothing is trained or tuned on them.

## Training
On {hardware}; torch {history["torch"]}.
- Autoencoder: {history["autoencoder"]["steps"]} steps of {recipe["vae_batch"]} crops of {recipe["vae_crop"]} px,
  {history["autoencoder"]["seconds"] / 60:.0f} minutes.
{unet_training(history)}

All settings: `training.json`. Again: `python -m dragnb.clay.training.train all` on a CPU,
`python -m dragnb.clay.training.train all --recipe gpu` on a GPU (longer, on pictures drawn on the fly).

![loss curves](curves.png)

## Quality, on seeds never trained on
`python -m dragnb.clay.evaluate`, profile "clay", a fine-tune of {found["settings"]["lora_steps"]} steps:

| what | measured | bar | |
|---|---|---|---|
{chr(10).join(rows)}

Content moved by family (median): {", ".join(f"{k} {v}" for k, v in s["by_family"].items())}. Mean distance from the
content's place to the target: {s["mean_distance"]} px, of {s["mean_way"]} px to go.
{found.get("note", "")}

Reconstructions (above: held-out pictures, below: encoded and decoded):

![reconstructions](reconstructions.png)

Samples of plain diffusers, 50 DDIM steps, guidance 3, one per kind, seed 0, none left out; the first prompt is
"{prompts[0]}":

![samples](samples.png)

The {len(found["edits"])} edits (each: before, edit, true picture after):

![edits](edits.png)
"""


def main(argv=None):
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--folder", type=Path, default=Path("data/models/clay"))
    p.add_argument("--hardware", required=True)
    args = p.parse_args(argv)
    history = json.loads((args.folder / "training.json").read_text())
    found = json.loads((args.folder / "evaluation.json").read_text())
    model = sd.load(str(args.folder))
    sizes = {
        n: sum(x.numel() for x in getattr(model, n).parameters()) for n in ("unet", "text_encoder", "vae")
    }
    curves(history, args.folder / "curves.png")
    reconstructions(model, args.folder / "reconstructions.png")
    prompts = samples(args.folder, args.folder / "samples.png")
    (args.folder / "README.md").write_text(text(history, found, args.hardware, prompts, sizes))
    sys.stdout.write(f"written: {args.folder / 'README.md'}\n")


if __name__ == "__main__":
    main()
