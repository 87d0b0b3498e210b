"""Cuts of every family in transformers: equal to the whole model with the same sublayers skipped."""

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from family_rows import CUTS, LAYERS, PLAIN, ROWS
from llamas import virtual_cut

import surgeon

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.models

MODELS = Path(__file__).parents[1] / "models"


def logits(model, ids, **options):
    with torch.no_grad():
        return model(ids, **options).logits


def left_padded(ids):
    mask = torch.ones_like(ids)
    mask[0, :9] = 0
    return mask


@pytest.mark.parametrize("key", CUTS)
@pytest.mark.parametrize("name", ROWS)
def test_bit_for_bit(name, key, whole, pruned, ids):
    model, row = pruned(name, key), ROWS[name]
    with virtual_cut(whole(name), CUTS[key]):
        want = logits(whole(name), ids, use_cache=False)
        padded = logits(whole(name), ids, attention_mask=left_padded(ids), use_cache=False)
    assert torch.equal(logits(model, ids, use_cache=False), want)
    assert torch.equal(logits(model, ids), want)  # in a prefill the cache only stores
    assert torch.equal(logits(model, ids, attention_mask=left_padded(ids))[0, 9:], padded[0, 9:])
    assert not torch.allclose(want, logits(whole(name), ids))
    plain = key in PLAIN
    assert model.config.model_type == (row.model_type if plain else row.dialect)
    home = f"transformers.models.{row.model_type}." if plain else "surgeon.remote_code."
    assert type(model).__module__.startswith(home)


@pytest.mark.parametrize("name", ROWS)
def test_generation_from_the_cache(name, whole, pruned, ids):
    """Two rows, one of them padded on the left; the cache grows beyond the window."""
    model, mask, new = pruned(name, "scattered"), left_padded(ids), 6
    options = {"max_new_tokens": new, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    tokens = model.generate(ids, attention_mask=mask, **options)
    mask = torch.cat([mask, mask.new_ones(2, new)], dim=1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with virtual_cut(whole(name), CUTS["scattered"]):
        want = logits(whole(name), tokens, attention_mask=mask, position_ids=positions, use_cache=False)
    assert torch.equal(tokens[:, 24:], want[:, 23:-1].argmax(-1))
    static = {"cache_implementation": "static", "disable_compile": True}
    assert torch.equal(model.generate(ids, attention_mask=mask[:, :24], **options, **static), tokens)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # transformers 5 has another name for it
def test_gradients_reach_every_weight(cut, load, ids):
    model = load(cut("granite", "scattered")).train()
    model.gradient_checkpointing_enable()
    model(ids, labels=ids, use_cache=False).loss.backward()
    assert all(value.grad is not None and value.grad.any() for value in model.parameters())


def test_hidden_states_and_attentions(pruned, ids):
    """One more than there are blocks, and one for each attention."""
    model = pruned("granite", "scattered")
    model.set_attn_implementation("eager")
    out = model(ids, output_hidden_states=True, output_attentions=True)
    assert len(out.hidden_states) == model.config.num_hidden_layers + 1
    assert sum(weights is not None for weights in out.attentions) == 3
    model.set_attn_implementation("sdpa")


def test_compiled_copied_and_pickled(pruned, ids):
    """The classes are made on demand, and found again by their names."""
    model = pruned("qwen3-window", "scattered")
    want = logits(model, ids)
    assert torch.equal(logits(copy.deepcopy(model), ids), want)
    assert torch.equal(logits(pickle.loads(pickle.dumps(model)), ids), want)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(logits(compiled, ids, use_cache=False), want)


@pytest.fixture(scope="module")
def stranger(cut, pruned, ids, tmp_path_factory):
    """What one process without surgeon finds in a cut of every row, and in what it saves of it."""
    room = tmp_path_factory.mktemp("stranger")
    job = {"ids": ids.tolist(), "folders": {}, "resaved": {}}
    for name, row in ROWS.items():
        again = tmp_path_factory.mktemp("resaved") / "out"
        pruned(name, "scattered").save_pretrained(again)
        job["folders"][name] = str(again)
        if row.dialect != "nemotron-nas":
            job["resaved"][f"{name} resaved"] = (str(cut(name, "scattered")), str(room / name))
    (room / "job.json").write_text(json.dumps(job), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-I", MODELS / "without_surgeon.py", room / "job.json", room / "answer.pt"],
        cwd=room,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(room / "modules")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return torch.load(room / "answer.pt")


@pytest.mark.parametrize("name", ROWS)
def test_without_surgeon_by_trust_remote_code(name, stranger, pruned, ids):
    """Also folders that transformers has saved, once with surgeon and once without."""
    want = logits(pruned(name, "scattered"), ids)
    own = ROWS[name].dialect != "nemotron-nas"
    for key in (name, f"{name} resaved", f"{name} resaved again") if own else (name,):
        assert torch.equal(stranger[key]["logits"], want)
        assert stranger[key]["module"].startswith("transformers_modules.")


# of qwen2 transformers 5 takes Qwen2Tokenizer, even for the sample's tokenizer, which is another
@pytest.mark.parametrize("name", ["mistral-window", "qwen3", "granite", "smollm3"])
def test_the_tokenizer_without_surgeon(name, stranger, source):
    words = stranger[f"{name} resaved"]["words"]  # of the folder that surgeon wrote
    tokenizer = transformers.AutoTokenizer.from_pretrained(source(name))
    assert words[True] == words[False] == tokenizer("Once upon a time, there").input_ids


@pytest.mark.parametrize("name", ROWS)
def test_a_cut_of_a_cut_is_the_one_cut(name, cut, source, load, tmp_path):
    """Block 0 of "scattered" is MLP 0, block 1 attention 1 with MLP 2, block 2 is layer 3."""
    then = {(1, "mlp"), (2, "attn")}
    surgeon.prune(cut(name, "scattered"), tmp_path / "two", surgeon.Plan(5, frozenset(then)))
    removed = CUTS["scattered"] | {(2, "mlp"), (3, "attn")}
    surgeon.prune(source(name), tmp_path / "one", surgeon.Plan(LAYERS, removed))
    one, two = (json.loads((tmp_path / n / "config.json").read_text()) for n in ("one", "two"))
    assert one == two
    load(tmp_path / "one")
    weights = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("one", "two")]
    assert weights[0].endswith(weights[1][-100_000:])
    assert surgeon.verify(tmp_path / "two", cut(name, "scattered")).ok


@pytest.mark.parametrize(
    ("name", "dialect"),
    [
        ("mistral-window", "nemotron-nas"),  # it has words for MLPs
        ("smollm3-window", "nemotron-nas"),
        ("qwen3-window", "surgeon-qwen3"),
    ],
)
def test_the_last_attention_may_go(name, dialect, load, source, tmp_path, ids):
    """No cache at all; and a window that nothing has any more."""
    removed = frozenset((layer, "attn") for layer in range(LAYERS))
    surgeon.prune(source(name), tmp_path / "out", surgeon.Plan(LAYERS, removed))
    model = load(tmp_path / "out")
    assert model.config.model_type == dialect
    with virtual_cut(load(source(name)), removed) as virtual:
        assert torch.equal(logits(model, ids), logits(virtual, ids, use_cache=False))
