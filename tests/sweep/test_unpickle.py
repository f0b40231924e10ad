"""A pickle from the network is read as data; whatever else it asks for is refused by name and never run."""

import builtins
import os
import pickle
import pickletools
import struct
import sys
import time

import numpy as np
import pytest

from dragnb import unpickle
from dragnb.errors import InputError

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


def array(shape: bytes, data: bytes, dtype=b"cnumpy\ndtype\n(X\x02\x00\x00\x00u1\x89\x88tR"):
    """A pickled array of a claimed shape, written by hand."""
    return b"\x80\x03" + ARRAY + b"R(K\x01" + shape + dtype + b"\x89" + data + b"tb."


def binbytes(data: bytes, claimed: int | None = None):
    return b"B" + struct.pack("<I", len(data) if claimed is None else claimed) + data


def refused(data, message):
    with pytest.raises(InputError, match=message):
        unpickle.loads(data, "file.pkl")


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
    found = unpickle.loads(pickle.dumps({"a": content, "b": [content.copy()]}, protocol))

    for array in (found["a"], found["b"][0]):
        assert array.dtype.newbyteorder("=") == content.dtype.newbyteorder("=")
        assert array.shape == content.shape and np.array_equal(array, content)
    assert np.dtype("i4").isnative, "the byte order of a file's type stays with that type"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_text_numbers_and_containers_come_back_as_they_were(protocol):
    content = {"prompt": "eine Katze, 猫", "points": [[1, 2], (3.5, -70_000)], "more": {"n": None, "b": True}}
    content |= {"long": "x" * 300, "empty": [[], {}, ()], "big": 2**70, "bytes": b"abc"}

    assert unpickle.loads(pickle.dumps(content, protocol)) == content


# what is refused


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("function", "args", "message"),
    [
        (os.system, ("touch {}",), rf"file\.pkl: it names {os.name}\.system, which is no data; refused, and"),
        (builtins.eval, ("open('{}', 'w')",), r"it names builtins\.eval"),
        (builtins.getattr, (0, "real"), r"it names builtins\.getattr"),
        (np.load, ("{}",), r"it names numpy\.load"),
    ],
    ids=["os.system", "eval", "getattr", "numpy.load"],
)
def test_a_function_is_refused_by_its_name_and_never_called(tmp_path, function, args, message, protocol):
    mark = tmp_path / "mark"
    args = [a.format(mark) if isinstance(a, str) else a for a in args]

    refused(pickle.dumps({"mask": Call(function, *args)}, protocol), message)

    assert not mark.exists()


def test_a_class_and_an_old_style_instance_are_refused_by_name():
    refused(pickle.dumps(Call), r"it names test_unpickle\.Call|it names tests\.test_unpickle\.Call")
    refused(b"(S'echo'\nios\nsystem\n.", r"STRING makes no data")
    refused(b"\x80\x03(X\x04\x00\x00\x00echoios\nsystem\n.", r"it names os\.system")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numpy_arrays_of_objects_or_records_are_refused_by_their_type(protocol):
    refused(
        pickle.dumps(np.array([{}, None], object), protocol), r"it holds numpy values of type 'O8', not num"
    )
    refused(pickle.dumps(np.zeros(2, "U3"), protocol), "it holds numpy values of type 'U3'")
    refused(pickle.dumps(np.zeros(2, [("a", "i4")]), protocol), "it holds numpy values of type 'V4'")


def test_a_numpy_type_disguised_by_its_state_is_refused():
    hidden = pickle.dumps(np.zeros(2, [("a", "u1")]), 3).replace(
        b"X\x02\x00\x00\x00V1", b"X\x02\x00\x00\x00u1"
    )

    refused(hidden, "it describes a numpy type that is not plain numbers")


def test_a_claimed_shape_without_the_bytes_for_it_is_refused_before_it_takes_memory():
    huge = b"(J" + struct.pack("<i", 2**31 - 1) + b"K\x02t"
    refused(array(huge, binbytes(b"abc")), r"an array claims the shape \(2147483647, 2\) and holds 3 b")
    refused(array(b"(J" + struct.pack("<i", -1) + b"t", binbytes(b"")), r"claims the shape \(-1,\)")
    refused(array(b"(" + b"K\x01" * 40 + b"t", binbytes(b"a")), r"claims the shape \(1, 1, 1,")
    assert unpickle.loads(array(b"(K\x03t", binbytes(b"abc"))).tolist() == [97, 98, 99], "the writer is right"


