"""The tokenizer of a model as GGUF has it: from tokenizer.json, which is what transformers runs, or
from a tokenizer.model where there is no other.

llama.cpp has two tokenizers for Llamas. ``llama`` merges the two neighbours whose union has the best
score, which is SentencePiece's BPE; characters without a token become bytes. ``gpt2`` is BPE over
bytes, behind a regular expression that llama.cpp knows by a name. What either would split in another
way than transformers is refused.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from surgeon.checkpoint.source import Checkpoint, Source, read_json
from surgeon.errors import SurgeonError
from surgeon.gguf.pretokenizers import byte_level, sentencepiece
from surgeon.gguf.sentencepiece import as_tokenizer_json, read_model

TOKENIZER = "tokenizer.json"
SENTENCEPIECE = "tokenizer.model"

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""llama.cpp's kinds of tokens."""


@dataclass(frozen=True)
class Tokenizer:
    """Tokens by number, with their kinds; ``special`` are the numbers of bos, eos, eot, unk, pad.

    ``scores`` belongs to the model ``llama``, ``merges`` and a ``pre`` of its own to ``gpt2``.
    ``notes`` says where llama.cpp is known to differ.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float]
    merges: list[str]
    space_prefix: bool | None
    add_bos: bool
    add_eos: bool
    special: dict[str, int]
    chat_template: str | list[dict[str, str]] | None
    notes: tuple[str, ...]


def read_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer of a checkpoint; SurgeonError for one that llama.cpp has no equal of."""
    source = checkpoint.source
    file = TOKENIZER if TOKENIZER in source.files() else SENTENCEPIECE
    where = source.where(file)
    if file not in source.files():
        raise SurgeonError(
            f"{source.where(TOKENIZER)}: not found, nor {SENTENCEPIECE}; put the tokenizer there"
        )
    settings = _settings(source)
    try:
        if file == TOKENIZER:
            data = read_json(source, file)
        else:
            data = as_tokenizer_json(read_model(source.read(file), where), settings)
        return _read(checkpoint, data, settings, where)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise SurgeonError(f"{where}: cannot be read ({error!r})") from None


def _read(
    checkpoint: Checkpoint, data: dict[str, Any], settings: dict[str, Any], where: str
) -> Tokenizer:
    source, size = checkpoint.source, checkpoint.structure.dims.vocab_size
    model = data["model"]
    if model.get("type", "BPE") != "BPE":
        raise SurgeonError(f"{where}: its model is {model['type']!r}; llama.cpp's Llamas need BPE")
    added: list[dict[str, Any]] = data.get("added_tokens") or []
    vocabulary: dict[str, int] = {
        **model["vocab"],
        **{token["content"]: token["id"] for token in added},
    }
    tokens, types = _tokens(vocabulary, added, model, size, where)
    merges = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    add_bos, add_eos, special = _special(checkpoint, data, settings, vocabulary, where)
    odd = tuple(_contradictions(settings, {"bos": add_bos, "eos": add_eos}))
    shared: dict[str, Any] = {
        "tokens": tokens,
        "types": types,
        "add_bos": add_bos,
        "add_eos": add_eos,
        "special": special,
        "chat_template": _chat_template(source, settings),
    }
    if model.get("byte_fallback"):
        plain = {token for token in vocabulary if vocabulary[token] not in {t["id"] for t in added}}
        style = sentencepiece(data, plain, merges, where)
        return Tokenizer(
            model="llama",
            pre="default",
            scores=[style.scores.get(token, UNSCORED) for token in tokens],
            merges=[],
            space_prefix=style.space_prefix,
            notes=(*style.notes, *odd),
            **shared,
        )
    pre, notes = byte_level(data, where)
    return Tokenizer(
        model="gpt2",
        pre=pre,
        scores=[],
        merges=[" ".join(merge) for merge in merges],
        space_prefix=None,
        notes=(*notes, *odd),
        **shared,
    )


UNSCORED = -1e9
"""For tokens that no merge makes."""


