"""A sweep on several devices or machines, through Ray: an engine whose workers each hold the model.

Items are what is shared out, not cuts: a worker scores a part of the items under all cuts, so that the
cuts share their computation there as they do in one process, and a part is batched the same wherever it
is scored. The journal and the report are written by the driver alone.
"""

import logging
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from surgeon.errors import SurgeonError
from surgeon.measure.gather import Advance, Engine, Job
from surgeon.measure.opened import Opened
from surgeon.measure.scoring import Result, Scorer

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
}
"""No statistics sent home, no notices on the terminal."""

_OWN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid4().hex}
"""Of a Ray that this process starts: who can connect to it could run anything."""

_STORE = 100 << 20
"""Bytes of Ray's object store: jobs and scores are small, and /dev/shm of containers is, too."""

_STARTS = 3
"""How often a Ray of its own is started: it gives up after 30 s, too few for a busy machine."""


def ray_engine(
    opened: Opened,
    model: str,
    workers: int,
    address: str | None = None,
    batch_size: int | None = None,
    notify: Callable[[str], None] = lambda words: None,
) -> Engine:
    """An engine of ``workers`` processes, here or in the cluster at ``address``.

    Each opens ``model``, a folder that all machines see or ORG/NAME, and on CUDA has a GPU of its own.
    SurgeonError without Ray, for too many workers for the cluster, and in the course of the work for
    one that dies; the scores that are there by then are kept.
    """
    if workers < 1:
        raise SurgeonError(f"--workers {workers} is too few; give 1 or more")
    import_ray(address)
    place = str(Path(model).expanduser().resolve()) if Path(model).expanduser().exists() else model
    arguments = (place, opened.device, opened.dtype, batch_size, opened.fingerprint)

    def engine(jobs: Sequence[Job], advance: Advance) -> Iterator[tuple[Job, tuple[Result, ...]]]:
        if not jobs:
            return
        needed = min(workers, len(jobs))
        gpus = 1 if opened.device == "cuda" else 0
        with _cluster(address, needed, gpus) as ray:
            kind = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0)(Worker)
            idle = [kind.remote(*arguments) for _ in range(needed)]
            waiting = list(reversed(jobs))
            running: dict[Any, tuple[Any, Job]] = {}
            try:
                while waiting or running:
                    while idle and waiting:
                        worker, job = idle.pop(), waiting.pop()
                        running[worker.score.remote(job)] = worker, job
                    done, _ = ray.wait(list(running), num_returns=1)
                    worker, job = running.pop(done[0])
                    idle.append(worker)
                    results, words = _answer(ray, done[0])
                    for line in words:
                        notify(line)
                    advance(job.part.tokens)
                    yield job, results
            finally:
                for worker in [*idle, *(worker for worker, _ in running.values())]:
                    ray.kill(worker)

    return engine


class Worker:
    """A process that has the model; an actor of Ray."""

    def __init__(
        self, model: str, device: str, dtype: str, batch_size: int | None, fingerprint: str
    ) -> None:
        self._words: list[str] = []
        self._scorer: Scorer | None = None
        self._arguments = (model, device, dtype, batch_size, fingerprint)

    def score(self, job: Job) -> tuple[tuple[Result, ...], list[str]] | str:
        """The results of a job with lines for people, or the one line of a SurgeonError."""
        try:
            if self._scorer is None:
                self._scorer = self._load(*self._arguments)
            results = self._scorer.score(job.part.items, job.variants)
        except SurgeonError as error:
            return str(error)
        words, self._words[:] = list(self._words), []
        return results, words

    def _load(
        self, model: str, device: str, dtype: str, batch_size: int | None, fingerprint: str
    ) -> Scorer:
        opened = Opened.open(model, device, dtype)
        if opened.fingerprint != fingerprint:
            raise SurgeonError(f"{model}: is another model on the machine of a worker")
        return Scorer(opened.network, batch_size, self._words.append)


def _answer(ray: Any, reference: Any) -> tuple[tuple[Result, ...], list[str]]:
    try:
        answer = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise SurgeonError(f"a worker failed ({_line(error.cause)})") from None
    except ray.exceptions.RayError as error:
        raise SurgeonError(
            f"a worker died ({_line(error)}); what is scored is kept, run the same again to go on"
        ) from None
    if isinstance(answer, str):
        raise SurgeonError(answer)
    results, words = answer
    return results, words


@contextmanager
def _cluster(address: str | None, workers: int, gpus: int) -> Iterator[Any]:
    """Ray: that of this process, a cluster, or one of its own on this machine; off again afterwards."""
    ray = import_ray(address)
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {
        "address": address,
        "log_to_driver": False,
        "logging_level": logging.CRITICAL,
        "configure_logging": False,
    }
    folder = None
    if address is None:
        # paths of sockets must be short, so it is not below TMPDIR
        folder = tempfile.mkdtemp(prefix="surgeon-", dir="/tmp" if os.path.isdir("/tmp") else None)
        options |= {
            "address": "local",
            "num_cpus": max(workers, os.cpu_count() or 1),
            "object_store_memory": _STORE,
            "include_dashboard": False,
            "_temp_dir": folder,
            "_node_ip_address": "127.0.0.1",
        }
    else:
        _knock(address)
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        _start(ray, options, address)
        there = ray.cluster_resources()
        for what, each in (("CPU", 1), ("GPU", gpus)):
            if there.get(what, 0) < workers * each:
                raise SurgeonError(
                    f"--workers {workers}: the cluster has {there.get(what, 0):.0f} {what}s; use fewer"
                )
        yield ray
    finally:
        ray.shutdown()
        logging.disable(before)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _start(ray: Any, options: dict[str, Any], address: str | None) -> None:
    for left in reversed(range(1 if address else _STARTS)):
        try:
            ray.init(**options)
            return
        except Exception as error:
            ray.shutdown()
            if left and type(error) is Exception:  # Ray's class for a node that was too slow
                continue
            where = f"--ray-address {address}" if address else "--workers"
            raise SurgeonError(f"{where}: Ray cannot be reached ({_line(error)})") from None


def _knock(address: str) -> None:
    """SurgeonError at once where nobody listens; Ray would try for minutes, then end the process."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdecimal():
        return  # a word of Ray's, such as auto
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise SurgeonError(
            f"--ray-address {address}: nobody answers there ({error.strerror or error})"
        ) from None


def import_ray(address: str | None = None) -> Any:
    """Ray, or SurgeonError with the words that install it.

    To be called before others import it, as transformers may: how to keep quiet and the token of a Ray
    of its own it reads from the environment when it is imported.
    """
    if "ray" not in sys.modules:
        for name, value in (_QUIET if address else _QUIET | _OWN).items():
            os.environ.setdefault(name, value)
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise SurgeonError(
            "--workers needs ray, which is not installed; run: pip install 'surgeon[workers]'"
        ) from None
    return ray


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
