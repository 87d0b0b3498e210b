"""Folders that surgeon writes, held against what the runtimes read that cannot run here.

A folder that a contract finds nothing wrong with must be one that ``inspect`` says loads, and the
other way round: no silent difference, and no refusal without a reason in the source.
"""

import dataclasses
import json

import checkpoints
import pytest
from checkpoints import Spec
from contracts import CONTRACTS, problems

import surgeon

PLAIN = Spec(hidden=32, heads=4, kv_heads=2, head_dim=8, mlp=512, vocab=40)

SOURCES = {
    "llama": PLAIN,
    "tied": dataclasses.replace(PLAIN, tied=True, kv_heads=4),
    "wide-heads": dataclasses.replace(PLAIN, head_dim=16),
    "odd-width": dataclasses.replace(PLAIN, mlp=88),
    "attention-biases": dataclasses.replace(PLAIN, attention_bias=True),
    "mlp-biases": dataclasses.replace(PLAIN, attention_bias=True, mlp_bias=True),
    "new-rope": dataclasses.replace(
        PLAIN, style=5, config={"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}
    ),
    "mistral": dataclasses.replace(
        PLAIN,
        config={
            "model_type": "mistral",
            "architectures": ["MistralForCausalLM"],
            "sliding_window": None,
        },
    ),
    "mistral-window": dataclasses.replace(
        PLAIN,
        config={"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 8},
    ),
    "qwen2": dataclasses.replace(
        PLAIN,
        attention_bias=True,
        config={
            "model_type": "qwen2",
            "architectures": ["Qwen2ForCausalLM"],
            "attention_bias": False,  # a flag that this family does not have
        },
    ),
    "granite": dataclasses.replace(
        PLAIN, config={"model_type": "granite", "architectures": ["GraniteForCausalLM"]}
    ),
    "granite-biases": dataclasses.replace(
        PLAIN,
        attention_bias=True,
        config={"model_type": "granite", "architectures": ["GraniteForCausalLM"]},
    ),
}

CUTS = {
    "whole": None,
    "attn": {"last": 1},
    "attn-keep-last": {"last": 2, "keep_last": True},
    "mlp": {"drop": "mlp", "last": 1},
    "mlp-portable": {"drop": "mlp", "last": 2, "portable": True},
    "attn-portable": {"last": 1, "portable": True},
    "block": {"drop": "block", "last": 1},
    "first-attn": {"layers": "0"},
    "no-attn": {"last": 4},
}


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    root = tmp_path_factory.mktemp("contracts")

    def folder(name, cut):
        source = root / name
        if not source.exists():
            checkpoints.make(source, SOURCES[name])
            if name == "qwen2":
                without_bias_of_o_proj(source)
        if CUTS[cut] is None:
            return source
        surgeon.prune(source, root / f"{name}-{cut}", **CUTS[cut], overwrite=True)
        return root / f"{name}-{cut}"

    return folder


def without_bias_of_o_proj(folder):
    tensors = checkpoints.read_weights(folder)
    kept = {name: data for name, data in tensors.items() if not name.endswith("o_proj.bias")}
    checkpoints.write_weights(folder / "model.safetensors", kept)


BEYOND = ("granite", "granite-biases", "mistral-window")
"""What the nemotron-nas dialect, and so --portable, has no words for."""


@pytest.mark.parametrize(
    ("name", "cut"),
    [(name, cut) for name in SOURCES for cut in CUTS if not (name in BEYOND and "portable" in cut)],
)
def test_inspect_says_what_the_sources_say(name, cut, make):
    folder = make(name, cut)
    verdicts = {runtime.name: runtime for runtime in surgeon.inspect(folder).runtimes}
    for contract in CONTRACTS:
        found = problems(contract, folder)
        verdict = verdicts[contract.runtime]
        assert verdict.loads == (not found), (contract.runtime, verdict.note, found)
        assert contract.version[:7] in verdict.basis


def test_the_contracts_notice_a_folder_that_is_not_right(make, tmp_path):
    """A reader that finds nothing wrong with anything would pass every test."""
    for change, words in (
        (lambda c: c["block_configs"].pop(), "all blocks"),
        (lambda c: c["block_configs"][0]["ffn"].update(ffn_mult=None), "ffn_mult"),
        (lambda c: c["block_configs"][1]["ffn"].update(ffn_mult=9.0), "wanted"),
        (lambda c: c["block_configs"][1]["attention"].update(n_heads_in_group=1), "wanted"),
        (lambda c: c["block_configs"][1]["attention"].update(window_length=4), "leaves out"),
        (lambda c: c.pop("rms_norm_eps"), "rms_norm_eps"),
        (lambda c: c.update(tie_word_embeddings=True, vocab_size=8), "wanted"),
    ):
        config = json.loads((make("llama", "attn") / "config.json").read_text())
        change(config)
        (tmp_path / "config.json").write_text(json.dumps(config))
        weights = checkpoints.read_weights(make("llama", "attn"))
        checkpoints.write_weights(tmp_path / "model.safetensors", weights)
        for contract in CONTRACTS:
            assert words in " ".join(problems(contract, tmp_path)), (contract.runtime, words)
