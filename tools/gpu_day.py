"""Everything that is to be known from a GPU, for whoever has one for ten minutes:  python -m tools.gpu_day

    python -m tools.gpu_day --seconds 540              the most valuable first, as far as the time goes
    python -m tools.gpu_day --only edit-fp16 compile   some steps
    python -m tools.gpu_day --toy                      every step on a CPU at toy size: does the script itself run?

Each step is a process of its own: one that fails, hangs or runs out of memory costs itself. What a step found is
written at once, to OUT/NAME.json; the same command goes on with what is missing or failed. The last thing written is
one table, OUT/gpu_day.md and OUT/gpu_day.json. The exit status is 0 where every step was done and passed.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import dragnb
from dragnb import config, metrics, sd
from dragnb.store import Store, forget
from dragnb.store.files import replacing
from tools.speed import __main__ as speed
from tools.speed import shapes

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-m", "tools.gpu_day"]
GOLDEN = ROOT / "tests" / "data" / "golden.npz"  # whole edits by the paper's method with the settings below
GOLDEN_SETTINGS = config.profile("clay", block=2, r1=4)  # no later choice of a profile changes them
# Against the picture of float32 on a CPU. Adam turns the sign of a rounding error into a whole step, so that half
# precision ends a little elsewhere: bf16 on a CPU at 57.5 dB (2026-11). The bound was never measured on a card.
LEAST_DB = {"fp32": 35.0, "bf16": 35.0, "fp16": 35.0}
MADE_BY = "tools/gpu_day.py"


def device() -> str:
    """Where the steps run."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def settled() -> float:
    """The time, once the device has done all its work."""
    if device() == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


@contextlib.contextmanager
def measured(found: dict, name: str):
    """Note a block's seconds and, on CUDA, its peak memory in GB."""
    if device() == "cuda":
        torch.cuda.reset_peak_memory_stats()
    begin = settled()
    yield
    found[f"{name} s"] = round(settled() - begin, 3)
    if device() == "cuda":
        found[f"{name} GB"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)


def an_edit(dtype: str) -> Callable:
    """A step: an edit of the bundled model in `dtype` against the same edit of float32 on a CPU."""

    def step(toy: bool, out: Path) -> dict:
        found: dict = {}
        task = dragnb.clay.task(810_001, "rabbit", "stretch", 1).task
        with np.load(GOLDEN) as golden:
            want = golden["rabbit"]
        settings = GOLDEN_SETTINGS.replace(lora_steps=2, drag_steps=2) if toy else GOLDEN_SETTINGS
        with measured(found, "edit"):
            result = dragnb.edit(task, "clay", settings, Store(out / "cache"), device=device(), dtype=dtype)
        found["dB"] = round(metrics.psnr(result.image, want), 2)
        found["most of 255"] = int(np.abs(result.image.astype(int) - want).max())
        found["bound dB"] = 0.0 if toy else LEAST_DB[dtype]  # a toy's two steps end elsewhere
        return found | {"ok": found["dB"] >= found["bound dB"]}

    return step


def shaped(toy: bool, low_memory: bool = False) -> sd.Model:
    """A model of Stable Diffusion 1.5's shape with random weights, in half precision on CUDA."""
    dtype = torch.float16 if device() == "cuda" else torch.float32
    parts = shapes.sd15(1 / 16 if toy else 1.0)
    return sd.assemble(**vars(parts), device=device(), dtype=dtype, name="sd15-shape", low_memory=low_memory)


def shape(low_memory: bool) -> Callable:
    """A step: an edit and a second drag at 512 pixels; a latent that holds NaN is an error of the edit itself."""

    def step(toy: bool, out: Path) -> dict:
        found: dict = {}
        side, few = (64, dict(steps=5, lora_steps=1, lora_batch=1, drag_steps=2)) if toy else (512, {})
        settings = config.profile("reference", **few).replace(stop=0, lora_stop=0)
        model = shaped(toy, low_memory)
        forget()
        for name, reach in (("first edit", 0.5), ("second drag", 0.25)):
            task = speed.a_task(side, side, reach=reach)
            with measured(found, name):
                result = dragnb.edit(task, model, settings, Store(out / "cache"), side=side)
        values = [*result.losses, *result.z.flatten().tolist()]
        return found | {"ok": bool(np.isfinite(values).all()), "kept": sorted(result.from_cache)}

    return step


