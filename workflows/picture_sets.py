"""Lay out the photographs that networks of whole pictures learn from: eye_side, picture_kind and quality.

    python workflows/picture_sets.py eye_side OUT --chase CHASE --hrf HRF --idrid IDRID
    python workflows/picture_sets.py picture_kind OUT --fundus CHASE --fundus HRF --fundus IDRID --octa ROSSA --oct SPECTRALIS --other DIR
    python workflows/picture_sets.py quality OUT --chase CHASE --hrf HRF --idrid IDRID

The folders are as the cards of these names in data_cards/ describe them; OUT is then the root of the card eye_side, picture_kind or
quality. All sets named here have open licences (CC BY 4.0, MIT), so that what is trained on them may be passed on.

The side of HRF's and IDRiD's eyes is not in their labels. The optic disc lies on the nasal side, which is the right one of a right eye, so
that its place beside the field's centre tells: from IDRiD's boxes, and for HRF from what the shipped model `disc` finds. That is a weak
label: pictures whose disc lies within a tenth of the field's diameter of its centre are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline import segment
from pipeline.bundles.bundle import Bundle, load_bundle
from pipeline.cards.card import CardCase, load_card, read_scan
from pipeline.cards.find_cases import find_cases
from pipeline.cards.targets import read_truth
from pipeline.cli.console import script
from pipeline.phantoms.degrade import DEGRADATIONS
from pipeline.phantoms.hospital import write_hospital
from pipeline.scans.display import plane_in_colour
from pipeline.scans.field_of_view import detect_field_of_view, field_diameter
from pipeline.scans.open import open_scan
from pipeline.types import Scan

SIDE = 640
"""Longer side in pixels of the copies: twice what the networks see."""
LEAST_ASIDE = 0.1
"""Of the field's diameter: a disc nearer to its centre says nothing about the side."""
GRADES = {"good": (0.0, 0.12), "usable": (0.25, 0.5), "poor": (0.7, 1.0)}
"""Quality by the amount of the strongest degradation; what lies between is not drawn, so that grades differ."""
DRAWN = 60
"""Artificial B-scans and photographs of picture_kind."""
NO_SCAN = ("mask", "label", "manual", "softmap", "expert")
"""In names of files and folders: what people have drawn."""
EYES_AMONG_SAMPLES = ("retina", "microaneurysms")
"""Photographs of eyes among the sample pictures of scikit-image."""
Picture = npt.NDArray[np.uint8]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="SET")
    for name in ("eye_side", "quality"):
        own = kinds.add_parser(name)
        for card in ("chase", "hrf", "idrid"):
            own.add_argument(f"--{card}", type=Path, help=f"folder of the set, as its card in data_cards/ says ({card})")
    pictures = kinds.add_parser("picture_kind")
    for kind in ("fundus", "oct", "octa", "other"):
        pictures.add_argument(f"--{kind}", type=Path, action="append", default=[], help=f"folder of which every readable scan is {kind}")
    pictures.add_argument("--drawn", type=int, default=DRAWN, help="artificial photographs and B-scans, of each so many at most")
    for own in kinds.choices.values():
        own.add_argument("out", type=Path, help="new folder for the pictures")
    options = parser.parse_args()
    made = {"eye_side": eye_side, "picture_kind": picture_kind, "quality": quality}[options.kind](options)
    print(f"{made} pictures in {options.out}")


def eye_side(options: argparse.Namespace) -> int:
    """images/SET-PATIENT_EYE.jpg: by the file's name of CHASE_DB1, by the place of the disc of the others."""
    made = 0
    for name, case, scan in photographs(options):
        side = case.key.eye if case.key.eye != "U" else side_by_disc(name, case, scan)
        if side is not None:
            save(picture_of(scan), options.out / "images" / f"{name}-{case.key.patient}_{side}.jpg")
            made += 1
    return made


def photographs(options: argparse.Namespace) -> Iterator[tuple[str, CardCase, Scan]]:
    """(set, case, scan) of every photograph of the sets that were named."""
    for name, card_name in (("chase", "chase_db1"), ("hrf", "hrf"), ("idrid", "idrid_codras")):
        if (root := getattr(options, name)) is not None:
            card = load_card(card_name)
            for case in find_cases(card, root):
                yield name, case, read_scan(card, case)


