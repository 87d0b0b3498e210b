"""The modules of a transformers model that has the layout of Llama, used as they are.

Nothing here knows a family's arithmetic: masks, rotary embeddings and multipliers are what the model's
own ``forward`` hands to its layers, written down while the layers are put out of action.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.plan import Site, Sublayer

NAMES = {
    Sublayer.ATTENTION: ("input_layernorm", "self_attn"),
    Sublayer.MLP: ("post_attention_layernorm", "mlp"),
}
"""What Llama's layout calls the norm and the module of a sublayer."""


def stack(model: Any) -> Any:
    """The model without its head; SurgeonError if its layers are not laid out like Llama's."""
    base = model.base_model
    if not hasattr(base, "layers") or not hasattr(base, "norm"):
        raise SurgeonError(f"{type(model).__name__}: is not laid out like Llama, as layers and a norm")
    known = {name for names in NAMES.values() for name in names}
    for number, layer in enumerate(base.layers):
        others = {name for name, _ in layer.named_children()} - known
        if others:
            raise SurgeonError(
                f"{type(model).__name__}: layer {number} has {', '.join(sorted(others))}, which is not "
                "Llama's layout; sublayers of such a model cannot be skipped"
            )
    return base


def sites(base: Any) -> tuple[Site, ...]:
    """The sublayers that a model has, in the order of computation."""
    return tuple(
        (number, sub)
        for number, layer in enumerate(base.layers)
        for sub in Sublayer
        if getattr(layer, NAMES[sub][1], None) is not None
    )


def apply(layer: Any, sublayer: Sublayer, hidden: Any, arguments: dict[str, Any]) -> Any:
    """The stream after one sublayer: ``hidden`` [batch, length, width] plus what it makes of it."""
    norm, module = (getattr(layer, name) for name in NAMES[sublayer])
    if sublayer is Sublayer.ATTENTION:
        made = module(hidden_states=norm(hidden), **arguments)[0]
    else:
        made = module(norm(hidden))
    multiplier = getattr(layer, "residual_multiplier", None)  # Granite's
    return hidden + (made if multiplier is None else made * multiplier)


def enter(base: Any, ids: Any) -> tuple[Any, tuple[dict[str, Any], ...]]:
    """What enters the first layer for ``ids`` [batch, length], and the arguments that each layer gets.

    The model's own forward runs with layers that only take notes, so every family's masks, positions
    and embedding multipliers are its own.
    """
    entered: list[Any] = []
    notes: list[dict[str, Any]] = []

    def note(hidden: Any, *rest: Any, **arguments: Any) -> Any:
        if rest:
            raise SurgeonError(f"{type(base).__name__}: hands its layers arguments without names")
        if not entered:
            entered.append(hidden)
        notes.append(arguments)
        return entered[0]

    with ExitStack() as patches:
        for layer in base.layers:
            patches.enter_context(_forward(layer, note))
        base(input_ids=ids, use_cache=False)
    return entered[0], tuple(notes)


def leave(model: Any, base: Any, hidden: Any) -> Any:
    """Logits [batch, length, vocabulary] of the stream after the last layer, by the model's head."""
    from transformers.modeling_outputs import BaseModelOutputWithPast

    normed = BaseModelOutputWithPast(last_hidden_state=base.norm(hidden))
    with _forward(base, lambda *_, **__: normed):
        return model(inputs_embeds=hidden, use_cache=False).logits


@contextmanager
def _forward(module: Any, forward: Any) -> Iterator[None]:
    """Another ``forward`` for one module."""
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
