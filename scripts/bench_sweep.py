#!/usr/bin/env python3
"""Times the shared computation of a sweep against the same cuts one by one.

Three ways to the losses of the paper's grid of 19 variants, in one process, alternating: the sweep's
own (each common beginning computed once), the same loop for one cut at a time, and transformers'
forward on every physically pruned folder. Loading, pruning and tokenizing are left out of all three.

    scripts/bench_sweep.py MODEL TEXT [--json FILE]
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import surgeon
from surgeon.measure.grid import Variant, grid
from surgeon.measure.opened import Opened
from surgeon.measure.scoring import BATCH_TOKENS, Item, Scorer
from surgeon.measure.text import TextSettings
from surgeon.measure.tree import shared_tree
from surgeon.plan import Plan

WINDOW = 512

Losses = list[list[float]]
"""The nats of each window, variant by variant."""


def shared(scorer: Scorer, items: Sequence[Item], variants: Sequence[Variant]) -> Losses:
    return [[-score.logprob for score in result.scores] for result in scorer.score(items, variants)]


def one_by_one(scorer: Scorer, items: Sequence[Item], variants: Sequence[Variant]) -> Losses:
    return [losses for variant in variants for losses in shared(scorer, items, [variant])]


def transformers_forward(models: Sequence[Any], items: Sequence[Item]) -> Losses:
    """All windows have one length, so rows need no padding here either."""
    import torch

    rows = torch.tensor([(*item.context, *item.continuation) for item in items])
    losses: Losses = []
    for model in models:
        losses.append([])
        for batch in rows.split(BATCH_TOKENS // WINDOW):
            with torch.inference_mode():
                logits = model(batch[:, :-1], use_cache=False).logits
                nats = torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1).float(), batch[:, 1:].flatten(), reduction="none"
                )
            losses[-1] += nats.view(len(batch), -1).sum(1).tolist()
    return losses


def pruned_models(opened: Opened, variants: Sequence[Variant], work: Path) -> list[Any]:
    """transformers' model of each variant, from a folder that ``surgeon prune`` wrote."""
    models = []
    for number, variant in enumerate(variants):
        folder = opened.folder
        if variant.removed:
            folder = work / str(number)
            surgeon.prune(opened.folder, folder, Plan(opened.num_layers, variant.removed))
        models.append(Opened.open(folder, "cpu").network.model)
    return models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--windows", type=int, default=8, help=f"windows of {WINDOW} tokens")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the result here too")
    options = parser.parse_args()
    opened = Opened.open(options.model, "cpu")
    settings = TextSettings((options.text,), WINDOW, WINDOW, windows=options.windows)
    items = settings.prepare(opened).items
    import torch

    torch.set_num_threads(options.threads)
    variants = grid(opened.num_layers, absent=opened.absent)
    scorer = Scorer(opened.network)
    with tempfile.TemporaryDirectory() as work:
        models = pruned_models(opened, variants, Path(work))
    ways: dict[str, Callable[[], Losses]] = {
        "surgeon, shared": lambda: shared(scorer, items, variants),
        "surgeon, one by one": lambda: one_by_one(scorer, items, variants),
        "transformers, one by one": lambda: transformers_forward(models, items),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    losses: dict[str, Losses] = {}
    for number in range(options.rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            losses[name] = way()
            seconds[name].append(time.perf_counter() - started)
            print(f"round {number + 1}: {name}: {seconds[name][-1]:.2f} s", file=sys.stderr)
    base = "surgeon, shared"
    tokens = sum(len(item.continuation) for item in items)
    rows = [
        {
            "name": name,
            "seconds": statistics.median(seconds[name]),
            "times_shared": statistics.median(
                mine / best for mine, best in zip(seconds[name], seconds[base], strict=True)
            ),
            "largest_difference_of_loss": max(
                abs(sum(a) - sum(b)) / tokens for a, b in zip(losses[name], losses[base], strict=True)
            ),
            "runs": seconds[name],
        }
        for name in ways
    ]
    cuts = [variant.removed for variant in variants]
    report = {
        "model": opened.name,
        "variants": len(variants),
        "sublayers_shared": shared_tree(opened.sites, cuts).evaluations,
        "sublayers_one_by_one": sum(len(opened.sites) - len(cut) for cut in cuts),
        "windows": len(items),
        "tokens": tokens,
        "dtype": opened.dtype,
        "machine": f"{os.cpu_count()} cores, {platform.machine().replace('_', '-')}",
        "threads": options.threads,
        "torch": torch.__version__,
        "rounds": options.rounds,
        "results": rows,
    }
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    print(
        f"{report['model']}, {len(variants)} variants, {tokens} tokens each, {opened.dtype}, "
        f"{options.threads} threads; sublayers: {report['sublayers_shared']} shared, "
        f"{report['sublayers_one_by_one']} one by one; medians of {options.rounds} alternating rounds"
    )
    print(f"{'':26}{'seconds':>9}{'x shared':>10}{'largest difference of loss':>28}")
    for row in rows:
        print(
            f"{row['name']:26}{row['seconds']:9.2f}{row['times_shared']:10.2f}"
            f"{row['largest_difference_of_loss']:28.1e}"
        )


if __name__ == "__main__":
    main()
