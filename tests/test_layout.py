"""Layouts: every byte range of the result, without opening a file."""

import dataclasses
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import checkpoints
import pytest
from checkpoints import Spec
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from surgeon.checkpoint.header import parse_header
from surgeon.checkpoint.layout import PAGE, Copy, Fill, Layout, NewFile, make_layout
from surgeon.checkpoint.source import Checkpoint, open_checkpoint
from surgeon.plan import Plan, Sublayer

GROUPED = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("mlp.gate_proj", "mlp.up_proj"),
)


@dataclass(frozen=True)
class Memory:
    """A source whose files are bytes; ``holes`` are files that read as zeros behind their start."""

    content: Mapping[str, bytes]
    holes: Mapping[str, int] = field(default_factory=dict)
    name: str = "memory"
    revision: str | None = None

    def files(self) -> dict[str, int]:
        return {name: self.holes.get(name, len(data)) for name, data in self.content.items()}

    def read(self, file: str, offset: int = 0, length: int | None = None) -> bytes:
        return self.content[file][offset : None if length is None else offset + length]

    folder = None

    def where(self, file: str) -> str:
        return f"memory/{file}"

    def download(self) -> Path:
        raise NotImplementedError


def in_memory(spec: Spec) -> tuple[Memory, dict[str, bytes]]:
    """A checkpoint that is on no disk, and its tensors' bytes."""
    tensors = checkpoints.weights(spec)
    files = checkpoints.split(spec, {name: len(data) for name, (_, _, data) in tensors.items()})
    content = {"config.json": json.dumps(checkpoints.config(spec)).encode()}
    for file, names in files.items():
        rows = {name: (*tensors[name][:2], len(tensors[name][2])) for name in names}
        head = checkpoints.header(rows, spec.metadata)
        content[file] = head + b"".join(tensors[name][2] for name in names)
    if spec.shards > 1:
        weight_map = {name: file for file, names in files.items() for name in names}
        content["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    return Memory(content), {name: data for name, (_, _, data) in tensors.items()}


def lay_out(source: Memory, plan: Plan, size: int = 10**12, portable: bool = False) -> Layout:
    checkpoint = open_checkpoint(source)
    return make_layout(checkpoint, plan, checkpoint.structure.cut(plan, portable), size)


def build(file: NewFile, source: Memory) -> bytes:
    """Executes a file's pieces; fails when two of them claim a byte."""
    data = bytearray(file.size)
    claimed = bytearray(file.size)

    def put(offset: int, piece: bytes) -> None:
        assert piece, "an empty piece is none"
        assert offset + len(piece) <= file.size
        assert not any(claimed[offset : offset + len(piece)])
        claimed[offset : offset + len(piece)] = b"\1" * len(piece)
        data[offset : offset + len(piece)] = piece

    put(0, file.header)
    for piece in file.pieces:
        if isinstance(piece, Fill):
            put(piece.offset, piece.data)
            continue
        for row in range(piece.rows):
            start = piece.source_offset + row * piece.length
            assert start + piece.length <= len(source.content[piece.file])
            put(piece.offset + row * piece.stride, source.read(piece.file, start, piece.length))
    blank = {offset for offset, there in enumerate(claimed) if not there}
    assert blank == _zeros(file), "what no piece covers is exactly the padding and the zero MLPs"
    return bytes(data)


def _zeros(file: NewFile) -> set[int]:
    """Offsets of a file that are declared to be zero."""
    out: set[int] = set()
    for tensor in parse_header(file.header[8:], file.size, file.name).tensors:
        new = next(t for t in file.tensors if t.name == tensor.name)
        if new.source is None and not new.ones:
            out.update(range(tensor.offset, tensor.offset + tensor.length))
        elif new.source is not None and new.source.shape != new.shape:
            width = checkpoints.BYTES[new.dtype]
            old, columns = new.source.shape, new.shape[-1] if len(new.shape) > 1 else 1
            for row in range(new.shape[0]):
                for column in range(columns):
                    inside = row < old[0] and (len(old) == 1 or column < old[1])
                    at = tensor.offset + (row * columns + column) * width
                    out.update(() if inside else range(at, at + width))
    return out


def data_of(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Tensor name -> bytes of finished files, through a reader of their own headers."""
    out: dict[str, bytes] = {}
    for name, raw in files.items():
        header = parse_header(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]], len(raw), name)
        for tensor in header.tensors:
            assert tensor.name not in out
            out[tensor.name] = raw[tensor.offset : tensor.offset + tensor.length]
    return out


TINY = Spec(layers=2, hidden=2, heads=1, kv_heads=1, head_dim=2, mlp=2, vocab=2, tied=True)


def test_literal_bytes_of_a_whole_file() -> None:
    source, tensors = in_memory(TINY)
    (file,) = lay_out(source, Plan.last(2, 1)).files
    written = build(file, source)
    order = [
        ("model.embed_tokens.weight", "model.embed_tokens.weight", "[2,2]", 8),
        ("model.layers.0.input_layernorm.weight", None, "[2]", 4),
        ("model.layers.0.self_attn.q_proj.weight", None, "[2,2]", 8),
        ("model.layers.0.self_attn.k_proj.weight", None, "[2,2]", 8),
        ("model.layers.0.self_attn.v_proj.weight", None, "[2,2]", 8),
        ("model.layers.0.self_attn.o_proj.weight", None, "[2,2]", 8),
        ("model.layers.0.post_attention_layernorm.weight", None, "[2]", 4),
        ("model.layers.0.mlp.gate_proj.weight", None, "[2,2]", 8),
        ("model.layers.0.mlp.up_proj.weight", None, "[2,2]", 8),
        ("model.layers.0.mlp.down_proj.weight", None, "[2,2]", 8),
        ("model.layers.1.post_attention_layernorm.weight", None, "[2]", 4),
        ("model.layers.1.mlp.gate_proj.weight", None, "[2,2]", 8),
        ("model.layers.1.mlp.up_proj.weight", None, "[2,2]", 8),
        ("model.layers.1.mlp.down_proj.weight", None, "[2,2]", 8),
        ("model.norm.weight", None, "[2]", 4),
    ]
    text, body = '{"__metadata__":{"format":"pt"}', b""
    for name, _, shape, length in order:
        text += f',"{name}":{{"dtype":"BF16","shape":{shape},"data_offsets":[{len(body)},'
        body += tensors[name]
        assert len(tensors[name]) == length
        text += f"{len(body)}]}}"
    text += "}"
    start = len(written) - len(body)
    assert written[:8] == struct.pack("<Q", start - 8)
    assert written[8:start] == text.encode().ljust(start - 8)  # spaces, as the format wants
    assert written[start:] == body
    assert start % 8 == 0


def test_the_order_is_that_of_computation() -> None:
    source, _ = in_memory(Spec(layers=2, attention_bias=True, mlp_bias=True, inv_freq=True))
    (file,) = lay_out(source, Plan.layers(2, "1", "mlp")).files
    inner = [
        "input_layernorm.weight",
        *(
            f"self_attn.{m}.{kind}"
            for kind in ("weight", "bias")
            for m in ("q_proj", "k_proj", "v_proj")
        ),
        "self_attn.o_proj.weight",
        "self_attn.o_proj.bias",
        "self_attn.rotary_emb.inv_freq",
    ]
    mlp = [
        "post_attention_layernorm.weight",
        *(f"mlp.{m}.{kind}" for kind in ("weight", "bias") for m in ("gate_proj", "up_proj")),
        "mlp.down_proj.weight",
        "mlp.down_proj.bias",
    ]
    assert [tensor.name for tensor in file.tensors] == [
        "model.embed_tokens.weight",
        *(f"model.layers.0.{name}" for name in inner + mlp),
        *(f"model.layers.1.{name}" for name in inner),
        "model.norm.weight",
        "lm_head.weight",
    ]


def test_tensors_outside_the_layers_are_kept_at_the_end() -> None:
    source, _ = in_memory(TINY)
    content = dict(source.content)
    extra = {"zz.odd": ("U8", (3,), b"abc"), "model.extra": ("F32", (), b"1234")}
    tensors = checkpoints.weights(TINY) | extra
    rows = {name: (d, s, len(data)) for name, (d, s, data) in tensors.items()}
    head = checkpoints.header(rows, {})
    content["model.safetensors"] = head + b"".join(data for *_, data in tensors.values())
    source = Memory(content)
    (file,) = lay_out(source, Plan.last(2, 1)).files
    assert [t.name for t in file.tensors[-3:]] == ["model.norm.weight", "model.extra", "zz.odd"]
    assert data_of({"f": build(file, source)})["zz.odd"] == b"abc"


@pytest.mark.parametrize("size", [1, 100, 700, 1500, 4000, 10_000])
def test_groups_are_adjacent_and_in_one_shard(size: int) -> None:
    source, _ = in_memory(Spec(shards=3, attention_bias=True, mlp_bias=True))
    layout = lay_out(source, Plan.last(4, 2, keep_last=True), size)
    total = len(layout.files)
    assert total > 1
    assert [f.name for f in layout.files] == [
        f"model-{i:05}-of-{total:05}.safetensors" for i in range(1, total + 1)
    ]
    for file in layout.files:
        names = [tensor.name for tensor in file.tensors]
        assert names, "a shard without tensors"
        for group in GROUPED:
            for number, name in enumerate(names):
                prefix, found, kind = name.partition(group[0])
                if found:
                    wanted = [f"{prefix}{matrix}{kind}" for matrix in group]
                    assert names[number : number + len(group)] == wanted
        # over the limit only where one group alone is
        assert file.size - len(file.header) <= size or len({n.rpartition(".")[0] for n in names}) <= 3
    weight_map = json.loads(layout.index or b"")["weight_map"]
    assert weight_map == {t.name: file.name for file in layout.files for t in file.tensors}


def test_the_index_counts() -> None:
    source, tensors = in_memory(Spec())
    layout = lay_out(source, Plan.last(4, 1), 3000)
    data = json.loads(layout.index or b"")
    kept = [t for t in tensors if not t.startswith(("model.layers.3.self", "model.layers.3.input"))]
    size = sum(len(tensors[name]) for name in kept)
    assert data["metadata"] == {"total_parameters": size // 2, "total_size": size}
    assert lay_out(source, Plan.last(4, 1)).index is None


def test_metadata_travels() -> None:
    source, _ = in_memory(dataclasses.replace(TINY, metadata={"format": "np", "by": "é"}))
    (file,) = lay_out(source, Plan.last(2, 1)).files
    header = parse_header(file.header[8:], file.size, "f")
    assert header.metadata == {"format": "np", "by": "é"}


def test_most_bytes_keep_their_place_in_the_page() -> None:
    # one huge tensor behind small ones: wherever it starts in the source, it starts there again
    for pad in (0, 8, 2000, 4088):
        spec = Spec(vocab=3000, metadata={"format": "pt", "pad": "x" * pad})
        source, tensors = in_memory(spec)
        (file,) = lay_out(source, Plan.last(4, 1)).files
        old = source.content["model.safetensors"].index(tensors["model.embed_tokens.weight"])
        new = build(file, source).index(tensors["model.embed_tokens.weight"])
        assert (old - new) % PAGE == 0
        assert len(file.header) % 8 == 0


@st.composite
def cases(draw: st.DrawFn) -> tuple[Spec, Plan, int, bool]:
    kv = draw(st.integers(1, 3))
    layers = draw(st.integers(1, 4))
    names = [*checkpoints.MLP, *checkpoints.ATTENTION, "layernorm", "embed", "lm_head"]
    portable = draw(st.booleans())
    kinds = ["F16", "BF16", "F32"] if portable else sorted(checkpoints.BYTES)
    spec = Spec(
        layers=layers,
        hidden=draw(st.integers(1, 6)),
        heads=kv * draw(st.integers(1, 2)),
        kv_heads=kv,
        head_dim=draw(st.sampled_from([2, 4])),
        mlp=draw(st.integers(1, 7)),
        vocab=draw(st.integers(1, 20)),
        tied=draw(st.booleans()),
        attention_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        inv_freq=draw(st.booleans()),
        dtypes=draw(st.dictionaries(st.sampled_from(names), st.sampled_from(kinds), max_size=3)),
        shards=draw(st.integers(1, 3)) if layers > 2 else 1,
    )
    site = st.tuples(st.integers(0, layers - 1), st.sampled_from(Sublayer))
    removed = draw(st.frozensets(site, min_size=1))
    assume(len(removed) < 2 * layers)
    return spec, Plan(layers, removed), draw(st.integers(1, 3000)), portable


@settings(max_examples=60)
@given(cases())
def test_every_byte_has_one_origin(case: tuple[Spec, Plan, int, bool]) -> None:
    spec, plan, size, portable = case
    try:
        source, _ = in_memory(spec)
    except AssertionError:
        assume(False)  # too small for that many shards
    layout = lay_out(source, plan, size, portable)
    found = data_of({file.name: build(file, source) for file in layout.files})
    wanted = checkpoints.expected(
        checkpoints.weights(spec),
        spec.layers,
        plan.removed_layers(Sublayer.ATTENTION),
        plan.removed_layers(Sublayer.MLP),
    )
    assert wanted.keys() <= found.keys()
    if not portable:
        assert found == {name: data for name, (_, _, data) in wanted.items()}
        return
    shapes = {tensor.name: tensor.shape for tensor in layout.tensors}
    for name, (dtype, shape, data) in wanted.items():
        # the old matrix is the leading corner; that the rest is zero, `build` has checked
        row = len(data) // shape[0]
        wide = row if len(shape) == 1 else shapes[name][1] * checkpoints.BYTES[dtype]
        for number in range(shape[0]):
            old = data[number * row : (number + 1) * row]
            assert found[name][number * wide : number * wide + row] == old
    stubs = {n: d for n, d in found.items() if n not in wanted}
    assert all(".mlp." in n or n.endswith("post_attention_layernorm.weight") for n in stubs)


# 126 layers, 405 G parameters: its shards exist as headers alone
HUGE = Spec(
    layers=126, hidden=16384, heads=128, kv_heads=8, head_dim=128, mlp=53248, vocab=128256, shards=191
)


def huge() -> Memory:
    table = checkpoints.shapes(HUGE)
    sizes = {name: checkpoints.size_of(*row) for name, row in table.items()}
    content = {"config.json": json.dumps(checkpoints.config(HUGE)).encode()}
    holes: dict[str, int] = {}
    weight_map: dict[str, str] = {}
    for file, names in checkpoints.split(HUGE, sizes).items():
        head = checkpoints.header({n: (*table[n], sizes[n]) for n in names}, {"format": "pt"})
        content[file], holes[file] = head, len(head) + sum(sizes[n] for n in names)
        weight_map |= dict.fromkeys(names, file)
    content["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    return Memory(content, holes)


def check_huge(checkpoint: Checkpoint) -> None:
    plan = Plan.fraction(126, "33%", keep_last=True)
    layout = make_layout(checkpoint, plan, checkpoint.structure.cut(plan), 5 * 10**9)
    removed = 42
    attention = 2 * 16384 * (2 * 16384 + 2 * 8 * 128) + 2 * 16384  # bytes: q, o, k, v and the norm
    before = sum(t.length for t in checkpoint.tensors.values())
    assert 811 * 10**9 < before < 812 * 10**9
    after = sum(t.length for t in layout.tensors)
    assert after == before - removed * attention
    gone = 5 * removed
    assert len(layout.tensors) == len(checkpoint.tensors) - gone
    for file in layout.files:
        position = len(file.header)
        assert position % 8 == 0
        covered = position
        for piece in file.pieces:
            assert isinstance(piece, Copy)
            assert piece.rows == 1
            assert piece.offset == covered
            covered += piece.length
        assert covered == file.size
        assert file.size <= 5 * 10**9 + PAGE * 8
    # a plan made of runs: pieces are far fewer than tensors would need row by row
    assert sum(len(file.pieces) for file in layout.files) <= len(layout.tensors)
    assert len(json.loads(layout.index or b"")["weight_map"]) == len(layout.tensors)


def test_a_405b_model_from_headers_alone() -> None:
    check_huge(open_checkpoint(huge()))


def test_a_405b_model_of_sparse_files(tmp_path: Path) -> None:
    try:
        folder = checkpoints.make_sparse(tmp_path / "405b", HUGE)
    except OSError as error:
        pytest.skip(f"no sparse files of that size here: {error}")
    assert sum(path.stat().st_size for path in folder.iterdir()) > 811 * 10**9
    check_huge(open_checkpoint(folder))
