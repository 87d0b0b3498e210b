"""A network run sublayer by sublayer computes what transformers does, and cuts are cuts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_models import FAMILIES, make_model

import surgeon
from surgeon.errors import SurgeonError
from surgeon.plan import Plan, Site, Sublayer

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from surgeon.measure.network import Network  # noqa: E402
from surgeon.measure.virtual import virtual_cut  # noqa: E402

ATTENTION, MLP = Sublayer.ATTENTION, Sublayer.MLP
IDS = torch.randint(3, 128, (2, 20), generator=torch.Generator().manual_seed(1))
CUTS: dict[str, dict[str, Any]] = {
    f"{drop}{'-keep-last' if keep else ''}": {"drop": drop, "last": 2, "keep_last": keep}
    for keep in (False, True)
    for drop in ("attn", "mlp", "block")
}


def run(network: Network, ids: Any, removed: Any = ()) -> Any:
    """Logits of the network without the sublayers ``removed``."""
    state = network.embed(ids)
    for site in network.sites:
        if site not in removed:
            state = network.advance(state, site)
    return network.logits(state)


def skipped(model: Any, removed: set[Site]) -> Any:
    """transformers' own logits with the layers' forward rewritten by hand, for the plainest family."""
    from types import MethodType

    def forward(self: Any, hidden_states: Any, **arguments: Any) -> Any:
        number = [id(layer) for layer in model.model.layers].index(id(self))
        if (number, ATTENTION) not in removed:
            normed = self.input_layernorm(hidden_states)
            hidden_states = hidden_states + self.self_attn(hidden_states=normed, **arguments)[0]
        if (number, MLP) not in removed:
            hidden_states = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states

    for layer in model.model.layers:
        layer.forward = MethodType(forward, layer)
    with torch.no_grad():
        logits = model(IDS, use_cache=False).logits
    for layer in model.model.layers:
        del layer.forward
    return logits


@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_model_is_transformers_bit_for_bit(family: str) -> None:
    model = make_model(family)
    with torch.no_grad():
        expected = model(IDS, use_cache=False).logits
    assert torch.equal(run(Network(model), IDS), expected)
    with torch.no_grad():
        assert torch.equal(model(IDS, use_cache=False).logits, expected), "the model was not left alone"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("removed", [{(0, ATTENTION), (2, MLP), (5, MLP)}, {(3, ATTENTION), (3, MLP)}])
def test_a_virtual_cut_is_the_same_walk(family: str, removed: set[Site]) -> None:
    network = Network(make_model(family))
    whole = run(network, IDS)
    with virtual_cut(network.model, removed) as model, torch.no_grad():
        cut = model(IDS, use_cache=False).logits
    assert torch.equal(run(network, IDS, removed), cut)
    assert not torch.equal(cut, whole)
    assert torch.equal(run(network, IDS), whole)
    if family in ("llama", "mistral"):
        assert torch.equal(cut, skipped(network.model, removed))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "gone", [[0], [0, 3], [1, 2, 4, 5], [0, 2, 3, 5], [0, 1, 3, 4, 5], [0, 1, 2, 3, 4, 5], []]
)
def test_generation_with_a_cache_is_generation_without(family: str, gone: list[int]) -> None:
    """Every kind of hole in the numbers of the caches, in windows shorter than the text."""
    model = make_model(family)
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    mask = torch.ones_like(IDS)
    with virtual_cut(model, {(layer, ATTENTION) for layer in gone}):
        cached = model.generate(IDS, attention_mask=mask, use_cache=True, **options)
        again = model.generate(IDS, attention_mask=mask, use_cache=False, **options)
    assert torch.equal(cached, again)
    config = model.config
    assert getattr(config, "layer_types", None) == getattr(
        make_model(family).config, "layer_types", None
    )
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == list(range(6))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_folder_of_a_cut_walks_like_the_virtual_cut(family: str, tmp_path: Path) -> None:
    """In whatever dialect a family's cut is written; and that folder can be cut virtually in turn."""
    from transformers import AutoModelForCausalLM

    source = make_model(family)
    source.save_pretrained(tmp_path / "source")
    first = {(0, ATTENTION), (2, MLP), (4, ATTENTION), (4, MLP)}
    surgeon.prune(tmp_path / "source", tmp_path / "cut", Plan(6, frozenset(first)))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "cut", dtype=torch.float32)
    cut, whole = Network(model), Network(source)
    with torch.no_grad():
        expected = cut.model(IDS, use_cache=False).logits
    assert torch.equal(run(cut, IDS), expected)
    assert torch.equal(run(whole, IDS, first), expected)
    # block 1 of the source is block 1 of the cut; of blocks 4 and 5, the latter became number 4
    again = {(1, ATTENTION), (4, MLP)}
    with virtual_cut(cut.model, again) as model:
        with torch.no_grad():
            logits = model(IDS, use_cache=False).logits
        mask = torch.ones_like(IDS)
        options = {
            "attention_mask": mask,
            "max_new_tokens": 6,
            "do_sample": False,
            "eos_token_id": None,
        }
        cached = model.generate(IDS, use_cache=True, **options)
        assert torch.equal(cached, model.generate(IDS, use_cache=False, **options))
    assert torch.equal(run(whole, IDS, first | {(1, ATTENTION), (5, MLP)}), logits)


