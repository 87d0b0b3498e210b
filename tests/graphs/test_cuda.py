"""Graphs of 16 bits on CUDA: as near to float32 as transformers is in the same dtype."""

import half_precision
import llama_numbers
import pytest
from llama_numbers import SMALL, rows

pytestmark = half_precision.marks()

DTYPES = ("fp16", "bf16")
CUTS = {
    "whole": {},
    "attn": {"drop": "attn", "last": 1},
    "mlp": {"drop": "mlp", "layers": "0"},
    "no-attention": {"drop": "attn", "last": 3},
}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Folders by name: copies of the sample, and cuts of a random model with heads of 64."""
    import shutil

    import surgeon

    root = tmp_path_factory.mktemp("cuda")
    shutil.copytree(llama_numbers.SAMPLE, root / "trained")
    config = {"max_position_embeddings": 256}
    llama_numbers.make(root / "whole", SMALL, heads=4, head_dim=64, hidden=256, mlp=320, config=config)
    for name, arguments in CUTS.items():
        if arguments:
            surgeon.prune(root / "whole", root / name, **arguments)
    return lambda name: root / name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["trained", *CUTS])
def test_logits(name, dtype, made):
    for mine, theirs in half_precision.errors(made(name), dtype):
        assert mine <= 1.5 * theirs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", ["trained", *CUTS])
def test_a_captured_graph_gives_the_same_tokens(name, last, dtype, made):
    from surgeon.onnx.export import export_onnx
    from surgeon.runtime.decoding import generate_ids
    from surgeon.runtime.session import load

    folder = made(name)
    export_onnx(folder, dtype, last_logits_only=last)
    prompts = [[1, 400, 401], [1, 5, 77, 78, 1500, 12, 13], [7]]
    captured = load(folder, "cuda", cuda_graph=True)
    assert captured.cuda_graph
    plain = rows(list(generate_ids(load(folder, "cuda"), prompts, 24)))
    assert rows(list(generate_ids(captured, prompts, 24))) == plain
    # a second batch in the same session has other buffers, so it needs a capture of its own
    assert rows(list(generate_ids(captured, prompts[::-1], 24))) == plain[::-1]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_each_session_in_a_stream_of_its_own(cuda_graph, last, made, monkeypatch):
    """As where the CUDA runtime is not found: then no step is begun before the one before is read."""
    from surgeon.onnx.export import export_onnx
    from surgeon.runtime import cuda
    from surgeon.runtime.decoding import generate_ids
    from surgeon.runtime.sampler import Sampling
    from surgeon.runtime.session import load

    export_onnx(made("trained"), "fp16", last_logits_only=last)
    ours = load(made("trained"), "cuda", cuda_graph)
    assert ours.stream
    monkeypatch.setattr(cuda, "open_stream", lambda version: None)
    theirs = load(made("trained"), "cuda", cuda_graph)
    assert theirs.stream is None
    prompts = [[1, 400, 401], [1, 5, 77, 78, 1500, 12, 13], [7]]
    for options in ({}, {"sampling": Sampling(temperature=0.8, top_p=0.9, seed=1)}):
        tokens, want = (
            rows(list(generate_ids(loaded, prompts, 200, **options))) for loaded in (ours, theirs)
        )
        assert tokens == want
    broken_off = generate_ids(ours, prompts, 200)
    next(broken_off), next(broken_off)
    broken_off.close()
    assert rows(list(generate_ids(ours, prompts, 200, **options))) == want


def test_int4(made):
    from surgeon.onnx.check import check_onnx
    from surgeon.onnx.export import export_onnx

    export_onnx(made("trained"), "bf16", int4=True)
    assert check_onnx(made("trained"), "cuda").ok
