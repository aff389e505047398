"""Libraries without what they would bring along: a network of MONAI is ready in a second instead of fifteen (processor time).

Many libraries import every package that they can make use of somewhere, and run without it. For the time of their first import such
packages are as if not installed. What is imported already is used as ever; a plugin or program that needs all of such a library imports
it at its head, before ocuseg does.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager


class _NotForThisThread:
    """A finder that finds none of ``extras`` for the thread that made it; other threads import as ever."""

    def __init__(self, library: str, extras: Collection[str]) -> None:
        self._library, self._extras = library, extras
        self._thread = threading.get_ident()

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if threading.get_ident() == self._thread and name.partition(".")[0] in self._extras:
            raise ModuleNotFoundError(f"{name} is left out; import {self._library} before ocuseg does to have all of it", name=name)


@contextmanager
def lean_import(library: str, extras: Collection[str]) -> Iterator[None]:
    """In this block ``library`` is imported without ``extras``, unless it is there already."""
    if library in sys.modules:
        yield
        return
    finder = _NotForThisThread(library, extras)
    # New lists: another thread that is going through the present one would miss a finder when this one is taken out of it.
    sys.meta_path = [finder, *sys.meta_path]
    try:
        yield
    finally:
        sys.meta_path = [other for other in sys.meta_path if other is not finder]
