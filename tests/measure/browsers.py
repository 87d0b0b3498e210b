"""A real browser without a window, to look at pages as readers do."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

# A page says how wide it is only from within; a frame of the wanted width holds the page, since a
# window has a least width of its own.
FRAME = (Path(__file__).parent / "frame.html").read_text("utf-8")


def look(page: str, folder: Path, width: int = 390, dark: bool = False) -> dict[str, Any]:
    """What a reader of the page sees in a window of that width; skips where there is no browser."""
    browser = next((found for name in NAMES if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser is installed: {', '.join(NAMES)}")
    place = folder / "frame.html"
    framed = FRAME.replace("WIDTH", str(width)).replace("PAGE", html.escape(page))
    place.write_text(framed, encoding="utf-8")
    for attempt in (1, 2):  # a browser may die at its start on a machine that is short of memory
        done = _run(browser, place, folder / f"profile-{attempt}", dark)
        match = re.search(r'<pre id="found">(\{.*?)</pre>', done.stdout, re.DOTALL)
        if match:
            assert "CONSOLE" not in done.stderr, done.stderr
            found: dict[str, Any] = json.loads(html.unescape(match[1]))
            return found
    pytest.fail(f"{browser} shows no page: exit {done.returncode}, {done.stderr[-2000:]}")


def _run(browser: str, place: Path, profile: Path, dark: bool) -> subprocess.CompletedProcess[str]:
    command = [
        browser,
        "--headless=new",
        "--no-sandbox",  # which a browser of root's in a container cannot have
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-extensions",
        "--disable-background-networking",
        "--enable-logging=stderr",
        f"--user-data-dir={profile}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        "--window-size=1400,1000",
        "--virtual-time-budget=10000",
        "--dump-dom",
        place.as_uri(),
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired as error:
        return subprocess.CompletedProcess(command, -1, "", f"no answer in 120 s: {error.stderr!r}")
