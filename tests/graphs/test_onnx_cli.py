"""``surgeon export onnx``, and ``surgeon generate`` over graphs: words, exit codes, what is left."""

import errno
import json
import shlex
import shutil

import checkpoints
import pytest
from checkpoints import assert_refused
from llama_numbers import SAMPLE, make, ranges

from surgeon.errors import SurgeonError

PROMPT = "Once upon a time"


def has_cuda():
    onnxruntime = pytest.importorskip("onnxruntime")
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def leftovers(folder):
    return [path.name for path in folder.rglob(".*")]


def test_words(cli, plain):
    done = cli("export", "onnx", plain, "--dtype", "fp32")
    assert (done.code, done.err) == (0, "")
    first, wrote, cache, following = done.out.splitlines()
    assert first == "plain: fp32: as asked."
    assert wrote.startswith(f"Wrote {plain}/model.onnx, ")
    assert "no weight copied, in " in wrote
    assert cache == "KV cache: 768 B per token in 3 of 3 blocks (768 B with all)."
    words = shlex.split(following)
    assert words[:5] == ["Next:", "surgeon", "generate", str(plain), PROMPT]
    assert not leftovers(plain)


@pytest.mark.parametrize(("dtype", "size"), [("fp32", 4), ("fp16", 2), ("bf16", 2), ("float16", 2)])
def test_the_cache_is_counted_in_the_dtype_of_the_graph(dtype, size, tmp_path):
    """Which need not be the checkpoint's."""
    from surgeon.onnx.export import export_onnx

    for own in ("F32", "BF16"):
        report = export_onnx(make(tmp_path / own, dtype=own), dtype)
        assert report.kv_bytes_per_token == 3 * 2 * 2 * 16 * size, own


def test_json(cli, plain):
    done = cli("export", "onnx", plain, "--dtype", "fp16", "--int4", "--json", "--last-logits-only")
    assert (done.code, done.err) == (0, "")
    data = json.loads(done.out)
    assert data["check"] is None
    report = data["export"]
    assert (report["dtype"], report["int4"], report["kv_caches"], report["layers"]) == (
        "fp16",
        True,
        3,
        3,
    )
    assert report["graph_bytes"] == (plain / "model.onnx").stat().st_size
    assert report["data_bytes"] == (plain / "model.onnx.data").stat().st_size
    assert report["context_length"] == 128
    assert report["kv_bytes_per_token"] == 3 * 2 * 2 * 16 * 2


def test_auto_on_a_cpu_is_float32(cli, tmp_path):
    if has_cuda():
        pytest.skip("auto takes 16 bits here")
    folder = make(tmp_path / "m", dtype="BF16")
    done = cli("export", "onnx", folder)
    assert "m: fp32: this onnxruntime has no CUDA provider" in done.out
    assert "of converted weights beside it" in done.out


@pytest.mark.parametrize(
    ("own", "want"), [("F32", "F16"), ("F16", "F16"), ("BF16", "BF16"), ("F64", "BF16")]
)
def test_auto_with_cuda(own, want, tmp_path, monkeypatch):
    """By the providers that onnxruntime names; nothing runs."""
    import onnxruntime

    from surgeon.checkpoint.source import open_checkpoint
    from surgeon.onnx.export import choose_dtype

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    checkpoint = open_checkpoint(checkpoints.make(tmp_path / "m", dtype=own))
    assert choose_dtype(checkpoint, "auto")[0] == want
    # torch's names, and onnxruntime's
    assert (
        choose_dtype(checkpoint, "bfloat16") == choose_dtype(checkpoint, "bf16") == ("BF16", "as asked")
    )


@pytest.mark.models
@pytest.mark.parametrize("options", [[], ["--int4"], ["--last-logits-only"]])
def test_check_that_is_passed(cli, plain, options):
    done = cli("export", "onnx", plain, "--dtype", "fp32", "--check", *options)
    assert done.code == 0, done
    assert "Checked on cpu: equal; largest difference " in done.out
    assert "over 24 prompt tokens and 4 cached steps." in done.out
    data = json.loads(
        cli("export", "onnx", plain, "--dtype", "fp32", "--check", "--json", *options).out
    )
    check = data["check"]
    assert check["relative"] < check["bound"]
    if "--int4" not in options:  # which may round activations as well
        assert check["bound"] == 1e-4
    assert (check["prompt_tokens"], check["decode_steps"], check["device"]) == (24, 4, "cpu")


