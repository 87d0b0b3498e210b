"""The safetensors header, read with every check of the format, and written.

Format: 8 bytes little-endian length N, N bytes of JSON, then the data. The JSON maps tensor names
to dtype, shape and [begin, end) offsets relative to the data; these must tile the data in full, in
any order. https://github.com/huggingface/safetensors#format
"""

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from surgeon.errors import SurgeonError

MAX_HEADER = 100_000_000
"""Bytes; the format's own limit."""

POINTER = b"version https://git-lfs"
"""How a file begins that stands for one that git-lfs did not fetch."""

DTYPE_BITS: dict[str, int] = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8"), 8),
    **dict.fromkeys(("F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as bytes of a file: ``offset`` counts from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    offset: int
    length: int


@dataclass(frozen=True)
class Header:
    """One file's tensors in the order of their bytes, and its free-form metadata."""

    tensors: tuple[Tensor, ...]
    metadata: dict[str, str]


def count(shape: Iterable[int]) -> int:
    """Elements of a shape; 1 for a scalar."""
    total = 1
    for dim in shape:
        total *= dim
    return total


def header_length(prefix: bytes, file_size: int, file: str) -> int:
    """The length N from a file's first 8 bytes; SurgeonError if it cannot be true."""
    if len(prefix) < 8:
        raise SurgeonError(f"{file}: not a safetensors file: only {file_size} bytes; is it truncated?")
    if prefix == POINTER[:8]:
        raise SurgeonError(f"{file}: is a git-lfs pointer, not the file itself; run: git lfs pull")
    (length,) = struct.unpack("<Q", prefix)
    if length > MAX_HEADER:
        raise SurgeonError(
            f"{file}: header of {length} bytes is over the format's limit of {MAX_HEADER}; "
            "not a safetensors file?"
        )
    if 8 + length > file_size:
        raise SurgeonError(
            f"{file}: header of {length} bytes reaches beyond the file of {file_size} bytes; "
            "is it truncated?"
        )
    return int(length)


def parse_header(raw: bytes, file_size: int, file: str) -> Header:
    """The header of ``file``, whose JSON is ``raw``.

    Raises SurgeonError, naming file and tensor, unless the offsets tile the data exactly and every
    length agrees with its dtype and shape.
    """
    pairs = _decode(raw, file)
    start = 8 + len(raw)
    metadata: dict[str, str] = {}
    tensors: list[Tensor] = []
    for name, info in pairs.items():
        if name == "__metadata__":
            metadata = _metadata(info, file)
        else:
            tensors.append(_tensor(name, info, file, start))
    tensors.sort(key=lambda t: (t.offset, t.length))
    end = start
    for tensor in tensors:
        if tensor.offset != end:
            what = "overlaps the one before" if tensor.offset < end else "leaves a gap before it"
            raise SurgeonError(f"{file}: tensor {tensor.name!r} {what}; the file is not valid")
        end = tensor.offset + tensor.length
    if end != file_size:
        what = "is it truncated?" if end > file_size else "it has bytes that belong to no tensor"
        raise SurgeonError(f"{file}: tensors end at byte {end} of a file of {file_size} bytes; {what}")
    return Header(tuple(tensors), metadata)


def encode_header(
    tensors: Iterable[tuple[str, str, tuple[int, ...], int]],
    metadata: dict[str, str],
    residue: int = 0,
    alignment: int = 4096,
) -> bytes:
    """Length prefix and JSON for tensors given as (name, dtype, shape, bytes), laid end to end.

    Spaces after the JSON make the data start at ``residue`` modulo ``alignment``.
    """
    entries: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for name, dtype, shape, length in tensors:
        entries[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [offset, offset + length],
        }
        offset += length
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * ((residue - 8 - len(text)) % alignment)
    return struct.pack("<Q", len(text)) + text


def _decode(raw: bytes, file: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise SurgeonError(f"{file}: the header names {twice!r} twice; the file is not valid")
        return result

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
        json.dumps(header, ensure_ascii=False).encode()  # escapes can make what UTF-8 cannot hold
    except (ValueError, RecursionError):  # bad UTF-8 is a ValueError too
        raise SurgeonError(f"{file}: the header is not JSON; not a safetensors file?") from None
    if not isinstance(header, dict) or not raw.startswith(b"{"):
        raise SurgeonError(f"{file}: the header is not a JSON object; not a safetensors file?")
    return header


def _metadata(info: Any, file: str) -> dict[str, str]:
    if not isinstance(info, dict) or not all(isinstance(v, str) for v in info.values()):
        raise SurgeonError(f"{file}: __metadata__ is not a table of strings; the file is not valid")
    return info


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _tensor(name: str, info: Any, file: str, start: int) -> Tensor:
    def bad(why: str) -> SurgeonError:
        return SurgeonError(f"{file}: tensor {name!r} {why}; the file is not valid")

    if not isinstance(info, dict):
        raise bad("has no description")
    dtype, shape, offsets = (info.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise bad(f"has the unknown dtype {dtype!r}")
    if not isinstance(shape, list) or not all(map(_whole, shape)):
        raise bad(f"has the shape {shape!r}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_whole, offsets)):
        raise bad(f"has the offsets {offsets!r}")
    begin, end = offsets
    if end < begin:
        raise bad(f"has reversed offsets {offsets}")
    if (end - begin) * 8 != count(shape) * DTYPE_BITS[dtype]:
        raise bad(f"is {end - begin} bytes long, which is not {dtype} {shape}")
    return Tensor(name, dtype, tuple(shape), file, start + begin, end - begin)
