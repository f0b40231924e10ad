"""Picture files as pixels: upright, in sRGB, of 8 bits; masks as what may change.

Limits: raster formats of the list FORMATS alone, one frame, MIN_SIDE pixels a side to MAX_PIXELS pixels, counted before
any are decoded.
"""

import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps

from dragnb.errors import InputError, boundary

# Raster formats alone: Pillow knows others, and starts Ghostscript on a PostScript file, whatever its name is.
# HEIF is there where the user has registered a reader for it.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "HEIF", "GIF", "TIFF", "BMP", "DIB", "PPM", "JPEG2000")
LOSSY = ("JPEG", "MPO", "WEBP", "AVIF", "HEIF", "JPEG2000")
BLACK = 32  # of 255: a lossy file whose largest value is below holds noise, not a mask
MIN_SIDE = 16  # pixels; less has no content to drag
MAX_PIXELS = 64_000_000
WIDE_GREY = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # more than 8 bits a pixel
DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras and scanners fill of 16
SAME = 3  # of 255: a profile that changes no colour by more is sRGB, and the pixels stay as they are
_flag = threading.Lock()


def read_image(path: str | os.PathLike | BinaryIO, field: str = "image") -> np.ndarray:
    """A picture file, by its path or open, -> uint8 (height, width, 3) in sRGB, turned upright by its EXIF or XMP.

    A colour profile is converted; grey, palette, CMYK, Lab and 16-bit pictures too; 10, 12 or 14 bits that are
    stored in 16 are scaled by what they hold, with a warning; transparency is laid over white. Raises
    InputError, naming `field`, for a missing, unreadable, animated, huge (over 64 Mpx) or tiny (under 16 px) picture.
    """
    with _opened(path, field) as (picture, it):
        rgb = _in_srgb(_eight_bits(picture, field), field)
        if "A" in rgb.getbands() or "transparency" in rgb.info:
            rgba = rgb.convert("RGBA")
            rgb = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        array = np.array(rgb.convert("RGB"))
    require_size(array.shape[1], array.shape[0], field)
    return array


def read_mask(path: str | os.PathLike | BinaryIO, size: tuple[int, int], field: str = "mask") -> np.ndarray:
    """A mask file, by its path or open, -> bool (height, width).

    True, may change, where a pixel is above half of the file's largest value, so that soft edges and lossy files are
    read as they look. The value is the brightest channel times the opacity. Raises InputError when it is not a picture
    of `size` = (width, height).
    """
    with _opened(path, field) as (picture, it):
        if picture.mode in (*WIDE_GREY, "F"):
            values = np.array(picture)
        else:
            rgba = np.array(picture.convert("RGBA")).astype(np.uint16)
            values = rgba[..., :3].max(-1) * rgba[..., 3]
            if picture.encoding in LOSSY and values.max(initial=0) < BLACK * 255:
                values[:] = 0
    return check_mask(values, size, field)


def check_mask(mask, size: tuple[int, int], field: str = "mask") -> np.ndarray:
    """A mask of numbers as bool (height, width), a copy: True above half of its largest value.

    InputError where it is not of `size` = (width, height), or holds what is no number.
    """
    with boundary(f"{field} is no array of numbers", "give one of the picture's height and width"):
        mask = np.asarray(mask)
    if mask.shape != (size[1], size[0]):
        have = f"{mask.shape[1]}×{mask.shape[0]}" if mask.ndim == 2 else f"of shape {mask.shape}"
        raise InputError(
            f"{field} is {have}, the picture {size[0]}×{size[1]}; paint the mask on the picture itself"
        )
    if mask.dtype == bool:
        return np.array(mask)
    if mask.dtype.kind not in "iuf":
        raise InputError(f"{field} holds {mask.dtype} values; give booleans, or numbers, 0 for what is held")
    if mask.dtype.kind == "f" and not np.isfinite(mask).all():
        raise InputError(f"{field} holds values that are no number; give 0 for what is held, 1 for the rest")
    largest = mask.max()
    return mask > max(float(largest), 0.0) / 2


def require_size(width: int, height: int, field: str) -> None:
    if min(width, height) < MIN_SIDE:
        raise InputError(f"{field} is {width}×{height} pixels; both sides must have {MIN_SIDE} or more")
    if width * height > MAX_PIXELS:
        most = MAX_PIXELS // 1_000_000
        raise InputError(f"{field} is {width}×{height} pixels; scale it down to {most} Mpx or fewer")


