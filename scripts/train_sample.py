#!/usr/bin/env python3
"""Make a model like the shipped "sample" from plain text: tokenizer, training, checkpoint.

    scripts/train_sample.py children_train.txt.xz --valid children_valid.txt -o my_sample

Trains a SentencePiece-BPE tokenizer with byte fallback, then a 1.4 M-parameter Llama, and
writes both as one Hugging Face checkpoint in bfloat16. Texts are UTF-8, as .txt or .txt.xz.

For scale: on children_valid.txt the shipped model has a loss of 3.249 nats per token as measured
here, over the whole file; over the first 32 windows alone it is 3.060.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer
    from torch import Tensor, nn

SPECIAL = UNK, BOS, EOS = "<unk>", "<s>", "</s>"  # their ids are 0, 1, 2
VOCAB, LAYERS, POSITIONS = 2048, 12, 1024
SEQUENCE = 512  # tokens of a training window, its leading <s> included
PEAK_RATE, PEAK_BATCH = 4e-3, 256
WARMUP_STEPS, WARMUP_PART, DECAY_PART, FLOOR = 150, 0.1, 0.4, 0.02
CHUNKS = r"(?s).{200000}.*?\n\n|.+"  # cut after a paragraph, to be tokenized in parallel
REPORT_SECONDS = 15.0


class RefusedError(Exception):
    """The run cannot be made; the message says why in one line."""


def read_text(path: Path) -> str:
    try:
        with lzma.open(path) if path.suffix == ".xz" else path.open("rb") as file:
            return file.read().decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RefusedError(f"cannot read {path}: {reason}") from error


def train_sentencepiece(texts: list[str], model_file: Path) -> None:
    import sentencepiece

    try:
        with model_file.open("wb") as writer:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=(line for text in texts for line in text.split("\n") if line),
                model_writer=writer,
                model_type="bpe",
                vocab_size=VOCAB,
                byte_fallback=True,
                split_digits=True,
                # Nothing is normalized away, so that decoding gives the very text back.
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                allow_whitespace_only_pieces=True,
                max_sentence_length=20_000,
                minloglevel=2,  # only fatal errors; its ids of <unk>, <s> and </s> are ours
            )
    except RuntimeError as error:
        reason = str(error).strip().rpartition("] ")[2]  # without the place in its source
        raise RefusedError(f"the text is too small for {VOCAB} pieces: {reason}") from error


def convert_sentencepiece(model_file: Path) -> Tokenizer:
    """The same tokenizer for the `tokenizers` library."""
    import sentencepiece
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    sp = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    vocab: dict[str, int] = {sp.id_to_piece(i): i for i in range(sp.get_piece_size())}

    # SentencePiece joins whichever neighbours give the best piece, however that piece came up
    # in training: so each way to split a piece is a merge. Ids run from the best piece down.
    merges: list[tuple[str, str]] = []
    for piece, number in vocab.items():
        if not sp.is_byte(number) and piece not in SPECIAL:
            splits = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
            known = [(a, b) for a, b in splits if a in vocab and b in vocab]
            merges += sorted(known, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))

    bpe = models.BPE(vocab, merges, unk_token=UNK, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    space = normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence(list(space))
    back = decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()
    tokenizer.decoder = decoders.Sequence([*back, decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, vocab[BOS])]
    )
    return tokenizer


def make_tokenizer(folder: Path, texts: list[str], existing: Path | None) -> Path:
    """Put a tokenizer, trained or copied, into folder; give its tokenizer.json."""
    from tokenizers import Tokenizer

    json_file, model_file = folder / "tokenizer.json", folder / "tokenizer.model"
    if existing:
        for file in (json_file, model_file):
            if (existing / file.name).is_file():
                shutil.copyfile(existing / file.name, file)
        if not json_file.is_file():
            raise RefusedError(f"no tokenizer.json in {existing}")
        tokenizer = Tokenizer.from_file(str(json_file))
        ids = [tokenizer.token_to_id(token) for token in SPECIAL]
        if tokenizer.get_vocab_size() != VOCAB or ids != [0, 1, 2]:
            raise RefusedError(f"the tokenizer in {existing} is not one of {VOCAB} pieces as here")
    else:
        train_sentencepiece(texts, model_file)
        convert_sentencepiece(model_file).save(str(json_file))
    settings = {
        # Known to transformers 4 and 5, unlike the name that 5 would write.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": UNK,
        "bos_token": BOS,
        "eos_token": EOS,
        "model_max_length": SEQUENCE,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    return json_file


def encode_chunk(chunk: str, json_file: Path) -> NDArray[np.uint16]:
    import numpy as np
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(json_file))
    return np.array(tokenizer.encode(chunk, add_special_tokens=False).ids, dtype=np.uint16)


def encode(texts: list[str], json_file: Path) -> Tensor:
    """The token ids of the texts one after the other, worked out on all cores."""
    import numpy as np
    import torch

    chunks = [chunk for text in texts for chunk in re.findall(CHUNKS, text)]
    # Spawned, not forked: torch's and CUDA's threads do not survive a fork.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        ids = list(pool.map(partial(encode_chunk, json_file=json_file), chunks))
    joined = np.concatenate([np.empty(0, np.uint16), *ids])
    return torch.from_numpy(joined.astype(np.int32))  # torch cannot index a uint16 tensor


def new_model() -> nn.Module:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape: dict[str, Any] = {"hidden_size": 96, "intermediate_size": 256, "head_dim": 32}
    config = LlamaConfig(
        **shape,
        vocab_size=VOCAB,
        num_hidden_layers=LAYERS,
        num_attention_heads=3,
        num_key_value_heads=1,
        max_position_embeddings=POSITIONS,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    model: nn.Module = LlamaForCausalLM(config)
    # What writes to the residual stream starts smaller, as there are 2 * LAYERS such writers.
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.mul_((2 * LAYERS) ** -0.5)
    return model


def loss_of(model: nn.Module, tokens: Tensor, starts: Tensor) -> Tensor:
    """Mean nats per token over windows: <s> and the SEQUENCE - 1 tokens from each start."""
    import torch
    from torch.nn.functional import cross_entropy, pad

    rows = pad(tokens.unfold(0, SEQUENCE - 1, 1)[starts].long(), (1, 0), value=1)
    device = tokens.device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
        logits = model(input_ids=rows, use_cache=False).logits
    return cross_entropy(logits[:, :-1].flatten(0, 1).float(), rows[:, 1:].flatten())


def validation_loss(model: nn.Module, tokens: Tensor) -> float:
    """Mean nats per token over windows side by side; the rest after the last is left out."""
    import torch

    starts = torch.arange(0, len(tokens) - SEQUENCE + 2, SEQUENCE - 1, device=tokens.device)
    total = 0.0
    with torch.no_grad():
        for i in range(0, len(starts), 16):
            part = starts[i : i + 16]
            total += loss_of(model, tokens, part).item() * len(part)
    return total / len(starts)


def rate_factor(step: int, done: float) -> float:
    """The learning rate as a part of its peak, when `done` (0 to 1) of the run is over."""
    warm = max((step + 1) / WARMUP_STEPS, done / WARMUP_PART)
    return min(1.0, warm) * min(1.0, max(FLOOR, (1 - done) / DECAY_PART))


def train(
    model: nn.Module, tokens: Tensor, batch: int, steps: int | None, seconds: float, compiled: bool
) -> tuple[int, float]:
    """Train for so many steps, or else for so long; give the steps and the tokens a second."""
    import torch

    loss_fn: Callable[..., Tensor] = torch.compile(loss_of) if compiled else loss_of
    weights = list(model.parameters())
    groups = [
        {"params": [w for w in weights if w.dim() > 1], "weight_decay": 0.1},
        {"params": [w for w in weights if w.dim() == 1], "weight_decay": 0.0},
    ]
    peak = PEAK_RATE * min(1.0, math.sqrt(batch / PEAK_BATCH))
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95), fused=True)
    step, clock, told = 0, 0.0, 0.0
    while True:
        passed = time.monotonic() - clock if step else 0.0
        done = step / steps if steps else passed / seconds
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = peak * rate_factor(step, done)
        starts = torch.randint(len(tokens) - SEQUENCE + 2, (batch,), device=tokens.device)
        loss = loss_fn(model, tokens, starts)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step == 1 or passed - told >= REPORT_SECONDS:
            print(f"step {step}, {done:.0%} done, training loss {loss.item():.3f}", flush=True)
            told = passed
        if step == 1:
            clock = time.monotonic()  # the first step may compile for a minute: not counted
    print(f"step {step}, all done, training loss {loss.item():.3f}", flush=True)
    return step, (step - 1) * batch * SEQUENCE / (time.monotonic() - clock)


def positive(kind: Callable[[str], float], text: str) -> float:
    value = kind(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"not above zero: {text}")
    return value


def arguments() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    add, whole = parser.add_argument, partial(positive, int)
    add("texts", nargs="+", type=Path, metavar="TRAIN_TEXT")
    add("--valid", type=Path, required=True, metavar="FILE", help="text to measure the loss on")
    add("-o", "--out", type=Path, required=True, help="folder to write; must not exist")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=partial(positive, float), default=10.0, help="(10)")
    length.add_argument("--steps", type=whole, help="instead of --minutes")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--batch", type=whole, help=f"windows of {SEQUENCE} tokens a step (256; on a CPU 16)")
    add("--seed", type=int, default=0)
    add("--tokenizer", type=Path, metavar="DIR", help="use this tokenizer, train none")
    add("--compile", action=argparse.BooleanOptionalAction, help="the default for CUDA")
    return parser.parse_args()


def run(args: argparse.Namespace) -> str:
    out: Path = args.out
    if out.exists() or out.is_symlink():
        raise RefusedError(f"{out} exists already")
    texts, valid = [read_text(path) for path in args.texts], read_text(args.valid)

    import torch
    from transformers import PreTrainedModel

    cuda: bool = args.device != "cpu" and torch.cuda.is_available()
    if args.device == "cuda" and not cuda:
        raise RefusedError("--device cuda: torch finds no CUDA device")
    device = torch.device("cuda" if cuda else "cpu")
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(args.seed)

    out.parent.mkdir(parents=True, exist_ok=True)
    # OUT gets its name only when whole; a run that is cut short leaves nothing there.
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        folder = Path(scratch) / "checkpoint"
        folder.mkdir()
        json_file = make_tokenizer(folder, texts, args.tokenizer)
        begun = time.monotonic()
        ids, valid_ids = encode(texts, json_file), encode([valid], json_file)
        took = time.monotonic() - begun
        print(f"tokens: {len(ids)} + {len(valid_ids)}, made in {took:.1f} s", flush=True)
        for name, count in (("training", len(ids)), ("validation", len(valid_ids))):
            if count < SEQUENCE:
                raise RefusedError(f"the {name} text has {count} tokens, fewer than {SEQUENCE}")

        model = new_model().to(device)
        batch = args.batch or (PEAK_BATCH if cuda else 16)
        compiled = cuda if args.compile is None else args.compile
        seconds = args.minutes * 60
        steps, speed = train(model, ids.to(device), batch, args.steps, seconds, compiled)

        # Measured as it is stored, in bfloat16. Only weights are rounded here: whoever loads
        # them works the rotary table out afresh, in float32.
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_(weight.bfloat16())
        nats = validation_loss(model.eval(), valid_ids.to(device))
        bits = nats / math.log(2) * len(valid_ids) / len(valid)
        assert isinstance(model, PreTrainedModel)
        model.bfloat16().save_pretrained(folder)
        folder.rename(out)
    return (
        f"{out}: validation loss {nats:.4f} nats per token, {bits:.4f} bits per character; "
        f"{steps} steps, {steps * batch * SEQUENCE} tokens, {speed:.0f} tokens/s"
    )


def main() -> int:
    # One process a core tokenizes: threads inside each would only get in the way.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    try:
        print(run(arguments()))
    except RefusedError as refusal:
        print(f"train_sample: {refusal}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
