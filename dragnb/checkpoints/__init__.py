"""Model files: where a model comes from, whether it is served, what it hashes to, how its parts are read.

`places` finds a model (names, folders, files, the hub); `folders` and `files` check the two layouts;
`originals` converts single files; `sdxl` is what that family has of its own; `adapters` reads LoRA files;
`scheduler` takes the noise schedule from a config; `hashes` says what computes; `remedies` what to do about a model
that cannot be read; `source` is a model as it was asked for.
"""

from dragnb.checkpoints.hashes import fingerprint
from dragnb.checkpoints.places import (
    BUNDLED,
    CONVERT,
    HUB_NAMES,
    PARTS,
    SD15_SIDE,
    clay_folder,
    data_file,
    download,
    pixels_per_cell,
    read_json,
    side,
    side_of,
)
from dragnb.checkpoints.remedies import remedy
from dragnb.checkpoints.scheduler import abar
from dragnb.checkpoints.sdxl import inputs as sdxl_inputs
from dragnb.checkpoints.sdxl import is_sdxl
from dragnb.checkpoints.source import Source, check_laid_over, quiet, read_parts, resolve

__all__ = [
    "BUNDLED",
    "CONVERT",
    "HUB_NAMES",
    "PARTS",
    "SD15_SIDE",
    "Source",
    "abar",
    "check_laid_over",
    "clay_folder",
    "data_file",
    "download",
    "fingerprint",
    "is_sdxl",
    "pixels_per_cell",
    "quiet",
    "read_json",
    "read_parts",
    "remedy",
    "resolve",
    "sdxl_inputs",
    "side",
    "side_of",
]