def test_claimed_lengths_beyond_the_file_are_refused():
    refused(
        b"\x80\x03" + binbytes(b"abc", claimed=2**31), "file.pkl is damaged or no pickle .*; get it again"
    )
    refused(b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc.", "is damaged or no pickle")
    refused(b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"abc.", "is damaged or no pickle")


def test_a_memo_index_of_four_billion_costs_nothing():
    assert unpickle.loads(b"\x80\x03K\x07r\xff\xff\xff\xff.") == 7


def test_billion_laughs_and_loops_are_refused():
    laughs = ["ha"]
    for _ in range(40):
        laughs = [laughs, laughs]
    loop = []
    loop.append(loop)
    knot = {}
    knot["self"] = (knot,)

    refused(pickle.dumps(laughs), "it uses one list in two places")
    refused(pickle.dumps(loop), "it uses one list in two places")
    refused(pickle.dumps(knot), "it uses one dict in two places")


def test_many_arrays_of_one_block_of_bytes_are_refused(monkeypatch):
    monkeypatch.setattr(unpickle, "MAX_BYTES", 10_000)
    dtype, block = np.dtype("u1"), bytes(4_000)
    arrays = [Call(np._core.numeric._frombuffer, block, dtype, (len(block),), "C") for _ in range(4)]

    refused(pickle.dumps(arrays), "its arrays take more than 0 MiB")
    assert len(unpickle.loads(pickle.dumps(arrays[:2]))) == 2


def test_deep_nesting_is_refused_however_it_is_made():
    refused(b"\x80\x03" + b"]" * 20_000 + b"a" * 19_999 + b".", "it is nested deeper than 16")
    refused(b"\x80\x03)" + b"\x85" * 20_000 + b".", "it is nested deeper than 16")


def test_endless_steps_and_large_files_are_refused_soon(monkeypatch):
    started = time.process_time()
    refused(b"\x80\x03" + b"N" * 2_000_000 + b".", "it takes more than 100000 steps")
    assert time.process_time() - started < 5
    monkeypatch.setattr(unpickle, "MAX_BYTES", 100)
    refused(bytes(101), "it is larger than 0 MiB")


def test_state_set_on_anything_but_an_array_or_a_type_is_refused():
    refused(b"\x80\x03cnumpy\nndarray\n}X\x01\x00\x00\x00aK\x01sb.", "it sets the state of a Name")
    refused(b"\x80\x03]}b.", "it sets the state of a list")
    refused(
        b"\x80\x03X\x05\x00\x00\x00dtype(X\x02\x00\x00\x00u1\x89\x88tR.", "it puts str where Name belongs"
    )


def test_calls_of_what_is_let_in_with_other_arguments_are_refused():
    refused(b"\x80\x03" + ARRAY.replace(b"K\x00", b"K\x7f") + b"R.", "it calls something that makes no array")
    refused(b"\x80\x03cnumpy\nndarray\n(K\x7ftR.", "it calls something that makes no array")
    refused(b"\x80\x03}K\x01K\x02s.", "it puts int where str belongs")


OPCODES = {op.name: op.code for op in pickletools.opcodes}


@pytest.mark.parametrize(
    "name", ["DUP", "POP", "PERSID", "BINPERSID", "EXT1", "NEWOBJ", "OBJ", "NEXT_BUFFER"]
)
def test_other_instructions_are_refused_by_name(name):
    argument = {"PERSID": b"a\n", "EXT1": b"\x01"}.get(name, b"")

    refused(
        b"\x80\x03NN" + OPCODES[name].encode("latin1") + argument + b".", f"its instruction {name} makes no"
    )


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
            unpickle.loads(bytes(broken))
        except InputError:
            pass
    imported = {name for name in set(sys.modules) - modules if not name.startswith("encodings.")}
    assert not imported, "only Python's own text codecs may be loaded"
