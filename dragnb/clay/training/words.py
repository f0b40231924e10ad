"""The words of the clay world's captions, of which the bundled tokenizer's vocabulary is made."""

from dragnb.clay.scene import COLORS, GROUNDS, KINDS, SKIES

WORDS = sorted(
    {*KINDS, *COLORS, *SKIES, *GROUNDS, *"a on ground under a sky photo of the clay figure picture".split()}
)