def side_by_disc(name: str, case: CardCase, scan: Scan) -> str | None:
    """R or L, or None where the disc is not found or lies too near to the field's centre."""
    centre = disc_in_boxes(case, scan) if name == "idrid" else disc_found(scan)
    if centre is None:
        return None
    field = detect_field_of_view(scan.pixels)
    columns = np.flatnonzero(field.any(axis=0))
    aside = (centre - (columns[0] + columns[-1] + 1) / 2) / field_diameter(field)
    return None if abs(aside) < LEAST_ASIDE else "R" if aside > 0 else "L"


def disc_in_boxes(case: CardCase, scan: Scan) -> float | None:
    """Column of the middle of the one box of a disc."""
    card = load_card("idrid_codras")
    objects = (read_truth(card, case, objects=True, scan=scan).objects or ())[0]
    disc = card.label_map.roles.index("optic_disc") + 1
    boxes = objects.boxes[objects.labels == disc]
    return float((boxes[0, 0] + boxes[0, 2]) / 2) if len(boxes) == 1 else None


def disc_found(scan: Scan, known: dict[str, Bundle] = {}) -> float | None:  # noqa: B006 (the bundle is loaded once)
    """Column of the middle of what the shipped model finds."""
    if "disc" not in known:
        known["disc"] = load_bundle("shipped:disc")
    masks = segment(scan, [known["disc"]]).masks
    columns = np.flatnonzero(masks[0].any(axis=0)) if masks is not None else np.zeros(0)
    return float(columns.mean()) if len(columns) else None


def picture_kind(options: argparse.Namespace) -> int:
    """KIND/SET-SCAN_NUMBER.jpg of every scan below the folders, and artificial photographs and B-scans, which have faults of their own."""
    made = 0
    for kind in ("fundus", "oct", "octa", "other"):
        for root in getattr(options, kind):
            source = (root.parent if root.name == "images" else root).name.replace("_", "-")
            for number, path in enumerate(sorted(p for p in root.rglob("*") if p.suffix.lower() in (".jpg", ".png", ".tif", ".vol"))):
                below = path.relative_to(root).parts
                if any(word in part.lower() for part in below for word in NO_SCAN) or "_bscan" in path.name:
                    continue
                if kind == "other" and path.stem in EYES_AMONG_SAMPLES:
                    continue
                try:
                    scan = open_scan(path)
                except Exception as error:
                    print(f"{path.name}: left out ({error})")
                    continue
                for plane in range(0, scan.geometry.slices, max(1, scan.geometry.slices // 8)):
                    place = options.out / kind / f"{source}-{number:04d}_{plane:03d}.jpg"
                    save(plane_in_colour(scan, plane), place)
                    made += 1
    return made + artificial(options.out, options.drawn)


def artificial(out: Path, most: int) -> int:
    """Phantom photographs and B-scans under their kinds, ``most`` of each."""
    if not most:
        return 0
    home = out.with_name(out.name + ".phantoms")
    write_hospital(home, max(1, most // 4), 5, fundus_shape=(400, 448), oct_shape=(6, 256, 320))
    made = 0
    for kind, pattern in (("fundus", "card/images/*.png"), ("oct", "card/oct/*")):
        for path in sorted(home.glob(pattern))[:most]:
            scan = open_scan(path)
            name = path.name.partition(".")[0].replace("_", "-")
            save(plane_in_colour(scan, scan.geometry.slices // 2), out / kind / f"phantom-{kind}-{name}_000.jpg")
            made += 1
    return made


def quality(options: argparse.Namespace) -> int:
    """GRADE/SET-PATIENT_IMAGE-GRADE-WHAT.jpg: each photograph once in each grade, spoilt by two things; the stronger one sets the grade."""
    random = np.random.default_rng(0)
    made = 0
    for name, case, scan in photographs(options):
        for grade, (low, high) in GRADES.items():
            strong, weak = random.choice(list(DEGRADATIONS), size=2, replace=False)
            amount = random.uniform(low, high)
            picture = shrunk(picture_of(scan))
            picture = DEGRADATIONS[weak](picture, random.uniform(0, amount / 2), random)
            picture = DEGRADATIONS[strong](picture, amount, random)
            save(picture, options.out / grade / f"{name}-{case.key.patient}_{case.key.image}-{grade}-{strong}.jpg")
            made += 1
    return made


def picture_of(scan: Scan) -> Picture:
    return plane_in_colour(scan, 0)


def shrunk(picture: Picture) -> Picture:
    """At most SIDE pixels wide and high."""
    scale = SIDE / max(picture.shape[:2])
    if scale >= 1:
        return picture
    size = round(picture.shape[1] * scale), round(picture.shape[0] * scale)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def save(picture: Picture, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(shrunk(picture)).save(place, quality=92)


if __name__ == "__main__":
    script(main)
