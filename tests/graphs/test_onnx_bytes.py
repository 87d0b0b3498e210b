"""Which bytes a graph points at, and what an export costs: no copies, no torch, little memory."""

import subprocess
import sys

import checkpoints
import llama_numbers
import pytest
from checkpoints import Spec
from llama_numbers import SMALL, make, ranges


def export(folder, dtype="fp32", **options):
    from surgeon.onnx.export import export_onnx

    return export_onnx(folder, dtype, **options)


def source_names(name, tied):
    """The tensors, by their safetensors names, that an initializer of the graph stands for."""
    if name == "embed":
        return ["model.embed_tokens.weight"]
    if name == "final_norm.weight":
        return ["model.norm.weight"]
    if name == "logits.weight":
        assert not tied
        return ["lm_head.weight"]
    layer, module, kind = name.split(".")
    prefix = f"model.layers.{layer[1:]}."
    if module.endswith("_norm"):
        return [prefix + {"attn": "input", "mlp": "post_attention"}[module[:-5]] + "_layernorm.weight"]
    owner = "mlp" if module in ("gate", "up", "down") else "self_attn"
    parts = ["q", "k", "v"] if module == "qkv" else [module]
    return [f"{prefix}{owner}.{part}_proj.{kind}" for part in parts]


def check_ranges(folder, tied=False):
    """Every initializer's bytes are those of its tensors, and each tensor is in exactly one."""
    tensors = checkpoints.read_weights(folder)
    seen = []
    for name, (file, _, _) in ranges(folder).items():
        names = source_names(name, tied)
        assert llama_numbers.bytes_of(folder, name) == b"".join(tensors[n][2] for n in names), name
        assert file != "model.onnx.data"
        seen += names
    assert sorted(seen) == sorted(tensors)


def initializer_shapes(folder):
    import onnx

    graph = onnx.load(str(folder / "model.onnx"), load_external_data=False).graph
    return {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}


SPECS = {
    "save-pretrained": SMALL,
    "tied": Spec(tied=True, head_dim=16, dtype="F32"),
    "biased": Spec(attention_bias=True, mlp_bias=True, head_dim=16, dtype="F32", mlp=31),
    "shards": Spec(layers=6, head_dim=16, dtype="F32", shards=5),
    "inv-freq-is-left-out": Spec(head_dim=16, dtype="F32", inv_freq=True),
}


@pytest.mark.parametrize("name", SPECS)
def test_no_weight_is_copied(name, tmp_path):
    """In the order of save_pretrained q, k and v are not side by side: three matrices."""
    folder = checkpoints.make(tmp_path / "m", SPECS[name])
    before = checkpoints.digest(folder)
    report = export(folder)
    assert report.data_bytes == 0
    assert not (folder / "model.onnx.data").exists()
    after = checkpoints.digest(folder)
    assert after.keys() - before.keys() == {"model.onnx", "genai_config.json"}
    assert before.items() <= after.items()
    graph = (folder / "model.onnx").stat().st_size
    tables = 2 * 128 * 8 * 4
    assert report.graph_bytes == graph < 100_000 + tables
    if name != "inv-freq-is-left-out":
        check_ranges(folder, tied=SPECS[name].tied)
    assert not any("qkv" in name for name in ranges(folder))
    assert {f"l0.{part}.weight" for part in "qkv"} <= ranges(folder).keys()


@pytest.mark.parametrize("key", ["attn", "no-mlp", "scattered", "no-attention", "joined"])
@pytest.mark.parametrize("name", ["gqa", "tied-mha", "biased"])
@pytest.mark.models
def test_a_pruned_folder_has_its_matrices_side_by_side(name, key, exported, network):
    """So one matrix gives q, k and v, and still nothing is copied."""
    folder = exported(name, key)
    assert not (folder / "model.onnx.data").exists()
    check_ranges(folder, tied=name == "tied-mha")
    model = network(name, key)
    for number, layer in enumerate(model.model.layers):
        shapes = initializer_shapes(folder)
        has = {part: f"l{number}.{part}.weight" in shapes for part in ("qkv", "q", "gate", "up")}
        assert not has["q"]
        assert has["qkv"] == (getattr(layer, "self_attn", None) is not None)
        assert has["gate"] == has["up"] == (getattr(layer, "mlp", None) is not None)
        if has["qkv"]:
            heads, kv = layer.self_attn.q_proj.out_features, layer.self_attn.k_proj.out_features
            assert shapes[f"l{number}.qkv.weight"] == (heads + 2 * kv, 64)


def test_matrices_side_by_side_with_biases_that_are_not(tmp_path):
    """One matrix would need a copy of the biases, so there are three."""
    folder = checkpoints.make(tmp_path / "m", attention_bias=True, head_dim=16, dtype="F32")
    tensors = checkpoints.read_weights(folder)

    def place(name):
        part = next((i for i, p in enumerate("qkv") if f".{p}_proj.weight" in name), 9)
        return (name.endswith("bias"), name.rsplit(".", 3)[0] if part < 9 else name, part)

    together = dict(sorted(tensors.items(), key=lambda row: place(row[0])))
    checkpoints.write_weights(folder / "model.safetensors", together)
    assert export(folder).data_bytes == 0
    check_ranges(folder)


