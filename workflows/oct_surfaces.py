"""Surfaces that the networks of a finished study (configs/oct_surfaces.yaml) find in real Spectralis scans, beside the device's lines.

    ocuseg phantom studies/oct_phantoms --oct-only --patients 24 --seed 1
    ocuseg compare oct_surfaces --root studies/oct_phantoms/card
    .venv/bin/python workflows/oct_surfaces.py --vol SPECTRALIS

Two networks have learnt from the same phantom scans in the same time: one sees a B-scan at a time, one its neighbours too. For the
phantoms' test patients this prints the error of each surface in um, and how far surfaces jump from B-scan to B-scan beside how far the true
ones do. Then both read the real .vol files, of which no network has seen one, and their ILM, lower edge of the nerve fibres and BM are
compared with the lines that the device drew; the device's lines are another algorithm's opinion, not the truth. A picture of each file
shows both.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.atomic import write_text
from pipeline.bundles.bundle import Bundle, load_bundle
from pipeline.cli.console import script
from pipeline.config import RunConfig, load_config
from pipeline.drawing.curves import Picture, picture_of
from pipeline.errors import ScanError
from pipeline.evaluation.device_lines import read_beside_device
from pipeline.evaluation.row import Row, shown
from pipeline.inference.case_files import write_json
from pipeline.inference.predict import Predictor
from pipeline.measurements.surfaces import SurfaceError, Surfaces
from pipeline.scans.raster import write_png
from pipeline.studies.one_run import read_rows
from pipeline.studies.table import markdown
from pipeline.tracking.tracker import open_tracker
from pipeline.types import Scan

COLOURS = {"ILM": "#e69f00", "RNFL-GCL": "#56b4e9", "BM": "#cc79a7"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--study", type=Path, default=Path("studies") / "oct_surfaces", help="--out folder of the finished study")
    parser.add_argument("--vol", type=Path, required=True, help="folder of real Spectralis .vol files")
    options = parser.parse_args()
    files = sorted(options.vol.glob("*.vol"))
    if not files:
        sys.exit(f"{options.vol} holds no .vol file; give --vol with Spectralis exports")
    rows = read_rows(options.study)
    phantoms = phantom_rows(rows)
    print("\n".join(["surfaces of the phantoms' test patients, mean over scans:", "", *told(phantoms)]))
    readings = [reading for row in rows for reading in read_files(row.name, load_bundle(row.run_dir / "bundle", device="cpu"), files)]
    home = options.study / f"{options.study.name}_study"
    keep(home, load_config(rows[0].run_dir / "config.yaml"), phantoms, readings)
    print("\n".join(["", "real scans against the lines that the device drew:", ""]))
    print("\n".join([*told([row for reading in readings for row in reading.rows()]), "", f"pictures: {home}"]))


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


def keep(home: Path, config: RunConfig, phantoms: Sequence[dict[str, Any]], readings: Sequence[Reading]) -> None:
    """Everything beside the study's own tables, and in its MLflow run."""
    device = [row for reading in readings for row in reading.rows()]
    with open_tracker(config, home, resume=True) as tracker:
        for name, rows in (("phantom_surfaces", phantoms), ("device_lines", device)):
            write_json(home / f"{name}.json", rows)
            write_text(home / f"{name}.md", "\n".join(told(rows)) + "\n")
            tracker.table(name, rows)
        for reading in readings:
            name = f"{reading.network}_{reading.file}"
            write_png(home / f"{name}.png", reading.picture)
            tracker.picture(name, reading.picture)
        errors = {f"{row['network']}/{row['file']}/{row['surface']} {row['unit']}": row["mean_abs"] for row in device}
        tracker.numbers(errors)


def read_files(network: str, bundle: Bundle, files: Sequence[Path]) -> list[Reading]:
    """What a bundle, known as ``network``, finds in each file. Files that cannot be read are named and left out."""
    predictor, out = Predictor(bundle), []
    for path in files:
        try:
            one = read_beside_device(predictor, path)
        except ScanError as error:
            print(f"{path.name}: left out, {error}")
            continue
        out.append(Reading(network, path.stem, one.errors, draw(one.scan, one.found, one.device, path.stem)))
    return out


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
