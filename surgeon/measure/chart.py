"""A similarity on the terminal: bars of block characters, a row a layer, within 80 columns."""

from typing import Any

from surgeon.measure.similarity import Similarity

WIDTH = 15
"""Characters that a full bar takes."""

STYLES = {"attention": "blue", "MLP": "yellow", "layer": "default"}

_EIGHTHS = " ▏▎▍▌▋▊▉"


def bar(value: float, low: float, width: int = WIDTH) -> str:
    """A bar for ``value`` between ``low``, which is empty, and 1, which is ``width`` characters."""
    share = (value - low) / (1 - low) if low < 1 else 1.0
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")


def floor(similarity: Similarity) -> float:
    """Where the bars begin: a little below the smallest value, at a multiple of 0.05."""
    values = [v for curve in similarity.curves().values() for v in curve if v is not None]
    return int((min(values) - 1) * 20 - 1) / 20 + 1


def chart(similarity: Similarity) -> Any:
    """A rich table: for each layer the similarity across its attention, its MLP and all of it."""
    from rich.table import Table
    from rich.text import Text

    low = floor(similarity)
    curves = similarity.curves()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="default")
    table.add_column("", justify="right")
    for name in STYLES:
        table.add_column(name, width=WIDTH + 7)
    for layer in range(similarity.subject.num_layers):
        cells = []
        for name, style in STYLES.items():
            value = curves[name][layer]
            if value is None:
                cells.append(Text("·"))
            else:
                cells.append(Text(f"{bar(value, low):<{WIDTH}} {value:.4f}", style=style))
        table.add_row(str(layer), *cells)
    return table
