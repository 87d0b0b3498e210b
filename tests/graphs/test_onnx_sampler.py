"""The graph that chooses tokens: its distribution beside numpy's softmax, and what it counts."""

import pytest

from surgeon.errors import SurgeonError
from surgeon.runtime.sampler import GREEDY, Sampling, sampler

np = pytest.importorskip("numpy")

DRAWS = 20000
LOGITS = np.array([3.0, 1.0, 2.5, -1.0, 0.0, 2.0, -30.0, 1.5], np.float32)


def session(sampling, vocabulary, capacity=16, element=1):
    import onnxruntime as ort

    model = sampler(sampling, element, vocabulary, capacity)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def draw(sampling, logits, draws=DRAWS):
    """Tokens of one run over a batch of equal rows."""
    batch = np.tile(logits, (draws, 1))[:, None]
    feeds = {
        "logits": batch,
        "row": np.zeros((draws, 1, 1), np.int64),
        "lengths": np.ones((draws, 1), np.int64),
    }
    ids, _, _ = session(sampling, len(logits)).run(["ids", "new_lengths", "mask"], feeds)
    assert ids.shape == (draws, 1)
    return ids[:, 0]


def shares(sampling, logits):
    """The distribution by hand: softmax, then the shortest head of it that reaches top_p."""
    scores = logits.astype(np.float64) / sampling.temperature
    probabilities = np.exp(scores - scores.max())
    probabilities /= probabilities.sum()
    order = np.argsort(-probabilities, kind="stable")
    kept = order[: 1 + np.searchsorted(np.cumsum(probabilities[order]), sampling.top_p)]
    out = np.zeros_like(probabilities)
    out[kept] = probabilities[kept]
    return out / out.sum()


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.8, 0.5, 0.3])
@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.0, 2.0])
def test_distribution(temperature, top_p, seed):
    """Bounds of six standard deviations; the seed is fixed, so it holds always or never."""
    sampling = Sampling(temperature, top_p, seed)
    want = shares(sampling, LOGITS)
    got = np.bincount(draw(sampling, LOGITS), minlength=len(LOGITS)) / DRAWS
    assert (np.abs(got - want) <= 6 * np.sqrt(want * (1 - want) / DRAWS)).all()
    assert not got[want == 0].any(), "tokens beyond top_p are never drawn"
    assert got[want > 0.001].all(), "the others are"


@pytest.mark.parametrize(
    ("top_p", "count"), [(0.1, 1), (0.39, 1), (0.41, 2), (0.69, 2), (0.71, 3), (0.89, 3), (0.91, 4)]
)
def test_top_p_cuts_exactly(top_p, count):
    """Of shares 0.4, 0.3, 0.2, 0.1 in a shuffled order."""
    order = [3, 0, 2, 1]
    logits = np.empty(4, np.float32)
    logits[order] = np.log([0.4, 0.3, 0.2, 0.1])
    assert set(draw(Sampling(1.0, top_p, 1), logits)) == set(order[:count])


def test_top_p_follows_the_temperature():
    """The shares that are added up are those after it, as in transformers."""
    logits = np.log(np.array([0.6, 0.3, 0.1], np.float32))
    assert set(draw(Sampling(1.0, 0.7, 1), logits)) == {0, 1}
    assert set(draw(Sampling(10.0, 0.7, 1), logits)) == {0, 1, 2}
    assert set(draw(Sampling(0.1, 0.7, 1), logits)) == {0}


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_seeds(top_p):
    first, again, other = (draw(Sampling(1.0, top_p, seed), LOGITS, 200) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_without_a_seed_no_two_draws_are_alike(top_p):
    """In one process as well, where onnxruntime's own default is one and the same number."""
    free = [draw(Sampling(1.0, top_p), LOGITS, 200) for _ in range(2)]
    assert not np.array_equal(*free)


def test_successive_steps_draw_anew():
    """One session is the whole text's: a seed must not freeze its noise."""
    made = session(Sampling(1.0, 1.0, 3), len(LOGITS))
    feeds = {
        "logits": np.tile(LOGITS, (200, 1))[:, None],
        "row": np.zeros((200, 1, 1), np.int64),
        "lengths": np.ones((200, 1), np.int64),
    }
    first, second = (made.run(["ids"], feeds)[0] for _ in range(2))
    assert not np.array_equal(first, second)


def test_a_tiny_temperature_is_greedy():
    assert set(draw(Sampling(1e-4, 1.0, 1), LOGITS)) == {0}


def test_no_draw_breaks_the_logarithm():
    """Noise of many draws over many tokens stays finite: every token is one of the vocabulary."""
    ids = draw(Sampling(1.0, 1.0, 2), np.zeros(4000, np.float32), 2000)
    assert ids.min() >= 0
    assert ids.max() < 4000
    assert len(set(ids)) > 1000


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1e-4, 1.0, 1), Sampling(1.0, 1e-6, 1)])
@pytest.mark.parametrize("element", [1, 10])
def test_rows_lengths_and_mask(sampling, element):
    """Greedy in three ways; each row reads its own position."""
    batch, length, vocabulary, capacity = 5, 7, 50, 11
    random = np.random.default_rng(0)
    logits = random.standard_normal((batch, length, vocabulary)).astype({1: "f4", 10: "f2"}[element])
    rows = np.array([6, 0, 3, 6, 1], np.int64)
    lengths = np.array([7, 1, 4, 10, 2], np.int64)[:, None]
    ids, new, mask = session(sampling, vocabulary, capacity, element).run(
        ["ids", "new_lengths", "mask"],
        {"logits": logits, "row": rows[:, None, None], "lengths": lengths},
    )
    assert ids.dtype == new.dtype == mask.dtype == np.int64
    assert ids[:, 0].tolist() == logits[np.arange(batch), rows].argmax(-1).tolist()
    assert new.tolist() == (lengths + 1).tolist()
    assert mask.shape == (batch, capacity)
    for row, count in zip(mask, new[:, 0], strict=True):
        assert row.tolist() == [1] * count + [0] * (capacity - count)


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.0, 1.0, 1), Sampling(1.0, 0.9, 1)])
def test_its_model_is_valid(sampling):
    import onnx

    onnx.checker.check_model(sampler(sampling, 1, 32, 8), full_check=True)


@pytest.mark.parametrize(
    ("temperature", "top_p", "word"),
    [
        (-0.1, 1.0, "--temperature"),
        (1.0, 0.0, "--top-p"),
        (1.0, -0.5, "--top-p"),
        (1.0, 1.01, "--top-p"),
        (float("nan"), 1.0, "--temperature"),
        (1.0, float("nan"), "--top-p"),
    ],
)
def test_settings_out_of_range_are_refused(temperature, top_p, word):
    with pytest.raises(SurgeonError, match=word):
        Sampling(temperature, top_p)


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_sampled_text_is_repeatable(top_p, plain):
    """Batches too: rows draw noise of their own."""
    from surgeon.onnx.export import export_onnx
    from surgeon.runtime.decoding import generate_ids
    from surgeon.runtime.session import load

    export_onnx(plain, "fp32")
    loaded = load(plain, "cpu")
    prompts = [[1, 5, 6]] * 4

    def steps(seed):
        return list(generate_ids(loaded, prompts, 12, Sampling(1.0, top_p, seed)))

    assert steps(1) == steps(1) != steps(2)
    assert len({tuple(row) for row in zip(*steps(1), strict=True)}) == 4