def test_neighbours_by_their_offsets_in_different_files(tmp_path):
    """gate ends in one file at the very offset where up begins in the other."""
    folder = checkpoints.make(tmp_path / "m", layers=1, head_dim=16, dtype="F32")
    tensors = checkpoints.read_weights(folder)
    (folder / "model.safetensors").unlink()
    gate, up, down = (f"model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up", "down"))
    second = {name: tensors.pop(name) for name in (down, up)}  # down is as long as gate
    first = {gate: tensors.pop(gate), **tensors}
    files = {f"model-0000{n}-of-00002.safetensors": t for n, t in ((1, first), (2, second))}
    for file, content in files.items():
        rows = {name: (d, s, len(data)) for name, (d, s, data) in content.items()}
        pad = 4096 - len(checkpoints.header(rows, {"pad": ""})) + 8
        metadata = {"pad": "x" * (pad - pad % 8 - 8)}
        assert len(checkpoints.header(rows, metadata)) == 4096
        checkpoints.write_weights(folder / file, content, metadata)
    checkpoints.write_index(folder, {name: file for file, content in files.items() for name in content})
    assert export(folder).data_bytes == 0
    places = ranges(folder)
    assert sum(places["l0.gate.weight"][1:]) == places["l0.up.weight"][1]
    check_ranges(folder)


@pytest.mark.parametrize("part", ["model.norm", "k_proj"])
def test_one_tensor_of_another_dtype_is_converted_alone(part, tmp_path):
    """model.onnx.data then holds that one, and with it those it is stacked with."""
    folder = make(tmp_path / "m", SMALL, dtypes={part: "F16"})
    size = export(folder).data_bytes
    inside = {name for name, (file, _, _) in ranges(folder).items() if file == "model.onnx.data"}
    if part == "model.norm":
        assert inside == {"final_norm.weight"}
        assert size == 4 * 48
    else:
        assert inside == {f"l{n}.qkv.weight" for n in range(3)}
    assert (folder / "model.onnx.data").stat().st_size == size


def test_a_later_export_without_copies_removes_the_copies(tmp_path):
    folder = make(tmp_path / "m")
    assert export(folder, "fp16").data_bytes == (folder / "model.onnx.data").stat().st_size > 0
    assert export(folder).data_bytes == 0
    assert not (folder / "model.onnx.data").exists()


@pytest.mark.parametrize("shards", [1, 4])
def test_the_own_dtype_of_16_bits(shards, tmp_path):
    folder = checkpoints.make(tmp_path / "m", head_dim=16, shards=shards)
    assert export(folder, "bf16").data_bytes == 0
    check_ranges(folder)
    assert len({file for file, _, _ in ranges(folder).values()}) == shards


def test_the_reference_in_its_own_dtype(reference, tmp_path):
    """One graph with several locations."""
    report = export(reference, "bf16", output=tmp_path / "out")
    assert report.data_bytes == 0
    assert report.graph_bytes < 1 << 20
    check_ranges(tmp_path / "out", tied=True)
    files = {file for file, _, _ in ranges(tmp_path / "out").values()}
    assert files == {f"model-{n:05}-of-00004.safetensors" for n in range(1, 5)}


CHILD = """
import sys
from surgeon.onnx.export import export_onnx
report = export_onnx(sys.argv[1], sys.argv[2], int4=sys.argv[3] == "int4")
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
heavy = {"torch", "transformers", "safetensors", "tokenizers", "onnxruntime"} & sys.modules.keys()
print(report.graph_bytes, report.data_bytes, peak, *sorted(heavy))
"""


def export_in_a_child(folder, dtype, weights="all"):
    """Graph bytes, data bytes, peak MiB and the heavy modules that it imported."""
    if sys.platform != "linux":
        pytest.skip("no /proc here")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), dtype, weights],
        capture_output=True,
        text=True,
        check=True,
    )
    graph, data, peak, *heavy = done.stdout.split()
    return int(graph), int(data), int(peak) >> 10, heavy


def test_an_export_imports_no_torch(tmp_path):
    """auto may ask onnxruntime for its providers; a dtype by name needs not even that."""
    folder = make(tmp_path / "m")
    assert export_in_a_child(folder, "fp32")[3] == []
    assert export_in_a_child(folder, "bf16")[3] == []
    assert set(export_in_a_child(folder, "auto")[3]) <= {"onnxruntime"}
    assert set(export_in_a_child(folder, "fp32", "int4")[3]) <= {"onnxruntime"}


def test_a_model_of_405b_costs_a_graph_and_little_memory(tmp_path):
    spec = Spec(
        layers=126,
        hidden=16384,
        heads=128,
        kv_heads=8,
        head_dim=128,
        mlp=53248,
        vocab=128256,
        shards=191,
        config={"max_position_embeddings": 131072},
    )
    try:
        folder = checkpoints.make_sparse(tmp_path / "405b", spec)
    except OSError as error:
        pytest.skip(f"no sparse files of that size here: {error}")
    graph, data, peak, _ = export_in_a_child(folder, "bf16")
    tables = 2 * 131072 * 64 * 2
    assert data == 0
    assert tables < graph < tables + (1 << 20)
    assert peak < 400
    assert len({file for file, _, _ in ranges(folder).values()}) == 191


@pytest.mark.parametrize("weights", ["all", "int4"])
def test_conversion_is_streamed(weights, tmp_path):
    """A head of 66 M elements is 262 MB in float32: it is never there at once."""
    spec = Spec(layers=1, hidden=2048, heads=16, kv_heads=2, head_dim=128, mlp=1024, vocab=32000)
    folder = checkpoints.make_sparse(tmp_path / "wide", spec)
    _, data, peak, _ = export_in_a_child(folder, "fp32", weights)
    assert data > (262 << 20 if weights == "all" else 300_000_000)
    assert peak < 240
