"""What to do about a disk that cannot be written: one error for whatever the system or a library says."""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator

from dragnb.errors import WriteError

ELSEWHERE = "choose another place"


@contextlib.contextmanager
def write_errors(path: str | os.PathLike, elsewhere: str = ELSEWHERE) -> Iterator[None]:
    """Make one WriteError of whatever the system or a library says when `path` cannot be written."""
    from safetensors import SafetensorError

    try:
        yield
    except shutil.Error as error:  # a list of what happened to many files; the first one tells
        system = _system_error(error) or error
        raise WriteError(path, system, remedy(system, elsewhere)) from error
    except OSError as error:
        raise WriteError(path, error, remedy(error, elsewhere)) from error
    except (SafetensorError, RuntimeError) as error:  # what is written in Rust or C++ has errors of its own
        system = _system_error(error)
        if system is None:
            raise
        raise WriteError(path, system, remedy(system, elsewhere)) from error


def _system_error(error: Exception) -> OSError | None:
    """The system's error that a library put into words; None where it is about something else."""
    text = str(error)
    if match := re.search(r"(?:\(os error |\[Errno )(\d+)[\])]", text):
        return OSError(int(match[1]), os.strerror(int(match[1])))
    if "PytorchStreamWriter" in text or "inline_container" in text or "iostream error" in text:
        return OSError(errno.ENOSPC, "the file could not be written whole; is the disk full?")
    return None


REMEDIES = {
    **dict.fromkeys(
        (errno.EROFS, errno.EACCES, errno.EPERM), "it may not be written: {}, or change its permissions"
    ),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a file stands where a folder is needed; {}"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "too many files are open; close some and try again"),
    errno.ENOENT: "a folder or a temporary file vanished meanwhile: something else removes files there; try again",
    errno.EISDIR: "a folder stands there; {}",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOLCK: "this disk has no locks; give a folder on a local disk",
}
FULL = {errno.ENOSPC, errno.EDQUOT}
DISK = FULL | {errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
REMEDIES |= dict.fromkeys((errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP), REMEDIES[errno.ENOLCK])


def remedy(error: OSError, elsewhere: str = ELSEWHERE) -> str:
    """What to do about an error of the system's, by its kind."""
    room = "{}, or make room" if error.errno in FULL else "{}"
    return REMEDIES.get(error.errno, room).format(elsewhere)
