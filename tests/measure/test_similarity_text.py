"""The tokens that are looked at: windows of text, and samples of the model itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from surgeon.measure.compare import similarity  # noqa: E402
from surgeon.measure.network import Network  # noqa: E402
from surgeon.measure.opened import Opened  # noqa: E402
from surgeon.measure.samples import (  # noqa: E402
    Windows,
    own_samples,
    text_windows,
    window_lengths,
)

Refuse = Callable[..., None]


def test_windows_begin_with_the_beginning_token(tmp_path: Path) -> None:
    opened = Opened.open("sample", "cpu")
    tokenizer = opened.tokenizer
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    first.write_bytes(b"\xef\xbb\xbf" + b"The king's daughter was born. " * 40)  # with a BOM
    second.write_text("Hänsel und Gretel. " * 3, encoding="utf-8")
    windows = text_windows([first, second], opened, 60, 12)
    ids = tokenizer(first.read_text("utf-8-sig"), add_special_tokens=False)["input_ids"]
    assert windows.ids[:3] == (
        (1, *ids[:11]), (1, *ids[11:22]), (1, *ids[22:30])
    )  # fmt: skip
    assert sum(len(window) - 1 for window in windows.ids) == 60
    assert windows.words == "first.txt, second.txt"
    assert [len(batch) for batch in windows.batches(4)] == [2, 1, 2, 1]


def test_of_a_long_file_the_beginning_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened.open("sample", "cpu")
    path = tmp_path / "long.txt"
    path.write_text("The king's daughter was born. " * 1000)
    seen: list[str] = []
    encode = opened.tokenizer

    def watched(text: str, **options: Any) -> Any:
        seen.append(text)
        return encode(text, **options)

    watched.bos_token_id = watched.eos_token_id = 1  # type: ignore[attr-defined]
    watched.is_fast = True  # type: ignore[attr-defined]
    monkeypatch.setitem(vars(opened), "tokenizer", watched)
    windows = text_windows([path], opened, 5, 512)
    assert [len(window) for window in windows.ids] == [6]
    assert [len(text) for text in seen] == [5 * 64]


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", "is empty"), (b"a", "fewer than 2 tokens"), (b"\xff\xfe", "not UTF-8"), (None, "read")],
)
def test_texts_that_cannot_be_used(
    data: bytes | None, words: str, tmp_path: Path, refuse: Refuse
) -> None:
    path = tmp_path / "text.txt"
    if data is not None:
        path.write_bytes(data)
    refuse(lambda: similarity("sample", text=[path], device="cpu"), "text.txt", words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tokens": 1}, "--tokens 1 is too few"),
        ({"low_memory": True}, "--low-memory needs --text"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"device": "tpu"}, "--device 'tpu' is not known"),
        ({"dtype": "int3"}, "--dtype 'int3' is not known"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], words: str, refuse: Refuse) -> None:
    refuse(lambda: similarity("sample", **options), words)


def test_low_memory_refuses_what_it_would_not_know_either(tmp_path: Path, refuse: Refuse) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a few words")
    refuse(
        lambda: similarity("sample", text=[text], low_memory=True, device="tpu"),
        "--device 'tpu' is not known",
    )


def test_lengths() -> None:
    assert window_lengths(1100, 512) == (512, 512, 76)
    assert window_lengths(1025, 512) == (512, 512)
    assert window_lengths(2, 512) == (2,)


def test_own_samples_can_be_repeated(sample_network: Network) -> None:
    def sample(seed: int) -> Windows:
        return own_samples(sample_network, 1, 90, 32, seed, batch_size=8)

    state = torch.get_rng_state()
    first = sample(0)
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers were touched"
    assert [len(window) for window in first.ids] == [32, 32, 26]
    assert {window[0] for window in first.ids} == {1}
    assert not any(2 in window for window in first.ids)
    assert first.ids[0] != first.ids[1]
    assert sample(0) == first
    assert sample(1) != first


def test_the_end_of_a_text_is_never_sampled(
    sample_network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if nothing else is likely."""
    head = sample_network.model.lm_head
    forward = head.forward

    def ending(hidden: Any) -> Any:
        logits = forward(hidden)
        logits[..., 2] += 100
        return logits

    monkeypatch.setattr(head, "forward", ending, raising=False)
    assert not any(2 in window for window in own_samples(sample_network, 1, 60, 20, 0, 3).ids)


def test_sampling_halves_its_batch_too(
    sample_network: Network, monkeypatch: pytest.MonkeyPatch, refuse: Refuse
) -> None:
    lines: list[str] = []
    write = sample_network.model.generate

    def small(**options: Any) -> Any:
        if len(options["input_ids"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return write(**options)

    monkeypatch.setattr(sample_network.model, "generate", small)
    windows = own_samples(sample_network, 1, 40, 8, 0, 4, lines.append)
    assert [len(window) for window in windows.ids] == [8] * 5
    assert lines == ["out of memory with a batch of 4 x 8 tokens; going on with 2"]
