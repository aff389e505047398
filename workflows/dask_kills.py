"""A Dask cluster whose workers are killed at random: nothing lost, nothing twice, nothing half written, every file as without a cluster.

    .venv/bin/python workflows/dask_kills.py [--photographs 2000] [--workers 8] [--every 5]

Small drawn photographs go through a small network once in one process and once through Dask, while a worker, chosen at random, gets
`kill -9` every few seconds. Then every file of the two output folders is compared; what may differ are the start in run.json and
the inner layout of the journal.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from pipeline.bundles.bundle import build_task, save_bundle
from pipeline.cli.console import script
from pipeline.cluster.connect import connected
from pipeline.config import parse_config
from pipeline.inference.folder import predict_folder
from pipeline.inference.on_cluster import OnCluster
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.raster import write_png
from pipeline.types import LabelClass, LabelMap

CONFIG = "{name: small, data: {card: phantom}, task: {name: semantic}, model: {name: unet, widths: [4, 8], residual_units: 1}}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--photographs", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between kills, on average")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = small_bundle(folder / "bundle")
        draw(folder / "scans", options.photographs)
        Pseudonyms.load_or_create(folder / "site.key")
        names = Pseudonyms.load(folder / "site.key")
        began = time.monotonic()
        predict_folder(bundle, folder / "scans", folder / "alone", device="cpu", pseudonyms=names)
        alone = time.monotonic() - began
        began, killed = time.monotonic(), 0
        with connected(f"local:{options.workers}") as workers, Killer(workers.client, options.every) as killer:
            on = OnCluster(workers, folder / "site.key")
            predict_folder(bundle, folder / "scans", folder / "together", device="cpu", pseudonyms=names, cluster=on)
            killed = killer.killed
        together = time.monotonic() - began
        print("\n".join(compared(folder, options.photographs)))
        print(f"{killed} workers of {options.workers} killed; {together:.0f} s, in one process without a cluster {alone:.0f} s")


class Killer:
    """While it is open, kills a worker of ``client`` now and then."""

    def __init__(self, client: object, every: float) -> None:
        self._client, self._every, self.killed = client, every, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go, daemon=True)

    def _go(self) -> None:
        dice = random.Random(1)
        while not self._over.wait(dice.uniform(0.5, 1.5) * self._every):
            pids = [*self._client.run(os.getpid, on_error="ignore").values()]  # type: ignore[attr-defined]
            if pids:
                os.kill(dice.choice(pids), signal.SIGKILL)
                self.killed += 1

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def small_bundle(path: Path) -> Path:
    config, classes = parse_config(CONFIG), LabelMap((LabelClass(1, "vessel", (0, 114, 178), "SCT:59820001"),))
    torch.manual_seed(0)
    task = build_task(config, 3, classes)
    save_bundle(
        path, task=task, config=config, label_map=classes, card_sha256="c" * 64, metrics={}, thresholds={"vessel": 0.5}, input_channels=3,
        modality="fundus",
    )  # fmt: skip
    return path


def draw(folder: Path, photographs: int) -> None:
    for number in range(photographs):
        pixels = np.random.default_rng(number).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        (folder / f"p{number // 2:05d}").mkdir(parents=True, exist_ok=True)
        write_png(folder / f"p{number // 2:05d}" / f"{'RL'[number % 2]}.png", pixels)


def compared(folder: Path, photographs: int) -> list[str]:
    with (folder / "together" / "ledger.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    tokens = Counter(row["token"] for row in rows)
    done = sum(row["status"] == "done" for row in rows)
    one, two = files(folder / "alone"), files(folder / "together")
    different = [name for name in one.keys() & two.keys() if one[name] != two[name]]
    return [
        f"{photographs} photographs: {photographs - len(tokens)} lost, {sum(count - 1 for count in tokens.values())} twice, {done} done",
        f"{len(one)} files without a cluster, {len(two)} with it: {len(one.keys() - two.keys())} missing, "
        f"{len(two.keys() - one.keys())} more, {len(different)} different",
    ]


def files(out: Path) -> dict[str, bytes]:
    found = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    run = json.loads(found.pop("run.json"))
    run.pop("started")
    kept = {name: content for name, content in found.items() if not name.startswith(".") and name != "journal.sqlite"}
    return kept | {"run.json": json.dumps(run).encode()}


if __name__ == "__main__":
    script(main)
