"""What became of each of several bundles in a folder of predictions: how many scans it fitted, and in how many it found nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.types.case_record import CaseRecord

_RECORD = "bundle.json"


@dataclass(frozen=True)
class Use:
    """``scans``: cases that a bundle took part in · ``empty``: those of them in which it found nothing."""

    name: str
    modality: str
    scans: int
    empty: int

    @property
    def line(self) -> str:
        """In words."""
        if not self.scans:
            return f"{self.name}: left out, no scan here is {self.modality}"
        nothing = f", nothing found in {self.empty}" if self.empty else ""
        return f"{self.name}: {self.scans} scan{'s' if self.scans != 1 else ''}{nothing}"


def uses_of(out: Path, bundles: Mapping[str, Path]) -> list[Use]:
    """Of each bundle by its name; cases whose record cannot be read are passed over, as the report names them."""
    records = {name: json.loads((path / _RECORD).read_text(encoding="utf-8")) for name, path in bundles.items()}
    taken, empty = dict.fromkeys(records, 0), dict.fromkeys(records, 0)
    by_id = {record["id"]: name for name, record in records.items()}
    for folder in (out / "cases").iterdir():
        try:
            case = CaseRecord.read(folder)
        except (OSError, ValueError):
            continue
        ids = case.bundle_id.split("+")
        for one in filter(by_id.__contains__, ids):
            own = [c for c in case.classes.values() if len(ids) == 1 or c.bundle_id == one]
            taken[by_id[one]] += 1
            empty[by_id[one]] += not any(c.pixels or c.objects for c in own)
    return [Use(name, record["modality"], taken[name], empty[name]) for name, record in records.items()]
