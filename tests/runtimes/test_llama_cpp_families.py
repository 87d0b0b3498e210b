"""Families whose models compute what a Llama does run as one in llama.cpp: a bias more or less."""

import pytest

import surgeon

pytest.importorskip("xllamacpp")
pytest.importorskip("gguf")
torch = pytest.importorskip("torch")

pytestmark = [pytest.mark.models, pytest.mark.usefixtures("quiet_torch")]


@pytest.mark.parametrize(
    ("prefix", "settings"), [("Mistral", {"sliding_window": None}), ("Qwen2", {})], ids=str
)
def test_float32(prefix, settings, family, load, llama_cpp, prompt, logprobs, tmp_path):
    model = family(prefix, **settings)
    surgeon.prune(model, tmp_path / "attn", last=1, keep_last=True)
    for folder, architecture in ((model, "llama"), (tmp_path / "attn", "deci")):
        file = tmp_path / f"{architecture}.gguf"
        assert surgeon.export_gguf(folder, "f32", output=file).architecture == architecture
        (run,) = llama_cpp(file, prompts=[prompt], steps=3)["runs"]
        want = logprobs(load(folder), prompt, run["tokens"])
        assert (torch.tensor(run["logprobs"]) - want).abs().max() < 2e-4
        (verdict,) = (r for r in surgeon.inspect(folder).runtimes if r.name == "llama.cpp")
        assert verdict.loads


@pytest.mark.parametrize(
    ("prefix", "settings", "words"),
    [
        ("Mistral", {"sliding_window": 8}, "sliding windows"),
        ("Qwen3", {"head_dim": 16}, "norms of q and k"),
        ("Granite", {}, "multipliers"),
        ("SmolLM3", {"pad_token_id": None}, "attention without rope"),
    ],
    ids=str,
)
def test_refused(prefix, settings, words, family, tmp_path):
    with pytest.raises(surgeon.SurgeonError, match=f"llama.cpp gets no {words}"):
        surgeon.export_gguf(family(prefix, **settings), output=tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()
