"""``--cluster``: workers of dask.distributed, on this machine or behind a scheduler that the site runs."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pipeline.cluster.work import DaskWorkers
from pipeline.errors import ConfigError

log = logging.getLogger(__name__)

LOCAL, REMOTE = re.compile(r"local:([1-9]\d{0,3})"), re.compile(r"(tcp|tls)://\S+")
DASHBOARD = "127.0.0.1:0"
"""Where the dashboard listens unless something else was asked for: this machine alone, any free port."""
LOOK_AGAIN_S = 2.0
ANSWER_S = 20
"""Seconds in which a scheduler must answer, and have a worker."""


@contextmanager
def connected(cluster: str, memory: int | None = None, dashboard: str | None = None) -> Iterator[DaskWorkers]:
    """Workers of ``local:N`` (N processes, which end with the block) or ``tcp://HOST:PORT``.

    Parameters
    ----------
    memory: bytes that all workers of ``local:N`` may take together; one that takes more than its part is replaced.
    dashboard: HOST:PORT where that of ``local:N`` listens (default: :data:`DASHBOARD`).

    Raises
    ------
    ConfigError: dask.distributed is not installed, ``cluster`` is neither, or no scheduler with a worker answers there.
    """
    local = LOCAL.fullmatch(cluster)
    if local is None and REMOTE.fullmatch(cluster) is None:
        raise ConfigError(f"--cluster {cluster!r}: write it as local:4 (processes on this machine) or tcp://HOST:PORT (a Dask scheduler)")
    if dashboard is not None and (local is None or re.fullmatch(r"\S+:\d{1,5}", dashboard) is None):
        raise ConfigError(f"--dashboard {dashboard!r}: must be HOST:PORT, of --cluster local:N (a scheduler has its own)")
    try:
        from distributed import Client
    except ImportError as error:
        raise ConfigError(f"--cluster needs dask.distributed ({error}); pip install 'ocuseg[cluster]'") from error
    for name in list(logging.root.manager.loggerDict):  # each worker that dies would be told in a dozen lines
        if name.partition(".")[0] in ("distributed", "tornado", "bokeh"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    if local is not None:
        with _local(int(local[1]), memory, dashboard or DASHBOARD) as running, Client(running) as client:
            log.info("dashboard: %s", running.dashboard_link)
            yield DaskWorkers(client)
        return
    try:
        client = Client(cluster, timeout=ANSWER_S)
        client.wait_for_workers(1, timeout=ANSWER_S)
    except (OSError, ValueError) as error:  # TimeoutError is an OSError
        raise ConfigError(f"--cluster {cluster}: no Dask scheduler with a worker answers there ({type(error).__name__})") from error
    with client:
        log.info("dashboard: %s", client.dashboard_link)
        yield DaskWorkers(client)


@contextmanager
def _local(workers: int, memory: int | None, dashboard: str) -> Iterator[Any]:
    import dask
    from distributed import LocalCluster

    # One thread each, as the workers are many. Dask would also have malloc give back what is freed: half as fast (training/platform.py).
    own = {} if memory is None else {"OCUSEG_MEMORY_LIMIT": str(max(memory // workers, 1))}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    settings = {
        "distributed.nanny.pre-spawn-environ": threads | own,
        "distributed.worker.memory.spill": False,  # results are small; a file's own data cannot be spilled
        "distributed.worker.memory.target": False,
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=dashboard,
            worker_dashboard_address="127.0.0.1:0",
            memory_limit="auto" if memory is None else max(memory // workers, 1),
            silence_logs=logging.CRITICAL,
        ) as running,
        _replacing(running),
    ):
        yield running


@contextmanager
def _replacing(running: Any) -> Iterator[None]:
    """Start workers anew that their nannies have given up, as they do with one that dies while it starts."""
    from distributed.core import Status

    async def replace() -> None:
        for name, nanny in list(running.workers.items()):
            if nanny.status in (Status.closed, Status.failed):
                del running.workers[name]
        await running._correct_state()

    def watch() -> None:
        while not over.wait(LOOK_AGAIN_S):
            with suppress(Exception):  # the next look may find it mended
                running.sync(replace)

    over = threading.Event()
    thread = threading.Thread(target=watch, name="ocuseg-workers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
