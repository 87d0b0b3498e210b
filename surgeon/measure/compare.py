"""Runs a model and compares its features before and after each sublayer: ``surgeon.similarity``."""

import os
from collections.abc import Callable, Sequence

from surgeon.errors import SurgeonError
from surgeon.measure.features import STRIDE, Tally, look
from surgeon.measure.memory import halve, out_of_memory
from surgeon.measure.network import Network
from surgeon.measure.opened import Opened
from surgeon.measure.samples import LONGEST, Windows, own_samples, text_windows
from surgeon.measure.similarity import Similarity
from surgeon.measure.streamed import streamed
from surgeon.measure.text import first_token

PASS_BYTES = 1 << 30
"""What the states of one pass through the layers may take with ``low_memory``."""


def similarity(
    model: str | os.PathLike[str],
    *,
    text: Sequence[str | os.PathLike[str]] = (),
    tokens: int = 4096,
    low_memory: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    seed: int = 0,
    batch_size: int = 8,
    notify: Callable[[str], None] = lambda line: None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Similarity:
    """Measures how little each sublayer of a model, cut before or not, turns the residual stream.

    ``tokens`` are taken from the beginnings of the ``text`` files, or else are the model's own samples.
    They run in windows of 512 (less where the model's context is shorter), ``batch_size`` at a time.
    The first position of each window is left out: it sees nothing but itself, and trained Llamas park
    their attention on it, with features unlike those of any other token.

    ``low_memory`` holds the weights of one layer at a time, read from the files: for models larger than
    the memory, with the same result. It needs a ``text``, since sampling would read all for each token.

    ``notify`` takes lines for people, ``advance`` the windows x layers done and in all. Raises
    SurgeonError for text that cannot be used, and naming the layer when states are not finite.
    """
    if tokens < 2:
        raise SurgeonError(f"--tokens {tokens} is too few; at least 2 are needed")
    if batch_size < 1:
        raise SurgeonError(f"--batch-size {batch_size} is not a number of windows; use 1 or more")
    if low_memory and not text:
        raise SurgeonError(
            "--low-memory needs --text FILE: to sample from the model, all of its weights would be "
            "read again for each token"
        )
    opened = Opened.open(model, device, dtype)
    longest = min(LONGEST, opened.context)
    windows = None
    if text:  # what is wrong with it should show before the weights are loaded
        windows = text_windows(text, opened, tokens, longest)
    network = streamed(opened) if low_memory else opened.network
    if windows is None:
        windows = own_samples(network, first_token(opened), tokens, longest, seed, batch_size, notify)
    tally = Tally(network.num_layers)
    total = len(windows.ids) * network.num_layers
    rest = windows
    while rest.ids:
        batches = _pass(network, rest, batch_size, PASS_BYTES if low_memory else 0)
        done = total - len(rest.ids) * network.num_layers

        def step(more: int, done: int = done) -> None:
            advance(done + more, total)

        try:
            seen = look(network, batches, opened.name, step)
        except Exception as error:
            if not out_of_memory(error):
                raise
            seen = None
        if seen is None:
            batch_size = halve(len(batches[0]), len(batches[0][0]), notify)
            continue
        tally.merge(seen)
        rest = rest.after(sum(map(len, batches)))
    settings = {
        "text": windows.words,
        "window": longest,
        "windows": len(windows.ids),
        "first_position": "left out",
        "angular_stride": STRIDE,
    }
    if not text:
        settings["seed"] = seed
    return tally.result(opened.subject(), opened.checkpoint.fingerprint, settings)


def _pass(network: Network, windows: Windows, size: int, budget: int) -> list[Sequence[Sequence[int]]]:
    """The next batches that run together: one, or as many as have states of ``budget`` bytes."""
    width = network.model.config.hidden_size
    batches: list[Sequence[Sequence[int]]] = []
    used = 0
    for batch in windows.batches(size):
        kept = len(batch[0]) + len(batch[0]) // STRIDE * (network.num_layers + 1)
        used += len(batch) * kept * width * 4
        if batches and used > budget:
            break
        batches.append(batch)
    return batches
