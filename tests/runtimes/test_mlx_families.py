"""Whole-block cuts of every family in MLX-LM, and Qwen2 in the portable form of the dialect."""

import pytest

import surgeon

pytest.importorskip("mlx_lm")
torch = pytest.importorskip("torch")

from mlx_numbers import BOUND, run, verdict  # noqa: E402

pytestmark = [pytest.mark.models, pytest.mark.usefixtures("quiet_torch")]

FAMILIES = {
    "Mistral": {"sliding_window": None},
    "Qwen2": {},
    "Qwen3": {"head_dim": 32},
    "Granite": {"residual_multiplier": 0.3, "logits_scaling": 2.0, "embedding_multiplier": 3.0},
    "SmolLM3": {"pad_token_id": None},
}


@pytest.mark.parametrize("prefix", FAMILIES)
def test_whole_blocks(prefix, family, load, prompt, logprobs, tmp_path):
    surgeon.prune(family(prefix, **FAMILIES[prefix]), tmp_path / "cut", drop="block", layers="1")
    tokens, got = run(tmp_path / "cut", prompt)
    assert (got - logprobs(load(tmp_path / "cut"), prompt, tokens)).abs().max() < BOUND
    assert verdict(tmp_path / "cut").loads


def test_the_portable_form_of_qwen2(family, load, prompt, logprobs, tmp_path):
    surgeon.prune(family("Qwen2"), tmp_path / "cut", layers="1-2", portable=True)
    tokens, got = run(tmp_path / "cut", prompt)
    assert (got - logprobs(load(tmp_path / "cut"), prompt, tokens)).abs().max() < BOUND
    assert verdict(tmp_path / "cut").loads


@pytest.mark.parametrize(
    ("prefix", "settings"), [("Qwen3", {"head_dim": 32}), ("Mistral", {"sliding_window": 8})], ids=str
)
def test_what_it_does_not_know(prefix, settings, family, prompt, tmp_path):
    surgeon.prune(family(prefix, **settings), tmp_path / "cut", layers="1")
    with pytest.raises(ValueError, match="not supported"):
        run(tmp_path / "cut", prompt)
    assert "does not know surgeon-" in verdict(tmp_path / "cut").note
