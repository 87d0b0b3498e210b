"""What a model costs: parameters, bytes on disk, bytes read for a token, bytes cached for one."""

from collections.abc import Iterable
from dataclasses import dataclass

from surgeon.checkpoint.header import DTYPE_BITS, Tensor, count
from surgeon.checkpoint.layout import NewTensor
from surgeon.structure import Structure

_CONFIG_DTYPES = {"float16": 16, "bfloat16": 16, "float32": 32, "float64": 64}


@dataclass(frozen=True)
class Costs:
    """Sizes of a model. All but the parameters are bytes.

    ``parameters``: stored elements (packed ones count as one). ``weight_bytes_per_token``: weights
    that decoding one token reads, so of an embedding table that is not the head too, only a row.
    ``kv_bytes_per_token``: keys and values that each token adds to the cache, in the model's dtype.
    """

    parameters: int
    disk_bytes: int
    weight_bytes_per_token: int
    kv_bytes_per_token: int


def costs(structure: Structure, tensors: Iterable[Tensor | NewTensor], disk_bytes: int) -> Costs:
    """The costs of a model with these tensors, in weight files of ``disk_bytes``."""
    parameters = weights = table = table_bits = 0
    head = False
    family = structure.family
    for tensor in tensors:
        parameters += count(tensor.shape)
        weights += tensor.length
        if tensor.name == f"{family.embedding}.weight":
            table, table_bits = tensor.length, DTYPE_BITS[tensor.dtype]
        head = head or tensor.name.startswith(f"{family.head}.")
    dims = structure.dims
    if head:
        # untied: the head's matrix is read in full, the table one row a token
        weights -= table - table // dims.vocab_size
    bits = _CONFIG_DTYPES.get(structure.dtype or "", table_bits or 16)
    kv = 2 * dims.kv_width * structure.num_attentions * bits // 8
    return Costs(parameters, disk_bytes, weights, kv)
