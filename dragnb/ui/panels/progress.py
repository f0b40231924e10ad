"""How a drag goes, and what was said of it; as HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable

from dragnb.config import STAGES
from dragnb.pipeline import Event
from dragnb.ui.controls import paragraph
from dragnb.ui.worker import Problem

# about what each stage takes of an edit's time
SHARES = {
    "load": 1, "encode": 1, "finetune": 8, "invert": 3, "reference": 4, "drag": 10, "denoise": 4, "decode": 1,
}  # fmt: skip
REUSED = "same picture, prompt and model: reused"


def progress(events: Iterable[Event], running: bool = True, left: float | None = None) -> str:
    """One bar over all stages, the stage under way, the time left, and a line of what is done; as HTML.

    left  seconds until the end, as `Session.left` has it; None: only the stage's own is said
    """
    events = [event for event in events if event.stage != "done"]
    if not events:
        return ""
    now, done = events[-1], sum(SHARES.get(event.stage, 1) for event in events[:-1])
    whole = sum(SHARES.values()) if now.stage in SHARES else SHARES.get(now.stage, 1)
    done += SHARES.get(now.stage, 1) * (now.i / now.n if now.n else 1)
    over = not running or (now.i == now.n and now.stage == "decode")
    line = f"<b>{_title(now.stage)}</b> " + (f"{now.i} of {now.n}" if now.n else "off")
    if left is not None and running:
        line += f", about {left:.0f} s left in all"
    elif now.left is not None and running:
        line += f", {now.left:.0f} s left of this stage"
    ended = " · ".join(_ended(event) for event in (events if over else events[:-1]))
    bar = f'<progress aria-label="progress" max="1" value="{1 if over else done / whole:.3f}"></progress>'
    return f'<div style="line-height: 1.3">{"" if over else line}{bar}<small>{ended}</small></div>'


def _title(stage: str) -> str:
    return STAGES[stage].title if stage in STAGES else stage


def _ended(event: Event) -> str:
    """A stage that is over: how long it took, that it was reused, or that it is off."""
    if event.cached:
        return f'<span title="{REUSED}">✓&nbsp;{_title(event.stage)} reused</span>'
    return f"✓&nbsp;{_title(event.stage)} {event.seconds:.1f} s" if event.n else f"{_title(event.stage)} off"


def message(text: str, problem: Problem | None) -> str:
    """What happened, and an error as one line with its details folded; as HTML."""
    text = html.escape(text)
    if problem is not None:
        line, details = html.escape(problem.line), html.escape(problem.details)
        details = f'<pre style="overflow: auto">{details}</pre>'
        text += f"<details><summary><b>&#9888; {line}</b></summary>{details}</details>"
    return paragraph(text, 'role="status"')
