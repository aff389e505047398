"""Options of work on a Dask cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from pipeline.errors import ConfigError

ClusterOption = Annotated[
    str | None,
    typer.Option("--cluster", help="Work on a Dask cluster: local:4 (processes here) or tcp://HOST:PORT (needs ocuseg[cluster])."),
]
DashboardOption = Annotated[
    str | None,
    typer.Option("--dashboard", help="HOST:PORT where the dashboard of --cluster local:N listens (default: this machine alone)."),
]


@contextmanager
def client_of(cluster: str | None, dashboard: str | None) -> Iterator[Any]:
    """A Dask client inside the block; None without ``--cluster``."""
    if cluster is None:
        if dashboard is not None:
            raise ConfigError("--dashboard belongs to --cluster local:N")
        yield None
        return
    from pipeline.cluster.connect import connected
    from pipeline.memory import Limits

    with connected(cluster, Limits.chosen().total_bytes, dashboard) as client:
        yield client
