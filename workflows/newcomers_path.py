"""How much a newcomer reads who follows one run: the files of ocuseg that a training, a prediction and a report enter, in order.

    python workflows/newcomers_path.py [--write docs/architecture.md]

A phantom hospital is written and a small U-Net trained on it for one epoch, evaluated in no way, then used and reported on, each in a
process of its own under Python's profiler. A file counts when one of its functions runs; what merely runs at import does not.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pipeline"
BEGIN, END = "<!-- newcomers_path: begin -->", "<!-- newcomers_path: end -->"


def follow(out: Path, arguments: list[str]) -> None:
    """Run ``ocuseg ARGUMENTS`` here and write the files that it entered, in order of first entry, to ``out``."""
    seen: dict[str, None] = {}
    at_import: set[Any] = set()

    def enter(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event != "call" or code in at_import:
            return
        at_import.add(code)
        # A module's or a class's body runs at import; comprehensions and lambdas belong to a function that has been counted.
        if code.co_filename.startswith(str(PACKAGE)) and code.co_flags & 0x2 and not _while_importing(frame):
            seen.setdefault(str(Path(code.co_filename).relative_to(PACKAGE)))

    sys.argv = ["ocuseg", *arguments]
    sys.setprofile(enter)
    threading.setprofile(enter)
    try:
        runpy.run_module("pipeline", run_name="__main__")
    finally:
        sys.setprofile(None)
        out.write_text(json.dumps(list(seen)), encoding="utf-8")


def _while_importing(frame: FrameType | None) -> bool:
    """Whether this call is made while a module is being imported (decorators, field validators of class bodies)."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def paths(folder: Path) -> dict[str, list[str]]:
    """Command -> files in order of first entry."""
    hospital, runs, predictions = folder / "hospital", folder / "runs", folder / "predictions"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OCUSEG_SITE_KEY": str(folder / "site.key"), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-m", "pipeline", "phantom", str(hospital), "--patients", "4"], check=True, env=environment, capture_output=True
    )
    train = ["train", "phantom_little", "--root", str(hospital / "card"), "--out", str(runs), "--device", "cpu"]
    train += ["--set", "train.epochs=1", "--set", "train.validate_every=1"]

    def followed(*command: str) -> list[str]:
        out = folder / f"{command[0]}.json"
        done = subprocess.run([sys.executable, __file__, "--follow", str(out), *command], env=environment, capture_output=True, text=True)
        if done.returncode not in (0, 3):  # 3: a network of photographs leaves the phantom's OCT scans out
            sys.exit(f"ocuseg {command[0]} ended with {done.returncode}: {done.stderr or done.stdout}")
        return list(json.loads(out.read_text(encoding="utf-8")))

    found = {"train": followed(*train)}
    (bundle,) = runs.glob("*/bundle")
    found["predict"] = followed("predict", str(bundle), str(hospital / "scans"), "--out", str(predictions), "--device", "cpu")
    found["report"] = followed("report", str(predictions))
    return found


def lines(files: list[str]) -> int:
    return sum(len((PACKAGE / name).read_text(encoding="utf-8").splitlines()) for name in files)


def page(found: dict[str, list[str]]) -> str:
    """The measured part of docs/architecture.md."""
    out = ["| command | files entered | lines in them |", "|---|---|---|"]
    out += [f"| `ocuseg {name}` | {len(files)} | {lines(files):,} |" for name, files in found.items()]
    for name, files in found.items():
        rooms: dict[str, list[str]] = {}
        for file in files:
            room, _, rest = file.partition("/")
            rooms.setdefault(room if rest else "pipeline", []).append((rest or room).removesuffix(".py"))
        out += ["", f"`ocuseg {name}` enters, in this order:", ""]
        out += [f"{number}. `{room}`: {', '.join(names)}" for number, (room, names) in enumerate(rooms.items(), 1)]
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="file whose part between the two marks is replaced")
    parser.add_argument("--follow", type=Path, help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    if options.follow is not None:
        follow(options.follow, rest)
        return
    with tempfile.TemporaryDirectory() as folder:
        text = page(paths(Path(folder)))
    print(text)
    if options.write is not None:
        before, _, after = options.write.read_text(encoding="utf-8").partition(BEGIN)
        options.write.write_text(f"{before}{BEGIN}\n{text}\n{END}{after.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
