"""Keeps the decoders' own chatter out of the user's sight while one of our readers runs.

pydicom, Pillow, tifffile and nibabel warn and log about every oddity of a file, and quote header values (names, dates) as they
do. What matters of it becomes the :class:`~pipeline.errors.ScanError`; the rest must neither flood a log nor carry an identity
into it. ``warnings.catch_warnings`` swaps the whole process's filters and is not safe with threads, so one filter is added
instead that answers "ignore" only for these packages and only in a thread that is inside :func:`quiet`.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_PACKAGES = ("pydicom", "PIL", "tifffile", "nibabel", "pylibjpeg", "openjpeg")
_LOGGERS = ("pydicom", "PIL", "tifffile", "nibabel.global", "pylibjpeg")

_here = threading.local()
_lock = threading.Lock()
_readers = 0


def _reading() -> bool:
    return bool(getattr(_here, "depth", 0))


class _InAReader:
    """Stands where a warnings filter has the compiled pattern of a module's name (PEP 230: anything with ``match``)."""

    def match(self, module: str) -> bool:
        return _reading() and module.split(".", 1)[0] in _PACKAGES


class _Drop(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not _reading()


_WARNING_FILTER: Any = ("ignore", None, Warning, _InAReader(), 0)
_LOG_FILTER = _Drop()


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, in this thread only, the decoders neither warn nor log. Re-entrant; leaves no trace when the last one leaves."""
    global _readers
    with _lock:
        _readers += 1
        if _WARNING_FILTER not in warnings.filters:
            warnings.filters.insert(0, _WARNING_FILTER)  # type: ignore[attr-defined]
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(_LOG_FILTER)
    _here.depth = getattr(_here, "depth", 0) + 1
    try:
        yield
    finally:
        _here.depth -= 1
        with _lock:
            _readers -= 1
            if not _readers:
                if _WARNING_FILTER in warnings.filters:
                    warnings.filters.remove(_WARNING_FILTER)  # type: ignore[attr-defined]
                for name in _LOGGERS:
                    logging.getLogger(name).removeFilter(_LOG_FILTER)
