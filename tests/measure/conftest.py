"""Fixtures of the measurements: the bundled sample as a network, loaded once a session."""

import os
from collections.abc import Callable
from typing import Any

import pytest

from surgeon.errors import SurgeonError

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def sample_network() -> Any:
    """The sample in float32 on the CPU; shared, so to be left as it is found."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    torch.set_num_threads(1)
    from surgeon.measure.network import Network

    return Network.load("sample", "cpu")


@pytest.fixture
def refuse() -> Callable[..., None]:
    """Checks that a call is refused in one line with these words in it."""

    def check(call: Callable[[], Any], *words: str) -> None:
        with pytest.raises(SurgeonError) as refusal:
            call()
        assert "\n" not in str(refusal.value)
        for word in words:
            assert word in str(refusal.value)

    return check
