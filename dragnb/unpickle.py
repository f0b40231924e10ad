"""Pickles read as data: dicts, lists, text, numbers and plain numpy arrays. Anything else is refused by name.

A pickle is a program for a small stack machine, and Python's own reader calls whatever the program names. This
one knows only the instructions that put data together, so nothing a file names is ever imported or called.
"""

import math
import pickletools
import re

import numpy as np

from dragnb.errors import InputError

MAX_BYTES = 64 * 2**20  # of the file, and of all its arrays together
MAX_STEPS = 100_000  # instructions; an array takes about twenty, whatever its size
MAX_DEPTH = 16  # containers within containers
MAX_AXES = 8  # of an array

_LEAVES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# numpy.core became numpy._core in numpy 2; _frombuffer is how protocol 5 writes an array
_NUMPY = {"ndarray": ("numpy",), "dtype": ("numpy",)}
_NUMPY |= {"_reconstruct": ("numpy.core.multiarray", "numpy._core.multiarray")}
_NUMPY |= {"_frombuffer": ("numpy.core.numeric", "numpy._core.numeric")}
_NUMBERS = re.compile(r"b1|[iu][1248]|f[248]")


class _Refused(Exception):
    """The pickle asks for something that a file of data does not need."""


class Name(str):
    """One of the names in _NUMPY: a mark on the stack, not the thing it names."""


def loads(data: bytes, name: str = "pickle"):
    """The value of a pickle of protocol 3 or later: a tree no bigger than the file.

    name  stands for the file in messages

    Raises InputError, naming what was asked for, for classes and functions, numpy arrays of anything but numbers
    and booleans, containers used in two places (as in loops and "billion laughs"), claimed sizes the file does
    not hold, more than MAX_BYTES, MAX_STEPS or MAX_DEPTH, and files that are cut off or no pickle.
    """
    machine = _Machine()
    try:
        if len(data) > MAX_BYTES:
            raise _Refused(f"it is larger than {MAX_BYTES // 2**20} MiB")
        for step, (opcode, arg, _) in enumerate(pickletools.genops(data)):
            if step == MAX_STEPS:
                raise _Refused(f"it takes more than {MAX_STEPS} steps")
            machine.run(opcode.name, arg)
        value = machine.stack.pop()
        _require_shallow(value)
    except _Refused as refused:
        raise InputError(f"{name}: {refused}; refused, and nothing in it was run") from None
    except (ValueError, TypeError, LookupError) as error:
        raise InputError(f"{name} is damaged or no pickle ({error}); get it again") from None
    return value


