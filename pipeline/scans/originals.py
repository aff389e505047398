"""Which file repeats another one, and which contradicts it: for the catalogue and for prediction alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.scans.database import TemporaryDatabase
from pipeline.types import CaseKey

OTHER_EYE = ", there under the name of the other eye; look which eye it is"
"""What the reason of a duplicate ends with where :meth:`Other.of_other_eye`."""


@dataclass(frozen=True)
class Other:
    """The earlier file that a file repeats, byte for byte or in its picture (``same_content``, ``same_instance``), or that has the same
    SOP Instance UID but another picture (``conflict``)."""

    kind: Literal["same_content", "same_instance", "conflict"]
    token: str
    case: str

    @property
    def same(self) -> str:
        """As the reason of a duplicate."""
        what = "file" if self.kind == "same_content" else "SOP Instance UID and the same pixels"
        return f"the same {what} as {self.case}"

    def of_other_eye(self, case: str) -> bool:
        """Whether ``case`` and this one (each ``str(CaseKey)``, or "") are the right and the left eye: one file has a wrong name."""
        return bool(case and self.case) and {CaseKey.parse(case).eye, CaseKey.parse(self.case).eye} == {"R", "L"}


class Originals(TemporaryDatabase):
    """The first file of each content, and of each picture under a SOP Instance UID."""

    def __init__(self) -> None:
        super().__init__(
            'CREATE TABLE seen (token, "case", sha256, instance, pixels);'
            "CREATE INDEX by_sha256 ON seen (sha256); CREATE INDEX by_instance ON seen (instance) WHERE instance != '';"
        )

    def find(self, token: str, sha256: str | None, instance: str | None, pixels: str | None) -> Other | None:
        """The earlier file with this content or UID; an earlier version of the same file does not count.

        Files with one UID and equal pixels are one picture sent twice, whatever their tags say; if the pixels differ, two pictures were
        given the same name, and neither may be dropped.
        """
        query = 'SELECT token, "case" FROM seen WHERE token != ? AND '
        for kind, condition, values in (
            ("same_content", "sha256 = ?", (sha256,)),
            ("same_instance", "instance = ? AND instance != '' AND pixels = ?", (instance, pixels)),
            ("conflict", "instance = ? AND instance != '' AND pixels != ''", (instance,)),
        ):
            row = all(values) and self._database.execute(f"{query}{condition} LIMIT 1", (token, *values)).fetchone()
            if row:
                return Other(kind, *row)  # type: ignore[arg-type]
        return None

    def add(self, token: str, case: str, sha256: str | None, instance: str | None, pixels: str | None) -> None:
        self._database.execute("INSERT INTO seen VALUES (?, ?, ?, ?, ?)", (token, case, sha256 or "", instance or "", pixels or ""))
