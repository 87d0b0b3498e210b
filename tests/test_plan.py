"""Plans: which sublayers go, what is left as blocks, and the words for it."""

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from surgeon.errors import SurgeonError
from surgeon.plan import Block, Plan, Sublayer, format_layers, parse_fraction, parse_layers

ATTENTION, MLP = Sublayer.ATTENTION, Sublayer.MLP


def gone(plan: Plan) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return plan.removed_layers(ATTENTION), plan.removed_layers(MLP)


def test_last_counts_from_the_end() -> None:
    assert gone(Plan.last(12, 4)) == ((8, 9, 10, 11), ())
    assert gone(Plan.last(12, 4, "mlp")) == ((), (8, 9, 10, 11))
    assert gone(Plan.last(12, 4, "block")) == ((8, 9, 10, 11), (8, 9, 10, 11))


def test_keep_last_moves_the_window_up_by_one() -> None:
    assert gone(Plan.last(40, 13, keep_last=True)) == (tuple(range(26, 39)), ())
    assert gone(Plan.last(12, 4, keep_last=True)) == ((7, 8, 9, 10), ())
    assert gone(Plan.last(12, 11, "block", keep_last=True)) == (tuple(range(11)), tuple(range(11)))


def test_the_largest_windows() -> None:
    # all attention may go, as long as MLPs stay
    assert gone(Plan.last(12, 12)) == (tuple(range(12)), ())
    assert Plan.last(12, 12).blocks == tuple(Block(None, layer) for layer in range(12))


@pytest.mark.parametrize(
    ("layers", "fraction", "count"),
    [
        (32, "33%", 11),
        (40, "33%", 13),
        (32, "25%", 8),
        (40, "25%", 10),
        (32, "10%", 3),
        (40, "10%", 4),
        (10, "25%", 3),  # 2.5 goes up,
        (10, "45%", 5),  # 4.5 too: not to the even number
        (4, "12.5%", 1),
        (200, "14.5%", 29),  # 29 in decimals, 28.999999999999996 in binary
        (32, 0.33, 11),
        (32, "0.33", 11),
        (32, " 33% ", 11),
    ],
)
def test_fraction_rounds_half_up(layers: int, fraction: str | float, count: int) -> None:
    assert gone(Plan.fraction(layers, fraction)) == gone(Plan.last(layers, count))
    assert gone(Plan.fraction(layers, fraction, "block", keep_last=True)) == gone(
        Plan.last(layers, count, "block", keep_last=True)
    )


@pytest.mark.parametrize(
    "fraction", ["", "%", "33 percent", "0", "0%", "-5%", "1.01", "101%", "nan", "inf", "NaN%", "33%%"]
)
def test_fraction_that_is_none(fraction: str) -> None:
    with pytest.raises(SurgeonError, match="--fraction"):
        parse_fraction(fraction)


def test_fraction_that_rounds_to_nothing() -> None:
    with pytest.raises(SurgeonError, match="rounds to none"):
        Plan.fraction(4, "12%")


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("18-30,33", (*range(18, 31), 33)),
        ("0", (0,)),
        ("3,1,2", (1, 2, 3)),
        (" 1 , 2-2 ", (1, 2)),
        ("1-3,2-4", (1, 2, 3, 4)),
    ],
)
def test_layers_are_inclusive(text: str, layers: tuple[int, ...]) -> None:
    assert parse_layers(text) == layers


@pytest.mark.parametrize(
    "text", ["", ",", "1,", "a", "1-", "-1", "1--2", "1-2-3", "1.5", "0x1", "١", "1 2", "123456", "5-4"]
)
def test_malformed_layers(text: str) -> None:
    with pytest.raises(SurgeonError, match="--layers"):
        parse_layers(text)


@pytest.mark.parametrize("count", [0, -1, 13])
def test_last_out_of_range(count: int) -> None:
    with pytest.raises(SurgeonError, match="allows 1-12"):
        Plan.last(12, count)


def test_keep_last_leaves_one_layer_less() -> None:
    with pytest.raises(SurgeonError, match="allows 1-11"):
        Plan.last(12, 12, keep_last=True)


def test_layers_out_of_range() -> None:
    with pytest.raises(SurgeonError, match=r"layer 12 \(attn\).*layers 0-11"):
        Plan.layers(12, "11-12")
    with pytest.raises(SurgeonError, match=r"layer -1"):
        Plan.layers(12, [-1])


def test_nothing_would_be_left() -> None:
    with pytest.raises(SurgeonError, match="every sublayer of all 12 layers"):
        Plan.last(12, 12, "block")
    with pytest.raises(SurgeonError, match="every sublayer"):
        Plan.last(12, 12, "mlp", absent=[(layer, ATTENTION) for layer in range(12)])


def test_nothing_would_go() -> None:
    with pytest.raises(SurgeonError, match="removes nothing"):
        Plan(12, frozenset())
    # a sublayer that an earlier cut took cannot be taken again
    with pytest.raises(SurgeonError, match="removes nothing"):
        Plan.layers(12, "3", absent=[(3, ATTENTION)])