@contextmanager
def _opened(path, field: str) -> Iterator[tuple[Image.Image, object]]:
    """The picture, upright and fully read, of a size and kind that can be handled, and what messages call it.

    All that is done with its pixels belongs into the block: many faults show only when they are converted.
    """
    path, it = (path, "it") if hasattr(path, "read") else (Path(path), path)
    _require_file(path, field)
    with (
        boundary(f"{field}: {it} cannot be read as a picture", "save it as a PNG"),
        _whole_pictures(field, it),
    ):
        try:
            opened = Image.open(path, formats=_formats())
        except Image.UnidentifiedImageError:
            raise OSError("of no raster format that is read here") from None
        with opened as picture:
            if picture.width * picture.height > MAX_PIXELS:
                require_size(picture.width, picture.height, field)
            frames = getattr(picture, "n_frames", 1)
            if frames > 1 and picture.format != "MPO":  # a photo with its preview beside it
                raise InputError(f"{field}: {it} holds {frames} frames; save one of them as a PNG")
            stored_wide = ";16" in str(picture.tile)
            picture.load()
            upright = ImageOps.exif_transpose(picture)
            upright.encoding, upright.stored_wide = picture.format, stored_wide
            yield upright, it


def _require_file(path, field: str) -> None:
    """InputError for a path that is none of a file: it may not be there, or be read without an end."""
    if not isinstance(path, Path):
        return
    with boundary(f"{field}: {path} cannot be read as a picture", "check its name and its permissions"):
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"{field}: {path} does not exist") from None
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"
            raise InputError(f"{field}: {path} is {kind}, not a picture; give a picture's file")


@contextmanager
def _whole_pictures(field: str, it) -> Iterator[None]:
    """Read no half picture inside the block, though a program may have told Pillow to; leave big ones to us."""
    with _flag, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is looked at
        before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
        try:
            yield
        except Image.DecompressionBombError:
            most = f"{MAX_PIXELS // 1_000_000} Mpx or fewer"
            raise InputError(f"{field}: {it} is huge; scale it down to {most}") from None
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def _formats() -> list[str]:
    """Those of FORMATS that Pillow reads here."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _eight_bits(picture: Image.Image, field: str) -> Image.Image:
    """The picture with 8 bits a channel; 10, 12 or 14 bits that are stored in 16 are scaled by what they hold."""
    if picture.mode == "F":
        raise InputError(f"{field} has floating-point values; save it with 8 bits, 0 to 255")
    if picture.mode not in WIDE_GREY:
        largest = max(high for _, high in picture.getextrema()[:3]) if len(picture.getbands()) > 2 else 255
        if picture.stored_wide and 0 < largest < 64:  # Pillow has kept the upper 8 bits alone
            raise InputError(
                f"{field} has 16 bits a channel and fills {8 + int(largest).bit_length()} of them; save it with 8"
            )
        return picture
    values = np.array(picture).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise InputError(f"{field} has grey values of 32 bits; save it with 8 or 16")
    bits = next(bits for bits in DEPTHS if values.max() < 2**bits)
    if bits < 16 and values.any():
        warnings.warn(f"{field} stores {bits} bits in 16: it is scaled by what it holds", stacklevel=6)
    else:
        bits = 16
    grey = Image.fromarray(np.rint(values * (255 / (2**bits - 1))).astype(np.uint8))
    grey.info = {key: picture.info[key] for key in ("icc_profile",) if key in picture.info}
    return grey


def _in_srgb(picture: Image.Image, field: str) -> Image.Image:
    """The picture's colours converted from its own profile to sRGB; as they are where it has none, or has sRGB's."""
    if picture.mode == "LAB":
        return ImageCms.profileToProfile(picture, ImageCms.createProfile("LAB"), _srgb(), outputMode="RGB")
    data = picture.info.get("icc_profile")
    if not data:
        return picture
    alpha = None
    if "A" in picture.getbands() or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        alpha, picture = rgba.getchannel("A"), rgba.convert("L" if picture.mode == "LA" else "RGB")
    elif picture.mode in ("P", "1"):
        picture = picture.convert("RGB" if picture.mode == "P" else "L")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        change = _transform(profile, picture.mode)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        warnings.warn(f"{field}: its colour profile does not fit it and is left out ({error})", stacklevel=6)
        change = None
    if change is not None:
        picture = ImageCms.applyTransform(picture, change)
    if alpha is not None:
        picture = picture.convert("RGB")
        picture.putalpha(alpha)
    return picture


def _srgb():
    return ImageCms.createProfile("sRGB")


def _transform(profile, mode: str):
    """The way from a profile to sRGB; None where it changes no colour of a coarse grid by more than SAME."""
    options = {"renderingIntent": ImageCms.Intent.RELATIVE_COLORIMETRIC}
    options["flags"] = ImageCms.Flags.BLACKPOINTCOMPENSATION
    change = ImageCms.buildTransform(profile, _srgb(), mode, "RGB", **options)
    if mode != "RGB":
        return change
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(len(levels), -1, 3)
    changed = np.array(ImageCms.applyTransform(Image.fromarray(grid), change))
    return change if np.abs(changed.astype(int) - grid).max() > SAME else None
