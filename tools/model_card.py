"""Write the bundled model's card, after `dragnb.clay.training export`: `python tools/model_card.py --measure --jobs 2`.

--measure runs a sweep over held-out clay tasks (it goes on where it was killed) and asks the autoencoder for held-out
pictures; the figures go to evaluation.json beside the weights, the edits to edits.png (by the default method) and
edits_paper.png. All else of the card is read
from there and from training.json or drawn from the model itself. What it was trained on is told by --hardware "two
cores of an AMD EPYC", unless training.json says it.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import sys
from pathlib import Path

import numpy as np
import pandas
import torch
from matplotlib.figure import Figure
from PIL import Image

from dragnb import metrics, sd, sweep, viz
from dragnb.clay.claybench import Entry
from dragnb.clay.scene import KINDS, sample
from dragnb.clay.tasks import tasks
from dragnb.clay.training.data import HELDOUT_SEED
from dragnb.clay.training.gpu import Plan
from dragnb.clay.training.measure import autoencoder_psnr, reconstruct
from dragnb.config import profile, suited
from dragnb.metrics.judge import Judge
from dragnb.store.files import replacing, sign_png, signed
from dragnb.sweep import grids

BARS = {"autoencoder_psnr": 30.0, "roundtrip_psnr": 26.0, "moved": 0.6, "rest_psnr": 26.0}
NAMES = {
    "autoencoder_psnr": "autoencoder, mean PSNR over {pictures} held-out pictures (dB)",
    "roundtrip_psnr": "to t = 35 of 50 and back after the fine-tune, median PSNR against the picture (dB)",
    "moved": "content moved, median over {edits} held-out clay tasks (fraction of the way)",
    "rest_psnr": "picture off the mask after the edit, median PSNR against the original (dB)",
}
FULL, BACK, WARPED = "full", "there and back", "warp_inpaint"
PLACE = suited("clay").t, suited("clay").block  # the folder is the bundled model's, by whatever path
DATA = "held-out clay tasks"
COLUMNS = "category way moved oracle_distance rest_psnr roundtrip_psnr truth_psnr seconds".split()
TITLES = ("# The clay model", "# The clay model, for the world's second version as well")
BESIDE = 3  # edits in a row of edits.png


def measure(folder: Path, out: Path, base, count: int, pictures: int, jobs: int, world: int = 1) -> dict:
    """The figures of the card, written to evaluation.json, and edits.png; both into the model's folder.

    out   where the sweep goes, in a folder named after model, settings and judge
    base  the settings of the edits; count, pictures: how many edits and how many pictures of the autoencoder
    world the version of the clay world that they are of
    """
    entries = [
        Entry(clay.seed, clay.kind, clay.edit, pairs=1, version=world) for clay in tasks(count, version=world)
    ]
    methods = grids.methods(base) | {WARPED: profile(WARPED, steps=base.steps)}
    settings, model = {name: methods[name] for name in (FULL, BACK, WARPED)}, str(folder)
    judge = Judge(model, *PLACE, fidelity=False, variants=False)
    place = sweep.folder(out, settings, model, judge, data=DATA)
    for progress in sweep.run(entries, settings, place, model, judge, jobs=jobs, keep=True, data=DATA):
        print(progress, flush=True)
    rows = edits(place, entries)
    autoencoder = pandas.DataFrame(autoencoder_psnr(sd.load(model), pictures, world))
    found = {"summary": summary(autoencoder, rows), "bars": BARS, "pictures": pictures, "world": world}
    found |= {"edits": json.loads(rows.to_json(orient="records")), "settings": settings[FULL].as_dict()}
    table = sweep.table(place)
    found["success"] = {name: int(table[table.setting == name].success.sum()) for name in (WARPED, FULL)}
    picture_grid(place, entries, folder / "edits.png", WARPED)
    picture_grid(place, entries, folder / "edits_paper.png", FULL)
    with replacing(folder / "evaluation.json", ours=is_evaluation) as temp:
        temp.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def is_evaluation(path: Path) -> bool:
    """Are these figures that `measure` wrote?"""
    return {"summary", "bars", "edits"} <= {*json.loads(path.read_bytes())}


def is_card(path: Path) -> bool:
    """Is this a card that `text` wrote?"""
    text = path.read_text(encoding="utf-8")
    return any(f"\n{title}\n" in text for title in TITLES)


def kept(place: Path, entry: Entry, setting: str) -> np.ndarray:
    """A picture that the sweep has kept."""
    return np.array(Image.open(sweep.picture_path(place, entry.name, setting)))


def edits(place: Path, entries: list[Entry]) -> pandas.DataFrame:
    """A row for each edit of the sweep: its figures, px that it had to go, the PSNR of going there and back."""
    table = sweep.table(place)
    if table.error.notna().any():
        failed = table[table.error.notna()].iloc[0]
        sys.exit(f"{failed['sample']} / {failed.setting}: {failed.error}")
    rows = table[table.setting == FULL].set_index("sample").loc[[entry.name for entry in entries]]
    tasks = [entry.task() for entry in entries]
    rows["way"] = [np.hypot(*(task.targets - task.handles).T).mean() for task in tasks]
    rows["roundtrip_psnr"] = [
        metrics.psnr(kept(place, entry, BACK), task.image) for entry, task in zip(entries, tasks, strict=True)
    ]
    return rows[COLUMNS].round(3).reset_index()


def summary(autoencoder: pandas.DataFrame, rows: pandas.DataFrame) -> dict:
    """The four figures the bars stand for, and a few more."""
    medians = rows[["roundtrip_psnr", "moved", "rest_psnr"]].median().round(2)
    psnr = autoencoder.mean().round(2).rename({"whole": "autoencoder"}).add_suffix("_psnr")
    means = {"mean_distance": rows.oracle_distance.mean(), "mean_way": rows.way.mean()}
    families = {"by_family": rows.groupby("category").moved.median().round(2).to_dict()}
    return psnr.to_dict() | medians.to_dict() | {k: round(v, 2) for k, v in means.items()} | families


def picture_grid(place: Path, entries: list[Entry], path: Path, setting: str) -> Path:
    """Of every task the drag drawn on its picture, its edit by a setting, and the true picture after."""
    fig, axes = viz.figure(-(-len(entries) // BESIDE), 3 * BESIDE, (1.6, 1.6))
    places = axes.reshape(-1, 3)
    for (before, after, truth), entry in zip(places, entries, strict=False):
        viz.draw_drag(before, entry.task(), mask=False)
        viz.show(after, kept(place, entry, setting))
        viz.show(truth, entry.truth_image)
    for ax in places[len(entries) :].flat:
        ax.set_visible(False)
    return viz.save(fig, path.parent, path.stem)


def hardware_of(history: dict | None) -> str | None:
    """What a model was trained on, as its training.json or that of the model before it says."""
    while history:
        if history.get("hardware"):
            return history["hardware"]
        history = history.get("before")
    return None


def curves(history, path):
    """Both loss curves, drawn to a PNG."""
    fig = Figure(figsize=(8, 2.8), layout="constrained")
    labels = {"autoencoder": "squared error, pixels in [-1, 1]", "unet": "ε error"}
    if by_the_clock(history):
        labels = {"autoencoder": "loss of a step", "unet": "loss of a step"}
    for ax, (name, label) in zip(fig.subplots(1, 2), labels.items(), strict=True):
        steps, losses = zip(*history[name]["curve"], strict=True)
        ax.semilogy(steps, losses)
        ax.set(title=name, xlabel="step", ylabel=label)
    viz.save(fig, path.parent, path.stem, dpi=80)


def by_the_clock(history: dict) -> bool:
    """Was a model trained by the clock, by `training gpu`?"""
    return "seconds" in history["recipe"]


def world_of(history: dict) -> int:
    """The newest version of the clay world that a model was trained on."""
    return history["recipe"].get("world", 1)


def reconstructions(model, path, world=1):
    """Two rows: held-out pictures, the same encoded and decoded."""
    scenes = [sample(HELDOUT_SEED + 300 + i, kind, version=world) for i, kind in enumerate(KINDS)]
    pictures = [scene.picture() for scene in scenes]
    sheet([*pictures, *(reconstruct(model, picture) for picture in pictures)], len(KINDS), path)


def captions(world=1):
    """One prompt a kind, of scenes that the model was not trained on."""
    return [sample(HELDOUT_SEED + 500 + i, kind, version=world).caption for i, kind in enumerate(KINDS)]


def samples(folder, path, world=1):
    """Samples of plain diffusers from these captions, with guidance."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    made = pipe(captions(world), num_inference_steps=50, guidance_scale=3.0, generator=generator)
    sheet([np.asarray(image) for image in made.images], len(KINDS), path)


