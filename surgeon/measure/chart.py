"""A similarity on the terminal: bars of block characters, a row a layer, within 80 columns."""

from typing import Any

from surgeon.measure.similarity import Similarity, nines

WIDTH = 15
"""Characters that a full bar takes."""

STYLES = {"attention": "blue", "MLP": "yellow", "layer": "default"}

_EIGHTHS = " ▏▎▍▌▋▊▉"


def bar(share: float, width: int = WIDTH) -> str:
    """A bar of that share (0 to 1) of ``width`` characters."""
    full, rest = divmod(round(max(0.0, min(1.0, share)) * width * 8), 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")


def chart(similarity: Similarity) -> Any:
    """A rich table: for each layer the similarity across its attention, its MLP and all of it.

    Bars are on the scale of ``nines``, from a little below the smallest value to the largest.
    """
    from rich.table import Table
    from rich.text import Text

    curves = similarity.curves()
    scaled = [nines(v) for curve in curves.values() for v in curve if v is not None]
    room = (max(scaled) - min(scaled)) * 1.05 or 1.0
    low = max(scaled) - room
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
                drawn = bar((nines(value) - low) / room)
                cells.append(Text(f"{drawn:<{WIDTH}} {value:.4f}", style=style))
        table.add_row(str(layer), *cells)
    return table
