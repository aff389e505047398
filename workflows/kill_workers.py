"""Many workers on one folder, killed at random: is anything lost, done twice, half written, or different by a byte?

    python workflows/kill_workers.py --photographs 2000 --workers 8 --machines 2

Draws small photographs (64 px; one in 25 is repeated in another patient's folder, one in 100 is broken), makes an untrained bundle, and
predicts once by one process without interruption, then by a crew: every few seconds one worker, chosen by chance, gets SIGKILL, and
another one starts in its place. With several machines the workers have as many machine names, so that only the time without a beat
tells whether one of another machine is dead, and each has a scratch folder of its own. At the end every file of both output folders is
compared by its SHA-256, and the ledger with the folder. Needs fork. Results: docs/results/many_workers.md.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.bundles.bundle import build_task, load_bundle, save_bundle
from pipeline.config import parse_config
from pipeline.inference.crew import LIMIT_VARIABLE, MACHINE_VARIABLE
from pipeline.inference.folder import predict_folder
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.raster import write_png
from pipeline.scans.shard import Share
from pipeline.types import LabelClass, LabelMap

KEY = Pseudonyms(b"a key for killing workers")
LIMIT_S = 5.0


def draw(folder: Path, number: int) -> None:
    """Discs with a brighter spot on them, each another one."""
    chance = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :64]
    for k in range(number):
        patient = folder / f"P{k // 4:05d}" / f"V{k % 4}"
        patient.mkdir(parents=True)
        picture = np.zeros((64, 64, 3), np.uint8)
        inside = (rows - 32) ** 2 + (columns - 32) ** 2 < 30**2
        y, x = chance.integers(16, 48, 2)
        spot = (rows - y) ** 2 + (columns - x) ** 2 < 36
        picture[inside] = (150, 80, 40)
        picture[inside & spot] = (240, 200, 120)
        picture[inside] += chance.integers(0, 15, (int(inside.sum()), 3), dtype=np.uint8)
        path = patient / f"{'OD' if k % 2 else 'OS'}.png"
        write_png(path, picture)
        if k % 25 == 0:
            copy = folder / f"P{chance.integers(number // 4):05d}" / "copies"
            copy.mkdir(parents=True, exist_ok=True)
            (copy / f"{k}_{path.name}").write_bytes(path.read_bytes())
        if k % 100 == 0:
            (patient / "broken.png").write_bytes(path.read_bytes()[:200])


def untrained(path: Path) -> Path:
    config = parse_config(
        "{name: tiny, data: {card: phantom}, task: {name: semantic}, model: {name: unet, widths: [4, 8], residual_units: 1}}"
    )
    label_map = LabelMap((LabelClass(1, "vessel", (0, 114, 178)),))
    torch.manual_seed(0)
    task = build_task(config, 3, label_map)
    thresholds = {"vessel": 0.5}
    save_bundle(
        path,
        task=task,
        config=config,
        label_map=label_map,
        card_sha256="c" * 64,
        metrics={},
        thresholds=thresholds,
        input_channels=3,
        modality="fundus",
    )
    return path


def in_child(work: Callable[[], Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


def end_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def hashes(out: Path) -> dict[str, str]:
    """Of every file but the journal, which holds times; of run.json without the moment at which all began."""
    found = {}
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.name != "journal.sqlite":
            content = path.read_bytes()
            if path.name == "run.json":
                content = json.dumps({**json.loads(content), "started": ""}).encode()
            found[path.relative_to(out).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


def crew_at_work(job: Callable[[Share], Any], home: Path, workers: int, machines: int, every_s: float, seed: int, cases: Path) -> list[int]:
    """How many cases there were at each death; ends when all workers have ended by themselves."""
    chance, hired, deaths = random.Random(seed), 0, []
    os.environ[LIMIT_VARIABLE] = str(LIMIT_S)

    def hire() -> int:
        nonlocal hired
        hired += 1
        number = hired

        def at_work() -> None:
            scratch = None
            if machines > 1:
                os.environ[MACHINE_VARIABLE] = f"machine {number % machines}"
                scratch = home / f"scratch {number}"
                scratch.mkdir()
            job(Share(scratch=scratch))

        return in_child(at_work)

    crew = [hire() for _ in range(workers)]
    try:
        while crew:
            until = time.monotonic() + chance.uniform(0.5, 1.5) * every_s
            while crew and time.monotonic() < until:
                for pid in list(crew):
                    ended, status = os.waitpid(pid, os.WNOHANG)
                    if ended:
                        crew.remove(pid)
                        if os.waitstatus_to_exitcode(status):
                            raise SystemExit(f"a worker ended with {os.waitstatus_to_exitcode(status)}")
                time.sleep(0.05)
            if len(crew) == workers:  # while all are at work
                chosen = chance.choice(crew)
                os.kill(chosen, signal.SIGKILL)
                if end_of(chosen) == -signal.SIGKILL:
                    deaths.append(len(os.listdir(cases)) if cases.is_dir() else 0)
                    crew.append(hire())
                crew.remove(chosen)
    finally:
        for pid in crew:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return deaths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--machines", type=int, default=1)
    parser.add_argument("--kill-every", type=float, default=4.0, help="Seconds, on average.")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        scans, bundle = home / "scans", untrained(home / "bundle")
        draw(scans, given.photographs)
        load_bundle(bundle).task  # noqa: B018 (imports, once)

        def job(out: Path, share: Share | None = None) -> dict[str, int]:
            return predict_folder(bundle, scans, out, device="cpu", workers=1, pseudonyms=KEY, share=share)

        began = time.monotonic()
        if end_of(in_child(lambda: job(home / "alone"))):
            raise SystemExit("the uninterrupted run failed")
        alone_s, out = time.monotonic() - began, home / "crew"
        began = time.monotonic()
        deaths = crew_at_work(
            lambda share: job(out, share), home, given.workers, given.machines, given.kill_every, given.seed, out / "cases"
        )
        crew_s = time.monotonic() - began
        time.sleep(LIMIT_S)
        if end_of(in_child(lambda: job(out))):  # finds everything done, and removes what the dead had begun
            raise SystemExit("the last call failed")
        wanted, found = hashes(home / "alone"), hashes(out)
        with (out / "ledger.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        files = sum(1 for path in scans.rglob("*") if path.is_file())
        done = [row["case"] for row in rows if row["status"] == "done"]
        told = {
            "files": files,
            "ledger": dict(Counter(row["status"] for row in rows)),
            "lost": files - len({row["token"] for row in rows}),
            "twice": len(rows) - len({row["token"] for row in rows}) + len(done) - len(set(done)),
            "half_written": sum(1 for case in out.glob("cases/*") if not (case / "case.json").is_file()),
            "files_compared": len(wanted),
            "different": sum(wanted.get(key) != found.get(key) for key in wanted.keys() | found.keys()),
            "killed": len(deaths),
            "cases_at_deaths": deaths,
            "alone_s": round(alone_s, 1),
            "crew_s": round(crew_s, 1),
            "load": [round(value, 1) for value in os.getloadavg()],
        }
        print(json.dumps(given.__dict__ | told, indent=1))
        if told["lost"] or told["twice"] or told["half_written"] or told["different"] or not deaths:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
