"""Proof that a cut changed nothing but what it says: ``surgeon.verify`` and ``surgeon verify``.

It trusts only surgery.json's plan. Which bytes have to be where, and under which name, is derived from
the plan here; config and small files are made anew from the source's and compared.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from surgeon.checkpoint.header import DTYPE_BITS, Tensor
from surgeon.checkpoint.layout import padded_shape
from surgeon.checkpoint.source import INDEX, Checkpoint, open_checkpoint, read_json
from surgeon.checkpoint.staging import SURGERY
from surgeon.checkpoint.tensors import locate
from surgeon.companions import companions
from surgeon.config import pruned_config
from surgeon.errors import SurgeonError
from surgeon.jsonfile import encode_json
from surgeon.measure.card import CARD, MEASURED
from surgeon.onnx.export import GRAPH
from surgeon.onnx.genai import GENAI
from surgeon.onnx.weights import DATA
from surgeon.plan import Plan, Sublayer
from surgeon.structure import Structure
from surgeon.surgery import remote_code

_CHUNK = 4 << 20

_OWN_FILES = {"config.json", INDEX, SURGERY, CARD, MEASURED, ".gitattributes", GRAPH, DATA, GENAI}
"""Files of a pruned folder that are not the source's; the card may be edited, a graph be added."""


@dataclass(frozen=True)
class Verification:
    """The outcome. ``differences`` is empty when the proof holds; otherwise a line for each fault.

    ``kept`` and ``removed`` count the source's tensors, ``added`` those that have no source (zero
    MLPs of a portable cut), ``padded`` those that grew by zeros; ``compared_bytes`` of the source
    were compared with the bytes of the result.
    """

    output: str
    source: str
    words: str
    kept: int
    removed: int
    added: int
    padded: int
    removed_bytes: int
    compared_bytes: int
    files_compared: int
    differences: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every check held."""
        return not self.differences


def verify(
    output: str | os.PathLike[str],
    against: str | os.PathLike[str],
    announce: Callable[[int], None] = lambda total: None,
    advance: Callable[[int], None] = lambda count: None,
) -> Verification:
    """Compares a pruned folder with its source, byte by byte.

    Every kept tensor must equal its source, nothing may be missing or extra, and config, tokenizer,
    licence and code files must be what the plan makes of the source's. Memory stays bounded.
    ``announce`` gets the number of bytes to compare, ``advance`` that of those just compared.

    Raises SurgeonError when one of the two is not a checkpoint, or ``output`` has no surgery.json;
    differences do not raise.
    """
    result, source = open_checkpoint(output), open_checkpoint(against)
    if SURGERY not in result.source.files():
        raise SurgeonError(f"{output}: has no {SURGERY}; surgeon did not make it")
    record = read_json(result.source, SURGERY)
    plan = _plan(record, output, source)
    portable = record.get("portable") is True
    structure = source.structure.cut(plan, portable)
    names = dict(_new_names(source, plan))
    differences = list(_compare_config(result, source, plan, structure))
    for shard, metadata in result.metadata.items():
        if metadata != source.cut_metadata:
            differences.append(f"{shard} has other metadata than the source")
    compared = padded = 0
    announce(sum(tensor.length for tensor in names.values()))
    for new, old in names.items():
        tensor = result.tensors.get(new)
        if tensor is None:
            differences.append(f"tensor {new!r} is missing; it should be the source's {old.name!r}")
            continue
        shape = _expected_shape(source, structure, new, old)
        fault = _compare(result, tensor, source, old, shape)
        if fault:
            differences.append(f"tensor {new!r} {fault} the source's {old.name!r}")
        padded += tensor.shape != old.shape
        compared += old.length
        advance(old.length)
    added = [tensor for name, tensor in result.tensors.items() if name not in names]
    biases = structure.biases - source.structure.biases
    differences += _check_added(result, added, plan, portable, biases)
    wanted = companions(source.source, plan, structure) | remote_code(structure)
    for name, content in wanted.items():
        if name not in result.source.files():
            differences.append(f"file {name!r} is missing")
        elif result.source.read(name) != content:
            differences.append(f"file {name!r} is not the one that belongs there")
    known = {*wanted, *result.shards, *_OWN_FILES}
    differences += [
        f"file {name!r} does not belong there" for name in sorted(result.source.files().keys() - known)
    ]
    kept = {tensor.name for tensor in names.values()}
    return Verification(
        output=str(output),
        source=source.source.name,
        words=plan.describe(),
        kept=len(kept),
        removed=len(source.tensors) - len(kept),
        added=len(added),
        padded=padded,
        removed_bytes=sum(t.length for t in source.tensors.values() if t.name not in kept),
        compared_bytes=compared,
        files_compared=len(wanted) + 1,
        differences=tuple(differences),
    )


def _plan(record: dict[str, object], output: str | os.PathLike[str], source: Checkpoint) -> Plan:
    data = record.get("plan")
    if not isinstance(data, dict):
        raise SurgeonError(f"{output}: {SURGERY} has no plan")
    plan = Plan.from_json(data)
    if plan.num_layers != source.structure.num_layers or plan.absent != source.structure.absent:
        raise SurgeonError(
            f"{output}: was cut from a model of {plan.num_layers} layers; "
            f"{source.source.name} is another one"
        )
    return plan


def _new_names(source: Checkpoint, plan: Plan) -> Iterator[tuple[str, Tensor]]:
    """Each kept tensor of the source under the name it must have now."""
    place = {
        (layer, sub): number
        for number, block in enumerate(plan.blocks)
        for sub in Sublayer
        if (layer := block.source(sub)) is not None
    }
    for name, tensor in source.tensors.items():
        site, inner = locate(name, source.family)
        if site is None:
            yield name, tensor
        elif site in place:
            yield f"{source.family.layers}.{place[site]}.{inner}", tensor


def _expected_shape(source: Checkpoint, structure: Structure, new: str, old: Tensor) -> tuple[int, ...]:
    """The shape that a kept tensor must have: its own, unless a portable cut widened its MLP."""
    before, _ = locate(old.name, source.family)
    after, inner = locate(new, source.family)
    if before is None or after is None or before[1] is not Sublayer.MLP:
        return old.shape
    widths = source.structure.mlp_widths[before[0]], structure.mlp_widths[after[0]]
    return padded_shape(source.family.mlp, inner, old.shape, *widths)


def _compare(
    result: Checkpoint, new: Tensor, source: Checkpoint, old: Tensor, shape: tuple[int, ...]
) -> str | None:
    """What is wrong with a tensor, or None: its leading corner must be ``old``, the rest zero."""
    if new.dtype != old.dtype:
        return f"is {new.dtype}, not the {old.dtype} of"
    if new.shape != shape:
        return f"has shape {list(new.shape)}, not the {list(shape)} that it should have from"
    left, right = _Bytes(result, new), _Bytes(source, old)
    if new.shape == old.shape:
        same = _same(left, right, new.length)
    else:
        rows, new_rows = old.shape[0], new.shape[0]
        row, new_row = old.length // rows, new.length // new_rows
        same = all(_same(left, right, row) and _zero(left, new_row - row) for _ in range(rows))
        same = same and _zero(left, new_row * (new_rows - rows))
    return None if same else "differs from"


class _Bytes:
    """A tensor's bytes from first to last, some at a time, wherever its checkpoint lies."""

    def __init__(self, checkpoint: Checkpoint, tensor: Tensor) -> None:
        self._source, self._tensor = checkpoint.source, tensor
        self._at = 0
        self._buffer = memoryview(b"")

    def read(self, size: int) -> memoryview:
        """At most ``size`` bytes, none at the end."""
        if not self._buffer:
            length = min(_CHUNK, self._tensor.length - self._at)
            offset = self._tensor.offset + self._at
            self._buffer = memoryview(self._source.read(self._tensor.file, offset, length))
            self._at += len(self._buffer)
        part, self._buffer = self._buffer[:size], self._buffer[size:]
        return part


