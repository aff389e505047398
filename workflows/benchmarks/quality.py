"""How photographs are graded: as they are, spoilt by known amounts, and pictures that are none.

    python workflows/benchmarks/quality.py [--data SHARED_DATA] [--every N] [--write docs/results/quality.md]

The scales in pipeline/quality/grade.py were chosen on the part "seen": of each set the photographs whose place in order of their names is
a multiple of STEP. The tables are of the rest. Of the vessels that readers drew, the limits of pipeline/quality/findings.py are tested too.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
from photographs import SHARED
from PIL import Image

from pipeline.phantoms.degrade import DEGRADATIONS
from pipeline.phantoms.others import OTHERS
from pipeline.quality.findings import photograph_flags
from pipeline.quality.grade import photograph_quality
from pipeline.quality.view import view_of
from pipeline.types import LabelClass, LabelMap
from pipeline.types.assessment import QualityGrade, QualityRecord

SETS = {"chase_db1": 2, "hrf_half": 3, "drive": 3, "idrid_codras_boxes": 14, "drishti_gs_half_train": 4, "dr_both_eyes": 14}
"""Of each set, STEP: the photographs that were looked at while scales were chosen."""
DISC, VESSEL = "SCT:81016008", "SCT:59820001"
READERS = (
    ("chase_db1", "masks_1stHO", VESSEL),
    ("drive", "masks", VESSEL),
    ("hrf_half", "masks", VESSEL),
    ("drishti_gs_half_train", "softmap_od", DISC),
)
"""Sets, the folder of masks, and the code of what was drawn."""
AMOUNTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
GRADES: tuple[QualityGrade, ...] = get_args(QualityGrade)
SPOILT_SIDE = 700
"""The longer side, px, of the photographs that are spoilt: what is drawn goes with the picture's size, and so does what is measured."""
MARKER = "<!-- measured: "

Picture = npt.NDArray[np.uint8]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--every", type=int, default=1, help="Of the photographs that were not seen, take one in so many.")
    parser.add_argument("--spoilt", type=int, default=4, help="Photographs of each set that are spoilt.")
    parser.add_argument("--write", type=Path, help="Replace the measured part of this file.")
    given = parser.parse_args()
    lines = [*clean(given.data, given.every), "", *spoilt(given.data, given.spoilt), "", *others(), "", *readers(given.data)]
    if given.write is not None:
        before = given.write.read_text(encoding="utf-8").split(MARKER)[0]
        given.write.write_text(before + MARKER + "workflows/benchmarks/quality.py -->\n\n" + "\n".join(lines) + "\n", encoding="utf-8")


def clean(data: Path, every: int) -> Iterator[str]:
    """Each set's grades, and the time of one."""
    yield from said("| photographs | number | good | usable | poor | not measurable | poor or worse | ms, median |", "|" + "---|" * 8)
    for name in SETS:
        counts: Counter[str] = Counter()
        seconds = []
        for path in unseen(data / name, SETS[name])[::every]:
            pixels = read(path)
            began = time.process_time()
            counts[graded(pixels).grade] += 1
            seconds.append(time.process_time() - began)
        total = sum(counts.values())
        alarms = (counts["poor"] + counts["not_measurable"]) / max(total, 1)
        cells = " | ".join(str(counts[grade]) for grade in GRADES)
        yield from said(f"| {name} | {total} | {cells} | {alarms:.1%} | {1000 * np.median(seconds):.0f} |")


