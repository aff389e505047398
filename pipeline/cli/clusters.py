"""Options of work on a Dask cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.cluster.work import Workers


@dataclass(frozen=True)
class ClusterOptions:
    cluster: Annotated[
        str | None,
        typer.Option("--cluster", help="Work on a Dask cluster: local:4 (processes here) or tcp://HOST:PORT (needs ocuseg[cluster])."),
    ] = None
    dashboard: Annotated[
        str | None,
        typer.Option("--dashboard", help="HOST:PORT where the dashboard of --cluster local:N listens (default: this machine alone)."),
    ] = None

    @contextmanager
    def workers(self) -> Iterator[Workers | None]:
        """Those of the cluster, inside the block; None without ``--cluster``."""
        if self.cluster is None:
            if self.dashboard is not None:
                raise ConfigError("--dashboard belongs to --cluster local:N")
            yield None
            return
        from pipeline.cluster.connect import connected
        from pipeline.memory import Limits

        with connected(self.cluster, Limits.chosen().total_bytes, self.dashboard) as workers:
            yield workers
