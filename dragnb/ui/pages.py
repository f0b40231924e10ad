"""Which cell shows what, so that a cell that is run again lets go of what it had shown before."""

from __future__ import annotations

_shown: dict[str, tuple[str, list]] = {}  # cell -> its newest run, and the pages that this run has shown


def take_place(page, shell) -> None:
    """The cell under way shows `page`: what its earlier run has shown is closed, unless a name still refers to it.

    shell  IPython's; where that does not say which cell is run (a script, papermill), nothing is closed
    """
    asked = shell.get_parent() if hasattr(shell, "get_parent") else {}
    cell, run = asked.get("metadata", {}).get("cellId"), asked.get("header", {}).get("msg_id")
    if not cell:
        return
    before, pages = _shown.get(cell, (run, []))
    if before != run:
        named = {id(value) for name, value in shell.user_ns.items() if not name.startswith("_")}
        for old in pages:
            if old is not page and id(old) not in named:
                old.close()
        pages = []
    _shown[cell] = run, [*pages, page]
