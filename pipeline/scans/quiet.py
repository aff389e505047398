"""Suppresses the decoders' own messages while one of our readers runs.

pydicom, Pillow, tifffile and nibabel warn and log about every oddity of a file and quote header values (names, dates).
What matters becomes the :class:`~pipeline.errors.ScanError`; the rest must neither flood a log nor carry an identity
into it. ``warnings.catch_warnings`` swaps the whole process's filters and is not safe with threads, so one filter is added
instead that answers "ignore" only for these packages and only in a thread that is inside :func:`quiet`.

C libraries print by themselves. libtiff takes a handler; libjpeg inside gdcm can only print to standard error.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_PACKAGES = ("pydicom", "PIL", "tifffile", "nibabel", "pylibjpeg", "openjpeg")

_here = threading.local()
_lock = threading.Lock()
_stream_lock = threading.Lock()
_readers = 0


def _reading() -> bool:
    return bool(getattr(_here, "depth", 0))


class _InAReader:
    """Takes the place of the compiled module pattern in a warnings filter (PEP 230: anything with ``match``)."""

    def match(self, module: str) -> bool:
        return _reading() and module.split(".", 1)[0] in _PACKAGES


class _Gate(logging.Handler):
    """Drops a package's log records, its child loggers' too, if they come from a thread inside a reader.

    A filter on the package's logger would see nothing of what its child loggers log.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._logger = logging.getLogger(name)
        self._open = True

    def emit(self, record: logging.LogRecord) -> None:
        if self._open and not _reading() and self._logger.parent is not None:
            self._logger.parent.callHandlers(record)

    def close_gate(self) -> None:
        self._open, self._logger.propagate = self._logger.propagate, False
        self._logger.addHandler(self)

    def open_gate(self) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = self._open


_WARNING_FILTER: Any = ("ignore", None, Warning, _InAReader(), 0)
_GATES = [_Gate(name) for name in _PACKAGES]


@contextmanager
def quiet() -> Iterator[None]:
    """Inside it, in this thread only, the decoders neither warn nor log. Re-entrant; the last one to leave restores everything."""
    global _readers
    with _lock:
        _readers += 1
        if _WARNING_FILTER not in warnings.filters:
            warnings.filters.insert(0, _WARNING_FILTER)  # type: ignore[attr-defined]
        if _readers == 1:
            for gate in _GATES:
                gate.close_gate()
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
                for gate in _GATES:
                    gate.open_gate()


@contextmanager
def libtiff_errors() -> Iterator[list[None]]:
    """Inside it, messages of Pillow's libtiff are not printed; the list gets an entry for each error reported in this thread."""
    _take_over_libtiff()
    errors: list[None] = []
    _here.tiff = errors
    try:
        yield errors
    finally:
        _here.tiff = None


@cache
def _take_over_libtiff() -> tuple[Any, ...]:
    """Installs a handler in Pillow's libtiff, whose handlers are process-wide; returns what must not be garbage-collected."""
    from PIL import _imaging

    kind = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)  # module, format, arguments

    def error(*_: Any) -> None:
        if getattr(_here, "tiff", None) is not None:
            _here.tiff.append(None)

    handlers = kind(error), kind(lambda *_: None)
    try:
        library = ctypes.CDLL(_imaging.__file__)
        library.TIFFSetErrorHandler(handlers[0])
        library.TIFFSetWarningHandler(handlers[1])
    except (OSError, AttributeError):  # a Pillow that holds libtiff inside itself keeps its own words
        return ()
    return handlers


_LIBJPEG = ("Corrupt JPEG data", "Premature end of JPEG file", "Unsupported marker type", "Inconsistent progression", "Invalid ")


@contextmanager
def libjpeg_lines() -> Iterator[list[str]]:
    """Inside it, lines that libjpeg prints to standard error are withheld; afterwards the list holds them.

    The stream belongs to the whole process: one thread at a time, and what others write meanwhile is passed on.
    """
    lines: list[str] = []
    with _stream_lock, tempfile.TemporaryFile() as kept:
        try:
            stream = os.dup(2)
        except OSError:  # there is none
            yield lines
            return
        try:
            os.dup2(kept.fileno(), 2)
            yield lines
        finally:
            if sys.stderr is not None:
                sys.stderr.flush()
            os.dup2(stream, 2)
            os.close(stream)
            kept.seek(0)
            for line in kept.read().decode("utf-8", "replace").splitlines(keepends=True):
                if line.startswith(_LIBJPEG):
                    lines.append(line.strip())
                else:
                    os.write(2, line.encode())
