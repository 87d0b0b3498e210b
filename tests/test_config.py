"""The config.json of a cut, in both dialects and both styles of transformers."""

import json
from pathlib import Path
from typing import Any

import checkpoints
import pytest
from checkpoints import Spec, read_json

import surgeon
from surgeon.errors import SurgeonError
from surgeon.families import LLAMA
from surgeon.structure import read_structure

LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "original_max_position_embeddings": 8192}


def cut(tmp_path: Path, spec: Spec, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json before and after a cut that verify accepts."""
    model = checkpoints.make(tmp_path / "model", spec)
    surgeon.prune(model, tmp_path / "out", **options)
    assert surgeon.verify(tmp_path / "out", model).ok
    return read_json(model / "config.json"), read_json(tmp_path / "out" / "config.json")


@pytest.mark.parametrize("style", [4, 5])
def test_whole_blocks_leave_the_config_alone(style: int, tmp_path: Path) -> None:
    before, after = cut(tmp_path, Spec(style=style), last=1, drop="block")
    # what transformers 4 and MLX-LM look for, or they would silently take 10000
    theta = {"rope_theta": 500000.0} if style == 5 else {}
    assert after == before | {"num_hidden_layers": 3} | theta
    assert list(after) == [*before, *theta]  # the order too


def test_the_dialect_from_transformers_4(tmp_path: Path) -> None:
    before, after = cut(tmp_path, Spec(), layers="1")
    blocks = after.pop("block_configs")
    assert after == before | {
        "architectures": ["DeciLMForCausalLM"],
        "model_type": "nemotron-nas",
        "auto_map": {
            "AutoConfig": "configuration_surgeon.DeciLMConfig",
            "AutoModel": "modeling_surgeon.DeciLMModel",
            "AutoModelForCausalLM": "modeling_surgeon.DeciLMForCausalLM",
        },
        # transformers 4 knows no tokenizer for this dialect by itself
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    attention = {
        "no_op": False,
        "replace_with_linear": False,
        "sparsify": None,
        "n_heads_in_group": 2,
        "window_length": None,
        "num_sink_tokens": None,
        "use_prefill_window_in_sink_attention": False,
        "unshifted_sink": False,
    }
    # 2.25 * 16 * 2 / 3 = 24, the width
    ffn = {"no_op": False, "replace_with_linear": False, "sparsify": None, "ffn_mult": 2.25}
    assert blocks == [
        {"attention": attention, "ffn": ffn},
        {"attention": attention | {"no_op": True, "n_heads_in_group": None}, "ffn": ffn},
        {"attention": attention, "ffn": ffn},
        {"attention": attention, "ffn": ffn},
    ]


def test_mlps_that_are_gone(tmp_path: Path) -> None:
    _, after = cut(tmp_path, Spec(), last=2, drop="mlp")
    assert [block["ffn"]["no_op"] for block in after["block_configs"]] == [False, False, True, True]
    assert [block["ffn"]["ffn_mult"] for block in after["block_configs"]] == [2.25, 2.25, None, None]


@pytest.mark.parametrize(
    ("fields", "theta", "scaling"),
    [
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, 5e5, None),
        ({"rope_parameters": {"rope_theta": 5e5, **LLAMA3}}, 5e5, LLAMA3),
        ({"rope_parameters": {"rope_type": "default"}}, 10000.0, None),
        ({"rope_parameters": {}}, 10000.0, None),
        ({"rope_parameters": None}, 10000.0, None),
        ({"rope_parameters": LLAMA3, "rope_theta": 7.0}, 7.0, LLAMA3),
    ],
)
def test_rope_fields_are_flat(
    fields: dict[str, Any], theta: float, scaling: Any, tmp_path: Path
) -> None:
    spec = Spec(style=5, config=fields)
    before, after = cut(tmp_path, spec, last=1)
    assert "rope_parameters" in before
    assert "rope_parameters" not in after
    assert after["rope_theta"] == theta
    assert after.get("rope_scaling") == scaling


def test_scaling_that_only_transformers_5_finds(tmp_path: Path) -> None:
    """In a plain config, whose rope_parameters stay."""
    spec = Spec(config={"rope_theta": 7.0, "rope_parameters": {"rope_theta": 7.0, **LLAMA3}})
    before, after = cut(tmp_path, spec, last=1, drop="block")
    assert (after["rope_theta"], after["rope_scaling"]) == (7.0, LLAMA3)
    assert after["rope_parameters"] == before["rope_parameters"]


def test_rope_fields_that_are_flat_already(tmp_path: Path) -> None:
    _, after = cut(tmp_path, Spec(config={"rope_theta": 3.0, "rope_scaling": LLAMA3}), last=1)
    assert (after["rope_theta"], after["rope_scaling"]) == (3.0, LLAMA3)


def test_dtype_has_its_old_name_in_the_dialect(tmp_path: Path) -> None:
    _, after = cut(tmp_path, Spec(style=5), last=1)
    assert after["torch_dtype"] == "bfloat16"
    assert "dtype" not in after


def test_defaults_are_written_out(tmp_path: Path) -> None:
    # the dialect's readers have no defaults for these
    spec = Spec(kv_heads=4)
    model = checkpoints.make(tmp_path / "model", spec)
    config = checkpoints.config(spec)
    for key in ("num_key_value_heads", "head_dim", "rope_theta", "rope_scaling"):
        del config[key]
    (model / "config.json").write_text(json.dumps(config))
    surgeon.prune(model, tmp_path / "out", last=1)
    after = read_json(tmp_path / "out" / "config.json")
    assert (after["num_key_value_heads"], after["head_dim"], after["rope_theta"]) == (4, 4, 10000.0)
    assert surgeon.verify(tmp_path / "out", model).ok


@pytest.mark.parametrize("key", ["layer_types", "no_rope_layers"])
def test_lists_with_an_entry_a_layer(key: str, tmp_path: Path) -> None:
    spec = Spec(config={key: ["a", "b", "c", "d"]})
    assert cut(tmp_path / "block", spec, layers="1", drop="block")[1][key] == ["a", "c", "d"]
    # caches are made for these, so a block without attention has that of an attention
    assert cut(tmp_path / "attn", spec, layers="0,2")[1][key] == ["b", "b", "b", "d"]
    other = Spec(config={key: ["a", "b"]})
    assert cut(tmp_path / "odd", other, layers="1", drop="block")[1][key] == ["a", "b"]


def test_unknown_fields_stay(tmp_path: Path) -> None:
    extra = {"my_field": {"deep": [1, None, "é"]}, "eos_token_id": [1, 2]}
    before, after = cut(tmp_path, Spec(config=extra), last=1)
    assert {key: after[key] for key in extra} == extra == {key: before[key] for key in extra}


QUANTIZATION = {
    "quant_method": "gptq",
    "bits": 4,
    "modules_in_block_to_quantize": [["self_attn.k_proj", "self_attn.v_proj"], ["mlp.up_proj"]],
    "modules_to_not_convert": [
        "lm_head",
        "model.layers.0.mlp.down_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.mlp.down_proj",
        "model.layers.2.self_attn",
        "model.layers.3.mlp",
        "model.layers.3",
    ],
    "dynamic": {
        r"+:model\.layers\.1\.self_attn\.o_proj": {"bits": 8},
        r"-:model\.layers\.2\.mlp\.up_proj": {},
        r"re:.*\.layers\.3\..*": {"bits": 2},
        r"+:.*\.layers\.\d+\.mlp": {"bits": 3},
    },
    "sublayers.1.mlp": True,
}


@pytest.mark.parametrize(
    "pattern",
    [
        r"re:.*layers\.(0|11)\..*",
        r"re:.*layers\.1[01]\..*",
        "model.layers.[6-9].mlp.down_proj",
        r"-:.*\.11\..*",
        "*.11.self_attn*",
    ],
)
def test_patterns_that_pick_layers_by_digits(pattern: str, tmp_path: Path) -> None:
    settings = {"quant_method": "compressed-tensors", "ignore": ["lm_head", pattern]}
    model = checkpoints.make(tmp_path / "model", gptq=True, config={"quantization_config": settings})
    with pytest.raises(SurgeonError, match="picks layers by their digits"):
        surgeon.prune(model, tmp_path / "blocks", drop="block", layers="1")
    # no number changes, so the pattern means what it meant
    surgeon.prune(model, tmp_path / "attn", drop="attn", layers="1")


@pytest.mark.parametrize("pattern", [r"re:.*layers\.[0-9]+\.mlp.*", r"re:.*layers\.\d+\.mlp.*"])
def test_patterns_of_any_layer_stay(pattern: str, tmp_path: Path) -> None:
    settings = {"quant_method": "compressed-tensors", "ignore": [pattern]}
    model = checkpoints.make(tmp_path / "model", gptq=True, config={"quantization_config": settings})
    surgeon.prune(model, tmp_path / "out", drop="block", layers="1")
    found = read_json(tmp_path / "out" / "config.json")
    assert found["quantization_config"] == settings


def test_names_in_a_quantization_config_follow(tmp_path: Path) -> None:
    spec = Spec(gptq=True, hidden=32, mlp=64, config={"quantization_config": QUANTIZATION})
    _, after = cut(tmp_path, spec, layers="1", drop="block")
    found = after["quantization_config"]
    assert found["modules_to_not_convert"] == [
        "lm_head",
        "model.layers.0.mlp.down_proj",
        "model.layers.1.self_attn",
        "model.layers.2.mlp",
        "model.layers.2",
    ]
    assert found["dynamic"] == {
        r"-:model\.layers\.1\.mlp\.up_proj": {},
        r"re:.*\.layers\.2\..*": {"bits": 2},
        r"+:.*\.layers\.\d+\.mlp": {"bits": 3},
    }
    assert found["modules_in_block_to_quantize"] == QUANTIZATION["modules_in_block_to_quantize"]
    assert found["sublayers.1.mlp"] is True  # a name that only ends like one
    assert (found["quant_method"], found["bits"]) == ("gptq", 4)


def test_names_of_removed_attentions_go(tmp_path: Path) -> None:
    spec = Spec(gptq=True, hidden=32, mlp=64, config={"quantization_config": QUANTIZATION})
    _, after = cut(tmp_path, spec, layers="1-2")
    assert after["quantization_config"]["modules_to_not_convert"] == [
        "lm_head",
        "model.layers.0.mlp.down_proj",
        "model.layers.1.mlp.down_proj",
        "model.layers.3.mlp",
        "model.layers.3",
    ]


def test_a_layer_that_is_in_two_blocks(tmp_path: Path) -> None:
    from surgeon.plan import Plan, Sublayer

    # MLP 0 and attention 1 go: layer 1's MLP is in block 0 now, and no block has number 3
    plan = Plan(4, frozenset({(0, Sublayer.MLP), (1, Sublayer.ATTENTION)}))
    spec = Spec(gptq=True, hidden=32, mlp=64, config={"quantization_config": QUANTIZATION})
    model = checkpoints.make(tmp_path / "model", spec)
    surgeon.prune(model, tmp_path / "out", plan)
    found = read_json(tmp_path / "out" / "config.json")["quantization_config"]
    assert found["modules_to_not_convert"] == [
        "lm_head",
        "model.layers.0.mlp.down_proj",
        "model.layers.1.self_attn",
        "model.layers.2.mlp",
        "model.layers.2",
    ]


def test_a_whole_layer_that_shares_a_block(tmp_path: Path) -> None:
    """The other half of the block is not meant."""
    names = ["lm_head", "model.layers.1", r"re:.*layers\.2\..*", "model.layers.0"]
    settings = {"quant_method": "compressed-tensors", "ignore": names}
    spec = Spec(gptq=True, hidden=32, mlp=64, config={"quantization_config": settings})
    # block 1 is attention 1 with MLP 2, block 2 is layer 3
    plan = surgeon.Plan(4, frozenset({(1, "mlp"), (2, "attn")}))
    model = checkpoints.make(tmp_path / "model", spec)
    surgeon.prune(model, tmp_path / "out", plan)
    assert read_json(tmp_path / "out" / "config.json")["quantization_config"]["ignore"] == [
        "lm_head",
        "model.layers.1.self_attn",
        r"re:.*layers\.1\.mlp\..*",
        "model.layers.0",
    ]


def test_the_dialect_is_read_back(tmp_path: Path) -> None:
    for number, (hidden, mlp) in enumerate([(96, 256), (100, 352), (7, 5), (4096, 11008), (3, 11)]):
        config = checkpoints.config(Spec(hidden=hidden, mlp=mlp))
        structure = read_structure(config, LLAMA, "f")
        from surgeon.config import pruned_config
        from surgeon.plan import Plan

        plan = Plan.last(4, 1, ("attn", "mlp")[number % 2])
        after = structure.cut(plan)
        new = json.loads(json.dumps(pruned_config(config, plan, after, "config.json")))
        assert read_structure(new, LLAMA, "f") == after


def test_a_config_of_the_dialect_without_width(tmp_path: Path) -> None:
    _, after = cut(tmp_path, Spec(), last=1)
    del after["intermediate_size"]
    (tmp_path / "out" / "config.json").write_text(json.dumps(after))
    with pytest.raises(SurgeonError, match="intermediate_size"):
        surgeon.inspect(tmp_path / "out")