def _tokens(
    vocabulary: Mapping[str, int],
    added: list[dict[str, Any]],
    model: dict[str, Any],
    size: int,
    where: str,
) -> tuple[list[str], list[int]]:
    """Tokens and their kinds; numbers that no token has become unused ones."""
    most = max(vocabulary.values(), default=-1)
    if most >= size:
        raise SurgeonError(
            f"{where}: has a token of number {most}, but the model's vocabulary has {size}; "
            "llama.cpp needs an embedding for every token"
        )
    tokens = [f"[PAD{number}]" for number in range(size)]
    types = [UNUSED] * size
    for token, number in vocabulary.items():
        tokens[number], types[number] = token, NORMAL
    if model.get("byte_fallback"):
        for byte in range(256):
            name = f"<0x{byte:02X}>"
            if name not in vocabulary:
                raise SurgeonError(f"{where}: has no token {name}, which llama.cpp falls back to")
            types[vocabulary[name]] = BYTE
    for entry in added:
        types[entry["id"]] = CONTROL if entry.get("special") else USER_DEFINED
    unknown = model.get("unk_token") or ""
    if unknown in vocabulary and model.get("byte_fallback"):
        types[vocabulary[unknown]] = UNKNOWN
    return tokens, types


def _settings(source: Source) -> dict[str, Any]:
    name = "tokenizer_config.json"
    return read_json(source, name) if name in source.files() else {}


def _special(
    checkpoint: Checkpoint,
    data: dict[str, Any],
    settings: dict[str, Any],
    vocabulary: Mapping[str, int],
    where: str,
) -> tuple[bool, bool, dict[str, int]]:
    """Whether bos and eos are added to a text, and the numbers of the special tokens.

    The post-processor of tokenizer.json says what is added; the settings' tokens win over those of
    the config, whose list of ends gives the end of a turn. SurgeonError where anything else is added.
    """
    special: dict[str, int] = {}
    size = checkpoint.structure.dims.vocab_size
    for name in ("bos", "eos", "unk", "pad"):
        token = settings.get(f"{name}_token")
        token = token.get("content") if isinstance(token, dict) else token
        number = vocabulary.get(token) if token else checkpoint.config.get(f"{name}_token_id")
        if isinstance(number, list):
            number = number[0] if number else None
        if isinstance(number, int) and 0 <= number < size:  # some configs say -1 for none
            special[name] = number
    generation: dict[str, Any] = {}
    if "generation_config.json" in checkpoint.source.files():
        generation = read_json(checkpoint.source, "generation_config.json")
    ends = generation.get("eos_token_id", checkpoint.config.get("eos_token_id"))
    numbers = [end for end in ends if isinstance(end, int)] if isinstance(ends, list) else []
    others = [end for end in numbers if 0 <= end < size and end != special.get("eos")]
    if others:
        special["eot"] = others[-1]
    template = _template(data.get("post_processor") or {})
    first, last = (template[0], template[-1]) if template else (None, None)
    add_bos = first is not None and vocabulary.get(first) == special.get("bos", -1)
    add_eos = last is not None and vocabulary.get(last) == special.get("eos", -1)
    added = [token for token in template if token is not None]
    if len(added) != add_bos + add_eos:
        raise SurgeonError(f"{where}: adds {added} to a text; llama.cpp adds bos and eos alone")
    return add_bos, add_eos, special


def _contradictions(settings: dict[str, Any], adds: Mapping[str, bool]) -> Iterator[str]:
    """Flags of a Llama's tokenizer that transformers 4 obeys, and transformers 5 does not."""
    if str(settings.get("tokenizer_class")) in ("LlamaTokenizer", "LlamaTokenizerFast"):
        for name, added in adds.items():
            if settings.get(f"add_{name}_token", added) not in (added, None):
                yield (
                    f"tokenizer_config.json says add_{name}_token {not added}, tokenizer.json the "
                    "contrary; the file follows the latter, as transformers 5 does"
                )


def _template(processor: dict[str, Any]) -> list[str | None]:
    """What a post-processor makes of a text: special tokens by name, None for the text itself."""
    for step in processor.get("processors", [processor]):
        if step.get("type") == "TemplateProcessing":
            return [item.get("SpecialToken", {}).get("id") for item in step["single"]]
    return []


def _chat_template(source: Source, settings: dict[str, Any]) -> str | list[dict[str, str]] | None:
    """The template of chats: a file of its own wins, as in transformers."""
    if "chat_template.jinja" in source.files():
        return source.read("chat_template.jinja").decode("utf-8", "replace")
    if "chat_template.json" in source.files():
        settings = json.loads(source.read("chat_template.json"))
    template = settings.get("chat_template")
    return template if isinstance(template, str | list) else None
