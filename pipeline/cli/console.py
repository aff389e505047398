"""Output of the command line: one line per error, progress for a terminal, JSON for a program."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import os
import shlex
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pipeline.errors import EXIT_INTERRUPTED, EXIT_USAGE, ConfigError, OcusegError

if TYPE_CHECKING:
    from pipeline.types import ProgressCallback  # at run time it would bring numpy along


LINE_EVERY_S = 30.0


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a user's mistake into one line on standard error and the documented exit code."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a console or file whose encoding lacks µ gets it escaped
                stream.reconfigure(errors="backslashreplace")
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
        logging.getLogger("pipeline").setLevel(logging.INFO)
        if not sys.warnoptions:
            warnings.simplefilter("ignore")  # libraries' advice to programmers; `python -W` brings it back
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # a batch system's stop is a Ctrl-C
        try:
            return function(*args, **kwargs)
        except OcusegError as error:
            complain(error)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            typer.echo("interrupted: what was finished is saved; run the same command again to continue", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:
            raise typer.Exit(0) from None
        except OSError as error:
            if error.strerror is None:
                raise  # not from the system, so nothing that a user could fix
            complain(refusal(error, [*args, *kwargs.values()]))
            raise typer.Exit(EXIT_USAGE) from None

    return run


def script(main: Callable[[], None]) -> None:
    """Run a workflow's ``main`` with the manners of a command."""
    try:
        command(main)()
    except typer.Exit as end:
        sys.exit(end.exit_code)


def complain(what: object) -> None:
    """One line on standard error: red on a terminal, unless NO_COLOR is set."""
    typer.secho(f"error: {what}", err=True, fg="red", color=False if os.environ.get("NO_COLOR") else None)


def refusal(error: OSError, given: Iterable[Any]) -> str:
    """What the system refused, and where. Below a folder that the user gave, only that folder is named: the rest may name a patient."""
    place = ""
    if isinstance(error.filename, str | bytes):
        path = Path(os.fsdecode(error.filename))
        roots = [(p, root) for p in given if isinstance(p, Path) for root in (p.absolute(), Path(os.path.realpath(p)))]
        above = next((p for p, root in roots if root in path.absolute().parents), None)
        place = f"{str(path)!r}: " if above is None else f"below {str(above)!r}: "
    return f"{place}{error.strerror}; check the path, its permissions and the space on the disk"


def program(name: str) -> str:
    """How to call this installation's command ``name`` from here: by its name if the shell finds it, else by its path."""
    beside = Path(sys.executable).with_name(name)  # not resolved: a virtual environment's python is a link out of it
    found = shutil.which(name)
    if not beside.exists() or (found is not None and Path(found).absolute() == beside.absolute()):
        return name
    here = beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside
    return shlex.quote(str(here))


def emit(data: Any, as_json: bool, lines: list[str]) -> None:
    """Print ``data`` as JSON for a program, or ``lines`` for a person."""
    print(json.dumps(data, indent=2, default=str) if as_json else "\n".join(lines))


def table(headings: list[str], rows: list[list[Any]]) -> list[str]:
    """Left-aligned columns as plain lines; numbers are aligned by the caller's format."""
    cells = [[str(c) for c in row] for row in [headings, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headings))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


class ProgressLines:
    """Progress for a log file: a line on standard error every :data:`LINE_EVERY_S` seconds, none for a step that ends sooner.

    The time left is estimated from the pace since the previous line, if that was about the same part of the work.
    """

    def __init__(self, description: str) -> None:
        self._description = description
        self._printed, self._done, self._part = time.monotonic(), 0, ""

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None:
        from pipeline.types import duration

        now = time.monotonic()
        if now - self._printed < LINE_EVERY_S:
            return
        part = note.partition(" ")[0]  # "reading cases", "epoch 3, ...": the first word says which part this is
        parts = [f"{done} of {total}" if total is not None else str(done), note]
        if total is not None and part == self._part and self._done < done < total:
            parts.append(f"{duration((now - self._printed) / (done - self._done) * (total - done))} left")
        self._printed, self._done, self._part = now, done, part
        typer.echo(f"{self._description}: {', '.join(filter(None, parts))}", err=True)


class ProgressJson:
    """Progress for a program: an object a line on standard error, at most one a second and one for the last piece of work."""

    def __init__(self, description: str) -> None:
        self._description, self._printed = description, 0.0

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None:
        now = time.monotonic()
        if now - self._printed >= 1 or done == total:
            self._printed = now
            typer.echo(json.dumps({"step": self._description, "done": done, "total": total, "note": note}), err=True)


@contextlib.contextmanager
def progress(description: str, how: str = "auto") -> Iterator[ProgressCallback]:
    """A progress bar on standard error if it is a terminal, else a line every half minute; or, by ``how``, json."""
    if how not in ("auto", "json"):
        raise ConfigError(f"--progress {how!r}: must be auto or json")
    if how == "json":
        yield ProgressJson(description)
        return
    if not sys.stderr.isatty():
        yield ProgressLines(description)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=None, note="")

        def advance(done: int, total: int | None = None, note: str = "") -> None:
            bar.update(task, completed=done, total=total, note=note)

        yield advance
