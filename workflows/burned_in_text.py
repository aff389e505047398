"""How many burned-in texts `ocuseg deidentify` finds, and how many clean pictures it takes for written on.

Real pictures, in which texts are drawn: several sizes, fonts, colours and places, half of them then through JPEG. The pictures are split
by patient: the network of pipeline/deidentify/burned_in.py learned from one half, by which its thresholds were chosen, too; the other half
is reported.

    python workflows/burned_in_text.py --shared ../shared [--half choose] [--show] [--write docs/results/burned_in_text.md]
"""

from __future__ import annotations

import argparse
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from burned_in_drawing import FONTS, HELD_OUT, Picture, Style, glyphs, paste, through_jpeg
from PIL import Image

from pipeline.cli.console import script
from pipeline.deidentify.burned_in import Box, find_text
from pipeline.phantoms.oct import draw_oct
from pipeline.scans.open import open_scan
from pipeline.scans.raster import read_image

SETS = {
    "CHASE_DB1": "chase_db1/images/*",
    "HRF (half size)": "hrf_half/images/*",
    "DRIVE": "drive/images/*",
    "Drishti-GS": "drishti_gs_half_train/images/*",
    "IDRiD": "idrid_codras_boxes/images/*",
    "both eyes (448 px)": "dr_both_eyes/images/*",
    "OCT B-scans (Spectralis)": "spectralis_vol/*.vol",
    "OCT B-scans (phantoms)": "",
    "OCT angiography": "rossa_octa/*/image/*",
}
MOST = 120
TEXTS = (
    "Quagmire, Zebulon",
    "MEIER-4711",
    "1954-03-02",
    "ID 0048213",
    "O'Neill Siobhan 12/07/61",
    "DOB: 03.11.1948 F",
    "SMITH^JOHN",
    "Meier",
)
ON_BLACK = {
    "white": (255, 255, 255),
    "yellow": (255, 255, 0),
    "green": (0, 255, 0),
    "cyan": (0, 255, 255),
    "grey": (160, 160, 160),
    "red": (255, 40, 40),
}
ON_EYE = {"white": (255, 255, 255), "yellow": (255, 255, 0), "cyan": (0, 255, 255), "black": (0, 0, 0), "light grey": (220, 220, 220)}
COVERED = 0.97  # of the ink in boxes: what is blackened less could still be read in part, and counts as missed
TURNED = 0.15  # of the texts stand upright, along the picture's sides
JAGGED = 0.25  # of them are not smoothed
PLACES = ("top left", "top right", "bottom left", "bottom right", "inside")


@dataclass(frozen=True)
class Drawn:
    """A text in a picture: its place, colour and style, and its ink, (H, W) bool."""

    place: str
    colour: str
    style: Style
    ink: npt.NDArray[np.bool_]


