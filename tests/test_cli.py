"""The command line: what it prints, what it refuses, and that it writes nothing when it does."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest
from checkpoints import Outcome, assert_refused, digest

import surgeon

Cli = Callable[..., Outcome]


def refuse(cli: Cli, model: Path, args: tuple[object, ...], *words: str) -> None:
    """Refused with these words, and the folder around the model is as it was."""
    around = model.parent
    before, names = digest(around), sorted(os.listdir(around))
    assert_refused(cli("prune", model, *args), *words)
    assert sorted(os.listdir(around)) == names
    assert digest(around) == before


def test_prune_says_what_it_does(model: Path, tmp_path: Path, program: Cli) -> None:
    outcome = program("prune", model, "-o", tmp_path / "out", "--last", 2, "--keep-last")
    assert outcome.code == 0
    assert outcome.err == ""
    assert outcome.out.startswith("model: removing attention of layers 1-2 of 4; layer 3 kept\n")
    assert "KV cache per token         128 B      64 B   -50.0 %" in outcome.out
    assert f" to {tmp_path / 'out'} in " in outcome.out
    assert "\x1b" not in outcome.out


def test_sample_is_a_word(tmp_path: Path, program: Cli) -> None:
    outcome = program("prune", "sample", "--last", 4, "--keep-last", "-o", "out", cwd=tmp_path)
    assert outcome.code == 0
    assert outcome.out.startswith("sample: removing attention of layers 7-10 of 12; layer 11 kept\n")
    assert program("verify", "out", "--against", "sample", cwd=tmp_path).code == 0


@pytest.mark.parametrize("args", [("prune", "--last", 1, "-o", "OUT"), ("inspect",)])
def test_json_is_one_object(
    args: tuple[object, ...], model: Path, tmp_path: Path, program: Cli
) -> None:
    rest = [tmp_path / "out" if word == "OUT" else word for word in args[1:]]
    outcome = program(args[0], model, *rest, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert isinstance(json.loads(outcome.out), dict)


def test_json_of_prune_and_verify(model: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "out"
    data = json.loads(cli("prune", model, "-o", out, "--last", 1, "--json").out)
    assert data["output"] == str(out)
    assert data["plan"] == {"num_layers": 4, "attn": "3", "mlp": ""}
    assert data["words"] == "removing attention of layer 3 of 4"
    assert data["dry_run"] is False
    assert data["dialect"] == "nemotron-nas"
    assert data["bytes_written"] == sum(path.stat().st_size for path in out.iterdir())
    assert data["files"] == sorted(os.listdir(out))
    assert data["before"]["kv_bytes_per_token"] == 128
    assert data["after"]["kv_bytes_per_token"] == 96
    proof = json.loads(cli("verify", out, "--against", model, "--json").out)
    assert proof["differences"] == []
    assert proof["kept"] + proof["removed"] == len(checkpoints.shapes(checkpoints.Spec()))
    (out / "tokenizer.json").write_bytes(b"{}")
    bad = cli("verify", out, "--against", model, "--json")
    assert bad.code == 1
    assert json.loads(bad.out)["differences"] == [
        "file 'tokenizer.json' is not the one that belongs there"
    ]


def test_dry_run_writes_nothing(model: Path, tmp_path: Path, cli: Cli) -> None:
    before = digest(tmp_path)
    outcome = cli("prune", model, "-o", tmp_path / "out", "--last", 1, "--dry-run")
    assert outcome.code == 0
    assert "Nothing was written" in outcome.out
    data = json.loads(
        cli("prune", model, "-o", tmp_path / "out", "--last", 1, "--dry-run", "--json").out
    )
    assert data["dry_run"] is True
    assert os.listdir(tmp_path) == ["model"]
    assert digest(tmp_path) == before
    cli("prune", model, "-o", tmp_path / "out", "--last", 1)
    assert data["files"] == sorted(os.listdir(tmp_path / "out"))
    # a dry run refuses what the real one would
    assert_refused(cli("prune", model, "-o", tmp_path / "out", "--last", 1, "--dry-run"), "exists")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "exactly one of --last, --fraction, --layers and --count"),
        (("--last", 1, "--layers", "1"), "exactly one of"),
        (("--last", 0), "--last 0 is out of range"),
        (("--last", 5), "allows 1-4"),
        (("--last", 4, "--keep-last"), "with --keep-last allows 1-3"),
        (("--last", "x"), "--last"),
        (("--last", 10**30), "out of range"),
        (("--last", 4, "--drop", "block"), "every sublayer"),
        (("--last", 1, "--drop", "heads"), "--drop"),
        (("--layers", "1-"), "--layers"),
        (("--layers", ""), "--layers"),
        (("--layers", "3-1"), "backwards"),
        (("--layers", "4"), "layer 4"),
        (("--layers", "0-99999"), "out of range"),
        (("--layers", "3", "--keep-last"), "--keep-last"),
        (("--fraction", "1%"), "rounds to none"),
        (("--fraction", "120%"), "--fraction"),
        (("--fraction", "9e9999999%"), "--fraction"),
        (("--fraction", "1e-9999999%"), "--fraction"),
        (("--last", 1, "--max-shard-size", "5 apples"), "is not a size"),
        (("--last", 1, "--max-shard-size", "0"), "is not a size"),
        (("--last", 1, "--max-shard-size", "9" * 400), "is not a size"),
        (("--last", 1, "--unknown"), "--unknown"),
        (("--last", 1, "surplus"), "surplus"),
    ],
)
def test_bad_plans(args: tuple[object, ...], words: str, model: Path, tmp_path: Path, cli: Cli) -> None:
    refuse(cli, model, ("-o", tmp_path / "out", *args), words)


def test_missing_arguments(cli: Cli) -> None:
    assert_refused(cli("prune", "sample", "--last", 1), "--output")
    assert_refused(cli("prune"), "MODEL")
    assert_refused(cli("verify", "sample"), "--against")
    assert_refused(cli("melt"), "melt")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone", "no such folder"),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B: "),
        ("model/config.json", "is a file"),
        ("", "config.json"),
        ("x" * 300, "xxx"),
        ("~nobody-of-that-name/model", "~nobody-of-that-name"),
    ],
)
def test_bad_models(
    name: str, words: str, model: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for args in (("prune", name, "-o", "out", "--last", 1), ("inspect", name)):
        assert_refused(cli(*args), words)
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("output", ["x" * 300, "~nobody-of-that-name/out", "loop", "loop/out", ""])
def test_bad_outputs(
    output: str, model: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    assert_refused(cli("prune", "model", "-o", output, "--last", 1, "--json"), output[:3])
    assert sorted(os.listdir(tmp_path)) == ["loop", "model"]


def _link(tmp_path: Path, model: Path) -> str:
    (tmp_path / "link").symlink_to(model)
    return "link"


def _parent_link(tmp_path: Path, model: Path) -> str:
    (tmp_path / "up").symlink_to(tmp_path)
    return "up/model/out"


def _outer_link(tmp_path: Path, model: Path) -> str:
    (tmp_path / "up").symlink_to(tmp_path)
    return "up"


def _dangling(tmp_path: Path, model: Path) -> str:
    (tmp_path / "link").symlink_to("gone")
    return "link"


def _file(tmp_path: Path, model: Path) -> str:
    (tmp_path / "file").write_bytes(b"mine")
    return "file"


def _theirs(tmp_path: Path, model: Path) -> str:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").write_bytes(b"mine")
    return "theirs"


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda tmp_path, model: "model", "is the model itself"),
        (lambda tmp_path, model: "model/../model/.", "is the model itself"),
        (_link, "is the model itself"),
        (lambda tmp_path, model: "model/out", "inside the model's folder"),
        (lambda tmp_path, model: "model/a/b/out", "inside the model's folder"),
        (_parent_link, "inside the model's folder"),
        (lambda tmp_path, model: ".", "contains the model"),
        (lambda tmp_path, model: "/", "contains the model"),
        (_outer_link, "contains the model"),
        (_dangling, ""),
        (_file, ""),
        (_theirs, ""),
    ],
)
def test_outputs_that_are_in_the_way(
    prepare: Callable[[Path, Path], str],
    words: str,
    overwrite: tuple[str, ...],
    model: Path,
    tmp_path: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    # even a model that surgeon made is not overwritten by its own cut
    surgeon.prune(model, tmp_path / "first", last=1)
    os.rename(tmp_path / "first", tmp_path / "moved")
    os.rename(model, tmp_path / "uncut")
    os.rename(tmp_path / "moved", model)
    output = prepare(tmp_path, model)
    refuse(cli, model, ("-o", output, "--layers", "0", *overwrite, "--json"), words)


def test_existing_output_needs_overwrite(model: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "out"
    assert cli("prune", model, "-o", out, "--last", 1).code == 0
    (out / "stray").write_bytes(b"x")
    refuse(cli, model, ("-o", out, "--last", 2), "exists", "--overwrite")
    assert cli("prune", model, "-o", out, "--last", 2, "--overwrite").code == 0
    assert "stray" not in os.listdir(out)
    assert cli("verify", out, "--against", model).code == 0
    assert surgeon.inspect(out).attention == (True, True, False, False)


def test_overwrite_without_anything_there(model: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("prune", model, "-o", tmp_path / "new", "--last", 1, "--overwrite").code == 0
    (tmp_path / "empty").mkdir()
    refuse(cli, model, ("-o", tmp_path / "empty", "--last", 1), "exists")
    assert cli("prune", model, "-o", tmp_path / "empty", "--last", 1, "--overwrite").code == 0
    assert (tmp_path / "empty" / "surgery.json").is_file()


def test_overwrite_with_a_bad_plan_keeps_the_old_one(model: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "out"
    cli("prune", model, "-o", out, "--last", 1)
    refuse(cli, model, ("-o", out, "--last", 9, "--overwrite"), "out of range")


def test_around_a_model_whose_shards_are_links(tmp_path: Path, cli: Cli) -> None:
    # the folder that holds the bytes counts, not only the one that holds their names
    store, model = tmp_path / "store" / "blobs", tmp_path / "model"
    checkpoints.make(model)
    store.mkdir(parents=True)
    os.rename(model / "model.safetensors", store / "abc")
    (model / "model.safetensors").symlink_to(store / "abc")
    (tmp_path / "store" / "surgery.json").write_text("{}")
    refuse(cli, model, ("-o", tmp_path / "store", "--last", 1, "--overwrite"), "contains the model")


@pytest.mark.parametrize("name", [b"\xff\xfe", "ü✂".encode(), b"a\nb", b"[red]x", b"-x"])
def test_odd_names(name: bytes, tmp_path: Path, program: Cli) -> None:
    model = checkpoints.make(tmp_path / os.fsdecode(name))
    out = tmp_path / "out"
    for args in (
        ("prune", model, "-o", out, "--last", 1),
        ("inspect", model),
        ("inspect", out, "--json"),
        ("verify", out, "--against", model),
        ("prune", model, "-o", out, "--last", 1, "--json", "--overwrite"),
    ):
        outcome = program(*args)
        assert (outcome.code, outcome.err) == (0, ""), (args, outcome)


def test_names_are_no_markup(tmp_path: Path, cli: Cli) -> None:
    model = checkpoints.make(tmp_path / "[red]model")
    assert cli("inspect", model).out.startswith("[red]model\n")


def test_version_and_help(program: Cli) -> None:
    assert program("--version").out == f"surgeon {surgeon.__version__}\n"
    for args in (
        ("--help",),
        ("prune", "--help"),
        ("inspect", "-h"),
        ("verify", "-h"),
        ("generate", "-h"),
    ):
        outcome = program(*args)
        assert outcome.code == 0
        assert "Usage" in outcome.out


def test_help_at_eighty_columns(program: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    listed = re.findall(r"^│ ([a-z]+) ", program("--help").out, re.MULTILINE)
    measuring = ["similarity", "eval", "sweep", "bench"]
    assert listed == ["prune", "inspect", "verify", "generate", "export", "push", *measuring]
    for verb in ("generate", *measuring):
        out = program(verb, "--help").out
        assert max(map(len, out.splitlines())) <= 80
        words = ["transformers"] if verb == "generate" else ["float32", "bfloat16"]
        assert [word for word in words if word not in out] == []
    # the paragraphs of a docstring are filled again
    assert re.search(
        r"arXiv 2407\.15516, and angular", " ".join(program("similarity", "-h").out.split())
    )


def test_a_reader_that_goes_away(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from surgeon.cli import main

    class Closed:
        encoding = "utf-8"

        def __getattr__(self, name: str) -> Any:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "argv", ["surgeon", "inspect", str(model), "--json"])
    monkeypatch.setattr(sys, "stdout", Closed())
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code in (1, 141)


BIG = checkpoints.Spec(layers=8, hidden=2048, heads=16, kv_heads=4, head_dim=128, mlp=16384, vocab=32)
"""1.8 GB of holes: enough for a signal to arrive in the middle."""


# the program as it is, on a slow disk: else a fast machine is done before the signal comes
SLOW = """
import signal, time
from surgeon.checkpoint import copying
from surgeon.cli import main
# a shell lets its background jobs ignore it, and they hand that on
signal.signal(signal.SIGINT, signal.default_int_handler)
for name in ("_move", "_move_in_kernel"):
    def slow(*args, real=getattr(copying, name)):
        time.sleep(0.1)
        real(*args)
    setattr(copying, name, slow)
