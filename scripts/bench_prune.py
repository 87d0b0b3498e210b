#!/usr/bin/env python3
"""Times `surgeon prune` against its peers on a checkpoint of random weights, in one run, alternating.

Peers: `cp` of the kept bytes, mergekit's passthrough merge, and transformers load-delete-save. Each
is a process of its own, so that start-up counts and peak memory can be read. Absolute times hold for
one machine and hour; the ratios, medians over the rounds, are what to look at.

    scripts/bench_prune.py                 2.2 GB, the shape of TinyLlama-1.1B, warm page cache
    scripts/bench_prune.py --large --cold  13.5 GB, the shape of Llama-2-7B, caches dropped (root)
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from surgeon.checkpoint.header import encode_header
from surgeon.checkpoint.source import sample_folder

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Shape:
    """A Llama's widths, and how many of its last blocks the benchmark drops."""

    name: str
    hidden: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    shard_layers: int
    drop: int


SMALL = Shape("TinyLlama-1.1B", 2048, 5632, 22, 32, 4, 22, 5)
LARGE = Shape("Llama-2-7B", 4096, 11008, 32, 32, 32, 11, 8)
VOCABULARY = 32000


@dataclass(frozen=True)
class Sample:
    """One process: wall-clock seconds, peak resident memory and bytes written."""

    seconds: float
    peak: int
    written: int


def tensors(shape: Shape) -> Iterator[tuple[int, str, tuple[int, ...]]]:
    """(shard, name, shape) in the alphabetical order in which save_pretrained writes them."""
    kv = shape.hidden // shape.heads * shape.kv_heads
    last = (shape.layers - 1) // shape.shard_layers
    yield 0, "model.embed_tokens.weight", (VOCABULARY, shape.hidden)
    for layer in range(shape.layers):
        for name, dims in (
            ("input_layernorm", (shape.hidden,)),
            ("mlp.down_proj", (shape.hidden, shape.mlp)),
            ("mlp.gate_proj", (shape.mlp, shape.hidden)),
            ("mlp.up_proj", (shape.mlp, shape.hidden)),
            ("post_attention_layernorm", (shape.hidden,)),
            ("self_attn.k_proj", (kv, shape.hidden)),
            ("self_attn.o_proj", (shape.hidden, shape.hidden)),
            ("self_attn.q_proj", (shape.hidden, shape.hidden)),
            ("self_attn.v_proj", (kv, shape.hidden)),
        ):
            yield layer // shape.shard_layers, f"model.layers.{layer}.{name}.weight", dims
    yield last, "model.norm.weight", (shape.hidden,)
    yield last, "lm_head.weight", (VOCABULARY, shape.hidden)


def make_checkpoint(shape: Shape, folder: Path) -> int:
    """Writes a bf16 checkpoint of random values around 0.01; returns its bytes."""
    folder.mkdir(parents=True)
    block = bytearray(16 << 20)
    block[0::2] = os.urandom(8 << 20)
    block[1::2] = os.urandom(8 << 20).translate(bytes(0x3C | (i & 0x80) for i in range(256)))
    shards: dict[int, list[tuple[str, tuple[int, ...], int]]] = {}
    for shard, name, dims in tensors(shape):
        length = 2 * dims[0] * (dims[1] if len(dims) > 1 else 1)
        shards.setdefault(shard, []).append((name, dims, length))
    weight_map: dict[str, str] = {}
    total = 0
    for shard, entries in shards.items():
        file = f"model-{shard + 1:05}-of-{len(shards):05}.safetensors"
        file = "model.safetensors" if len(shards) == 1 else file
        rows = [(name, "BF16", dims, length) for name, dims, length in entries]
        with open(folder / file, "wb") as stream:
            # the safetensors library pads headers to 8 bytes, no more
            stream.write(encode_header(rows, {"format": "pt"}, alignment=8))
            left = sum(length for *_, length in entries)
            total += left
            while left:
                left -= stream.write(block[: min(left, len(block))])
        weight_map |= {name: file for name, *_ in entries}
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = json.loads((sample_folder() / "config.json").read_text()) | {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.mlp,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.hidden // shape.heads,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
        # mergekit brings its own transformers, which may be of major version 4
        "torch_dtype": "bfloat16",
        "rope_theta": 10000.0,
    }
    del config["rope_parameters"], config["dtype"]
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(sample_folder() / name, folder)
    return total


