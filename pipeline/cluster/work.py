"""Many pieces of work for many workers: each prepares once, and one that dies costs what it had in hand, or one piece.

Who the workers are, :class:`Workers` hides: those of a Dask cluster (here), or a process for each device (cluster/processes.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar
from uuid import uuid4

from pipeline.errors import ConfigError
from pipeline.plugins import load_missing, loaded_plugins

Piece = TypeVar("Piece")
Result = TypeVar("Result")
PieceIn = TypeVar("PieceIn", contravariant=True)

RETRIES = 2
"""How often a task that raised an error is tried again, by Dask, on any worker."""
KILLED = "its worker was killed each time (too little memory, or a fault of a library)"
AHEAD = 3
"""Tasks of each worker thread that are with the scheduler at once, so that its memory does not grow with their number."""


class Work(Protocol[PieceIn, Result]):
    """What a worker does: it is sent to each of them (pickled), and opened there once."""

    def open(self, held: ExitStack) -> Callable[[Sequence[PieceIn]], list[Result]]:
        """Prepare (load networks, open folders); gives the function that makes a result of each piece. ``held`` is closed at the end."""
        ...

    def on(self, device: str) -> Self:
        """The same, by a worker that calculates on ``device``."""
        ...


@dataclass(frozen=True)
class Lost(Generic[Piece]):
    """A piece whose worker died each time that it was tried, and why."""

    piece: Piece
    reason: str


class Workers(Protocol):
    """Processes that do :class:`Work`, and know the plugins that this one has loaded."""

    def count(self) -> int:
        """How many pieces are worked on at once; at least 1."""
        ...

    def results(self, work: Work[Piece, Result], tasks: Iterable[Sequence[Piece]]) -> Iterator[tuple[Piece, Result | Lost[Piece]]]:
        """Each piece with its result, as tasks end; a task is done by one worker, one piece after the other.

        Raises
        ------
        OcusegError and anything else that a worker raised.
        """
        ...


@dataclass(frozen=True)
class DaskWorkers:
    """Those of a dask ``client``, on any machine."""

    client: Any

    def count(self) -> int:
        """Workers come and go."""
        threads: int = sum(self.client.nthreads().values())
        return max(threads, 1)

    def results(self, work: Work[Piece, Result], tasks: Iterable[Sequence[Piece]]) -> Iterator[tuple[Piece, Result | Lost[Piece]]]:
        """As of :class:`Workers`; what a worker raised is raised after :data:`RETRIES` more tries, by any of them."""
        return _dask_results(self, work, tasks)


def _dask_results(
    workers: DaskWorkers, work: Work[Piece, Result], tasks: Iterable[Sequence[Piece]]
) -> Iterator[tuple[Piece, Result | Lost[Piece]]]:
    """A worker that dies is replaced (by its nanny) and its tasks go elsewhere. A task whose workers die again and again (KilledWorker)
    is cut into its pieces; a piece whose workers die then, too, is tried when nothing else runs, because any task that was with
    the same worker looks like the cause; one that does the same alone is :class:`Lost`.
    """
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    client, name = workers.client, f"ocuseg-{uuid4().hex[:12]}"
    client.register_plugin(_plugin(name, work, loaded_plugins()), name=name)
    waiting, cut, suspects = iter(tasks), deque[Sequence[Piece]](), deque[Sequence[Piece]]()
    begun: dict[str, tuple[Any, Sequence[Piece], bool]] = {}
    running = as_completed(with_results=True, raise_errors=False)

    def begin() -> bool:
        task = cut.popleft() if cut else next(waiting, None)
        alone = task is None and not begun
        if alone and suspects:
            task = suspects.popleft()
        if task is None:
            return False
        future = client.submit(_run, name, list(task), pure=False, retries=RETRIES)
        begun[future.key] = future, task, alone
        running.add(future)
        return True

    try:
        while len(begun) < AHEAD * workers.count() and begin():
            pass
        for future, found in running:
            _, task, alone = begun.pop(future.key)
            if future.cancelled():
                raise ConfigError("the cluster has gone; what was finished is saved: run the same command again to continue")
            error = future.exception() if future.status == "error" else None
            if error is None:
                yield from zip(task, found, strict=True)
            elif not isinstance(error, KilledWorker):
                raise error
            elif len(task) > 1:
                cut.extend([piece] for piece in task)
            elif not alone:
                suspects.append(task)
            else:
                yield task[0], Lost(task[0], KILLED)
            future.release()
            while len(begun) < AHEAD * workers.count() and begin():
                pass
    finally:
        for future, *_ in begun.values():
            future.cancel()
        with suppress(Exception):  # the cluster may be gone
            client.unregister_worker_plugin(name)


def in_order(found: Iterable[tuple[Piece, Result | Lost[Piece]]]) -> Iterator[tuple[Piece, Result | Lost[Piece]]]:
    """Results of pieces whose first element counts from 0, in that order."""
    early: dict[int, tuple[Piece, Result | Lost[Piece]]] = {}
    number = 0
    for piece, result in found:
        early[piece[0]] = piece, result  # type: ignore[index]
        while number in early:
            yield early.pop(number)
            number += 1


def _run(name: str, pieces: Sequence[Any]) -> list[Any]:
    """Runs in a worker."""
    from distributed import get_worker

    found: list[Any] = get_worker().plugins[name].run(pieces)
    return found


def _plugin(name: str, work: Work[Any, Any], plugins: Sequence[Path]) -> Any:
    from distributed import WorkerPlugin

    class OcusegPlugin(WorkerPlugin):
        """Opens ``work`` in a thread of its own, in which everything of it happens, when the first task comes."""

        def __init__(self) -> None:
            self.name = name

        def setup(self, worker: Any) -> None:
            self._thread = ThreadPoolExecutor(1, "ocuseg-work")
            self._held = ExitStack()
            self._do: Callable[[Sequence[Any]], list[Any]] | None = None

        def teardown(self, worker: Any) -> None:
            self._thread.submit(self._held.close)
            self._thread.shutdown(wait=True)

        def run(self, pieces: Sequence[Any]) -> list[Any]:
            return self._thread.submit(self._opened, pieces).result()

        def _opened(self, pieces: Sequence[Any]) -> list[Any]:
            if self._do is None:
                load_missing(plugins)
                self._do = work.open(self._held)
            return self._do(pieces)

    return OcusegPlugin()
