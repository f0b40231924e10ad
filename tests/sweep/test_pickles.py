"""A pickle from the network is read as data; whatever else it asks for is refused by name and never run."""

import builtins
import os
import pickle
import struct
import sys
import time

import numpy as np
import pytest

from dragnb.errors import InputError
from dragnb.sweep import datasets, pickles

PROTOCOLS = range(3, pickle.HIGHEST_PROTOCOL + 1)
ARRAY = (
    b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01bt"  # up to REDUCE's two arguments
)


class Call:
    """Pickles as a call of `function` with `args`."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def read(data):
    return pickles.read(data, "file.pkl")


def array(shape: bytes, data: bytes, dtype=b"cnumpy\ndtype\n(X\x02\x00\x00\x00u1\x89\x88tR"):
    """A pickled array of a claimed shape, written by hand."""
    return b"\x80\x03}X\x01\x00\x00\x00a" + ARRAY + b"R(K\x01" + shape + dtype + b"\x89" + data + b"tbs."


def binbytes(data: bytes, claimed: int | None = None):
    return b"B" + struct.pack("<I", len(data) if claimed is None else claimed) + data


def refused(data, message):
    with pytest.raises(InputError, match=message):
        pickles.read(data, "file.pkl")


# what is let in


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "content",
    [
        np.eye(4, 3, dtype=np.uint8),
        np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4)),
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.array([True, False]),
        np.zeros((0, 3)),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_arrays_of_numbers_come_back_as_they_were(content, protocol):
    found = read(pickle.dumps({"a": content, "b": content.copy()}, protocol))

    for array in found.values():
        assert array.dtype.newbyteorder("=") == content.dtype.newbyteorder("=")
        assert array.shape == content.shape and np.array_equal(array, content)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_text_numbers_and_containers_come_back_as_they_were(protocol):
    content = {"prompt": "eine Katze, 猫", "points": [[1, 2], (3.5, -70_000)], "more": {"n": None, "b": True}}
    content |= {"long": "x" * 300, "empty": [[], {}, ()], "big": 2**70, "bytes": b"abc"}

    assert read(pickle.dumps(content, protocol)) == content


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numpys_single_numbers_become_plain_ones(protocol):
    found = read(pickle.dumps({"points": [[np.int64(-3), np.float32(2.5)], [np.bool_(True)]]}, protocol))

    assert found == {"points": [[-3, 2.5], [True]]} and type(found["points"][0][0]) is int


# what is refused


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("function", "args", "message"),
    [
        (os.system, ("touch {}",), rf"file\.pkl: it names {os.name}\.system, which is no data; refused, and"),
        (builtins.eval, ("open('{}', 'w')",), r"it names builtins\.eval"),
        (builtins.getattr, (0, "real"), r"it names builtins\.getattr"),
        (np.load, ("{}",), r"it names numpy\.load"),
        (np.fromfile, ("{}",), r"it names numpy\.fromfile"),
    ],
    ids=["os.system", "eval", "getattr", "numpy.load", "numpy.fromfile"],
)
def test_a_function_is_refused_by_its_name_and_never_called(tmp_path, function, args, message, protocol):
    mark = tmp_path / "mark"
    args = [a.format(mark) if isinstance(a, str) else a for a in args]

    refused(pickle.dumps({"mask": Call(function, *args)}, protocol), message)

    assert not mark.exists()


def test_a_class_and_an_old_style_instance_are_refused_by_name():
    refused(pickle.dumps(Call), r"it names test_pickles\.Call|it names tests\.test_pickles\.Call")
    refused(b"(S'echo'\nios\nsystem\n.", r"it names os\.system")
    refused(b"\x80\x03(X\x04\x00\x00\x00echoios\nsystem\n.", r"it names os\.system")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numpy_arrays_of_objects_or_records_are_refused_by_their_type(protocol):
    for content, kind in ((np.array([{}, None], object), "O8"), (np.zeros(2, "U3"), "U3"),
                          (np.zeros(2, [("a", "i4")]), "V4")):  # fmt: skip
        refused(pickle.dumps({"a": content}, protocol), f"it holds numpy values of type '{kind}', not plain")


def test_a_numpy_type_disguised_by_its_state_is_refused():
    hidden = pickle.dumps({"a": np.zeros(2, [("a", "u1")])}, 3).replace(
        b"X\x02\x00\x00\x00V1", b"X\x02\x00\x00\x00u1"
    )

    refused(hidden, "it holds numpy values of type 'u1', not plain numbers")


def test_numpys_own_array_is_never_made_of_what_a_file_claims():
    """`numpy.ndarray((1,), "O", bytes)` is an object at an address of the file's choice."""
    dtype = np.dtype("O")
    refused(pickle.dumps({"a": Call(np.ndarray, (1,), dtype, bytes(8))}), "is damaged or no pickle")
    refused(pickle.dumps({"a": Call(np._core.multiarray.scalar, dtype, bytes(8))}), "values of type 'O8'")


