"""Weights as numbers: the tensors of a checkpoint in float32, piece by piece, and back into bytes."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from surgeon.checkpoint.header import Tensor, count
from surgeon.checkpoint.source import Checkpoint
from surgeon.errors import SurgeonError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

BYTES = {"F32": 4, "F16": 2, "BF16": 2}
"""The dtypes that weights can be written in, and the bytes of an element."""

_ELEMENTS = 4 << 20
"""Elements converted at a time."""


class Reader:
    """Tensors of a checkpoint as numpy arrays of float32, some rows at a time."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._source = checkpoint.source

    def parts(self, tensor: Tensor, multiple: int = 1) -> "Iterator[Array]":
        """The tensor cut along its first axis; each part is read when it is reached.

        A part has a ``multiple`` of so many rows, say of a head's; the last one may fall short.
        """
        for rows, raw in self.raw(tensor, multiple):
            yield decode(raw, tensor.dtype).reshape(rows, *tensor.shape[1:])

    def raw(self, tensor: Tensor, multiple: int = 1) -> Iterator[tuple[int, bytes]]:
        """The same parts as they lie in the file: how many rows, and their bytes."""
        rows = tensor.shape[0]
        row = tensor.length // max(1, rows)
        step = max(1, _ELEMENTS // max(1, count(tensor.shape[1:]) * multiple)) * multiple
        for first in range(0, rows, step):
            some = min(step, rows - first)
            yield some, self._source.read(tensor.file, tensor.offset + first * row, some * row)


def decode(raw: bytes, dtype: str) -> "Array":
    """Bytes of a safetensors dtype as float32."""
    import numpy as np

    if dtype == "BF16":  # the upper half of a float32
        upper: Array = np.frombuffer(raw, "<u2").astype(np.uint32)
        wide: Array = (upper << 16).view(np.float32)
        return wide
    if dtype in ("F16", "F32", "F64"):
        values: Array = np.frombuffer(raw, f"<f{DTYPE_SIZES[dtype]}").astype(np.float32)
        return values
    raise SurgeonError(
        f"weights of dtype {dtype} cannot be converted; export them from a 16-bit checkpoint"
    )


DTYPE_SIZES = {"F16": 2, "F32": 4, "F64": 8}


def encode(array: "Array", dtype: str) -> bytes:
    """Float32 as bytes of a dtype, rounded to nearest even; SurgeonError if float16 overflows."""
    import numpy as np

    if dtype == "F32":
        return bytes(np.ascontiguousarray(array, "<f4").tobytes())
    if dtype == "F16":
        with np.errstate(over="ignore"):
            half: Array = array.astype("<f2")
        if (np.isinf(half) & np.isfinite(array)).any():
            raise SurgeonError("a weight is too large for float16; export with --dtype bf16 or fp32")
        return bytes(half.tobytes())
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    return bytes(np.where(np.isnan(array), 0x7FC0, rounded >> 16).astype("<u2").tobytes())
