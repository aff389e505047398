"""What ``predict`` and ``segment`` have in common: all but which networks look, and what is told at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.clusters import ClusterOptions
from pipeline.cli.console import progress
from pipeline.cli.data import FollowLinks, MaxPixels, MemoryLimit, SiteKey, follow, limits_of
from pipeline.cli.runs import Devices, Doubt
from pipeline.cli.sharing import HowProgress, SharingOptions
from pipeline.cli.stated import StatedOptions


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """How a folder of scans is worked on."""

    doubt: Doubt = False
    scans: StatedOptions
    device: Devices = "auto"
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Images that go through the network together (default: as the device needs).")
    ] = None
    workers: Annotated[
        int | None, typer.Option(min=1, help="Files read, and results written, in parallel (default: as cores and memory allow).")
    ] = None
    max_pixels: MaxPixels = None
    memory_limit: MemoryLimit = None
    sharing: SharingOptions
    cluster: ClusterOptions
    how: HowProgress = "auto"
    follow_links: FollowLinks = False
    site_key: SiteKey = None

    def begin(self) -> None:
        """Have a process that decodes scans start while this one imports what looks at them, which takes seconds. Where other processes
        look at them, they have their own."""
        if self.cluster.cluster is None and "," not in self.device:
            from pipeline.scans.workers import begin_one

            begin_one()

    def predict(self, doing: str, bundles: Sequence[Path], folder: Path, out: Path, **more: Any) -> dict[str, int]:
        """``predict_folder`` with these options and ``more`` of its own, with progress under the name of what is ``doing``."""
        from pipeline.inference.folder import predict_folder
        from pipeline.inference.on_cluster import OnCluster
        from pipeline.scans.identity import Pseudonyms, default_key_path

        said = self.scans.stated()
        limits = limits_of(self.max_pixels, self.memory_limit, self.workers)
        follow(self.follow_links)
        share = self.sharing.share(folder)
        key_path = self.site_key or default_key_path()
        names = Pseudonyms.load_or_create(key_path)
        with self.cluster.workers() as workers, progress(doing, self.how) as advance:
            return predict_folder(
                bundles,
                folder,
                out,
                device=self.device,
                doubt=self.doubt,
                batch_size=self.batch_size,
                workers=self.workers,
                pseudonyms=names,
                stated=said,
                limits=limits,
                progress=advance,
                share=share,
                cluster=None if workers is None else OnCluster(workers, key_path.absolute()),
                **more,
            )
