"""Quantized checkpoints that run on a CPU: a cut of one is the one with sublayers skipped."""

import json
from functools import cache

import pytest
from family_rows import CUTS, LAYERS, PLAIN
from llamas import virtual_cut

import surgeon

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(
        transformers.__version__.startswith("4."), reason="transformers 4 wants a GPU for these"
    ),
]

WIDE = "model.layers.3.mlp.down_proj"
"""The one matrix that stays as it was: its name in the settings has to follow the plan."""


def fp8_blocks(weight):
    """As DeepSeek-V3 and Qwen3-FP8 have it: a scale for each block of 32 x 32."""
    rows, columns = weight.shape
    blocks = weight.float().reshape(rows // 32, 32, columns // 32, 32)
    scale = blocks.abs().amax((1, 3)) / 448
    quants = (blocks / scale[:, None, :, None]).reshape(rows, columns).to(torch.float8_e4m3fn)
    return {"weight": quants, "weight_scale_inv": scale}


def int4_packed(weight):
    """As llm-compressor's W4A16: eight to a word along each row, a scale for each 32 of a row."""
    rows = len(weight)
    groups = weight.float().reshape(rows, -1, 32)
    scale = groups.abs().amax(-1, keepdim=True) / 7
    quants = ((groups / scale).round().clamp(-8, 7).long() + 8).reshape(rows, -1, 8)
    words = sum(quants[..., i] << (4 * i) for i in range(8))
    return {
        "weight_packed": torch.where(words >= 2**31, words - 2**32, words).int(),
        "weight_scale": scale[..., 0].bfloat16(),
        "weight_shape": torch.tensor(weight.shape),
    }


KINDS = {
    "fp8": (
        fp8_blocks,
        {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "weight_block_size": [32, 32],
            "modules_to_not_convert": ["lm_head", WIDE],
        },
    ),
    "compressed-tensors": (
        int4_packed,
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "ignore": ["lm_head", WIDE],
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {
                        "num_bits": 4,
                        "type": "int",
                        "symmetric": True,
                        "strategy": "group",
                        "group_size": 32,
                    },
                }
            },
        },
    ),
}


@pytest.fixture(scope="module")
def quantized(source, tmp_path_factory):
    """A quantized Qwen3."""

    @cache
    def make(kind):
        from safetensors.torch import load_file, save_file

        quantize, settings = KINDS[kind]
        folder = tmp_path_factory.mktemp(kind)
        tensors = {}
        for name, value in load_file(source("qwen3") / "model.safetensors").items():
            module, _, _ = name.rpartition(".")
            if module.endswith("_proj") and module != WIDE:
                tensors |= {f"{module}.{k}": v.contiguous() for k, v in quantize(value).items()}
            else:
                tensors[name] = value.bfloat16()
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        config = json.loads((source("qwen3") / "config.json").read_text(encoding="utf-8"))
        config |= {"dtype": "bfloat16", "quantization_config": settings}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return folder

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_bit_for_bit(kind, quantized, load, tmp_path, ids):
    if kind == "compressed-tensors":
        pytest.importorskip("compressed_tensors")
    whole = load(quantized(kind), dtype=torch.bfloat16)
    for key in ("attn", "mlp", "block", "scattered"):
        removed = CUTS[key]
        surgeon.prune(quantized(kind), tmp_path / key, surgeon.Plan(LAYERS, removed))
        assert surgeon.verify(tmp_path / key, quantized(kind)).ok
        model = load(tmp_path / key, dtype=torch.bfloat16)
        assert type(model).__name__ == f"{'' if key in PLAIN else 'Surgeon'}Qwen3ForCausalLM"
        with torch.no_grad():
            got = model(ids).logits
            with virtual_cut(whole, removed):
                want = whole(ids, use_cache=False).logits
            assert torch.equal(got, want)
            assert not torch.allclose(got, whole(ids).logits)
