"""Errors of the runtimes as one line that says where they happened."""

from collections.abc import Iterator
from contextlib import contextmanager

from surgeon.errors import SurgeonError
from surgeon.measure.memory import out_of_memory

SHORTER = "; ask for less with --lengths or --decode, or for a dtype of 16 bits"
SMALLER = "; its weights have no room: take a smaller model, or a dtype of 16 bits"
"""Advice for where memory is short: while a task runs, and while a model is made ready."""


@contextmanager
def told(what: str, advice: str) -> Iterator[None]:
    """Raises SurgeonError for what the runtimes raise inside: it begins with ``what``, and ends with
    ``advice`` where memory is short."""
    try:
        yield
    except SurgeonError as error:
        if str(error).startswith(f"{what}: "):
            raise
        more = advice if out_of_memory(error) else ""
        raise SurgeonError(f"{what}: {error}{more}") from None
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise SurgeonError(f"{what}: out of memory{advice}") from None
