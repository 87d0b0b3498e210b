#!/usr/bin/env python3
"""Counts the requests and bytes of cutting a model while downloading, against the tests' own Hub.

scripts/bench_hub.py FOLDER --drop block --fraction 33%
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from hub_server import HubServer  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    options, cut = parser.parse_known_args()
    work = Path(tempfile.mkdtemp(prefix="surgeon-bench-"))
    with HubServer() as hub:
        hub.add_repo("org/model", folder=options.folder)
        environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(work / "home")}
        environment.pop("HF_HUB_OFFLINE", None)
        command = [sys.executable, "-m", "surgeon", "prune", "org/model", "-o", str(work / "out"), *cut]
        subprocess.run(command, env=environment | {"PYTHONPATH": str(ROOT)}, check=True)
        kept = sum(path.stat().st_size for path in (work / "out").iterdir())
        whole = sum(path.stat().st_size for path in options.folder.iterdir())
        ranges = [r for r in hub.requests if r.host == "storage"]
        print(f"requests        {len(hub.requests)}, of which {len(ranges)} for bytes of large files")
        print(f"bytes fetched   {hub.totals.sent:,} of {whole:,}")
        print(f"bytes kept      {kept:,}: fetched {hub.totals.sent / kept - 1:+.2%} of that")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
