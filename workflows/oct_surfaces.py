"""Layers and surfaces of OCT: taught by phantoms, tested on phantoms and on real Spectralis scans beside the device's own lines.

    .venv/bin/python workflows/oct_surfaces.py [--minutes 8] [--phantoms studies/oct_phantoms] [--out studies/oct_surfaces]

Two networks learn from the same phantom scans (made if they are not there) in the same time: one sees a B-scan at a time, one its
neighbours too. Both are tested on the phantoms' test patients: Dice of each layer, error of each surface in um, and how far surfaces
jump from B-scan to B-scan beside how far the true ones do. Then both read the real .vol files, of which no network has seen one, and
their ILM, lower edge of the nerve fibres and BM are compared with the lines that the device drew; the device's lines are another
algorithm's opinion, not the truth. A picture of each file shows both.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.atomic import write_text
from pipeline.bundles.bundle import load_bundle
from pipeline.cli.console import progress, script
from pipeline.config import RunConfig, load_config
from pipeline.drawing.curves import Picture, picture_of
from pipeline.errors import ScanError
from pipeline.evaluation.row import Row, shown
from pipeline.inference.case_files import write_json
from pipeline.inference.predict import Predictor
from pipeline.measurements.surfaces import SurfaceError, Surfaces, find_surfaces, surface_errors
from pipeline.phantoms.oct_set import write_oct_set
from pipeline.scans.open import open_scan
from pipeline.scans.raster import write_png
from pipeline.scans.vendor import read_surfaces
from pipeline.studies.study import Study, run_study, with_budget
from pipeline.studies.table import markdown
from pipeline.tracking.tracker import open_tracker
from pipeline.types import Scan

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("OCUSEG_SHARED", REPOSITORY.parent / "shared"))
CONFIGS = ("phantom_oct_layers.yaml", "phantom_oct_layers_volume.yaml")
LINES = {"ILM": "ILM", "RNFL": "RNFL-GCL", "BM": "BM"}
"""The device's lines, and what the card calls the same surface."""
COLOURS = {"ILM": "#e69f00", "RNFL-GCL": "#56b4e9", "BM": "#cc79a7"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--phantoms", type=Path, default=Path("studies") / "oct_phantoms", help="made if absent")
    parser.add_argument("--patients", type=int, default=24, help="of the phantoms, both eyes of each")
    parser.add_argument("--vol", type=Path, default=SHARED / "data" / "spectralis_vol", help="real Spectralis .vol files")
    parser.add_argument("--minutes", type=float, help="training time of each network; default: as its run file says")
    parser.add_argument("--out", type=Path, default=Path("studies") / "oct_surfaces")
    options = parser.parse_args()
    files = sorted(options.vol.glob("*.vol"))
    if not files:
        sys.exit(f"{options.vol} holds no .vol file; give --vol with Spectralis exports")
    if not (options.phantoms / "card" / "oct").is_dir():
        with progress("phantoms") as advance:
            write_oct_set(options.phantoms, options.patients, 1, progress=advance)
    check_phantoms(options.phantoms, options.patients)
    configs = [with_budget(load_config(REPOSITORY / "configs" / name), options.minutes) for name in CONFIGS]
    with progress("layers and surfaces") as advance:
        study = run_study(options.out.name, configs, options.phantoms / "card", options.out, progress=advance)
    print("\n".join(study.lines()))
    phantoms = phantom_rows(study.rows)
    print("\n".join(["", "surfaces of the phantoms' test patients, mean over scans:", "", *told(phantoms)]))
    readings = [reading for row in study.rows for reading in read_files(row, files)]
    keep(study, configs[0], phantoms, readings)
    print("\n".join(["", "real scans against the lines that the device drew:", ""]))
    print("\n".join([*told([row for reading in readings for row in reading.rows()]), "", f"pictures: {study.folder}"]))


def check_phantoms(folder: Path, patients: int) -> None:
    """End here where the folder holds another number of scans, for it was made for others, or its making was cut short."""
    held = len(list((folder / "card" / "oct_labels").glob("*.nii.gz")))  # the last written of each scan
    if held != 4 * patients:
        sys.exit(f"{folder} holds {held} scans, but {patients} patients have {4 * patients}; remove it, or give another --phantoms")


@dataclass(frozen=True, eq=False)
class Reading:
    """One real file read by one network: its errors against the device's lines (those that it drew) and the picture of both."""

    network: str
    file: str
    errors: Sequence[SurfaceError]
    picture: Picture

    def rows(self) -> list[dict[str, Any]]:
        """One a surface: unit, mean_abs, bias, p95, columns and missing as :class:`SurfaceError` has them."""
        return [{"network": self.network, "file": self.file, "surface": error.name, **_numbers(error)} for error in self.errors]


def _numbers(error: SurfaceError) -> dict[str, Any]:
    return {name: value for name, value in asdict(error).items() if name != "name"}


def phantom_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One entry a surface and network, of what evaluation says about the phantoms' test patients: means over scans.

    ``low`` and ``high`` are the ends of the mean absolute error's interval over patients."""
    out = []
    for row in rows:
        summary = row.summary["surfaces"]
        for name, own in summary["surfaces"].items():
            ends = {end: own["mean_abs"][end] for end in ("low", "high")}
            numbers = {number: own[number]["value"] for number in ("bias", "p95", "jump_found", "jump_true")}
            mean = own["mean_abs"]["value"]
            out.append({"network": row.name, "surface": name, "unit": summary["unit"], "mean_abs": mean, **ends, **numbers})
    return out


def told(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Entries as a Markdown table."""
    return markdown([{name: shown(value) for name, value in row.items()} for row in rows])


def keep(study: Study, config: RunConfig, phantoms: Sequence[dict[str, Any]], readings: Sequence[Reading]) -> None:
    """Everything beside the study's own tables, and in its MLflow run."""
    device = [row for reading in readings for row in reading.rows()]
    with open_tracker(config, study.folder, resume=True) as tracker:
        for name, rows in (("phantom_surfaces", phantoms), ("device_lines", device)):
            write_json(study.folder / f"{name}.json", rows)
            write_text(study.folder / f"{name}.md", "\n".join(told(rows)) + "\n")
            tracker.table(name, rows)
        for reading in readings:
            name = f"{reading.network}_{reading.file}"
            write_png(study.folder / f"{name}.png", reading.picture)
            tracker.picture(name, reading.picture)
        errors = {f"{row['network']}/{row['file']}/{row['surface']} {row['unit']}": row["mean_abs"] for row in device}
        tracker.numbers(errors)


def read_files(row: Row, files: Sequence[Path]) -> list[Reading]:
    """What the network of one row finds in each file. Files that cannot be read are named and left out."""
    bundle = load_bundle(row.run_dir / "bundle", device="cpu")
    predictor, out = Predictor(bundle), []
    for path in files:
        try:
            scan, lines = open_scan(path), read_surfaces(path)
        except ScanError as error:
            print(f"{path.name}: left out, {error}")
            continue
        if all(np.isnan(depth).all() for depth in lines.values()):
            print(f"{path.name}: left out, the device drew no lines in it")
            continue
        prediction = predictor.predict(scan)
        assert prediction.probabilities is not None
        found = find_surfaces(prediction.probabilities, bundle.label_map)
        true = device_surfaces(lines)
        errors = surface_errors(found.only(true.names), true, scan.geometry.spacing_mm)
        out.append(Reading(row.name, path.stem, errors, draw(scan, found.only(true.names), true, path.stem)))
    return out


def device_surfaces(lines: dict[str, npt.NDArray[np.float32]]) -> Surfaces:
    """The lines that the device drew somewhere, as depths from the picture's top edge.

    A line is told by the number of the row it runs through, whose middle lies half a row below that row's edge.
    """
    drawn = {LINES[name]: depth + np.float32(0.5) for name, depth in lines.items() if not np.isnan(depth).all()}
    ordered = [name for name in LINES.values() if name in drawn]
    return Surfaces(tuple(ordered), np.stack([drawn[name] for name in ordered]))


def draw(scan: Scan, found: Surfaces, true: Surfaces, title: str) -> Picture:
    """The middle one of the B-scans that the device drew lines in: bare, and with its lines (solid, coloured) and ours (dashed, white).

    uint8 (H, W, 3).
    """
    from matplotlib.figure import Figure

    drawn = np.flatnonzero(~np.isnan(true.depth).all(axis=(0, 2)))
    middle = int(drawn[len(drawn) // 2])
    plane = scan.pixels.reshape(-1, *scan.pixels.shape[-2:])[middle]
    rows, columns = plane.shape
    # What lies far from every line is vitreous or dark.
    lines = np.concatenate([true.depth[:, middle], found.depth[:, middle]])
    top, bottom = max(float(np.nanmin(lines)) - rows / 12, 0), min(float(np.nanmax(lines)) + rows / 6, rows)
    figure = Figure(figsize=(10, 20 * min((bottom - top) / columns, 1.0) + 0.5), dpi=100, layout="constrained")
    for place, axes in enumerate(figure.subplots(2, 1)):
        axes.imshow(plane, cmap="gray", vmin=0, vmax=255, extent=(0, columns, rows, 0), aspect="auto", interpolation="nearest")
        axes.set_axis_off()
        axes.set_xlim(0, columns)
        axes.set_ylim(bottom, top)
        if not place:
            axes.set_title(f"{title}; below: solid the device's lines, dashed the network's", fontsize="small")
            continue
        x = np.arange(columns) + 0.5
        for name, theirs, ours in zip(true.names, true.depth[:, middle], found.depth[:, middle], strict=True):
            axes.plot(x, theirs, color=COLOURS[name], linewidth=1.4, label=f"{name}, device")
            axes.plot(x, ours, color="white", linewidth=1.0, linestyle=(0, (4, 4)), label=None if name != true.names[-1] else "network")
        axes.legend(loc="lower right", fontsize="x-small", ncols=len(true.names) + 1)
    return picture_of(figure)


if __name__ == "__main__":
    script(main)
