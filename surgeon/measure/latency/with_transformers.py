"""transformers as it comes: eager, a dynamic cache, and cuts that share the whole model's weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from surgeon.checkpoint.source import Checkpoint
from surgeon.errors import SurgeonError
from surgeon.measure.latency.memory import forget_peak, peak_resident, resident
from surgeon.runtime.with_transformers import import_transformers
from surgeon.surgery import Operation

PEAK = "the cut's weights, and the most that was held beside the weights while it ran"
"""What ``peak_bytes`` means here: the whole model's weights stay loaded while cuts are measured."""


class TransformersSteps:
    """Steps of a transformers model on its device. The ids of a step come from the host each time."""

    def __init__(self, network: Any) -> None:
        self._network = network
        self._device = network.device

    def prefill(self, ids: Any) -> Callable[[Any], object]:
        """See ``Steps``."""
        import torch

        def step(ids: Any) -> object:
            with torch.inference_mode():
                moved = torch.from_numpy(ids).to(self._device)
                return self._network(moved, logits_to_keep=1).logits[:, -1].argmax(-1).tolist()

        return step

    def decode(self, ids: Any, steps: int) -> tuple[Callable[[], object], Callable[[], None]]:
        """See ``Steps``. The way back runs the prompts again: not every cache can be cropped."""
        import torch

        state: dict[str, Any] = {}

        def rewind() -> None:
            state.clear()  # the old cache, before there is a new one
            with torch.inference_mode():
                out = self._network(torch.from_numpy(ids).to(self._device), logits_to_keep=1)
            state.update(ids=out.logits[:, -1:].argmax(-1), cache=out.past_key_values)

        def step() -> object:
            with torch.inference_mode():
                got = self._network(state["ids"], past_key_values=state["cache"], logits_to_keep=1)
                state["ids"] = got.logits[:, -1:].argmax(-1)
                return state["ids"].tolist()

        rewind()
        return step, rewind


def load_whole(checkpoint: Checkpoint, dtype: str, device: str, random: bool) -> Any:
    """The model of a checkpoint on a device, in ``dtype`` ("float16", ...), ready for inference.

    ``random`` draws weights on the device instead of reading those of the checkpoint.
    """
    transformers = import_transformers()
    import torch

    folder, kind = str(checkpoint.source.folder), getattr(torch, dtype)
    if device == "cuda" and not torch.cuda.is_available():
        raise SurgeonError("--device cuda: torch finds no CUDA device; use --device cpu")
    auto = transformers.AutoModelForCausalLM
    if not random:
        return auto.from_pretrained(folder, dtype=kind, trust_remote_code=False).to(device).eval()
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device(device):
        return auto.from_config(config, dtype=kind).eval()


def cut_network(network: Any, operation: Operation) -> Any:
    """The model that transformers would load from the pruned folder, over ``network``'s own weights.

    Its modules are the cut's and no others, so a removed sublayer costs nothing. Nothing is copied.
    """
    transformers = import_transformers()
    import torch

    settings = {key: value for key, value in operation.config.items() if key != "auto_map"}
    config = transformers.AutoConfig.for_model(**settings)
    config._attn_implementation = network.config._attn_implementation
    dtype = network.dtype
    with torch.device("meta"):
        cut = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    have = network.state_dict()
    state = {
        tensor.name: have[tensor.source.name]
        for tensor in operation.layout.tensors
        if tensor.source is not None and tensor.source.name in have
    }
    missing, _ = cut.load_state_dict(state, strict=False, assign=True)
    cut.tie_weights()
    cut.model.rotary_emb = network.model.rotary_emb  # its tables are no weights
    left = [n for n, p in (*cut.named_parameters(), *cut.named_buffers()) if p.is_meta]
    if left:
        raise SurgeonError(f"bench: {left[0]} of the cut has no weights ({missing}); a bug of surgeon")
    return cut.eval()


class Memory:
    """The peak of what runs inside ``watched``, told as if only the cut's weights were loaded."""

    def __init__(self, network: Any) -> None:
        self._cuda = network.device.type == "cuda"
        tensors = {t.data_ptr(): t.nbytes for t in (*network.parameters(), *network.buffers())}
        self._weights = sum(tensors.values())
        self.peak: int | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Sets ``peak`` when it ends."""
        self.peak = None
        if self._cuda:
            import torch

            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            yield
            self.peak = self._weights + torch.cuda.max_memory_allocated() - before
        else:
            start = resident() if forget_peak() else None
            yield
            most = peak_resident()
            if start is not None and most is not None:
                self.peak = self._weights + max(0, most - start)


def versions() -> dict[str, str]:
    """Of what runs the model."""
    transformers = import_transformers()
    import torch

    found = {"torch": torch.__version__, "transformers": transformers.__version__}
    if torch.version.cuda:
        found["cuda"] = str(torch.version.cuda)
    return found
