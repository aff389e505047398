"""What sharing a folder costs (listing, leases, published entries, settling) against opening its files. No network.

    python workflows/benchmarks/ledger.py --files 100000

The files are PNG of 8 x 12 pixels, fifty in a folder: nothing is faster to open. So the photographs that come with ocuseg are opened, too:
the cost is told as a part of both. What a case's own files cost (some ten writes) is not counted. Memory is how far it grew from before the
listing to its peak. Results: docs/results/many_workers.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from contextlib import closing
from pathlib import Path

from index import write_tree

from pipeline.inference.crew import Crew
from pipeline.inference.desk import JOURNAL, Desk
from pipeline.inference.journal import Entry
from pipeline.inference.out_folder import WORK
from pipeline.inference.settle import decide
from pipeline.inference.visits import export
from pipeline.resources import EXAMPLES
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.listing import Listing
from pipeline.scans.record import open_file
from pipeline.scans.walk import walk

KEY = Pseudonyms(b"a key for measuring")


def opened(scans: Path) -> float:
    began = time.perf_counter()
    for path, _ in walk(scans):
        open_file(path, scans, KEY)
    return time.perf_counter() - began


def open_s_of_photographs() -> float:
    """Seconds that one takes."""
    paths = sorted(path for path in (EXAMPLES / "photographs").rglob("*") if path.is_file())
    began = time.perf_counter()
    for path in paths:
        open_file(path, EXAMPLES, KEY)
    return (time.perf_counter() - began) / len(paths)


def shared(scans: Path, out: Path) -> dict[str, float]:
    """The same files as one process of many enters them, and settles."""
    out.mkdir()
    (out / "cases").mkdir()
    began = time.perf_counter()
    with closing(Crew(out / WORK)) as crew, closing(Desk(out, scans, KEY, crew)) as desk, closing(Listing(scans, scans, KEY)) as listing:
        listed = time.perf_counter()
        for number, file in enumerate(desk.files(listing.blocks())):
            name = f"{number:016d}_U_0_{number:016d}"
            desk.enter([Entry(file.token, file.stamp, f"{number:064d}", "", name, "done", "", "", 0.1, key=name)])
        desk.hands.close()
        entered = time.perf_counter()
        decide(desk.journal, out, lambda token: True)
        desk.journal.save(out / JOURNAL)
        desk.take_over()
        settled = time.perf_counter()
        export(desk.journal, out)  # a run without others writes these, too, so that they count for memory alone
        return {"list_s": listed - began, "leases_and_entries_s": entered - listed, "settle_s": settled - entered}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scans = Path(name) / "scans"
        write_tree(scans, given.files)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = shared(scans, Path(name) / "out")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        photograph = open_s_of_photographs()
        open_s, total = opened(scans), sum(found.values())
    told = {key: round(value, 2) for key, value in found.items()} | {
        "files": given.files,
        "open_s": round(open_s, 2),
        "ms_a_file": round(1e3 * total / given.files, 3),
        "of_opening_these": round(total / open_s, 3),
        "photograph_open_ms": round(1e3 * photograph, 1),
        "of_opening_photographs": round(total / given.files / photograph, 4),
        "memory_mib": round((peak - before) / 1024, 1),
        "load": [round(value, 1) for value in os.getloadavg()],
    }
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
