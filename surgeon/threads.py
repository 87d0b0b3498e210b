"""Several threads for one piece of work, ended cleanly by an error or by Ctrl-C.

concurrent.futures.wait can leave its locks taken when Ctrl-C comes at the wrong moment, and then hangs
for good; joining threads cannot.
"""

from collections.abc import Callable
from threading import Thread


def run_threads(count: int, work: Callable[[], None], stop: Callable[[], None]) -> None:
    """Runs ``work`` in ``count`` threads and waits for all; raises the first exception of any.

    ``stop`` must make every running ``work`` return or raise soon; it is called after a failure in
    one of them, and when the waiting itself is interrupted.
    """
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)
            stop()

    threads = [Thread(target=guarded, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:
        stop()
        for thread in threads:
            thread.join()
        raise
    if failures:
        raise failures[0]
