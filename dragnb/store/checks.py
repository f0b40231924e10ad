"""Written files, read back: a library that says nothing of a full disk shall not pass half a file for a whole one."""

import errno
import json
import zipfile
from pathlib import Path


def check(path: Path, suffix: str) -> None:
    """Raise OSError unless the file at `path` is a whole one of the format that `suffix` names; others pass."""
    reader = READERS.get(suffix.lower())
    if reader is None or path.is_dir():
        return
    try:
        reader(path)
    except OSError as error:
        if error.errno is not None:
            raise
        raise _broken(error) from error
    except Exception as error:  # each library has its own
        raise _broken(error) from error


def _broken(error: Exception) -> OSError:
    return OSError(errno.EIO, f"what was written cannot be read back: {error}")


def _picture(path: Path) -> None:
    from PIL import Image

    with Image.open(path, formats=("PNG", "GIF", "JPEG", "WEBP")) as picture:
        for frame in range(getattr(picture, "n_frames", 1)):
            picture.seek(frame)
            picture.load()


def _text(path: Path) -> None:
    json.loads(path.read_bytes())


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if broken := archive.testzip():
            raise ValueError(f"{broken} is damaged")


def _torch(path: Path) -> None:
    zipfile.ZipFile(path).close()  # its list of members is written last


def _safetensors(path: Path) -> None:
    from safetensors import safe_open

    with safe_open(path, "np"):  # compares the header with the file's size
        pass


def _array(path: Path) -> None:
    import numpy as np

    np.load(path, mmap_mode="r")


READERS = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".gif", ".webp"), _picture),
    **dict.fromkeys((".json", ".ipynb"), _text),
    **dict.fromkeys((".zip", ".npz"), _zip),
    ".pt": _torch,
    ".npy": _array,
    ".safetensors": _safetensors,
}
