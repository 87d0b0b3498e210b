"""Small checkpoints written by hand, byte by byte: nothing here uses the code under test.

``make`` writes a folder, ``read_weights`` reads one back, ``expected`` says what a cut must leave.
"""

import dataclasses
import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BYTES = {"F8_E4M3": 1, "U8": 1, "BF16": 2, "F16": 2, "I32": 4, "U32": 4, "F32": 4, "I64": 8, "F64": 8}
ONE = {"BF16": b"\x80\x3f", "F16": b"\x00\x3c", "F32": b"\x00\x00\x80\x3f"}
MLP = ("gate_proj", "up_proj", "down_proj")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")

Shape = tuple[int, ...]
Weights = dict[str, tuple[str, Shape, bytes]]
"""name -> (dtype, shape, bytes)"""


@dataclass(frozen=True)
class Spec:
    """What to write. ``dtypes`` maps a part of a name to the dtype of the tensors that have it."""

    layers: int = 4
    hidden: int = 16
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 4
    mlp: int = 24
    vocab: int = 32
    tied: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    inv_freq: bool = False
    gptq: bool = False
    dtype: str = "BF16"
    dtypes: Mapping[str, str] = field(default_factory=dict)
    shards: int = 1
    style: int = 4
    config: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=lambda: {"format": "pt"})


def content(name: str, length: int) -> bytes:
    """Bytes that no other tensor has."""
    return hashlib.shake_128(name.encode()).digest(length)


def shapes(spec: Spec) -> dict[str, tuple[str, Shape]]:
    """Every tensor of the spec as (dtype, shape), in the order that save_pretrained writes."""
    out: dict[str, tuple[str, Shape]] = {}

    def add(name: str, *shape: int, dtype: str | None = None) -> None:
        chosen = dtype or next((d for part, d in spec.dtypes.items() if part in name), spec.dtype)
        out[name] = (chosen, shape)

    q, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    sizes = {
        "q_proj": (q, spec.hidden),
        "k_proj": (kv, spec.hidden),
        "v_proj": (kv, spec.hidden),
        "o_proj": (spec.hidden, q),
        "gate_proj": (spec.mlp, spec.hidden),
        "up_proj": (spec.mlp, spec.hidden),
        "down_proj": (spec.hidden, spec.mlp),
    }
    if not spec.tied:
        add("lm_head.weight", spec.vocab, spec.hidden)
    add("model.embed_tokens.weight", spec.vocab, spec.hidden)
    for layer in range(spec.layers):
        base = f"model.layers.{layer}."
        for module, matrices, bias in (
            ("self_attn", ATTENTION, spec.attention_bias),
            ("mlp", MLP, spec.mlp_bias),
        ):
            for matrix in matrices:
                rows, columns = sizes[matrix]
                full = f"{base}{module}.{matrix}"
                if spec.gptq:
                    add(f"{full}.qweight", columns // 8, rows, dtype="I32")
                    add(f"{full}.qzeros", 1, rows // 8, dtype="I32")
                    add(f"{full}.scales", 1, rows, dtype="F16")
                    add(f"{full}.g_idx", columns, dtype="I32")
                else:
                    add(f"{full}.weight", rows, columns)
                if bias:
                    add(f"{full}.bias", rows)
        if spec.inv_freq:
            add(f"{base}self_attn.rotary_emb.inv_freq", spec.head_dim // 2, dtype="F32")
        add(f"{base}input_layernorm.weight", spec.hidden)
        add(f"{base}post_attention_layernorm.weight", spec.hidden)
    add("model.norm.weight", spec.hidden)
    return dict(sorted(out.items()))


def size_of(dtype: str, shape: Iterable[int]) -> int:
    total = BYTES[dtype]
    for dim in shape:
        total *= dim
    return total


def weights(spec: Spec) -> Weights:
    """Every tensor of the spec with its bytes."""
    return {n: (d, s, content(n, size_of(d, s))) for n, (d, s) in shapes(spec).items()}


def config(spec: Spec) -> dict[str, Any]:
    """config.json in the style of transformers 4 or 5."""
    data: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": spec.attention_bias,
        "hidden_act": "silu",
        "head_dim": spec.head_dim,
        "hidden_size": spec.hidden,
        "intermediate_size": spec.mlp,
        "max_position_embeddings": 128,
        "mlp_bias": spec.mlp_bias,
        "model_type": "llama",
        "num_attention_heads": spec.heads,
        "num_hidden_layers": spec.layers,
        "num_key_value_heads": spec.kv_heads,
        "rms_norm_eps": 1e-05,
        "tie_word_embeddings": spec.tied,
        "vocab_size": spec.vocab,
    }
    if spec.style == 4:
        data |= {"rope_theta": 500000.0, "rope_scaling": None, "torch_dtype": "bfloat16"}
    else:
        data |= {
            "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"},
            "dtype": "bfloat16",
        }
    if spec.gptq:
        data["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": -1}
    return data | dict(spec.config)


def header(entries: Mapping[str, tuple[str, Shape, int]], metadata: Mapping[str, str]) -> bytes:
    """Length prefix and JSON for tensors laid end to end, padded to a multiple of 8."""
    table: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, (dtype, shape, length) in entries.items():
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + length]}
        offset += length
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write_weights(path: Path, tensors: Weights, metadata: Mapping[str, str] | None = None) -> None:
    """One safetensors file."""
    rows = {name: (dtype, shape, len(data)) for name, (dtype, shape, data) in tensors.items()}
    data = header(rows, {"format": "pt"} if metadata is None else metadata)
    path.write_bytes(data + b"".join(data for _, _, data in tensors.values()))