def pictures(shared: Path, name: str, half: str) -> Iterator[tuple[str, Picture]]:
    """Pictures of one half; a patient's are in the same one. Of real B-scans one patient's three are for choosing, and one reports."""
    if not SETS[name]:
        for seed in range(30) if half == "report" else range(100, 130):
            for index, slice_ in enumerate(draw_oct((seed, seed, 0), "RL"[seed % 2], 3, 496, 512).volume):  # type: ignore[arg-type]
                yield f"{seed} {index}", slice_
        return
    paths = sorted((shared / "data").glob(SETS[name]))
    wanted = [
        path
        for path in paths
        if (half == "choose") == (path.stem.startswith("Willis") if path.suffix == ".vol" else zlib.crc32(_patient(path).encode()) % 2 == 0)
    ]
    for path in wanted[:: max(1, len(wanted) // MOST)]:
        if path.suffix != ".vol":
            yield path.stem, np.asarray(read_image(path), np.uint8)
        elif path.stem != "invalid":
            pixels = open_scan(path).pixels
            for index, slice_ in enumerate(pixels[0] if pixels.ndim == 4 else pixels):
                yield f"{path.stem} {index}", slice_


def _patient(path: Path) -> str:
    return re.sub(r"(_?[LR]|_[a-z]+)$", "", path.stem)


def drawn(picture: Picture, name: str) -> tuple[Picture, list[Drawn]]:
    """The picture with a text in each corner and one inside, or as many as have room."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    out = np.array(Image.fromarray(picture).convert("RGB"))
    found: list[Drawn] = []
    taken = np.zeros(picture.shape[:2], bool)
    for place in PLACES:
        largest = max(12, 0.06 * out.shape[0])
        height = round(10 * (largest / 10) ** random.random())
        turns = int(random.choice([1, 3])) if random.random() < TURNED else 0
        style = Style(str(random.choice((*FONTS, *HELD_OUT))), height, turns, random.random() >= JAGGED)
        mask = glyphs(str(random.choice(TEXTS)), style)
        margin = 4 + int(random.integers(0, 12))
        room = (out.shape[0] - mask.shape[0] - margin, out.shape[1] - mask.shape[1] - margin)
        if min(room) <= margin:
            continue
        y, x = (margin if "top" in place else room[0]), (margin if "left" in place else room[1])
        if place == "inside":
            y, x = (int(random.integers(space // 4, 3 * space // 4 + 1)) for space in room)
        where = np.s_[y : y + mask.shape[0], x : x + mask.shape[1]]
        if taken[max(0, y - height) : y + mask.shape[0] + height, max(0, x - height) : x + mask.shape[1] + height].any():
            continue
        taken[where] = True
        below = out[where].astype(int)
        colours = {n: c for n, c in (ON_BLACK if below.mean() < 25 else ON_EYE).items() if np.abs(np.median(below, (0, 1)) - c).max() >= 90}
        colour = str(random.choice(list(colours)))
        ink = np.zeros(picture.shape[:2], bool)
        ink[where] = paste(out, mask, (y, x), colours[colour])  # black letters that lie half on the black border are half there
        found.append(Drawn(place, colour, style, ink))
    if random.random() < 0.5:
        out = through_jpeg(out, int(random.integers(75, 96)))
    grey = picture.ndim == 2 and (out[..., 0] == out[..., 1]).all() and (out[..., 0] == out[..., 2]).all()
    return (out[..., 0] if grey else out), found


def covered(ink: npt.NDArray[np.bool_], boxes: list[Box]) -> float:
    """Part of a text's ink that lies in boxes."""
    black = np.zeros_like(ink)
    for box in boxes:
        black[box.top : box.bottom, box.left : box.right] = True
    return float((ink & black).sum() / max(int(ink.sum()), 1))


@dataclass(frozen=True)
class Found:
    """Counts of one set: pictures, those that are clean and were taken for written on, and of each text the part of its ink in boxes."""

    pictures: int
    alarms: int
    texts: list[tuple[Drawn, float]]


def measure(shared: Path, name: str, half: str, show: bool) -> Found:
    count, alarms, texts = 0, 0, []
    for key, picture in pictures(shared, name, half):
        count += 1
        clean = find_text(picture)
        alarms += bool(clean)
        written, expected = drawn(picture, f"{name} {key}")
        boxes = find_text(written)
        for one in expected:
            texts.append((one, covered(one.ink, boxes)))
            if show and texts[-1][1] < COVERED:
                print("missed", name, key, one.place, one.colour, one.style, f"{texts[-1][1]:.2f}")
        if show and clean:
            print("false alarm", name, key, clean[:3])
    return Found(count, alarms, texts)


def recall(texts: list[tuple[Drawn, float]]) -> str:
    """How many were found, of how many, and in parts of one with a 95 % interval (Wilson)."""
    count, found = len(texts), sum(part >= COVERED for _, part in texts)
    if not count:
        return "-"
    share, z = found / count, 1.96
    middle, half = share + z * z / (2 * count), z * ((share * (1 - share) + z * z / (4 * count)) / count) ** 0.5
    low, high = (middle - half) / (1 + z * z / count), (middle + half) / (1 + z * z / count)
    return f"{found} of {count}: {share:.3f} ({low:.3f} to {high:.3f})"


def tables(found: dict[str, Found]) -> list[str]:
    lines = ["| pictures | number | taken for written on | texts found |", "|---|---|---|---|"]
    lines += [f"| {name} | {one.pictures} | {one.alarms} | {recall(one.texts)} |" for name, one in found.items()]
    photographs = {name: one for name, one in found.items() if not name.startswith("OCT")}
    for title, sets in (("photographs", photographs), ("OCT", {name: one for name, one in found.items() if name not in photographs})):
        if sets:
            texts = [text for one in sets.values() for text in one.texts]
            many, alarms = sum(one.pictures for one in sets.values()), sum(one.alarms for one in sets.values())
            lines.append(f"| **all {title}** | {many} | {alarms} ({alarms / many:.1%}) | {recall(texts)} |")
    kinds: dict[str, tuple[list[tuple[Drawn, float]], list[tuple[Drawn, float]]]] = {}
    for name, one in found.items():
        for text in one.texts:
            for kind in _kinds(text[0]):
                kinds.setdefault(kind, ([], []))[name not in photographs].append(text)
    lines += ["", "By what was drawn:", "", "| | photographs | OCT |", "|---|---|---|"]
    lines += [f"| {kind} | {recall(both[0])} | {recall(both[1])} |" for kind, both in sorted(kinds.items())]
    every = [part for one in found.values() for _, part in one.texts if part >= COVERED]
    left = sum(part < 1 for part in every)
    lines += ["", f"Of {len(every)} texts found, {left} keep some ink; on average {1 - float(np.mean(every)):.3%} of it is left."]
    return lines


def _kinds(text: Drawn) -> list[str]:
    style = text.style
    size = next(said for most, said in ((13, "10 to 13"), (22, "14 to 22"), (999, "23 and more")) if style.height <= most)
    return [
        "inside the field" if text.place == "inside" else "in a corner",
        text.colour,
        f"letters {size} px high",
        f"{style.font}{' (not seen in training)' if style.font in HELD_OUT else ''}",
        "turned by a quarter" if style.turns else "upright",
        "smoothed" if style.smooth else "not smoothed",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--half", choices=("choose", "report"), default="report")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--show", action="store_true", help="name each text that was missed and each false alarm")
    parser.add_argument("--write", type=Path, help="put the tables into this file, between its markers")
    given = parser.parse_args()
    found = {name: measure(given.shared, name, given.half, given.show) for name in given.sets.split(",")}
    text = "\n".join(tables(found))
    print(text)
    if given.write:
        page = given.write.read_text(encoding="utf-8")
        written = re.sub(r"(<!-- tables -->\n).*(<!-- end -->)", lambda m: f"{m[1]}{text}\n{m[2]}", page, flags=re.DOTALL)
        given.write.write_text(written, encoding="utf-8")


if __name__ == "__main__":
    script(main)
