"""A plan and a checkpoint become new files, as byte ranges: every old place and its new one.

Pure: it opens nothing, so it is checked in full before a byte is written, and the layout of a 405B
model takes milliseconds. The order of tensors is that of computation, with matrices that read the
same input (q, k, v; gate, up) side by side and never in two shards.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from surgeon.checkpoint.header import DTYPE_BITS, Tensor, count, encode_header
from surgeon.checkpoint.source import INDEX, SINGLE, Checkpoint
from surgeon.checkpoint.tensors import locate
from surgeon.errors import SurgeonError
from surgeon.families import Part
from surgeon.jsonfile import encode_json
from surgeon.plan import Block, Plan, Sublayer
from surgeon.structure import STUB_WIDTH, Structure

PAGE = 4096
"""Bytes; the kernel copies and filesystems share whole pages of this size."""

_ONES = {"F16": b"\x00\x3c", "BF16": b"\x80\x3f", "F32": b"\x00\x00\x80\x3f"}


@dataclass(frozen=True, slots=True)
class NewTensor:
    """A tensor of the result.

    With a ``source`` it holds that tensor's elements in its leading corner and zeros elsewhere: the
    same bytes when the shapes are equal. Without one it is all ``ones`` or all zeros.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: Tensor | None = None
    ones: bool = False

    @property
    def length(self) -> int:
        """Bytes."""
        return count(self.shape) * DTYPE_BITS[self.dtype] // 8

    @property
    def kept(self) -> bool:
        """Whether its bytes are its source's, unchanged."""
        return self.source is not None and self.source.shape == self.shape


@dataclass(frozen=True, slots=True)
class Copy:
    """``rows`` runs of ``length`` bytes, ``stride`` apart in the new file and adjacent in the old.

    An unpadded copy is one row.
    """

    file: str
    source_offset: int
    offset: int
    length: int
    rows: int = 1
    stride: int = 0


@dataclass(frozen=True, slots=True)
class Fill:
    """Bytes that come from no file."""

    offset: int
    data: bytes


@dataclass(frozen=True)
class NewFile:
    """A shard of the result: its header, then pieces; what no piece covers is zero."""

    name: str
    header: bytes
    size: int
    pieces: tuple[Copy | Fill, ...]
    tensors: tuple[NewTensor, ...]


@dataclass(frozen=True)
class Layout:
    """All new weight files, and the index when there are several."""

    files: tuple[NewFile, ...]

    @property
    def size(self) -> int:
        """Bytes of the weight files."""
        return sum(file.size for file in self.files)

    @property
    def tensors(self) -> tuple[NewTensor, ...]:
        """All tensors in the order of computation."""
        return tuple(tensor for file in self.files for tensor in file.tensors)

    @property
    def index(self) -> bytes | None:
        """The text of model.safetensors.index.json; None for a single file."""
        if len(self.files) == 1:
            return None
        data = {
            "metadata": {
                "total_parameters": sum(count(t.shape) for t in self.tensors),
                "total_size": sum(t.length for t in self.tensors),
            },
            "weight_map": {t.name: file.name for file in self.files for t in file.tensors},
        }
        return encode_json(data)

    def extras(self) -> Iterator[tuple[str, bytes]]:
        """Small files that go with the weights."""
        if self.index is not None:
            yield INDEX, self.index


def make_layout(
    checkpoint: Checkpoint, plan: Plan, structure: Structure, max_shard_size: int
) -> Layout:
    """The new files of ``plan``, whose outcome is ``structure``.

    Shards hold at most ``max_shard_size`` bytes of tensors, a group that must not be split
    excepted. Raises SurgeonError if a tensor that has to change cannot.
    """
    shards: list[list[NewTensor]] = [[]]
    room = max_shard_size
    for group in _groups(checkpoint, plan, structure):
        length = sum(tensor.length for tensor in group)
        if length > room and shards[-1]:
            shards.append([])
            room = max_shard_size
        shards[-1] += group
        room -= length
    total = len(shards)
    metadata = checkpoint.cut_metadata
    return Layout(
        tuple(
            _file(SINGLE if total == 1 else f"model-{i:05}-of-{total:05}.safetensors", t, metadata)
            for i, t in enumerate(shards, start=1)
        )
    )


