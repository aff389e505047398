"""How often the place of the optic disc tells the eye, and tells it wrongly, on photographs whose file names state it.

    python workflows/benchmarks/side_by_disc.py [--data SHARED_DATA]

The disc is what the shipped model `disc` finds. CHASE_DB1's photographs are centred on the disc, so they should tell nothing; those of
both eyes of diabetic patients (dr_both_eyes) are centred on the macula. Each photograph is also mirrored, which makes it the other eye.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from photographs import SHARED

from pipeline import load_bundle, open_scan, segment
from pipeline.bundles.shipped_models import find_bundle
from pipeline.inference.laterality import side_by_disc
from pipeline.scans.eyes import laterality_from_name
from pipeline.scans.field_of_view import detect_field_of_view


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED / "data", help="folder with chase_db1 and dr_both_eyes")
    data, bundle = parser.parse_args().data, load_bundle(find_bundle(Path("disc")))
    print("| photographs | images | eye told | told wrongly | mirrored: told wrongly |\n|---|---|---|---|---|")
    for name in ("dr_both_eyes", "chase_db1"):
        ends: Counter[str] = Counter()
        for path in sorted((data / name / "images").glob("*.jpg")):
            stated = laterality_from_name(path.stem)[0]
            scan = open_scan(path)
            disc, field = segment(scan, bundle).mask("optic_disc"), detect_field_of_view(scan.pixels)
            told, mirrored = side_by_disc(disc, field), side_by_disc(np.fliplr(disc), np.fliplr(field))
            ends.update(images=1, told=told is not None, wrong=told not in (None, stated), mirrored=mirrored not in (None, stated))
        print(f"| {name} | {ends['images']} | {ends['told']} | {ends['wrong']} | {ends['mirrored']} |", flush=True)


if __name__ == "__main__":
    main()
