"""The writing: what appears, what never does, and what a fault leaves behind."""

import errno
import fcntl
import multiprocessing
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import checkpoints
import pytest
from checkpoints import Outcome, Spec, assert_refused, digest, expected, read_weights

import surgeon
from surgeon.checkpoint import copying, writer
from surgeon.errors import SurgeonError

Cli = Callable[..., Outcome]


def leftovers(folder: Path) -> list[str]:
    """Hidden staging folders."""
    return [name for name in os.listdir(folder) if ".surgeon-" in name]


def test_the_result_is_an_ordinary_folder(model: Path, tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        surgeon.prune(model, tmp_path / "out", last=1)
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "out" / "model.safetensors").stat().st_mode) == 0o644
    assert not leftovers(tmp_path)


def test_folders_above_are_made(model: Path, tmp_path: Path) -> None:
    surgeon.prune(model, tmp_path / "a" / "b" / "out", last=1)
    assert (tmp_path / "a" / "b" / "out" / "config.json").is_file()


def test_names_with_glob_characters(model: Path, tmp_path: Path) -> None:
    # the search for leftovers must not take [x] for a pattern that fits another run's folder
    other = tmp_path / ".x.surgeon-abc"
    other.mkdir()
    surgeon.prune(model, tmp_path / "[x]", last=1)
    assert (tmp_path / "[x]" / "config.json").is_file()
    assert other.is_dir()


