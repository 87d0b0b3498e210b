"""The safetensors header: written, read, and read with suspicion."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgeon.checkpoint.header import (
    DTYPE_BITS,
    MAX_HEADER,
    Tensor,
    count,
    encode_header,
    header_length,
    parse_header,
)
from surgeon.errors import SurgeonError

Row = tuple[str, str, tuple[int, ...], int]


def raw(table: Any) -> bytes:
    return (table if isinstance(table, str) else json.dumps(table)).encode()


def entry(begin: int, end: int, dtype: Any = "U8", shape: Any = None) -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": [end - begin] if shape is None else shape,
        "data_offsets": [begin, end],
    }


def refused(table: Any, data: int, *words: str) -> None:
    text = raw(table)
    with pytest.raises(SurgeonError) as error:
        parse_header(text, 8 + len(text) + data, "some.safetensors")
    assert str(error.value).startswith("some.safetensors: ")
    for word in words:
        assert word in str(error.value)


@st.composite
def rows(draw: st.DrawFn) -> list[Row]:
    names = draw(
        st.lists(
            st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
                lambda name: name != "__metadata__"
            ),
            unique=True,
            max_size=6,
        )
    )
    out: list[Row] = []
    for name in names:
        dtype = draw(st.sampled_from(sorted(DTYPE_BITS)))
        shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
        bits = count(shape) * DTYPE_BITS[dtype]
        if bits % 8:
            shape = (*shape, 8)
            bits *= 8
        out.append((name, dtype, shape, bits // 8))
    return out


metadata = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"])), st.text('aé\n"', max_size=4)
)


@given(rows(), metadata, st.integers(0, 511).map(lambda n: n * 8))
def test_round_trip(tensors: list[Row], extra: dict[str, str], residue: int) -> None:
    data = encode_header(tensors, extra, residue)
    size = len(data) + sum(length for *_, length in tensors)
    assert len(data) % 4096 == residue
    length = header_length(data[:8], size, "f")
    assert length == len(data) - 8
    header = parse_header(data[8:], size, "f")
    assert header.metadata == extra
    position = len(data)
    wanted = {}
    for name, dtype, shape, bytes_ in tensors:
        wanted[name] = Tensor(name, dtype, shape, "f", position, bytes_)
        position += bytes_
    assert {tensor.name: tensor for tensor in header.tensors} == wanted


@given(rows(), st.randoms())
def test_any_order_of_offsets(tensors: list[Row], random: Any) -> None:
    order = list(tensors)
    random.shuffle(order)
    table: dict[str, Any] = {}
    position = 0
    for name, dtype, shape, length in tensors:
        table[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [position, position + length],
        }
        position += length
    text = raw({name: table[name] for name, *_ in order})
    header = parse_header(text, 8 + len(text) + position, "f")
    assert sorted(t.name for t in header.tensors) == sorted(table)
    assert [t.offset for t in header.tensors] == sorted(t.offset for t in header.tensors)


def test_literal_bytes() -> None:
    assert encode_header([("a", "BF16", (2, 1), 4), ("b", "F32", (), 4)], {"format": "pt"}, 0, 8) == (
        b"\x90\0\0\0\0\0\0\0"
        b'{"__metadata__":{"format":"pt"},'
        b'"a":{"dtype":"BF16","shape":[2,1],"data_offsets":[0,4]},'
        b'"b":{"dtype":"F32","shape":[],"data_offsets":[4,8]}}    '
    )


@pytest.mark.parametrize("residue", [0, 8, 2048, 4088])
def test_the_data_starts_where_asked(residue: int) -> None:
    for name in ("a", "ab", "abc" * 2000):
        assert len(encode_header([(name, "U8", (1,), 1)], {}, residue)) % 4096 == residue


def test_what_others_write_is_read_by_us_and_the_reverse(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    library = pytest.importorskip("safetensors")
    from safetensors.numpy import save_file

    arrays = {
        "x": numpy.arange(6, dtype=numpy.float32).reshape(2, 3),
        "y": numpy.array(7, dtype=numpy.int64),
        "z": numpy.zeros((0, 4), dtype=numpy.float16),
    }
    theirs = tmp_path / "theirs.safetensors"
    save_file(arrays, theirs, {"format": "np"})
    data = theirs.read_bytes()
    length = header_length(data[:8], len(data), "f")
    header = parse_header(data[8 : 8 + length], len(data), "f")
    assert header.metadata == {"format": "np"}
    assert {t.name: (t.dtype, t.shape) for t in header.tensors} == {
        "x": ("F32", (2, 3)),
        "y": ("I64", ()),
        "z": ("F16", (0, 4)),
    }
    found = {t.name: data[t.offset : t.offset + t.length] for t in header.tensors}
    assert found == {name: array.tobytes() for name, array in arrays.items()}
    ours = tmp_path / "ours.safetensors"
    written = [(t.name, t.dtype, t.shape, t.length) for t in header.tensors]
    ours.write_bytes(encode_header(written, {"format": "pt"}, 1000) + b"".join(found.values()))
    with library.safe_open(ours, "numpy") as stream:
        assert stream.metadata() == {"format": "pt"}
        for name, array in arrays.items():
            assert numpy.array_equal(stream.get_tensor(name), array)


@pytest.mark.parametrize("prefix", [b"", b"\1\0\0", b"1234567"])
def test_too_short_for_a_length(prefix: bytes) -> None:
    with pytest.raises(SurgeonError, match="truncated"):
        header_length(prefix, len(prefix), "f")


def test_absurd_lengths() -> None:
    for length in (MAX_HEADER + 1, 2**63, 2**64 - 1):
        with pytest.raises(SurgeonError, match="limit"):
            header_length(struct.pack("<Q", length), 2**62, "f")
    with pytest.raises(SurgeonError, match="beyond the file"):
        header_length(struct.pack("<Q", 93), 100, "f")
    assert header_length(struct.pack("<Q", 92), 100, "f") == 92


@pytest.mark.parametrize(
    ("table", "data", "word"),
    [
        ("", 0, "not JSON"),
        ("{", 0, "not JSON"),
        ("{}x", 0, "not JSON"),
        ("[]", 0, "not a JSON object"),
        ("3", 0, "not a JSON object"),
        (" {}", 0, "not a JSON object"),  # the format wants the brace first
        ("[" * 100_000, 0, "not JSON"),
        ('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},' * 2 + '"b":3}', 1, "not JSON"),
        ({"a": entry(0, 4), "b": entry(2, 6)}, 6, "overlaps"),
        ({"a": entry(0, 4), "b": entry(0, 4)}, 4, "overlaps"),
        ({"a": entry(0, 4), "b": entry(6, 8)}, 8, "gap"),
        ({"a": entry(2, 4)}, 4, "gap"),
        ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [4, 2]}}, 4, "reversed"),
        ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [-2, 0]}}, 0, "offsets"),
        ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0.0, 2.0]}}, 2, "offsets"),
        ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0]}}, 2, "offsets"),
        ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 1, 2]}}, 2, "offsets"),
        ({"a": {"dtype": "U8", "shape": [2], "data_offsets": "02"}}, 2, "offsets"),
        ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [False, True]}}, 1, "offsets"),
        ({"a": {"dtype": "U8", "shape": [2]}}, 2, "offsets"),
        ({"a": {"dtype": "U8", "shape": [0], "data_offsets": [2**63, 2**63]}}, 0, "offsets"),
        ({"a": entry(0, 4, "F32", [2])}, 4, "not F32 [2]"),
        ({"a": entry(0, 4, "BF16", [])}, 4, "not BF16 []"),
        ({"a": entry(0, 1, "F4", [3])}, 1, "not F4 [3]"),
        ({"a": entry(0, 4, "F31", [1])}, 4, "unknown dtype"),
        ({"a": entry(0, 4, 4, [1])}, 4, "unknown dtype"),
        ({"a": entry(0, 4, ["F32"], [1])}, 4, "unknown dtype"),
        ({"a": entry(0, 4, "U8", [-2, -2])}, 4, "shape"),
        ({"a": entry(0, 4, "U8", [4.0])}, 4, "shape"),
        ({"a": entry(0, 4, "U8", 4)}, 4, "shape"),
        ({"a": entry(0, 1, "U8", [True])}, 1, "shape"),
        ({"a": [0, 4]}, 4, "no description"),
        ({"a": None}, 0, "no description"),
        ({"__metadata__": {"format": 3}}, 0, "table of strings"),
        ({"__metadata__": "pt"}, 0, "table of strings"),
        ({"__metadata__": None}, 0, "table of strings"),
        ({"a": entry(0, 4)}, 3, "truncated"),
        ({"a": entry(0, 4)}, 5, "belong to no tensor"),
        ({}, 1, "belong to no tensor"),
        ({"a": entry(0, 2**62, "U8")}, 10, "truncated"),
    ],
)
def test_every_rule_of_the_format(table: Any, data: int, word: str) -> None:
    refused(table, data, word)


def test_names_that_come_twice() -> None:
    one = '"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    refused("{" + one + "," + one.replace("[0,1]", "[1,2]") + "}", 2, "'a' twice")
    refused('{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}', 1, "'dtype' twice")
    # the same name, once escaped
    refused(
        "{" + one + "," + one.replace('"a"', '"\\u0061"').replace("[0,1]", "[1,2]") + "}",
        2,
        "'a' twice",
    )


def test_bad_utf8() -> None:
    with pytest.raises(SurgeonError, match="not JSON"):
        parse_header(b'{"\xff":1}', 18, "f")


@given(st.binary(max_size=60))
def test_noise_never_crashes(noise: bytes) -> None:
    try:
        parse_header(noise, 8 + len(noise), "f")
    except SurgeonError:
        return
    assert json.loads(noise).keys() <= {"__metadata__"} or noise.startswith(b"{")


_ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["U8", "F4", "BF16", 3, None]),
        "shape": st.lists(st.integers(-1, 3) | st.none() | st.floats(allow_nan=False), max_size=3),
        "data_offsets": st.lists(st.integers(-1, 9), max_size=3),
    },
)


@given(st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), _ENTRY), st.integers(0, 9))
def test_whatever_is_accepted_tiles_the_data(table: dict[str, Any], data: int) -> None:
    text = raw(table)
    size = 8 + len(text) + data
    try:
        header = parse_header(text, size, "f")
    except SurgeonError:
        return
    covered = [byte for t in header.tensors for byte in range(t.offset, t.offset + t.length)]
    assert covered == list(range(size - data, size))
