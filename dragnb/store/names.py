"""File names from any text: a name that stands in a file is never a path."""

import hashlib
import re
import unicodedata
from collections.abc import Collection

LONGEST = 200  # bytes; most disks take 255, and endings and numbers come to it
FORBIDDEN = re.compile(r'[\\/:*?"<>|\x00-\x1f\x7f-\x9f]+')
RESERVED = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|clock\$|(com|lpt)[0-9¹²³])(\..*|)", re.IGNORECASE | re.DOTALL
)
UNSEEN = {
    "Cc",
    "Cs",
    "Co",
    "Cn",
    "Zl",
    "Zp",
}  # Unicode's kinds of controls, halves of pairs, and unassigned ones
JOINERS = "\u200c\u200d"  # which Persian, the scripts of India, and emoji need


def safe_stem(
    text: str, fallback: str = "drag", plain: bool = False, taken: Collection[str] | None = None
) -> str:
    """A file name without ending, made of `text`: never empty, never a path, no name that Windows keeps for itself.

    fallback  what it is called where nothing of the text can stay
    plain     letters, digits, "-" and "_" of any script alone, as shells and addresses like it
    taken     names that it must differ from, in any case; it gets a number, from 2 on. Without it, a text that had to
              be changed gets six digits of its hash, so that two texts never have one name

    A text that can be a name is kept to the letter. At most LONGEST bytes of UTF-8.
    """
    stem = "".join(c for c in unicodedata.normalize("NFC", text) if _seen(c))
    stem = FORBIDDEN.sub("_", stem)
    if plain:
        stem = re.sub("_+", "_", "".join(c if _plain(c) else "_" for c in stem))
    stem = _cut(stem.strip(" .").lstrip("-~"), LONGEST) if stem.strip(" ._-~") else fallback
    stem = f"_{stem}" if RESERVED.fullmatch(stem) else stem
    if taken is None:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:6]
        return stem if stem == text else f"{_cut(stem, LONGEST - 7)}-{digest}"
    names, number, base = {name.casefold() for name in taken}, 2, _cut(stem, LONGEST - 7)
    while stem.casefold() in names:
        stem, number = f"{base}-{number}", number + 1
    return stem


def _seen(c: str) -> bool:
    kind = unicodedata.category(c)
    return c in JOINERS or (kind not in UNSEEN and kind != "Cf")


def _plain(c: str) -> bool:
    return c in f"-_{JOINERS}" or unicodedata.category(c)[0] in "LMN"


def _cut(text: str, most: int) -> str:
    """The text's beginning, at most so many bytes, without an end that Windows drops."""
    return text.encode()[:most].decode(errors="ignore").rstrip(" .")
