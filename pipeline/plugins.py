"""A user's own Python files, which register models, losses or tasks; also in the processes that work for this one."""

from __future__ import annotations

import importlib.util
import os
import traceback
from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import ConfigError

_loaded: dict[Path, None] = {}


def loaded_plugins() -> tuple[Path, ...]:
    """Absolute paths of what :func:`load_plugin` has loaded in this process, in that order: for a process that is to know the same."""
    return tuple(_loaded)


def load_plugin(path: Path) -> None:
    """Import a user's Python file, whose decorators register what it defines.

    Raises
    ------
    ConfigError: it is not a Python file, or raised an error; the message has the last line of the file involved.
    """
    spec = importlib.util.spec_from_file_location(f"ocuseg_plugin_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(f"--plugin {str(path)!r} is not a Python file")
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except Exception as error:
        lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == spec.origin]
        reason = str(error)
        if isinstance(error, SyntaxError):
            reason = error.msg
            if error.filename == spec.origin and error.lineno is not None:
                lines = [error.lineno]
        place = f", line {lines[-1]}" if lines else ""
        reason = (reason.strip().splitlines() or ["no reason given"])[0]
        raise ConfigError(f"--plugin {str(path)!r}{place}: {type(error).__name__}: {reason}; fix the file") from error
    _loaded[Path(os.path.abspath(path))] = None


def load_missing(paths: Iterable[Path]) -> None:
    """Load those of ``paths`` that this process has not loaded yet: a name can be registered once."""
    for path in paths:
        if path not in _loaded:
            load_plugin(path)
