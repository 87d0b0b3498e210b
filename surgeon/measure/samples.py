"""The tokens that a model's features are looked at with: files of text, or the model's own samples."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

from surgeon.checkpoint.source import expand
from surgeon.measure.memory import halve, out_of_memory
from surgeon.measure.network import Network
from surgeon.measure.opened import Opened
from surgeon.measure.text import first_token, read_text, token_ids

LONGEST = 512
"""Tokens a window at most."""

CHARACTERS = 64
"""A token has far fewer."""


@dataclass(frozen=True)
class Windows:
    """Token ids, window by window; each begins with the beginning-of-text token if the model has one.

    ``words`` name the text in running text.
    """

    ids: tuple[tuple[int, ...], ...]
    words: str

    def after(self, count: int) -> Self:
        """Those behind the first ``count``."""
        return replace(self, ids=self.ids[count:])

    def batches(self, size: int) -> Iterator[tuple[tuple[int, ...], ...]]:
        """Up to ``size`` windows of one length at a time, in order: nothing is ever padded."""
        batch: list[tuple[int, ...]] = []
        for window in self.ids:
            if batch and (len(batch) == size or len(window) != len(batch[0])):
                yield tuple(batch)
                batch = []
            batch.append(window)
        if batch:
            yield tuple(batch)


def window_lengths(tokens: int, longest: int) -> tuple[int, ...]:
    """``tokens`` as windows of ``longest`` and a shorter rest; a rest of one token says nothing."""
    full, rest = divmod(tokens, longest)
    return (longest,) * full + ((rest,) if rest > 1 else ())


def text_windows(
    paths: Sequence[str | os.PathLike[str]], opened: Opened, tokens: int, longest: int
) -> Windows:
    """``tokens`` tokens from the beginnings of text files, an equal share of each.

    Fewer if the files are shorter. SurgeonError for a file that cannot be read, is not UTF-8 or makes
    fewer than two tokens.
    """
    first, share = first_token(opened), -(-tokens // len(paths))
    step = longest - 1
    ids: list[tuple[int, ...]] = []
    for path in paths:
        # of a long file, tokens of the beginning are enough
        text = read_text(path)[: share * CHARACTERS]
        found = token_ids(opened, text, str(path))[0][:share]
        ids += [(first, *found[start : start + step]) for start in range(0, len(found), step)]
    return Windows(tuple(ids), ", ".join(expand(path).name for path in paths))


def own_samples(
    network: Network,
    first: int,
    tokens: int,
    longest: int,
    seed: int,
    batch_size: int,
    notify: Callable[[str], None] = lambda line: None,
) -> Windows:
    """``tokens`` tokens that the model writes itself after ``first``: temperature 1, nothing cut off.

    The end of a text is never chosen, so that every window has its full length. The same seed and batch
    size give the same tokens on the same machine. SurgeonError where the memory does not even hold one
    window.
    """
    import torch

    lengths = window_lengths(tokens, longest)
    ids: list[tuple[int, ...]] = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        while len(ids) < len(lengths):
            length = lengths[len(ids)]
            count = min(batch_size, lengths[len(ids) :].count(length))
            try:
                rows = _write(network, first, count, length)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                rows = []
            if not rows:
                batch_size = halve(count, length, notify)
            ids += [tuple(int(token) for token in row) for row in rows]
    return Windows(tuple(ids), "the model's own samples")


def _write(network: Network, first: int, count: int, length: int) -> list[list[int]]:
    """``count`` samples of ``length`` tokens, ``first`` included."""
    import torch

    ends = network.model.generation_config.eos_token_id
    forbidden = [ends] if isinstance(ends, int) else list(ends or [])
    ids = torch.full((count, 1), first, device=network.device)
    with torch.inference_mode():
        written = network.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_length=length,
            suppress_tokens=forbidden or None,
            do_sample=True,
            num_beams=1,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            repetition_penalty=1.0,
            pad_token_id=forbidden[0] if forbidden else first,
        )
    rows: list[list[int]] = written.tolist()
    return rows
