"""Batches that do not fit: known by the errors of torch and onnxruntime, halved, and said so."""

from collections.abc import Callable

from surgeon.errors import SurgeonError


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or onnxruntime says that memory ran out."""
    text = f"{type(error).__name__} {error}".lower()
    return isinstance(error, MemoryError) or any(
        words in text
        for words in (
            "out of memory",
            "outofmemory",
            "failed to allocate memory",
            "can't allocate memory",
            "bad_alloc",
            "bad allocation",
        )
    )


def halve(rows: int, length: int, notify: Callable[[str], None]) -> int:
    """The next smaller number of rows for a batch; SurgeonError where a single row is too much.

    To be called outside of the ``except`` block, whose error keeps the failed batch alive.
    """
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if rows <= 1:
        raise SurgeonError(
            f"out of memory with a batch of one row of {length} tokens; "
            "use another --dtype, another --device or less text"
        )
    notify(f"out of memory with a batch of {rows} x {length} tokens; going on with {rows // 2}")
    return rows // 2
