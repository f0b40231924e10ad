"""Cost against the picture's size and the number of pairs: milliseconds a step of each stage, from short edits.

A whole edit is 80 steps of the fine-tune, 70 of the inversion (up, and the reference's way back), up to 80 of the drag
and 35 of the denoising; what a step costs does not depend on how many there are.
"""

from __future__ import annotations

import statistics

from tools.speed import ours

SIDES = (128, 192, 256, 320, 384)
PAIRS = (1, 2, 4, 8, 16)
STAGES = ("finetune", "invert", "drag", "denoise")
MILLISECONDS = (10, 20, 50, 100, 200, 500, 1000)  # marks of the axis
FEW = dict(lora_steps=4, drag_steps=6, strength=0.1)  # of each stage so many, after one warm-up


def steps(settings) -> dict[str, int]:
    """How many steps a short edit makes of each stage; the drag's last look costs half a step or less."""
    levels = round(settings.steps * settings.strength)
    return {
        "finetune": settings.lora_steps,
        "invert": 2 * levels,
        "drag": settings.drag_steps,
        "denoise": levels,
    }


def point(model, task, settings, side, repeats) -> dict[str, float]:
    """Milliseconds a step of each stage, and the process' peak in GB."""
    settings = settings.replace(**FEW)
    runs = [ours.first_and_repeat(task, task, model, settings, side)[0] for _ in range(repeats + 1)][1:]
    found = {
        name: 1e3 * statistics.median(run[name].seconds for run in runs) / count
        for name, count in steps(settings).items()
    }
    memory = max(cost.allocated or cost.resident for run in runs for cost in run.values())
    return found | {"gigabytes": memory / 1e9}


def measure(model, make_task, settings, repeats, say=lambda text: None) -> dict:
    """{"side": {n: point}, "pairs": {n: point}}; the first with one pair, the second at the model's own side."""
    found = {"side": {}, "pairs": {}}
    for what, values in (("side", SIDES), ("pairs", PAIRS)):
        for n in values:
            side, pairs = (n, 1) if what == "side" else (model.side, n)
            found[what][n] = point(model, make_task(side, side, pairs), settings, side, repeats)
            row = "  ".join(f"{k} {v:.1f}" for k, v in found[what][n].items())
            say(f"{what} {n}: {row}\n")
    return found


def chart(found, path, title):
    """Two panels: against the side, and against the number of pairs."""
    from matplotlib.figure import Figure

    from dragnb import viz

    fig = Figure(figsize=(8, 3.4), layout="constrained")
    labels = {"side": "side of the picture in pixels", "pairs": "pairs of points"}
    for ax, (what, points) in zip(fig.subplots(1, 2), found.items(), strict=True):
        for color, marker, stage in zip(viz.COLORS, "os^D", STAGES, strict=False):
            ax.plot(
                list(points), [p[stage] for p in points.values()], marker=marker, color=color, label=stage
            )
        ax.set(xlabel=labels[what], ylabel="milliseconds a step", yscale="log", xscale="log")
        ax.set_xticks(list(points), [str(n) for n in points])
        low, high = ax.get_ylim()
        marks = [n for n in MILLISECONDS if low <= n <= high]
        ax.set_yticks(marks, [str(n) for n in marks])
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    fig.legend(*ax.get_legend_handles_labels(), ncols=len(STAGES), loc="outside lower center", frameon=False)
    fig.suptitle(title)
    viz.save(fig, path.parent, path.stem, dpi=110)
