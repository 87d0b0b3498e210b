"""A folder in MLX-LM: greedy tokens and log-probabilities, in float32 on the CPU."""

from pathlib import Path
from typing import Any

import mlx.core as mlx
import torch

import surgeon
from surgeon.runtimes import Runtime

BOUND = 2e-4
"""Between two runtimes in float32, on the log-probabilities of the whole vocabulary: order of sums."""

STEPS = 4


def run(folder: Path, prompt: list[int]) -> tuple[list[int], Any]:
    """Greedy tokens and the log-probabilities they were chosen by: a prompt, then with a cache."""
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.utils import load_model

    mlx.set_default_device(mlx.cpu)
    model, _ = load_model(folder)
    model.set_dtype(mlx.float32)
    cache = make_prompt_cache(model)
    tokens, rows, feed = [], [], prompt
    for _ in range(STEPS):
        logits = model(mlx.array([feed]), cache=cache)[0, -1]
        row = torch.tensor((logits - mlx.logsumexp(logits)).tolist())
        feed = [int(row.argmax())]
        tokens += feed
        rows.append(row)
    return tokens, torch.stack(rows)


def verdict(folder: Path) -> Runtime:
    """What inspect says of MLX-LM."""
    (found,) = (r for r in surgeon.inspect(folder).runtimes if r.name == "MLX-LM")
    return found
