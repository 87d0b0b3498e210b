"""Conversions of weights: exact or rounded as torch does, refused where numbers would be lost; int4."""

import llama_numbers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_numbers import SMALL, bytes_of, make, ranges

from surgeon.errors import SurgeonError

np = pytest.importorskip("numpy")

from surgeon.checkpoint.numbers import decode, encode  # noqa: E402

BITS = {"F16": 16, "BF16": 16, "F32": 32}
ANY32 = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40)
ANY16 = st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=40)

CORNERS = [
    *(0.0, -0.0, 1.0, np.inf, -np.inf, np.nan, 65504.0, 65519.0, -65519.99, 1e-45, -1e-45, 6e-8),
    *(2.0**-24, 2.0**-25, 1.5 * 2.0**-25, 2.0**-14, 2.0**-14 - 2.0**-25, 3.0e38, 3.4028235e38),
    *(1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-8 + 2.0**-23),
]


def torch_dtype(name):
    torch = pytest.importorskip("torch")
    return {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}[name]


def by_torch(values, name):
    """Bits of float32 values converted by torch; NaNs all alike, since their payload is free."""
    torch = pytest.importorskip("torch")
    converted = torch.from_numpy(values.copy()).to(torch_dtype(name))
    whole = {16: torch.int16, 32: torch.int32}[BITS[name]]
    return one_nan(converted.view(whole).numpy().tobytes(), name)


def one_nan(raw, name):
    """Bits with every NaN made the same."""
    bits = np.frombuffer(raw, f"<u{BITS[name] // 8}").copy()
    fraction = {"F16": 10, "BF16": 7, "F32": 23}[name]
    infinity = (1 << BITS[name] - 1) - (1 << fraction)
    bits[(bits & ((1 << BITS[name] - 1) - 1)) > infinity] = infinity + 1
    return bits.tolist()


def check_encode(values, name):
    overflow = name == "F16" and any(np.isfinite(v) and abs(v) >= 65520 for v in values.ravel())
    if overflow:
        with pytest.raises(SurgeonError, match="too large for float16"):
            encode(values, name)
        return
    assert one_nan(encode(values, name), name) == by_torch(values, name)


@pytest.mark.parametrize("name", BITS)
@given(ANY32)
def test_encode_any_bits(name, bits):
    check_encode(np.array(bits, np.uint32).view(np.float32), name)


@pytest.mark.parametrize("name", ["F16", "BF16"])
@given(st.lists(st.floats(-65519, 65519, width=32), min_size=1, max_size=40))
def test_encode_rounds_to_nearest_even(name, values):
    check_encode(np.array(values, np.float32), name)


@pytest.mark.parametrize("name", BITS)
@pytest.mark.parametrize("value", CORNERS)
def test_encode_corners(name, value):
    check_encode(np.array([value], np.float32), name)
    check_encode(np.array([[value, 0.5], [1.5, -value]], np.float32).T, name)


@pytest.mark.parametrize("value", [65520.0, -65520.0, 1e38])
@pytest.mark.parametrize("other", [1.0, np.inf, np.nan])
def test_overflow_is_refused_whatever_else_is_there(value, other):
    with pytest.raises(SurgeonError, match="too large for float16; export with --dtype bf16 or fp32"):
        encode(np.array([other, value], np.float32), "F16")


@pytest.mark.parametrize("name", ["F16", "BF16"])
@given(ANY16)
def test_decode_is_exact_and_comes_back(name, bits):
    torch = pytest.importorskip("torch")
    raw = np.array(bits, "<u2").tobytes()
    got = decode(raw, name)
    assert got.dtype == np.float32
    want = torch.frombuffer(bytearray(raw), dtype=torch_dtype(name)).float().numpy()
    np.testing.assert_array_equal(got, want)
    assert np.array_equal(np.signbit(got) & ~np.isnan(got), np.signbit(want) & ~np.isnan(want))
    assert one_nan(encode(got, name), name) == one_nan(raw, name)


@given(ANY16)
def test_logits_of_bfloat16_are_read_exactly(bits):
    """numpy has no such type, so reading them has to go another way."""
    import onnxruntime as ort

    from surgeon.onnx.check import to_float

    raw = np.array(bits, np.uint16).reshape(-1, 1)
    got = to_float(ort.OrtValue.ortvalue_from_numpy_with_onnx_type(raw, 16))
    assert got.shape == raw.shape
    np.testing.assert_array_equal(got[:, 0], llama_numbers.decode(raw.tobytes(), "BF16"))


