"""Loss of texts: every token is predicted once, from the tokens before it in a sliding window.

The windows are those of transformers' page on perplexity of fixed-length models: each moves on by
``stride`` tokens, and scores only those that the one before did not. Each begins with the token that
begins a text, on which trained Llamas lean.
"""

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from surgeon.checkpoint.source import expand
from surgeon.errors import SurgeonError
from surgeon.measure.opened import Opened
from surgeon.measure.prepared import Prepared, Scores
from surgeon.measure.results import Measure
from surgeon.measure.scoring import Item, Score

WINDOW = 2048
"""Tokens of a window where nothing else is asked for and the model's context is not shorter."""

MEASURES = (
    Measure("loss", "Loss", "nats/token", False),
    Measure("perplexity", "Perplexity", "", False, "exp(loss)"),
    Measure("bits_per_byte", "Bits per byte", "bits/byte", False),
)


@dataclass(frozen=True)
class TextSettings:
    """Which texts are measured, and how.

    ``files``, one or several, are UTF-8; each is a text of its own. A ``window`` is in tokens, its
    first one (BOS) and its last one (only predicted) included; None is the model's context, at most
    WINDOW. ``stride`` is the number of tokens by which it moves on: None is half a window; one as long
    as the window means that windows share nothing. ``characters`` and ``windows`` take only the
    beginning of each file.
    """

    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
    window: int | None = None
    stride: int | None = None
    characters: int | None = None
    windows: int | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """``files`` as a tuple."""
        several = [self.files] if isinstance(self.files, str | os.PathLike) else self.files
        return tuple(os.fspath(file) for file in several)

    def prepare(self, opened: Opened, notify: Callable[[str], None] = lambda words: None) -> Prepared:
        """Reads and cuts the texts; SurgeonError for what cannot be measured.

        A text shorter than a window is measured as one shorter window, and ``notify`` says so.
        """
        window, stride = self._sizes(opened.context)
        first = first_token(opened)
        items: list[Item] = []
        size = 0
        digests = []
        for file in self.paths:
            text = read_text(file)[: self.characters]
            digests.append(hashlib.sha256(text.encode()).hexdigest())
            ids, ends = token_ids(opened, text, file)
            if len(ids) < window - 1:
                notify(
                    f"{file}: {len(ids)} tokens are less than a window of {window}; "
                    "measured as one shorter window"
                )
            found = windows(ids, first, window, stride)[: self.windows]
            items += found
            scored = sum(len(item.continuation) for item in found)
            size += len(text[: ends[scored - 1] if scored < len(ids) else None].encode())
        how: dict[str, Any] = {
            "window": window,
            "stride": stride,
            "characters": self.characters,
            "windows": self.windows,
        }
        return Prepared(
            items=tuple(items),
            measures=MEASURES,
            settings={"text": list(self.paths), **how},
            identity={"text": digests, **how},
            summarize=lambda variant, scores: summarize(items, size, scores),
        )

    def _sizes(self, context: int) -> tuple[int, int]:
        window = min(context, WINDOW) if self.window is None else self.window
        if not self.paths:
            raise SurgeonError("text: no file is given")
        if not 2 <= window <= context:
            raise SurgeonError(
                f"--window {window} is out of range; the model's context allows 2-{context} tokens"
            )
        for name in ("stride", "characters", "windows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SurgeonError(f"--{name} {value} is too few; give 1 or more")
        stride = max(1, window // 2) if self.stride is None else self.stride
        return window, min(stride, window - 1)


def windows(ids: Sequence[int], first: int, window: int, stride: int) -> list[Item]:
    """The windows of a text's ids, each id in one continuation; ``first`` begins each window."""
    room = window - 1
    items = []
    start = 0
    while start < len(ids):
        end = min(len(ids), start + (stride if start else room))
        context = ids[max(0, end - room) : start]
        items.append(Item((first, *context), tuple(ids[start:end])))
        start = end
    return items


def summarize(items: Sequence[Item], size: int, scores: Sequence[Score]) -> Scores:
    """Loss in nats per token, its perplexity, and bits for each of the ``size`` bytes of the texts."""
    nats = -math.fsum(score.logprob for score in scores)
    loss = nats / sum(len(item.continuation) for item in items)
    perplexity = math.exp(min(loss, 700.0))  # e to much more is no number, for which JSON has no word
    return Scores({"loss": loss, "perplexity": perplexity, "bits_per_byte": nats / math.log(2) / size})


def read_text(file: str | os.PathLike[str]) -> str:
    """A UTF-8 file; SurgeonError if it is none, or cannot be read."""
    try:
        return expand(file).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise SurgeonError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise SurgeonError(f"{file}: is not UTF-8 (byte {error.start}); convert it") from None


def first_token(opened: Opened) -> int:
    """BOS, or what ends a text where there is no BOS: lm-evaluation-harness does the same."""
    for token in (opened.tokenizer.bos_token_id, opened.tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise SurgeonError(
        f"{opened.name}: its tokenizer has no token that begins or ends a text, so no window can begin"
    )


def token_ids(opened: Opened, text: str, file: str) -> tuple[list[int], list[int]]:
    """The ids of a text, and where each token ends in it."""
    if not text.strip():
        raise SurgeonError(f"{file}: is empty; there is nothing to measure")
    if not opened.tokenizer.is_fast:
        raise SurgeonError(
            f"{opened.folder}: its tokenizer does not tell where tokens end; it needs a tokenizer.json"
        )
    encoded = opened.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = [int(token) for token in encoded["input_ids"]]
    if len(ids) < 2:
        raise SurgeonError(f"{file}: makes fewer than 2 tokens; give a longer text")
    if max(ids) >= opened.vocab_size:
        raise SurgeonError(
            f"{file}: token {max(ids)} is not in the model's vocabulary of {opened.vocab_size}; "
            "the tokenizer is that of another model"
        )
    return ids, [end for _, end in encoded["offset_mapping"]]
