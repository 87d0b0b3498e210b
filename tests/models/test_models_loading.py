"""Every way to load a pruned folder gives the same model, and saving it keeps it loadable."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from llamas import PLAIN, read_json

import surgeon

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.models

FOLDERS = [
    ("sample", "attn-keep-last"),
    ("sample", "block"),
    ("gqa", "scattered"),
    ("tied-mha", "mlp"),
    ("biased", "attn-first"),
    ("llama3", "attn"),
    ("linear", "no-attention"),
    ("llama3", "joined"),
    ("biased", "no-mlp"),
]
RESAVED = [("tied-mha", "scattered"), ("llama3", "half-joined")]
CODE = {"configuration_surgeon.py", "modeling_surgeon.py"}


def run(*arguments, cwd, **environment):
    """Python in a process and a folder of its own, with nothing but its site-packages."""
    done = subprocess.run(
        [sys.executable, "-I", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


@pytest.fixture(scope="module")
def resaved(cut, load, tmp_path_factory):
    """Cuts that transformers read and wrote, with surgeon imported."""
    folders = {}
    for name, key in RESAVED:
        folders[name, key] = tmp_path_factory.mktemp("resaved") / "out"
        load(cut(name, key)).save_pretrained(folders[name, key])
    return folders


@pytest.fixture(scope="module")
def stranger(cut, resaved, ids, tmp_path_factory):
    """What one process without surgeon finds in all those folders."""
    room = tmp_path_factory.mktemp("stranger")
    job = {
        "ids": ids.tolist(),
        "folders": {f"{name} {key}": str(cut(name, key)) for name, key in FOLDERS}
        | {f"resaved {name} {key}": str(folder) for (name, key), folder in resaved.items()},
        "resaved": {f"{n} {k}": (str(cut(n, k)), str(room / f"{n}-{k}-again")) for n, k in RESAVED},
    }
    (room / "job.json").write_text(json.dumps(job), encoding="utf-8")
    script = Path(__file__).parent / "without_surgeon.py"
    run(script, room / "job.json", room / "answer.pt", cwd=room, HF_MODULES_CACHE=str(room / "modules"))
    return torch.load(room / "answer.pt"), room


@pytest.mark.parametrize(("name", "key"), FOLDERS)
def test_without_surgeon_by_trust_remote_code(name, key, stranger, pruned, load, cut, ids):
    found = stranger[0][f"{name} {key}"]
    assert torch.equal(found["logits"], logits(pruned(name, key), ids))
    with torch.no_grad():
        base = load(cut(name, key), transformers.AutoModel)
        assert torch.equal(found["hidden"], base(ids).last_hidden_state)
        tokens = pruned(name, key).generate(
            ids[:1], attention_mask=torch.ones_like(ids[:1]), max_new_tokens=8, do_sample=False
        )
    assert torch.equal(found["tokens"], tokens)
    home = "transformers.models.llama." if key in PLAIN else "transformers_modules."
    assert found["module"].startswith(home)
    assert found["config"].startswith(home)


@pytest.mark.parametrize(("name", "key"), FOLDERS)
def test_with_surgeon_by_the_auto_classes(name, key, pruned, cut, load):
    model = pruned(name, key)
    plain = key in PLAIN
    home = "transformers.models.llama." if plain else "surgeon.remote_code."
    assert type(model).__module__.startswith(home)
    config = transformers.AutoConfig.from_pretrained(cut(name, key))
    assert type(config) is type(model.config)
    assert config.model_type == ("llama" if plain else "nemotron-nas")
    base = load(cut(name, key), transformers.AutoModel)
    assert type(base) is type(model.model)


@pytest.mark.parametrize(
    ("name", "key"), [("gqa", "scattered"), ("llama3", "attn"), ("sample", "block")]
)
def test_with_surgeon_and_trust_remote_code(name, key, pruned, cut, load, ids, tmp_path, monkeypatch):
    """transformers 4 then runs the folder's code, 5 that of surgeon; nothing else may change by it."""
    module = transformers.dynamic_module_utils
    monkeypatch.setattr(module, "HF_MODULES_CACHE", str(tmp_path))  # the user's stays as it is
    monkeypatch.syspath_prepend(tmp_path)
    trusted = load(cut(name, key), trust_remote_code=True)
    assert type(trusted).__name__ == type(pruned(name, key)).__name__
    assert torch.equal(logits(trusted, ids), logits(pruned(name, key), ids))
    assert type(load(cut(name, key))) is type(pruned(name, key))


@pytest.mark.parametrize(("name", "key"), FOLDERS)
def test_by_the_classes_themselves(name, key, pruned, cut, load, ids):
    from surgeon.remote_code.modeling_surgeon import DeciLMForCausalLM, DeciLMModel

    if key in PLAIN:
        direct = load(cut(name, key), transformers.LlamaForCausalLM)
    else:
        direct = load(cut(name, key), DeciLMForCausalLM)
        base = load(cut(name, key), DeciLMModel)
        with torch.no_grad():
            hidden = pruned(name, key).model(ids).last_hidden_state
            assert torch.equal(base(ids).last_hidden_state, hidden)
    assert torch.equal(logits(direct, ids), logits(pruned(name, key), ids))


