"""The drags that were made, and scenes to begin with, as rows of small pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ipywidgets as W

from dragnb.ui import frames
from dragnb.ui.controls import button, named, row
from dragnb.ui.session import Snapshot, differences, lineage

# pixels
THUMBNAIL, SMALL = 72, 54


class Gallery:
    """Finished drags, oldest first, each with where it came from; the starred ones are named so in their titles.

    go       called with the drag to go back to
    compare  called with the drag to be swiped against the shown one
    delete   called with the drag to forget
    """

    def __init__(self, go: Callable, compare: Callable, delete: Callable):
        self._go, self._compare, self._delete = go, compare, delete
        self._items: dict[Snapshot, W.Widget] = {}
        self.starred: set[Snapshot] = set()
        self.widget = row()

    def show(self, snapshots: Sequence[Snapshot], shown: Snapshot | None) -> None:
        """Bring the row up to date."""
        before = None
        for snapshot in snapshots:
            if snapshot not in self._items:
                self._items[snapshot] = self._item(snapshot, lineage(snapshot), before)
            before = snapshot
        for gone in [snapshot for snapshot in self._items if snapshot not in snapshots]:
            self.starred.discard(gone)
            del self._items[gone]
        for snapshot, item in self._items.items():
            item.layout.border = "2px solid #0072B2" if snapshot is shown else "2px solid transparent"
        children = tuple(self._items.values())
        if children != self.widget.children:
            self.widget.children = children
        # what is unsaved is asked about before the page is left
        (self.widget.add_class if children else self.widget.remove_class)("dragnb-unsaved")

    def _item(self, snapshot: Snapshot, title: str, before: Snapshot | None) -> W.VBox:
        image = W.Image(value=frames.jpeg(snapshot.result.image, THUMBNAIL), format="jpeg")
        changes = differences(snapshot, before)
        image.layout = W.Layout(width=f"{THUMBNAIL}px")
        go = button(
            title, f"go back to this drag{': ' + changes if changes else ''}", lambda: self._go(snapshot)
        )
        star = W.ToggleButton(icon="star-o", description="star", tooltip="mark this drag")

        def mark(_):
            star.icon = "star" if star.value else "star-o"
            (self.starred.add if star.value else self.starred.discard)(snapshot)

        star.observe(mark, "value")
        compare = button("compare", "swipe this drag against the shown one", lambda: self._compare(snapshot))
        delete = button("delete", "forget this drag", lambda: self._delete(snapshot))
        compare.icon, delete.icon = "columns", "trash"
        tools = named(row(star, compare, delete), "dragnb-icons")
        return W.VBox(
            [image, go, tools], layout=W.Layout(width="auto", max_width="150px", align_items="center")
        )


class Examples:
    """Scenes of the clay world with their drags, a button each; `load` is called with the one that is pressed."""

    def __init__(self, samples: Sequence, load: Callable):
        items = []
        for sample in samples:
            image = W.Image(value=frames.jpeg(sample.task.image, 2 * SMALL), format="jpeg")
            image.layout = W.Layout(width=f"{SMALL}px", height=f"{SMALL}px", margin="0")
            meaning = f"load {sample.task.prompt} with its drag"
            press = button(sample.kind, meaning, lambda sample=sample: load(sample))
            items.append(W.VBox([image, press], layout=W.Layout(width="74px", align_items="center")))
        self.widget = row(*items)
