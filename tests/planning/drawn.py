"""Small data sets of known facts: thin lines, a round disc, boxes, numbered objects, layers of OCT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.scans.nifti import write_nifti
from pipeline.scans.raster import write_png
from pipeline.types import Geometry

FIELD_PX = 180
LINE_PX = 4
DISC_PX = 110
HEAD = """\
---
name: {name}
title: Drawn by a test
modality: {modality}
identifiers: public
licence: CC0
citation: none
source: drawn by a test
how_to_get: drawn by a test
"""
Y, X = np.mgrid[:200, :232]
FIELD = (Y - 99.5) ** 2 + (X - 115.5) ** 2 <= (FIELD_PX / 2) ** 2


def lines(number: int) -> npt.NDArray[np.bool_]:
    """A net of straight lines, :data:`LINE_PX` wide, over the whole picture."""
    return np.asarray(((Y + 3 * number) % 40 < LINE_PX) | ((X + 5 * number) % 40 < LINE_PX))


def disc(number: int) -> npt.NDArray[np.bool_]:
    y, x = np.random.default_rng(number).integers(-25, 25, 2)
    return np.asarray((Y - 99 - y) ** 2 + (X - 115 - x) ** 2 <= (DISC_PX / 2) ** 2)


def photograph(mask: npt.NDArray[np.bool_], number: int) -> npt.NDArray[np.uint8]:
    """Brighter inside the mask, on a ground of patches that no other picture has: near copies would be taken out of training."""
    rng = np.random.default_rng(number)
    ground = np.kron(rng.normal(100, 15, (5, 6)), np.ones((40, 40)))[: mask.shape[0], : mask.shape[1], None]
    grey = ground + rng.normal(0, 8, (*mask.shape, 3)) + 70 * mask[..., None]
    return np.asarray((grey * FIELD[..., None]).clip(0, 255), dtype=np.uint8)


def spots(number: int) -> npt.NDArray[np.int64]:
    """Numbered round objects, 12 pixels across, three in an image."""
    out = np.zeros(Y.shape, dtype=np.int64)
    for index in range(3):
        out[(Y - 70 - 30 * index) ** 2 + (X - 90 - 20 * index - number) ** 2 <= 36] = index + 1
    return out


def thin(root: Path) -> None:
    """Lines in en-face angiography: grey, and nothing dark around it."""
    for number in range(8):
        mask = lines(number)
        grey = np.random.default_rng(number).normal(80, 8, mask.shape) + 90 * mask
        _write(root, number, grey.clip(0, 255).astype(np.uint8), mask.astype(np.uint8) * 255)
    _card(root, "octa", 'labels: [{kind: values, file: "labels/{patient}.png", values: {255: line}}]', "line")


def round_(root: Path, first: int = 0) -> None:
    """``first``: number of the first picture, so that another set has other ones."""
    for number in range(8):
        mask = disc(first + number) & FIELD
        _write(root, number, photograph(mask, first + number), mask.astype(np.uint8) * 255)
    _card(root, "fundus", 'labels: [{kind: values, file: "labels/{patient}.png", values: {255: disc}}]', "disc")


def boxes(root: Path) -> None:
    for number in range(8):
        objects = spots(number)
        _write(root, number, photograph(objects > 0, number))
        (root / "labels").mkdir(exist_ok=True)
        rows = []
        for index in range(1, 4):
            y, x = np.nonzero(objects == index)
            sides = (np.ptp(x) + 1) / 232, (np.ptp(y) + 1) / 200
            rows.append(f"0 {(x.mean() + 0.5) / 232} {(y.mean() + 0.5) / 200} {sides[0]} {sides[1]}")
        (root / "labels" / f"P{number}.txt").write_text("\n".join(rows), encoding="utf-8")
    _card(root, "fundus", 'labels: [{kind: yolo_boxes, file: "labels/{patient}.txt", values: {0: spot}}]', "spot")


def objects(root: Path) -> None:
    for number in range(8):
        numbered = spots(number)
        _write(root, number, photograph(numbered > 0, number), numbered.astype(np.uint8))
    _card(root, "fundus", 'labels: [{kind: instances, file: "labels/{patient}.png", means: spot}]', "spot")


def oct_(root: Path) -> None:
    """Two layers in volumes of three B-scans, of four patients."""
    rows, columns = 64, 96
    y = np.mgrid[:rows, :columns][0]
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for number in range(4):
        top = 20 + number + np.arange(3)[:, None, None]
        labels = ((y >= top) & (y < top + 8)).astype(np.uint8) + 2 * ((y >= top + 8) & (y < top + 18)).astype(np.uint8)
        volume = (np.random.default_rng(number).normal(40, 6, labels.shape) + 60 * labels).clip(0, 255).astype(np.uint8)
        frame = Geometry(labels.shape, (0.2, 0.004, 0.01), "tag", np.diag([0.01, 0.004, 0.2, 1.0]))
        write_nifti(root / "images" / f"P{number}.nii.gz", volume, frame)
        write_nifti(root / "labels" / f"P{number}.nii.gz", labels, frame)
    text = 'layers: [upper, lower]\nlabels: [{kind: values, file: "labels/{patient}.nii.gz", values: {0: background, 1: upper, 2: lower}}]'
    _card(root, "oct", text, "upper", "lower", ending="nii.gz")


SETS: dict[str, Callable[[Path], None]] = {"thin": thin, "round": round_, "boxes": boxes, "objects": objects, "oct": oct_}


def _write(root: Path, number: int, image: npt.NDArray[np.uint8], label: npt.NDArray[np.uint8] | None = None) -> None:
    for folder, picture in (("images", image), ("labels", label)):
        if picture is not None:
            (root / folder).mkdir(parents=True, exist_ok=True)
            write_png(root / folder / f"P{number}.png", picture)


def _card(root: Path, modality: str, more: str, *classes: str, ending: str = "png") -> None:
    names = ", ".join(f"{{name: {name}, colour: [213, 94, {10 * number}]}}" for number, name in enumerate(classes))
    images = f'images: {{file: "images/{{patient}}.{ending}"}}'
    text = f"{HEAD.format(name=root.name, modality=modality)}classes: [{names}]\n{images}\n{more}\n---\n"
    (root / "card.md").write_text(text, encoding="utf-8")
