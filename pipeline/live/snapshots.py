"""A frame of the video becomes a case: kept as PNG, then predicted and reported as any scan is."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from pipeline.errors import NothingUsableError
from pipeline.inference.folder import predict_folder
from pipeline.inference.journal import Journal
from pipeline.live.source import Frame
from pipeline.reports.worklist import write_report
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.raster import write_png
from pipeline.scans.record import token_of

Eye = Literal["R", "L", "U"]
_ENDING = {"R": "_OD", "L": "_OS", "U": ""}


@dataclass(frozen=True)
class Snapshot:
    """``frame`` is the picture's file; ``case`` the case's name and ``page`` its page, below ``folder``, the folder of predictions."""

    frame: Path
    case: str
    page: Path


class Snapshots:
    """``out/frames/PATIENT/*.png`` hold what was seen, ``out/cases_of_frames`` what `ocuseg predict` makes of them at full detail, with its
    report. ``patient`` names the folder, by which the frames of one sitting are one person's; its pseudonym stands in the cases.

    One thread works on them, one after the other, beside the video.
    """

    def __init__(self, out: Path, bundle: Path, patient: str | None, pseudonyms: Pseudonyms, device: str) -> None:
        self.frames, self.predictions = out / "frames", out / "cases_of_frames"
        self._folder = self.frames / (patient or f"live-{datetime.now():%Y%m%d-%H%M%S}")
        self._bundle, self._names, self._device = bundle, pseudonyms, device
        self._pool = ThreadPoolExecutor(1, "ocuseg-snapshot")
        self.taken: list[Snapshot] = []

    def take(self, frame: Frame, eye: Eye = "U") -> Future[Snapshot]:
        """Make a case of a frame; the result comes when its page is written.

        Raises
        ------
        (from the Future) NothingUsableError: the frame could not be predicted. ConfigError, OSError: the folder cannot be written.
        """
        return self._pool.submit(self._make, frame, eye)

    def close(self) -> None:
        """Wait for what is under way."""
        self._pool.shutdown()

    def _make(self, frame: Frame, eye: Eye) -> Snapshot:
        self._folder.mkdir(parents=True, exist_ok=True)
        number = 1 + sum(1 for _ in self._folder.glob("*.png"))
        path = self._folder / f"{number:04d}_frame_{frame.number}{_ENDING[eye]}.png"
        write_png(path, frame.pixels)
        predict_folder(self._bundle, self.frames, self.predictions, device=self._device, workers=1, pseudonyms=self._names)
        case = self._case_of(path)
        write_report(self.predictions)
        made = Snapshot(path, case, Path("report") / "cases" / f"{case}.html")
        self.taken.append(made)
        return made

    def _case_of(self, path: Path) -> str:
        """Of a frame that was predicted; of one that is the same as an earlier one, that one's."""
        with closing(Journal(self.predictions / "journal.sqlite", self._names)) as journal:
            entries = journal.of_file(token_of(path, self.frames, self._names))
            done = {entry.sha256: entry.case for entry in journal.results()}
        if not entries or entries[-1].sha256 not in done:
            raise NothingUsableError(f"the frame could not be predicted: {entries[-1].reason if entries else 'its file is gone'}")
        return done[entries[-1].sha256]
