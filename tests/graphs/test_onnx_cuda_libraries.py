"""CUDA's libraries for onnxruntime: found where pip puts them, and named where they are missing."""

import ctypes
import shutil
import sys
from types import SimpleNamespace

import pytest

from surgeon.runtime import cuda


@pytest.fixture
def fake(tmp_path):
    """An onnxruntime for CUDA, as far as it is asked here; ``calls`` has what it was asked."""
    capi = tmp_path / "capi"
    capi.mkdir()
    (capi / "libonnxruntime_providers_cuda.so").touch()
    calls = []

    def preload_dlls():
        sys.stdout.write("Failed to load libcufft.so.12\n")
        calls.append("preload")

    native = SimpleNamespace(
        set_arena_extend_strategy=calls.append,
        ArenaExtendStrategy=SimpleNamespace(kSameAsRequested="exact"),
    )
    return SimpleNamespace(
        __file__=str(tmp_path / "__init__.py"),
        __version__="1.31.1",
        capi=SimpleNamespace(_pybind_state=native),
        preload_dlls=preload_dlls,
        set_default_logger_severity=calls.append,
        calls=calls,
    )


def test_libraries_come_first_and_the_log_is_back_afterwards(fake, capsys):

    def make():
        with cuda.prepared(fake):
            fake.calls.append("session")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        make()
    assert fake.calls == ["preload", 4, "exact", "session", 2]
    assert capsys.readouterr().out == ""


def test_an_older_onnxruntime(fake):
    """Without the function that loads libraries, and without that of the pool."""
    del fake.preload_dlls
    fake.capi._pybind_state = SimpleNamespace()
    with cuda.prepared(fake):
        pass
    assert fake.calls == [4, 2]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            "libcublasLt.so.13: cannot open shared object file: No such file or directory",
            ["onnxruntime 1.31.1 needs libcublasLt.so.13 for CUDA", "pip install 'surgeon[gpu]'"],
        ),
        (
            "libcuda.so.1: cannot open shared object file: No such file or directory",
            ["libcuda.so.1", "NVIDIA's driver", "--dtype fp32"],
        ),
        ("/x/libonnxruntime_providers_cuda.so: undefined symbol: cuInit", ["undefined symbol: cuInit"]),
        (None, ["no usable CUDA device", "--dtype fp32"]),
    ],
)
def test_what_is_missing_is_named(error, words, fake, monkeypatch):
    def load(path):
        assert path.endswith("libonnxruntime_providers_cuda.so")
        if error:
            raise OSError(error)

    monkeypatch.setattr(ctypes, "CDLL", load)
    told = str(cuda.why_not(fake))
    assert "\n" not in told
    for word in words:
        assert word in told


def test_a_session_without_cuda_is_refused(fake, monkeypatch, tmp_path):
    """The provider is in the build, but the session comes without it."""
    onnxruntime = pytest.importorskip("onnxruntime")
    from llama_numbers import SAMPLE

    from surgeon.errors import SurgeonError
    from surgeon.onnx.export import export_onnx
    from surgeon.runtime.session import load

    folder = tmp_path / "m"
    shutil.copytree(SAMPLE, folder)
    export_onnx(folder, "fp16")
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    session = SimpleNamespace(get_providers=lambda: providers[1:])
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *a, **k: session)
    with pytest.raises(SurgeonError, match="no usable CUDA device"):
        load(folder, "cuda")
