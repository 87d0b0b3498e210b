"""CUDA for onnxruntime: libraries where pip puts them, memory as asked for, and what is missing."""

import ctypes
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.runtime.stream import Stream, open_stream

_WARNING, _FATAL = 2, 4  # onnxruntime's levels; the first is its own choice


@contextmanager
def prepared(ort: Any) -> Iterator[None]:
    """For the making of a session, without the pages of log that onnxruntime writes when that fails.

    Loads the libraries that pip installed, which onnxruntime does not look for; nothing happens where
    torch has loaded them before.
    """
    if hasattr(ort, "preload_dlls"):
        with redirect_stdout(io.StringIO()):  # it tells of all that it does not find, needed or not
            ort.preload_dlls()
    ort.set_default_logger_severity(_FATAL)
    try:
        _exact_pool(ort)
        yield
    finally:
        ort.set_default_logger_severity(_WARNING)


def provider(ort: Any, cuda_graph: bool) -> tuple[tuple[str, dict[str, str]], Stream | None]:
    """The CUDA provider with its options, and the stream of all sessions that are made with it.

    To be called inside of ``prepared``, which loads what the stream needs.
    """
    # on an H200 its other decode kernel is 2-7 % faster, at every length and batch measured;
    # onnxruntime has no option for it but this
    os.environ.setdefault("ORT_ENABLE_XQA", "0")
    flags = {
        "enable_cuda_graph": "1" if cuda_graph else "0",
        "use_tf32": "0",
        # not up to the next power of two: beside the weights of a model that is gigabytes
        "arena_extend_strategy": "kSameAsRequested",
    }
    stream = open_stream(getattr(ort, "cuda_version", ""))
    if stream is not None:
        flags["user_compute_stream"] = str(stream.address)
    return ("CUDAExecutionProvider", flags), stream


def why_not(ort: Any) -> SurgeonError:
    """Of a session that came without CUDA: the library that is missing, or that there is no device.

    To be asked only after onnxruntime has tried itself: its library cannot be loaded before it.
    """
    library = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    here = "for the CPU export the graph with --dtype fp32"
    try:
        if library.is_file():
            ctypes.CDLL(str(library))
    except OSError as error:
        missing, _, why = str(error).partition(": ")
        if "cannot open" not in why:
            return SurgeonError(f"onnxruntime cannot load its CUDA library ({error}); {here}")
        if missing.startswith("libcuda."):
            return SurgeonError(
                f"onnxruntime needs {missing} for CUDA, which comes with NVIDIA's driver and is "
                f"missing; install the driver, or {here}"
            )
        return SurgeonError(
            f"onnxruntime {ort.__version__} needs {missing} for CUDA, which is missing; run: "
            "pip install 'surgeon[gpu]'"
        )
    return SurgeonError(f"onnxruntime found no usable CUDA device; {here}")


def _exact_pool(ort: Any) -> None:
    """Lets the pool that caches lie in grow by what is asked, not to the next power of two.

    It belongs to the process and not to a session, and nothing else reaches it than a function that
    onnxruntime calls deprecated.
    """
    native = ort.capi._pybind_state
    if hasattr(native, "set_arena_extend_strategy"):
        native.set_arena_extend_strategy(native.ArenaExtendStrategy.kSameAsRequested)
