"""Fields that say themselves, in the line below, what is wrong with what stands in them."""

from __future__ import annotations

import html
from collections.abc import Callable

import ipywidgets as W

from dragnb.errors import InputError
from dragnb.ui.controls import named, paragraph, show_if


class Checked:
    """A field of a form and the line below it.

    field  any widget with a value; check: called with it, raises InputError for what cannot be used
    widget the two, to be shown
    """

    def __init__(self, field, check: Callable):
        self.field, self._check = field, check
        self.line = named(W.HTML(), "dragnb-wrong")
        self.widget = W.VBox([field, self.line])
        field.observe(lambda _: self.say(), "value")
        self.say()

    def say(self) -> None:
        """Write below the field what is wrong with it, or nothing."""
        wrong = ""
        try:
            self._check(self.field.value)
        except InputError as error:
            wrong = " ".join(str(error).split())
        self.line.value = paragraph(html.escape(wrong), 'role="alert"') if wrong else ""
        show_if(wrong, self.line)

    @property
    def value(self):
        """What stands in the field; InputError where it cannot be used."""
        self._check(self.field.value)
        return self.field.value
