"""A Hub of its own for each test, and programs that know of no other."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_server import HubServer

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server
        assert not server.errors


@pytest.fixture
def hub_env(hub: HubServer, tmp_path: Path) -> dict[str, str]:
    """An environment in which the test's server is the Hub; of tokens there are none."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))
        and not name.lower().endswith("_proxy")
    }
    return kept | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "hf_home"),
        # the server has no Xet, and the client's uploads do not find out by themselves
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }


@pytest.fixture
def run_python(hub_env: dict[str, str], tmp_path: Path) -> Run:
    """Runs a text as a Python program, with arguments; `token` is what the user is logged in with."""

    def run(
        code: str, *args: object, token: str | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
        return _run(command, hub_env | env, token, tmp_path)

    return run


@pytest.fixture
def run_surgeon(hub_env: dict[str, str], tmp_path: Path) -> Run:
    """Runs ``python -m surgeon ARGS``; `token` is what the user is logged in with."""

    def run(*args: object, token: str | None = None, **env: str) -> Done:
        return _run([sys.executable, "-m", "surgeon", *map(str, args)], hub_env | env, token, tmp_path)

    return run


def _run(command: list[str], env: dict[str, str], token: str | None, cwd: Path) -> Done:
    env = env | ({"HF_TOKEN": token} if token else {})
    return subprocess.run(
        command, env=env, cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )
