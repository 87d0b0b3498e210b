"""Text from a checkpoint through transformers, as it comes."""

import os
from collections.abc import Iterator
from typing import Any

from surgeon.checkpoint.source import open_checkpoint
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
    the CPU in float32. Raises SurgeonError if torch, transformers or the tokenizer are missing.
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
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False).to(device)
    if not inputs["input_ids"].numel():
        raise SurgeonError("generate: the prompt is empty; give it some text")
    dtype: Any = "auto" if device == "cuda" else torch.float32
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device)
    if seed is not None:
        torch.manual_seed(seed)
    sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    yield from _stream(network, tokenizer, inputs, {"max_new_tokens": max_new_tokens, **sampling})


def _stream(network: Any, tokenizer: Any, inputs: Any, options: dict[str, Any]) -> Iterator[str]:
    """Runs generation in a thread of its own and hands over the text as it comes."""
    from threading import Thread

    from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

    class Abandoned(StoppingCriteria):  # type: ignore[misc]
        """Ends the thread when nobody listens any more."""

        now = False

        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            import torch

            return torch.full((input_ids.shape[0],), self.now, device=input_ids.device)

    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    abandoned = Abandoned()
    failure: list[BaseException] = []

    def work() -> None:
        try:
            network.generate(
                **inputs,
                **options,
                pad_token_id=tokenizer.eos_token_id,
                streamer=streamer,
                stopping_criteria=StoppingCriteriaList([abandoned]),
            )
        except BaseException as error:
            failure.append(error)
            streamer.end()

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        yield from streamer
    finally:
        abandoned.now = True
        thread.join()
    if failure:
        raise failure[0]