def test_leftovers_are_cleared_unless_their_run_lives(model: Path, tmp_path: Path) -> None:
    dead, alive = tmp_path / ".out.surgeon-dead", tmp_path / ".out.surgeon-alive"
    for folder in (dead, alive):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
    handle = os.open(alive, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        surgeon.prune(model, tmp_path / "out", last=1)
    finally:
        os.close(handle)
    assert not dead.exists()
    assert (alive / "model.safetensors").read_bytes() == b"half"


def test_too_little_room_is_seen_before_writing(
    model: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real._replace(free=100))
    before = digest(model)
    outcome = cli("prune", model, "-o", tmp_path / "out", "--last", 1, "--json")
    assert_refused(outcome, str(tmp_path), "100 B are free")
    assert os.listdir(tmp_path) == ["model"]
    assert digest(model) == before


def test_exactly_enough_room(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    surgeon.prune(model, tmp_path / "one", last=1)
    size = (tmp_path / "one" / "model.safetensors").stat().st_size
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real._replace(free=size))
    surgeon.prune(model, tmp_path / "two", last=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real._replace(free=size - 1))
    with pytest.raises(SurgeonError, match="are needed"):
        surgeon.prune(model, tmp_path / "three", last=1)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("shards", ["5GB", "1KB"])
def test_a_disk_that_fills_up_while_writing(
    model: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, number: int, shards: str
) -> None:
    calls = []

    def full(*args: object) -> int:
        calls.append(args)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(copying, "_move", full)
    args = ("--last", 1, "--json", "--max-shard-size", shards)
    outcome = cli("prune", model, "-o", tmp_path / "out", *args)
    assert calls
    assert_refused(outcome, "the disk is full; nothing was left behind")
    assert os.listdir(tmp_path) == ["model"]


def test_an_extra_file_that_cannot_be_written(
    model: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    outcome = cli("prune", model, "-o", tmp_path / "out", "--last", 1, "--json")
    assert_refused(outcome, "the disk is full; nothing was left behind")
    assert os.listdir(tmp_path) == ["model"]


def test_a_source_that_fails_while_it_is_read(
    model: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(copying, "_move", broken)
    outcome = cli("prune", model, "-o", tmp_path / "out", "--last", 1, "--json")
    assert_refused(outcome, os.strerror(errno.EIO))
    assert os.listdir(tmp_path) == ["model"]


def test_a_source_that_shrinks_while_it_is_read(model: Path, tmp_path: Path, cli: Cli) -> None:
    from surgeon.surgery import Operation

    def cut_short(operation: Operation) -> None:
        os.truncate(model / "model.safetensors", 3000)

    with pytest.raises(SurgeonError, match="became shorter"):
        surgeon.prune(model, tmp_path / "out", last=1, announce=cut_short)
    assert os.listdir(tmp_path) == ["model"]


def test_a_full_disk(mounted: Callable[..., Path], tmp_path: Path, cli: Cli) -> None:
    place = mounted("tmpfs", "1m")
    model = checkpoints.make(tmp_path / "model", vocab=40_000)  # 2.5 MB
    outcome = cli("prune", model, "-o", place / "out", "--last", 1, "--json")
    assert_refused(outcome, "are needed", "are free")
    assert not os.listdir(place)


def test_a_disk_that_is_full_after_all(
    mounted: Callable[..., Path], tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = mounted("tmpfs", "1m")
    model = checkpoints.make(tmp_path / "model", vocab=40_000)
    monkeypatch.setattr(writer, "_check_room", lambda *args: None)
    outcome = cli("prune", model, "-o", place / "out", "--last", 1, "--json")
    assert_refused(outcome, "the disk is full; nothing was left behind")
    assert not os.listdir(place)


def test_a_place_below_a_file(model: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "file").write_bytes(b"x")
    outcome = cli("prune", model, "-o", tmp_path / "file" / "out", "--last", 1, "--json")
    assert_refused(outcome, str(tmp_path / "file"))
    assert (tmp_path / "file").read_bytes() == b"x"


def test_a_read_only_place(mounted: Callable[..., Path], model: Path, tmp_path: Path, cli: Cli) -> None:
    place = mounted("tmpfs", "8m")
    if os.system(f"mount -o remount,ro {place}"):
        pytest.skip("remounting does not work here")
    outcome = cli("prune", model, "-o", place / "out", "--last", 1, "--json")
    assert_refused(outcome, str(place), "Read-only file system")


def test_a_folder_without_write_permission(model: Path, tmp_path: Path, program: Cli) -> None:
    place = tmp_path / "closed"
    place.mkdir(mode=0o555)
    if os.access(place, os.W_OK):
        pytest.skip("root may write anywhere")
    assert_refused(program("prune", model, "-o", place / "out", "--last", 1, "--json"), "ermission")


def test_the_loser_of_two_runs_changes_nothing(model: Path, tmp_path: Path) -> None:
    # the other run's folder gets its name while this one is writing
    from surgeon.surgery import Operation

    def other(operation: Operation) -> None:
        surgeon.prune(model, tmp_path / "out", last=2)

    with pytest.raises(SurgeonError, match="appeared while the cut was made"):
        surgeon.prune(model, tmp_path / "out", last=1, announce=other)
    assert not leftovers(tmp_path)
    assert read_weights(tmp_path / "out") == expected(read_weights(model), 4, attn=(2, 3))


def test_the_other_run_wins_at_the_last_moment(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # between the last look and the renaming: the system call itself must say no
    real = os.rename

    def late(old: Any, new: Any) -> None:
        if Path(new) == tmp_path / "out" and not Path(new).exists():
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "theirs").write_bytes(b"x")
        real(old, new)

    monkeypatch.setattr(os, "rename", late)
    with pytest.raises(SurgeonError, match=r"/out: appeared while the cut was made"):
        surgeon.prune(model, tmp_path / "out", last=1)
    assert os.listdir(tmp_path / "out") == ["theirs"]
    assert not leftovers(tmp_path)


def test_a_staging_folder_is_no_leftover_before_it_is_locked(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # another run looks for leftovers between the making of this one's folder and its locking
    real = tempfile.mkdtemp
    where = ["prune", str(model), "-o", str(tmp_path / "out")]
    command = [sys.executable, "-m", "surgeon", *where, "--last", "2"]
    others: list[subprocess.Popen[str]] = []

    def slow(*args: Any, **options: Any) -> str:
        folder = str(real(*args, **options))
        if not others:
            others.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
            # it may also wait for this run; then it goes on when this one is done
            with suppress(subprocess.TimeoutExpired):
                others[0].wait(1)
        return folder

    monkeypatch.setattr(tempfile, "mkdtemp", slow)
    try:
        surgeon.prune(model, tmp_path / "out", last=1)
        lost = ""
    except SurgeonError as error:
        lost = str(error)
    _, theirs = others[0].communicate()
    assert (others[0].returncode == 0) == bool(lost)
    assert "appeared while" in lost + theirs or "exists" in lost + theirs
    assert surgeon.verify(tmp_path / "out", model).ok
    assert not leftovers(tmp_path)


def test_overwrite_that_fails_puts_the_old_one_back(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    surgeon.prune(model, out, last=1)
    before = digest(out)
    real = os.rename

    def fails(old: Any, new: Any) -> None:
        if Path(new) == out and ".replaced-" not in Path(old).name:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(old))
        real(old, new)

    # as on a system that cannot swap two names in one step
    monkeypatch.setattr("surgeon.checkpoint.staging._exchange", lambda first, second: False)
    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(SurgeonError):
        surgeon.prune(model, out, last=2, overwrite=True)
    assert digest(out) == before
    assert not leftovers(tmp_path)


def test_an_interrupt_leaves_nothing(model: Path, tmp_path: Path) -> None:
    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        surgeon.prune(model, tmp_path / "out", last=1, advance=interrupt, max_shard_size="1KB")
    assert os.listdir(tmp_path) == ["model"]


def test_advance_counts_every_byte(tmp_path: Path) -> None:
    model = checkpoints.make(tmp_path / "model", shards=2)
    for portable in (False, True):
        counts: list[int] = []
        out = tmp_path / f"out-{portable}"
        surgeon.prune(
            model,
            out,
            layers="1",
            drop="mlp",
            portable=portable,
            max_shard_size=4000,
            advance=counts.append,
        )
        total = sum(path.stat().st_size for path in out.glob("*.safetensors"))
        # zeros of a portable cut are holes, which nobody writes
        assert sum(counts) == total if not portable else sum(counts) < total


def _race(number: int, model: Path, out: Path, gate: Any, results: Any) -> None:
    gate.wait()
    try:
        surgeon.prune(model, out, last=number + 1)
    except SurgeonError as error:
        results.put((number, str(error)))
    else:
        results.put((number, None))


def test_two_runs_at_once(tmp_path: Path) -> None:
    model = checkpoints.make_sparse(tmp_path / "model", Spec(hidden=512, mlp=2048, vocab=16384))
    context = multiprocessing.get_context("fork")
    gate, results = context.Barrier(2), context.SimpleQueue()
    runs = [
        context.Process(target=_race, args=(number, model, tmp_path / "out", gate, results))
        for number in range(2)
    ]
    for run in runs:
        run.start()
    outcomes = dict(results.get() for _ in runs)
    for run in runs:
        run.join()
    (winner,) = [number for number, error in outcomes.items() if error is None]
    loser = outcomes[1 - winner]
    assert str(tmp_path / "out") in loser
    assert "appeared while" in loser or "exists" in loser
    assert surgeon.verify(tmp_path / "out", model).ok
    assert surgeon.inspect(tmp_path / "out").attention.count(False) == winner + 1
    assert not leftovers(tmp_path)


PAGES = Spec(layers=3, hidden=2048, heads=16, head_dim=128, mlp=512, vocab=1024)
"""80 MB; every tensor is whole pages, the norms too, as in all published Llamas."""


@pytest.mark.parametrize(
    ("kind", "make"), [("xfs", ("-q", "-m", "reflink=1")), ("btrfs", ("-q",))], ids=["xfs", "btrfs"]
)
def test_extents_are_shared(
    kind: str, make: tuple[str, ...], mounted: Callable[..., Path], program: Cli
) -> None:
    place = mounted(kind, "400", *make)
    model = checkpoints.make(place / "model", PAGES)
    subprocess.run(["sync", "-f", place], check=True)
    free = shutil.disk_usage(place).free
    report = surgeon.prune(model, place / "out", last=1)
    subprocess.run(["sync", "-f", place], check=True)
    weights = (place / "out" / "model.safetensors").stat().st_size
    assert report.shared_bytes > 0.9 * weights
    assert free - shutil.disk_usage(place).free < 0.1 * weights
    assert program("verify", place / "out", "--against", model).code == 0
    # copy on write: the source's bytes stay when the result's change
    before = digest(model)
    with open(place / "out" / "model.safetensors", "r+b") as stream:
        stream.seek(1 << 20)
        stream.write(b"\xff" * 8192)
    assert digest(model) == before
    assert program("verify", place / "out", "--against", model).code == 1


def test_shared_extents_need_no_room(mounted: Callable[..., Path]) -> None:
    place = mounted("xfs", "400", "-q", "-m", "reflink=1")
    model = checkpoints.make(place / "model", PAGES)
    with open(place / "filler", "wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, shutil.disk_usage(place).free - (20 << 20))
    assert shutil.disk_usage(place).free < 30 << 20
    surgeon.prune(model, place / "out", last=1)
    assert surgeon.verify(place / "out", model).ok


def test_a_folder_that_appears_is_not_overwritten(model: Path, tmp_path: Path) -> None:
    """--overwrite is for what surgeon made, also when it comes while the cut is made."""
    out = tmp_path / "out"

    def appear(count: int) -> None:
        out.mkdir(exist_ok=True)
        (out / "thesis.txt").write_text("years of work")

    with pytest.raises(SurgeonError, match="appeared while"):
        surgeon.prune(model, out, last=1, overwrite=True, advance=appear)
    assert (out / "thesis.txt").read_text() == "years of work"
    assert not leftovers(tmp_path)


def test_what_a_killed_run_was_about_to_replace_comes_back(model: Path, tmp_path: Path) -> None:
    """Where two names cannot be swapped, OUT is away for a moment."""
    out = tmp_path / "out"
    surgeon.prune(model, out, last=1)
    before = digest(out)
    out.rename(tmp_path / ".out.replaced-1")
    with pytest.raises(SurgeonError, match="appeared while"):
        surgeon.prune(model, out, last=2)
    assert digest(out) == before
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("kernel", [True, False])
def test_every_way_of_moving_gives_the_same_bytes(
    cores: int, kernel: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread or several, with the kernel's copying or where there is none."""
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(copying, "CHUNK", 1000)
    monkeypatch.setattr(copying, "_CACHED", 300)

    def cannot(*args: object) -> int:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    if not kernel:
        monkeypatch.setattr(os, "copy_file_range", cannot, raising=False)
    model = checkpoints.make(tmp_path / "model", shards=3)
    surgeon.prune(model, tmp_path / "out", layers="1", max_shard_size="2KB")
    wanted = expected(read_weights(model), 4, attn=[1])
    assert read_weights(tmp_path / "out") == wanted


def test_a_network_filesystem_is_known_by_its_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the kernel is asked, since the server may copy by itself."""
    with tempfile.TemporaryFile() as file:
        assert not copying._is_remote(file.fileno())
        monkeypatch.setattr(copying, "_REMOTE", {mount_type(file.fileno())})
        assert copying._is_remote(file.fileno())


def mount_type(file: int) -> str:
    device = os.fstat(file).st_dev
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, right = line.split(" - ")
        if left.split()[2] == f"{os.major(device)}:{os.minor(device)}":
            return right.split()[0]
    pytest.skip("no such mount is listed")
