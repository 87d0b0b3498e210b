"""Decoding where the device works by itself: the next step begins before the tokens of one are read."""

import ctypes
import dataclasses
import os
from types import SimpleNamespace

import pytest
from llama_numbers import rows
from test_onnx_generation import PROMPTS, tokens

from surgeon.errors import SurgeonError
from surgeon.runtime.stream import Stream, open_stream


class Device:
    """A stream on which work is done at once, as a CPU does it, and what was asked of it."""

    def __init__(self):
        self.asked = []

    def mark(self):
        return SimpleNamespace(
            set=lambda: self.asked.append("set"), wait=lambda: self.asked.append("wait")
        )


@pytest.fixture
def ahead(opened):
    """A model on such a device."""
    return lambda name: dataclasses.replace(opened(name), stream=Device())


@pytest.mark.models
@pytest.mark.parametrize("name", ["sample", "gqa"])
def test_the_same_tokens(name, opened, ahead):
    from surgeon.runtime.sampler import Sampling

    for options in ({"stop": [2]}, {"sampling": Sampling(temperature=0.8, top_p=0.9, seed=1)}):
        want = tokens(opened(name), PROMPTS, 60, **options)
        assert tokens(ahead(name), PROMPTS, 60, **options) == want


@pytest.mark.models
def test_no_step_is_begun_beyond_the_last(ahead):
    """It would write behind the end of the caches."""
    loaded = ahead("gqa")
    assert len(tokens(loaded, PROMPTS, 9)[0]) == 9
    assert loaded.stream.asked.count("set") == 9 + 1, "a token each, and the end"
    assert loaded.stream.asked[:5] == ["set", "wait", "set", "set", "wait"], (
        "two steps, then one is read"
    )


@pytest.mark.models
def test_nothing_is_under_way_when_it_ends_early(opened, ahead):
    from surgeon.runtime.decoding import generate_ids

    first, second = tokens(opened("gqa"), PROMPTS[:1], 2)[0]
    assert first != second
    loaded = ahead("gqa")
    assert rows(list(generate_ids(loaded, PROMPTS[:1], 9, stop=[second]))) == [[first, second]]
    assert loaded.stream.asked == ["set", "wait", "set", "set", "wait", "set", "wait"]
    broken_off = generate_ids(loaded, PROMPTS[:1], 9)
    next(broken_off), next(broken_off)
    broken_off.close()
    assert loaded.stream.asked[7:] == ["set", "wait", "set", "set", "wait", "set", "wait"]


@pytest.mark.models
def test_nothing_is_under_way_after_an_error(ahead, monkeypatch):
    """Such as Ctrl-C between the model and the choice of its token: buffers go, and with them memory
    that the device still writes to."""
    from surgeon.runtime.decoding import Batch

    loaded, run = ahead("gqa"), Batch._run

    def fail(batch, session, *arguments):
        loaded.stream.asked.append("run")
        if loaded.stream.asked.count("run") == 6:
            raise KeyboardInterrupt
        run(batch, session, *arguments)

    monkeypatch.setattr(Batch, "_run", fail)
    with pytest.raises(KeyboardInterrupt):
        tokens(loaded, PROMPTS[:1], 9)
    assert loaded.stream.asked[-3:] == ["run", "set", "wait"]


@pytest.mark.models
def test_measuring_ends_with_the_last_step(ahead):
    import numpy as np

    from surgeon.measure.latency.with_onnxruntime import OnnxruntimeSteps

    loaded = ahead("gqa")
    step, rewind = OnnxruntimeSteps(loaded).decode(np.array(PROMPTS[:1]), 4)
    first = [step() for _ in range(4)]
    assert loaded.stream.asked.count("set") == 5, "the prompt and four"
    rewind()
    assert [step() for _ in range(4)] == first
    assert loaded.stream.asked.count("set") == loaded.stream.asked.count("wait") == 10
    rewind()
    step()
    rewind()
    assert [step() for _ in range(4)] == first, "though a step was under way when it went back"


class Runtime:
    """The CUDA runtime's functions. ``failing`` is the name of one that returns an error."""

    def __init__(self, failing=""):
        self.calls = []
        self.failing = failing
        self.cudaGetErrorString = lambda code: b"out of memory" if code == 2 else b"?"

    def __getattr__(self, name):
        def call(*arguments):
            self.calls.append(name)
            if name == self.failing:
                return 2
            if name.startswith(("cudaStreamCreate", "cudaEventCreate")):
                arguments[0]._obj.value = 4096
            return 0

        return call


def test_a_stream_and_a_mark():
    runtime = Runtime()
    stream = Stream(runtime)
    assert stream.address == 4096
    mark = stream.mark()
    mark.set()
    mark.wait()
    del mark
    assert runtime.calls == [
        "cudaSetDevice",
        "cudaStreamCreateWithFlags",
        "cudaSetDevice",
        "cudaEventCreateWithFlags",
        "cudaEventRecord",
        "cudaEventSynchronize",
        "cudaEventDestroy",
    ]


def test_an_error_of_the_device_is_told():
    mark = Stream(Runtime("cudaEventSynchronize")).mark()
    with pytest.raises(SurgeonError, match="CUDA failed: out of memory"):
        mark.wait()


def test_a_mark_that_could_not_be_made_is_not_given_back():
    runtime = Runtime("cudaEventCreateWithFlags")
    stream = Stream(runtime)
    with pytest.raises(SurgeonError, match="out of memory"):
        stream.mark()
    assert "cudaEventDestroy" not in runtime.calls


def test_no_stream_where_there_is_no_runtime_or_no_device(monkeypatch):
    asked = []

    def library(name):
        asked.append(name)
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", library)
    assert open_stream("13.0") is None
    assert open_stream("") is None, "an onnxruntime that does not tell its CUDA"
    monkeypatch.setattr(os, "name", "nt")
    assert open_stream("12.8") is None
    monkeypatch.undo()
    assert asked == ["libcudart.so.13", "libcudart.so.", "cudart64_12.dll"]
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Runtime("cudaStreamCreateWithFlags"))
    assert open_stream("13.0") is None
