"""Figures in one style, as PNG and SVG: fit for a paper, and the same bytes for the same numbers.

Everything is drawn without a display and without pyplot's global state. Colours are those of Okabe and
Ito, which colour-blind readers can tell apart; lines differ in their markers as well.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.measure.document import Chart
from surgeon.measure.similarity import Similarity, nines

COLOURS = {"attn": "#0072B2", "mlp": "#D55E00", "block": "#3a3a3a"}
MARKERS = {"attn": "o", "mlp": "s", "block": "D"}
LABELS = {"attn": "attention", "mlp": "MLP", "block": "whole layer"}
"""How the words of ``--drop`` are drawn and named in every figure."""

STYLE: Mapping[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 10,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.edgecolor": "#3a3a3a",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.6,
    "text.parse_math": False,  # names of models may hold a dollar sign
    "svg.hashsalt": "surgeon",
}


def check_plots() -> None:
    """SurgeonError if matplotlib is missing; called before the work whose result it would draw."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise SurgeonError(
            "figures need matplotlib, which is not installed; run: pip install 'surgeon[plots]'"
        ) from None


@contextmanager
def figure(width: float = 5.6, height: float = 3.2) -> Iterator[tuple[Any, Any]]:
    """A figure of that many inches and its axes, in the style; draw and ``encode`` inside."""
    check_plots()
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(dict(STYLE)):
        drawn = Figure(figsize=(width, height), layout="constrained")
        yield drawn, drawn.add_subplot()


def encode(drawn: Any) -> dict[str, bytes]:
    """The figure's files by their endings: "png" of 200 dots an inch, and "svg"."""
    files: dict[str, bytes] = {}
    # neither a date nor a version goes into them, so that equal numbers make equal bytes
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        stream = BytesIO()
        drawn.savefig(stream, format=kind, dpi=200, metadata=metadata)
        files[kind] = stream.getvalue()
    return files


def line(axes: Any, drop: str, x: Sequence[float], y: Sequence[float | None], **style: Any) -> None:
    """One of the three curves that every figure has; where ``y`` is None it is interrupted."""
    values = [float("nan") if value is None else value for value in y]
    options = {
        "color": COLOURS[drop],
        "marker": MARKERS[drop],
        "markeredgewidth": 0,
        "label": LABELS[drop],
    }
    axes.plot(x, values, **(options | style))


def similarity_figure(similarity: Similarity) -> dict[str, bytes]:
    """The paper's Figure 1 with its two parts beside it: cosine similarity over the layers."""
    from matplotlib.ticker import MaxNLocator

    subject = similarity.subject
    numbers = range(subject.num_layers)
    with figure() as (drawn, axes):
        for drop in ("block", "mlp", "attn"):
            line(axes, drop, numbers, similarity.scores(drop))
        axes.set_xlabel("layer")
        axes.set_ylabel("cosine similarity, before and after")
        axes.set_title(f"{subject.model}, {similarity.tokens:,} tokens", loc="left", pad=22)
        ticks = MaxNLocator(12, integer=True, steps=[1, 2, 4, 5, 10], min_n_ticks=1)
        axes.xaxis.set_major_locator(ticks)
        axes.set_xlim(-0.5, subject.num_layers - 0.5)
        _scale(axes, [v for curve in similarity.curves().values() for v in curve if v is not None])
        handles, labels = axes.get_legend_handles_labels()
        # above the axes, where no curve comes
        axes.legend(
            handles[::-1], labels[::-1], loc="lower left", bbox_to_anchor=(-0.01, 0.99), ncols=3
        )
        return encode(drawn)


def chart_figure(chart: Chart) -> dict[str, bytes]:
    """A chart of a report: lines in the colours of their tones, dashed and hollow as they are."""
    kinds = tuple(COLOURS)
    with figure(5.6, 3.4) as (drawn, axes):
        if chart.level:
            height, name = chart.level
            axes.axhline(height, color="#8a8a8a", linewidth=0.8, linestyle=(0, (1, 2)), label=name)
        for one in chart.lines:
            drop = kinds[one.tone % len(kinds)]
            hollow = {"linestyle": "--", "markerfacecolor": "white"} if one.dashed else {}
            line(
                axes,
                drop,
                [point.x for point in one.points],
                [point.y for point in one.points],
                label=one.name,
                markeredgecolor=COLOURS[drop],
                markeredgewidth=0.9,
                **hollow,
            )
        axes.set_xlabel(chart.x_label)
        axes.set_ylabel(chart.y_label)
        shown = chart.ticks[:: -(-len(chart.ticks) // 12)]
        axes.set_xticks([place for place, _, _ in shown], [f"{a}\n{b}" for _, a, b in shown])
        axes.legend(loc="best")
        return encode(drawn)


_TICKS = (-1, -0.5, 0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999)


def _scale(axes: Any, values: Sequence[float]) -> None:
    """A vertical axis on the scale of ``nines``, labelled with the similarities themselves."""
    import numpy as np
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = nines(min(values)), nines(max(values))
    room = 0.06 * (high - low) or 0.1
    functions = (lambda v: -np.log10(np.maximum(1 - v, 1e-7)), lambda n: 1 - 10.0**-n)
    axes.set_yscale("function", functions=functions)
    axes.set_ylim(1 - 10 ** (room - low), 1 - 10 ** -(high + room))
    axes.yaxis.set_major_locator(FixedLocator(_TICKS))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