@pytest.mark.parametrize("name", ["F8_E4M3", "I32", "U8"])
def test_decode_refuses_other_dtypes(name):
    with pytest.raises(SurgeonError, match=f"dtype {name} cannot be converted"):
        decode(b"\0" * 8, name)


WORDS = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}


@pytest.mark.parametrize("source", ["F32", "BF16", "F16", "F64"])
@pytest.mark.parametrize("word", WORDS)
def test_all_weights_of_an_export(source, word, tmp_path):
    from surgeon.onnx.export import export_onnx

    folder = make(tmp_path / "m", SMALL, dtype=source)
    report = export_onnx(folder, word)
    assert (report.data_bytes == 0) == (source == WORDS[word])
    check_weights(folder, WORDS[word])


@pytest.mark.parametrize("word", WORDS)
def test_all_weights_of_an_export_of_mixed_dtypes(word, tmp_path):
    """Norms of float32 beside matrices of bfloat16: only one kind has to be converted."""
    from surgeon.onnx.export import export_onnx

    folder = make(tmp_path / "m", SMALL, dtype="BF16", dtypes={"norm": "F32"}, shards=2)
    export_onnx(folder, word)
    check_weights(folder, WORDS[word])
    converted = {name for name, row in ranges(folder).items() if row[0] == "model.onnx.data"}
    norms = {name for name in ranges(folder) if "norm" in name}
    assert len(norms) == 7
    want = {"fp32": set(ranges(folder)) - norms, "bf16": norms, "fp16": set(ranges(folder))}
    assert converted == want[word]


def check_weights(folder, name):
    """Every weight of the graph is its tensor in the dtype, rounded as torch does."""
    import checkpoints

    tensors = checkpoints.read_weights(folder)
    seen = 0
    for key in ranges(folder):
        got = bytes_of(folder, key)
        names = sources(key)
        want = [llama_numbers.decode(tensors[n][2], tensors[n][0]) for n in names]
        assert one_nan(got, name) == by_torch(np.concatenate(want), name), key
        seen += len(names)
    assert seen == len(tensors)


def sources(key):
    from test_onnx_bytes import source_names

    return source_names(key, tied=False)


def test_a_weight_too_large_for_float16_leaves_an_older_graph_as_it_was(tmp_path):
    from surgeon.onnx.export import export_onnx

    folder = make(tmp_path / "m", SMALL)
    tensors = llama_numbers.weights(SMALL)
    name = "model.layers.1.mlp.up_proj.weight"
    dtype, shape, data = tensors[name]
    tensors[name] = (dtype, shape, np.float32(70000).tobytes() + data[4:])
    llama_numbers.put(folder, tensors, SMALL)
    export_onnx(folder, "bf16")
    import checkpoints

    before = checkpoints.digest(folder)
    with pytest.raises(SurgeonError, match="too large for float16"):
        export_onnx(folder, "fp16")
    assert checkpoints.digest(folder) == before


@pytest.mark.models
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("sample", None),
        ("sample", "attn-keep-last"),
        ("gqa", "scattered"),
        ("biased", None),  # rows of 300: the last block of a row is not full
        ("tied-mha", "no-attention"),
        ("gqa", "no-mlp"),
    ],
)
def test_int4(name, key, exported, folder):
    """Compared with the same weights rounded, so any wrong block or scale is a large difference."""
    from surgeon.onnx.check import check_onnx

    made = exported(name, key, int4=True)
    report = check_onnx(made, "cpu")
    assert report.ok, report
    import checkpoints

    parameters = sum(np.prod(shape) for _, shape, _ in checkpoints.read_weights(made).values())
    size = (made / "model.onnx.data").stat().st_size
    assert size < 0.4 * 4 * parameters or name in ("gqa", "biased", "tied-mha")
    check_is_rounded(made)


def check_is_rounded(folder):
    """That int4 changes something: the check has to fail against weights that are not rounded."""
    from surgeon.onnx import check

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "_round_weights", lambda *_: None)
        assert not check.check_onnx(folder, "cpu").ok


def test_int4_of_the_reference(reference, tmp_path):
    from surgeon.onnx.check import check_onnx
    from surgeon.onnx.export import export_onnx

    report = export_onnx(reference, "fp32", int4=True, output=tmp_path / "out")
    parameters = sum(path.stat().st_size for path in reference.glob("*.safetensors")) / 2
    assert report.data_bytes < 0.3 * 4 * parameters
    assert check_onnx(tmp_path / "out", "cpu").ok