def _same(left: _Bytes, right: _Bytes, length: int) -> bool:
    while length:
        data = left.read(length)
        other = right.read(len(data))
        if not data or data[: len(other)] != other:
            return False
        if len(other) < len(data):  # the two are buffered apart
            rest = right.read(len(data) - len(other))
            if data[len(other) :] != rest:
                return False
        length -= len(data)
    return True


def _zero(stream: _Bytes, length: int) -> bool:
    while length:
        data = bytes(stream.read(min(length, _CHUNK)))
        if not data or data.count(0) != len(data):
            return False
        length -= len(data)
    return True


def _check_added(
    result: Checkpoint, added: list[Tensor], plan: Plan, portable: bool, biases: frozenset[str]
) -> Iterator[str]:
    """Tensors without a source may only be zeros of a portable cut: MLPs, with norms of ones, and the
    biases of these matrices."""
    family = result.family
    stubs = {number for number, block in enumerate(plan.blocks) if block.mlp is None}
    for tensor in added:
        site, inner = locate(tensor.name, family)
        stub = site is not None and site[0] in stubs and site[1] is Sublayer.MLP
        module, _, kind = inner.rpartition(".")
        bias = kind == "bias" and module.rpartition(".")[2] in biases
        if not portable or not (stub or bias):
            yield f"tensor {tensor.name!r} comes from nowhere in the source"
            continue
        if inner.startswith(f"{family.mlp.norm}."):
            data = result.source.read(tensor.file, tensor.offset, tensor.length)
            size = DTYPE_BITS[tensor.dtype] // 8
            if data != data[:size] * (len(data) // size) or not _is_one(data[:size], tensor.dtype):
                yield f"tensor {tensor.name!r} of a zero MLP is not all ones"
            continue
        if not _zero(_Bytes(result, tensor), tensor.length):
            what = "zero bias" if bias else "zero MLP"
            yield f"tensor {tensor.name!r} of a {what} is not all zeros"


def _is_one(data: bytes, dtype: str) -> bool:
    import struct

    if dtype == "BF16":  # the upper half of a float32
        return struct.unpack("<f", b"\0\0" + data) == (1.0,)
    code = {"F16": "<e", "F32": "<f", "F64": "<d"}.get(dtype)
    return code is not None and struct.unpack(code, data) == (1.0,)


def _compare_config(
    result: Checkpoint, source: Checkpoint, plan: Plan, structure: Structure
) -> Iterator[str]:
    expected = pruned_config(source.config, plan, structure, source.source.where("config.json"))
    for key in sorted({*expected, *result.config}):
        if key not in result.config:
            yield f"config.json lacks {key!r}"
        elif key not in expected:
            yield f"config.json has {key!r}, which the source's does not"
        elif encode_json({key: expected[key]}) != encode_json({key: result.config[key]}):
            yield f"config.json has another {key!r} than the plan makes of the source's"
