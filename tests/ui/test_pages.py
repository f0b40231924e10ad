"""A cell that is run again lets go of what it had shown; nothing else is closed."""

from types import SimpleNamespace

import pytest

from dragnb.ui import pages


class Page:
    closed = False

    def close(self):
        self.closed = True


@pytest.fixture
def run(monkeypatch):
    """run(cell, *shown, **names): once more a cell runs, and these pages are shown by it."""
    monkeypatch.setattr(pages, "_shown", {})
    names, runs = {}, iter(range(100))

    def run(cell, *shown, **named):
        names.update(named)
        parent = {"header": {"msg_id": str(next(runs))}, "metadata": {"cellId": cell} if cell else {}}
        shell = SimpleNamespace(get_parent=lambda: parent, user_ns=names)
        for page in shown:
            pages.take_place(page, shell)

    return run


def test_what_a_cell_had_shown_is_closed_when_it_shows_another_and_no_name_is_left(run):
    old, new, elsewhere = Page(), Page(), Page()
    run("a", old, studio=old, _=old, _1=old)
    run("b", elsewhere)
    run("a", new, studio=new, _=new, _2=new)

    assert old.closed and not new.closed and not elsewhere.closed


def test_what_is_shown_again_or_has_a_name_or_shares_its_cell_stays(run):
    one, two, three = Page(), Page(), Page()
    run("a", one, two, first=one)
    run("a", two)
    assert not one.closed and not two.closed
    run("a", three)
    assert not one.closed and two.closed


def test_where_no_cell_is_known_nothing_is_closed(run):
    old, new = Page(), Page()
    run(None, old)
    run(None, new)
    pages.take_place(new, None)

    assert not old.closed and not new.closed