def split(spec: Spec, sizes: Mapping[str, int]) -> dict[str, list[str]]:
    """File name -> tensor names: runs of about equal bytes, which straddle layers."""
    if spec.shards == 1:
        return {"model.safetensors": list(sizes)}
    files: dict[str, list[str]] = {}
    total, done = sum(sizes.values()), 0
    for name, size in sizes.items():
        number = min(done * spec.shards // total, spec.shards - 1) + 1
        files.setdefault(f"model-{number:05}-of-{spec.shards:05}.safetensors", []).append(name)
        done += size
    assert len(files) == spec.shards
    return files


def write_index(folder: Path, weight_map: Mapping[str, str]) -> None:
    """model.safetensors.index.json"""
    data = {"metadata": {"total_size": 0}, "weight_map": dict(weight_map)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(data))


def make(folder: Path, spec: Spec | None = None, **changes: Any) -> Path:
    """Writes a checkpoint with a tokenizer and a licence; returns its folder."""
    spec = dataclasses.replace(spec or Spec(), **changes)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = weights(spec)
    files = split(spec, {name: len(data) for name, (_, _, data) in tensors.items()})
    for file, names in files.items():
        write_weights(folder / file, {name: tensors[name] for name in names}, spec.metadata)
    if spec.shards > 1:
        write_index(folder, {name: file for file, names in files.items() for name in names})
    (folder / "config.json").write_text(json.dumps(config(spec)))
    extra = {"tokenizer.json": b'{"version": "1.0"}', "LICENSE.txt": b"terms\n", **spec.files}
    for name, data in extra.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def make_sparse(folder: Path, spec: Spec | None = None, page: int = 0, **changes: Any) -> Path:
    """A checkpoint whose shards are holes behind real headers; with ``page`` data starts at one."""
    spec = dataclasses.replace(spec or Spec(), **changes)
    folder.mkdir(parents=True, exist_ok=True)
    table = shapes(spec)
    files = split(spec, {name: size_of(d, s) for name, (d, s) in table.items()})
    for file, names in files.items():
        rows = {name: (*table[name], size_of(*table[name])) for name in names}
        head = header(rows, spec.metadata)
        if page:
            text = head[8:] + b" " * (-len(head) % page)
            head = struct.pack("<Q", len(text)) + text
        with open(folder / file, "wb") as stream:
            stream.write(head)
            stream.truncate(len(head) + sum(length for _, _, length in rows.values()))
    if spec.shards > 1:
        write_index(folder, {name: file for file, names in files.items() for name in names})
    (folder / "config.json").write_text(json.dumps(config(spec)))
    return folder


def read_file(path: Path) -> Weights:
    """One safetensors file, in the order of its bytes."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    table = json.loads(raw[8 : 8 + length])
    table.pop("__metadata__", None)
    data = raw[8 + length :]
    rows = sorted(table.items(), key=lambda row: row[1]["data_offsets"])
    return {
        name: (t["dtype"], tuple(t["shape"]), data[t["data_offsets"][0] : t["data_offsets"][1]])
        for name, t in rows
    }


def read_weights(folder: Path) -> Weights:
    """All weight files of a folder; fails on a name that is in two of them."""
    out: Weights = {}
    for path in sorted(folder.glob("model*.safetensors")):
        for name, tensor in read_file(path).items():
            assert name not in out, name
            out[name] = tensor
    return out


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def expected(
    tensors: Weights, layers: int, attn: Iterable[int] = (), mlp: Iterable[int] = ()
) -> Weights:
    """What a cut must leave: blocks are rebuilt by walking the residual stream."""
    attn, mlp = set(attn), set(mlp)
    stream = [
        (layer, kind)
        for layer in range(layers)
        for kind, gone in (("attn", attn), ("mlp", mlp))
        if layer not in gone
    ]
    place: dict[tuple[int, str], int] = {}
    block, previous = -1, "mlp"
    for layer, kind in stream:
        if not (kind == "mlp" and previous == "attn"):
            block += 1
        place[layer, kind] = block
        previous = kind
    out: Weights = {}
    for name, tensor in tensors.items():
        if not name.startswith("model.layers."):
            out[name] = tensor
            continue
        _, _, number, inner = name.split(".", 3)
        site = (int(number), "attn" if inner.startswith(("self_attn", "input_layernorm")) else "mlp")
        if site in place:
            out[f"model.layers.{place[site]}.{inner}"] = tensor
    return out


def digest(folder: Path) -> dict[str, str]:
    """Every file below a folder by its hash, to show that nobody touched it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@dataclass(frozen=True)
class Outcome:
    """What a run of the program left: exit code and both streams."""

    code: int
    out: str
    err: str


def assert_refused(outcome: Outcome, *words: str) -> None:
    """One line on stderr that says what is wrong; exit code 2; nothing on stdout."""
    assert outcome.code == 2, outcome
    assert outcome.err.startswith("surgeon: "), outcome.err
    assert outcome.err.count("\n") == 1, outcome.err
    assert outcome.err.endswith("\n")
    assert outcome.out == ""
    for word in words:
        assert word in outcome.err
