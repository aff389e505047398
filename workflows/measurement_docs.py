"""The tables of docs/measurements.md, from the registry of measurements.

python workflows/measurement_docs.py --write
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.measurements.by_role import MEASUREMENTS
from pipeline.measurements.quantity import Measurement, Quantity

PAGE = Path(__file__).resolve().parents[1] / "docs" / "measurements.md"
BEGIN, END = "<!-- measurements: begin -->", "<!-- measurements: end -->"
UNITS = {
    "1": "none",
    "mm": "mm or px",
    "mm2": "mm2 or px2",
    "mm3": "mm3 or voxels",
    "um": "um or px",
    "1/mm": "1/mm or 1/px",
    "1/mm2": "1/mm2 or 1/px2",
}


def tables() -> str:
    """A table for each group of roles, in the order of the registry."""
    groups: dict[str, list[Quantity]] = {}
    for measurement in MEASUREMENTS:
        groups.setdefault(_of(measurement), []).extend(measurement.quantities)
    return "\n\n".join("\n".join(_table(of, quantities)) for of, quantities in groups.items())


def _of(measurement: Measurement) -> str:
    return ("each " if measurement.per_class else "") + " and ".join(role.replace("_", " ") for role in measurement.roles)


def _table(of: str, quantities: Sequence[Quantity]) -> Iterator[str]:
    yield f"### Of {of}\n"
    yield "| key | what it is | unit |"
    yield "|---|---|---|"
    for quantity in quantities:
        yield f"| `{quantity.key}` | {_what(quantity)} | {UNITS.get(quantity.unit, quantity.unit)} |"


def _what(quantity: Quantity) -> str:
    said = [f"**{quantity.title}**: {quantity.definition}"]
    said += [f"Source: {quantity.source}"] if quantity.source else []
    said += [f"Reference: {quantity.reference}"] if quantity.reference else []
    return ". ".join(said).replace("|", "\\|")


def page(text: str) -> str:
    """The page with its tables renewed."""
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="renew docs/measurements.md")
    if parser.parse_args().write:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(tables())