def compare(toy: bool, out: Path) -> dict:
    """The stages of an edit beside the public code's cost structure, `python -m tools.speed --compare`."""
    words = ["--model", "clay" if toy else "sd15-shape", "--device", device(), "--repeats", "1", "--compare"]
    words += (
        ["--side", "64", "--set", "lora_steps=1", "drag_steps=1", "steps=5"] if toy else ["--side", "512"]
    )
    speed.main([*words, "--out", str(out / "speed")])
    record = json.loads(next((out / "speed").glob("*.json")).read_text())
    found: dict = {"ok": True}
    for run in ("first edit", "second drag"):
        ours, theirs = (
            sum(c["seconds"] for c in record["costs"][who][run].values()) for who in ("dragnb", "public")
        )
        found |= {f"{run} s": round(ours, 2), f"{run} public s": round(theirs, 2)}
        found[f"{run} ratio"] = round(theirs / ours, 2)
    return found


def compiled(toy: bool, out: Path) -> dict:
    """One pass of the U-Net: as it is, compiled, and compiled into CUDA graphs; the first call is left out."""
    model, side = shaped(toy), 8 if toy else 64
    z = torch.randn(1, 4, side, side, device=device(), dtype=model.dtype)
    cond = sd.embed(model, "a cat").to(device(), model.dtype)
    t, found, plain = torch.tensor(681, device=device()), {"ok": True}, None
    modes = {"as it is": None, "compiled": "default", "CUDA graphs": "reduce-overhead"}
    for name, mode in modes.items():
        if mode == "reduce-overhead" and device() == "cpu":
            found[name] = "there are none on a CPU"
            continue
        try:
            unet = model.unet if mode is None else torch.compile(model.unet, mode=mode)
            with torch.no_grad():
                begin = settled()
                first = unet(z, t, cond).sample.float().clone()
                found[f"{name}, first s"] = round(settled() - begin, 3)
                found[f"{name} ms"] = round(1000 * median_seconds(lambda: unet(z, t, cond)), 2)  # noqa: B023
            plain = first if plain is None else plain
            found[f"{name}, off by"] = float(f"{(first - plain).abs().max().item():.1e}")
        except Exception as error:  # a compiler has many ways to fail, and each is the answer that is sought
            found[name] = f"failed: {type(error).__name__}: {str(error).splitlines()[0][:120]}"
    return found


def median_seconds(work: Callable, repeats: int = 10) -> float:
    """The median time of some calls."""
    seconds = []
    for _ in range(repeats):
        begin = settled()
        work()
        seconds.append(settled() - begin)
    return statistics.median(seconds)


def notebooks(toy: bool, out: Path) -> dict:
    """All notebooks under papermill, as `make notebooks`; which one failed is in its last lines."""
    words = [sys.executable, ROOT / "tools" / "run_notebooks.py", "--out", out / "notebooks"]
    done = subprocess.run(
        [*words, *(["--only", "04"] if toy else [])], capture_output=True, text=True, check=False
    )
    lines = (done.stdout + done.stderr).strip().splitlines()
    return {"ok": done.returncode == 0, "said": lines[-12:]}


STEPS: dict[str, Callable[[bool, Path], dict]] = {  # the most valuable first
    "edit-fp16": an_edit("fp16"),
    "edit-bf16": an_edit("bf16"),
    "edit-fp32": an_edit("fp32"),
    "sd15-512": shape(low_memory=False),
    "sd15-512-low-memory": shape(low_memory=True),
    "compile": compiled,
    "compare": compare,
    "notebooks": notebooks,
}


