"""Generation by transformers: loading a folder, and its tokens one by one."""

from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from threading import Thread
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.runtime.sampler import Sampling
from surgeon.units import dtype_name


def load_tokenizer(folder: str) -> Any:
    """transformers' tokenizer of a folder; SurgeonError if it cannot be loaded."""
    transformers = import_transformers()
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise SurgeonError(f"{folder}: its tokenizer cannot be loaded ({error})") from None


DTYPES = ("auto", "float32", "float16", "bfloat16")
"""What ``--dtype`` takes; auto is the checkpoint's own on CUDA, float32 on the CPU."""


def load_model(folder: str, device: str = "auto", dtype: str = "auto") -> tuple[Any, Any]:
    """Model and tokenizer; SurgeonError for a device or a dtype that cannot be had."""
    device, dtype = placement(device, dtype)
    tokenizer = load_tokenizer(folder)
    import torch
    import transformers

    # nothing of a checkpoint is executed: pruned ones load through the classes of this package
    network = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype if dtype == "auto" else getattr(torch, dtype), trust_remote_code=False
    )
    return network.to(device), tokenizer


def placement(device: str, dtype: str) -> tuple[str, str]:
    """Device and dtype that "auto" comes to; dtype stays auto on CUDA, for that of the checkpoint.

    SurgeonError for those that are not known or not here.
    """
    import_transformers()
    import torch

    if device not in ("auto", "cuda", "cpu"):
        raise SurgeonError(f"--device {device!r} is not known; use auto, cuda, cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise SurgeonError("--device cuda: torch finds no CUDA device; use --device cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    name = dtype_name(dtype)
    if name not in DTYPES:
        raise SurgeonError(f"--dtype {dtype!r} is not known; use {', '.join(DTYPES)}")
    return device, "float32" if name == "auto" and device == "cpu" else name


def import_transformers() -> Any:
    """transformers, without its progress bars; SurgeonError names what is not installed."""
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
    sampling: Sampling,
) -> Iterator[int]:
    """The new ids of transformers' ``generate``, which runs in a thread and puts them into a queue.

    Nothing but ``sampling`` decides: the model's own top_k, beams and penalties are set aside, as
    onnxruntime has none of them.
    """
    import torch

    queue: SimpleQueue[int | BaseException | None] = SimpleQueue()
    abandoned = False
    ids = torch.tensor([prompt], device=network.device)
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "do_sample": sampling.temperature > 0,
        "num_beams": 1,
        "repetition_penalty": 1.0,
    }
    if sampling.temperature > 0:
        options |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    if sampling.seed is not None:
        torch.manual_seed(sampling.seed)

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
