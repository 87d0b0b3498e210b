"""A cut model computes what its source computes with the same sublayers skipped."""

import pytest
from llamas import ATTENTION, CUTS, LAYERS, MLP, PLAIN, SOURCES, virtual_cut

import surgeon

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.models


def expected(model, name, key, ids):
    with virtual_cut(model, CUTS[key](LAYERS[name]).removed), torch.no_grad():
        return model(ids, use_cache=False).logits


def logits(model, ids, **options):
    with torch.no_grad():
        return model(ids, **options).logits


@pytest.mark.parametrize("key", CUTS)
@pytest.mark.parametrize("name", ["sample", *SOURCES])
def test_bit_for_bit(name, key, whole, pruned, ids):
    """With the cache as well: in a prefill it only stores."""
    model = pruned(name, key)
    want = expected(whole(name), name, key, ids)
    assert torch.equal(logits(model, ids, use_cache=False), want)
    assert torch.equal(logits(model, ids), want)
    assert not torch.allclose(want, logits(whole(name), ids))
    kind = "LlamaForCausalLM" if key in PLAIN else "DeciLMForCausalLM"
    assert type(model).__name__ == kind


@pytest.mark.parametrize(
    "key", ["attn-keep-last", "mlp", "block-keep-last", "scattered", "joined", "no-attention"]
)
def test_bit_for_bit_of_the_reference(key, whole, pruned, ids):
    model = pruned("reference", key)
    assert torch.equal(logits(model, ids), expected(whole("reference"), "reference", key, ids))


@pytest.mark.parametrize("name", ["gqa", "biased"])
def test_the_virtual_cut_skips_nothing_when_nothing_is_removed(name, whole, ids):
    with virtual_cut(whole(name), frozenset()):
        same = logits(whole(name), ids)
    assert torch.equal(same, logits(whole(name), ids))


@pytest.mark.parametrize("key", ["attn-keep-last", "scattered"])
@pytest.mark.parametrize("name", ["gqa", "biased"])
def test_bit_for_bit_with_eager_attention_and_padding(name, key, source, cut, load, ids):
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    options = {"attn_implementation": "eager"}
    model = load(source(name), transformers.LlamaForCausalLM, **options)
    with virtual_cut(model, CUTS[key](LAYERS[name]).removed):
        want = logits(model, ids, attention_mask=mask, use_cache=False)
    assert torch.equal(logits(load(cut(name, key), **options), ids, attention_mask=mask), want)


@pytest.mark.parametrize("key", ["attn-first", "mlp-keep-last", "no-mlp", "scattered", "one-mlp"])
@pytest.mark.parametrize("name", ["sample", *SOURCES])
def test_portable(name, key, cut, load, pruned, ids):
    """Zero columns change the order in which down_proj sums, so float64 says that nothing else does."""
    model, bare = pruned(name, key, portable=True), pruned(name, key)
    if SOURCES.get(name, {}).get("intermediate_size", 256) == 256:  # a stub alone adds exact zeros
        assert torch.equal(logits(model, ids), logits(bare, ids))
    got, want = (
        logits(load(cut(name, key, portable), dtype=torch.float64), ids) for portable in (True, False)
    )
    assert (got - want).abs().max() < 1e-12 * want.abs().max()
    assert (logits(model, ids) - want).abs().max() < 1e-5 * want.abs().max()
    gone = {layer for layer, kind in CUTS[key](LAYERS[name]).removed if kind is MLP}
    own = SOURCES.get(name, {}).get("intermediate_size", 256)
    if key in ("no-mlp", "mlp-keep-last"):  # here blocks keep their numbers
        for number, layer in enumerate(model.model.layers):
            width = 256 if number in gone else -(-own // 256) * 256
            assert layer.mlp.gate_proj.out_features == layer.mlp.down_proj.in_features == width
    assert all(layer.mlp.gate_proj.out_features % 256 == 0 for layer in model.model.layers)


def test_a_portable_stub_is_all_zeros_and_has_biases_where_the_others_have(pruned):
    model = pruned("biased", "no-mlp", portable=True)
    for layer in model.model.layers:
        for matrix in (layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj):
            assert not matrix.weight.any()
            assert not matrix.bias.any()


TWICE = {
    # the first cut, the second in the numbers of its outcome, the second in those of the source
    "same-numbers": ("attn-keep-last", {(5, MLP), (0, MLP)}, {(5, MLP), (0, MLP)}),
    "of-joined": ("joined", {(1, ATTENTION), (2, MLP)}, {(1, ATTENTION), (3, MLP)}),
    "of-plain": ("block-first", {(0, MLP), (2, ATTENTION)}, {(1, MLP), (4, ATTENTION)}),
    "to-plain": ("mlp-first", {(0, ATTENTION), (4, ATTENTION)}, {(0, ATTENTION), (4, ATTENTION)}),
    "to-joined": ("scattered", {(0, MLP), (2, ATTENTION)}, {(0, MLP), (3, ATTENTION)}),
}


@pytest.mark.parametrize("name", ["gqa", "biased", "llama3"])
@pytest.mark.parametrize("twice", TWICE)
def test_a_cut_of_a_cut_is_the_one_cut(twice, name, source, cut, load, tmp_path):
    key, then, of_source = TWICE[twice]
    blocks = load(cut(name, key)).config.num_hidden_layers
    surgeon.prune(cut(name, key), tmp_path / "two", surgeon.Plan(blocks, frozenset(then)))
    removed = CUTS[key](LAYERS[name]).removed | of_source
    surgeon.prune(source(name), tmp_path / "one", surgeon.Plan(LAYERS[name], removed))
    one, two = load(tmp_path / "one"), load(tmp_path / "two")
    assert type(one) is type(two)
    assert one.config.to_dict() | {"_name_or_path": ""} == two.config.to_dict() | {"_name_or_path": ""}
    weights = two.state_dict()
    assert weights.keys() == one.state_dict().keys()
    assert all(torch.equal(value, weights[key]) for key, value in one.state_dict().items())


@pytest.mark.parametrize("name", ["gqa", "biased"])
def test_a_portable_cut_can_be_cut_again(name, cut, load, tmp_path, ids):
    """Stubs are ordinary MLPs, and so they can go."""
    surgeon.prune(cut(name, "mlp-first", portable=True), tmp_path / "two", drop="mlp", layers="0,4")
    got, want = (
        logits(load(folder, dtype=torch.float64), ids)
        for folder in (tmp_path / "two", cut(name, "mlp-first"))
    )
    assert (got - want).abs().max() < 1e-12 * want.abs().max()
