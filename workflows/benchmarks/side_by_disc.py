"""What the place of the optic disc tells, on photographs whose file names state the eye: which eye it is, and whether the fovea is in view.

    python workflows/benchmarks/side_by_disc.py [--data SHARED_DATA]

The disc is what the shipped model `disc` finds. CHASE_DB1's photographs are centred on the disc, so they should tell nothing; those of
both eyes of diabetic patients (dr_both_eyes) are centred on the macula. Each photograph is also mirrored, which makes it the other eye.
"fovea in view": called so with a chance of at least one half, in the whole picture, and after three fifths of the field were taken away
from its temporal side, with the place of the fovea in a photograph centred on it.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
from photographs import SHARED

from pipeline import load_bundle, open_scan, segment
from pipeline.bundles.shipped_models import find_bundle
from pipeline.inference.laterality import side_by_disc
from pipeline.quality.findings import fovea_chance
from pipeline.scans.eyes import laterality_from_name
from pipeline.scans.field_of_view import detect_field_of_view
from pipeline.types import LabelClass, LabelMap
from pipeline.types.scan import Laterality

DISC = LabelMap((LabelClass(1, "optic_disc", (0, 114, 178), role="optic_disc"),))
Mask = npt.NDArray[np.bool_]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED / "data", help="folder with chase_db1 and dr_both_eyes")
    data, bundle = parser.parse_args().data, load_bundle(find_bundle(Path("disc")))
    print("| photographs | images | eye told | told wrongly | mirrored: told wrongly | fovea in view | without three fifths |")
    print("|---|---|---|---|---|---|---|")
    for name in ("dr_both_eyes", "chase_db1"):
        ends: Counter[str] = Counter()
        for path in sorted((data / name / "images").glob("*.jpg")):
            stated = laterality_from_name(path.stem)[0]
            assert stated is not None, f"{path.name} does not state its eye"
            scan = open_scan(path)
            disc, field = segment(scan, bundle).mask("optic_disc"), detect_field_of_view(scan.pixels)
            in_view = [fovea_called_in_view(disc, own, stated) for own in (field, without_temporal_part(field, stated))]
            told, mirrored = side_by_disc(disc, field), side_by_disc(np.fliplr(disc), np.fliplr(field))
            ends.update(images=1, told=told is not None, wrong=told not in (None, stated), mirrored=mirrored not in (None, stated))
            ends.update(fovea=in_view[0], cut=in_view[1])
        print(f"| {name} | {' | '.join(str(ends[what]) for what in ('images', 'told', 'wrong', 'mirrored', 'fovea', 'cut'))} |", flush=True)


def fovea_called_in_view(disc: Mask, field: Mask, eye: Laterality) -> bool:
    chance = fovea_chance(DISC, disc[None], field, eye)
    return chance is not None and chance >= 0.5


def without_temporal_part(field: Mask, eye: Laterality) -> Mask:
    columns = np.flatnonzero(field.any(axis=0))
    left, right = columns[0], columns[-1]
    part = (right - left + 1) * 3 // 5
    cut = field.copy()
    cut[:, left : left + part] &= eye == "L"
    cut[:, right + 1 - part : right + 1] &= eye == "R"
    return cut


if __name__ == "__main__":
    main()
