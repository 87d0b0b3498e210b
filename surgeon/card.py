"""The model card (README.md) of a pruned folder: what an honest publisher would write."""

from collections.abc import Sequence

from surgeon.accounting import Costs
from surgeon.companions import llama_duties
from surgeon.markdown import pipe_table
from surgeon.plan import Plan
from surgeon.runtimes import Runtime
from surgeon.structure import Structure
from surgeon.units import format_count, format_size
from surgeon.version import __version__

PAPER = "https://arxiv.org/abs/2407.15516"

MEASURED_BEGIN = "<!-- surgeon: measured, from measured.json -->"
MEASURED_END = "<!-- surgeon: end of measured -->"
"""Between these, surgeon puts what it measured and keeps it up to date; see measure/card.py."""


def cost_rows(before: Costs, after: Costs) -> list[tuple[str, str, str, str]]:
    """What | before | after | change, for tables."""
    rows = (
        ("parameters", format_count, before.parameters, after.parameters),
        ("weights on disk", format_size, before.disk_bytes, after.disk_bytes),
        (
            "weights read per token",
            format_size,
            before.weight_bytes_per_token,
            after.weight_bytes_per_token,
        ),
        ("KV cache per token", format_size, before.kv_bytes_per_token, after.kv_bytes_per_token),
    )
    return [
        (what, form(old), form(new), f"{100 * (new - old) / old:+.1f} %" if old else "")
        for what, form, old, new in rows
    ]


def model_card(
    source: str,
    revision: str | None,
    plan: Plan,
    why: Sequence[str],
    structure: Structure,
    before: Costs,
    after: Costs,
    verdicts: Sequence[Runtime],
    license_files: Sequence[str] = (),
    license_lines: Sequence[str] = (),
    zeros: bool = False,
) -> str:
    """The card as Markdown with its YAML head.

    ``base_model`` stands there only for a source that is a Hub repository; ``license_lines`` are
    those of the source's own card; ``why`` are sentences on the choice, without a full stop; ``zeros``
    says that a portable cut added some.
    """
    hub = "/" in source
    head = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    if hub:
        head += [f"base_model: {source}", "base_model_relation: finetune"]
    head += license_lines
    head += ["tags:", "- pruned", "- depth-pruning", "- surgeon", "---"]
    origin = f"[{source}](https://huggingface.co/{source})" if hub else f"`{source}`"
    if revision:
        origin += f" at commit `{revision}`"
    costs = pipe_table(("", "before", "after", "change"), cost_rows(before, after))
    loads = pipe_table(
        ("runtime", "loads", "note", "basis"),
        [(v.name, "yes" if v.loads else "**no**", v.note, v.basis) for v in verdicts],
    )
    chosen = f"\nThe most redundant were chosen: {'; '.join(why)}.\n" if why else ""
    kept = "Every tensor that is left has the bytes it had; nothing was retrained."
    if zeros:
        kept = (
            "Nothing was retrained. For runtimes that need them, zeros were added: MLPs of zeros, zero "
            "biases, or matrices padded to a multiple of 256. They change nothing of what is computed; "
            "all other bytes are those of the source."
        )
    trust = "" if structure.plain else ", trust_remote_code=True"
    licence = ""
    duties = " ".join(llama_duties(license_lines, source))
    if license_files or duties:
        names = ", ".join(f"[{name}]({name})" for name in license_files)
        terms = f": {names}" if names else ""
        licence = (
            f"\n## Licence\n\nThe weights are those of the base model and stay under its terms{terms}. "
            f"Read them before you publish a derivative. {duties}".rstrip()
            + "\n"
        )
    return f"""{chr(10).join(head)}

# {source.rpartition("/")[2]}, pruned

{origin} after {plan.describe()}. Layers are counted from 0. {kept}
{chosen}
{costs}

Cut with surgeon {__version__}; `surgery.json` has all it takes to repeat it, and
`surgeon verify . --against SOURCE` proves the bytes.

## Loading

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER", dtype="auto"{trust})
tokenizer = AutoTokenizer.from_pretrained("FOLDER"{trust})
```

{loads}

{MEASURED_BEGIN}
{MEASURED_END}

## Limits

This is a depth-pruned model: smaller and faster than its base, and worse. Published studies of depth
pruning find that multiple-choice scores survive it better than maths and code do, so a small loss on
the usual benchmarks says little about those. Removing attention costs less than removing MLPs or
whole blocks ([Tyukin et al.]({PAPER})).
Measure it on your own task before you use it.
{licence}"""
