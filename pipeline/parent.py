"""Children that end with the process that started them, however that one ends.

A child is told its parent's process id; what it then does is its own choice: leave at once (a worker), or finish soon (a sender).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

_POLL_S = 0.5
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def end_with_parent(parent: int) -> None:
    """From here on this process does not outlive ``parent``, its parent process.

    On Linux the kernel sees to it, even while a decoder holds the interpreter's lock; it takes the end of the *thread* that started
    this process for the end of the parent. Elsewhere a thread looks twice a second.
    """
    _by_kernel()
    when_parent_ends(parent, lambda: os._exit(1))


def _by_kernel() -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def when_parent_ends(parent: int, act: Callable[[], None]) -> None:
    """Call ``act`` in a thread of its own once ``parent``, the process that started this one, is gone; at once if it is already."""

    def watch() -> None:
        while _alive(parent):
            time.sleep(_POLL_S)
        act()

    threading.Thread(target=watch, name="ocuseg-parent", daemon=True).start()


def _alive(parent: int) -> bool:
    if os.name == "posix":
        return os.getppid() == parent  # an orphan gets another parent
    import psutil

    return bool(psutil.pid_exists(parent))