def test_a_claimed_shape_without_the_bytes_for_it_is_refused_before_it_takes_memory():
    huge = b"(J" + struct.pack("<i", 2**31 - 1) + b"K\x02t"
    refused(array(huge, binbytes(b"abc")), r"damaged or no pickle \(cannot reshape array of size 3")
    refused(array(b"(" + b"K\x02" * 90 + b"t", binbytes(b"a")), "damaged or no pickle")
    assert read(array(b"(K\x03t", binbytes(b"abc")))["a"].tolist() == [97, 98, 99], "the writer is right"


def test_claimed_lengths_beyond_the_file_are_refused():
    refused(
        b"\x80\x03" + binbytes(b"abc", claimed=2**31), "file.pkl is damaged or no pickle .*; get it again"
    )
    refused(b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc.", "is damaged or no pickle")
    refused(b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"abc.", "is damaged or no pickle")


def test_a_memo_index_of_four_billion_costs_nothing():
    assert read(b"\x80\x03}r\xff\xff\xff\xff.") == {}


def test_billion_laughs_loops_and_deep_nesting_take_no_more_than_the_file():
    laughs = ["ha"]
    for _ in range(40):
        laughs = [laughs, laughs]
    loop = []
    loop.append(loop)

    started = time.process_time()
    for points in (laughs, loop):
        with pytest.raises(InputError, match=r"file.pkl: points\[0\] is not \[x, y\]"):
            datasets._pairs(read(pickle.dumps({"points": points})), "file.pkl")
    refused(b"\x80\x03" + b"]" * 20_000 + b"a" * 19_999 + b".", "it holds a list, not a dict")
    assert time.process_time() - started < 5


def test_what_is_let_in_keeps_nothing_of_a_file_for_the_next_one():
    """BUILD can set attributes of what a pickle names; of the stand-ins it can set none."""
    for name in (b"numpy\nndarray", b"numpy.core.multiarray\nscalar", b"numpy\ndtype"):
        refused(b"\x80\x03c" + name + b"\nN}X\x05\x00\x00\x00stateK\x01s\x86b.", "is damaged or no pickle")
    test_arrays_of_numbers_come_back_as_they_were(np.eye(2), 4)


def test_a_pickle_cut_anywhere_is_damaged_and_never_half_read():
    whole = pickle.dumps({"prompt": "a cat", "points": [[1, 2]], "mask": np.ones((4, 4), np.uint8)})
    for end in range(len(whole)):
        refused(whole[:end], "file.pkl")


def test_random_damage_gives_data_or_an_input_error_and_nothing_else():
    whole = pickle.dumps({"prompt": "a cat", "points": [[1, 2]], "mask": np.ones((4, 4), np.uint8)})
    rng = np.random.default_rng(0)
    modules = set(sys.modules)
    for _ in range(2_000):
        broken = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 4)):
            broken[place] = rng.integers(0, 256)
        try:
            read(bytes(broken))
        except InputError:
            pass
    imported = {name for name in set(sys.modules) - modules if not name.startswith("encodings.")}
    assert not imported, "only Python's own text codecs may be loaded"
