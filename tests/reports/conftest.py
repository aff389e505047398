"""Prediction folders as `ocuseg predict` leaves them, written by hand from the layout's description."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.scans.raster import write_png
from pipeline.types import LabelClass, LabelMap

DISC_CUP = LabelMap((LabelClass(1, "disc", (240, 228, 66)), LabelClass(2, "cup", (86, 180, 233))), overlapping=True)
LESIONS = LabelMap(
    (LabelClass(1, "disc", (240, 228, 66)), LabelClass(2, "exudate", (86, 180, 233)), LabelClass(3, "haemorrhage", (230, 159, 0))),
    overlapping=True,
)
SHA = "ab" * 32


class Out:
    """One prediction folder under construction."""

    def __init__(self, path: Path, label_map: LabelMap = DISC_CUP) -> None:
        self.path = path
        self.label_map = label_map
        self.ledger: list[tuple[Any, ...]] = []
        (path / "cases").mkdir(parents=True)
        self.write_run()

    def detection(self) -> Out:
        """The folder as a detector's."""
        self.write_run(task="detection")
        return self

    def write_run(self, **changes: Any) -> None:
        record = {
            "bundle_id": "0123456789ab",
            "bundle_name": "disc_little",
            "ocuseg": "0.1.0",
            "started": "2026-01-02T03:04:05+00:00",
            "classes": self.label_map.to_json(),
            "thresholds": dict.fromkeys(self.label_map.names, 0.5),
            "metrics": {"validation": {"dice": 0.9123}},
            "card_sha256": "cd" * 32,
        }
        (self.path / "run.json").write_text(json.dumps(record | changes), encoding="utf-8")

    def add(
        self, name: str, mask: np.ndarray, image: np.ndarray | None = None, geometry: dict[str, Any] | None = None, **changes: Any
    ) -> Path:
        """One finished case; ``mask`` (H, W) or (D, H, W) in the label map's encoding."""
        folder = self.path / "cases" / name
        folder.mkdir()
        masks = mask if mask.ndim == 3 else mask[None]
        images = np.full(masks.shape, 60, np.uint8) if image is None else image if mask.ndim == 3 else image[None]
        planes = []
        for index, (one_mask, one_image) in enumerate(zip(masks, images, strict=True)):
            plane = {"index": index, "image": f"image_{index:03d}.png", "mask": f"mask_{index:03d}.png"}
            write_png(folder / str(plane["image"]), one_image)
            write_png(folder / str(plane["mask"]), one_mask.astype(np.uint8))
            planes.append(plane)
        (folder / "mask.nii.gz").touch()
        layers = self.label_map.layers(masks.astype(np.int64))
        record = {
            "case": name,
            "modality": "fundus",
            "geometry": {
                "shape": list(mask.shape),
                "spacing_mm": None,
                "spacing_source": "unknown",
                "laterality": None,
                "laterality_source": "unknown",
            }
            | (geometry or {}),
            "sha256": SHA,
            "bundle_id": "0123456789ab",
            "warnings": [],
            "seconds": 1.25,
            "classes": {
                cls: {"pixels": int(layer.sum()), "slices": int(layer.any(axis=(1, 2)).sum())}
                for cls, layer in zip(self.label_map.names, layers, strict=True)
            },
            "planes": planes,
        } | changes
        (folder / "case.json").write_text(json.dumps(record), encoding="utf-8")
        self.ledger.append((name, f"token{len(self.ledger)}", SHA, "done", "", "", 1.25))
        self.write_ledger()
        return folder

    def add_objects(
        self,
        name: str,
        shape: tuple[int, ...],
        objects: list[dict[str, Any]],
        *,
        has_masks: bool = False,
        thresholds: dict[str, float] | None = None,
        **changes: Any,
    ) -> Path:
        """One case of a detector; an object is class, score, box, plane (0), size_mm (None) and, with masks, a bool mask (H, W)."""
        limits = dict.fromkeys(self.label_map.names, 0.5) | (thresholds or {})
        ordered = sorted(objects, key=lambda one: -one["score"])
        planes = np.zeros((1, *shape) if len(shape) == 2 else shape, np.uint8)
        ids = {(at, cls.index): np.zeros(planes.shape[1:], np.uint16) for at in range(len(planes)) for cls in self.label_map.classes}
        listed = []
        for number, one in enumerate(ordered, start=1):
            one = {"plane": 0, "size_mm": None} | one
            mask = one.pop("mask", None)
            listed.append(one | {"id": number, "area_px": None if mask is None else int(mask.sum())})
            if mask is not None and one["score"] >= limits[one["class"]]:
                index = self.label_map.names.index(one["class"]) + 1
                free = ids[one["plane"], index]
                free[mask & (free == 0)] = number
                planes[one["plane"]][mask] |= 1 << (index - 1)
        above = [one["class"] for one in listed if one["score"] >= limits[one["class"]]]
        layers = self.label_map.layers(planes.astype(np.int64))
        classes = {
            cls: {"pixels": int(layer.sum()), "slices": int(layer.any(axis=(1, 2)).sum()), "objects": above.count(cls)}
            for cls, layer in zip(self.label_map.names, layers, strict=True)
        }
        folder = self.add(name, planes.reshape(shape), **({"classes": classes} | changes))
        record = {"has_masks": has_masks, "thresholds": limits, "objects": listed}
        (folder / "objects.json").write_text(json.dumps(record), encoding="utf-8")
        if has_masks:
            for (at, index), picture in ids.items():
                write_png(folder / f"instances_{at:03d}_{index}.png", picture)
        return folder

    def reject(self, status: str, code: str, reason: str, case: str = "") -> None:
        self.ledger.append((case, f"token{len(self.ledger)}", SHA, status, code, reason, 0.01))
        self.write_ledger()

    def write_ledger(self) -> None:
        with (self.path / "ledger.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["case", "token", "sha256", "status", "code", "reason", "seconds"])
            rows.writerows(self.ledger)


def spot(shape: tuple[int, int], x: float, y: float, radius: float) -> dict[str, Any]:
    """Box and mask of a round object in an image of ``shape``."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    mask = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
    return {"box": [x - radius, y - radius, x + radius + 1, y + radius + 1], "mask": mask}


@pytest.fixture
def make_out(tmp_path: Path) -> Callable[..., Out]:
    return lambda label_map=DISC_CUP: Out(tmp_path / "out", label_map)


def disc_and_cup(rows: int = 120, columns: int = 160) -> np.ndarray:
    """A disc with a cup in it, right of the centre: bit field (rows, columns)."""
    y, x = np.mgrid[:rows, :columns]
    square = (y - rows / 2) ** 2 + (x - 0.65 * columns) ** 2
    return ((square < (0.2 * rows) ** 2).astype(np.uint8) | ((square < (0.1 * rows) ** 2).astype(np.uint8) << 1)).astype(np.uint8)


def vcdr(value: float | None, **changes: Any) -> dict[str, Any]:
    """A measure of disc and cup, as case.json holds it."""
    known = (
        {"low": value - 0.04, "high": value + 0.05, "interval": "over two flips"} if value is not None else {"undefined": "there is no cup"}
    )
    record = {
        "key": "vcdr",
        "title": "vertical cup-to-disc ratio",
        "value": value,
        "unit": "1",
        "definition": "rows of the cup / rows of the disc",
    }
    return record | {"source": "Jonas 1999", "classes": ["disc", "cup"]} | known | changes