def _groups(checkpoint: Checkpoint, plan: Plan, structure: Structure) -> Iterator[list[NewTensor]]:
    """Groups of tensors that stay together, in the order of computation."""
    family = checkpoint.family
    layers: defaultdict[tuple[int, Sublayer], dict[str, Tensor]] = defaultdict(dict)
    outside: dict[str, Tensor] = {}
    for name, tensor in checkpoint.tensors.items():
        site, inner = locate(name, family)
        if site is None:
            outside[name] = tensor
        else:
            layers[site][inner] = tensor

    ends = (f"{family.embedding}.", f"{family.norm}.", f"{family.head}.")

    def top(*prefixes: str) -> Iterator[list[NewTensor]]:
        for prefix in prefixes:
            group = [t for name, t in sorted(outside.items()) if name.startswith(prefix)]
            if group:
                yield [NewTensor(t.name, t.dtype, t.shape, t) for t in group]

    yield from top(ends[0])
    for number, block in enumerate(plan.blocks):
        prefix = f"{family.layers}.{number}."
        for sublayer in Sublayer:
            source = block.source(sublayer)
            part = family.part(sublayer)
            if source is not None:
                old, new = checkpoint.structure.mlp_widths[source], structure.mlp_widths[number]
                for names in _order(part, layers[source, sublayer]):
                    tensors = ((n, layers[source, sublayer][n]) for n in names)
                    yield [
                        NewTensor(prefix + n, t.dtype, padded_shape(part, n, t.shape, old, new), t)
                        for n, t in tensors
                    ]
                added = structure.biases - checkpoint.structure.biases
                yield from _zero_biases(prefix, part, layers[source, sublayer], added)
            elif structure.has(number, sublayer):
                yield from _stub(prefix, part, block, checkpoint)
    yield from top(*ends[1:])
    for name in sorted(outside):
        if not name.startswith(ends):
            yield from top(name)


def _order(part: Part, names: Iterable[str]) -> Iterator[list[str]]:
    """The names of a sublayer's tensors: norm, matrices group by group, then whatever is left."""
    left = sorted(names)

    def take(prefix: str) -> list[str]:
        taken = [name for name in left if name.startswith(prefix)]
        left[:] = [name for name in left if not name.startswith(prefix)]
        return taken

    yield take(f"{part.norm}.")
    for group in part.groups:
        matrices = [take(f"{part.module}.{matrix}.") for matrix in group]
        # all weights, then all biases (or scales): each kind is one matrix for who reads it as one
        lengths = [len(f"{part.module}.{matrix}.") for matrix in group]
        kinds = {n[k:] for names, k in zip(matrices, lengths, strict=True) for n in names}
        yield [
            f"{part.module}.{matrix}.{kind}"
            for kind in sorted(kinds, key=lambda kind: (kind != "weight", kind))
            for matrix, names in zip(group, matrices, strict=True)
            if f"{part.module}.{matrix}.{kind}" in names
        ]
    if left:
        yield left


def padded_shape(part: Part, inner: str, shape: tuple[int, ...], old: int, new: int) -> tuple[int, ...]:
    """The shape of a tensor of an MLP that grows from width ``old`` to ``new``.

    ``inner`` is its name inside the layer. Where the width stays, so does every shape: the packed
    matrices of quantized checkpoints have shapes of their own, and are never padded.
    """
    module, _, kind = inner.removeprefix(f"{part.module}.").partition(".")
    symbols = part.shapes.get(module, ())
    axes = {"weight": symbols, "bias": symbols[:1]}.get(kind, ())
    if old == new or len(axes) != len(shape):
        return shape
    return tuple(
        new if symbol == "mlp_width" and size == old else size
        for symbol, size in zip(axes, shape, strict=True)
    )


