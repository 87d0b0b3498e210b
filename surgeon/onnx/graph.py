"""The graph of a model, pruned or not: sublayers on a residual stream, in onnxruntime's operators.

A removed sublayer leaves nothing behind, not even an addition: the residual is added inside of the
next norm. KV caches are numbered over the attentions that are there, without holes. What families
have beyond a Llama costs nodes only where they have it.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from surgeon.checkpoint.header import Tensor
from surgeon.checkpoint.numbers import encode
from surgeon.checkpoint.source import Checkpoint
from surgeon.errors import SurgeonError
from surgeon.families import Family
from surgeon.onnx.ops import MICROSOFT, WINDOWS_IR_VERSION, Graph
from surgeon.onnx.rope import Rope, tables
from surgeon.onnx.weights import Store
from surgeon.plan import Sublayer
from surgeon.runtimes import unsupported_by_onnxruntime as unsupported
from surgeon.structure import Structure

KEY = "past_key_values.{}.key"
VALUE = "past_key_values.{}.value"
PRESENT_KEY = "present.{}.key"
PRESENT_VALUE = "present.{}.value"


def check_supported(structure: Structure, config: dict[str, Any], where: str) -> None:
    """Refuses what the graph cannot express, by name."""
    reason = unsupported(structure)
    if reason is not None:
        raise SurgeonError(f"{where}: {reason}")
    act = config.get("hidden_act", "silu")
    if act not in ("silu", "swish"):
        raise SurgeonError(f"{where}: hidden_act {act!r} is not known; only silu is")


def build(checkpoint: Checkpoint, store: Store, rope: Rope, last_logits_only: bool) -> Graph:
    """The graph of ``checkpoint`` over the weights of ``store``.

    Inputs: input_ids and attention_mask (int64 [batch, length] and [batch, total]; ones mark real
    tokens, padding on the right) and past keys and values [batch, kv_heads, past, head_dim].
    Outputs: logits [batch, length, vocabulary], of one position with ``last_logits_only``: each
    row's last real one, the only one that is computed above the last attention; and present keys and
    values.
    """
    return _Llama(checkpoint, store, rope).build(last_logits_only)


def _multipliers(config: dict[str, Any], family: Family) -> dict[str, float]:
    """The family's numbers by what they multiply; empty for most. That of logits is turned round."""
    names = family.multipliers
    if names is None:
        return {}
    found = {what: float(config.get(field, 1.0)) for what, field in asdict(names).items()}
    return found | {"logits": 1 / found["logits"]}


