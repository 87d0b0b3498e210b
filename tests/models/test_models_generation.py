"""Generation: caches, beams, padding and streamed text."""

import pytest
from llamas import CUTS, LAYERS, virtual_cut

from surgeon.detokenize import Detokenizer
from surgeon.generation import generate

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.models

MODELS = [
    ("sample", "attn-keep-last"),
    ("sample", "attn-first"),  # block 0 has no attention, yet caches look at slot 0
    ("sample", "no-attention"),
    ("sample", "no-mlp"),
    ("gqa", "scattered"),
    ("gqa", "half-joined"),
    ("gqa", "one-mlp"),
    ("tied-mha", "one-attention"),
    ("tied-mha", "all-joined"),
    ("biased", "attn-first"),
    ("llama3", "attn"),
    ("linear", "block-first"),
]
NEW = 12


def continuation(model, ids, mask=None, **options):
    """The new tokens; never ended early, so that all of them are compared."""
    options = {"do_sample": False, "min_new_tokens": NEW, "max_new_tokens": NEW, **options}
    mask = torch.ones_like(ids) if mask is None else mask
    out = model.generate(ids, attention_mask=mask, pad_token_id=2, **options)
    return out[:, ids.shape[1] :]


def virtual_continuation(whole, name, key, ids, **options):
    with virtual_cut(whole(name), CUTS[key](LAYERS[name]).removed) as model:
        return continuation(model, ids, use_cache=False, **options)


@pytest.mark.parametrize(("name", "key"), MODELS)
@pytest.mark.parametrize("beams", [1, 3])
def test_generates_what_the_virtual_cut_does(beams, name, key, pruned, whole, ids):
    want = virtual_continuation(whole, name, key, ids, num_beams=beams)
    model = pruned(name, key)
    assert torch.equal(continuation(model, ids, num_beams=beams, use_cache=False), want)
    assert torch.equal(continuation(model, ids, num_beams=beams), want)


@pytest.mark.parametrize(("name", "key"), MODELS)
def test_with_a_static_cache(name, key, pruned, ids):
    model = pruned(name, key)
    want = continuation(model, ids)
    assert torch.equal(continuation(model, ids, cache_implementation="static"), want)
    cache = transformers.StaticCache(config=model.config, max_cache_len=ids.shape[1] + NEW)
    assert torch.equal(continuation(model, ids, past_key_values=cache), want)


@pytest.mark.parametrize(("name", "key"), MODELS)
@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_logits_step_by_step(kind, name, key, pruned, ids):
    """Prefill, then one token at a time, against one pass over all; positions come from the cache."""
    model = pruned(name, key)
    cache = (
        transformers.DynamicCache(config=model.config)
        if kind == "dynamic"
        else transformers.StaticCache(config=model.config, max_cache_len=32)
    )
    with torch.no_grad():
        want = model(ids, use_cache=False).logits
        got = [model(ids[:, :10], past_key_values=cache).logits]
        for step in range(10, ids.shape[1]):
            got.append(model(ids[:, step : step + 1], past_key_values=cache).logits)
    torch.testing.assert_close(torch.cat(got, 1), want, rtol=1e-5, atol=1e-5 * want.abs().max().item())
    has_attention = any(getattr(layer, "has_attention", True) for layer in model.model.layers)
    assert int(cache.get_seq_length()) == (ids.shape[1] if has_attention else 0)


@pytest.mark.parametrize(("name", "key"), MODELS)
def test_the_cache_has_no_more_entries_than_attentions(name, key, pruned, ids):
    model = pruned(name, key)
    with torch.no_grad():
        cache = model(ids, use_cache=True).past_key_values
    filled = [layer for layer in cache.layers if getattr(layer, "keys", None) is not None]
    gone = {layer for layer, kind in CUTS[key](LAYERS[name]).removed if kind == "attn"}
    assert len(filled) == LAYERS[name] - len(gone)
    assert all(layer is cache.layers[slot] for slot, layer in enumerate(filled))


@pytest.mark.parametrize(("name", "key"), MODELS)
@pytest.mark.parametrize("cached", [True, False])
def test_left_padding(cached, name, key, pruned, ids):
    """A batch gives what each prompt gives alone."""
    model = pruned(name, key)
    short = ids[1:, 7:]
    padded = torch.cat([ids[:1], torch.nn.functional.pad(short, (7, 0), value=2)])
    mask = torch.ones_like(padded)
    mask[1, :7] = 0
    got = continuation(model, padded, mask, use_cache=cached)
    assert torch.equal(got[:1], continuation(model, ids[:1]))
    assert torch.equal(got[1:], continuation(model, short))


PROMPTS = ["Once upon a time, there was a little", "The dog", "Ünïcödé – 火 and 🐕 are "]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("key", ["attn-keep-last", "mlp-first", "block", "no-attention"])
def test_streamed_text_is_the_decoded_text(key, prompt, pruned, cut):
    tokenizer = transformers.AutoTokenizer.from_pretrained(cut("sample", key))
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == prompt
    new = continuation(pruned("sample", key), ids, min_new_tokens=1, max_new_tokens=40)
    pieces = list(generate(cut("sample", key), prompt, max_new_tokens=40))
    want = tokenizer.decode(torch.cat([ids, new], 1)[0], skip_special_tokens=True)
    assert prompt + "".join(pieces) == want
    assert all(pieces)
    assert len(pieces) > 5


TEXT = "She said: “Ünïcödé”,  火 🐕🐕 a  dog's \n\n\ttail 🐈 e\u0301"


@pytest.mark.parametrize("end", [0, 1, 2])
def test_pieces_of_characters_that_take_several_tokens(end, source):
    """Whatever the prompt is, and wherever the tokens end; a piece never has half a character."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(source("sample"))

    def decode(ids):
        return tokenizer.decode(ids, skip_special_tokens=True)

    ids = tokenizer(TEXT).input_ids
    assert decode(ids) == TEXT
    assert len(ids) > len(TEXT)
    ids = ids[: ids.index(tokenizer("🐈").input_ids[-1]) + 1 - end]  # the cat's last byte goes first
    assert decode(ids).endswith("🐈" if end == 0 else "\ufffd")
    starts = [n for n in range(1, len(ids)) if not decode(ids[:n]).endswith("\ufffd")]
    assert len(starts) > 20
    for start in starts:
        text = Detokenizer(decode, ids[:start])
        pieces = [text.push(token) for token in ids[start:]]
        assert "\ufffd" not in "".join(pieces)
        assert decode(ids[:start]) + "".join(pieces) + text.end() == decode(ids)


def test_sampling_obeys_its_seed_and_an_abandoned_stream_ends(cut):
    def text(seed):
        return list(generate(cut("sample", "attn"), "The", 20, temperature=1.0, seed=seed))

    assert text(3) == text(3) != text(4)
    stream = generate(cut("sample", "attn"), "The", max_new_tokens=500)
    next(stream)
    stream.close()
