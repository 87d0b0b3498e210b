"""The small files that go along with the weights: what a user needs to run and to publish a model."""

import fnmatch
import json
from collections.abc import Sequence
from typing import Any

from surgeon.checkpoint.header import POINTER
from surgeon.checkpoint.source import Source
from surgeon.errors import SurgeonError
from surgeon.jsonfile import encode_json
from surgeon.layer_names import renumber
from surgeon.plan import Plan
from surgeon.structure import Structure

_PATTERNS = (
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.tiktoken",
    "tekken.json",
    "chat_template*",
    "additional_chat_templates/*",
    "licen[cs]e*",
    "notice*",
    "use_policy*",
)

_QUANTIZATION = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
"""Settings of quantized checkpoints, which may name layers."""


def companion_names(source: Source) -> list[str]:
    """The source's files that go along, in any case of letters."""
    return sorted(
        name
        for name in source.files()
        if not name.endswith((".safetensors", ".py"))
        and any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in (*_PATTERNS, *_QUANTIZATION))
    )


def companions(source: Source, plan: Plan, structure: Structure) -> dict[str, bytes]:
    """Their contents after a plan: as they were, but for layer names in quantization settings.

    Raises SurgeonError for a file that is a git-lfs pointer.
    """
    found = {}
    for name in companion_names(source):
        data = source.read(name)
        if data.startswith(POINTER):
            raise SurgeonError(
                f"{source.where(name)}: is a git-lfs pointer, not the file itself; run: git lfs pull"
            )
        if name in _QUANTIZATION:
            data = _renumbered(data, plan, structure, source.where(name))
        found[name] = data
    return found


def _renumbered(data: bytes, plan: Plan, structure: Structure, where: str) -> bytes:
    try:
        settings: Any = json.loads(data)
    except ValueError:
        raise SurgeonError(f"{where}: not JSON") from None
    new = renumber(settings, plan, structure, where)
    return data if new == settings else encode_json(new)


def license_lines(source: Source) -> list[str]:
    """The ``license`` fields of the head of the source's model card."""
    if "README.md" not in source.files():
        return []
    lines = source.read("README.md").decode("utf-8", "replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return []
    head = lines[1 : lines.index("---", 1)] if "---" in lines[1:] else []
    keys = ("license:", "license_name:", "license_link:")
    return [line.rstrip() for line in head if line.startswith(keys) and not line.rstrip().endswith(":")]


def llama_duties(licence: Sequence[str], base: str, repo: str | None = None) -> tuple[str, ...]:
    """What the Llama licences ask of who publishes a derivative, as sentences; none for other licences.

    ``licence`` are the lines of ``license_lines``, ``base`` the name of the base model, ``repo`` that
    of the derivative if it has one yet.
    """
    text = " ".join(licence).lower()
    if "llama" not in text and not base.lower().startswith("meta-llama/"):
        return ()
    said = ["The Llama licence goes with the weights: keep LICENSE, NOTICE and USE_POLICY with them."]
    if not ("llama2" in text or "llama-2" in base.lower()):
        said.append('From Llama 3 on it asks you to show "Built with Llama" on the model\'s page.')
        if repo is None or not repo.rpartition("/")[2].lower().startswith("llama"):
            said.append("It also asks that the name of a derived model begins with Llama.")
    return tuple(said)
