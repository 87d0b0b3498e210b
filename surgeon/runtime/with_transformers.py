"""Generation by transformers: loading a folder, and its tokens one by one."""

from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from threading import Thread
from typing import Any

from surgeon.errors import SurgeonError


def load_tokenizer(folder: str) -> Any:
    """transformers' tokenizer of a folder; SurgeonError if it cannot be loaded."""
    transformers = _import()
    try:
        return transformers.AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, ImportError) as error:
        raise SurgeonError(f"{folder}: its tokenizer cannot be loaded ({error})") from None


def load_model(folder: str, device: str = "auto") -> tuple[Any, Any]:
    """Model and tokenizer: on CUDA in the checkpoint's dtype, on the CPU in float32."""
    transformers = _import()
    import torch

    if device not in ("auto", "cuda", "cpu"):
        raise SurgeonError(f"--device {device!r} is not known; use auto, cuda, cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise SurgeonError("--device cuda: torch finds no CUDA device; use --device cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = load_tokenizer(folder)
    dtype: Any = "auto" if device == "cuda" else torch.float32
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return network.to(device), tokenizer


def _import() -> Any:
    try:
        import torch  # noqa: F401
        import transformers
    except ImportError as error:
        raise SurgeonError(
            f"this needs {error.name}, which is not installed; run: pip install 'surgeon[torch]'"
        ) from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


class _Abandoned(Exception):
    """Nobody takes the tokens any more."""


def tokens_of(
    network: Any,
    tokenizer: Any,
    prompt: Sequence[int],
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int | None,
) -> Iterator[int]:
    """The new ids of transformers' ``generate``, which runs in a thread and puts them into a queue."""
    import torch

    queue: SimpleQueue[int | BaseException | None] = SimpleQueue()
    abandoned = False
    ids = torch.tensor([prompt], device=network.device)
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": temperature > 0}
    if temperature > 0:
        options |= {"temperature": temperature, "top_p": top_p}
    if seed is not None:
        torch.manual_seed(seed)

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
            network.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pad_token_id=tokenizer.eos_token_id,
                streamer=Streamer(),
                **options,
            )
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
