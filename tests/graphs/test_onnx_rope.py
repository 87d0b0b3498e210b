"""Rope tables beside transformers' own, in every style that a config.json may have."""

import json

import pytest
from llama_numbers import make

from surgeon.errors import SurgeonError
from surgeon.onnx.rope import read_rope, tables

np = pytest.importorskip("numpy")

pytestmark = pytest.mark.models

DIM, LENGTH = 64, 8192
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}

KINDS = {
    "default": (10000.0, {"rope_type": "default"}),
    "default-500k": (500000, {"rope_type": "default"}),
    "linear": (10000.0, {"rope_type": "linear", "factor": 4.0}),
    "dynamic": (10000.0, {"rope_type": "dynamic", "factor": 2.0}),
    "llama3": (500000.0, LLAMA3),
    "llama3-32": (500000.0, {**LLAMA3, "factor": 32, "original_max_position_embeddings": 512}),
    # transformers takes max_position_embeddings then
    "llama3-bare": (
        500000.0,
        {k: v for k, v in LLAMA3.items() if k != "original_max_position_embeddings"},
    ),
    "yarn": (1e6, YARN),
    "yarn-bare": (10000.0, {"rope_type": "yarn", "factor": 4.0}),
    "yarn-mscale": (10000.0, {**YARN, "mscale": 0.7, "mscale_all_dim": 1.0}),
    "yarn-mscale-equal": (10000.0, {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}),
    "yarn-mscale-alone": (10000.0, {**YARN, "mscale": 0.7}),
    "yarn-attention-factor": (10000.0, {**YARN, "attention_factor": 1.3}),
    "yarn-attention-factor-1": (10000.0, {**YARN, "attention_factor": 1.0}),
    "yarn-not-truncated": (10000.0, {**YARN, "truncate": False}),
    "yarn-betas": (10000.0, {**YARN, "beta_fast": 20.0, "beta_slow": 2.0}),
    "yarn-no-factor": (10000.0, {**YARN, "factor": None}),
}

STYLES = {
    "v4": lambda theta, s: {"rope_theta": theta, "rope_scaling": s},
    # before rope_type there was type
    "v4-type": lambda theta, s: {
        "rope_theta": theta,
        "rope_scaling": {"type" if key == "rope_type" else key: value for key, value in s.items()},
    },
    "v5": lambda theta, s: {"rope_parameters": {**s, "rope_theta": theta}},
}


def config_of(kind, style):
    theta, settings = KINDS[kind]
    base = {"hidden_size": 4 * DIM, "num_attention_heads": 4, "max_position_embeddings": LENGTH}
    return base | {"head_dim": DIM} | json.loads(json.dumps(STYLES[style](theta, settings)))


