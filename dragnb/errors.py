"""What goes wrong, said once and clearly: the field, the value, the remedy."""

import contextlib
import difflib
import functools
import os
from collections.abc import Callable, Iterable, Iterator

LISTED = 600  # characters of known names in a message
LONGEST = 160  # characters of a value, or of a library's reason, in a message


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
    """`; did you mean 'lam'?` when a known name is close to `name`, else `; known: a, b`, a long list cut short."""
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    told = ", ".join(known)
    return f"; known: {told if len(told) <= LISTED else told[:LISTED].rpartition(', ')[0] + ' …'}"


def short(value) -> str:
    """A value as a message shows it: its repr in one line, the middle of a long one left out."""
    try:
        text = repr(value)
    except Exception:  # an int of more digits than Python writes, a class with a repr of its own
        text = f"a {type(value).__name__}"
    return one_line(text)


def one_line(text) -> str:
    """A text as a message shows it: printable, in one line, the middle of a long one left out."""
    text = " ".join(str(text).split()).encode("utf-8", "backslashreplace").decode()
    text, half = _printable(text), LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]} … {text[-half:]}"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


# by the name of the error's kind, which need not be imported; {} stands for what it says itself
REASONS = {
    "JSONDecodeError": "no JSON: {}",
    "EOFError": "it ends too early",
    "IncompleteRead": "it ends too early: {}",
    "RecursionError": "it is nested too deeply",
    "MemoryError": "it needs more memory than there is",
    "BadStatusLine": "the answer is no web server's: {}",
    **dict.fromkeys(
        ("AttributeError", "TypeError", "KeyError", "IndexError"), "it holds a value of another kind: {}"
    ),
}


def reason_of(error: Exception) -> str:
    """A library's error as the reason in a message: in one line, never empty."""
    try:
        if isinstance(error, UnicodeDecodeError):
            return f"it is no text in {error.encoding.upper()}, from byte {error.start} on"
        text = one_line(getattr(error, "strerror", None) or error)
    except Exception:  # an error that cannot say what it is
        text = ""
    kind = type(error).__name__
    return REASONS.get(kind, "{}").format(text).removesuffix(": ") or kind


@contextlib.contextmanager
def boundary(
    problem: str, remedy: str | Callable[[Exception], str], passing: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Make one InputError, "problem (reason); remedy", of whatever a library throws at what came from outside.

    problem  names the field and the value, as "mask: cat.png cannot be read"
    remedy   what to do, or what says it of the error
    passing  kinds of error that the caller knows better

    Libraries promise no kinds: a damaged file has raised TypeError, OverflowError, RuntimeError, LZMAError,
    RecursionError, MemoryError and others. Our own InputErrors pass as they are; Ctrl-C is no error.
    """
    try:
        yield
    except (InputError, *passing):
        raise
    except Exception as error:
        wanted = remedy if isinstance(remedy, str) else remedy(error)
        raise InputError(f"{_printable(problem)} ({reason_of(error)}); {wanted}") from error


def bounded(field: str, remedy: str | Callable[[object, Exception], str]):
    """Decorate a function whose first argument names something from outside: all its errors are a `boundary`'s.

    remedy  what to do, or what says it of what was given and the error
    """

    def decorate(function):
        @functools.wraps(function)
        def inside(*args, **options):
            given = args[0] if args else next(iter(options.values()), None)
            problem = f"{field} = {short(str(getattr(given, 'name', given)))} cannot be read"
            with boundary(problem, remedy if isinstance(remedy, str) else functools.partial(remedy, given)):
                return function(*args, **options)

        return inside

    return decorate
