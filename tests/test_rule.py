"""Rules: the words of a cut, the plan they make, and the reasons given for it."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import checkpoints
import pytest
from checkpoints import Outcome, assert_refused, read_json
from similarities import made

import surgeon
from surgeon.checkpoint.source import open_checkpoint
from surgeon.errors import SurgeonError
from surgeon.jsonfile import encode_json
from surgeon.measure.latency.grids import choose_grid
from surgeon.measure.opened import fingerprint
from surgeon.measure.similarity import Similarity, read_similarity
from surgeon.plan import Plan, Sublayer
from surgeon.rule import Rule

Cli = Callable[..., Outcome]
ATTENTION, MLP = Sublayer.ATTENTION, Sublayer.MLP
SIX = made([0.9, 0.99, 0.97, 0.98, 0.97, 0.96], [0.8, 0.7, 0.95, 0.9, 0.94, 0.99])


def elsewhere(num_layers: int, headers: str = "h" * 64, revision: str | None = None) -> Any:
    """A checkpoint of the Hub, of which only headers can be seen."""
    source = SimpleNamespace(name="ORG/NAME", revision=revision, folder=None)
    structure = SimpleNamespace(num_layers=num_layers)
    return SimpleNamespace(fingerprint=headers, source=source, structure=structure)


def chosen(drop: str, count: int, keep_last: bool = False, absent: Any = ()) -> Plan:
    return Rule(drop, count=count, by=SIX, keep_last=keep_last).choose(6, absent, elsewhere(6)).plan


@pytest.mark.parametrize(
    ("words", "plan"),
    [
        ({"last": 2}, Plan.last(6, 2)),
        ({"fraction": "33%", "drop": "mlp"}, Plan.fraction(6, "33%", "mlp")),
        ({"layers": "1,3-4", "drop": "block"}, Plan.layers(6, "1,3-4", "block")),
        ({"layers": [1, 3]}, Plan.layers(6, [1, 3])),
        ({"last": 2, "keep_last": True}, Plan.last(6, 2, keep_last=True)),
    ],
)
def test_rules_of_place_are_those_of_plans(words: dict[str, Any], plan: Plan) -> None:
    choice = Rule(**words).choose(6)
    assert (choice.plan, choice.why) == (plan, ())


def test_the_most_similar_go_and_of_equals_the_deeper() -> None:
    assert chosen("attn", 1).removed_layers(ATTENTION) == (1,)
    assert chosen("attn", 3).removed_layers(ATTENTION) == (1, 3, 4)
    assert chosen("mlp", 2).removed_layers(MLP) == (2, 5)
    # by the block's own similarity, not by that of its parts
    assert chosen("block", 2).removed == {(n, sub) for n in (2, 5) for sub in Sublayer}


def test_keep_last_leaves_the_last_layer_out_of_the_choice() -> None:
    assert chosen("mlp", 2, keep_last=True).removed_layers(MLP) == (2, 4)
    assert chosen("mlp", 5, keep_last=True).removed_layers(MLP) == (0, 1, 2, 3, 4)


def test_the_choice_is_explained() -> None:
    choice = Rule(count=3, by=SIX).choose(6, (), elsewhere(6))
    assert choice.why == (
        "attention of layers 1,3-4: cosine similarity 0.9700-0.9900; the next would have been "
        "layer 2 at 0.9700",
        "measured on model, 128 tokens of a text (headers compared, weights not)",
    )
    every = Rule("block", count=5, by=SIX, keep_last=True).choose(6, (), elsewhere(6))
    assert every.why[0] == "layers 0-4: cosine similarity 0.6930-0.9215"
    commit = made([0.9], [0.8], model="ORG/NAME", revision="abc")
    assert Rule(count=1, by=commit).choose(1, (), elsewhere(1, revision="abc")).why == (
        "attention of layer 0: cosine similarity 0.9000",
        "measured on ORG/NAME@abc, 128 tokens of a text",
    )


def test_a_source_that_was_cut_before() -> None:
    cut = made([0.9, None, 0.97], [0.8, 0.7, None])
    absent = {(1, ATTENTION), (2, MLP)}
    attention = Rule(count=2, by=cut).choose(3, absent, elsewhere(3)).plan
    assert attention.removed_layers(ATTENTION) == (0, 2)
    blocks = Rule("block", count=1, by=cut).choose(3, absent, elsewhere(3)).plan
    assert blocks.removed == {(2, ATTENTION)}
    with pytest.raises(SurgeonError, match="--count 3 is out of range; 2 layers have what --drop attn"):
        Rule(count=3, by=cut).choose(3, absent, elsewhere(3))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, "exactly one of --last, --fraction, --layers and --count with --by"),
        ({"last": 1, "count": 1, "by": SIX}, "exactly one of"),
        ({"last": 1, "layers": "1"}, "exactly one of"),
        ({"count": 2}, "--count needs --by FILE"),
        ({"by": SIX}, "--by needs --count N"),
        ({"by": SIX, "last": 1}, "--by needs --count N"),
        ({"count": 0, "by": SIX}, "--count 0 is out of range"),
        ({"count": 7, "by": SIX}, "--count 7 is out of range; 6 layers have"),
        ({"count": 6, "by": SIX, "keep_last": True}, "5 layers have .* the last one left out"),
        ({"count": 1, "by": SIX, "drop": "heads"}, "--drop 'heads' is not known"),
        ({"count": 6, "by": SIX, "drop": "block"}, "removes every sublayer"),
    ],
    ids=str,
)
def test_words_that_make_no_rule(words: dict[str, Any], message: str) -> None:
    with pytest.raises(SurgeonError, match=message):
        Rule(**words).choose(6, (), elsewhere(6))


def test_a_similarity_of_another_model(tmp_path: Path) -> None:
    def refuse(similarity: Similarity, checkpoint: Any, message: str) -> None:
        with pytest.raises(SurgeonError, match=message):
            Rule(count=1, by=similarity).choose(6, (), checkpoint)

    refuse(SIX, None, "ranks layers of a checkpoint")
    refuse(SIX, elsewhere(5, "0" * 64), "is of model, 6 layers, whose tensors are not those of ORG")
    refuse(SIX, elsewhere(6, "0" * 64), "is of model, whose tensors are not")
    here = open_checkpoint(checkpoints.make(tmp_path / "here", layers=6))
    refuse(SIX, here, "is of model, whose tensors are not those of here")
    fine_tune = made([0.9] * 6, [0.8] * 6, headers=here.fingerprint)
    refuse(fine_tune, here, "is of model, whose weights are not those of here")


@pytest.fixture
def ranking(model: Path, tmp_path: Path) -> Path:
    """A similarity.json of the small model of four layers."""
    opened = open_checkpoint(model)
    means = [0.9, 0.99, 0.97, 0.98], [0.8] * 4
    found = made(*means, headers=opened.fingerprint, fingerprint=fingerprint(opened))
    (tmp_path / "sim").mkdir()
    path = tmp_path / "sim" / "similarity.json"
    path.write_bytes(encode_json(found.to_json()))
    assert read_similarity(path) == read_similarity(tmp_path / "sim") == (found, str(path))
    return path


def test_what_to_time_by_similarity(model: Path, ranking: Path) -> None:
    checkpoint = open_checkpoint(model)
    attn, block = choose_grid("attn,block", keep_last="yes", count=1, by=ranking)(checkpoint)
    assert attn.removed == {(1, ATTENTION)}
    assert block.removed == {(1, ATTENTION), (1, MLP)}
    refused = choose_grid("attn", count=1)
    with pytest.raises(SurgeonError, match="--by"):
        refused(checkpoint)


def test_prune_by_similarity(model: Path, ranking: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "out"
    outcome = cli("prune", model, "--count", 2, "--by", ranking, "-o", out)
    assert outcome.code == 0
    assert outcome.out.startswith(
        "model: removing attention of layers 1,3 of 4\n"
        "  attention of layers 1,3: cosine similarity 0.9800-0.9900; the next would have been layer 2 "
        "at 0.9700\n  measured on model, 128 tokens of a text\n"
    )
    why = read_json(out / "surgery.json")["why"]
    assert why[0].startswith("attention of layers 1,3: cosine")
    assert f"chosen: {'; '.join(why)}.\n" in (out / "README.md").read_text()
    assert surgeon.verify(out, model).ok
    report = surgeon.prune(
        model, tmp_path / "again", drop="attn", count=2, by=ranking.parent, dry_run=True
    )
    assert list(report.why) == why
    rule = Rule(count=2, by=read_similarity(ranking)[0])
    assert surgeon.prune(model, tmp_path / "again", rule, dry_run=True).plan == report.plan
    with pytest.raises(SurgeonError, match="exactly one of a Plan"):
        surgeon.prune(model, tmp_path / "again", rule, last=2)


def test_prune_without_a_ranking_says_nothing_of_one(model: Path, tmp_path: Path) -> None:
    surgeon.prune(model, tmp_path / "out", last=1)
    assert "why" not in read_json(tmp_path / "out" / "surgery.json")
    assert "chosen" not in (tmp_path / "out" / "README.md").read_text()


def test_files_that_are_no_similarity(model: Path, ranking: Path, tmp_path: Path, cli: Cli) -> None:
    good = json.loads(ranking.read_text())
    odd: dict[str, Any] = {
        "is not JSON": b"nope",
        "is not a file of surgeon similarity": b"[1]",
        "not 1; measure anew": json.dumps(good | {"format": 2}).encode(),
        "instead of 4": json.dumps(good | {"layers": good["layers"][:2]}).encode(),
        "no finite number": ranking.read_bytes().replace(b"0.99,", b"NaN,"),
        "no triangle": json.dumps(good | {"angular": []}).encode(),
        "'tokens'": json.dumps({k: v for k, v in good.items() if k != "tokens"}).encode(),
    }
    for words, data in odd.items():
        (tmp_path / "odd.json").write_bytes(data)
        outcome = cli("prune", model, "--count", 1, "--by", tmp_path / "odd.json", "-o", tmp_path / "o")
        assert_refused(outcome, "odd.json", words)
    outcome = cli("prune", model, "--count", 1, "--by", tmp_path / "none", "-o", tmp_path / "o")
    assert_refused(outcome, "none: cannot be read")
    assert_refused(cli("prune", model, "--count", 1, "-o", tmp_path / "o"), "--count needs --by")
    assert not (tmp_path / "o").exists()


def test_json_of_a_similarity_is_read_back_as_it_was() -> None:
    cut = made([0.9, None], [None, 0.7], versions={"torch": "2"})
    assert Similarity.from_json(json.loads(encode_json(cut.to_json())), "here") == cut
    assert cut.run(1) == (0, 0.05)
    assert cut.curves()["attention"] == (0.9, None)
