#!/usr/bin/env python3
"""Prints what two models make of the same prompt in two columns: side_by_side.py PROMPT MODEL MODEL"""

import sys

from rich.console import Console
from rich.table import Table

from surgeon.generation import generate
from surgeon.inspection import inspect
from surgeon.units import format_count


def main(prompt: str, *models: str) -> None:
    table = Table(expand=False, show_lines=True)
    texts = []
    for model in models:
        found = inspect(model)
        attentions = f"{sum(found.attention)} of {len(found.attention)} attentions"
        table.add_column(f"{found.model}: {format_count(found.costs.parameters)}, {attentions}")
        pieces = generate(model, prompt, max_new_tokens=80, temperature=0.7, seed=3)
        texts.append(prompt + "".join(pieces))
    table.add_row(*texts)
    Console().print(table)


if __name__ == "__main__":
    main(*sys.argv[1:])
