#!/usr/bin/env python
"""Makes the harness's tasks read JSON-lines files, for machines without a network.

    scripts/offline_tasks.py DATA OUT [--subjects 3]
    surgeon eval MODEL --tasks openllm --include-path OUT

Every task keeps the harness's own prompts and metrics; only where its data comes from is replaced.
Files that DATA lacks are passed over. ARC and HellaSwag have no training split here, so that their
examples are drawn from the questions that are asked, never the one at hand.
"""

import argparse
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

DATA = {
    "arc_challenge": ("arc/arc_challenge.yaml", "arc_challenge_test.jsonl"),
    "hellaswag": ("hellaswag/hellaswag.yaml", "hellaswag_validation.jsonl"),
    "truthfulqa_mc2": ("truthfulqa/truthfulqa_mc2.yaml", "truthfulqa_mc_validation.jsonl"),
    "lambada_openai": ("lambada/lambada_openai.yaml", "lambada_test.jsonl"),
    "wikitext": ("wikitext/wikitext.yaml", "wikitext2_test.jsonl"),
}
"""By task: where the harness describes it, and its questions."""

CHANGES: dict[str, dict[str, Any]] = {
    "arc_challenge": {"fewshot_split": "test"},
    "hellaswag": {"fewshot_split": "test", "process_docs": None, "doc_to_target": "{{gold}}"},
}
"""What else differs: HellaSwag's lines are clean already."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("data", type=Path, help="folder of .jsonl files")
    parser.add_argument("out", type=Path, help="folder for --include-path")
    parser.add_argument("--subjects", type=int, help="only the first N subjects of MMLU")
    chosen = parser.parse_args()
    print(" ".join(make_tasks(chosen.data, chosen.out, chosen.subjects)))


def make_tasks(data: Path, out: Path, subjects: int | None = None) -> list[str]:
    """Writes the YAML files; the names of the tasks, MMLU as a group."""
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for task, (own, name) in DATA.items():
        if (data / name).is_file():
            _write(out, task, own, {"test": data / name}, CHANGES.get(task, {}))
            made.append(task)
    if (data / "mmlu_test.jsonl").is_file():
        _mmlu(data, out, subjects)
        made.append("mmlu")
    return made


def _mmlu(data: Path, out: Path, subjects: int | None) -> None:
    """A task a subject, with lines of its own, and the group over them."""
    lines: dict[str, dict[str, list[str]]] = {}
    for split in ("dev", "test"):
        with (data / f"mmlu_{split}.jsonl").open(encoding="utf-8") as file:
            for line in file:
                lines.setdefault(json.loads(line)["subject"], {}).setdefault(split, []).append(line)
    chosen = sorted(lines)[:subjects]
    for subject in chosen:
        files = {}
        for split, rows in lines[subject].items():
            files[split] = out / f"mmlu_{subject}_{split}.jsonl"
            files[split].write_text("".join(rows), encoding="utf-8")
        _write(out, f"mmlu_{subject}", f"mmlu/default/mmlu_{subject}.yaml", files, {"tag": None})
    group = {
        "group": "mmlu",
        "task": [f"mmlu_{subject}" for subject in chosen],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
    }
    (out / "mmlu.yaml").write_text(json.dumps(group), encoding="utf-8")


def _write(out: Path, task: str, own: str, files: dict[str, Path], changes: dict[str, Any]) -> None:
    found = find_spec("lm_eval")
    if found is None or found.origin is None:
        raise SystemExit("this needs lm-eval: pip install 'surgeon[eval]'")
    config = {
        "include": str(Path(found.origin).parent / "tasks" / own),
        "task": task,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(path.resolve()) for split, path in files.items()}},
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
        **changes,
    }
    # JSON is YAML
    (out / f"{task}.yaml").write_text(json.dumps(config, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
