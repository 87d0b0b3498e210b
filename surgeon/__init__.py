"""surgeon removes attention, MLP or whole blocks from a Llama-like checkpoint, byte by byte.

The public words are those of the command line::

    import surgeon

    report = surgeon.prune("sample", "out", drop="attn", last=4, keep_last=True)
    surgeon.inspect("out").costs.kv_bytes_per_token
    assert surgeon.verify("out", against="sample").ok

Importing it is light: no torch, no transformers. It also makes pruned folders load through
transformers' Auto classes without ``trust_remote_code``.
"""

from typing import TYPE_CHECKING, Any

from surgeon.auto import register_when_imported
from surgeon.version import __version__

if TYPE_CHECKING:
    from surgeon.errors import SurgeonError
    from surgeon.gguf.export import GgufReport, export_gguf
    from surgeon.hub.push import PushReport, push
    from surgeon.inspection import Inspection, inspect
    from surgeon.measure.compare import similarity
    from surgeon.measure.files import read_report
    from surgeon.measure.latency.run import bench
    from surgeon.measure.quality import evaluate, sweep
    from surgeon.measure.similarity import Similarity
    from surgeon.measure.tasks import TaskSettings
    from surgeon.measure.text import TextSettings
    from surgeon.onnx.export import ExportReport, export_onnx
    from surgeon.plan import Plan, Sublayer
    from surgeon.rule import Rule
    from surgeon.surgery import PruneReport, prune
    from surgeon.verification import Verification, verify

__all__ = [
    "ExportReport",
    "GgufReport",
    "Inspection",
    "Plan",
    "PruneReport",
    "PushReport",
    "Rule",
    "Similarity",
    "Sublayer",
    "SurgeonError",
    "TaskSettings",
    "TextSettings",
    "Verification",
    "__version__",
    "bench",
    "evaluate",
    "export_gguf",
    "export_onnx",
    "inspect",
    "prune",
    "push",
    "read_report",
    "similarity",
    "sweep",
    "verify",
]

_HOMES = {
    "ExportReport": "surgeon.onnx.export",
    "export_onnx": "surgeon.onnx.export",
    "GgufReport": "surgeon.gguf.export",
    "export_gguf": "surgeon.gguf.export",
    "bench": "surgeon.measure.latency.run",
    "read_report": "surgeon.measure.files",
    "evaluate": "surgeon.measure.quality",
    "sweep": "surgeon.measure.quality",
    "TaskSettings": "surgeon.measure.tasks",
    "TextSettings": "surgeon.measure.text",
    "Inspection": "surgeon.inspection",
    "inspect": "surgeon.inspection",
    "Plan": "surgeon.plan",
    "Rule": "surgeon.rule",
    "Sublayer": "surgeon.plan",
    "PruneReport": "surgeon.surgery",
    "PushReport": "surgeon.hub.push",
    "push": "surgeon.hub.push",
    "prune": "surgeon.surgery",
    "Similarity": "surgeon.measure.similarity",
    "similarity": "surgeon.measure.compare",
    "SurgeonError": "surgeon.errors",
    "Verification": "surgeon.verification",
    "verify": "surgeon.verification",
}

register_when_imported()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'surgeon' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
