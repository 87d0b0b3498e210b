"""What the config.json of each family means, and which dialect a cut of it speaks; no torch."""

from typing import Any

import checkpoints
import pytest
from checkpoints import Spec

import surgeon
from surgeon.config import pruned_config
from surgeon.errors import SurgeonError
from surgeon.families import family_of
from surgeon.patterns import Pattern
from surgeon.plan import Plan
from surgeon.structure import Structure, read_structure

FULL, SLIDING = "full_attention", "sliding_attention"


def structure_of(prefix: str, **fields: Any) -> Structure:
    """Of a config.json in the style of transformers 4, with these fields."""
    named = {"model_type": prefix.lower(), "architectures": [f"{prefix}ForCausalLM"]}
    config = checkpoints.config(Spec(config=named | fields))
    return read_structure(config, family_of(config, "config.json"), "config.json")


MODELS: dict[str, tuple[Structure, str | None]] = {
    # as the fields stand in the models' config.json; and what nemotron-nas has no words for
    "Llama-2": (structure_of("Llama"), None),
    "Mistral-7B-v0.1": (structure_of("Mistral", sliding_window=4096), "sliding windows"),
    "Mistral without the field": (structure_of("Mistral"), "sliding windows"),
    "Mistral-7B-v0.3": (structure_of("Mistral", sliding_window=None), None),
    "Qwen2.5-7B": (
        structure_of("Qwen2", use_sliding_window=False, sliding_window=131072, max_window_layers=28),
        "biases of k_proj, q_proj, v_proj alone",
    ),
    "Qwen3-8B": (
        structure_of("Qwen3", use_sliding_window=False, sliding_window=None, max_window_layers=36),
        "norms of q and k",
    ),
    "granite-3.3": (
        structure_of("Granite", embedding_multiplier=12.0),
        "multipliers of embeddings, residuals and logits",
    ),
    "SmolLM3-3B": (
        structure_of("SmolLM3", no_rope_layers=[1, 1, 1, 0], layer_types=[FULL] * 4),
        "attention without rope",
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_dialect_of_a_cut(name: str) -> None:
    structure, beyond = MODELS[name]
    family = structure.family.model_type
    attention = structure.cut(Plan.last(4, 1, "attn", keep_last=True))
    assert attention.beyond_nas == beyond
    assert attention.dialect == ("nemotron-nas" if beyond is None else f"surgeon-{family}")
    assert structure.dialect == structure.cut(Plan.last(4, 1, "block")).dialect == family


def test_what_is_not_left_needs_no_words() -> None:
    nope, _ = MODELS["SmolLM3-3B"]
    assert nope.cut(Plan.layers(4, "3", "attn")).dialect == "nemotron-nas"
    fields = {"use_sliding_window": True, "sliding_window": 8, "layer_types": [FULL] * 3 + [SLIDING]}
    windows = structure_of("Mistral", **fields)
    assert {pattern.window for pattern in windows.patterns} == {8}, "Mistral reads no layer_types"


@pytest.mark.parametrize(
    ("prefix", "fields", "windows"),
    [
        ("Qwen2", {"max_window_layers": 1}, [None, 8, 8, 8]),
        ("Qwen3", {}, [None] * 4),  # max_window_layers is 28 then
        ("Qwen3", {"layer_types": [SLIDING, FULL] * 2}, [8, None, 8, None]),
        ("Qwen3", {"layer_types": [SLIDING] * 4, "use_sliding_window": False}, [None] * 4),
        ("SmolLM3", {"no_rope_layers": [0, 1, 1, 0]}, [8, None, None, 8]),
        ("Llama", {"layer_types": [SLIDING] * 4}, [None] * 4),
    ],
)
def test_windows(prefix: str, fields: dict[str, Any], windows: list[int | None]) -> None:
    used = {"use_sliding_window": True, "sliding_window": 8}
    found = structure_of(prefix, **used | fields)
    assert [pattern.window for pattern in found.patterns] == windows


def test_smollm3_has_no_rope_in_every_fourth_layer() -> None:
    rotary = [pattern.rotary for pattern in structure_of("SmolLM3").patterns]
    assert rotary == [True, True, True, False]
    assert structure_of("SmolLM3", no_rope_layer_interval=2).patterns[1] == Pattern(None, False)


@pytest.mark.parametrize("drop", ["attn", "block"])
@pytest.mark.parametrize("nope", [[1, 0, 1, 1], [1, 1, 1, 1]])
def test_a_base_of_rope_that_the_class_knows(drop: str, nope: list[int]) -> None:
    """Written out in every dialect, and not as another family's."""
    fields = {"no_rope_layers": nope, "rope_parameters": {"rope_type": "default"}}
    config = checkpoints.config(Spec(style=5, config=fields | {"model_type": "smollm3"}))
    config["architectures"] = ["SmolLM3ForCausalLM"]
    structure = read_structure(config, family_of(config, "f"), "f")
    plan = Plan.layers(4, "2", drop)
    new = pruned_config(config, plan, structure.cut(plan), "f")
    assert new["rope_theta"] == 2000000.0


def test_families_that_are_not_known(tmp_path: Any) -> None:
    for model_type, words in (("gemma3", "'gemma3' is not known"), ("surgeon-llama", "not known")):
        config = {"model_type": model_type, "architectures": None}
        model = checkpoints.make(tmp_path / model_type, Spec(config=config))
        with pytest.raises(SurgeonError, match=words):
            surgeon.inspect(model)
    model = checkpoints.make(tmp_path / "other", Spec(config={"model_type": "qwen3"}))
    with pytest.raises(SurgeonError, match="only Qwen3ForCausalLM can be cut"):
        surgeon.inspect(model)
