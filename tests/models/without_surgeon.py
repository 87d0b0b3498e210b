"""Run as a script, where surgeon cannot be imported: what a user of pruned folders gets."""

import sys

sys.modules["surgeon"] = None  # an import of it now fails, however it is installed

import json  # noqa: E402

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer  # noqa: E402


def outcome(folder: str, ids: torch.Tensor, again: str | None) -> dict:
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=True, output_loading_info=True
    )
    model.eval()
    assert not any(info.values()), info
    base = AutoModel.from_pretrained(folder, dtype=torch.float32, trust_remote_code=True).eval()
    found = {
        "module": type(model).__module__,
        "config": type(AutoConfig.from_pretrained(folder, trust_remote_code=True)).__module__,
        "logits": model(ids).logits,
        "hidden": base(ids).last_hidden_state,
        "tokens": model.generate(
            ids[:1], attention_mask=torch.ones_like(ids[:1]), max_new_tokens=8, do_sample=False
        ),
        "words": {},
    }
    for trust in (True, False):
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
            found["words"][trust] = tokenizer("Once upon a time, there").input_ids
        except Exception as error:
            found["words"][trust] = repr(error)
    if again:
        model.save_pretrained(again)
    return found


def main(job: str, answer: str) -> None:
    with open(job, encoding="utf-8") as stream:
        work = json.load(stream)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    ids = torch.tensor(work["ids"])
    with torch.no_grad():
        found = {name: outcome(folder, ids, None) for name, folder in work["folders"].items()}
        for name, (folder, again) in work["resaved"].items():
            found[name] = outcome(folder, ids, again)
            found[f"{name} again"] = outcome(again, ids, None)
    assert not any(name.startswith("surgeon") and module for name, module in sys.modules.items())
    torch.save(found, answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
