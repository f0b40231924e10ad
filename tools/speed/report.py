"""Costs as a table and as a chart."""

from __future__ import annotations

import numpy as np

from tools.speed.meter import Cost

RUNS = ("first edit", "second drag")


def stages(found, runs) -> list[str]:
    """The stages of some runs of all implementations, each once, in order of appearance."""
    return list(dict.fromkeys(s for who in found for name in runs for s in found[who][name]))


def table(found, rate):
    """The costs as Markdown."""
    lines = [
        "| run | stage | who | seconds | ratio | U-Net passes | with gradient | TFLOP | of matrix rate | GB |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|---|---|")
    for name in RUNS:
        for stage in [*stages(found, [name]), "all"]:
            own = None
            for who in found:
                costs = found[who][name]
                cost = sum(costs.values(), Cost()) if stage == "all" else costs.get(stage)
                if cost is None:
                    continue
                own = cost if who == "dragnb" else own
                ratio = f"{cost.seconds / own.seconds:.1f}" if who != "dragnb" and own and own.seconds else ""
                share = cost.flops / cost.seconds / rate if cost.seconds else 0
                memory = (cost.allocated or cost.resident) / 1e9
                lines.append(
                    f"| {name} | {stage} | {who} | {cost.seconds:.2f} | {ratio} | {cost.forwards} "
                    f"| {cost.gradients} | {cost.flops / 1e12:.3f} | {share:.0%} | {memory:.2f} |"
                )
    return "\n".join(lines)


def chart(found, path, title):
    """Stacked bars, one a run and implementation, from the same numbers."""
    from matplotlib.figure import Figure

    from dragnb import viz

    bars = [(name, who) for name in RUNS for who in found]
    fig = Figure(figsize=(8, 0.7 + 0.55 * len(bars)), layout="constrained")
    ax, left = fig.subplots(), np.zeros(len(bars))
    for i, stage in enumerate(stages(found, RUNS)):
        width = np.array([found[who][name].get(stage, Cost()).seconds for name, who in bars])
        hatch = "" if i < len(viz.COLORS) else "//"
        ax.barh(
            range(len(bars)),
            width,
            left=left,
            label=stage,
            color=viz.COLORS[i % len(viz.COLORS)],
            hatch=hatch,
        )
        left += width
    ax.set_yticks(range(len(bars)), [f"{name}\n{who}" for name, who in bars])
    ax.set(xlabel="seconds", title=title)
    ax.invert_yaxis()
    ax.legend(
        ncols=len(ax.containers), fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.25), frameon=False
    )
    viz.save(fig, path.parent, path.stem, dpi=110)