def spoilt(data: Path, number: int) -> Iterator[str]:
    """By what spoils, and amount: the mean of the worst score, and which grades; and whether each picture's score only falls."""
    yield from said("| spoilt by | amount | worst score, mean | good | usable | poor | not measurable |", "|" + "---|" * 7)
    pictures = [small(path) for name in SETS for path in spread(unseen(data / name, SETS[name]), number)]
    steps = {}
    for what, spoil in DEGRADATIONS.items():
        worst, seen = [], []
        for amount in AMOUNTS:
            made = [spoil(picture, amount, np.random.default_rng(place)) for place, picture in enumerate(pictures)]
            records = [graded(picture) for picture in made]
            worst.append([min(record.scores.values()) for record in records])
            seen.append([GRADES.index(record.grade) for record in records])
            counts = Counter(record.grade for record in records)
            cells = " | ".join(str(counts[grade]) for grade in GRADES)
            yield from said(f"| {what} | {amount:.1f} | {np.mean(worst[-1]):.2f} | {cells} |")
        up = np.diff(np.array(seen), axis=0)
        steps[what] = (int((up < 0).sum()), up.size, float(np.diff(np.array(worst), axis=0).max()))
    yield from said("", "| spoilt by | steps of 0.2 | in which the grade rose | largest rise of the worst score |", "|---|---|---|---|")
    for what, (rose, total, most) in steps.items():
        yield from said(f"| {what} | {total} | {rose} | {max(most, 0):.3f} |")


def others() -> Iterator[str]:
    """Pictures that show no retina."""
    import skimage

    yield from said("| picture | number | not measurable | poor | usable or good |", "|---|---|---|---|---|")
    for name, draw in OTHERS.items():
        made = [draw(*shape, np.random.default_rng(seed)) for seed, shape in enumerate([(600, 800), (1000, 700), (900, 900), (480, 640)])]
        yield from said(kinds_row(f"drawn: {name}", made))
    folder = Path(skimage.__file__).parent / "data"
    photographs = [path for path in sorted(folder.iterdir()) if path.suffix in (".png", ".jpg") and path.stem != "retina"]
    yield from said(kinds_row("sample pictures of scikit-image but its retina", [read(path) for path in photographs]))
    yield from said(kinds_row("the retina among them (a fundus photograph)", [read(folder / "retina.jpg")]))


def kinds_row(name: str, pictures: list[Picture]) -> str:
    counts = Counter(graded(picture).grade for picture in pictures)
    fine = counts["usable"] + counts["good"]
    return f"| {name} | {len(pictures)} | {counts['not_measurable']} | {counts['poor']} | {fine} |"


def readers(data: Path) -> Iterator[str]:
    """Readers' own masks of vessels and discs, of which none should be flagged."""
    yield from said("| drawn by readers | masks | flagged |", "|---|---|---|")
    for name, masks, code in READERS:
        label_map = LabelMap((LabelClass(1, "class", (0, 114, 178), code),))
        flagged: list[str] = []
        paths = sorted(path for path in (data / name / masks).iterdir() if path.suffix in (".png", ".gif", ".tif"))
        for path in paths:
            mask = np.asarray(Image.open(path).convert("L")) > 127
            begins = path.stem.removesuffix("manual1")
            (image,) = [one for one in (data / name / "images").iterdir() if one.stem.startswith(begins)]
            flagged += [flag.code for flag in photograph_flags(label_map, mask[None], view_of(np.moveaxis(read(image), -1, 0)).valid)]
        what = "vessels" if code == VESSEL else "discs"
        yield from said(f"| {what}, {name} | {len(paths)} | {len(flagged)} {', '.join(sorted(set(flagged)))} |")


def said(*lines: str) -> Iterator[str]:
    for line in lines:
        print(line, flush=True)
        yield line


def unseen(folder: Path, step: int) -> list[Path]:
    paths = sorted((folder / "images").iterdir())
    return [path for place, path in enumerate(paths) if place % step]


def spread(paths: list[Path], number: int) -> list[Path]:
    return [paths[int(place)] for place in np.linspace(0, len(paths) - 1, number).round()]


def read(path: Path) -> Picture:
    return np.asarray(Image.open(path).convert("RGB"))


def small(path: Path) -> Picture:
    picture = Image.open(path).convert("RGB")
    scale = SPOILT_SIDE / max(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    return np.asarray(picture.resize(size, Image.Resampling.BOX) if scale < 1 else picture)


def graded(picture: Picture) -> QualityRecord:
    return photograph_quality(view_of(np.moveaxis(picture, -1, 0)))


if __name__ == "__main__":
    main()
