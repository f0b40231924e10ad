"""Measure an edit: `python -m tools.speed [--model clay] [--side 256] [--compare] [--curves] [--out FOLDER]`.

Every stage of a first edit and of a second drag on the same picture: seconds (median over `--repeats` after one
warm-up), passes through the U-Net, FLOPs and what part of the device's own matrix rate they ran at, peak memory.
`--compare` runs the public code's cost structure in the same process and gives the ratios. Written are a table to
the terminal, `NAME.json` and `NAME.png`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import sys
from pathlib import Path

import numpy as np
import torch

from dragnb import sd
from dragnb.clay import tasks as clay_tasks
from dragnb.config import profile
from dragnb.errors import InputError
from dragnb.store.files import replacing
from dragnb.sweep import options
from dragnb.task import DragTask
from tools.speed import curves, ours, public, report, shapes
from tools.speed.meter import Cost, matrix_rate

SIDES = {"dragnb": ours, "public": public}


def a_task(width: int, height: int, pairs: int = 1, reach: float = 0.5) -> DragTask:
    """Noise with `pairs` drags over `reach` quarters of the width, masked around them; content is no matter."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), bool)
    mask[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = True
    rows = np.linspace(0.3, 0.7, pairs) * height
    handles = np.stack([np.full(pairs, width * 0.4), rows], 1)
    far = width / 4 * reach + 0.37  # no whole number of cells, so that no tracker ends a run early
    return DragTask(image, handles, handles + [far, 0], mask, "a red cat on green ground")


def two_drags(seed: int) -> list[DragTask]:
    """The clay task of a seed, and another drag on its picture: half as far."""
    first = clay_tasks.task(seed).task
    return [first, dataclasses.replace(first, targets=(first.handles + first.targets) / 2)]


def median(costs: list[Cost], flops: Cost) -> Cost:
    """The median seconds and the largest memory of several runs, with the FLOPs counted in another."""
    return dataclasses.replace(
        costs[0], seconds=statistics.median(c.seconds for c in costs), flops=flops.flops,
        allocated=max(c.allocated for c in costs), resident=max(c.resident for c in costs),
    )  # fmt: skip


def measure(side_of, tasks, model, settings, side, repeats):
    """{"first edit": {stage: Cost}, "second drag": ...} of one implementation, medians over the repeats."""
    counted = side_of.first_and_repeat(*tasks, model, settings, side, flops=True)  # warms up as well
    runs = [side_of.first_and_repeat(*tasks, model, settings, side) for _ in range(repeats)]
    return {
        name: {s: median([run[i][s] for run in runs], counted[i][s]) for s in runs[0][i]}
        for i, name in enumerate(report.RUNS)
    }


def hardware(device: torch.device) -> dict:
    """What the figures came from."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [x.split(":")[1].strip() for x in info.read_text().splitlines() if x.startswith("model name")]
        cpu = names[0] if names else cpu
    gpu = torch.cuda.get_device_name() if device.type == "cuda" else None
    return {"cpu": cpu, "threads": torch.get_num_threads(), "gpu": gpu}


def a_setting(text: str) -> tuple[str, object]:
    """`lora_steps=60` -> ("lora_steps", 60); what is no JSON is a string."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def load(name: str, device: str = "auto", dtype: str = "auto", low_memory: bool = False, **files):
    """A model by name, as `sd.load`; `sd15-shape` is Stable Diffusion 1.5's shape with random weights."""
    if name != "sd15-shape":
        return sd.load(name, device=device, dtype=dtype, low_memory=low_memory, **files)
    if given := [word for word, value in files.items() if value]:
        raise InputError(f"{given[0]}: sd15-shape has random weights; leave it out, or give a model")
    parts, where = shapes.sd15(), sd.pick_device(device)
    return sd.assemble(**vars(parts), device=where, dtype=sd.pick_dtype(dtype, where), name=name, hash=name,
        low_memory=low_memory)  # fmt: skip


def write(path, record):
    """A record as JSON beside its chart, over nothing but an older one."""
    with replacing(path.with_suffix(".json"), ours=is_record) as temp:
        temp.write_text(json.dumps(record, indent=1))


def is_record(path):
    """Is this a record of an earlier measurement?"""
    return {"model", "hardware", "repeats"} <= {*json.loads(path.read_bytes())}


def main(argv=None):
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m tools.speed", description=__doc__.split("\n")[0])
    p.add_argument("--model", default="clay", help="as in the notebooks, or sd15-shape (random weights)")
    options.add_options(p.add_argument)
    p.add_argument("--profile", default="fast")
    p.add_argument(
        "--set", type=a_setting, nargs="*", default=[], metavar="NAME=VALUE", help="settings to change"
    )
    p.add_argument(
        "--side", type=int, nargs="*", default=[], metavar="N", help="width [height] of the picture"
    )
    p.add_argument("--pairs", type=int, default=1)
    p.add_argument(
        "--task", type=int, metavar="SEED", help="instead of noise: a clay task, ending as it ends"
    )
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--compare", action="store_true", help="also run the public code's cost structure")
    p.add_argument(
        "--curves", action="store_true", help="instead: cost against picture size and number of pairs"
    )
    p.add_argument("--out", type=Path, default=Path("outputs/benchmark"))
    args = p.parse_args(argv)
    model = load(args.model, **options.loading(args))
    width, height = (args.side * 2)[:2] if args.side else (model.side, model.side)
    settings = profile(args.profile, **dict(args.set))
    if args.task is None:
        settings = settings.replace(stop=0, lora_stop=0)  # no early end: every run does all its iterations
        tasks = [a_task(width, height, args.pairs, reach) for reach in (0.5, 0.25)]
    else:
        tasks = two_drags(args.task)
    record = {
        "model": args.model, "dtype": str(model.dtype), "repeats": args.repeats, "torch": torch.__version__,
        "hardware": hardware(model.device), "low_memory": model.low_memory, "settings": settings.as_dict(),
    }  # fmt: skip
    if args.curves:
        found = curves.measure(model, a_task, settings, args.repeats, sys.stdout.write)
        name = f"{Path(args.model).name}-curves-{model.device.type}"
        write(args.out / name, record | {"points": found})
        curves.chart(found, args.out / f"{name}.png", f"{args.model}, {model.device.type}")
        return
    rate = matrix_rate(model.device, model.dtype)
    found = {
        who: measure(SIDES[who], tasks, model, settings, max(width, height), args.repeats)
        for who in (SIDES if args.compare else ("dragnb",))
    }
    text = report.table(found, rate)
    sys.stdout.write(text + "\n")
    name = f"{Path(args.model).name}-{width}x{height}-{model.device.type}"
    name += "" if args.task is None else f"-{tasks[0].name}-{args.profile}"
    costs = {
        who: {
            run: {stage: dataclasses.asdict(c) for stage, c in stages.items()} for run, stages in of.items()
        }
        for who, of in found.items()
    }
    more = {"size": [width, height], "pairs": args.pairs, "matrix_rate": rate, "costs": costs}
    write(args.out / name, record | more)
    report.chart(found, args.out / f"{name}.png", f"{args.model}, {width}×{height}, {model.device.type}")


if __name__ == "__main__":
    main()
