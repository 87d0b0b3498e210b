"""Text from a checkpoint through transformers, as it comes."""

import os
from collections.abc import Iterator
from queue import SimpleQueue
from threading import Thread
from typing import Any

from surgeon.checkpoint.source import open_checkpoint
from surgeon.detokenize import Detokenizer
from surgeon.errors import SurgeonError


def generate(
    model: str | os.PathLike[str],
    prompt: str,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int | None = None,
) -> Iterator[str]:
    """Yields the continuation of ``prompt`` piece by piece, the prompt itself not included.

    ``temperature`` 0 is greedy. Runs on CUDA in the checkpoint's dtype where there is one, else on
    the CPU in float32. Raises SurgeonError if torch, transformers or the tokenizer are missing, or
    the prompt is empty.
    """
    folder = str(open_checkpoint(model).source.path(""))
    try:
        import torch
        import transformers
    except ImportError as error:
        raise SurgeonError(
            f"generate needs {error.name}, which is not installed; run: pip install 'surgeon[torch]'"
        ) from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise SurgeonError(f"{folder}: its tokenizer cannot be loaded ({error})") from None
    if not prompt:
        raise SurgeonError("generate: the prompt is empty; give it some text")
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False).to(device)
    dtype: Any = "auto" if device == "cuda" else torch.float32
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device)
    if seed is not None:
        torch.manual_seed(seed)
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": temperature > 0}
    if temperature > 0:
        options["temperature"] = temperature
    text = Detokenizer(
        lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)),
        inputs["input_ids"][0].tolist(),
    )
    for token in _tokens(network, {**inputs, **options, "pad_token_id": tokenizer.eos_token_id}):
        if piece := text.push(token):
            yield piece
    if piece := text.end():
        yield piece


class _Abandoned(Exception):
    """Nobody takes the tokens any more."""


def _tokens(network: Any, arguments: dict[str, Any]) -> Iterator[int]:
    """The new ids of transformers' ``generate``, which runs in a thread and puts them into a queue."""
    queue: SimpleQueue[int | BaseException | None] = SimpleQueue()
    abandoned = False

    class Streamer:
        prompt = True

        def put(self, value: Any) -> None:
            if abandoned:
                raise _Abandoned
            if not self.prompt:
                queue.put(int(value[0]))
            self.prompt = False

        def end(self) -> None:
            queue.put(None)

    def work() -> None:
        try:
            network.generate(**arguments, streamer=Streamer())
        except _Abandoned:
            pass
        except BaseException as error:
            queue.put(error)

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        abandoned = True
        thread.join()
