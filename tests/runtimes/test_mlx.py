"""MLX-LM computes what transformers computes from the same folder, or its own loading stops.

Bound, on the log-probabilities of the whole vocabulary in float32: 2e-4, for the order of sums.
"""

import json
import shutil

import pytest

import surgeon

pytest.importorskip("mlx_lm")
torch = pytest.importorskip("torch")

from mlx_numbers import BOUND, run, verdict  # noqa: E402

pytestmark = [pytest.mark.models, pytest.mark.usefixtures("quiet_torch")]

CUTS = (None, "attn-keep-last", "mlp", "block", "scattered")
ODD = (
    ("gqa", "attn-first"),
    ("gqa", "no-mlp"),
    ("tied-mha", "block-keep-last"),
    ("biased", None),
    ("llama3", "block"),
    ("linear", "attn"),
)


@pytest.mark.parametrize(
    ("name", "key"),
    [*(("sample", key) for key in CUTS), *(("reference", key) for key in CUTS[:-1]), *ODD],
)
def test_float32(name, key, folder, network, prompt, logprobs):
    tokens, got = run(folder(name, key), prompt)
    want = logprobs(network(name, key), prompt, tokens)
    assert (got - want).abs().max() < BOUND
    assert tokens == want.argmax(-1).tolist()
    assert verdict(folder(name, key)).loads


@pytest.mark.parametrize("key", ["mlp", "scattered"])
def test_portable_widths(key, folder, network, prompt, logprobs):
    """An MLP width of 136 alone is another number for it; padded it is the same."""
    with pytest.raises(ValueError, match=r"parameters|shape"):
        run(folder("tied-mha", key), prompt)
    assert "136" in verdict(folder("tied-mha", key)).note
    tokens, got = run(folder("tied-mha", key, True), prompt)
    assert (got - logprobs(network("tied-mha", key, True), prompt, tokens)).abs().max() < BOUND


@pytest.mark.parametrize(("name", "key"), [("llama3", "attn"), ("gqa", "no-attention")])
def test_what_it_does_not_load(name, key, folder, prompt):
    with pytest.raises((ValueError, IndexError)):
        run(folder(name, key), prompt)
    assert not verdict(folder(name, key)).loads


def test_a_config_of_transformers_5_alone(folder, network, prompt, logprobs, tmp_path):
    """It takes its own rope base without a word, so inspect has to say it; a cut has both ways."""
    model = tmp_path / "model"
    shutil.copytree(folder("gqa"), model)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    assert config["rope_parameters"]["rope_theta"] == 50000.0
    assert "rope_theta" not in config
    tokens, got = run(model, prompt)
    assert (got - logprobs(network("gqa"), prompt, tokens)).abs().max() > 0.01
    assert "rope base 10000" in verdict(model).note
    surgeon.prune(model, tmp_path / "cut", drop="block", last=1)
    assert verdict(tmp_path / "cut").loads