ORDERS = {
    "surgeon-first": "import surgeon; from transformers import AutoModelForCausalLM",
    "transformers-first": "from transformers import AutoModelForCausalLM; import surgeon",
    "lazily": "import transformers; import surgeon; from transformers import AutoModelForCausalLM",
    # modeling_llama imports the Auto classes halfway, when our classes cannot subclass its own yet
    "llama-between": "import surgeon; from transformers import LlamaForCausalLM, AutoModelForCausalLM",
    "classes-first": "from surgeon.remote_code.modeling_surgeon import DeciLMForCausalLM;"
    "from transformers import AutoModelForCausalLM",
    "config-between": "import surgeon; from transformers import AutoConfig;"
    "from transformers import LlamaForCausalLM, AutoModelForCausalLM",
}


@pytest.mark.parametrize("order", ORDERS)
def test_import_order(order, cut, pruned, ids, tmp_path):
    """Without trust_remote_code, whatever comes first."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(surgeon.__file__).parents[1])!r})
{ORDERS[order]}
import torch
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained({str(cut("gqa", "scattered"))!r}, dtype=torch.float32)
assert type(model).__module__ == "surgeon.remote_code.modeling_surgeon", type(model)
with torch.no_grad():
    torch.save(model.eval()(torch.tensor({ids.tolist()})).logits, "logits.pt")
"""
    run("-c", code, cwd=tmp_path)
    assert torch.equal(torch.load(tmp_path / "logits.pt"), logits(pruned("gqa", "scattered"), ids))


def test_importing_surgeon_imports_no_torch(tmp_path):
    """Nor does transformers' import become slower by it: its Auto classes stay lazy."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(surgeon.__file__).parents[1])!r})
import surgeon
assert not {{"torch", "transformers"}} & sys.modules.keys()
import transformers
assert "transformers.models.auto.modeling_auto" not in sys.modules
"""
    run("-c", code, cwd=tmp_path)


def check_saved(folder, original):
    """The config that other readers of the dialect understand, and the code beside it."""
    assert {file.name for file in folder.iterdir()} >= CODE
    saved, config = read_json(folder / "config.json"), read_json(original / "config.json")
    assert "rope_parameters" not in saved
    for key in ("rope_theta", "rope_scaling", "block_configs", "auto_map", "model_type"):
        assert saved[key] == config[key], key
    for key in ("architectures", "num_hidden_layers", "head_dim", "num_key_value_heads"):
        assert saved[key] == config[key], key
    costs, want = surgeon.inspect(folder).costs, surgeon.inspect(original).costs
    assert dataclasses.replace(costs, disk_bytes=0) == dataclasses.replace(want, disk_bytes=0)


@pytest.mark.parametrize(("name", "key"), RESAVED)
def test_saved_and_loaded_again(name, key, resaved, stranger, cut, pruned, load, ids):
    want = logits(pruned(name, key), ids)
    check_saved(resaved[name, key], cut(name, key))
    assert torch.equal(logits(load(resaved[name, key]), ids), want)
    assert torch.equal(stranger[0][f"resaved {name} {key}"]["logits"], want)
    assert stranger[0][f"resaved {name} {key}"]["module"].startswith("transformers_modules.")


@pytest.mark.parametrize(("name", "key"), RESAVED)
def test_saved_without_surgeon_and_loaded_again(name, key, stranger, cut, pruned, load, ids):
    found, room = stranger
    want = logits(pruned(name, key), ids)
    check_saved(room / f"{name}-{key}-again", cut(name, key))
    for code in CODE:
        assert (room / f"{name}-{key}-again" / code).read_text() == (cut(name, key) / code).read_text()
    assert torch.equal(found[f"{name} {key} again"]["logits"], want)
    assert torch.equal(logits(load(room / f"{name}-{key}-again"), ids), want)


@pytest.mark.parametrize(("name", "key"), RESAVED)
def test_what_transformers_saved_can_be_cut_again(name, key, resaved, cut, load, tmp_path, ids):
    for folder, out in ((resaved[name, key], "resaved"), (cut(name, key), "original")):
        surgeon.prune(folder, tmp_path / out, drop="attn", last=1, keep_last=True)
    got, want = (logits(load(tmp_path / out), ids) for out in ("resaved", "original"))
    assert torch.equal(got, want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, "auto", None])
@pytest.mark.parametrize("key", ["attn-keep-last", "mlp", "block"])
def test_dtypes(key, dtype, cut, load, whole, ids):
    """The sample is stored in bfloat16; the cut model of that dtype is near the exact one."""
    model = load(cut("sample", key), **({} if dtype is None else {"dtype": dtype}))
    want = torch.float32 if dtype is None else torch.bfloat16
    assert {value.dtype for value in model.parameters()} == {want}
    assert logits(model, ids).dtype == want
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize(("name", "key"), FOLDERS)
def test_the_tokenizer_without_surgeon(name, key, stranger, source):
    """transformers 5 reads the config as well, and fails if it has scaled rope and is not trusted."""
    want = transformers.AutoTokenizer.from_pretrained(source(name))("Once upon a time, there").input_ids
    words = stranger[0][f"{name} {key}"]["words"]
    assert words[True] == want
    scaled = name in ("llama3", "linear") and key not in PLAIN
    if not scaled or transformers.__version__.startswith("4."):
        assert words[False] == want
