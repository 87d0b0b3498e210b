"""Similarities written by hand, for models that nobody ran."""

from collections.abc import Sequence
from typing import Any

from surgeon.measure.results import Subject
from surgeon.measure.similarity import LayerSimilarity, Similarity, Spread


def made(
    attention: Sequence[float | None],
    mlp: Sequence[float | None],
    layer: Sequence[float] | None = None,
    headers: str = "h" * 64,
    **subject: Any,
) -> Similarity:
    """One with these means; the layer's is the product of its parts unless it is given."""
    num_layers = len(attention)
    whole = layer or [(a or 1.0) * (m or 1.0) for a, m in zip(attention, mlp, strict=True)]
    about = {
        "model": "model",
        "revision": None,
        "fingerprint": "f" * 64,
        "num_layers": num_layers,
        "parameters": 1000,
        "dtype": "float32",
        "device": "cpu",
    }
    rows = zip(whole, attention, mlp, strict=True)
    return Similarity(
        subject=Subject(**(about | subject)),
        headers=headers,
        settings={"text": "a text"},
        tokens=128,
        layers=tuple(LayerSimilarity(Spread(w, 0.01), _spread(a), _spread(m)) for w, a, m in rows),
        angular=tuple(
            tuple(0.05 * n + 0.001 * first for first in range(num_layers - n + 1))
            for n in range(1, num_layers + 1)
        ),
        angular_tokens=8,
    )


def _spread(mean: float | None) -> Spread | None:
    return None if mean is None else Spread(mean, 0.01)
