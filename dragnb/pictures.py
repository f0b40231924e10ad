"""Read whatever people call a picture into upright uint8 RGB, or say what is wrong with it."""

import os
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from dragnb.errors import InputError

MIN_SIDE = 16  # pixels; less has no content to drag
MAX_PIXELS = 64_000_000
WIDE_GREY = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # more than 8 bits a pixel


def read_image(path: str | os.PathLike | BinaryIO, field: str = "image") -> np.ndarray:
    """A picture file, by its path or open, -> uint8 (height, width, 3), turned upright by its EXIF.

    Grey, palette, CMYK and 16-bit pictures are converted; transparency is laid over white. Raises InputError,
    naming `field`, for a missing, unreadable, animated, huge (over 64 Mpx) or tiny (under 16 px) picture.
    """
    with _opened(path, field) as picture:
        rgb = _eight_bits(picture, field)
        if "A" in rgb.getbands() or "transparency" in rgb.info:
            rgba = rgb.convert("RGBA")
            rgb = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        array = np.array(rgb.convert("RGB"))
    require_size(array.shape[1], array.shape[0], field)
    return array


def read_mask(path: str | os.PathLike | BinaryIO, size: tuple[int, int], field: str = "mask") -> np.ndarray:
    """A mask file, by its path or open, -> bool (height, width).

    True, may change, where a pixel is neither black nor transparent. Raises InputError when it is not a picture of
    `size` = (width, height).
    """
    with _opened(path, field) as picture:
        if picture.mode in (*WIDE_GREY, "F"):
            mask = np.array(picture) != 0
        else:
            rgba = np.array(picture.convert("RGBA"))
            mask = rgba[..., :3].any(-1) & (rgba[..., 3] > 0)
    if (mask.shape[1], mask.shape[0]) != tuple(size):
        have, want = f"{mask.shape[1]}×{mask.shape[0]}", f"{size[0]}×{size[1]}"
        raise InputError(f"{field} is {have}, the picture {want}; paint the mask on the picture itself")
    return mask


def require_size(width: int, height: int, field: str) -> None:
    if min(width, height) < MIN_SIDE:
        raise InputError(f"{field} is {width}×{height} pixels; both sides must have {MIN_SIDE} or more")
    if width * height > MAX_PIXELS:
        most = MAX_PIXELS // 1_000_000
        raise InputError(f"{field} is {width}×{height} pixels; scale it down to {most} Mpx or fewer")


def _opened(path, field: str) -> Image.Image:
    """The picture, upright and fully read, of a size and kind that can be handled."""
    path, it = (path, "it") if hasattr(path, "read") else (Path(path), path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is looked at below
            with Image.open(path) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    require_size(picture.width, picture.height, field)
                frames = getattr(picture, "n_frames", 1)
                if frames > 1 and picture.format != "MPO":  # a photo with its preview beside it
                    raise InputError(f"{field}: {it} holds {frames} frames; save one of them as a PNG")
                picture.load()
                return ImageOps.exif_transpose(picture)
    except FileNotFoundError:
        raise InputError(f"{field}: {path} does not exist") from None
    except IsADirectoryError:
        raise InputError(f"{field}: {path} is a folder, not a picture") from None
    except Image.DecompressionBombError:
        raise InputError(f"{field}: {it} is huge; scale it down to {MAX_PIXELS // 1_000_000} Mpx") from None
    except (OSError, SyntaxError, EOFError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = str(error).replace(repr(str(path)), "it").replace(repr(path), "it")
        raise InputError(f"{field}: {it} cannot be read as a picture ({reason}); save it as a PNG") from error


def _eight_bits(picture: Image.Image, field: str) -> Image.Image:
    if picture.mode in WIDE_GREY:
        values = np.array(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise InputError(f"{field} has grey values of 32 bits; save it with 8 or 16")
        return Image.fromarray((values // 257).astype(np.uint8))
    if picture.mode == "F":
        raise InputError(f"{field} has floating-point values; save it with 8 bits, 0 to 255")
    return picture
