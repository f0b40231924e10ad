"""Pickles read as data: text, numbers, containers and numpy arrays of numbers; anything else is refused by name."""

import io
import pickle
import re

import numpy as np

from dragnb.errors import InputError, boundary, one_line


class _Numpy:
    """A stand-in for numpy's types and functions: keeps what a pickle calls it with and sets it to.

    numpy's own would believe a hostile file, down to arrays of objects at addresses that the file chooses.
    """

    state = None

    def __init__(self, *args):
        self.args = args

    def __setstate__(self, state):
        self.state = state

    def array(self) -> np.ndarray:
        """The array that this stands for; InputError where it is none of numbers or booleans."""
        if self.state is None:  # made whole, as protocol 5 does
            data, kind, shape, order = self.args
        else:
            _, shape, kind, fortran, data = self.state
            order = "F" if fortran else "C"
        code, (_, sign, *more) = kind.args[0], kind.state or (3, "=", *PLAIN)
        if not re.fullmatch(r"b1|[iu][1248]|f[248]", code) or more != PLAIN:
            raise InputError(f"it holds numpy values of type {code[:20]!r}, not plain numbers or booleans")
        return np.frombuffer(data, np.dtype(code).newbyteorder(sign)).reshape(shape, order=order)


class _Scalar(_Numpy):
    """A stand-in for numpy's way to make a number; gives a plain one."""

    def __new__(cls, kind, data):
        return _Numpy(data, kind, (1,), "C").array()[0].item()


PLAIN = [
    None,
    None,
    None,
    -1,
    -1,
    0,
]  # what a pickle says of a dtype that is no record, behind its byte order
NAMES = {"numpy.ndarray": _Numpy, "numpy.dtype": _Numpy}
for _core in ("numpy.core", "numpy._core"):  # before numpy 2, and since
    NAMES |= {f"{_core}.multiarray._reconstruct": _Numpy, f"{_core}.numeric._frombuffer": _Numpy}
    NAMES[f"{_core}.multiarray.scalar"] = _Scalar


class _Reader(pickle._Unpickler):
    """Python's reader in Python: the one in C takes 64 GiB for a memo index that ten bytes can claim."""

    def find_class(self, module, name):
        if f"{module}.{name}" not in NAMES:
            raise InputError(f"it names {module[:60]}.{name[:60]}, which is no data")
        return NAMES[f"{module}.{name}"]


def read(data: bytes, name: str):
    """A dict of text, numbers, lists and numpy arrays of numbers out of a pickle; `name` stands for it in messages.

    Raises InputError, naming what was asked for, for any other class or function and for what is no whole pickle.
    """
    with boundary(f"{name} is damaged or no pickle", "get it again"):
        try:
            value = _Reader(io.BytesIO(data)).load()
            if not isinstance(value, dict):
                raise InputError(f"it holds a {type(value).__name__}, not a dict")
            return {key: item.array() if isinstance(item, _Numpy) else item for key, item in value.items()}
        except InputError as error:
            raise InputError(f"{name}: {one_line(error)}; refused, and nothing in it was run") from None
