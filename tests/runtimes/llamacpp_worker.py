"""Runs a GGUF file in llama.cpp, in a process of its own: it aborts where others raise.

Reads a job as JSON from stdin: ``file``, ``prompts`` (lists of token ids, continued greedily by
``steps`` tokens, none of them ``banned``) and ``texts`` (to be tokenized). Writes one JSON object to
the file that the first argument names: ``runs``, each of which has ``tokens`` and for every token the
``logprobs`` of the whole vocabulary by id, and ``tokenized``, the ids of every text.
"""

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any


def main() -> None:
    import xllamacpp

    job = json.load(sys.stdin)
    params = xllamacpp.CommonParams()
    params.model.path = job["file"]
    params.n_ctx = 512
    params.n_parallel = 1
    params.n_gpu_layers = 0
    params.port = 0
    params.warmup = False
    params.verbosity = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    # exact where it can be: keys and values of 32 bits, attention as written
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(params)
    out = {
        "runs": [complete(server, prompt, job) for prompt in job["prompts"]],
        "tokenized": [tokenize(server.listening_address, text) for text in job["texts"]],
    }
    Path(sys.argv[1]).write_text(json.dumps(out), encoding="utf-8")


def complete(server: Any, prompt: list[int], job: dict[str, Any]) -> dict[str, Any]:
    steps, vocabulary, banned = job["steps"], job["vocabulary"], job["banned"]
    answer = server.handle_completions(
        {
            "prompt": prompt,
            "n_predict": steps,
            "temperature": 0,
            "n_probs": vocabulary,
            # bytes that are no character yet come without their numbers; only the choice is held back,
            # the probabilities are those of the model
            "logit_bias": [[token, False] for token in banned],
            "ignore_eos": True,
            "cache_prompt": False,
        }
    )
    content = answer["choices"][0]["logprobs"]["content"]
    rows = []
    for step in content:
        row = [None] * vocabulary
        for entry in step["top_logprobs"]:
            row[entry["id"]] = entry["logprob"]
        rows.append(row)
    return {"tokens": [step["id"] for step in content], "logprobs": rows}


def tokenize(address: str, text: str) -> list[int]:
    body = json.dumps({"content": text, "add_special": True, "parse_special": True}).encode()
    request = urllib.request.Request(f"{address}/tokenize", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return list(json.load(answer)["tokens"])


if __name__ == "__main__":
    main()
