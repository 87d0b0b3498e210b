"""Whether llama.cpp splits a text as a tokenizer.json does, and what it calls that way of splitting."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from surgeon.errors import SurgeonError

SPACE = "\u2581"
"""What SentencePiece writes for a space."""

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _REST
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _REST
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Pre:
    """A way of splitting that llama.cpp has a name for.

    ``steps`` are those before the byte level, which splits words by GPT-2's rule if ``words``;
    ``ignore_merges``: a word that is a token stays whole. llama.cpp couples that to the name.
    """

    name: str
    steps: tuple[str, ...]
    words: bool
    ignore_merges: bool


KNOWN = (
    Pre("llama-bpe", (_LLAMA3,), False, True),
    Pre("qwen2", (_QWEN2,), False, False),
    Pre("tekken", (_TEKKEN,), False, True),
    Pre("smollm", ("digits",), True, False),
    Pre("gpt-2", (), True, False),
)


def byte_level(data: dict[str, Any], where: str) -> tuple[str, tuple[str, ...]]:
    """llama.cpp's name of a byte-level BPE's splitting, and where it is known to differ.

    Raises SurgeonError for a way of splitting that has no name.
    """
    model = data["model"]
    steps = _flat(data.get("pre_tokenizer"), "pretokenizers")
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space"):
        raise _unknown(where, "it does not end in a plain ByteLevel")
    *before, last = steps
    signature = tuple(map(_signature, before))
    for pre in KNOWN:
        if (
            signature == pre.steps
            and bool(last.get("use_regex", True)) == pre.words
            and bool(model.get("ignore_merges")) == pre.ignore_merges
        ):
            break
    else:
        raise _unknown(where, f"known are {', '.join(pre.name for pre in KNOWN)}")
    normalizers = [step.get("type") for step in _flat(data.get("normalizer"), "normalizers")]
    if normalizers not in ([], ["NFC"]):
        raise SurgeonError(f"{where}: normalizes by {normalizers}, which llama.cpp does not")
    notes = ("llama.cpp does not bring a text into Unicode's form NFC; do it before",)
    return pre.name, notes if normalizers else ()


def _unknown(where: str, why: str) -> SurgeonError:
    return SurgeonError(f"{where}: llama.cpp has no name for its way of splitting words: {why}")


def _flat(step: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """The steps of a sequence, or the one step, or none."""
    if step is None:
        return []
    return list(step[key]) if step.get("type") == "Sequence" else [step]


def _signature(step: dict[str, Any]) -> str:
    """A step of splitting, short enough to compare."""
    kind = step.get("type")
    if kind == "Digits" and step.get("individual_digits"):
        return "digits"
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        return str(step.get("pattern", {}).get("Regex"))
    return f"unknown {kind}"


@dataclass(frozen=True)
class SentencePiece:
    """Scores by token: the sooner a merge, the better. ``space_prefix``: a text begins with a space."""

    scores: dict[str, float]
    space_prefix: bool
    notes: tuple[str, ...]


def sentencepiece(
    data: dict[str, Any],
    tokens: Collection[str],
    merges: Sequence[tuple[str, ...]],
    where: str,
) -> SentencePiece:
    """Scores that make llama.cpp merge as a BPE with byte fallback does.

    ``tokens`` are those that text alone can make. llama.cpp merges any two neighbours whose union is
    a token, so all such pairs must be among the ``merges``, as they are if these come from a
    SentencePiece model; SurgeonError otherwise.
    """
    prefix, notes = _prefix(data, where)
    scores: dict[str, float] = {}
    for first, second in merges:
        scores.setdefault(first + second, -float(len(scores)))
    known, pairs = set(tokens), set(merges)
    for token in known:
        for middle in range(1, len(token)):
            pair = token[:middle], token[middle:]
            if pair[0] in known and pair[1] in known and pair not in pairs:
                raise SurgeonError(
                    f"{where}: does not merge {pair[0]!r} and {pair[1]!r} though {token!r} is a token; "
                    "llama.cpp would, so it would split texts in another way"
                )
    return SentencePiece(scores, prefix, notes)


def _prefix(data: dict[str, Any], where: str) -> tuple[bool, tuple[str, ...]]:
    """Whether a space is put before a text, for the two ways of writing that down."""
    normalizers = _flat(data.get("normalizer"), "normalizers")
    pre = _flat(data.get("pre_tokenizer"), "pretokenizers")
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    if normalizers and normalizers[-1] == spaces and not pre:
        if normalizers[:-1] == [{"type": "Prepend", "prepend": SPACE}]:
            return True, ()
        if not normalizers[:-1]:
            return False, ()
    if not normalizers and len(pre) == 1 and pre[0].get("type") == "Metaspace":
        step = pre[0]
        scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
        if step.get("replacement") == SPACE and step.get("split", True) is False:
            differs = "llama.cpp puts a space before a text that begins with one already"
            if scheme == "first":
                differs += ", and after every special token"
            return scheme != "never", () if scheme == "never" else (differs,)
    raise SurgeonError(
        f"{where}: llama.cpp does not know its treatment of spaces; known are SentencePiece's, as "
        "transformers writes them for Llamas"
    )
