"""Families whose models compute what a Llama does run as one in llama.cpp: a bias more or less."""

import shutil
from pathlib import Path

import pytest

import surgeon

pytest.importorskip("xllamacpp")
pytest.importorskip("gguf")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.models, pytest.mark.usefixtures("quiet_torch")]

SHAPE = {
    "vocab_size": 2048,
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rope_theta": 50000.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """The folder of a random model of a family, with the sample's tokenizer."""

    def make(prefix, **settings):
        torch.manual_seed(3)
        config = getattr(transformers, f"{prefix}Config")(**SHAPE, **settings)
        model = getattr(transformers, f"{prefix}ForCausalLM")(config)
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.copy_((1 if "norm" in name else 0) + 0.2 * torch.randn_like(value))
        folder = tmp_path_factory.mktemp(prefix) / "model"
        model.save_pretrained(folder)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(Path(surgeon.__file__).parent / "sample" / file, folder)
        return folder

    return make


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
