"""Models in other runtimes, and transformers' numbers to hold them against."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import models_fixtures
import pytest

import surgeon

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

cut, folder, load, network, pruned, quiet_torch, source, whole = models_fixtures.FIXTURES

SHAPE = {
    "vocab_size": 2048,
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rope_theta": 50000.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Of small models, in the fields that all families' configs have."""

WORKER = Path(__file__).parent / "llamacpp_worker.py"


@pytest.fixture(scope="session")
def prompt() -> list[int]:
    """Random tokens of the sample's vocabulary, bytes aside."""
    import torch

    return torch.randint(259, 2048, (24,), generator=torch.Generator().manual_seed(7)).tolist()


@pytest.fixture(scope="session")
def logprobs() -> Callable[..., Any]:
    """What transformers says of the tokens that follow ``prompt``: float32 [steps, vocabulary]."""

    def work_out(model: Any, prompt: list[int], tokens: list[int]) -> Any:
        import torch

        with torch.no_grad():
            logits = model(torch.tensor([prompt + tokens])).logits[0]
        return logits.log_softmax(-1)[len(prompt) - 1 : -1]

    return work_out


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a random model of a family, with the sample's tokenizer."""

    def make(prefix: str, **settings: Any) -> Path:
        import torch
        import transformers

        torch.manual_seed(3)
        config = getattr(transformers, f"{prefix}Config")(**SHAPE, **settings)
        model = getattr(transformers, f"{prefix}ForCausalLM")(config)
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.copy_((1 if "norm" in name else 0) + 0.2 * torch.randn_like(value))
        folder = tmp_path_factory.mktemp(prefix) / "model"
        model.save_pretrained(folder)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(Path(surgeon.__file__).parent / "sample" / file, folder)
        return folder

    return make


@pytest.fixture(scope="session")
def gguf_file(
    folder: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Path]:
    """A model, or one of llamas.CUTS of it in the portable form, as a GGUF file."""

    @cache
    def make(name: str, key: str | None, dtype: str) -> Path:
        from surgeon.gguf.export import export_gguf

        file = tmp_path_factory.mktemp("gguf") / f"{name}-{key}-{dtype}.gguf"
        export_gguf(folder(name, key, True), dtype, output=file)
        return file

    return lambda name, key=None, dtype="f32": make(name, key, dtype)


@pytest.fixture(scope="session")
def llama_cpp(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Runs a GGUF file in llama.cpp: the worker's answer, or its end fails the test."""
    pytest.importorskip("xllamacpp")

    def run(file: Path, vocabulary: int = 2048, **job: Any) -> dict[str, Any]:
        answer = tmp_path_factory.mktemp("llama") / "answer.json"
        settings = {"prompts": [], "texts": [], "steps": 1, "banned": list(range(259)), **job}
        done = subprocess.run(
            [sys.executable, WORKER, answer],
            input=json.dumps({"file": str(file), "vocabulary": vocabulary, **settings}),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert answer.exists(), done.stderr[-2000:]
        return dict(json.loads(answer.read_text(encoding="utf-8")))

    return run
