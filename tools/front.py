"""Draw the top picture of the README: four kinds of the clay world, before, after, truth; writes figures/front.png.

Chosen among tuning tasks (seeds from 846,000), by eye and by `clay.judge`; fails where one is no success.
"""

from __future__ import annotations

from pathlib import Path

from dragnb import clay, pipeline, viz

CHOSEN = (
    (846024, "cat", "tilt"),
    (846050, "bear", "move"),
    (846016, "flower", "move"),
    (846034, "balloon", "raise"),
)
FIGURES = Path(__file__).parents[1] / "figures"

if __name__ == "__main__":
    fig, axes = viz.figure(2, 6, (1.75, 1.9))
    for place, (seed, kind, edit) in zip(axes.reshape(4, 3), CHOSEN, strict=True):
        task = clay.task(seed, kind, edit)
        result = pipeline.edit(task.task, "clay")
        verdict = clay.judge(task, result.image)
        if not verdict.success:
            raise SystemExit(f"{task.task.name} is no success: {verdict}")
        viz.draw_drag(place[0], task.task, mask=False, title="before")
        viz.show(place[1], result.image, "after")
        viz.show(place[2], task.picture_after, "the truth")
    viz.save(fig, FIGURES, "front")
