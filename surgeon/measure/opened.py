"""A model about to be measured: headers and tokenizer are here, weights come when they are used."""

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from surgeon.accounting import costs
from surgeon.checkpoint.source import Checkpoint, open_local
from surgeon.measure.network import Network
from surgeon.measure.results import Subject
from surgeon.plan import Site, Sublayer
from surgeon.version import __version__


@dataclass(frozen=True)
class Opened:
    """A checkpoint whose files are all in ``folder``, the device and the dtype that it is to run in."""

    checkpoint: Checkpoint
    folder: Path
    device: str
    dtype: str

    @classmethod
    def open(cls, model: str | os.PathLike[str], device: str = "auto", dtype: str = "auto") -> Self:
        """Opens a model as ``Network.load`` does, but loads nothing; SurgeonError likewise."""
        from surgeon.runtime.with_transformers import placement

        checkpoint, folder = open_local(model)
        device, dtype = placement(device, dtype)
        if dtype == "auto":
            dtype = checkpoint.structure.dtype or dtype
        return cls(checkpoint, folder, device, dtype)

    @property
    def name(self) -> str:
        """What a user would call it."""
        return self.checkpoint.source.name

    @property
    def num_layers(self) -> int:
        """Its layers, with those that lack a sublayer."""
        return self.checkpoint.structure.num_layers

    @property
    def absent(self) -> frozenset[Site]:
        """The sublayers that it lacks, since it was cut before."""
        return self.checkpoint.structure.absent

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sublayers that it has, in the order of computation."""
        every = ((layer, sub) for layer in range(self.num_layers) for sub in Sublayer)
        return tuple(site for site in every if site not in self.absent)

    @property
    def vocab_size(self) -> int:
        """The width of its logits."""
        return self.checkpoint.structure.dims.vocab_size

    @property
    def context(self) -> int:
        """The number of tokens that it was made for."""
        value = self.checkpoint.config.get("max_position_embeddings")
        return value if isinstance(value, int) and value > 0 else 2048  # Llama's default

    @cached_property
    def tokenizer(self) -> Any:
        """transformers' tokenizer."""
        from surgeon.runtime.with_transformers import load_tokenizer

        return load_tokenizer(str(self.folder))

    @cached_property
    def network(self) -> Network:
        """The loaded model."""
        return Network.load(self.folder, self.device, self.dtype)

    @cached_property
    def fingerprint(self) -> str:
        """See the function of this name."""
        return fingerprint(self.checkpoint)

    def subject(self) -> Subject:
        """What a report says of it."""
        import torch
        import transformers

        checkpoint = self.checkpoint
        disk = sum(checkpoint.shards.values())
        device = self.device
        if device == "cuda":
            device += f" ({torch.cuda.get_device_name()})"
        return Subject(
            model=self.name,
            revision=checkpoint.source.revision,
            fingerprint=self.fingerprint,
            num_layers=self.num_layers,
            parameters=costs(checkpoint.structure, checkpoint.tensors.values(), disk).parameters,
            dtype=self.dtype,
            device=device,
            versions={
                "surgeon": __version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
        )


def fingerprint(checkpoint: Checkpoint) -> str:
    """Tells models apart that differ in config or in weights, fine-tunes of one model among them.

    SHA-256 over the config, the headers and a page of every tensor.
    """
    digest = hashlib.sha256(checkpoint.fingerprint.encode() + checkpoint.source.read("config.json"))
    digest.update(checkpoint.sample_digest().encode())
    return digest.hexdigest()
