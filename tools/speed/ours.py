"""dragnb's own edit under the meter."""

from __future__ import annotations

import tempfile

from dragnb import pipeline
from dragnb.store import Store, forget
from tools.speed.meter import Meter


def run(task, model, settings, side, meter: Meter, store: Store):
    """One edit; a stage's cost is booked at its last event, which says that it is the last."""
    for event in pipeline.run(task, model, settings, store, side=side):
        if event.i == event.n and event.stage != "done":
            meter.mark(event.stage)
    return event.data


def first_and_repeat(task, again, model, settings, side, flops=False):
    """Costs of an edit on an empty cache, and of a second drag (`again`) on the same picture: two dicts by stage."""
    forget()  # the reference that a run before this one left at hand
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        with Meter(model, flops) as first:
            run(task, model, settings, side, first, store)
        with Meter(model, flops) as repeat:
            run(again, model, settings, side, repeat, store)
    return first.costs, repeat.costs
