"""What goes wrong, said once and clearly: the field, the value, the remedy."""

import difflib
import os
from collections.abc import Iterable


class InputError(ValueError):
    """Something the caller gave cannot be used. The message names the field, the value, the remedy."""


class NotFiniteError(InputError):
    """A tensor holds NaN or infinity: the numbers broke down somewhere before this point."""


class WriteError(InputError):
    """A file could not be written; what was there before is as it was. The message has the file, reason and remedy.

    errno, reason   of the system's error;  remedy: what to do
    """

    def __init__(self, path: str | os.PathLike, error: OSError, remedy: str):
        self.errno, self.reason, self.remedy = error.errno, error.strerror or str(error), remedy
        super().__init__(f"{os.fspath(path)} cannot be written ({self.reason}); {remedy}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'lam'?` when a known name is close to `name`, else `; known: a, b, c`."""
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
