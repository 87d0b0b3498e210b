"""Virtual cuts: a transformers model that skips sublayers, with nothing written."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.measure.modules import NAMES, sites, stack
from surgeon.plan import Site, Sublayer


@contextmanager
def virtual_cut(model: Any, removed: Collection[Site]) -> Iterator[Any]:
    """Inside, ``model`` computes what it would without the sublayers ``removed``; yields the model.

    ``forward`` and ``generate`` both: the KV caches of what is left are numbered without holes. The
    layers keep their own forward pass, in which a removed sublayer adds zero. One cut at a time.
    SurgeonError if the model has no such sublayer.
    """
    base = stack(model)
    there = sites(base)
    gone = frozenset(removed)
    for layer, sublayer in sorted(gone - set(there)):
        raise SurgeonError(f"virtual cut: the model has no {sublayer.word} in layer {layer}")
    attentions = [
        (layer, base.layers[layer].self_attn) for layer, sub in there if sub is Sublayer.ATTENTION
    ]
    kept = [layer for layer, _ in attentions if (layer, Sublayer.ATTENTION) not in gone]
    with ExitStack() as patches:
        for layer, sublayer in gone:
            for name, stand_in in zip(NAMES[sublayer], _stand_ins(sublayer), strict=True):
                patches.enter_context(_attribute(base.layers[layer], name, stand_in))
        _renumber(patches, model.config, dict(attentions), kept)
        yield model


def _renumber(patches: ExitStack, config: Any, attentions: dict[int, Any], kept: list[int]) -> None:
    """Gives the kept attentions, by layer, the first caches of their kind, full or sliding.

    Caches are made by number and kind from the config; lengths are read off number 0, or off the first
    one of a kind.
    """
    kinds = {
        layer: getattr(attention, "sliding_window", None) for layer, attention in attentions.items()
    }
    if len({kinds[layer] for layer in kept}) == 1:
        # one kind is left, so that all caches can be of it, number 0 among them
        kinds = dict.fromkeys(kinds, None)
        types = getattr(config, "layer_types", None)
        if isinstance(types, list) and len(set(types)) > 1:
            only = [types[min(kept[0], len(types) - 1)]] * len(types)
            patches.enter_context(_attribute(config, "layer_types", only))
    for kind in set(kinds.values()):
        caches = [
            attention.layer_idx for layer, attention in attentions.items() if kinds[layer] == kind
        ]
        for layer, cache in zip([n for n in kept if kinds[n] == kind], caches, strict=False):
            patches.enter_context(_attribute(attentions[layer], "layer_idx", cache))


def _stand_ins(sublayer: Sublayer) -> tuple[Any, Any]:
    """A norm and a module that make of a sublayer one that adds zero."""
    import torch

    def forward(hidden_states: Any, **_: Any) -> Any:
        zero = hidden_states.new_zeros(())
        return (zero, None) if sublayer is Sublayer.ATTENTION else zero

    norm, module = torch.nn.Identity(), torch.nn.Identity()
    module.forward = forward
    return norm, module


@contextmanager
def _attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Another value of an attribute for a while."""
    old = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, old)
