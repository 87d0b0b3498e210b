"""Stock onnxruntime-genai runs the folders: its words in genai_config.json, and its tokens."""

import json

import pytest
from llama_numbers import SMALL, continuation, make

np = pytest.importorskip("numpy")

NEW = 20
PROMPT = [1, 400, 401, 402, 12]


def by_genai(folder, prompt, count, **options):
    """Ids in, ids out: its own tokenizer adds no beginning-of-text."""
    genai = pytest.importorskip("onnxruntime_genai")
    model = genai.Model(str(folder))
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=len(prompt) + count, do_sample=False, **options)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(np.array(prompt, np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)][len(prompt) :]


@pytest.mark.models
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("sample", None),
        ("sample", "attn-keep-last"),
        ("sample", "attn-first"),
        ("sample", "mlp"),
        ("sample", "block"),
        ("gqa", "scattered"),
        ("biased", "half-joined"),
        ("llama3", None),
    ],
)
def test_the_same_tokens(name, key, last, exported, opened, network):
    from surgeon.runtime.decoding import generate_ids

    want = continuation(network(name, key), PROMPT, NEW)
    steps = generate_ids(opened(name, key, last_logits_only=last), [PROMPT], NEW, stop=[2])
    assert [step[0] for step in steps] == want
    assert by_genai(exported(name, key, last_logits_only=last), PROMPT, NEW) == want


@pytest.mark.models
def test_the_same_tokens_with_int4(exported, opened):
    from surgeon.runtime.decoding import generate_ids

    want = [step[0] for step in generate_ids(opened("sample", int4=True), [PROMPT], NEW, stop=[2])]
    assert by_genai(exported("sample", int4=True), PROMPT, NEW) == want


@pytest.mark.models
def test_the_same_tokens_of_a_folder_of_its_own(tmp_path, network):
    """That -o made of the sample."""
    from surgeon.onnx.export import export_onnx

    export_onnx("sample", "fp32", output=tmp_path / "out")
    assert by_genai(tmp_path / "out", PROMPT, NEW) == continuation(network("sample"), PROMPT, NEW)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_genai_config(dtype, tmp_path):
    from surgeon.onnx.export import export_onnx

    folder = make(tmp_path / "m", SMALL, config={"max_position_embeddings": 8192})
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [2, 5], "temperature": 0.6, "top_p": 0.9, "do_sample": True})
    )
    export_onnx(folder, dtype)
    data = json.loads((folder / "genai_config.json").read_text())
    model, decoder = data["model"], data["model"]["decoder"]
    assert model["type"] == "llama"
    assert (model["bos_token_id"], model["eos_token_id"], model["pad_token_id"]) == (1, [2, 5], 2)
    assert (model["context_length"], model["vocab_size"]) == (8192, 2048)
    assert decoder["filename"] == "model.onnx"
    assert (decoder["num_hidden_layers"], decoder["num_key_value_heads"]) == (3, 2)
    assert (decoder["num_attention_heads"], decoder["head_size"], decoder["hidden_size"]) == (6, 16, 48)
    providers = [list(entry) for entry in decoder["session_options"]["provider_options"]]
    assert providers == ([["cuda"]] if dtype == "fp16" else [])
    assert data["search"]["max_length"] == 4096, "it allocates the cache for all of it"
    assert (data["search"]["temperature"], data["search"]["top_p"]) == (0.6, 0.9)
    assert data["search"]["do_sample"] is True


@pytest.mark.models
@pytest.mark.parametrize("key", ["attn-keep-last", "scattered", "one-attention"])
def test_layers_are_counted_by_their_caches(key, exported, opened):
    data = json.loads((exported("gqa", key) / "genai_config.json").read_text())
    decoder = data["model"]["decoder"]
    inputs = {i.name for i in opened("gqa", key).session.get_inputs()}
    outputs = {o.name for o in opened("gqa", key).session.get_outputs()}
    assert decoder["num_hidden_layers"] == len(opened("gqa", key).caches) // 2 > 0
    for number in range(decoder["num_hidden_layers"]):
        for kind in ("key", "value"):
            assert decoder["inputs"][f"past_{kind}_names"] % number in inputs
            assert decoder["outputs"][f"present_{kind}_names"] % number in outputs


@pytest.mark.parametrize("end", [None, [], 7, [7, 9]])
def test_end_tokens_of_all_shapes_load(end, tmp_path):
    from surgeon.onnx.export import export_onnx

    folder = make(tmp_path / "m")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    export_onnx(folder, "fp32")
    assert by_genai(folder, PROMPT, 2)
