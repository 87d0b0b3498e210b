"""Text while it comes: the pieces add up to the text of all ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_numbers import SAMPLE

from surgeon.detokenize import Detokenizer
from surgeon.generation import load_tokenizer

pytest.importorskip("tokenizers")

ENCODE, DECODE = load_tokenizer(SAMPLE)
IDS = st.lists(st.integers(0, 2047), min_size=1, max_size=60)
BYTE = {ENCODE(chr(0x10FFFF))[-1] - 0xBF + b: b for b in range(256)}
"""Ids of single bytes: byte fallback has them in a row; the last byte of U+10FFFF is BF."""

TEXTS = [
    "Once upon a time, there was a little girl.",
    "  two spaces before, two  between and two after  ",
    "🐕🦺 and 👨‍👩‍👧‍👦 and 火 火山 – Ünïcödé\n\n\ttabs",
    "日本語のテキスト。",
    "é" * 9 + "🐕" * 9,
]


def pieces(prompt, ids):
    stream = Detokenizer(DECODE, prompt)
    out = [stream.push(token) for token in ids]
    return [*out, stream.end()]


def test_the_ids_of_bytes():
    assert all(DECODE([token]) == chr(byte) for token, byte in BYTE.items() if 32 < byte < 127)


def ends(ids):
    """Where a prompt may end: a text has whole characters."""
    whole = DECODE(ids)
    return [n for n in range(1, len(ids)) if whole.startswith(DECODE(ids[:n]))]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_of_texts(text):
    """For each prompt that the text begins with: also where eight tokens back is inside a character."""
    ids = ENCODE(text)
    assert ids[0] == 1
    assert DECODE(ids) == text
    assert len(ends(ids)) > 5
    for cut in ends(ids):
        got = pieces(ids[:cut], ids[cut:])
        assert not any("\ufffd" in piece for piece in got), cut
        assert DECODE(ids[:cut]) + "".join(got) == text, cut


@given(st.text(alphabet=st.sampled_from("ab é火🐕ß  \n."), max_size=40), st.data())
def test_pieces_of_any_text(text, data):
    ids = ENCODE(text + ".")
    cut = data.draw(st.sampled_from(ends(ids)))
    assert DECODE(ids[:cut]) + "".join(pieces(ids[:cut], ids[cut:])) == DECODE(ids)


@given(IDS, IDS)
def test_pieces_of_any_ids(prompt, ids):
    """Any but those of single bytes, of which the next test is."""
    prompt, ids = ([token for token in some if token not in BYTE] for some in (prompt, ids))
    prompt = [1, *ENCODE("The")[1:], *prompt]
    assert DECODE(prompt) + "".join(pieces(prompt, ids)) == DECODE(prompt + ids)


@given(st.lists(st.sampled_from(sorted(BYTE)[128:]), max_size=12))
def test_bytes_that_are_no_character_hide_no_text(ids):
    """What stands for them is the tokenizer's business, which looks at all of a run at once."""
    prompt, dog = ENCODE("The"), ENCODE("a dog.")[2:]
    assert DECODE(dog) == "dog."
    got = "".join(pieces(prompt, [*ids, *dog, *ids, *dog]))
    assert got.count("dog.") == 2
    assert got.endswith("dog.")


def test_a_character_comes_whole_with_its_last_byte():
    prompt = ENCODE("a")
    ids = ENCODE("a🐕火")[len(prompt) :]
    assert len(ids) == 7
    assert pieces(prompt, ids) == ["", "", "", "🐕", "", "", "火", ""]


def test_spaces_between_words_and_the_first_are_kept():
    prompt = ENCODE("Once upon")
    ids = ENCODE("Once upon a time")[len(prompt) :]
    assert pieces(prompt, ids)[0].startswith(" ")
    assert "".join(pieces(prompt, ids)) == " a time"
    assert "".join(pieces([1], ENCODE("a time")[1:])) == "a time"


def test_the_prompt_is_not_repeated_and_windows_stay_short():
    """Each step decodes a few ids, not all of them."""
    longest = 0

    def decode(ids):
        nonlocal longest
        longest = max(longest, len(ids))
        return DECODE(ids)

    prompt, text = ENCODE("The dog and the cat. " * 40), " " + "went home and " * 60
    ids = ENCODE("The" + text)[len(ENCODE("The")) :]
    stream = Detokenizer(decode, prompt)
    got = "".join(stream.push(token) for token in ids) + stream.end()
    assert got.strip() == text.strip()
    assert "dog" not in got
    assert longest < 20


def test_special_tokens_show_nothing():
    prompt = ENCODE("The")
    assert pieces(prompt, [2, 2, 1]) == ["", "", "", ""]
    assert (
        "".join(pieces(prompt, [2, *ENCODE("dog")[1:]])) == DECODE([*prompt, 2, *ENCODE("dog")[1:]])[3:]
    )
