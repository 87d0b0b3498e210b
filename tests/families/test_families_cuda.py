"""Graphs of every family in 16 bits on CUDA: no worse than transformers, captured or not."""

import shutil

import half_precision
import pytest
from family_rows import ROWS
from llama_numbers import rows

pytestmark = half_precision.marks()


@pytest.fixture
def copied(source, cut, tmp_path):
    """A folder of one's own: a whole model, or a cut of it."""

    def make(name, key):
        shutil.copytree(cut(name, key) if key else source(name), tmp_path / "out")
        return tmp_path / "out"

    return make


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("key", [None, "scattered"])
@pytest.mark.parametrize("name", ROWS)
def test_logits(name, key, dtype, copied):
    for mine, theirs in half_precision.errors(copied(name, key), dtype):
        assert mine <= 1.5 * theirs


@pytest.mark.parametrize("name", ROWS)
def test_a_captured_graph_gives_the_same_tokens(name, copied):
    from surgeon.onnx.export import export_onnx
    from surgeon.runtime.decoding import generate_ids
    from surgeon.runtime.session import load

    folder = copied(name, "scattered")
    export_onnx(folder, "bf16", last_logits_only=True)
    # longer and shorter than the windows
    prompts = [[5, 400, 401], list(range(100, 117)), [7]]
    plain = rows(list(generate_ids(load(folder, "cuda"), prompts, 16)))
    captured = load(folder, "cuda", cuda_graph=True)
    assert rows(list(generate_ids(captured, prompts, 16))) == plain