class _Llama:
    def __init__(self, checkpoint: Checkpoint, store: Store, rope: Rope) -> None:
        self.graph = Graph()
        self.structure = checkpoint.structure
        self.family = checkpoint.family
        self.tensors = checkpoint.tensors
        self.store = store
        self.epsilon = float(checkpoint.config.get("rms_norm_eps", 1e-6))
        self.multipliers = _multipliers(checkpoint.config, checkpoint.family)
        self.rope = rope
        self.stream = ""  # the residual stream, up to the addition that is still to come
        self.pending = ""  # what has to be added to it
        self.caches = 0
        self.constants: set[str] = set()

    def build(self, last_logits_only: bool) -> Graph:
        from onnx import TensorProto

        graph, family = self.graph, self.family
        ids = graph.input("input_ids", TensorProto.INT64, ["batch", "length"])
        mask = graph.input("attention_mask", TensorProto.INT64, ["batch", "total"])
        positions = 1 if last_logits_only else "length"
        shape = ["batch", positions, self.structure.dims.vocab_size]
        graph.output("logits", self.store.element, shape)
        table = self.store.vector(graph, "embed", [self.tensors[f"{family.embedding}.weight"]])
        lengths = self._lengths(mask) if self.structure.num_attentions or last_logits_only else ""
        if any(pattern.rotary for pattern in self.structure.attention_patterns):
            self._tables()
        embedded = graph.node("Gather", [table, ids], "embedded")
        self.stream = self._times(embedded, "embedding")
        left = self.structure.num_attentions if last_logits_only else -1
        if left == 0:
            self._narrow(ids, lengths)
        for layer in range(self.structure.num_layers):
            if self.structure.has(layer, Sublayer.ATTENTION):
                self.pending = self._times(self._attention(layer), "residual")
                if self.caches == left:
                    self._narrow(ids, lengths)
            if self.structure.has(layer, Sublayer.MLP):
                self.pending = self._times(self._mlp(layer), "residual")
        states = self._norm("final_norm", f"{family.norm}.weight", last=True)
        self._head(self._times(states, "logits"))
        return graph

    def _times(self, x: str, what: str) -> str:
        """``x`` times a multiplier of the family; ``x`` itself where it has none."""
        value = self.multipliers.get(what, 1.0)
        if value == 1.0:
            return x
        factor = f"{what}_multiplier"
        if factor not in self.constants:
            import numpy as np

            self.constants.add(factor)
            raw = encode(np.array(value, np.float32), self.store.dtype)
            self.graph.raw(factor, self.store.element, (), raw)
        return self.graph.node("Mul", [x, factor], f"{x}.scaled")

    def _lengths(self, mask: str) -> str:
        """seqlens_k, last index of each row; total_sequence_length, the width of the mask."""
        import numpy as np

        graph = self.graph
        one = graph.constant("one", np.array([1], np.int64))
        scalar = graph.constant("scalar_one", np.array(1, np.int64))
        counts = graph.node("ReduceSum", [mask, one], "real_tokens", keepdims=0)
        last = graph.node("Sub", [counts, scalar], "last_index")
        graph.node("Cast", [last], "seqlens_k", to=6)
        shape = graph.node("Shape", [mask], "mask_shape")
        total = graph.node("Gather", [shape, scalar], "total_length")
        graph.node("Cast", [total], "total_sequence_length", to=6)
        return last

    def _tables(self) -> None:
        for name, table in zip(("cos_cache", "sin_cache"), tables(self.rope), strict=True):
            raw = encode(table, self.store.dtype)
            self.graph.raw(name, self.store.element, table.shape, raw)

    def _norm(self, name: str, weight: str, last: bool = False) -> str:
        """RMSNorm of the stream, with the addition that is still to come done on the way."""
        graph = self.graph
        scale = self.store.vector(graph, f"{name}.weight", [self.tensors[weight]])
        if not self.pending:
            return graph.node(
                "SimplifiedLayerNormalization",
                [self.stream, scale],
                name,
                axis=-1,
                epsilon=self.epsilon,
                stash_type=1,
            )
        added = f"{name}.stream"
        outputs = [name] if last else [name, "", "", added]
        graph.node(
            "SkipSimplifiedLayerNormalization",
            [self.pending, self.stream, scale],
            outputs,
            MICROSOFT,
            epsilon=self.epsilon,
        )
        self.stream, self.pending = added, ""
        return name

    def _linear(self, x: str, name: str, modules: Sequence[str]) -> str:
        weights = [self.tensors[f"{module}.weight"] for module in modules]
        out = self.store.linear(self.graph, x, name, weights)
        if not self._biased(modules):
            return out
        biases = [self.tensors[f"{module}.bias"] for module in modules]
        vector = self.store.vector(self.graph, f"{name}.bias", biases)
        return self.graph.node("Add", [out, vector], f"{name}.biased")

    def _biased(self, modules: Sequence[str]) -> bool:
        return modules[0].rpartition(".")[2] in self.structure.biases

    def _together(self, modules: Sequence[str]) -> bool:
        kinds = ("weight", "bias") if self._biased(modules) else ("weight",)
        groups = [[self.tensors[f"{module}.{kind}"] for module in modules] for kind in kinds]
        return all(self.store.fusable(group) for group in groups)

    def _attention(self, layer: int) -> str:
        structure, graph, part = self.structure, self.graph, self.family.attention
        dims, number, pattern = structure.dims, self.caches, structure.patterns[layer]
        self.caches += 1
        prefix = f"{self.family.layers}.{layer}"
        x = self._norm(f"l{layer}.attn_norm", f"{prefix}.{part.norm}.weight")
        inputs = self._projections(x, layer)
        past = [key.format(number) for key in (KEY, VALUE)]
        present = [key.format(number) for key in (PRESENT_KEY, PRESENT_VALUE)]
        shape: list[int | str] = ["batch", dims.num_key_value_heads, "past", dims.head_dim]
        for old, new in zip(past, present, strict=True):
            graph.input(old, self.store.element, shape)
            graph.output(new, self.store.element, [*shape[:2], "total", dims.head_dim])
        rope = ["cos_cache", "sin_cache"] if pattern.rotary else []
        window = {}
        if pattern.window is not None:
            graph.ir_version = WINDOWS_IR_VERSION
            window = {"local_window_size": pattern.window}
        mixed = graph.node(
            "GroupQueryAttention",
            [*inputs, *past, "seqlens_k", "total_sequence_length", *rope],
            [f"l{layer}.attn", *present],
            MICROSOFT,
            num_heads=dims.num_attention_heads,
            kv_num_heads=dims.num_key_value_heads,
            do_rotary=int(pattern.rotary),
            rotary_interleaved=0,
            scale=self.multipliers.get("attention", dims.head_dim**-0.5),
            **window,
        )
        return self._linear(mixed, f"l{layer}.o", [f"{prefix}.{part.module}.o_proj"])

    def _projections(self, x: str, layer: int) -> list[str]:
        """What GroupQueryAttention takes: q, k, v in one, or one by one where q and k are normed."""
        graph, part, dims = self.graph, self.family.attention, self.structure.dims
        prefix = f"{self.family.layers}.{layer}.{part.module}"
        matrices = part.groups[0]
        modules = [f"{prefix}.{matrix}" for matrix in matrices]
        names = [f"l{layer}.{name}" for name in ("q", "k", "v")]
        together = self._together(modules)
        if not together:
            names = [
                self._linear(x, name, [module]) for name, module in zip(names, modules, strict=True)
            ]
        else:
            packed = self._linear(x, f"l{layer}.qkv", modules)
            if not part.head_norms:
                return [packed, "", ""]
            import numpy as np

            if "qkv_sizes" not in self.constants:
                self.constants.add("qkv_sizes")
                sizes = [dims.attention_width, dims.kv_width, dims.kv_width]
                graph.constant("qkv_sizes", np.array(sizes, np.int64))
            graph.node("Split", [packed, "qkv_sizes"], names, axis=-1)
        for place, norm in enumerate(part.head_norms):
            names[place] = self._head_norm(names[place], f"{prefix}.{norm}.weight")
        return names

    def _head_norm(self, x: str, weight: str) -> str:
        """RMSNorm over each head of ``x`` [batch, length, heads * head_dim]."""
        import numpy as np

        graph, head_dim = self.graph, self.structure.dims.head_dim
        if "by_head" not in self.constants:
            self.constants.add("by_head")
            # 0 keeps a dimension, -1 is what is left
            graph.constant("by_head", np.array([0, 0, -1, head_dim], np.int64))
            graph.constant("side_by_side", np.array([0, 0, -1], np.int64))
        scale = self.store.vector(graph, f"{x}.norm.weight", [self.tensors[weight]])
        heads = graph.node("Reshape", [x, "by_head"], f"{x}.heads")
        normed = graph.node(
            "SimplifiedLayerNormalization",
            [heads, scale],
            f"{x}.norm",
            axis=-1,
            epsilon=self.epsilon,
            stash_type=1,
        )
        return graph.node("Reshape", [normed, "side_by_side"], f"{x}.normed")

    def _mlp(self, layer: int) -> str:
        graph, part = self.graph, self.family.mlp
        prefix = f"{self.family.layers}.{layer}"
        x = self._norm(f"l{layer}.mlp_norm", f"{prefix}.{part.norm}.weight")
        # two products, though the matrices lie side by side: to part the result of one costs more
        halves = [
            self._linear(x, f"l{layer}.{name}", [f"{prefix}.{part.module}.{matrix}"])
            for name, matrix in zip(("gate", "up"), part.groups[0], strict=True)
        ]
        # QuickGelu is x * sigmoid(alpha * x): SiLU for alpha 1
        active = graph.node("QuickGelu", halves[:1], f"l{layer}.silu", MICROSOFT, alpha=1.0)
        inner = graph.node("Mul", [active, halves[1]], f"l{layer}.inner")
        return self._linear(inner, f"l{layer}.down", [f"{prefix}.{part.module}.down_proj"])

    def _narrow(self, ids: str, last_index: str) -> None:
        """Leaves of the stream [batch, 1, hidden]: each row's last real token.

        Above the last attention nothing looks at other positions, so that a prompt need not have them.
        The index is the last of a prompt and 0 of a single token: the smaller of the two.
        """
        import numpy as np

        graph = self.graph
        if self.pending:
            self.stream = graph.node("Add", [self.stream, self.pending], "all_positions")
            self.pending = ""
        # counted from the ids themselves and not from their shape, which lives on the CPU: a CUDA
        # graph cannot hold a copy from there
        zero = graph.constant("zero", np.array(0, np.int64))
        none = graph.node("Mul", [ids, zero], "ids_zeros")
        each = graph.node("Add", [none, "scalar_one"], "ids_ones")
        length = graph.node("ReduceSum", [each, "one"], "ids_length", keepdims=0)
        most = graph.node("Sub", [length, "scalar_one"], "ids_last")
        index = graph.node("Min", [last_index, most], "row_last")
        axes = graph.constant("row_axes", np.array([1, 2], np.int64))
        index = graph.node("Unsqueeze", [index, axes], "row_index")
        self.stream = graph.node("GatherND", [self.stream, index], "last_position", batch_dims=1)

    def _head(self, states: str) -> str:
        family, store = self.family, self.store
        name = f"{family.head}.weight"
        tied = self.structure.tied or name not in self.tensors
        matrix: Tensor = self.tensors[f"{family.embedding}.weight" if tied else name]
        if tied and store.bits is None:
            return self.graph.node("FusedMatMul", [states, "embed"], "logits", MICROSOFT, transB=1)
        return store.linear(self.graph, states, "logits", [matrix], head=True)