def test_unknown_drop_and_guarded_last_layer() -> None:
    with pytest.raises(SurgeonError, match="'head' is not known"):
        Plan.last(12, 1, "head")
    with pytest.raises(SurgeonError, match="--keep-last"):
        Plan.layers(12, "3,11", keep_last=True)
    assert gone(Plan.layers(12, "3,10", keep_last=True)) == ((3, 10), ())


def test_mlp_and_next_attention_close_up_to_a_whole_block() -> None:
    plan = Plan(3, frozenset({(0, MLP), (1, ATTENTION)}))
    assert plan.blocks == (Block(0, 1), Block(2, 2))
    assert all(block.whole for block in plan.blocks)


def test_sublayers_that_do_not_meet_stay_half_blocks() -> None:
    # attention 0, attention 1, MLP 1: the first attention has no MLP behind it
    assert Plan(2, frozenset({(0, MLP)})).blocks == (Block(0, None), Block(1, 1))
    assert Plan(2, frozenset({(1, ATTENTION)})).blocks == (Block(0, 0), Block(None, 1))
    assert Plan(2, frozenset({(1, MLP)})).blocks == (Block(0, 0), Block(1, None))


def test_whole_blocks_vanish() -> None:
    assert Plan.layers(4, "1-2", "block").blocks == (Block(0, 0), Block(3, 3))


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (
            Plan.last(40, 13, keep_last=True),
            "removing attention of layers 26-38 of 40; layer 39 kept",
        ),
        (Plan.last(40, 13), "removing attention of layers 27-39 of 40"),
        (Plan.last(12, 1, "mlp"), "removing MLP of layer 11 of 12"),
        (Plan.layers(12, "2,4-5", "block"), "removing attention and MLP of layers 2,4-5 of 12"),
        (
            Plan(12, frozenset({(1, ATTENTION), (2, ATTENTION), (2, MLP), (3, MLP)})),
            "removing attention and MLP of layer 2, attention of layer 1, MLP of layer 3 of 12",
        ),
    ],
)
def test_words(plan: Plan, words: str) -> None:
    assert plan.describe() == words


def test_json_has_ranges_that_layers_takes() -> None:
    plan = Plan.layers(12, "2,4-6", absent=[(8, ATTENTION), (8, MLP)])
    assert plan.to_json() == {
        "num_layers": 12,
        "attn": "2,4-6",
        "mlp": "",
        "absent": {"attn": "8", "mlp": "8"},
    }


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"num_layers": 12},
        {"num_layers": "x", "attn": "1"},
        {"num_layers": 12, "attn": "1-"},
        {"num_layers": 12, "attn": "12"},
        {"num_layers": 12, "attn": 3},
        {"num_layers": 12, "attn": ["3"]},
        {"num_layers": 12, "attn": "1", "absent": "3"},
        {"num_layers": 12, "attn": "1", "absent": None},
        {"num_layers": None, "attn": "1"},
    ],
)
def test_json_that_is_no_plan(data: dict[str, object]) -> None:
    with pytest.raises(SurgeonError, match="plan"):
        Plan.from_json(data)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    layers = draw(st.integers(1, 20))
    sites = st.frozensets(st.tuples(st.integers(0, layers - 1), st.sampled_from(Sublayer)))
    removed, absent = draw(sites), draw(sites)
    assume(removed - absent and len(removed | absent) < 2 * layers)
    return Plan(layers, removed, absent)


@given(plans())
def test_json_round_trip(plan: Plan) -> None:
    assert Plan.from_json(plan.to_json()) == plan


@given(plans())
def test_blocks_keep_the_order_of_computation(plan: Plan) -> None:
    stream = [
        (block.source(sub), sub)
        for block in plan.blocks
        for sub in Sublayer
        if block.source(sub) is not None
    ]
    assert stream == [
        (layer, sub)
        for layer in range(plan.num_layers)
        for sub in (ATTENTION, MLP)
        if (layer, sub) not in plan.removed | plan.absent
    ]
    assert Block(None, None) not in plan.blocks
    # no two neighbours could still be one block
    pairs = zip(plan.blocks, plan.blocks[1:], strict=False)
    assert not any(first.mlp is None and second.attention is None for first, second in pairs)


@given(st.frozensets(st.integers(0, 99999), min_size=1, max_size=30))
def test_ranges_round_trip(layers: frozenset[int]) -> None:
    assert parse_layers(format_layers(layers)) == tuple(sorted(layers))


@pytest.mark.parametrize("removed", [{(3, "ffn")}, {3}, 7, {("x", "attn")}, set()])
def test_what_is_no_set_of_sublayers(removed: Any) -> None:
    with pytest.raises(SurgeonError, match=r"not a set of|removes nothing"):
        Plan(12, removed)


def test_words_and_lists_will_do() -> None:
    plan = Plan(12, [(3, "attn"), (4, "mlp")])  # type: ignore[arg-type]
    assert plan == Plan(12, frozenset({(3, Sublayer.ATTENTION), (4, Sublayer.MLP)}))
    assert hash(plan) == hash(Plan(12, plan.removed))
