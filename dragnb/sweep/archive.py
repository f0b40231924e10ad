"""A folder or a zip as named files: which of some wanted names lie where, and their bytes, within bounds.

Nothing is unpacked to disk, so no name in a zip can reach out of it; odd names are refused all the same.
"""

import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

from dragnb.errors import InputError

MAX_BYTES = 64 * 2**20  # of one file
MAX_MEMBERS = 50_000  # of a zip
_BROKEN = (OSError, ValueError, RuntimeError, struct.error, zipfile.BadZipFile)  # what zipfile raises

Found = dict[str, dict[str, str]]  # folder ("" is the top) -> a wanted name in it -> its name in the whole


def scan(path: Path, wanted: Collection[str]) -> tuple[Found, dict[str, str]]:
    """Where files of the wanted names lie in a folder or zip; and folders refused, each with the reason.

    Hidden files and folders and macOS's own are passed over. A folder is refused that cannot be listed; in a zip
    one with a name that is absolute or holds `..`, or with a wanted file that is a link, there twice, compressed
    by anything but deflate, or declared larger than MAX_BYTES. Both are in the order of names. Raises InputError
    where `path` is neither a folder nor a whole zip of at most MAX_MEMBERS files.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist")
    found, refused = _scan_folder(path, wanted) if path.is_dir() else _scan_zip(path, wanted)
    return {k: found[k] for k in sorted(found) if k not in refused}, dict(sorted(refused.items()))


def read(path: Path, members: dict[str, str]) -> dict[str, bytes]:
    """The content of files that `scan` found: name -> bytes, for name -> name in the whole.

    Raises InputError, naming the file, for one that is gone, damaged, locked by a password, or larger than
    MAX_BYTES, whatever its zip declares.
    """
    content, name = {}, path.name
    try:
        if path.is_dir():
            for name, member in members.items():
                content[name] = _bounded((path / member).open("rb"))
        else:
            with zipfile.ZipFile(path) as archive:
                for name, member in members.items():
                    content[name] = _bounded(archive.open(member))
    except InputError as error:
        raise InputError(f"{name} {error}") from None
    except (*_BROKEN, zlib.error, KeyError, EOFError) as error:
        raise InputError(f"{name} cannot be read ({error}); get it again") from error
    return content


def _bounded(file) -> bytes:
    with file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise InputError(f"is larger than {MAX_BYTES // 2**20} MiB")
    return data


def _scan_folder(path: Path, wanted: Collection[str]) -> tuple[Found, dict[str, str]]:
    found, refused = {}, {}

    def unlisted(error: OSError) -> None:
        refused[_relative(error.filename, path)] = f"the folder cannot be listed ({error.strerror})"

    for root, folders, names in os.walk(path, onerror=unlisted):
        folders[:] = [name for name in folders if not _is_junk(name)]
        here = _relative(root, path)
        known = {name: f"{here}/{name}" if here else name for name in sorted(names) if name in wanted}
        if known:
            found[here] = known
    return found, refused


def _relative(inner, path: Path) -> str:
    return "/".join(Path(inner).relative_to(path).parts)


def _is_junk(part: str) -> bool:
    return part.startswith(".") and part != ".." or part == "__MACOSX"


def _scan_zip(path: Path, wanted: Collection[str]) -> tuple[Found, dict[str, str]]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except _BROKEN as error:
        raise InputError(f"{path} is neither a folder nor a whole zip file ({error})") from None
    if len(members) > MAX_MEMBERS:
        raise InputError(f"{path} holds {len(members)} files, more than {MAX_MEMBERS}")
    found, refused = {}, {}
    for info in members:
        *folders, name = [part for part in re.split(r"[\\/]+", info.filename) if part != "."] or [""]
        if any(map(_is_junk, (*folders, name))):
            continue
        here = "/".join(folders)
        fault = _fault(info, name, wanted, found.get(here, {}))
        if fault:
            refused.setdefault(here, f"{info.filename} {fault}; refused")
        elif name in wanted:
            found.setdefault(here, {})[name] = info.filename
    return found, refused


def _fault(info: zipfile.ZipInfo, name: str, wanted: Collection[str], found: dict[str, str]) -> str:
    """Why a member of a zip is refused; empty where it is not, or is not wanted."""
    if re.match(r"[\\/]|\w:", info.filename):
        return "has an absolute name"
    if ".." in re.split(r"[\\/]", info.filename):
        return "has a name that leaves the zip"
    if name not in wanted:
        return ""
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a link"
    if name in found:
        return "is there twice"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed by another method than deflate"
    return f"is larger than {MAX_BYTES // 2**20} MiB" if info.file_size > MAX_BYTES else ""
