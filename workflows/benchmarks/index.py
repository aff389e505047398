"""Does `ocuseg index` keep its memory flat? Peak resident memory and time for few and for many small pictures.

    .venv/bin/python workflows/benchmarks/index.py [--many 100000]

Each tree is indexed twice by a process of its own: fresh, then again when nothing has changed. The pictures are PNG of 8 x 12 pixels,
all different, so the time is that of walking, hashing, decoding and cataloguing, not of pixels.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline.scans.identity import Pseudonyms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few", type=int, default=1_000)
    parser.add_argument("--many", type=int, default=100_000)
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(*options.child)))
        return
    peaks = []
    with tempfile.TemporaryDirectory() as name:
        for count in (options.few, options.many):
            tree = Path(name) / str(count)
            write_tree(tree, count)
            for again in ("fresh", "again, unchanged"):
                arguments = [sys.executable, __file__, "--child", str(tree), str(tree.with_suffix(".sqlite"))]
                found = json.loads(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)
                memory = f"peak {found['mib']:.0f} MiB, largest worker {found['worker_mib']:.0f} MiB"
                print(f"{count} files, {again}: {found['seconds']:.0f} s, {memory}", flush=True)
                peaks.append(found["mib"])
    print(f"peak memory, {options.many} files against {options.few}: {peaks[2] / peaks[0]:.2f} x")


def write_tree(tree: Path, count: int) -> None:
    """``count`` different pictures, fifty in a folder, as patients have them."""
    from PIL import Image

    for number in range(count):
        folder = tree / f"P{number // 50:06d}" / "20240101"
        folder.mkdir(parents=True, exist_ok=True)
        Image.frombytes("L", (12, 8), number.to_bytes(96, "big")).save(folder / f"{number}.png")


def measure(tree: Path, catalogue: Path) -> dict[str, float]:
    from pipeline.scans.folder import index_folder

    began = time.perf_counter()
    counts = index_folder(tree, catalogue, pseudonyms=Pseudonyms(b"a key for measuring"), workers=2)
    if counts.status("read") != counts.files:
        raise SystemExit(f"{counts.files - counts.status('read')} files were not read")
    own, worker = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"seconds": time.perf_counter() - began, "mib": own, "worker_mib": worker}


if __name__ == "__main__":
    main()
