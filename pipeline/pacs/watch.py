"""Studies that arrive in a PACS are predicted and their results pushed back, by themselves, each once.

``WORK/`` holds ``watch.sqlite`` (how far each study is), ``outbox.sqlite`` (what was pushed), ``predictions/DAY`` (as `ocuseg predict`
leaves them, under pseudonyms), and while a study is worked on its ``scans`` and ``objects``, which name the patient. One study after the
other is pulled, predicted, exported and pushed; each step is written down when it is done, and can be done again. Objects are pushed from
files that no later step changes, and the outbox knows each by its SHA-256. One that was sent when the process died before it was written
down is sent again under the same UID, and a PACS keeps one object of a UID.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline.errors import ConfigError, OcusegError, PacsError
from pipeline.lock import locked
from pipeline.pacs.connection import Confirm, Connection, back_off
from pipeline.pacs.listen import Receiver
from pipeline.pacs.outbox import OUTBOX_FILE, Outbox
from pipeline.pacs.query import Query, instances_of, series_of, studies
from pipeline.pacs.study_states import ENDS, State, StudyState, StudyStates
from pipeline.pacs.study_steps import StudySteps, Wishes
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.walk import walk

log = logging.getLogger(__name__)

WATCH_FILE = "watch.sqlite"
_BUSY = "another watch works in this folder; stop it, or give another folder"
_MOST_ATTEMPTS = 3


class Watch:
    """``connect`` opens the PACS called ``pacs``. ``receiver``: where studies arrive by themselves; without one the PACS is asked.

    Raises
    ------
    ConfigError: the folder cannot be used, or a bundle was exchanged since it was begun today.
    """

    def __init__(
        self,
        pacs: str,
        connect: Callable[[], AbstractContextManager[Connection]],
        wishes: Wishes,
        names: Pseudonyms,
        *,
        rest_s: float = 60.0,
        since_days: int = 1,
        retries: int = 3,
        receiver: Receiver | None = None,
        confirm: Confirm | None = None,
    ) -> None:
        self._pacs, self._connect, self._wishes, self._names = pacs, connect, wishes, names
        self._rest_s, self._since_days, self._retries, self._receiver = rest_s, since_days, retries, receiver
        self._confirm = confirm
        wishes.work.mkdir(parents=True, exist_ok=True, mode=0o700)

    def run(self, *, interval_s: float = 30.0, once: bool = False) -> dict[str, int]:
        """Watch until interrupted; ``once``: end when what is there now is at an end. Returns how many studies are in each state."""
        work = self._wishes.work
        with (
            locked(work / ".lock", ConfigError(_BUSY)),
            closing(StudyStates(work / WATCH_FILE)) as self._states,
            closing(Outbox(work / OUTBOX_FILE)) as self._outbox,
        ):
            for ended in self._states.at_end():
                if ended.state != "failed":
                    self._steps(ended).clean()  # of a process that was killed in between
            while True:
                self._look(once)
                for study in self._states.due(time.time(), self._rest_s):
                    self._work_on(study)
                if once and not self._states.resting(time.time(), self._rest_s):
                    return self._states.counts()
                time.sleep(min(interval_s, self._rest_s) if once else interval_s)

    def counts(self) -> dict[str, int]:
        with closing(StudyStates(self._wishes.work / WATCH_FILE)) as states:
            return states.counts()

    def _look(self, once: bool) -> None:
        try:
            if self._receiver is not None:
                self._look_at_received(self._wishes.work / "received")
            else:
                self._look_at_pacs()
        except PacsError as error:
            if once or not error.passing:
                raise
            log.warning("%s; the watch goes on", error)

    def _look_at_pacs(self) -> None:
        now = datetime.now().astimezone()
        date = f"{now - timedelta(days=self._since_days):%Y%m%d}-"
        with self._connect() as connection:
            for study in studies(connection, Query(date=date)):
                scans = [series for series in series_of(connection, study.uid) if self._wishes.is_scan(series)]
                held = [f"{s.uid} {len(instances_of(connection, s)) if s.instances is None else s.instances}" for s in scans]
                if held:
                    self._see(study.uid, held)

    def _look_at_received(self, folder: Path) -> None:
        for study in sorted(folder.iterdir()) if folder.is_dir() else ():
            # What arrives again is taken in again: it names the patient, and must not lie there for ever. Nothing of it is sent twice.
            self._see(study.name, [f"{path.name} {path.stat().st_mtime_ns}" for path, _ in walk(study)])

    def _see(self, study: str, held: list[str]) -> None:
        contents = hashlib.sha256("\n".join(sorted(held)).encode()).hexdigest()
        self._states.see(study, contents, time.time(), _today())

    def _steps(self, study: StudyState) -> StudySteps:
        return StudySteps(self._wishes, self._names, study.study, study.day)

    def _work_on(self, study: StudyState) -> None:
        """All steps that are left; the study is put off where one fails."""
        steps, state = self._steps(study), study.state
        while state not in ENDS:
            attempt = self._states.begin(study.study)
            if attempt > _MOST_ATTEMPTS:
                self._give_up(steps, f"the step after {state!r} ended the process {_MOST_ATTEMPTS} times")
                return
            try:
                state = self._step(steps, state)
            except PacsError as error:
                self._put_off(steps, str(error), attempt, counts=False)
                return
            except ConfigError:
                self._states.put_off(study.study, 0.0, "", counts=False)
                if state != "pulled" or steps.day == (today := _today()):
                    raise  # of all studies
                self._states.move(study.study, today)  # models were exchanged since the day that it came first
                steps = replace(steps, day=today)
                continue
            except OcusegError as error:
                if attempt == _MOST_ATTEMPTS:
                    self._give_up(steps, str(error))
                else:
                    self._put_off(steps, str(error), attempt, counts=True)
                return
            except (OSError, KeyboardInterrupt):
                self._states.put_off(study.study, 0.0, "", counts=False)
                raise
            self._states.advance(study.study, state)
            log.info("study %s: %s", steps.token, state)
        steps.clean()

    def _step(self, steps: StudySteps, state: State) -> State:
        if state == "seen" and self._receiver is not None:
            with self._receiver.lock:
                return steps.take_in(self._wishes.work / "received")
        if state == "pulled":
            return steps.predict()
        if state == "predicted":
            return steps.export()
        with self._connect() as connection:
            if state == "seen":
                return steps.pull(connection, self._retries)
            return steps.push(connection, self._pacs, self._outbox, self._retries, self._confirm)

    def _put_off(self, steps: StudySteps, reason: str, attempt: int, *, counts: bool) -> None:
        log.warning("study %s: %s; tried again later", steps.token, reason)
        self._states.put_off(steps.study, time.time() + 30.0 * back_off(attempt), reason, counts=counts)

    def _give_up(self, steps: StudySteps, reason: str) -> None:
        log.error("study %s: given up: %s", steps.token, reason)
        self._states.advance(steps.study, "failed", reason)


def _today() -> str:
    """The folder of predictions of a study that begins now."""
    return f"{datetime.now(UTC):%Y-%m-%d}"
