"""Sizes and counts, read and written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgeon.errors import SurgeonError
from surgeon.units import dtype_name, format_count, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (1, 1),
        ("123", 123),
        ("5GB", 5_000_000_000),
        ("5gb", 5_000_000_000),
        (" 5 GB ", 5_000_000_000),
        ("5GiB", 5 << 30),
        ("1.5MB", 1_500_000),
        ("0.5KiB", 512),
        ("2KB", 2000),
        ("1TB", 10**12),
        ("1TiB", 1 << 40),
        ("7B", 7),
        ("9007199254740993", 9007199254740993),  # not by way of a float
    ],
)
def test_sizes(text: int | str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "GB",
        "-1",
        -1,
        0,
        "0",
        "0.4",
        "5XB",
        "5 G B",
        "1e9",
        "1,5GB",
        "٥GB",
        "inf",
        "nan",
        1.5e300,
        "9" * 400,
    ],
)
def test_what_is_no_size(text: int | str) -> None:
    with pytest.raises(SurgeonError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 KB"),
        (1234, "1.23 KB"),
        (999_499, "999 KB"),
        (999_999, "1 MB"),
        (13_500_000_000, "13.5 GB"),
        (811_706_000_000, "812 GB"),
        (2_000_000_000_000, "2 TB"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1 K"),
        (999_999, "1 M"),  # not 1e+03 K
        (6_738_415_616, "6.74 B"),
        (405_853_388_800, "406 B"),
        (10**12, "1 T"),
    ],
)
def test_counts_for_people(number: int, text: str) -> None:
    assert format_count(number) == text


@given(st.integers(0, 999 * 10**12))
def test_never_more_than_three_digits(number: int) -> None:
    for text in (format_size(number), format_count(number)):
        figure = text.split()[0]
        assert "e" not in figure, text
        assert float(figure) < 1000


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("fp32", "float32"),
        ("FP16", "float16"),
        ("bf16", "bfloat16"),
        ("float16", "float16"),
        ("x", "x"),
    ],
)
def test_short_words_for_dtypes(word: str, name: str) -> None:
    assert dtype_name(word) == name
