"""Graphs of every family beside transformers, prompts and windows of unlike lengths."""

import shutil
from functools import cache

import pytest
from family_rows import CUTS, LAYERS, ROWS
from llama_numbers import continuation

import surgeon
from surgeon.errors import SurgeonError

np = pytest.importorskip("numpy")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.models

BOUND = 1e-4
PROMPT, STEPS = 20, 12
WINDOWED = [name for name in ROWS if name.endswith("-window")]


@pytest.fixture(scope="module")
def exported(cut, source, tmp_path_factory):
    """A folder with a graph: a whole model, or a cut of it."""

    @cache
    def make(name, key):
        from surgeon.onnx.export import export_onnx

        out = tmp_path_factory.mktemp("graph") / "out"
        shutil.copytree(cut(name, key) if key else source(name), out)
        export_onnx(out, "fp32")
        return out

    return make


@pytest.fixture(scope="module")
def opened(exported):
    from surgeon.runtime.session import load

    return cache(lambda name, key: load(exported(name, key), "cpu", threads=1))


@pytest.fixture
def network(whole, pruned):
    return lambda name, key: pruned(name, key) if key else whole(name)


@pytest.mark.parametrize("key", [None, "attn", "scattered"])
@pytest.mark.parametrize("name", ROWS)
def test_logits(name, key, opened, network):
    """In a prefill, and one by one from the cache: both beyond the window."""
    import torch

    from surgeon.onnx.check import run_graph

    tokens = np.random.default_rng(7).integers(3, 2048, (2, PROMPT + STEPS))
    with torch.no_grad():
        want = network(name, key)(torch.from_numpy(tokens), use_cache=False).logits.numpy()
    got = run_graph(opened(name, key), tokens, PROMPT)
    assert np.abs(want).max() > 1, "logits near zero would be equal to anything"
    assert np.abs(got - want).max() < BOUND
    gone = sum(kind == "attn" for _, kind in CUTS[key]) if key else 0
    assert len(opened(name, key).caches) == 2 * (LAYERS - gone)


@pytest.mark.parametrize("name", ROWS)
def test_a_batch_of_mixed_lengths(name, opened, network):
    from surgeon.runtime.decoding import generate_ids

    prompts = [list(range(5, 8)), list(range(100, 117)), list(range(1000, 1009))]
    steps = list(generate_ids(opened(name, "scattered"), prompts, 8))
    for row, prompt in enumerate(prompts):
        want = continuation(network(name, "scattered"), prompt, 8, end=-1)
        assert [step[row] for step in steps] == want


@pytest.mark.parametrize("name", ["granite", "qwen3-window"])
def test_the_last_token_alone(name, cut, opened, tmp_path):
    from surgeon.onnx.export import export_onnx
    from surgeon.runtime.decoding import generate_ids
    from surgeon.runtime.session import load

    shutil.copytree(cut(name, "attn"), tmp_path / "out")
    export_onnx(tmp_path / "out", "fp32", last_logits_only=True)
    prompts = [[5, 6, 7], list(range(100, 117))]
    got = list(generate_ids(load(tmp_path / "out", "cpu", threads=1), prompts, 6))
    assert got == list(generate_ids(opened(name, "attn"), prompts, 6))


@pytest.mark.parametrize("name", ["qwen3-window", "granite", "smollm3"])
def test_genai_gives_the_same_tokens(name, exported, network):
    """The cache is whole, the window is the operator's: no setting of genai is needed."""
    genai = pytest.importorskip("onnxruntime_genai")
    prompt = list(range(100, 117))
    model = genai.Model(str(exported(name, "scattered")))
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=len(prompt) + 12, min_length=len(prompt) + 12)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(np.array(prompt, np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    found = [int(token) for token in generator.get_sequence(0)][len(prompt) :]
    assert found == continuation(network(name, "scattered"), prompt, 12, end=-1)


def test_one_product_for_q_k_and_v(exported):
    """Also where norms part them afterwards; the checkpoint's bytes, as they lie."""
    graph = onnx.load(str(exported("qwen3", "attn") / "model.onnx"), load_external_data=False).graph
    products = [node.name for node in graph.node if node.op_type == "FusedMatMul"]
    assert [name for name in products if name.startswith("l0.")] == [
        "l0.qkv",
        "l0.o",
        "l0.gate",
        "l0.up",
        "l0.down",
    ]
    locations = {e.value for t in graph.initializer for e in t.external_data if e.key == "location"}
    assert locations == {"model.safetensors"}


@pytest.mark.parametrize("name", ["mistral", *WINDOWED])
def test_windows_have_a_version_that_older_runtimes_refuse(name, exported, monkeypatch):
    """onnxruntime 1.23 computes windows of another length, and loads versions up to 11."""
    from surgeon.runtime.session import load

    folder = exported(name, "scattered")
    model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    windows = {
        attribute.i
        for node in model.graph.node
        for attribute in node.attribute
        if attribute.name == "local_window_size"
    }
    assert windows == ({7} if name in WINDOWED else set())
    assert model.ir_version == (12 if windows else 10)
    monkeypatch.setattr(ort, "__version__", "1.23.2")
    if windows:
        with pytest.raises(SurgeonError, match=r"sliding windows.*onnxruntime>=1\.24"):
            load(folder, "cpu")
    else:
        load(folder, "cpu", threads=1)


def test_int4_of_a_family(cut, tmp_path):
    from surgeon.onnx.check import check_onnx
    from surgeon.onnx.export import export_onnx

    shutil.copytree(cut("qwen3", "attn"), tmp_path / "out")
    export_onnx(tmp_path / "out", "fp32", int4=True)
    assert check_onnx(tmp_path / "out", "cpu").ok


def test_the_command_checks_and_generates(cut, cli, tmp_path):
    shutil.copytree(cut("smollm3-window", "scattered"), tmp_path / "out")
    done = cli("export", "onnx", tmp_path / "out", "--dtype", "fp32", "--check")
    assert (done.code, "equal" in done.out) == (0, True), done
    texts = [
        cli("generate", tmp_path / "out", "Once", "--max-new-tokens", 12, "--runtime", runtime).out
        for runtime in ("onnxruntime", "transformers")
    ]
    assert texts[0] == texts[1]
    assert texts[0].startswith("Once")


def test_prune_exports_at_once(source, tmp_path):
    report = surgeon.prune(source("qwen2"), tmp_path / "out", layers="1", onnx=True)
    assert report.onnx is not None
    assert report.dialect == "surgeon-qwen2"
