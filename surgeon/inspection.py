"""What a checkpoint is: ``surgeon.inspect`` and ``surgeon inspect``. Reads headers alone."""

import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

from surgeon.accounting import Costs, costs
from surgeon.checkpoint.source import open_checkpoint, read_json
from surgeon.checkpoint.staging import SURGERY
from surgeon.plan import Sublayer
from surgeon.runtimes import Runtime, runtimes


@dataclass(frozen=True)
class Inspection:
    """A checkpoint in figures.

    ``attention`` and ``mlp`` say of each block whether it has that sublayer; ``dtypes`` gives bytes
    by dtype; ``shards`` bytes by file; ``surgery`` is its surgery.json, None for an uncut model.
    """

    model: str
    family: str
    dialect: str
    layers: int
    attention: tuple[bool, ...]
    mlp: tuple[bool, ...]
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    tied: bool
    quantized: bool
    costs: Costs
    dtypes: dict[str, int]
    shards: dict[str, int]
    surgery: dict[str, Any] | None
    runtimes: tuple[Runtime, ...]


def inspect(model: str | os.PathLike[str]) -> Inspection:
    """Describes a checkpoint: a folder, ORG/NAME[@REVISION], an fsspec URL or ``"sample"``.

    Raises SurgeonError when it is not one that surgeon could cut.
    """
    checkpoint = open_checkpoint(model)
    structure = checkpoint.structure
    dims = structure.dims
    dtypes: Counter[str] = Counter()
    for tensor in checkpoint.tensors.values():
        dtypes[tensor.dtype] += tensor.length
    surgery = None
    if SURGERY in checkpoint.source.files():
        surgery = read_json(checkpoint.source, SURGERY)
    has = {
        sub: tuple(structure.has(layer, sub) for layer in range(structure.num_layers))
        for sub in Sublayer
    }
    return Inspection(
        model=checkpoint.source.name,
        family=checkpoint.family.model_type,
        dialect=checkpoint.config["model_type"],
        layers=structure.num_layers,
        attention=has[Sublayer.ATTENTION],
        mlp=has[Sublayer.MLP],
        hidden_size=dims.hidden_size,
        intermediate_size=dims.intermediate_size,
        heads=dims.num_attention_heads,
        kv_heads=dims.num_key_value_heads,
        head_dim=dims.head_dim,
        vocab_size=dims.vocab_size,
        tied=structure.tied,
        quantized=structure.quantized,
        costs=costs(structure, checkpoint.tensors.values(), sum(checkpoint.shards.values())),
        dtypes=dict(dtypes.most_common()),
        shards=checkpoint.shards,
        surgery=surgery,
        runtimes=runtimes(structure, checkpoint.config),
    )
