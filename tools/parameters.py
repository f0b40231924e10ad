"""Values of a command line's -p NAME VALUE, read as the kind of value that the notebook itself has."""

import ast
import json
import re

KINDS = {
    str: "text",
    bool: "True or False",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "a dict",
}
WORDS = {"true": True, "false": False, "null": None, "none": None}
UNREAD = object()
NONE = object()  # the notebook's own value cannot be read


def own_value(default: str):
    """A notebook's own value of a parameter, from its source; NONE where it is no literal."""
    try:
        return ast.literal_eval(default)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return NONE


def typed(name: str, text: str, own=NONE):
    """What `-p name text` gives a notebook whose own value is `own`; ValueError says what is right.

    Text stays text where the notebook has text: 1984 is a prompt there. A number, True or False, a list and a dict
    have to be given where the notebook has one, or None.
    """
    value = literal(text)
    if isinstance(own, str):
        return value if _is_quoted(text) else text
    if own is NONE or own is None:
        if value is UNREAD and text.strip()[:1] in ("{", "["):
            raise ValueError(_sentence(name, text, "is no list or dict"))
        return text if value is UNREAD else value
    if value is None:
        return None
    if isinstance(own, bool):
        value = {0: False, 1: True}.get(value, value) if type(value) is int else value
        fits = isinstance(value, bool)
    elif isinstance(own, (int, float)):
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
        value = float(value) if fits and isinstance(own, float) else value
    elif isinstance(own, (list, tuple)):
        fits = isinstance(value, (list, tuple))
    else:
        fits = isinstance(value, type(own))
    if not fits:
        kind = KINDS.get(type(own), "a list" if isinstance(own, tuple) else type(own).__name__)
        raise ValueError(_sentence(name, text, f"is not {kind}, as the notebook's own {own!r} is"))
    return value


def literal(text: str):
    """A Python or JSON literal as its value; UNREAD for anything else."""
    text = text.strip()
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    for read in (ast.literal_eval, lambda t: json.loads(t, parse_constant=int)):
        try:
            return read(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return UNREAD


def _is_quoted(text: str) -> bool:
    """Is this one text in quotes of its own, as of a careful user?"""
    return text[:1] in ("'", '"') and isinstance(literal(text), str)


def _sentence(name: str, text: str, fault: str) -> str:
    """One sentence with what was given, what is wrong with it, and, where a shell ate its quotes, how to keep them."""
    whole = re.sub(r"(?<![\w.'\"])([A-Za-z_][\w.]*)", _with_quotes, text)
    value = literal(whole)
    if text.strip()[:1] in ("{", "[") and not isinstance(value, (dict, list)):
        return f"-p {name} {text}: {fault}; keep a shell from its quotes: -p {name} '{{\"lora_steps\": 40}}'"
    if whole != text and isinstance(value, (dict, list)):
        return f"-p {name} {text}: {fault}; a shell has eaten its quotes, so write -p {name} '{whole}'"
    return f"-p {name} {text}: {fault}"


def _with_quotes(word: re.Match) -> str:
    return word[0] if word[0].lower() in WORDS or re.fullmatch(r"[eE]\d*", word[0]) else f'"{word[0]}"'