@pytest.mark.models
@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("output", [False, True])
def test_check_that_fails(cli, tmp_path, monkeypatch, as_json, output):
    """A piece of one converted matrix is spoilt after it was written."""
    from surgeon.onnx import check

    folder = make(tmp_path / "m", dtype="BF16")
    out = tmp_path / "out" if output else folder
    right = check.load

    def spoil(model, device, **keywords):
        with open(out / "model.onnx.data", "r+b") as stream:
            stream.seek(ranges(out)["l1.down.weight"][1])
            stream.write(b"\0\0\xa0\x41" * 16)
        return right(model, device, **keywords)

    monkeypatch.setattr(check, "load", spoil)
    options = ["--json"] * as_json + (["-o", out] if output else [])
    done = cli("export", "onnx", folder, "--dtype", "fp32", "--check", *options)
    assert done.code == 1
    assert done.err == ""
    if as_json:
        data = json.loads(done.out)["check"]
        assert data["relative"] > data["bound"]
    else:
        assert "Checked on cpu: DIFFERENT; " in done.out


def test_the_sample_needs_an_output_folder(cli, tmp_path):
    before = checkpoints.digest(SAMPLE)
    assert_refused(cli("export", "onnx", "sample"), "sample: lies inside the package", "-o FOLDER")
    done = cli("export", "onnx", "sample", "--dtype", "fp32", "-o", tmp_path / "out")
    assert done.code == 0
    assert done.out.startswith("sample: fp32: as asked.\n")
    assert f"Next: surgeon generate {tmp_path / 'out'} " in done.out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *(path.name for path in SAMPLE.iterdir()),
        *("model.onnx", "model.onnx.data", "genai_config.json"),
    }
    assert checkpoints.digest(SAMPLE) == before
    assert not leftovers(tmp_path / "out")


def test_a_folder_called_sample_is_a_folder_like_any_other(cli, tmp_path):
    """Only the one inside of the package is refused."""
    folder = make(tmp_path / "sample")
    assert cli("export", "onnx", folder, "--dtype", "fp32").code == 0


def test_refusals(cli, tmp_path):
    quantized = checkpoints.make(tmp_path / "q", gptq=True, head_dim=16)
    assert_refused(
        cli("export", "onnx", quantized), "config.json: quantized weights cannot be exported"
    )
    gelu = make(tmp_path / "g", config={"hidden_act": "gelu"})
    assert_refused(cli("export", "onnx", gelu), "config.json: hidden_act 'gelu' is not known")
    assert_refused(cli("export", "onnx", make(tmp_path / "f"), "-o", gelu / "config.json"), "choose")
    odd = make(tmp_path / "odd")
    (odd / "generation_config.json").write_text('{"top_k": "many"}')
    assert_refused(cli("export", "onnx", odd), "generation_config.json", "no numbers", "many")
    assert_refused(cli("export", "onnx", tmp_path / "none"), "no such folder")
    assert_refused(cli("export", "onnx", tmp_path / "f", "--dtype", "fp8"), "fp8")
    for folder in (quantized, gelu, odd, tmp_path / "f"):
        assert not (folder / "model.onnx").exists()


@pytest.mark.parametrize("head_dim", [4, 8, 24, 40])
def test_heads_that_the_attention_of_onnxruntime_refuses(head_dim, cli, tmp_path):
    """With rotary embedding in it, which onnxruntime says when it runs, not when it loads."""
    folder = checkpoints.make(tmp_path / "m", head_dim=head_dim)
    done = cli("export", "onnx", folder, "--dtype", "fp32")
    assert_refused(done, "multiple of 16", str(head_dim))