def _stub(prefix: str, part: Part, block: Block, checkpoint: Checkpoint) -> Iterator[list[NewTensor]]:
    """A zero MLP for a block without one, in the dtypes of the block's attention."""
    family = checkpoint.family
    twin = f"{family.layers}.{block.attention}."
    norm = checkpoint.tensors[f"{twin}{family.attention.norm}.weight"]
    last = family.attention.groups[-1][-1]
    matrix = checkpoint.tensors[f"{twin}{family.attention.module}.{last}.weight"]
    if norm.dtype not in _ONES:
        raise SurgeonError(f"{norm.file}: a norm of dtype {norm.dtype} cannot be made for --portable")
    yield [NewTensor(f"{prefix}{part.norm}.weight", norm.dtype, norm.shape, ones=True)]
    hidden = norm.shape[0]
    sizes = {"mlp_width": STUB_WIDTH, "hidden_size": hidden}
    biased = not checkpoint.structure.biases.isdisjoint(part.shapes)
    for group in part.groups:
        shapes = {m: tuple(sizes[symbol] for symbol in part.shapes[m]) for m in group}
        yield [
            NewTensor(f"{prefix}{part.module}.{m}.{kind}", matrix.dtype, shapes[m][:axes])
            for kind, axes in (("weight", 2), ("bias", 1))[: 1 + biased]
            for m in group
        ]


def _zero_biases(
    prefix: str, part: Part, tensors: dict[str, Tensor], added: frozenset[str]
) -> Iterator[list[NewTensor]]:
    """Biases that a portable cut adds, in the dtypes of their matrices."""
    for matrix in part.shapes:
        if matrix in added:
            weight = tensors[f"{part.module}.{matrix}.weight"]
            yield [NewTensor(f"{prefix}{part.module}.{matrix}.bias", weight.dtype, weight.shape[:1])]


def _file(name: str, tensors: list[NewTensor], metadata: dict[str, str]) -> NewFile:
    rows = [(t.name, t.dtype, t.shape, t.length) for t in tensors]
    header = encode_header(rows, metadata, _residue(tensors), PAGE)
    pieces: list[Copy | Fill] = []
    offset = len(header)
    for tensor in tensors:
        for piece in _pieces(tensor, offset):
            last = pieces[-1] if pieces else None
            joined = _join(last, piece)
            if joined is not None:
                pieces[-1] = joined
            else:
                pieces.append(piece)
        offset += tensor.length
    return NewFile(name, header, offset, tuple(pieces), tuple(tensors))


def _pieces(tensor: NewTensor, offset: int) -> Iterator[Copy | Fill]:
    source = tensor.source
    if source is None:
        if tensor.ones:
            yield Fill(offset, _ONES[tensor.dtype] * count(tensor.shape))
    elif source.length and (tensor.kept or tensor.shape[1:] == source.shape[1:]):
        yield Copy(source.file, source.offset, offset, source.length)
    elif source.length:
        rows = source.shape[0]
        stride = tensor.length // tensor.shape[0]
        yield Copy(source.file, source.offset, offset, source.length // rows, rows, stride)


def _join(first: Copy | Fill | None, second: Copy | Fill) -> Copy | None:
    """Two plain copies as one, if they touch in both files."""
    if (
        isinstance(first, Copy)
        and isinstance(second, Copy)
        and first.rows == second.rows == 1
        and first.file == second.file
        and first.source_offset + first.length == second.source_offset
        and first.offset + first.length == second.offset
    ):
        return Copy(first.file, first.source_offset, first.offset, first.length + second.length)
    return None


def _residue(tensors: list[NewTensor]) -> int:
    """Where in a page the data should start, so that most bytes keep their place in the page.

    Such bytes are copied page by page (1.4 x faster on ext4), and shared without copying on XFS and
    btrfs. Multiples of 8 only, as the format wants; 0 where nothing is gained.
    """
    votes: Counter[int] = Counter({0: 0})
    position = 0
    for tensor in tensors:
        if tensor.source is not None and tensor.kept:
            votes[(tensor.source.offset - position) % PAGE] += tensor.length
        position += tensor.length
    return min((r for r in votes if r % 8 == 0), key=lambda r: (-votes[r], r))
