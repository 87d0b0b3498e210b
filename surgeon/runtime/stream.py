"""A CUDA stream and marks in it, through the C interface of the CUDA runtime that onnxruntime uses."""

import ctypes
import os
from typing import Any

from surgeon.errors import SurgeonError

_DEVICE = 0  # the one that onnxruntime takes, whatever the thread has chosen before
_NON_BLOCKING = 1  # it does not wait for CUDA's default stream
_NO_TIMES = 2  # a mark that only says whether it was reached


class Stream:
    """Work on the device, done in the order in which it is given.

    It is never given back: sessions may outlive who made them.
    """

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._handle = ctypes.c_void_p()
        _check(runtime, runtime.cudaSetDevice(_DEVICE))
        made = runtime.cudaStreamCreateWithFlags(ctypes.byref(self._handle), _NON_BLOCKING)
        _check(runtime, made)

    @property
    def address(self) -> int:
        """What onnxruntime takes."""
        return self._handle.value or 0

    def mark(self) -> "Mark":
        """A mark that can be set behind what was given to the stream, again and again."""
        return Mark(self._runtime, self._handle)


class Mark:
    """A place in a stream: where the work ended that had been given to it when the mark was ``set``."""

    def __init__(self, runtime: Any, stream: ctypes.c_void_p) -> None:
        self._runtime, self._stream = runtime, stream
        self._handle = ctypes.c_void_p()
        _check(runtime, runtime.cudaSetDevice(_DEVICE))
        _check(runtime, runtime.cudaEventCreateWithFlags(ctypes.byref(self._handle), _NO_TIMES))

    def __del__(self) -> None:
        if self._handle:
            self._runtime.cudaEventDestroy(self._handle)

    def set(self) -> None:
        """Moves it to the end of the stream."""
        _check(self._runtime, self._runtime.cudaEventRecord(self._handle, self._stream))

    def wait(self) -> None:
        """Returns when the device is there. Raises SurgeonError for what went wrong on the way."""
        _check(self._runtime, self._runtime.cudaEventSynchronize(self._handle))


def open_stream(cuda_version: str) -> Stream | None:
    """A stream of the CUDA runtime of this version ("13.0"); None where that is not found or does not
    work, and every session has to take a stream of its own."""
    major = cuda_version.partition(".")[0]
    name = f"cudart64_{major}.dll" if os.name == "nt" else f"libcudart.so.{major}"
    try:
        return Stream(ctypes.CDLL(name))
    except (OSError, SurgeonError):
        return None


def _check(runtime: Any, code: int) -> None:
    """Raises SurgeonError for an error code of the CUDA runtime, with its words."""
    if code:
        runtime.cudaGetErrorString.restype = ctypes.c_char_p
        words = runtime.cudaGetErrorString(code)
        raise SurgeonError(f"CUDA failed: {words.decode() if words else code}")
