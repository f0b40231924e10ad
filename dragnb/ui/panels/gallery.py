"""The drags that were made, and scenes to begin with, as rows of small pictures."""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Sequence

import ipywidgets as W
import numpy as np

from dragnb.ui import frames
from dragnb.ui.controls import button, named, row
from dragnb.ui.session import Snapshot, differences, lineage

# pixels
THUMBNAIL, SMALL = 72, 54
LASTS = "Drags last as long as this page is open: export what shall stay."
# until it is drawn: none at all would be shown as a broken picture
EMPTY = frames.jpeg(np.full((2, 2, 3), 128, np.uint8))


class Gallery:
    """Finished drags, oldest first, each with where it came from and the settings that are new in it.

    go       called with the drag to go back to
    compare  called with the drag to be swiped against the shown one
    delete   called with the drag to forget
    star     called with a drag, and whether it shall bear a mark
    """

    def __init__(self, go: Callable, compare: Callable, delete: Callable, star: Callable):
        self._go, self._compare, self._delete, self._star = go, compare, delete, star
        self._items: dict[Snapshot, W.Widget] = {}
        self._stars: dict[Snapshot, W.ToggleButton] = {}
        # shown where the studio is a page of its own
        self._lasts = named(W.HTML(LASTS), "dragnb-lasts")
        self.widget = row()

    def show(self, snapshots: Sequence[Snapshot], shown: Snapshot | None, starred=()) -> None:
        """Bring the row up to date."""
        before = None
        for snapshot in snapshots:
            if snapshot not in self._items:
                self._items[snapshot] = self._item(snapshot, lineage(snapshot), before)
            before = snapshot
        for gone in [snapshot for snapshot in self._items if snapshot not in snapshots]:
            del self._items[gone], self._stars[gone]
        for snapshot, item in self._items.items():
            item.layout.border = "2px solid #0072B2" if snapshot is shown else "2px solid transparent"
            star = self._stars[snapshot]
            star.value = snapshot in starred
            star.icon = "star" if star.value else "star-o"
        items = tuple(self._items.values())
        children = (*items, self._lasts) if items else ()
        if children != self.widget.children:
            self.widget.children = children

    def _item(self, snapshot: Snapshot, title: str, before: Snapshot | None) -> W.VBox:
        image = W.Image(value=frames.jpeg(snapshot.result.image, THUMBNAIL), format="jpeg")
        changes = differences(snapshot, before)
        image.layout = W.Layout(width=f"{THUMBNAIL}px")
        go = button(
            title, f"go back to this drag{': ' + changes if changes else ''}", lambda: self._go(snapshot)
        )
        star = W.ToggleButton(icon="star-o", description="star", tooltip="mark this drag")
        star.observe(lambda change: self._star(snapshot, change.new), "value")
        self._stars[snapshot] = star
        compare = button("compare", "swipe this drag against the shown one", lambda: self._compare(snapshot))
        delete = button("delete", "forget this drag", lambda: self._delete(snapshot))
        compare.icon, delete.icon = "columns", "trash"
        tools = named(row(star, compare, delete), "dragnb-icons")
        new = W.HTML(f"<small>{html.escape(changes)}</small>")
        beside = W.VBox([go, tools, new], layout=W.Layout(max_width="150px"))
        return W.HBox([image, beside], layout=W.Layout(width="auto", align_items="flex-start"))


class Examples:
    """Scenes of the clay world with their drags, a button each; `load` is called with the one that is pressed.

    which  (seed, kind, edit) of each; draw: makes the scene of these. The small pictures are drawn in the background,
           so that the page does not wait for them
    """

    def __init__(self, which: Sequence[tuple], draw: Callable, load: Callable):
        self._pictures, items = [], []
        for seed, kind, edit in which:
            image = W.Image(value=EMPTY, format="jpeg")
            image.layout = W.Layout(width=f"{SMALL}px", height=f"{SMALL}px", margin="0")
            press = button(
                kind, f"load a {kind} with its drag", lambda key=(seed, kind, edit): load(draw(*key))
            )
            press.layout.margin = "2px 0"
            items.append(W.VBox([image, press], layout=W.Layout(width="68px", align_items="center")))
            self._pictures.append((image, (seed, kind, edit)))
        self.widget, self._draw = row(*items), draw
        self.drawing = threading.Thread(target=self._fill, name="dragnb examples", daemon=True)
        self.drawing.start()

    def _fill(self) -> None:
        for image, key in self._pictures:
            jpeg = frames.jpeg(self._draw(*key).task.image, 2 * SMALL)
            if image.comm is not None:  # else the page is closed
                image.value = jpeg