main()
"""


def half_way(model: Path, out: Path) -> "subprocess.Popen[str]":
    """A run that has begun to write: its staging folder has a weight file."""
    where = ["prune", str(model), "-o", str(out)]
    command = [sys.executable, "-c", SLOW, *where, "--last", "1", "--json"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(out.parent.glob(f".{out.name}.surgeon-*/*.safetensors")):
        assert run.poll() is None, "it was done before it was seen"
    return run


def test_killed_half_way(model: Path, tmp_path: Path, program: Cli) -> None:
    big, place = checkpoints.make_sparse(tmp_path / "big", BIG), tmp_path / "place"
    run = half_way(big, place / "out")
    run.kill()
    assert run.wait() == -signal.SIGKILL
    run.communicate()
    assert [name.startswith(".out.surgeon-") for name in os.listdir(place)] == [True]
    assert program("prune", model, "-o", place / "out", "--last", 1).code == 0
    assert os.listdir(place) == ["out"]
    assert program("verify", place / "out", "--against", model).code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_half_way(number: signal.Signals, tmp_path: Path) -> None:
    big, place = checkpoints.make_sparse(tmp_path / "big", BIG), tmp_path / "place"
    run = half_way(big, place / "out")
    run.send_signal(number)
    out, err = run.communicate()
    if number == signal.SIGTERM:
        # not caught: the next run clears what it left
        assert run.returncode == -signal.SIGTERM
        assert not (place / "out").exists()
        return
    assert run.returncode == 130
    assert (out, err.strip()) == ("", "surgeon: interrupted")
    assert os.listdir(place) == []


def test_nothing_heavy_is_imported(model: Path, tmp_path: Path) -> None:
    code = """
import sys
sys.argv = ["surgeon", *sys.argv[1:]]
from surgeon.cli import main
try:
    main()
finally:
    heavy = {"torch", "transformers", "numpy", "safetensors", "onnx"} & set(sys.modules)
    assert not heavy, heavy
"""
    for args in (
        ["--help"],
        ["prune", model, "-o", tmp_path / "out", "--last", "1"],
        ["inspect", tmp_path / "out"],
        ["verify", tmp_path / "out", "--against", model],
        ["generate", "--help"],
        ["generate", tmp_path / "gone", "Once"],
    ):
        command = [sys.executable, "-c", code, *args]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == (2 if args[-1] == "Once" else 0), done.stderr
        assert "Traceback" not in done.stderr


def test_importing_surgeon_is_light() -> None:
    code = "import sys, surgeon; print(sorted({'typer', 'rich', 'torch', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
