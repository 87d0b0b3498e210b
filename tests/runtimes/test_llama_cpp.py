"""A GGUF file in llama.cpp computes what transformers computes from the folder it was made of.

Bounds, on the log-probabilities of the whole vocabulary: float32 differs by the order of sums alone,
2e-4 at most. In the other dtypes llama.cpp rounds what a matrix is multiplied by as well, to that same
dtype; there the divergence of the two distributions is bounded.
"""

import pytest

pytest.importorskip("xllamacpp")
pytest.importorskip("gguf")
torch = pytest.importorskip("torch")

pytestmark = [pytest.mark.models, pytest.mark.usefixtures("quiet_torch")]

EXACT = 2e-4
DIVERGENCE = {"f16": 1e-3, "bf16": 1e-2, "q8_0": 1e-1}
"""Nats, Kullback-Leibler, of float32 from that dtype; the worst of the positions."""

CUTS = (None, "attn-keep-last", "mlp", "block", "scattered")
ODD = (
    ("gqa", "attn-first"),  # the first block without attention
    ("gqa", "no-mlp"),
    ("tied-mha", "attn-keep-last"),
    ("biased", None),
    ("biased", "scattered"),
    ("llama3", None),
    ("llama3", "attn-keep-last"),
    ("linear", "attn"),
)
STEPS = 4


@pytest.mark.parametrize(
    ("name", "key"),
    [*(("sample", key) for key in CUTS), *(("reference", key) for key in CUTS[:-1]), *ODD],
)
def test_float32(name, key, gguf_file, llama_cpp, network, prompt, logprobs):
    model = network(name, key, True)
    size = model.config.vocab_size
    (run,) = llama_cpp(gguf_file(name, key), size, prompts=[prompt], steps=STEPS)["runs"]
    want = logprobs(model, prompt, run["tokens"])
    assert len(run["tokens"]) == STEPS
    assert (torch.tensor(run["logprobs"]) - want).abs().max() < EXACT
    want[:, :259] = -torch.inf  # the worker never chooses a byte
    assert run["tokens"] == want.argmax(-1).tolist()


@pytest.mark.parametrize("dtype", DIVERGENCE)
@pytest.mark.parametrize("key", CUTS)
def test_other_dtypes(key, dtype, gguf_file, llama_cpp, network, prompt, logprobs):
    (run,) = llama_cpp(gguf_file("sample", key, dtype), prompts=[prompt], steps=STEPS)["runs"]
    want = logprobs(network("sample", key, True), prompt, run["tokens"])
    divergence = (want.exp() * (want - torch.tensor(run["logprobs"]))).sum(-1)
    assert divergence.max() < DIVERGENCE[dtype]
