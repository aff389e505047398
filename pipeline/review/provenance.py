"""Who drew or accepted each mask of a labelled set, when, and what it was made of: ``provenance.csv``, to which lines are only added."""

from __future__ import annotations

import csv
import io
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

from pipeline.atomic import write_text
from pipeline.errors import ConfigError
from pipeline.review.state import ReviewState

PROVENANCE = "provenance.csv"
REMOVED = "removed"


@dataclass(frozen=True)
class Exported:
    """One line: a case of the predictions as it was exported.

    ``name`` in the set: the case's, with the eye that a reviewer set · ``image`` and ``mask``: files of the set, ``mask`` "" where there
    are boxes alone · ``source_sha256`` of the scan's own file · ``pixels``: "original" (read from it), "stored" (the prediction's own
    lossless copy), "8-bit copy" of deeper ones, or "unknown" · ``labels_sha256`` of the mask's file and the boxes · ``drawn_by``: model or
    reviewer · ``reviewer``, ``role``, ``at``: who drew or accepted it · ``ocuseg``: the version that predicted · ``model_sha256`` of the
    model's answer · ``correction``: its name, "" for the model's own · ``replaces``: hash of the labels that were exported before.
    """

    case: str
    name: str
    image: str
    image_sha256: str
    source_sha256: str
    pixels: str
    mask: str
    labels_sha256: str
    drawn_by: str
    verdict: str
    reviewer: str
    role: str
    at: str
    bundle_id: str
    bundle_name: str
    ocuseg: str
    model_sha256: str
    correction: str
    replaces: str = ""

    def same(self, state: ReviewState, name: str) -> bool:
        """Whether a review leads to what was exported."""
        return (self.name, self.correction, self.model_sha256) == (name, state.correction, state.mask_sha256)


class Provenance:
    """``current``: the last line of each case that is still in the set."""

    def __init__(self, path: Path, lines: list[Exported]) -> None:
        self._path, self._lines = path, lines
        self.current: dict[str, Exported] = {}
        for line in lines:
            self._take(line)

    @classmethod
    def load(cls, folder: Path) -> Provenance:
        """Raises ConfigError where the file is damaged."""
        path = folder / PROVENANCE
        if not path.is_file():
            return cls(path, [])
        with path.open(newline="", encoding="utf-8") as file:
            heading, *rows = csv.reader(file)
        if heading != [one.name for one in fields(Exported)] or any(len(row) != len(heading) for row in rows):
            raise ConfigError(f"{PROVENANCE} of this set is damaged; restore it from a backup")
        return cls(path, [Exported(*row) for row in rows])

    def _take(self, line: Exported) -> None:
        if line.verdict == REMOVED:
            self.current.pop(line.case, None)
        else:
            self.current[line.case] = line

    def add(self, line: Exported) -> None:
        self._lines.append(line)
        self._take(line)

    def remove(self, case: str) -> Exported:
        """Note that a case is no longer in the set, and return what it was."""
        earlier = self.current[case]
        self.add(replace(earlier, verdict=REMOVED, replaces=earlier.labels_sha256))
        return earlier

    def write(self) -> None:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([one.name for one in fields(Exported)])
        writer.writerows(map(astuple, self._lines))
        write_text(self._path, out.getvalue())