class _Machine:
    """The stack machine, with the instructions of data only."""

    def __init__(self):
        self.stack, self.marks, self.memo = [], [], {}
        self.room = MAX_BYTES  # bytes that arrays may still take

    def run(self, op: str, arg) -> None:
        """One instruction, by its name in `pickletools`."""
        stack = self.stack
        if op in _LEAVES:
            stack.append(arg)
        elif op in _CONSTANTS:
            stack.append(_CONSTANTS[op])
        elif op in _EMPTY:
            stack.append(_EMPTY[op]())
        elif op == "MARK":
            self.marks.append(len(stack))
        elif op in ("APPEND", "APPENDS"):
            items = self._top(1) if op == "APPEND" else self._marked()
            _expect(stack[-1], list).extend(items)
        elif op in ("SETITEM", "SETITEMS"):
            items = self._top(2) if op == "SETITEM" else self._marked()
            _expect(stack[-1], dict).update(_entries(items))
        elif op == "TUPLE" or op in _TUPLES:
            stack.append(tuple(self._marked() if op == "TUPLE" else self._top(_TUPLES[op])))
        elif op in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if arg is None else arg] = stack[-1]
        elif op in ("BINGET", "LONG_BINGET"):
            stack.append(self._remembered(arg))
        elif op in ("GLOBAL", "INST", "STACK_GLOBAL"):
            stack.append(_name(*(self._top(2) if arg is None else arg.split(" ", 1))))
        elif op == "REDUCE":
            stack.append(self._made(*self._top(2)))
        elif op == "BUILD":
            (state,) = self._top(1)
            self._fill(stack[-1], state)
        elif op not in ("PROTO", "FRAME", "STOP"):
            raise _Refused(f"its instruction {op} makes no data")

    def _top(self, n: int) -> list:
        if len(self.stack) < n:
            raise IndexError("its stack is empty")
        items = self.stack[-n:]
        del self.stack[-n:]
        return items

    def _marked(self) -> list:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _remembered(self, index: int):
        value = self.memo[index]
        if isinstance(value, (list, dict, tuple)):
            raise _Refused(f"it uses one {type(value).__name__} in two places")
        return value

    def _made(self, what, args):
        """A dtype, or an array that BUILD will fill; nothing is called that the pickle could choose."""
        _expect(what, Name)
        if what == "dtype":
            code, align, copy = args
            if not _NUMBERS.fullmatch(_expect(code, str)) or align or not copy:
                raise _Refused(f"it holds numpy values of type {code[:20]!r}, not numbers or booleans")
            return np.dtype(code, copy=True)  # a copy of its own, for BUILD to set the byte order of
        if what == "_reconstruct" and args == ("ndarray", (0,), b"b"):
            return np.empty(0, np.int8)
        if what == "_frombuffer":
            data, dtype, shape, order = args
            data = bytes(data) if isinstance(data, bytearray) else _expect(data, bytes)
            self._require_room(shape, dtype, data)
            return np.ndarray(shape, dtype, data, order="F" if order == "F" else "C").copy()
        raise _Refused("it calls something that makes no array")

    def _fill(self, value, state) -> None:
        """BUILD: give a dtype its byte order, or an array its content."""
        if isinstance(value, np.dtype):
            order = _expect(state[1], str)
            if order not in ("<", ">", "|", "=") or state != (3, order, None, None, None, -1, -1, 0):
                raise _Refused("it describes a numpy type that is not plain numbers")
            value.__setstate__(state)
        elif isinstance(value, np.ndarray):
            version, shape, dtype, fortran, data = state
            self._require_room(shape, dtype, _expect(data, bytes))
            value.__setstate__((version, shape, dtype, fortran, data))
        else:
            raise _Refused(f"it sets the state of a {type(value).__name__}")

    def _require_room(self, shape, dtype, data) -> None:
        """The claimed shape must be exactly what the file holds bytes for, and all arrays small enough."""
        sane = len(_expect(shape, tuple)) <= MAX_AXES and all(
            type(n) is int and 0 <= n <= MAX_BYTES for n in shape
        )
        size = math.prod(shape) * _expect(dtype, np.dtype).itemsize if sane else -1
        if size != len(data):
            raise _Refused(f"an array claims the shape {str(shape)[:60]} and holds {len(data)} bytes")
        self.room -= size
        if self.room < 0:
            raise _Refused(f"its arrays take more than {MAX_BYTES // 2**20} MiB")


def _expect(value, kind):
    if not isinstance(value, kind):
        raise _Refused(f"it puts {type(value).__name__} where {kind.__name__} belongs")
    return value


def _entries(items: list) -> dict:
    return {_expect(key, str): value for key, value in zip(items[0::2], items[1::2], strict=True)}


def _name(module, name) -> Name:
    if module not in _NUMPY.get(_expect(name, str), ()):
        raise _Refused(f"it names {str(module)[:60]}.{name[:60]}, which is no data")
    return Name(name)


def _require_shallow(value) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        inner = [
            v.values() if isinstance(v, dict) else v for v in level if isinstance(v, (dict, list, tuple))
        ]
        level = [item for items in inner for item in items]
        if not level:
            return
    raise _Refused(f"it is nested deeper than {MAX_DEPTH}")
