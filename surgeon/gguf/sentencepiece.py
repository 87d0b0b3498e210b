"""tokenizer.model: a SentencePiece model, read without the sentencepiece package.

A protobuf message of which a few fields matter (sentencepiece_model.proto): the pieces with score and
kind, the kind of model, and how a text is normalized.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.gguf.pretokenizers import SPACE

CONTROL, USER_DEFINED = 3, 4
"""Kinds of pieces that no merge makes, beside the unknown one and bytes."""

BPE = 2
"""TrainerSpec.ModelType."""

MOST = 1 << 24
"""Pieces; more would only be a way to fill the memory."""


@dataclass(frozen=True)
class Piece:
    """A token; ``kind`` has the numbers of GGUF's token types, which come from here."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class Model:
    """Pieces by number; ``space_prefix``: a text begins with a space."""

    pieces: tuple[Piece, ...]
    space_prefix: bool


def read_model(data: bytes, where: str) -> Model:
    """The model; SurgeonError for one that splits a text in another way than llama.cpp's ``llama``.

    That is: not BPE, or with a normalization of characters or spaces.
    """
    try:
        pieces: list[Piece] = []
        trainer: dict[int, int | bytes] = {}
        normalizer: dict[int, int | bytes] = {}
        for number, value in _fields(data):
            if number == 1 and isinstance(value, bytes) and len(pieces) < MOST:
                pieces.append(_piece(value))
            elif number == 2 and isinstance(value, bytes):
                trainer = dict(_fields(value))
            elif number == 3 and isinstance(value, bytes):
                normalizer = dict(_fields(value))
    except (IndexError, ValueError, struct.error):
        raise SurgeonError(f"{where}: is not a SentencePiece model") from None
    if not pieces:
        raise SurgeonError(f"{where}: is not a SentencePiece model")
    if trainer.get(3, 1) != BPE:
        raise SurgeonError(f"{where}: is not of kind BPE, which llama.cpp's Llamas need")
    name = normalizer.get(1, b"identity")
    if name != b"identity" or normalizer.get(4, 1):
        raise SurgeonError(f"{where}: normalizes a text ({name!r}, spaces), which llama.cpp does not")
    return Model(tuple(pieces), bool(normalizer.get(3, 1)))


def as_tokenizer_json(model: Model, settings: dict[str, Any]) -> dict[str, Any]:
    """What transformers makes of such a model when there is no tokenizer.json.

    ``settings`` is the tokenizer_config.json, which says what is added to a text; a Llama's tokenizer
    adds bos unless told otherwise. Merges are all pairs whose union is a piece, the best score first.
    """
    vocabulary = {piece.text: number for number, piece in enumerate(model.pieces)}
    made = [piece for piece in model.pieces if piece.kind == 1]
    merges = [
        (piece.text[:middle], piece.text[middle:])
        for piece in sorted(made, key=lambda piece: -piece.score)
        for middle in range(1, len(piece.text))
        if piece.text[:middle] in vocabulary and piece.text[middle:] in vocabulary
    ]
    added = {
        number: {"id": number, "content": piece.text, "special": piece.kind != USER_DEFINED}
        for number, piece in enumerate(model.pieces)
        if piece.kind in (2, CONTROL, USER_DEFINED)
    }
    for number, token in (settings.get("added_tokens_decoder") or {}).items():
        added[int(number)] = {
            "id": int(number),
            "content": token["content"],
            "special": bool(token.get("special")),
        }
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    steps = [{"type": "Prepend", "prepend": SPACE}] if model.space_prefix else []
    metaspace = {
        "type": "Metaspace",
        "replacement": SPACE,
        "prepend_scheme": "first" if model.space_prefix else "never",
        "split": False,
    }
    legacy = settings.get("legacy", True) is not False
    return {
        "added_tokens": list(added.values()),
        "normalizer": {"type": "Sequence", "normalizers": [*steps, spaces]} if legacy else None,
        "pre_tokenizer": None if legacy else metaspace,
        "post_processor": {"type": "TemplateProcessing", "single": _single(settings)},
        "model": {
            "type": "BPE",
            "byte_fallback": True,
            "unk_token": next((piece.text for piece in model.pieces if piece.kind == 2), None),
            "vocab": vocabulary,
            "merges": merges,
        },
    }


def _single(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """What a text becomes: with bos in front of it, and eos behind, if the settings say so."""

    def token(name: str, default: str) -> list[dict[str, Any]]:
        value = settings.get(f"{name}_token", default)
        return [{"SpecialToken": {"id": value.get("content") if isinstance(value, dict) else value}}]

    first = token("bos", "<s>") if settings.get("add_bos_token", True) else []
    last = token("eos", "</s>") if settings.get("add_eos_token", False) else []
    return [*first, {"Sequence": {"id": "A"}}, *last]


def _piece(data: bytes) -> Piece:
    fields = dict(_fields(data))
    text, score, kind = fields.get(1), fields.get(2, bytes(4)), fields.get(3, 1)
    if not isinstance(text, bytes) or not isinstance(score, bytes) or not isinstance(kind, int):
        raise ValueError
    return Piece(text.decode("utf-8"), struct.unpack("<f", score)[0], kind)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message: numbers, and everything else as bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == 2:
            length, at = _varint(data, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError
        if at + length > len(data):
            raise ValueError
        yield key >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number, seven bits a byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError
