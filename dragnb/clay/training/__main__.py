"""Train the bundled model: `python -m dragnb.clay.training PART --out FOLDER --recipe cpu`.

Parts: `pictures` draws the training set, `autoencoder` and `unet` train (each resumes exactly where a kill left it),
`export` writes the diffusers folder, `all` does them in turn; `adopt` begins from a finished model instead of from
nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path

import torch

from dragnb.clay.training.data import RECIPES, Pictures, Recipe
from dragnb.clay.training.loop import adopt, export, train_autoencoder, train_unet


def main(argv=None):
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m dragnb.clay.training", description=__doc__.split("\n")[0])
    p.add_argument("part", choices=["pictures", "adopt", "autoencoder", "unet", "export", "all"])
    p.add_argument(
        "--out", type=Path, default=Path("runs/clay"), help="folder of pictures, checkpoints and logs"
    )
    p.add_argument("--recipe", choices=list(RECIPES), default="cpu")
    p.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"]
    )
    p.add_argument(
        "--folder",
        type=Path,
        default=Path("data/models/clay"),
        help="the model that export writes and adopt reads",
    )
    p.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="change single numbers of the recipe"
    )
    args = p.parse_args(argv)
    recipe = RECIPES[args.recipe]
    for item in args.set:
        name, _, value = item.partition("=")
        kind = {f.name: type(f.default) for f in dataclasses.fields(Recipe)}.get(name)
        if kind not in (int, float, str):
            p.error(f"--set {item}: a recipe has no number {name!r}")
        recipe = dataclasses.replace(recipe, **{name: kind(value)})
    args.out.mkdir(parents=True, exist_ok=True)
    if args.part == "adopt":
        adopt(recipe, args.out, args.folder)
    if args.part in ("pictures", "all"):
        Pictures(recipe, args.out).prepare(lambda done, total: _say(f"pictures {done}/{total}"))
    for name, train in (("autoencoder", train_autoencoder), ("unet", train_unet)):
        if args.part in (name, "all"):
            started = time.monotonic()
            for step, loss, lr in train(recipe, args.out, args.device):
                if step % 50 == 0:
                    _say(f"{name} {step} loss {loss:.5f} lr {lr:.1e} {time.monotonic() - started:.0f} s")
    if args.part in ("export", "all"):
        _say(f"written: {export(recipe, args.out, args.folder)}")


def _say(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