def mergekit_program() -> Path | None:
    """mergekit-yaml from an environment of its own, which is made on first use."""
    place = ROOT / ".venv-mergekit"
    program = place / "bin" / "mergekit-yaml"
    if not program.exists():
        print("installing mergekit into", place, file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        pins = ["-c", str(ROOT / "scripts" / "constraints.txt")]
        done = subprocess.run(
            [place / "bin" / "pip", "install", "-q", "torch", "mergekit", *pins], check=False
        )
        if done.returncode:
            print("mergekit cannot be installed here; its column stays empty", file=sys.stderr)
            return None
    return program


TRANSFORMERS = """
import sys, torch
from transformers import AutoModelForCausalLM
source, out, keep = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = AutoModelForCausalLM.from_pretrained(source, dtype="auto", low_cpu_mem_usage=True)
del model.model.layers[keep:]
model.config.num_hidden_layers = keep
model.save_pretrained(out)
"""


def commands(shape: Shape, source: Path, kept: Path, work: Path) -> dict[str, list[str]]:
    """The contestants as command lines; each writes into work/out."""
    out = str(work / "out")
    keep = shape.layers - shape.drop
    prune = [sys.executable, "-m", "surgeon", "prune", str(source), "-o", out]
    found = {
        "cp of the kept bytes": ["cp", "-r", str(kept), out],
        "surgeon prune --drop block": [*prune, "--drop", "block", "--last", str(shape.drop)],
        "surgeon prune --drop attn": [*prune, "--drop", "attn", "--last", str(shape.drop)],
    }
    program = mergekit_program()
    if program is not None:
        recipe = work / "passthrough.yaml"
        recipe.write_text(
            "merge_method: passthrough\ndtype: bfloat16\nslices:\n- sources:\n"
            f"  - model: {source}\n    layer_range: [0, {keep}]\n"
        )
        found["mergekit passthrough"] = [str(program), str(recipe), out]
    loader = [sys.executable, "-c", TRANSFORMERS, str(source), out, str(keep)]
    found["transformers load, delete, save"] = loader
    return found


# A process's peak memory counts what its parent held when it was forked, so this small one forks it.
LAUNCHER = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.call(sys.argv[2:], stdout=open(sys.argv[1], "wb"), stderr=subprocess.STDOUT)
seconds = time.perf_counter() - start
print(json.dumps([code, seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024]))
"""


def timed(command: list[str], work: Path) -> Sample:
    """Runs a command to its end; RuntimeError with the end of its output if it fails."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as installed programs are
    log = work / "log"
    launch = [sys.executable, "-ISc", LAUNCHER, str(log), *command]
    done = subprocess.run(launch, check=True, capture_output=True, env=environment, cwd=work)
    code, seconds, peak = json.loads(done.stdout)
    if code:
        raise RuntimeError(f"{' '.join(command)}:\n{log.read_text()[-2000:]}")
    written = sum(file.stat().st_size for file in (work / "out").rglob("*") if file.is_file())
    return Sample(seconds, peak, written)


@contextmanager
def fresh(work: Path, source: Path, cold: bool) -> Iterator[None]:
    """No output of the run before, no dirty pages of it, and the source in the cache, or not at all."""
    shutil.rmtree(work / "out", ignore_errors=True)
    os.sync()
    if cold:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    else:
        for file in source.glob("*.safetensors"):
            with open(file, "rb") as stream:
                while stream.read(16 << 20):
                    pass
    yield
    shutil.rmtree(work / "out", ignore_errors=True)


def measure(
    contestants: dict[str, list[str]],
    rounds: int,
    around: Callable[[], AbstractContextManager[None]],
    work: Path,
) -> dict[str, list[Sample]]:
    """All contestants in turn, round after round."""
    samples: dict[str, list[Sample]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name, command in contestants.items():
            with around():
                samples[name].append(timed(command, work))
            print(f"round {number + 1}: {name}: {samples[name][-1].seconds:.2f} s", file=sys.stderr)
    return samples


def summary(samples: dict[str, list[Sample]]) -> list[dict[str, Any]]:
    """Medians; the ratio is the median of the ratios within each round."""
    base = samples["cp of the kept bytes"]
    return [
        {
            "name": name,
            "seconds": statistics.median(s.seconds for s in runs),
            "times_cp": statistics.median(
                s.seconds / b.seconds for s, b in zip(runs, base, strict=True)
            ),
            "written_bytes": runs[0].written,
            "peak_bytes": max(s.peak for s in runs),
            "runs": [asdict(s) for s in runs],
        }
        for name, runs in samples.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--large", action="store_true", help="Llama-2-7B's shape, 13.5 GB")
    parser.add_argument("--cold", action="store_true", help="drop the page cache before each run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("/tmp/surgeon-bench"))
    parser.add_argument("--json", type=Path, help="write the result here too")
    options = parser.parse_args()
    shape = LARGE if options.large else SMALL
    work: Path = options.work
    if work.exists():
        parser.error(f"{work} exists; remove it or name another --work")
    source, kept = work / "source", work / "kept"
    size = make_checkpoint(shape, source)
    contestants = commands(shape, source, kept, work)
    timed(contestants["surgeon prune --drop block"], work)
    (work / "out").rename(kept)
    samples = measure(contestants, options.rounds, lambda: fresh(work, source, options.cold), work)
    rows = summary(samples)
    report = {
        "shape": asdict(shape),
        "source_bytes": size,
        "kept_bytes": sum(f.stat().st_size for f in kept.iterdir()),
        "cache": "cold" if options.cold else "warm",
        "machine": f"{os.cpu_count()} cores, {platform.platform()}",
        "rounds": options.rounds,
        "results": rows,
    }
    shutil.rmtree(work)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    print(
        f"{shape.name} shape, {size / 1e9:.1f} GB, {report['cache']}, dropping {shape.drop} of "
        f"{shape.layers} blocks; medians of {options.rounds} alternating rounds"
    )
    print(f"{'':34}{'seconds':>9}{'x cp':>8}{'written':>11}{'peak memory':>14}")
    for row in rows:
        written = f"{row['written_bytes'] / 1e9:.2f} GB"
        peak = f"{row['peak_bytes'] / 1e6:.0f} MB"
        print(f"{row['name']:34}{row['seconds']:9.2f}{row['times_cp']:8.2f}{written:>11}{peak:>14}")


if __name__ == "__main__":
    main()
