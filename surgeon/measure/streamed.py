"""A network that holds the weights of one layer at a time, for models larger than the memory.

The modules are transformers' own, made without weights (on torch's meta device). A layer gets its
weights from the safetensors bytes when the stream comes to it, and loses them when the next one does;
of the embeddings, only the rows of the tokens at hand are read. Run layer by layer, all windows through
one before the next, the weights are read once.
"""

from pathlib import Path
from typing import Any

from surgeon.checkpoint.header import Tensor
from surgeon.checkpoint.source import Checkpoint
from surgeon.errors import SurgeonError
from surgeon.measure.network import Network, State
from surgeon.measure.opened import Opened
from surgeon.plan import Site

DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
"""safetensors' dtypes that can be read here, by their names in torch."""


def streamed(opened: Opened) -> "StreamedNetwork":
    """The network of a model whose weights stay on disk; SurgeonError for a quantized one."""
    checkpoint = opened.checkpoint
    if checkpoint.structure.quantized:
        raise SurgeonError(f"{opened.name}: is quantized, and --low-memory reads plain weights only")
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(str(opened.folder), trust_remote_code=False)
    dtype = _dtype(checkpoint) if opened.dtype == "auto" else opened.dtype
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, dtype), trust_remote_code=False
        )
    return StreamedNetwork(model, opened)


class StreamedNetwork(Network):
    """A ``Network`` without logits: ``embed`` and ``advance`` compute what the loaded model does."""

    def __init__(self, model: Any, opened: Opened) -> None:
        """Takes a model on the meta device."""
        import torch

        self._weights = _Weights(opened.checkpoint, opened.folder)
        self._place = torch.device(opened.device)
        self._family = opened.checkpoint.family
        self._held: int | None = None
        base = model.base_model
        # its frequencies are computed, not read
        base.rotary_emb = type(base.rotary_emb)(config=model.config).to(self._place)
        base.embed_tokens = self._weights.rows(f"{self._family.embedding}.weight", base.dtype)
        self._weights.fill(base.norm, self._family.norm, self._place)
        super().__init__(model, opened.tokenizer)

    @property
    def device(self) -> Any:
        """Where it computes, as a torch.device."""
        return self._place

    def advance(self, state: State, site: Site) -> State:
        """The stream after one more sublayer, whose layer is read if it is not the one at hand."""
        layer = site[0]
        if layer != self._held:
            layers = self._stack.layers
            if self._held is not None:
                self._weights.take_back(layers[self._held])
            self._held = None
            self._weights.fill(layers[layer], f"{self._family.layers}.{layer}", self._place)
            self._held = layer
        return super().advance(state, site)


class _Weights:
    """The tensors of a local checkpoint, read one by one.

    Memory is used again for the next layer rather than freed: an allocator that is asked for large
    blocks of changing sizes keeps what it got, and the process would grow from layer to layer.
    """

    def __init__(self, checkpoint: Checkpoint, folder: Path) -> None:
        self._tensors = checkpoint.tensors
        self._folder = folder
        self._spare: dict[tuple[Any, ...], list[Any]] = {}
        self._buffer: Any = None

    def fill(self, module: Any, prefix: str, device: Any) -> None:
        """Gives a module without weights those of its name, in its own dtype."""
        import torch

        for name, empty in list(module.named_parameters()):
            spare = self._spare.get((empty.shape, empty.dtype))
            weights = spare.pop() if spare else torch.empty_like(empty, device=device)
            weights.copy_(self._read(self._tensor(f"{prefix}.{name}")))
            _put(module, name, weights)

    def take_back(self, module: Any) -> None:
        """Leaves a module without weights; their memory is for the next one."""
        import torch

        for name, weights in list(module.named_parameters()):
            self._spare.setdefault((weights.shape, weights.dtype), []).append(weights.detach())
            _put(module, name, torch.empty_like(weights, device="meta"))

    def rows(self, name: str, dtype: Any) -> Any:
        """A module that looks up rows of a table as torch's Embedding does, from the file."""
        import torch

        tensor, weights = self._tensor(name), self

        class Rows(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
            def forward(self, ids: Any) -> Any:
                wanted, places = ids.unique(return_inverse=True)
                rows = weights._rows(tensor, wanted.tolist())
                return rows.to(ids.device, dtype)[places]  # a copy, before the buffer changes

        return Rows()

    def _tensor(self, name: str) -> Tensor:
        tensor = self._tensors.get(name)
        if tensor is None or tensor.dtype not in DTYPES:
            found = "missing" if tensor is None else f"of dtype {tensor.dtype}"
            raise SurgeonError(f"{self._folder}: {name!r} is {found}; --low-memory cannot run it")
        return tensor

    def _read(self, tensor: Tensor) -> Any:
        return self._bytes(tensor, [(tensor.offset, tensor.length)]).view(tensor.shape)

    def _rows(self, tensor: Tensor, wanted: list[int]) -> Any:
        row = tensor.length // tensor.shape[0]
        ranges = [(tensor.offset + number * row, row) for number in wanted]
        return self._bytes(tensor, ranges).view(len(wanted), *tensor.shape[1:])

    def _bytes(self, tensor: Tensor, ranges: list[tuple[int, int]]) -> Any:
        """Byte ranges of a tensor's file one behind the other, as a flat tensor of its dtype.

        It is a view of a buffer that the next call overwrites.
        """
        import torch

        size = sum(length for _, length in ranges)
        if self._buffer is None or len(self._buffer) < size:
            self._buffer = torch.empty(size, dtype=torch.uint8)
        data = self._buffer[:size]
        view = memoryview(data.numpy())
        place = self._folder / tensor.file
        try:
            with open(place, "rb", buffering=0) as stream:
                done = 0
                for offset, length in ranges:
                    stream.seek(offset)
                    end = done + length
                    while done < end:
                        count = stream.readinto(view[done:end])
                        if not count:
                            raise SurgeonError(f"{place}: ends early; it changed while it was read")
                        done += count
        except OSError as error:
            raise SurgeonError(f"{place}: cannot be read ({error.strerror})") from None
        return data.view(getattr(torch, DTYPES[tensor.dtype]))


def _put(module: Any, name: str, weights: Any) -> None:
    """Sets a parameter by its dotted name."""
    import torch

    owner, _, leaf = name.rpartition(".")
    setattr(
        module.get_submodule(owner), leaf, torch.nn.Parameter(weights.detach(), requires_grad=False)
    )


def _dtype(checkpoint: Checkpoint) -> str:
    """What transformers takes for "auto" where the config does not tell: that of the weights."""
    return next((DTYPES[t.dtype] for t in checkpoint.tensors.values() if t.dtype in DTYPES), "float32")
