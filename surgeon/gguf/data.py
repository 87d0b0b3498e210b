"""The bytes of a GGUF file's tensors, some rows at a time."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from surgeon.checkpoint.header import Tensor
from surgeon.checkpoint.numbers import Reader, encode
from surgeon.gguf.pieces import Piece

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_ROWS = 1024
"""Rows of a made-up tensor written at a time."""


def data(reader: Reader, piece: Piece) -> Iterator[bytes]:
    """The tensor's bytes, in parts."""
    if piece.source is not None and piece.source.dtype == piece.dtype:
        yield from _as_they_are(reader, piece.source, piece.head_dim)
        return
    for part in _parts(reader, piece):
        rows = part[_rotated(len(part), piece.head_dim)] if piece.head_dim else part
        yield _quantize(rows) if piece.dtype == "Q8_0" else encode(rows, piece.dtype)


def _as_they_are(reader: Reader, tensor: Tensor, head_dim: int | None) -> Iterator[bytes]:
    """Bytes of the right dtype, whose rows at most change places."""
    import numpy as np

    for rows, raw in reader.raw(tensor, head_dim or 1):
        if head_dim is None:
            yield raw
        else:
            table = np.frombuffer(raw, np.uint8).reshape(rows, -1)
            yield bytes(table[_rotated(rows, head_dim)].tobytes())


def _parts(reader: Reader, piece: Piece) -> "Iterator[Array]":
    import numpy as np

    if piece.source is not None:
        yield from reader.parts(piece.source, piece.head_dim or 1)
        return
    rows = piece.shape[0]
    for first in range(0, rows, _ROWS):
        yield np.full((min(_ROWS, rows - first), *piece.shape[1:]), piece.fill, np.float32)


def _rotated(rows: int, head_dim: int) -> "Array":
    """Where each row comes from: in a head, row i of the first half before row i of the second."""
    import numpy as np

    order: Array = np.arange(rows).reshape(-1, 2, head_dim // 2).swapaxes(1, 2).reshape(-1)
    return order


def _quantize(rows: "Array") -> bytes:
    """Q8_0: 32 neighbours share a float16 scale; by the gguf package's own routine."""
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    return bytes(quantize(rows, GGMLQuantizationType.Q8_0).tobytes())