def sizes(model):
    """Parameters of each part."""
    parts = ("unet", "text_encoder", "vae")
    return {name: sum(x.numel() for x in getattr(model, name).parameters()) for name in parts}


def sheet(pictures, columns, path):
    """A grid of pictures at half size."""
    rows = [np.concatenate(pictures[i : i + columns], 1) for i in range(0, len(pictures), columns)]
    grid = Image.fromarray(np.concatenate(rows, 0))
    small, buffer = grid.resize((grid.width // 2, grid.height // 2), Image.LANCZOS), io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    with replacing(path, ours=signed) as temp:
        temp.write_bytes(sign_png(buffer.getvalue()))


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


def quality(found):
    """What was measured, as lines of a table with their bars, and in words."""
    s, counts = found["summary"], {"pictures": found["pictures"], "edits": len(found["edits"])}
    rows = []
    for key, meaning in NAMES.items():
        gap = s[key] - BARS[key]
        verdict = "reached" if gap >= 0 else f"missed by {-gap:.2f}"
        rows.append(f"| {meaning.format(**counts)} | {s[key]} | {BARS[key]} | {verdict} |")
    families = ", ".join(f"{family} {moved}" for family, moved in s["by_family"].items())
    told = f"""Content moved by family (median): {families}. Mean distance from the
content's place to the target: {s["mean_distance"]} px, of {s["mean_way"]} px to go.
"""
    if "figure_psnr" in s:
        told += (
            f"The autoencoder by pixels: figures {s['figure_psnr']} dB, backdrops {s['backdrop_psnr']} dB.\n"
        )
    return "\n".join(rows), told + found.get("note", "")


def pictures(found):
    """The edits as pictures, each method's with how many succeed."""
    count = len(found["edits"])
    success = {k: f"{n} succeed{'s' if n == 1 else ''}" for k, n in found["success"].items()}
    return f"""The {count} edits by the default of `dragnb.edit`, which moves pixels and has this model paint what
that uncovers (`warp_inpaint`); {success[WARPED]} by `clay.judge` (each: before, edit, true picture after):

![edits](edits.png)

The same by DragDiffusion itself, which has this model redraw all that is in the mask; {success[FULL]}:

![edits by the paper's method](edits_paper.png)
"""


def drawn(history):
    """What pictures a model was trained on, and of which seeds."""
    recipe = history["recipe"]
    if by_the_clock(history):
        both = " of both versions of the world in turn" if recipe["older"] else ""
        count, first = history["pictures"], recipe.get("first", 0)
        return f"{count:,} pictures{both}, drawn while it trained (seeds {first} to {first + count - 1})"
    if recipe["pictures"]:
        return f"{recipe['pictures']:,} pictures drawn once (seeds 0 to {recipe['pictures'] - 1})"
    return f"pictures drawn on the fly (seeds 0 to {HELDOUT_SEED - 1})"


def again(history):
    """The command that trains such a model, as Markdown."""
    recipe = history["recipe"]
    command = "`python -m dragnb.clay.training"
    if not by_the_clock(history):
        return f"""{command} all` on a CPU,
{command} all --recipe gpu` on a GPU (longer, on pictures drawn on the fly)"""
    usual = dataclasses.asdict(Plan())
    changed = {k: v for k, v in recipe.items() if k != "seconds" and usual.get(k) != v}
    words = " ".join(f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in changed.items())
    return f"{command} gpu --seconds {recipe['seconds']:g} --set {words}` on a card"


def text(history, found, hardware, model):
    """The card, in Markdown."""
    recipe, (rows, told), world = history["recipe"], quality(found), world_of(history)
    parts = "\n".join(f"| {name} | {count / 1e6:.2f} M |" for name, count in sizes(model).items())
    patterns = "patterns, " if world > 1 else ""
    second = ", of the world's second version" if world > 1 else ""
    folder = f" --folder data/models/{model.name}" if world > 1 else ""
    return f"""---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
{TITLES[world > 1]}

Stable Diffusion 1's architecture (ε-prediction, scaled-linear noise, 4 latent channels at 1/8), only small, trained
from nothing on the procedural clay world of `dragnb.clay`: no picture and no weight comes from elsewhere. It is made
for teaching and measuring point drags offline; it knows twelve kinds of clay figures and nothing else.

| part | parameters |
|---|---|
{parts}

## Data
{drawn(history)}, 256 x 256, with captions that
name kind, colours, {patterns}ground and sky. Held out: seeds from {HELDOUT_SEED}, on which
settings and the judge are tuned; those from 900000 are ClayBench's: nothing is tuned on them either.

## Training
On {hardware}; torch {history["torch"]}.
- Autoencoder: {history["autoencoder"]["steps"]} steps of {recipe["vae_batch"]} crops of {recipe["vae_crop"]} px,
  {history["autoencoder"]["seconds"] / 60:.0f} minutes.
{unet_training(history)}

All settings: `training.json`. Again: {again(history)}.

The losses, of the autoencoder and of the last go of the U-Net:

![loss curves](curves.png)

## Quality, on seeds never trained on{second}
`python tools/model_card.py --measure{folder}`, by the paper's method (profile "clay",
a fine-tune of {found["settings"]["lora_steps"]} steps):

| what | measured | bar | |
|---|---|---|---|
{rows}

{told}

Reconstructions (above: held-out pictures, below: encoded and decoded):

![reconstructions](reconstructions.png)

Samples of plain diffusers, 50 DDIM steps, guidance 3, one per kind, seed 0, none left out; the first prompt is
"{captions(world)[0]}":

![samples](samples.png)

{pictures(found)}"""


def main(argv=None):
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = p.add_argument
    add("--folder", type=Path, default=Path("data/models/clay"))
    add("--hardware", help="what the model was trained on; default: what training.json says")
    add("--measure", action="store_true", help="measure anew; else evaluation.json is read as it is")
    add("--jobs", type=int, default=1, help="processes that edit at once")
    add("--tasks", type=int, default=24, help="how many edits are measured")
    add("--pictures", type=int, default=200, help="how many pictures of the autoencoder")
    add("--out", type=Path, default=Path("outputs/card"), help="where the sweep goes")
    args = p.parse_args(argv)
    history = json.loads((args.folder / "training.json").read_text())
    hardware = args.hardware or hardware_of(history)
    if not hardware:
        p.error("--hardware: training.json does not say what the model was trained on; say it here")
    world = world_of(history)
    if args.measure:
        measure(args.folder, args.out, profile("clay"), args.tasks, args.pictures, args.jobs, world)
    found, model = json.loads((args.folder / "evaluation.json").read_text()), sd.load(str(args.folder))
    curves(history, args.folder / "curves.png")
    reconstructions(model, args.folder / "reconstructions.png", world)
    samples(args.folder, args.folder / "samples.png", world)
    with replacing(args.folder / "README.md", ours=is_card) as temp:
        temp.write_text(text(history, found, hardware, model), encoding="utf-8")
    print(f"written: {args.folder / 'README.md'}")


if __name__ == "__main__":
    main()
