"""Zips read within limits that are looked at before memory is taken; nothing is unpacked to disk.

Limits: MAX_MEMBERS files, a table of contents of MAX_TABLE bytes, MAX_BYTES a file, and in all RATIO times the size of
the zip, from which on it is a bomb: its files overlap, or hold next to nothing.
"""

import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

from dragnb.errors import InputError, boundary

MAX_BYTES = 512 * 2**20  # one unpacked file
MAX_MEMBERS = 50_000
MAX_TABLE = 16 * 2**20  # bytes of the zip's own list of its files
RATIO, FREE = 200, 64 * 2**20  # unpacked bytes to one byte of the zip; so many bytes may be unpacked of any
REMEDY = "write the zip again"


@contextmanager
def opened(file, name: str) -> Iterator[zipfile.ZipFile]:
    """The zip at a path, or in an open binary file, within the limits; InputError, calling it `name`, otherwise.

    What goes wrong inside the block is a fault of the zip too: many show only when a file of it is read.
    """
    with boundary(f"{name} cannot be unpacked", REMEDY):
        _require_short_table(file, name)
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
            if len(infos) > MAX_MEMBERS:
                raise InputError(
                    f"{name} holds {len(infos)} files, more than {MAX_MEMBERS}; pack the samples alone"
                )
            size, unpacked = archive.fp.seek(0, 2), sum(info.file_size for info in infos)
            if unpacked > FREE + RATIO * size:
                raise InputError(
                    f"{name} would unpack to {unpacked // 2**20} MiB, over {RATIO} times its size: a bomb; "
                    "pack it anew from its files"
                )
            yield archive


def _require_short_table(file, name: str) -> None:
    """InputError for a zip whose list of files is long: Python reads it whole, and makes an object for each."""
    with open(file, "rb") if not hasattr(file, "read") else _kept(file) as stream:
        end = zipfile._EndRecData(stream)  # Python's own way to the end record, zip64 or not
    if end and end[zipfile._ECD_SIZE] > MAX_TABLE:
        most = MAX_TABLE // 2**20
        raise InputError(f"{name} holds a list of files of over {most} MiB; pack the samples alone")


@contextmanager
def _kept(file):
    """An open file that is given back as it came."""
    place = file.tell()
    try:
        yield file
    finally:
        file.seek(place)


def content(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int | None = None) -> bytes:
    """The bytes of one file of a zip; InputError for a link and for one of more than `most` bytes (MAX_BYTES)."""
    most = MAX_BYTES if most is None else most
    if stat.S_ISLNK(info.external_attr >> 16):
        raise InputError(f"{info.filename} is a link; pack the file itself")
    with archive.open(info) as file:
        data = b"" if info.file_size > most else file.read(most + 1)
    if info.file_size > most or len(data) > most:
        raise InputError(f"{info.filename} is larger than {most // 2**20} MiB; save it smaller")
    return data
