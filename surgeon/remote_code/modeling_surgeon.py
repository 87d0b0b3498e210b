"""A Llama whose blocks may lack their attention or their MLP, for transformers 4.57 to 5.x.

Written by surgeon into the folders it prunes. Only construction differs from transformers' Llama:
the forward pass, generation, caches and training are inherited. A missing sublayer has no module at
all, its norm included. Attentions are numbered without holes, since caches, left padding and static
shapes look at number 0.
"""

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaForCausalLM,
    LlamaMLP,
    LlamaModel,
    LlamaPreTrainedModel,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

from .configuration_surgeon import DeciLMConfig


class DeciLMMLP(LlamaMLP):
    """LlamaMLP with a width of its own."""

    def __init__(self, config, width):
        super().__init__(config)
        if width != self.intermediate_size:
            bias = config.mlp_bias
            self.intermediate_size = width
            self.gate_proj = nn.Linear(self.hidden_size, width, bias=bias)
            self.up_proj = nn.Linear(self.hidden_size, width, bias=bias)
            self.down_proj = nn.Linear(width, self.hidden_size, bias=bias)


class DeciLMDecoderLayer(GradientCheckpointingLayer):
    """A block with one or both sublayers."""

    def __init__(self, config, block, attention):
        super().__init__()
        entry = config.block_configs[block]
        self.hidden_size = config.hidden_size
        self.has_attention = not entry.attention.no_op
        self.has_mlp = not entry.ffn.no_op
        if self.has_attention:
            self.input_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
            self.self_attn = LlamaAttention(config=config, layer_idx=attention)
        if self.has_mlp:
            self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
            self.mlp = DeciLMMLP(config, config.mlp_width(block))

    def forward(self, hidden_states, **kwargs):
        """Adds what each sublayer makes of ``hidden_states`` [batch, length, hidden]."""
        if self.has_attention:
            states = self.input_layernorm(hidden_states)
            hidden_states = hidden_states + self.self_attn(hidden_states=states, **kwargs)[0]
        if self.has_mlp:
            states = self.post_attention_layernorm(hidden_states)
            hidden_states = hidden_states + self.mlp(states)
        return hidden_states


class DeciLMPreTrainedModel(LlamaPreTrainedModel):
    """Shared settings."""

    config_class = DeciLMConfig
    _no_split_modules = ["DeciLMDecoderLayer"]
    _can_record_outputs = {"hidden_states": DeciLMDecoderLayer, "attentions": LlamaAttention}


class DeciLMModel(DeciLMPreTrainedModel, LlamaModel):
    """The stack of blocks; LlamaModel but for its layers."""

    def __init__(self, config):
        super(LlamaModel, self).__init__(config)
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        layers, attentions = [], 0
        for block in range(config.num_hidden_layers):
            layers.append(DeciLMDecoderLayer(config, block, attentions))
            attentions += layers[-1].has_attention
        self.layers = nn.ModuleList(layers)
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()


class DeciLMForCausalLM(DeciLMPreTrainedModel, LlamaForCausalLM):
    """The language model; LlamaForCausalLM over DeciLMModel."""

    def __init__(self, config):
        super(LlamaForCausalLM, self).__init__(config)
        self.model = DeciLMModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
