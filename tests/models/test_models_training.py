"""Training, compilation, and the inner values that a model hands out."""

import pytest
from llamas import CUTS, LAYERS

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.models

MODELS = [
    ("sample", "attn-keep-last"),
    ("gqa", "scattered"),
    ("tied-mha", "half-joined"),
    ("biased", "attn-first"),
    ("biased", "no-attention"),
    ("llama3", "no-mlp"),
]


def gradients(model, ids):
    model.train()
    loss = model(ids, labels=ids, use_cache=False).loss
    loss.backward()
    return loss.detach(), {name: value.grad for name, value in model.named_parameters()}


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize(("name", "key"), MODELS)
def test_gradient_checkpointing(name, key, reentrant, cut, load, ids):
    """Same gradients, and the blocks really run a second time."""
    loss, want = gradients(load(cut(name, key)), ids)
    for parameter, grad in want.items():
        # a bias that shifts all scores of a query alike has no effect but for rounding
        assert grad is not None
        assert grad.any() or parameter.endswith("k_proj.bias")
    model = load(cut(name, key))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    runs = []
    for number, layer in enumerate(model.model.layers):
        norm = layer.post_attention_layernorm if layer.has_mlp else layer.input_layernorm
        norm.register_forward_hook(lambda *_, number=number: runs.append(number))
    again, got = gradients(model, ids)
    assert torch.equal(again, loss)
    assert got.keys() == want.keys()
    for parameter, grad in want.items():
        torch.testing.assert_close(got[parameter], grad, rtol=1e-5, atol=1e-7)
    blocks = range(len(model.model.layers))
    assert sorted(runs) == sorted([*blocks, *blocks])


@pytest.mark.parametrize(("name", "key"), [("gqa", "scattered"), ("biased", "no-attention")])
def test_a_training_step_learns(name, key, cut, load, ids):
    model = load(cut(name, key))
    model.gradient_checkpointing_enable()
    before, _ = gradients(model, ids)
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    model.zero_grad()
    after, _ = gradients(model, ids)
    assert after < before


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize(("name", "key"), [("gqa", "scattered"), ("sample", "no-attention")])
def test_compiled(name, key, backend, cut, load, pruned, ids):
    torch.compiler.reset()
    model = torch.compile(load(cut(name, key)), backend=backend)
    with torch.no_grad():
        got = model(ids, use_cache=False).logits
        want = pruned(name, key)(ids, use_cache=False).logits
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5 * want.abs().max().item())


@pytest.mark.parametrize(("name", "key"), MODELS)
def test_hidden_states_and_attentions(name, key, cut, load, ids):
    """One state before each block and one at the end; attentions of those that have one."""
    model = load(cut(name, key), attn_implementation="eager")
    with torch.no_grad():
        out = model(ids, output_hidden_states=True, output_attentions=True)
        plain = model(ids)
        last = model.model(ids).last_hidden_state
    assert torch.equal(out.logits, plain.logits)
    assert len(out.hidden_states) == model.config.num_hidden_layers + 1
    assert torch.equal(out.hidden_states[0], model.model.embed_tokens(ids))
    assert torch.equal(out.hidden_states[-1], last)
    gone = {layer for layer, kind in CUTS[key](LAYERS[name]).removed if kind == "attn"}
    attentions = out.attentions or ()
    assert len(attentions) == LAYERS[name] - len(gone)
    shape = (ids.shape[0], model.config.num_attention_heads, ids.shape[1], ids.shape[1])
    for weights in attentions:
        assert weights.shape == shape
        torch.testing.assert_close(weights.sum(-1), torch.ones(shape[:3]))


@pytest.mark.parametrize(("name", "key"), MODELS)
def test_a_fresh_model_of_the_config(name, key, cut, pruned):
    """AutoModel from a config alone has the tensors of the file, and no others."""
    config = transformers.AutoConfig.from_pretrained(cut(name, key))
    fresh = transformers.AutoModelForCausalLM.from_config(config)
    shapes = {key: value.shape for key, value in fresh.state_dict().items()}
    assert shapes == {key: value.shape for key, value in pruned(name, key).state_dict().items()}
