"""Sizes and dtypes as people write them; decimal units, as on the Hub."""

import re
from decimal import Decimal

from surgeon.errors import SurgeonError

_UNITS = {
    "": 1,
    **{f"{p}B": 1000**i for i, p in enumerate(("", "K", "M", "G", "T"))},
    **{f"{p}IB": 1024**i for i, p in enumerate(("K", "M", "G", "T"), start=1)},
}


def parse_size(size: int | str) -> int:
    """ "5GB" or "5GiB" or a number of bytes, as bytes; SurgeonError if it is none or below 1."""
    match = re.fullmatch(
        r"(\d{1,20}(?:\.\d{1,20})?)\s*([a-z]*)", str(size).strip(), re.ASCII | re.IGNORECASE
    )
    unit = _UNITS.get(match[2].upper()) if match else None
    value = int(Decimal(match[1]) * unit) if match and unit else 0
    if not 1 <= value < 1 << 63:
        raise SurgeonError(f"{size!r} is not a size; write 5GB, 500MB or a number of bytes")
    return value


def format_size(size: float) -> str:
    """Bytes with three digits: 13500000000 is "13.5 GB"."""
    units = ["B", "KB", "MB", "GB", "TB"]
    while abs(size) >= 999.5 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.3g} {units[0]}"


def format_count(number: int) -> str:
    """A parameter count: 6738415616 is "6.74 B", as model names use it."""
    for unit, scale in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if number * 10000 >= scale * 9995:  # 999,999 is 1 M, not 1000 K
            return f"{number / scale:.3g} {unit}"
    return str(number)


_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def dtype_name(word: str) -> str:
    """torch's name of a dtype for its short one: "fp16" is "float16"; other words stay as they are."""
    return _DTYPES.get(word.lower(), word)
