"""What is in a GGUF file: every number of the checkpoint in its place, and what the header says."""

import json
import shutil

import numpy as np
import pytest
from checkpoints import read_weights
from llama_numbers import SAMPLE, decode, make

import surgeon

gguf = pytest.importorskip("gguf")

# GGUF's names of a block's tensors, by safetensors' names: written out once more, by hand
NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_proj.bias": "attn_q.bias",
    "self_attn.k_proj.bias": "attn_k.bias",
    "self_attn.v_proj.bias": "attn_v.bias",
    "self_attn.o_proj.bias": "attn_output.bias",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "mlp.gate_proj.bias": "ffn_gate.bias",
    "mlp.up_proj.bias": "ffn_up.bias",
    "mlp.down_proj.bias": "ffn_down.bias",
}
OUTSIDE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def export(model, tmp_path, dtype="auto", **options):
    file = tmp_path / f"{dtype}.gguf"
    report = surgeon.export_gguf(model, dtype, output=file, **options)
    assert report.size == file.stat().st_size
    return gguf.GGUFReader(file)


def value(reader, key):
    field = reader.fields[key]
    if field.types[0] is gguf.GGUFValueType.ARRAY and field.types[1] is gguf.GGUFValueType.STRING:
        return [bytes(field.parts[at]).decode() for at in field.data]
    return field.contents()


def numbers(tensor):
    """A tensor of the file in float32, its shape as in safetensors."""
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type)


def rename(name):
    if name in OUTSIDE:
        return OUTSIDE[name]
    _, _, layer, inner = name.split(".", 3)
    return f"blk.{layer}.{NAMES[inner]}"