def test_onnx_is_not_installed(cli, plain, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    done = cli("export", "onnx", plain, "--dtype", "fp32")
    assert_refused(done, "export onnx needs onnx, which is not installed", "surgeon[onnxruntime]")


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("broken", ["data", "graph", "free"])
@pytest.mark.parametrize("older", ["fp32", "bf16", None])
def test_a_full_disk_leaves_an_older_graph_as_it_was(older, broken, cli, tmp_path, monkeypatch):
    """That is, all of it: a graph and converted weights that belong together."""
    from surgeon.onnx.weights import Store

    folder = make(tmp_path / "m", dtype="F32")
    if older:
        assert cli("export", "onnx", folder, "--dtype", older, "--int4").code == 0
    before = checkpoints.digest(folder)
    if broken == "data":
        monkeypatch.setattr(Store, "write", no_space)
    elif broken == "graph":
        monkeypatch.setattr("pathlib.Path.write_bytes", no_space)
    else:
        usage = shutil.disk_usage(folder)._replace(free=1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    done = cli("export", "onnx", folder, "--dtype", "fp16")
    assert_refused(done, "No space left on device" if broken != "free" else "are free")
    assert checkpoints.digest(folder) == before
    assert not leftovers(folder)


def test_an_interrupted_export_leaves_nothing(cli, plain, monkeypatch):
    from surgeon.onnx.weights import Store

    def interrupt(*_):
        raise KeyboardInterrupt

    before = checkpoints.digest(plain)
    monkeypatch.setattr(Store, "write", interrupt)
    assert cli("export", "onnx", plain, "--dtype", "fp16").code == 130
    assert checkpoints.digest(plain) == before
    assert not leftovers(plain)


def test_a_folder_that_cannot_be_written(cli, plain, monkeypatch):
    import tempfile

    def forbid(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(plain))

    monkeypatch.setattr(tempfile, "TemporaryDirectory", forbid)
    assert_refused(cli("export", "onnx", plain, "--dtype", "fp32"), str(plain), "Permission denied")


@pytest.mark.models
@pytest.mark.parametrize("key", [None, "attn-keep-last", "no-attention", "mlp"])
@pytest.mark.parametrize("prompt", [PROMPT, "🐕 is"])
def test_generate(cli, key, prompt, exported, network):
    """Prompt and text on stdout, those of transformers' greedy generation, whatever runs it."""
    import torch
    from transformers import AutoTokenizer

    folder = exported("sample", key)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    out = network("sample", key).generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=30, do_sample=False, pad_token_id=2
    )
    want = tokenizer.decode(out[0], skip_special_tokens=True) + "\n"
    for runtime in ("onnxruntime", "transformers", "auto"):
        done = cli("generate", folder, prompt, "--runtime", runtime, "--max-new-tokens", 30)
        assert (done.code, done.err) == (0, "")
        assert done.out == want, runtime


@pytest.mark.models
def test_auto_takes_the_graph_only_where_there_is_one(cli, plain, monkeypatch):
    """Without one it is transformers, which the sample alone must not need a graph for."""
    from surgeon.runtime import session

    calls = []
    right = session.load
    monkeypatch.setattr(session, "load", lambda *args: calls.append(args) or right(*args))
    assert cli("generate", plain, "The", "--max-new-tokens", 2).code == 0
    assert not calls
    assert cli("export", "onnx", plain, "--dtype", "fp32").code == 0
    assert cli("generate", plain, "The", "--max-new-tokens", 2).code == 0
    assert len(calls) == 1


def test_generate_refuses(cli, plain):
    assert_refused(cli("generate", plain, "The", "--runtime", "onnxruntime"), "surgeon export onnx")
    assert cli("export", "onnx", plain, "--dtype", "fp32").code == 0
    run = ("generate", plain, "--runtime", "onnxruntime")
    assert_refused(cli(*run, ""), "the prompt is empty")
    assert_refused(cli(*run, "a dog " * 200), "leaves no room in the context of 128")
    assert_refused(cli(*run, "The", "--top-p", "0"), "--top-p")
    if not has_cuda():
        assert_refused(cli(*run, "The", "--device", "cuda"), "no CUDA provider")


def test_sampled_generation_is_repeatable(cli, plain):
    assert cli("export", "onnx", plain, "--dtype", "fp32").code == 0

    def text(seed):
        options = ("--temperature", 1, "--top-p", 0.9, "--seed", seed, "--max-new-tokens", 12)
        return cli("generate", plain, "The", "--runtime", "onnxruntime", *options).out

    assert text(1) == text(1) != text(2)


def test_an_unknown_dtype_of_the_library(plain):
    from surgeon.onnx.export import export_onnx

    with pytest.raises(SurgeonError, match="--dtype 'int8' is not known; use auto, fp32, fp16, bf16"):
        export_onnx(plain, "int8")
