"""What to do about a model that cannot be read: it is got again only where one of its files is damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path

from dragnb.errors import one_line
from dragnb.store import remedies, versions

AGAIN = "get the model again: download it, or export it anew"
ELSEWHERE = "set HF_HOME to a folder with room"
READ = (".json", ".safetensors")
DAMAGED = (OSError, ValueError, RecursionError)


def remedy(model, error: Exception) -> str:
    """What to do about an error of reading `model`, a path or whatever has the path as its `path` or `model`."""
    if isinstance(error, ImportError):
        return "install what is missing: pip install --upgrade dragnb"
    if isinstance(error, PermissionError):
        return "change the permissions of its files"
    if "CUDA" in str(error) or "HIP" in str(error):
        return "its files are not at fault: mend the GPU's driver, or give device='cpu'"
    place = Path(str(getattr(model, "path", getattr(model, "model", model)))).expanduser()
    if (broken := damaged(place)) is not None:
        return f"{one_line(broken)} is damaged: {AGAIN}"
    known = " and ".join(f"{name} {versions()[name]}" for name in ("diffusers", "transformers"))
    return f"its files can be read, but a setting in one of its .json files does not suit its weights, or {known}"


def of_file(error: Exception, damage: str = AGAIN) -> str:
    """What to do about one file that cannot be read: `damage`, unless the system keeps it from being read."""
    if isinstance(error, PermissionError):
        return "change its permissions"
    if isinstance(error, FileNotFoundError):
        return "the file is gone; has it been moved?"
    return damage


def of_download(error: Exception) -> str:
    """What to do about a model that cannot be fetched: about the disk where that is at fault, else the network."""
    of_a_file = isinstance(error, OSError) and (error.filename or error.errno in remedies.FULL)
    if of_a_file and error.errno in remedies.DISK:
        return remedies.remedy(error, ELSEWHERE)
    return "connect to the network, or use model='clay' or a local folder"


def damaged(place: Path) -> Path | None:
    """The first file of a model, by name, that is no whole JSON or safetensors file."""
    from safetensors import SafetensorError, safe_open

    files = sorted(f for f in place.rglob("*") if f.suffix in READ) if place.is_dir() else [place]
    for file in files:
        try:
            if file.suffix == ".json":
                json.loads(file.read_bytes())
            elif file.suffix == ".safetensors" and os.path.exists(file):
                with safe_open(file, "np"):
                    pass
        except (*DAMAGED, SafetensorError):
            return file
    return None
