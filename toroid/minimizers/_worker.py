"""A process that trains for another one ends with it, also where that one was killed."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from functools import cache


@cache
def end_with_parent() -> None:
    """In a worker process, watch the process that started it, and end when it is gone.

    What was finished is in the store, and every epoch in a checkpoint. A process that nobody
    started to work for them (the caller's own) does nothing. Threads of it need no watch.
    """
    if multiprocessing.current_process().name != "MainProcess":
        threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:  # another process takes over the children of one that is gone
        time.sleep(0.5)
    os._exit(1)