def by_transformers(config):
    """Cosines and sines; both halves of a head have the same."""
    import torch
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rotary = LlamaRotaryEmbedding(LlamaConfig(**json.loads(json.dumps(config))))
    cos, sin = rotary(torch.zeros(1), torch.arange(LENGTH)[None])
    assert torch.equal(cos[..., : DIM // 2], cos[..., DIM // 2 :])
    return cos[0, :, : DIM // 2].numpy(), sin[0, :, : DIM // 2].numpy(), rotary.inv_freq.numpy()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", KINDS)
def test_tables(kind, style):
    """Within a few float32 steps of the angle: at position 8191 one step is half a thousandth."""
    config = config_of(kind, style)
    *want, inverse = by_transformers(config)
    got = tables(read_rope(config, DIM, "config.json"))
    step = np.spacing(np.outer(np.arange(LENGTH, dtype=np.float32), inverse))
    for mine, theirs in zip(got, want, strict=True):
        assert mine.dtype == np.float32
        assert mine.shape == (LENGTH, DIM // 2)
        assert (np.abs(mine - theirs) <= 8 * step + 5e-7).all()
        assert np.abs(mine - theirs)[:64].max() < 2e-5


def test_the_kinds_differ():
    """Each of them, so that none of the tests above compares what is ignored on both sides."""
    table = {
        kind: tables(read_rope(config_of(kind, "v5"), DIM, ""))[0]
        for kind in KINDS
        if not kind.endswith("-bare")
    }
    same = {
        "dynamic": "default",  # up to max_position_embeddings
        "yarn-mscale-equal": "yarn-attention-factor-1",
        "yarn-mscale-alone": "yarn-no-factor",
    }
    for kind, other in same.items():
        assert np.array_equal(table.pop(kind), table[other])
    kinds = list(table)
    for number, kind in enumerate(kinds):
        for other in kinds[:number]:
            assert np.abs(table[kind] - table[other]).max() > 0.01, (kind, other)


@pytest.mark.parametrize("theta", [{}, {"rope_theta": None}, {"rope_theta": 250000.0}])
@pytest.mark.parametrize("scaling", [{}, {"rope_scaling": None}, {"rope_scaling": {}}])
def test_configs_that_say_little(theta, scaling):
    """Without a theta it is 10000, without a scaling the default."""
    config = config_of("default", "v4")
    del config["rope_theta"], config["rope_scaling"]
    config |= theta | scaling
    rope = read_rope(config, DIM, "config.json")
    assert rope.kind == "default"
    assert rope.theta == (theta.get("rope_theta") or 10000.0)
    if theta != {"rope_theta": None}:
        np.testing.assert_allclose(tables(rope)[0][:64], by_transformers(config)[0][:64], atol=2e-5)


@pytest.mark.parametrize("kind", ["longrope", "su", "ntk", "proportional", "xyz"])
@pytest.mark.parametrize("style", STYLES)
def test_unknown_kinds_are_refused_by_name(style, kind, tmp_path):
    from surgeon.onnx.export import export_onnx

    folder = make(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config.pop("rope_parameters")
    config |= STYLES[style](10000.0, {"rope_type": kind, "factor": 2.0})
    (folder / "config.json").write_text(json.dumps(config))
    known = "known are default, dynamic, linear, llama3, yarn"
    with pytest.raises(SurgeonError, match=f"config.json: rope type '{kind}' is not known; {known}"):
        export_onnx(folder, "fp32")
    assert not (folder / "model.onnx").exists()


@pytest.mark.parametrize("length", [0, -1, "1024", None, 3.5])
def test_a_context_that_is_no_number_is_refused(length):
    with pytest.raises(SurgeonError, match="max_position_embeddings is"):
        read_rope({"max_position_embeddings": length}, DIM, "config.json")


@pytest.mark.parametrize(
    ("kind", "missing"),
    [("linear", "factor"), *(("llama3", key) for key in LLAMA3 if key.endswith("factor"))],
)
def test_missing_settings_are_refused_in_words(kind, missing, tmp_path):
    """And not with the KeyError of a dictionary."""
    from surgeon.onnx.export import export_onnx

    folder = make(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    theta, settings = KINDS[kind]
    config["rope_parameters"] = {k: v for k, v in settings.items() if k != missing}
    config["rope_parameters"]["rope_theta"] = theta
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(SurgeonError, match=missing):
        export_onnx(folder, "fp32")


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_the_graph_has_the_tables_in_its_dtype(dtype, tmp_path):
    import onnx
    import torch

    from surgeon.onnx.export import export_onnx

    config = {"rope_parameters": {**YARN, "rope_theta": 10000.0}, "max_position_embeddings": LENGTH}
    folder = make(tmp_path / "m", head_dim=64, config=config)
    export_onnx(folder, dtype)
    graph = onnx.load(str(folder / "model.onnx"), load_external_data=False).graph
    raw = {tensor.name: tensor.raw_data for tensor in graph.initializer}
    kind = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    rope = read_rope(config, 64, "")
    for name, table in zip(("cos_cache", "sin_cache"), tables(rope), strict=True):
        got = torch.frombuffer(bytearray(raw[name]), dtype=kind).reshape(table.shape)
        assert torch.equal(got, torch.from_numpy(table).to(kind))