def main(argv=None) -> int:
    """The command line: 0 where all is done and passed, else 1."""
    args = parse(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.step:
        found = STEPS[args.step](args.toy, args.out / args.step)
        write(args.out / f"{args.step}.json", {"step": args.step, **about(args.toy), **found})
        return 0 if found["ok"] else 1
    end = time.monotonic() + args.seconds
    for name in args.only or STEPS:
        if read(args.out / f"{name}.json").get("ok") and not args.again:
            print(f"{name}: done before")
            continue
        left = end - time.monotonic()
        if left < args.least:
            print(f"{name}: left out, {max(0, left):.0f} s are left; the same command goes on here")
            continue
        run(name, args, left)
    return table(args)


def parse(argv) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seconds", type=float, default=540, help="of all steps together")
    p.add_argument("--least", type=float, default=20, help="seconds that must be left to begin a step")
    p.add_argument("--only", nargs="+", choices=list(STEPS), metavar="STEP", help=", ".join(STEPS))
    p.add_argument("--again", action="store_true", help="what was done, too")
    p.add_argument("--toy", action="store_true", help="small and on any device, to try the script")
    p.add_argument("--out", type=Path, default=ROOT / "outputs" / "gpu_day")
    p.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)  # what a step's own process is told
    args = p.parse_args(argv)
    args.out = args.out.resolve()
    return args


def run(name: str, args, left: float) -> None:
    """One step in a process of its own; what went wrong there is its record."""
    words = [*COMMAND, "--step", name, "--out", args.out, *(["--toy"] if args.toy else [])]
    begin, path = time.monotonic(), args.out / f"{name}.json"
    write(path, {"step": name, "ok": False, "error": "it did not end", **about(args.toy)})
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=left, cwd=ROOT, check=False)
        said = (done.stderr.strip() or "nothing was said").splitlines()[-1]
    except subprocess.TimeoutExpired:
        said = f"stopped after {left:.0f} s"
    found = read(path)
    if "error" in found:
        found["error"] = said[:300]
    write(path, found | {"seconds": round(time.monotonic() - begin, 1)})
    print(f"{name}: {'ok' if found['ok'] else found.get('error', 'FAILED')}", flush=True)


def about(toy: bool) -> dict:
    """Where a record comes from."""
    card = torch.cuda.get_device_name() if device() == "cuda" else "CPU"
    return {"made_by": MADE_BY, "device": card, "torch": torch.__version__, "toy": toy}


def read(path: Path) -> dict:
    """A step's record; empty where there is none."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}


def write(path: Path, record: dict) -> None:
    """A record, over nothing but an older one."""
    with replacing(path, ours=lambda old: read(old).get("made_by") == MADE_BY) as temp:
        temp.write_text(json.dumps(record, indent=1))


def table(args) -> int:
    """Write and print the one table of all steps; 0 where all that were asked for are done and passed."""
    records = {name: read(args.out / f"{name}.json") for name in STEPS}
    lines = [f"<!-- {MADE_BY} -->", "| step | result | device | figures |", "|---|---|---|---|"]
    kept_back = ("step", "ok", "device", "torch", "toy", "made_by")
    for name, record in records.items():
        result = {True: "ok", False: "FAILED", None: "not run"}[record.get("ok")]
        result += " (toy)" if record.get("toy") else ""
        told = "; ".join(f"{k} {v}" for k, v in record.items() if k not in kept_back).replace("|", "/")
        lines.append(f"| {name} | {result} | {record.get('device', '')} | {told} |")
    write(args.out / "gpu_day.json", {"made_by": MADE_BY, "steps": records})
    with replacing(args.out / "gpu_day.md", ours=lambda old: MADE_BY in old.read_text()) as temp:
        temp.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return 0 if all(records[name].get("ok") for name in args.only or STEPS) else 1


if __name__ == "__main__":
    sys.exit(main())
