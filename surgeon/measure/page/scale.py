"""From numbers to places on a chart: round ticks, positions, labels that do not overlap."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """A straight map of the numbers ``low`` to ``high`` onto the positions ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The position of a number."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def round_ticks(low: float, high: float, about: int = 5) -> tuple[float, ...]:
    """Round numbers, evenly spaced, from at or below ``low`` to at or above ``high``."""
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        pad = abs(low) / 10 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(size for size in (1, 2, 2.5, 5, 10) if size * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(number * step for number in range(first, last + 1))


def tick_labels(ticks: Sequence[float]) -> tuple[str, ...]:
    """The numbers with as many decimals as their step needs."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    if max(map(abs, ticks)) >= 1e6:
        return tuple(f"{tick:.2g}" for tick in ticks)
    digits = next((n for n in range(7) if abs(round(step, n) - step) < step * 1e-6), 7)
    return tuple(f"{tick:.{digits}f}".replace("-", "\N{MINUS SIGN}") for tick in ticks)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> tuple[float, ...]:
    """Positions near the wanted ones, at least ``gap`` apart, within ``low`` and ``high``.

    The order stays. Where there is no room for all, they are evenly spaced over what there is.
    """
    if not wanted:
        return ()
    gap = min(gap, (high - low) / max(len(wanted) - 1, 1))
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed: list[float] = []
    for i in order:
        placed.append(max(wanted[i], placed[-1] + gap if placed else low))
    limit = high
    for n in reversed(range(len(placed))):  # what was pushed over the end goes back, and pushes others
        placed[n] = min(placed[n], limit)
        limit = placed[n] - gap
    result = [0.0] * len(wanted)
    for n, i in enumerate(order):
        result[i] = placed[n]
    return tuple(result)


def apart(positions: Sequence[float], gap: float) -> tuple[int, ...]:
    """Which of the ascending positions to label, ``gap`` apart; first and last if possible."""
    chosen: list[int] = []
    for i in reversed(range(len(positions))):
        if not chosen or positions[chosen[-1]] - positions[i] >= gap:
            chosen.append(i)
    if len(chosen) > 1:
        chosen[-1] = 0
    return tuple(reversed(chosen))
