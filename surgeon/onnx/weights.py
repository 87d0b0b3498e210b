"""Where a graph's weights lie: in the safetensors files as they are, or converted in model.onnx.data.

A store only takes notes while the graph is built. ``write`` then converts what has to be converted,
tensor by tensor, in bounded memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from surgeon.checkpoint.header import Tensor, count
from surgeon.checkpoint.numbers import BYTES, Reader, encode
from surgeon.checkpoint.source import Checkpoint
from surgeon.errors import SurgeonError
from surgeon.onnx.ops import MICROSOFT, Graph

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

DATA = "model.onnx.data"
"""The file for weights that are not the checkpoint's bytes."""

ELEMENTS = {"F32": 1, "F16": 10, "BF16": 16}
"""The onnx element type of each dtype that a graph may compute in."""

_ALIGNMENT = 4096


@dataclass(frozen=True)
class Job:
    """A piece of model.onnx.data: ``make`` yields its bytes from the tensors of the checkpoint."""

    offset: int
    length: int
    tensors: tuple[Tensor, ...]
    make: Callable[["Reader", BinaryIO], None]


@dataclass
class Store:
    """Weights for a graph that computes in ``dtype``.

    ``bits`` 4 quantizes the matrices of the layers (onnxruntime's blockwise quantizer, 32 elements
    and a scale) and the head with 8; None leaves them in ``dtype``. ``jobs`` are what ``write`` has
    to do, ``files`` the weight files that the graph points into.
    """

    checkpoint: Checkpoint
    dtype: str
    bits: int | None = None
    jobs: list[Job] = field(default_factory=list)
    files: set[str] = field(default_factory=set)
    _end: int = 0

    @property
    def element(self) -> int:
        """The onnx element type of ``dtype``."""
        return ELEMENTS[self.dtype]

    def shared(self, tensors: Sequence[Tensor]) -> bool:
        """Whether one byte range of the checkpoint is these tensors, end to end, in the dtype."""
        return all(t.dtype == self.dtype for t in tensors) and all(
            a.file == b.file and a.offset + a.length == b.offset for a, b in pairwise(tensors)
        )

    def fusable(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these can be one matrix without copying what would otherwise not be copied."""
        plain = all(t.dtype == self.dtype for t in tensors)
        return self.shared(tensors) or self.bits is not None or not plain

    def vector(self, graph: Graph, name: str, tensors: Sequence[Tensor]) -> str:
        """An initializer: the tensors stacked along their first axis, in the dtype."""
        shape = (sum(t.shape[0] for t in tensors), *tensors[0].shape[1:])
        if self.shared(tensors):
            length = sum(t.length for t in tensors)
            first = tensors[0]
            self.files.add(first.file)
            return graph.external(name, self.element, shape, first.file, first.offset, length)

        def make(reader: "Reader", out: BinaryIO) -> None:
            for tensor in tensors:
                for part in reader.parts(tensor):
                    out.write(encode(part, self.dtype))

        length = count(shape) * BYTES[self.dtype]
        offset = self._reserve(length, tensors, make)
        return graph.external(name, self.element, shape, DATA, offset, length)

    def linear(
        self, graph: Graph, x: str, name: str, tensors: Sequence[Tensor], head: bool = False
    ) -> str:
        """``x`` times the transpose of the stacked matrices [out, in], as Linear stores them."""
        if self.bits is None:
            weight = self.vector(graph, f"{name}.weight", tensors)
            return graph.node("FusedMatMul", [x, weight], name, MICROSOFT, transB=1)
        return self.quantized(graph, x, name, tensors, 8 if head else self.bits)

    def quantized(
        self, graph: Graph, x: str, name: str, tensors: Sequence[Tensor], bits: int, block: int = 32
    ) -> str:
        """The same product with weights of 4 or 8 bits: MatMulNBits.

        On a CPU, which float32 stands for, it may round activations to 8 bits: six times faster.
        """
        from onnx import TensorProto

        rows, columns = sum(t.shape[0] for t in tensors), tensors[0].shape[1]
        blocks = -(-columns // block)
        packed = (rows, blocks, block * bits // 8)

        size, scale_size = count(packed), rows * blocks * BYTES[self.dtype]
        scales_at = size  # behind the quants, in the same job: each row is quantized once

        def make(reader: "Reader", out: BinaryIO) -> None:
            at, scale_at = out.tell(), out.tell() + scales_at
            for tensor in tensors:
                for part in reader.parts(tensor):
                    quants, factors = quantize_rows(part, bits, block)
                    out.seek(at)
                    at += out.write(quants.tobytes())
                    out.seek(scale_at)
                    scale_at += out.write(encode(factors, self.dtype))

        start = self._reserve(size + scale_size, tensors, make)
        weight = graph.external(f"{name}.quants", TensorProto.UINT8, packed, DATA, start, size)
        scale = graph.external(
            f"{name}.scales", self.element, (rows, blocks), DATA, start + scales_at, scale_size
        )
        return graph.node(
            "MatMulNBits",
            [x, weight, scale],
            name,
            MICROSOFT,
            K=columns,
            N=rows,
            bits=bits,
            block_size=block,
            accuracy_level=4 if self.dtype == "F32" else 0,
        )

    def _reserve(
        self, length: int, tensors: Sequence[Tensor], make: Callable[["Reader", BinaryIO], None]
    ) -> int:
        offset = -(-self._end // _ALIGNMENT) * _ALIGNMENT
        self._end = offset + length
        self.jobs.append(Job(offset, length, tuple(tensors), make))
        return offset

    @property
    def size(self) -> int:
        """Bytes of model.onnx.data; 0 when the graph needs none."""
        return self._end

    def write(self, path: Path, advance: Callable[[int], None] = lambda count: None) -> None:
        """Writes model.onnx.data."""
        reader = Reader(self.checkpoint)
        with open(path, "wb") as out:
            out.truncate(self.size)
            for job in self.jobs:
                out.seek(job.offset)
                job.make(reader, out)
                if out.tell() != job.offset + job.length:
                    raise SurgeonError(f"{path}: {job.tensors[0].name!r} has not the length it should")
                advance(job.length)


def quantize_rows(weight: "Array", bits: int, block: int) -> "tuple[Array, Array]":
    """Symmetric blockwise quantization of float32 [out, in] by onnxruntime's own routine.

    Returns uint8 [out, blocks, block * bits / 8] and float32 scales [out, blocks].
    """
    import numpy as np
    from onnxruntime.capi import _pybind_state as native

    rows, columns = weight.shape
    blocks = -(-columns // block)
    quants = np.zeros((rows, blocks, block * bits // 8), np.uint8)
    scales = np.zeros(rows * blocks, np.float32)
    zeros = np.zeros(rows * (-(-blocks * bits // 8)), np.uint8)
    routine = native.quantize_matmul_4bits if bits == 4 else native.quantize_matmul_8bits
    routine(quants, np.ascontiguousarray(weight.T), scales, zeros, block, rows, columns, True)
    return quants, scales.reshape(rows, blocks)
