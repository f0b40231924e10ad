"""How good is the bundled model? `python -m dragnb.clay.evaluate [--model FOLDER]` prints three figures and their bars.

Everything is measured on seeds never trained on: the autoencoder on whole pictures, the way to t = ts[0] and back
after the fine-tune, and drags whose outcome the oracle of `clay.oracle` reads.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from dragnb import metrics, sd
from dragnb.clay.oracle import locate
from dragnb.clay.scene import sample
from dragnb.clay.tasks import tasks
from dragnb.clay.training.recipe import HELDOUT_SEED
from dragnb.config import profile
from dragnb.geometry import Frame
from dragnb.pipeline import edit

BARS = {"autoencoder_psnr": 30.0, "roundtrip_psnr": 26.0, "moved": 0.6, "rest_psnr": 26.0}


def decoded(model, z):
    """The uint8 picture of a latent of a 256 px picture."""
    return Frame.fit(256, 256, 256).from_canvas(sd.decode(model, z))


def autoencoder(model, count=200):
    """PSNR in dB of encoding and decoding `count` held-out pictures, one by one."""
    frame = Frame.fit(256, 256, 256)
    for i in range(count):
        picture = sample(HELDOUT_SEED + i).picture()
        yield metrics.psnr(picture, decoded(model, sd.encode(model, frame.to_canvas(picture))))


def edits(model, count=24, settings=None, store=None, clays=None):
    """Edit `count` held-out clay tasks; yields (clay task, Result, figures of the one edit)."""
    settings = settings or profile("clay")
    for clay in clays or tasks(count):
        started = time.perf_counter()
        result = edit(clay.task, model, settings, store)
        seconds = time.perf_counter() - started
        prepared = result.prepared
        back = prepared.back if prepared.back is not None else prepared.z0
        verdict = locate(clay, result.image)
        way = float(np.hypot(*(clay.task.targets[0] - clay.task.handles[0])))
        figures = dict(
            kind=clay.kind, family=clay.family, edit=clay.edit, seed=clay.seed, way=round(way, 1),
            moved=round(verdict.moved, 3), distance=round(verdict.distance, 2),
            rest_psnr=round(metrics.psnr(result.image, clay.task.image, ~clay.task.mask), 2),
            roundtrip_psnr=round(metrics.psnr(decoded(model, back), clay.task.image), 2),
            truth_psnr=round(metrics.psnr(result.image, clay.picture_after), 2),
            steps=len(result.states) - 1, reached=bool(result.reached), seconds=round(seconds, 1),
        )  # fmt: skip
        yield clay, result, figures


def _one_edit(job):
    """One task in a worker process: its figures, and before, edit and truth side by side."""
    name, clay, settings, threads = job
    if threads:
        torch.set_num_threads(threads)
    ((_, result, row),) = edits(sd.load(name), settings=settings, clays=[clay])
    return row, np.concatenate([clay.task.image, result.image, clay.picture_after], 1)


def all_edits(name, count, settings, jobs=1):
    """The rows and strips of `count` tasks in order, as they come, from `jobs` processes that share the cores."""
    threads = max(1, torch.get_num_threads() // jobs) if jobs > 1 else 0
    work = [(name, clay, settings, threads) for clay in tasks(count)]
    if jobs == 1:
        yield from map(_one_edit, work)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_one_edit, work)


def summary(psnrs, rows):
    """The four figures the bars stand for, and a few more."""
    of = {
        name: np.array([row[name] for row in rows], float)
        for name in ("moved", "rest_psnr", "roundtrip_psnr", "distance", "way")
    }
    families = np.array([row["family"] for row in rows])
    return {
        "autoencoder_psnr": round(float(np.mean(psnrs)), 2),
        "roundtrip_psnr": round(float(np.median(of["roundtrip_psnr"])), 2),
        "moved": round(float(np.median(of["moved"])), 3),
        "rest_psnr": round(float(np.median(of["rest_psnr"])), 2),
        "mean_distance": round(float(of["distance"].mean()), 2),
        "mean_way": round(float(of["way"].mean()), 2),
        "by_family": {f: round(float(np.median(of["moved"][families == f])), 3) for f in sorted(set(families))},
    }  # fmt: skip


def main(argv=None):
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m dragnb.clay.evaluate", description=__doc__.split("\n")[0])
    p.add_argument("--model", default="clay")
    p.add_argument("--pictures", type=int, default=200)
    p.add_argument("--tasks", type=int, default=24)
    p.add_argument("--jobs", type=int, default=1, help="processes that edit at once; they share the cores")
    p.add_argument("--profile", default="clay")
    p.add_argument("--out", type=Path, help="folder for evaluation.json and edits.png")
    args = p.parse_args(argv)
    model = sd.load(args.model)
    psnrs = list(autoencoder(model, args.pictures))
    _say(f"autoencoder: {np.mean(psnrs):.2f} dB over {len(psnrs)} pictures, worst {np.min(psnrs):.2f}")
    rows, strips = [], []
    for row, strip in all_edits(args.model, args.tasks, profile(args.profile), args.jobs):
        _say("  ".join(f"{k} {v}" for k, v in row.items()))
        rows.append(row)
        strips.append(strip)
    found = summary(psnrs, rows)
    for name, bar in BARS.items():
        _say(
            f"{name}: {found[name]} (bar {bar}){'' if found[name] >= bar else f', missed by {bar - found[name]:.2f}'}"
        )
    if args.out:
        from PIL import Image

        args.out.mkdir(parents=True, exist_ok=True)
        grid = [np.concatenate(strips[i : i + 3], 1) for i in range(0, len(strips) - len(strips) % 3, 3)]
        Image.fromarray(np.concatenate(grid, 0)).resize((9 * 128, len(grid) * 128)).save(
            args.out / "edits.png"
        )
        text = {"summary": found, "bars": BARS, "edits": rows, "settings": profile(args.profile).as_dict()}
        (args.out / "evaluation.json").write_text(json.dumps(text, indent=1))


def _say(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
