"""Ticks are round and enclose the numbers; labels keep their distance."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgeon.measure.page.scale import Scale, apart, round_ticks, spread, tick_labels

NUMBERS = st.floats(-1e9, 1e9, allow_nan=False)


@given(NUMBERS, NUMBERS)
def test_ticks_enclose_the_numbers(one: float, other: float) -> None:
    low, high = sorted((one, other))
    ticks = round_ticks(low, high)
    slack = 1e-6 * max(abs(low), abs(high), 1e-9)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= 12
    assert len(tick_labels(ticks)) == len(ticks)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (3.364, 5.912, ("3", "4", "5", "6")),
        (41.0, 54.3, ("40", "45", "50", "55")),
        (-0.02, 0.01, ("\N{MINUS SIGN}0.02", "\N{MINUS SIGN}0.01", "0.00", "0.01")),
    ],
)
def test_labels_have_the_decimals_of_the_step(low: float, high: float, labels: tuple[str, ...]) -> None:
    assert tick_labels(round_ticks(low, high)) == labels


@given(st.lists(st.floats(0, 400), max_size=8))
def test_names_of_lines_do_not_overlap(wanted: list[float]) -> None:
    placed = spread(wanted, 17, 0, 400)
    assert all(-1e-6 <= place <= 400 + 1e-6 for place in placed)
    order = sorted(placed)
    assert all(b - a >= 17 - 1e-6 for a, b in pairwise(order))
    ranked = sorted(zip(wanted, placed, strict=True))
    assert all(a < b for (_, a), (_, b) in pairwise(ranked))


def test_positions_that_have_room_stay() -> None:
    assert spread([100, 50, 10], 17, 0, 400) == (100, 50, 10)


def test_labels_apart_keep_the_last() -> None:
    assert apart([0, 10, 50, 90, 100], 40) == (0, 2, 4)
    assert apart([], 40) == ()


def test_a_scale_is_straight() -> None:
    scale = Scale(0, 10, 100, 0)
    assert (scale(0), scale(5), scale(10)) == (100, 50, 0)
