"""Train the bundled model: `python -m dragnb.clay.training PART --out FOLDER --recipe cpu`.

Parts: `pictures` draws the training set, `autoencoder` and `unet` train (each resumes exactly where a kill left it),
`export` writes the diffusers folder (--folder, else beside the checkpoints), `all` does them in turn; `adopt` begins
from a finished model (--folder, else the bundled one) instead of from nothing. `gpu` does all of it within --seconds by
the clock, as its own plan says, and writes the folder in pieces.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path

import torch

from dragnb.clay.training import gpu
from dragnb.clay.training.data import RECIPES, Pictures
from dragnb.clay.training.loop import SHOW_EVERY, adopt, export, train_autoencoder, train_unet

SHIPPED = Path("data/models/clay")
SWITCH = {"0": False, "false": False, "1": True, "true": True}


def changed(recipe, item):
    """The recipe with one number changed by an item `name=value`; ValueError where it has no such number."""
    name, _, text = item.partition("=")
    kind = {f.name: type(f.default) for f in dataclasses.fields(recipe)}.get(name)
    if kind not in (bool, int, float, str):
        raise ValueError(f"a recipe has no number {name!r}")
    if kind is bool:
        if text.lower() not in SWITCH:
            raise ValueError(f"must be one of {', '.join(SWITCH)}")
        return dataclasses.replace(recipe, **{name: SWITCH[text.lower()]})
    return dataclasses.replace(recipe, **{name: kind(text)})


def parse(argv):
    """The arguments, and the recipe with its changes."""
    p = argparse.ArgumentParser(prog="python -m dragnb.clay.training", description=__doc__.split("\n")[0])
    add, device = p.add_argument, "cuda" if torch.cuda.is_available() else "cpu"
    add("part", choices=["pictures", "adopt", "autoencoder", "unet", "export", "all", "gpu"])
    add("--out", type=Path, default=Path("runs/clay"), help="folder of pictures, checkpoints and logs")
    add("--recipe", choices=list(RECIPES), default="cpu")
    add("--device", default=device, choices=["cpu", "cuda"])
    add("--folder", type=Path, help=f"what export writes (default: OUT/model) and adopt reads ({SHIPPED})")
    add("--seconds", type=float, help="of `gpu`: all that it may take, less what its start takes")
    add("--set", nargs="*", default=[], metavar="NAME=VALUE", help="change single numbers of the recipe")
    args = p.parse_args(argv)
    recipe = gpu.Plan() if args.part == "gpu" else RECIPES[args.recipe]
    if args.part == "gpu" and args.seconds:
        recipe = dataclasses.replace(recipe, seconds=args.seconds)
    for item in args.set:
        try:
            recipe = changed(recipe, item)
        except ValueError as error:
            p.error(f"--set {item}: {error}")
    return args, recipe


def main(argv=None):
    """The command line."""
    args, recipe = parse(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.part == "gpu":
        gpu.train(recipe, args.out, args.device)
    if args.part == "adopt":
        adopt(recipe, args.out, args.folder or SHIPPED)
    if args.part in ("pictures", "all"):
        Pictures(recipe, args.out).prepare(lambda done, total: _say(f"pictures {done}/{total}"))
    for name, train in (("autoencoder", train_autoencoder), ("unet", train_unet)):
        if args.part in (name, "all"):
            started = time.monotonic()
            for step, loss, lr in train(recipe, args.out, args.device):
                if step % SHOW_EVERY == 0:
                    _say(f"{name} {step} loss {loss:.5f} lr {lr:.1e} {time.monotonic() - started:.0f} s")
    if args.part in ("export", "all"):
        folder = export(recipe, args.out, args.folder or args.out / "model")
        _say(f"written: {folder}")


def _say(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
