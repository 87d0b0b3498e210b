"""Fixtures that need no torch: the command line, in this process or in one of its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import checkpoints
import pytest
from checkpoints import Outcome
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "models"

# no deadline: a slow machine is no failure
settings.register_profile("tests", deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile("tests")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small valid checkpoint of four layers."""
    return checkpoints.make(tmp_path / "model")


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs ``surgeon ARGS`` in this process; anything but SystemExit is a traceback and fails."""

    def run(*args: object) -> Outcome:
        from surgeon.cli import main

        monkeypatch.setattr(sys, "argv", ["surgeon", *map(str, args)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capfd.readouterr()
        return Outcome(exit_.value.code if isinstance(exit_.value.code, int) else 0, out, err)

    return run


@pytest.fixture
def program() -> Callable[..., Outcome]:
    """Runs ``python -m surgeon ARGS`` as a process of its own."""

    def run(*args: object, cwd: Path | None = None) -> Outcome:
        command = [sys.executable, "-m", "surgeon", *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def reference() -> Path:
    """The trained model of 24 layers in 4 shards."""
    folder = SHARED / "reference"
    if not (folder / "config.json").is_file():
        pytest.skip("the shared reference model is not here")
    return folder


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts file systems of their own below tmp_path; skips where that is not allowed."""
    places: list[Path] = []

    def need(*command: object) -> None:
        if shutil.which(str(command[0])) is None:
            pytest.skip(f"{command[0]} is not installed")
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{command[0]} does not work here: {done.stderr.strip()[:80]}")

    def mount(kind: str, size: str, *make: str) -> Path:
        if os.geteuid():
            pytest.skip("mounting needs root")
        place = tmp_path / f"mount-{kind}"
        place.mkdir()
        if kind == "tmpfs":
            need("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place)
        else:
            image = tmp_path / f"{kind}.img"
            with open(image, "wb") as stream:
                stream.truncate(int(size) << 20)
            need(f"mkfs.{kind}", *make, image)
            need("mount", "-o", "loop", image, place)
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", place], check=True)
