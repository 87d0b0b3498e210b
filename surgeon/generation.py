"""Text from a checkpoint, as it comes: through onnxruntime where it has a graph, else transformers."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from surgeon.checkpoint.source import Source, open_local, read_json
from surgeon.detokenize import Detokenizer
from surgeon.errors import SurgeonError
from surgeon.runtime.sampler import Sampling

RUNTIMES = ("auto", "onnxruntime", "transformers")


def generate(
    model: str | os.PathLike[str],
    prompt: str,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int | None = None,
    *,
    top_p: float = 1.0,
    runtime: str = "auto",
    device: str = "auto",
    cuda_graph: bool = False,
) -> Iterator[str]:
    """Yields the continuation of ``prompt`` piece by piece, the prompt itself not included.

    ``temperature`` 0 is greedy. ``runtime`` auto takes onnxruntime if model.onnx is there, else
    transformers; ``device`` auto takes CUDA if the runtime has it; ``cuda_graph`` replays decode steps
    as CUDA graphs there, which pays off for longer texts. Stops at the end-of-text tokens of
    generation_config.json or config.json. Raises SurgeonError if the runtime or the tokenizer are
    missing, or the prompt is empty.
    """
    if not prompt:
        raise SurgeonError("generate: the prompt is empty; give it some text")
    sampling = Sampling(temperature, top_p, seed)
    checkpoint, folder = open_local(model)
    source = checkpoint.source
    if runtime == "auto":
        runtime = "onnxruntime" if "model.onnx" in source.files() else "transformers"
    if runtime == "onnxruntime":
        from surgeon.runtime.decoding import generate_ids
        from surgeon.runtime.session import load

        loaded = load(model, device, cuda_graph)
        encode, decode = load_tokenizer(folder)
        ids = encode(prompt)
        stop = stop_tokens(source)
        steps = generate_ids(loaded, [ids], max_new_tokens, sampling, stop)
        tokens: Iterator[int] = (step[0] for step in steps if step[0] is not None)
    elif runtime == "transformers":
        from surgeon.runtime.with_transformers import load_model, tokens_of

        network, tokenizer = load_model(str(folder), device)
        ids = [int(token) for token in tokenizer(prompt)["input_ids"]]

        def decode(ids: Sequence[int]) -> str:
            return str(tokenizer.decode(ids, skip_special_tokens=True))

        tokens = tokens_of(network, tokenizer, ids, max_new_tokens, sampling)
    else:
        raise SurgeonError(f"--runtime {runtime!r} is not known; use {', '.join(RUNTIMES)}")
    return _pieces(Detokenizer(decode, ids), tokens)


def _pieces(text: Detokenizer, tokens: Iterator[int]) -> Iterator[str]:
    for token in tokens:
        if piece := text.push(token):
            yield piece
    if piece := text.end():
        yield piece


def stop_tokens(source: Source) -> list[int]:
    """The ids that end a text, from generation_config.json or else config.json."""
    for name in ("generation_config.json", "config.json"):
        if name in source.files():
            value = read_json(source, name).get("eos_token_id")
            if value is not None:
                return value if isinstance(value, list) else [value]
    return []


def load_tokenizer(
    folder: Path,
) -> tuple[Callable[[str], list[int]], Callable[[Sequence[int]], str]]:
    """Text to ids with the special tokens of a prompt, and ids to text without any.

    tokenizer.json is enough; a folder that has only other tokenizer files needs transformers.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise SurgeonError(
                "generate needs tokenizers, which is not installed; run: "
                "pip install 'surgeon[onnxruntime]'"
            ) from None
        fast: Any = Tokenizer.from_file(str(path))
        return lambda text: fast.encode(text).ids, lambda ids: str(fast.decode(list(ids)))
    from surgeon.runtime.with_transformers import load_tokenizer as load_slow

    slow = load_slow(str(folder))
    return (
        lambda text: [int(token) for token in slow(text)["input_ids"]],
        lambda ids: str(slow.decode(ids, skip_special_tokens=True)),
    )
