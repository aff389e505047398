"""How much memory there is, who may take how much of it, and a folder that asks for more."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from pipeline import memory
from pipeline.errors import ConfigError
from pipeline.memory import Budget, Limits, available_memory, machine_memory, parse_bytes
from pipeline.scans.raster import write_png
from tests.inference.conftest import picture
from tests.inference.test_killed import tiny_bundle

ROOT = Path(__file__).resolve().parents[1]
GIB = 1 << 30


@pytest.mark.parametrize(("text", "size"), [("2G", 2 * GIB), ("1.5 GiB", 3 * GIB // 2), ("800MB", 800 << 20), ("4096", 4096), ("3k", 3072)])
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text, "x") == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "1e9", "0", "2 gigs", "nan"])
def test_what_is_no_size_is_said(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a size of memory"):
        parse_bytes(text, "x")


def write_group(folder: Path, **values: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (folder / name.replace("_dot_", ".")).write_text(value)


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_limit_is_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    membership = tmp_path / "cgroup"
    if version == 2:
        membership.write_text("0::/a/b\n")
        write_group(tmp_path / "fs", memory_dot_max="max", memory_dot_current="1", memory_dot_stat="inactive_file 0\n")
        write_group(
            tmp_path / "fs/a", memory_dot_max=f"{GIB}\n", memory_dot_current=f"{GIB // 2}\n", memory_dot_stat="anon 5\ninactive_file 1024\n"
        )
    else:
        membership.write_text("5:cpu:/\n4:memory:/a/b\n0::/\n")
        write_group(
            tmp_path / "fs/memory/a/b",
            memory_dot_limit_in_bytes=f"{GIB}",
            memory_dot_usage_in_bytes=f"{GIB // 2}",
            memory_dot_stat="total_inactive_file 1024\n",
        )
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "fs")
    monkeypatch.setattr(memory, "_MEMBERSHIP", membership)
    assert machine_memory() == GIB
    assert available_memory() == GIB // 2 + 1024
    assert Limits.chosen(workers=2).worker_bytes == int(0.75 * GIB) // 4


def test_a_setting_counts_before_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCUSEG_MEMORY_LIMIT", "2G")
    monkeypatch.setenv("OCUSEG_MAX_PIXELS", "12345")
    assert Limits.chosen(workers=4) == Limits(12345, 2 * GIB, GIB // 4)
    assert Limits.chosen(99, workers=4).max_pixels == 99
    assert available_memory() < 2 * GIB - (50 << 20)
    monkeypatch.setenv("OCUSEG_MAX_PIXELS", "many")
    with pytest.raises(ConfigError, match="OCUSEG_MAX_PIXELS"):
        Limits.chosen()


def test_a_budget_is_taken_in_turn_and_what_is_larger_gets_it_alone() -> None:
    budget, order = Budget(100), []

    def take(number: int, size: int) -> None:
        budget.take(number, size)
        order.append(number)

    threads = [threading.Thread(target=take, args=pair, daemon=True) for pair in ((3, 10), (2, 500), (0, 60))]
    for thread in threads:
        thread.start()
    threads[2].join(60)
    assert order == [0]
    budget.skip(1)
    time.sleep(0.05)
    assert order == [0]
    budget.give_back(0)
    threads[1].join(60)
    assert order == [0, 2]
    budget.give_back(2)
    threads[0].join(60)
    assert order == [0, 2, 3]
    waiting = threading.Thread(target=take, args=(9, 1), daemon=True)
    waiting.start()
    budget.close()
    waiting.join(60)
    assert not waiting.is_alive()


def bomb(rows: int, columns: int, jpeg: bytes) -> bytes:
    """A JPEG that declares another size than it has."""
    at = jpeg.index(b"\xff\xc0")
    return jpeg[: at + 5] + struct.pack(">HH", rows, columns) + jpeg[at + 9 :]


def test_bombs_and_a_huge_picture_in_two_gigabytes(tmp_path: Path) -> None:
    from PIL import Image

    tiny_bundle(tmp_path / "bundle")
    scans = tmp_path / "scans"
    scans.mkdir()
    Image.fromarray(picture(1, 64, 64)).save(tmp_path / "small.jpg")
    small = (tmp_path / "small.jpg").read_bytes()
    (scans / "a.jpg").write_bytes(bomb(19_999, 20_000, small))
    (scans / "b.jpg").write_bytes(bomb(6_000, 6_000, small))
    Image.new("RGB", (9_000, 9_000), (90, 40, 10)).save(scans / "c.png", compress_level=1)  # legal, and too large for this machine
    write_png(scans / "d.png", picture(2, 2_400, 2_600))
    write_png(scans / "e.png", picture(3))
    command = [sys.executable, "-m", "pipeline", "predict", str(tmp_path / "bundle"), str(scans), "--out", str(tmp_path / "out")]
    command += ["--device", "cpu", "--memory-limit", "2G", "--json", "--site-key", str(tmp_path / "key")]
    most = 0
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as run:
        try:
            process = psutil.Process(run.pid)
            end = time.monotonic() + 900
            while run.poll() is None:
                assert time.monotonic() < end
                most = max(most, sum(map(own_bytes, [process, *process.children(recursive=True)])))
                time.sleep(0.1)
            said, complaint = run.communicate()
        finally:
            run.kill()
    assert run.returncode == 3, complaint.decode()
    assert json.loads(said)["done"] == 2
    assert json.loads(said)["rejected"] == 3
    assert most < 2 * GIB


def own_bytes(process: psutil.Process) -> int:
    try:
        info = process.memory_info()
    except psutil.Error:
        return 0
    return int(info.rss) - int(getattr(info, "shared", 0))
