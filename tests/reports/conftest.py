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
SHA = "ab" * 32


class Out:
    """One prediction folder under construction."""

    def __init__(self, path: Path, label_map: LabelMap = DISC_CUP) -> None:
        self.path = path
        self.label_map = label_map
        self.ledger: list[tuple[Any, ...]] = []
        (path / "cases").mkdir(parents=True)
        self.write_run()

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

    def reject(self, status: str, code: str, reason: str, case: str = "") -> None:
        self.ledger.append((case, f"token{len(self.ledger)}", SHA, status, code, reason, 0.01))
        self.write_ledger()

    def write_ledger(self) -> None:
        with (self.path / "ledger.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["case", "token", "sha256", "status", "code", "reason", "seconds"])
            rows.writerows(self.ledger)


@pytest.fixture
def make_out(tmp_path: Path) -> Callable[..., Out]:
    return lambda label_map=DISC_CUP: Out(tmp_path / "out", label_map)


def disc_and_cup(rows: int = 120, columns: int = 160) -> np.ndarray:
    """A disc with a cup in it, right of the centre: bit field (rows, columns)."""
    y, x = np.mgrid[:rows, :columns]
    square = (y - rows / 2) ** 2 + (x - 0.65 * columns) ** 2
    return ((square < (0.2 * rows) ** 2).astype(np.uint8) | ((square < (0.1 * rows) ** 2).astype(np.uint8) << 1)).astype(np.uint8)
