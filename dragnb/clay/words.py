"""The words of the clay world's captions, from which the bundled tokenizer is fitted."""

from dragnb.clay.scene import COLORS, GROUNDS, KINDS, SKIES

CORPUS = [
    f"a {color} {kind} on {ground} ground under a {sky} sky"
    for kind in KINDS for color in COLORS for ground in GROUNDS for sky in SKIES
] + ["a photo of a clay figure", "a picture of", "the big small old young happy"]  # fmt: skip
