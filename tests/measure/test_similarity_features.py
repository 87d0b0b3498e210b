"""What is seen of the stream is what transformers' own hidden states say, whatever the way it runs."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_models import FAMILIES, make_model

import surgeon
from surgeon.checkpoint.source import open_checkpoint
from surgeon.errors import SurgeonError
from surgeon.plan import Plan, Sublayer

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from surgeon.measure.compare import similarity  # noqa: E402
from surgeon.measure.features import Moments, look  # noqa: E402
from surgeon.measure.network import Network  # noqa: E402
from surgeon.measure.similarity import Similarity  # noqa: E402

ATTENTION, MLP = Sublayer.ATTENTION, Sublayer.MLP
IDS = torch.randint(3, 128, (3, 40), generator=torch.Generator().manual_seed(5))
PROSE = "Once upon a time there was a king who had three sons, and the youngest was called Hans. "


@pytest.fixture
def prose(tmp_path: Path) -> Path:
    """A text of some 1,400 tokens."""
    path = tmp_path / "prose.txt"
    path.write_text("".join(f"{number}. {PROSE}" for number in range(40)), encoding="utf-8")
    return path


def states(model: Any, ids: Any) -> tuple[list[Any], list[Any]]:
    """The stream before each layer and after the last, and in the middle of each: after its attention.

    By transformers' output_hidden_states, with the final norm out of the way.
    """
    middles: list[Any] = []
    base = model.base_model
    hooks = [
        layer.post_attention_layernorm.register_forward_pre_hook(
            lambda module, inputs: middles.append(inputs[0])
        )
        for layer in base.layers
    ]
    norm, base.norm = base.norm, torch.nn.Identity()
    with torch.no_grad():
        hidden = base(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
    base.norm = norm
    for hook in hooks:
        hook.remove()
    return list(hidden), middles


def cosine(a: Any, b: Any) -> tuple[float, float]:
    """Mean and deviation over all tokens but the first of each row, in float64."""
    a, b = a[:, 1:].double(), b[:, 1:].double()
    values = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
    return float(values.mean()), float(values.std(correction=0))


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_a_plain_computation_from_hidden_states(family: str) -> None:
    model = make_model(family)
    hidden, middles = states(model, IDS)
    assert (len(hidden), len(middles)) == (7, 6)
    rows = IDS.tolist()
    tally = look(Network(model), [rows[:2], rows[2:]])
    for layer in range(6):
        for part, ends in (
            (ATTENTION, (hidden[layer], middles[layer])),
            (MLP, (middles[layer], hidden[layer + 1])),
            (None, (hidden[layer], hidden[layer + 1])),
        ):
            seen = tally.parts[layer, part]
            assert seen.count == 3 * 39
            assert (seen.spread.mean, seen.spread.std) == pytest.approx(cosine(*ends), abs=1e-5)
    # the last token, the 16th before it and the 32nd
    places = [39, 23, 7]
    for a in range(7):
        for b in range(a, 7):
            x, y = hidden[a][:, places].double(), hidden[b][:, places].double()
            cosines = (x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1))
            angle = (cosines.clamp(-1, 1).arccos() / math.pi).mean()
            assert float(tally.angles[a, b]) / tally.points == pytest.approx(float(angle), abs=1e-5)


def test_moments_joined_are_those_of_all() -> None:
    numbers = torch.randn(100, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 1e6
    joined = Moments()
    for part in numbers.split([1, 50, 0, 49]):
        if len(part):
            mean = float(part.mean())
            joined.merge(Moments(len(part), mean, float((part - mean).square().sum())))
    assert joined.count == 100
    assert joined.spread.mean == pytest.approx(float(numbers.mean()), rel=1e-14)
    assert joined.spread.std == pytest.approx(float(numbers.std(correction=0)), rel=1e-8)


def test_batches_make_no_difference(prose: Path) -> None:
    alone = similarity("sample", text=[prose], tokens=1100, device="cpu", batch_size=1)
    together = similarity("sample", text=[prose], tokens=1100, device="cpu")
    assert alone.tokens == together.tokens == 1100
    assert alone.angular_tokens == together.angular_tokens
    assert numbers(alone) == pytest.approx(numbers(together), abs=1e-6)


def numbers(found: Similarity) -> list[float]:
    """All means, then all angles."""
    means = [v for curve in found.curves().values() for v in curve if v is not None]
    return [*means, *(angle for row in found.angular for angle in row)]


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path | str]:
    """Folders of models in several shapes, for --low-memory."""
    import llamas_of_similarity

    return llamas_of_similarity.folders(tmp_path_factory.mktemp("similarity"))


@pytest.mark.parametrize("source", ["sample", "cut", "joined", "qwen2", "granite-cut", "smollm3-cut"])
def test_low_memory_gives_the_same_numbers(
    source: str, sources: Callable[[str], Path | str], prose: Path
) -> None:
    options: dict[str, Any] = {"text": [prose], "tokens": 700, "device": "cpu"}
    loaded = similarity(sources(source), **options)
    assert similarity(sources(source), low_memory=True, **options) == loaded


def test_low_memory_in_the_dtype_of_the_checkpoint(prose: Path) -> None:
    options: dict[str, Any] = {"text": [prose], "tokens": 64, "device": "cpu", "dtype": "bfloat16"}
    found = similarity("sample", **options)
    assert found.subject.dtype == "bfloat16"
    assert similarity("sample", low_memory=True, **options) == found


def test_low_memory_holds_one_layer_at_a_time_and_reads_each_once(
    prose: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from surgeon.measure import streamed

    held: list[list[int]] = []
    places: set[int] = set()
    advance = streamed.StreamedNetwork.advance

    def watched(self: Any, state: Any, site: Any) -> Any:
        after = advance(self, state, site)
        layers = self.model.base_model.layers
        places.add(layers[site[0]].mlp.up_proj.weight.data_ptr())
        held.append([n for n, layer in enumerate(layers) if not next(layer.parameters()).is_meta])
        return after

    monkeypatch.setattr(streamed.StreamedNetwork, "advance", watched)
    similarity("sample", text=[prose], tokens=1100, device="cpu", batch_size=1, low_memory=True)
    assert held == [[layer] for layer in range(12) for _ in range(3 * 2)]
    # two, as gate_proj is of the same size
    assert len(places) <= 2, "each layer took memory of its own"


def test_low_memory_goes_in_passes_where_states_are_many(
    prose: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {
        "text": [prose], "tokens": 1100, "device": "cpu", "batch_size": 1, "low_memory": True,
    }  # fmt: skip
    steps: list[tuple[int, int]] = []
    once = similarity("sample", **options)
    monkeypatch.setattr("surgeon.measure.compare.PASS_BYTES", 400_000)
    again = similarity("sample", **options, advance=lambda done, total: steps.append((done, total)))
    assert numbers(again) == pytest.approx(numbers(once), abs=1e-12)
    assert steps == [(done, 36) for done in range(1, 37)]


def test_a_cut_source_is_numbered_as_it_is(sources: Callable[[str], Path | str], prose: Path) -> None:
    found = similarity(sources("cut"), text=[prose], tokens=64, device="cpu")
    assert [layer.attention is None for layer in found.layers] == [False] * 10 + [True] * 2
    assert found.layers[11].layer == found.layers[11].mlp
    again = surgeon.Rule(count=3, by=found).of(open_checkpoint(sources("cut")))
    assert max(again.plan.removed_layers(ATTENTION)) < 10


def test_features_that_are_not_finite_name_their_layer(sample_network: Network) -> None:
    model = make_model("llama")
    with torch.no_grad():
        model.model.layers[3].mlp.down_proj.weight[0, 0] = math.nan
    with pytest.raises(SurgeonError, match="ORG/M: the MLP of layer 3 makes features that are not"):
        look(Network(model), [IDS.tolist()], "ORG/M")


def test_out_of_memory_halves_the_batch_and_says_so(
    prose: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"text": [prose], "tokens": 40, "device": "cpu"}
    monkeypatch.setattr("surgeon.measure.compare.LONGEST", 10)
    expected = similarity("sample", **options, batch_size=1)
    embed, lines = Network.embed, []

    def small(self: Any, ids: Any) -> Any:
        if len(ids) > 1:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return embed(self, ids)

    monkeypatch.setattr(Network, "embed", small)
    assert similarity("sample", **options, batch_size=4, notify=lines.append) == expected
    assert lines == [
        "out of memory with a batch of 4 x 10 tokens; going on with 2",
        "out of memory with a batch of 2 x 10 tokens; going on with 1",
    ]

    def none(self: Any, ids: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Network, "embed", none)
    with pytest.raises(SurgeonError, match="batch of one row of 10 tokens"):
        similarity("sample", **options, batch_size=1)


def test_a_plan_by_similarity_of_the_sample(prose: Path, tmp_path: Path) -> None:
    """From the measurement to the cut, and the cut runs."""
    found = similarity("sample", text=[prose], tokens=256, device="cpu")
    scores = found.scores("attn")
    wanted = sorted(range(11), key=lambda n: scores[n] or 0.0)[-3:]
    report = surgeon.prune("sample", tmp_path / "out", count=3, by=found, keep_last=True)
    assert report.plan == Plan(12, frozenset((n, ATTENTION) for n in wanted))
    assert surgeon.verify(tmp_path / "out", "sample").ok
