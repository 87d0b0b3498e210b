"""Which sublayer a tensor belongs to, and whether a checkpoint has all that its config promises."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from surgeon.checkpoint.header import Tensor
from surgeon.errors import SurgeonError
from surgeon.families import Family
from surgeon.plan import Site, Sublayer
from surgeon.structure import Structure

_SUFFIX = re.compile(r"(\d+)\.(.+)", re.ASCII)


def locate(name: str, family: Family) -> tuple[Site | None, str]:
    """The sublayer that a tensor belongs to and its name inside the layer.

    ``None`` and the whole name for tensors outside the layers. By prefix, so that scales and zero
    points of quantized matrices, biases and leftovers go with their sublayer, whatever their names.
    Raises SurgeonError for a tensor in a layer that belongs to neither sublayer.
    """
    prefix = f"{family.layers}."
    if not name.startswith(prefix):
        return None, name
    match = _SUFFIX.fullmatch(name, len(prefix))
    if match:
        layer, inner = int(match[1]), match[2]
        for sublayer in Sublayer:
            if inner.startswith(family.part(sublayer).prefixes):
                return (layer, sublayer), inner
    raise SurgeonError(
        f"tensor {name!r} belongs to no sublayer that family {family.model_type!r} knows; "
        "cutting around it would be guesswork"
    )


def check_tensors(structure: Structure, tensors: Mapping[str, Tensor], where: str) -> None:
    """Config and tensors must agree: layers, sublayers, names and shapes.

    Quantized matrices have names and shapes of their own; there any tensor of the right prefix
    counts. Raises SurgeonError naming the first tensor that is missing or in the way.
    """
    family, dims = structure.family, structure.dims
    check = _Check(structure, tensors, where)
    found = _by_sublayer(structure, tensors, where)
    for layer in range(structure.num_layers):
        for sublayer in Sublayer:
            if structure.has(layer, sublayer):
                check.sublayer((layer, sublayer), found.get((layer, sublayer), []))
    table = (dims.vocab_size, dims.hidden_size)
    check.matrix(family.embedding, table, tensors)
    check.shape(f"{family.norm}.weight", (dims.hidden_size,))
    if not structure.tied:
        check.matrix(family.head, table, tensors)


def _by_sublayer(
    structure: Structure, tensors: Mapping[str, Tensor], where: str
) -> dict[Site, list[str]]:
    """The tensor names of each sublayer; SurgeonError for one that the config does not have."""
    found: dict[Site, list[str]] = {}
    for name in tensors:
        try:
            site, _ = locate(name, structure.family)
        except SurgeonError as error:
            raise SurgeonError(f"{where}: {error}") from None
        if site is None:
            continue
        layer, sublayer = site
        if layer >= structure.num_layers:
            raise SurgeonError(
                f"{where}: tensor {name!r} is in layer {layer}, but config.json has "
                f"num_hidden_layers {structure.num_layers}"
            )
        if not structure.has(layer, sublayer):
            raise SurgeonError(
                f"{where}: tensor {name!r} is there, but config.json says that layer {layer} has "
                f"no {sublayer.word}"
            )
        found.setdefault(site, []).append(name)
    return found


@dataclass(frozen=True)
class _Check:
    structure: Structure
    tensors: Mapping[str, Tensor]
    where: str

    def sublayer(self, site: Site, names: Collection[str]) -> None:
        layer, sublayer = site
        structure, dims = self.structure, self.structure.dims
        part = structure.family.part(sublayer)
        if not names:
            raise SurgeonError(
                f"{self.where}: layer {layer} has no {sublayer.word}, but config.json has "
                f"num_hidden_layers {structure.num_layers}; a shard is missing, or the config is "
                "of another model"
            )
        prefix = f"{structure.family.layers}.{layer}."
        self.shape(f"{prefix}{part.norm}.weight", (dims.hidden_size,))
        for matrix, symbols in part.shapes.items():
            shape = tuple(
                structure.mlp_widths[layer] if symbol == "mlp_width" else getattr(dims, symbol)
                for symbol in symbols
            )
            full = f"{prefix}{part.module}.{matrix}"
            self.matrix(full, shape, names)
            if matrix in structure.biases:
                self.shape(f"{full}.bias", shape[:1])
        for norm in part.head_norms:
            self.shape(f"{prefix}{part.module}.{norm}.weight", (dims.head_dim,))

    def matrix(self, module: str, shape: tuple[int, ...], names: Collection[str]) -> None:
        if not self.structure.quantized:
            self.shape(f"{module}.weight", shape)
        elif not any(name.startswith(f"{module}.") for name in names):
            raise SurgeonError(f"{self.where}: no tensor of {module!r} is there; is a shard missing?")

    def shape(self, name: str, shape: tuple[int, ...]) -> None:
        tensor = self.tensors.get(name)
        if tensor is None:
            raise SurgeonError(f"{self.where}: tensor {name!r} is missing; is a shard missing?")
        if tensor.shape != shape:
            raise SurgeonError(
                f"{self.where}: tensor {name!r} has shape {list(tensor.shape)}, but config.json "
                f"says {list(shape)}"
            )