def test_padding_on_the_right_is_not_seen() -> None:
    network = Network(make_model("qwen2"))
    alone = run(network, IDS[:1, :11])
    padded = torch.nn.functional.pad(IDS[:1, :11], (0, 6))
    assert torch.allclose(run(network, torch.cat([padded, IDS[1:, :17]]))[:1, :11], alone, atol=1e-5)


def test_logits_at_some_places_only() -> None:
    network = Network(make_model("granite"))
    state = network.embed(IDS)
    picked = network.logits(state, at=([0, 1, 1], [3, 0, 19]))
    every = network.logits(state)
    assert picked.shape == (3, 128)
    assert torch.allclose(picked, torch.stack([every[0, 3], every[1, 0], every[1, 19]]), atol=1e-6)


@pytest.mark.parametrize("key", CUTS)
def test_virtual_and_physical_cuts_of_the_sample_are_equal(
    key: str, sample_network: Network, tmp_path: Path
) -> None:
    report = surgeon.prune("sample", tmp_path / "out", **CUTS[key])
    cut = Network.load(tmp_path / "out", "cpu")
    with torch.no_grad():
        expected = cut.model(IDS, use_cache=False).logits
    assert torch.equal(run(cut, IDS), expected)
    assert torch.equal(run(sample_network, IDS, report.plan.removed), expected)
    with virtual_cut(sample_network.model, report.plan.removed) as model, torch.no_grad():
        assert torch.equal(model(IDS, use_cache=False).logits, expected)


def test_a_cut_folder_can_be_cut_virtually(sample_network: Network, tmp_path: Path) -> None:
    first = surgeon.prune("sample", tmp_path / "out", drop="attn", last=2).plan
    cut = Network.load(tmp_path / "out", "cpu")
    assert cut.absent == {(10, ATTENTION), (11, ATTENTION)}
    second = Plan(12, frozenset({(9, ATTENTION), (11, MLP)}), cut.absent)
    expected = run(sample_network, IDS, first.removed | second.removed)
    assert torch.equal(run(cut, IDS, second.removed), expected)
    with virtual_cut(cut.model, second.removed) as model, torch.no_grad():
        assert torch.equal(model(IDS, use_cache=False).logits, expected)
    with (
        pytest.raises(SurgeonError, match="no attention in layer 10"),
        virtual_cut(cut.model, [(10, ATTENTION)]),
    ):
        pass


def test_another_layout_is_refused() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    with pytest.raises(SurgeonError, match="Gemma2ForCausalLM: layer 0 has post_feedforward_layernorm"):
        Network(Gemma2ForCausalLM(config))


def test_a_dtype_that_is_not_known(refuse: Callable[..., None]) -> None:
    refuse(lambda: Network.load("sample", dtype="int3"), "--dtype 'int3' is not known")


def test_weights_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: str) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4.00 GiB")

    monkeypatch.setattr("surgeon.runtime.with_transformers.load_model", full)
    with pytest.raises(SurgeonError, match="sample: out of memory with its weights alone"):
        Network.load("sample", "cpu")
