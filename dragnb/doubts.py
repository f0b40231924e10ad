"""Doubts before a drag: a sentence for everything that is allowed but may not be meant. One list for all who ask."""

import re
import threading
from itertools import combinations

import numpy as np

PROMPT_TOKENS = 75  # of CLIP's 77, which begin and end a prompt
PIECES = re.compile(r"[^\W\d_]|\d|[^\w\s]+|_+")
ALMOST_FULL, ALMOST_EMPTY = 0.95, 0.001  # parts of the picture that a mask frees and that are asked about
SAME = 1.0  # pixels: handles that are nearer than this are one
_one_at_a_time = threading.Lock()


def of_drag(handles, targets, mask: np.ndarray | None, prompt: str, tokenizer=None) -> list[str]:
    """Sentences on a drag, empty when all is well; pairs are numbered from 1.

    handles, targets  float (n, 2), x and y in picture pixels
    mask              bool (h, w), True = may change, or None
    tokenizer         the model's, whose count is exact; without it the prompt's length is estimated
    """
    missing = ["no prompt: say what the picture shows, or the model may take it for something else"]
    sentences = on_prompt(prompt, tokenizer) if prompt.strip() else missing
    handles, targets = (np.reshape(np.asarray(points, float), (-1, 2)) for points in (handles, targets))
    sentences += _on_mask(mask, handles)
    empty = np.flatnonzero((handles == targets).all(axis=1))
    sentences += [f"pair {k + 1} has no length: its target lies on its handle" for k in empty]
    return sentences + _on_paths(handles, targets)


def _on_mask(mask: np.ndarray | None, handles: np.ndarray) -> list[str]:
    """Is this mask the one that is meant, or none, full, inverted, or of another drag?"""
    if mask is None or not mask.any():
        return ["no mask: the whole picture may change; paint what may, and the rest is held"]
    if mask.all():
        return ["the mask covers everything: nothing is held in place"]
    x, y = np.floor(handles + 0.5).astype(int).T
    freed, share = mask[y, x], mask.mean()
    sentences = [
        f"pair {k + 1}: its handle lies outside the mask, so it is held in place"
        for k in np.flatnonzero(~freed)
    ]
    if len(freed) and not freed.any():
        sentences.append(
            "no handle lies inside the mask: is it inverted, or of another drag? White may change"
        )
    if share >= ALMOST_FULL:
        sentences.append(f"the mask frees {share:.1%} of the picture: is it inverted? White may change")
    if share < ALMOST_EMPTY:
        pixels = f"{mask.sum()} pixels" if mask.sum() > 1 else "one pixel"
        sentences.append(f"the mask frees {pixels} of the picture alone: is it the one that is meant?")
    return sentences


def on_prompt(prompt: str, tokenizer=None) -> list[str]:
    """A sentence where a prompt is longer than the model reads, by its tokenizer's own count where one is given.

    Without one it is estimated: a token a word of eight letters, a digit, a run of signs, or a letter of a script that
    is not Latin.
    """
    tokens = _estimate(prompt) if tokenizer is None else len(token_ids(tokenizer, prompt)) - 2
    if tokens <= PROMPT_TOKENS:
        return []
    about = "about " if tokenizer is None else ""
    return [
        f"the prompt has {about}{tokens} tokens; the model reads {PROMPT_TOKENS}, and the rest is cut off"
    ]


def token_ids(tokenizer, prompt: str, **how):
    """What a tokenizer makes of a prompt, for one thread at a time.

    Padding and truncation are a state of a fast tokenizer, not of a call: a page that counts a prompt would change them
    under a run that embeds another.
    """
    with _one_at_a_time:
        return tokenizer(prompt, **how).input_ids


def _estimate(prompt: str) -> int:
    latin = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")
    words = sum(-(-len(word) // 8) for word in latin.findall(prompt))
    return words + len(PIECES.findall(latin.sub(" ", prompt)))


def _on_paths(handles: np.ndarray, targets: np.ndarray) -> list[str]:
    """Sentences on pairs, (n, 2), that cannot both be had: one handle twice, or paths that cross; numbered from 1."""
    pairs = [*combinations(enumerate(zip(handles, targets, strict=True), 1), 2)]
    twice = [
        f"pairs {j} and {k} drag one handle to two targets: it cannot go both ways; delete one of them"
        for (j, (a, b)), (k, (c, d)) in pairs
        if np.abs(a - c).max() < SAME and np.abs(b - d).max() >= SAME
    ]
    return twice + [
        f"the paths of pairs {j} and {k} cross: what meets there cannot go both ways"
        for (j, one), (k, other) in pairs
        if _cross(*one, *other)
    ]


def _cross(a, b, c, d) -> bool:
    """Do the segments a-b and c-d cross properly, and not just touch?"""

    def side(p, q, r):
        return np.sign((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]))

    return bool(side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0)