def turn(weight, head_dim):
    """Row 2i of a head is row i of its first half, row 2i + 1 that of the second."""
    heads = weight.reshape(-1, head_dim, *weight.shape[1:])
    out = np.empty_like(heads)
    out[:, 0::2] = heads[:, : head_dim // 2]
    out[:, 1::2] = heads[:, head_dim // 2 :]
    return out.reshape(weight.shape)


def expected(folder, head_dim):
    out = {}
    for name, (dtype, shape, data) in read_weights(folder).items():
        weight = decode(data, dtype).reshape(shape)
        turned = ".q_proj." in name or ".k_proj." in name
        out[rename(name)] = turn(weight, head_dim) if turned else weight
    return out


@pytest.mark.parametrize("elements", [1 << 22, 1])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_every_number_of_the_checkpoint(dtype, elements, tmp_path, monkeypatch):
    """In its own dtype, whatever piece of it is in memory at a time."""
    monkeypatch.setattr("surgeon.checkpoint.numbers._ELEMENTS", elements)
    model = make(tmp_path / "model", dtype=dtype, attention_bias=True, mlp_bias=True, shards=2)
    want = expected(model, 16)
    reader = export(model, tmp_path)
    assert {tensor.name for tensor in reader.tensors} == want.keys()
    for tensor in reader.tensors:
        kind = "F32" if want[tensor.name].ndim == 1 else dtype
        assert tensor.tensor_type.name == kind
        assert np.array_equal(numbers(tensor), want[tensor.name]), tensor.name
    assert value(reader, "general.architecture") == "llama"
    assert value(reader, "general.file_type") == {"F32": 0, "F16": 1, "BF16": 32}[dtype]


def test_rounded_to_another_dtype(tmp_path):
    model = make(tmp_path / "model", mlp=96)
    want = expected(model, 16)
    for word, name in (("bfloat16", "BF16"), ("fp16", "F16"), ("Q8_0", "Q8_0")):
        reader = export(model, tmp_path, word)
        for tensor in reader.tensors:
            weight = want[tensor.name]
            # rows of 48 cannot be blocks of 32
            own = name if weight.shape[-1] % 32 == 0 or name != "Q8_0" else "F16"
            kind = gguf.GGMLQuantizationType[own if weight.ndim == 2 else "F32"]
            assert tensor.tensor_type is kind, tensor.name
            rounded = gguf.quants.quantize(weight, kind)
            assert np.array_equal(tensor.data.view(np.uint8), rounded.view(np.uint8)), tensor.name
    assert {tensor.tensor_type.name for tensor in reader.tensors} == {"Q8_0", "F16", "F32"}
    assert value(reader, "general.quantization_version") == 2


def test_the_header(tmp_path):
    model = make(tmp_path / "model", tied=True)
    reader = export(model, tmp_path)
    for key, want in {
        "general.name": "model",
        "llama.block_count": 3,
        "llama.context_length": 128,
        "llama.embedding_length": 48,
        "llama.feed_forward_length": 93,
        "llama.attention.head_count": 6,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 16,
        "llama.attention.value_length": 16,
        "llama.rope.dimension_count": 16,
        "llama.vocab_size": 2048,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": True,
    }.items():
        assert value(reader, key) == want, key
    assert "output.weight" not in {tensor.name for tensor in reader.tensors}
    assert value(reader, "tokenizer.ggml.tokens")[:4] == ["<unk>", "<s>", "</s>", "<0x00>"]
    assert value(reader, "tokenizer.ggml.token_type")[:4] == [2, 3, 3, 6]
    # what is merged first scores best
    scores = dict(
        zip(value(reader, "tokenizer.ggml.tokens"), value(reader, "tokenizer.ggml.scores"), strict=True)
    )
    assert scores["\u2581t"] > scores["he"] > scores["\u2581a"]


def test_blocks_that_lack_a_sublayer(tmp_path):
    """Arrays in place of the numbers; zeros for the attention of the first block."""
    model = make(tmp_path / "model", layers=5, mlp=512)
    plan = surgeon.Plan(
        5,
        {
            (0, surgeon.Sublayer.ATTENTION),
            (2, surgeon.Sublayer.MLP),
            (4, surgeon.Sublayer.ATTENTION),
        },
    )
    surgeon.prune(model, tmp_path / "bare", plan)
    with pytest.raises(surgeon.SurgeonError, match="silently skip the attention of block 2"):
        export(tmp_path / "bare", tmp_path)
    surgeon.prune(model, tmp_path / "cut", plan, portable=True)
    reader = export(tmp_path / "cut", tmp_path)
    assert value(reader, "general.architecture") == "deci"
    assert value(reader, "deci.attention.head_count") == [6, 6, 6, 6, 0]
    assert value(reader, "deci.attention.head_count_kv") == [0, 2, 2, 2, 0]
    assert value(reader, "deci.feed_forward_length") == [512, 512, 256, 512, 512]
    assert "removing" in value(reader, "general.description")
    tensors = {tensor.name: numbers(tensor) for tensor in reader.tensors}
    want = expected(tmp_path / "cut", 16)
    assert tensors.keys() - want.keys() == {"blk.0.attn_norm.weight", "blk.0.attn_output.weight"}
    assert not tensors["blk.0.attn_output.weight"].any()
    assert tensors["blk.0.attn_output.weight"].shape == (48, 48)
    for name, weight in want.items():
        assert np.array_equal(tensors[name], weight), name


def test_scaled_rope(tmp_path):
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    model = make(tmp_path / "model", config={"rope_parameters": {"rope_theta": 500.0, **scaling}})
    reader = export(model, tmp_path)
    assert value(reader, "llama.rope.freq_base") == 500.0
    (factors,) = (numbers(t) for t in reader.tensors if t.name == "rope_freqs.weight")
    wavelengths = 2 * np.pi * 500.0 ** (np.arange(8) / 8)
    assert factors[wavelengths < 8] == pytest.approx(1)
    assert factors[wavelengths > 32] == pytest.approx(8)
    assert all(1 < factor < 8 for factor in factors[(wavelengths > 8) & (wavelengths < 32)])
    linear = {"rope_theta": 500.0, "rope_type": "linear", "factor": 4.0}
    reader = export(make(tmp_path / "linear", config={"rope_parameters": linear}), tmp_path, "f32")
    assert value(reader, "llama.rope.scaling.type") == "linear"
    assert value(reader, "llama.rope.scaling.factor") == 4.0


def test_chat_templates_and_ends(tmp_path):
    model = make(tmp_path / "model")
    settings = {"chat_template": "from the settings", "bos_token": "<s>", "eos_token": "</s>"}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7]}))
    reader = export(model, tmp_path)
    assert value(reader, "tokenizer.chat_template") == "from the settings"
    assert value(reader, "tokenizer.ggml.eot_token_id") == 7
    (model / "chat_template.jinja").write_text("from the file")
    reader = export(model, tmp_path, "f16")
    assert value(reader, "tokenizer.chat_template") == "from the file"


def test_special_tokens_that_are_none(tmp_path):
    model = make(tmp_path / "model", config={"pad_token_id": -1, "eos_token_id": [2, 9999]})
    reader = export(model, tmp_path)
    assert value(reader, "tokenizer.ggml.eos_token_id") == 2
    absent = {f"tokenizer.ggml.{name}_token_id" for name in ("padding", "eot")}
    assert not absent & reader.fields.keys()


def test_a_sentencepiece_model_alone(tmp_path):
    """It says the same as the tokenizer.json that was made of it."""
    model = make(tmp_path / "model")
    want = export(model, tmp_path)
    (model / "tokenizer.json").unlink()
    shutil.copyfile(SAMPLE / "tokenizer.model", model / "tokenizer.model")
    got = export(model, tmp_path, "f16")
    for key in want.fields:
        if key.startswith("tokenizer."):
            assert value(got, key) == value(want, key), key


def test_a_made_up_tokenizer_of_unused_numbers(tmp_path):
    model = make(tmp_path / "model", vocab=2050)
    reader = export(model, tmp_path)
    assert value(reader, "tokenizer.ggml.tokens")[-2:] == ["[PAD2048]", "[PAD2049]"]
    assert value(reader, "tokenizer.ggml.token_type")[-2:] == [5, 5]


def test_leftovers_are_no_tensors(tmp_path):
    model = make(tmp_path / "model", inv_freq=True)
    assert not [t.name for t in export(model, tmp_path).tensors if "freq" in t.name]
    shutil.rmtree(model)
