"""What reviewers see and decide: the audit log, the corrections and the cases in one place. Threads may share it."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.review import case_facts
from pipeline.review.catalogue import Catalogue, UnknownCase
from pipeline.review.corrections import (
    Correction,
    CorrectionRecord,
    corrections_folder,
    model_sha256,
    name_of,
    read_correction,
    read_files,
    remove_leftovers,
    write_correction,
)
from pipeline.review.instances import have_masks, runs_of
from pipeline.review.log import Action, AuditLog, Event, Role, Verdict, visible
from pipeline.review.numbers import Numbers, findings, shown
from pipeline.review.seen import Seen
from pipeline.review.sessions import Visitor
from pipeline.review.state import state_of
from pipeline.review.submitted import SentComment, SentEdit, SentEye, SentVerdict, Unfit, correction_of, with_segmentations
from pipeline.types import Laterality
from pipeline.types.run_record import RUN_FILE

_FROM_FILE = ("tag", "functional_group")
CHANGED = "The model's answer is another one than the one that was reviewed: it was predicted again, or its files were changed."


class Review:
    """The review of one folder of predictions."""

    def __init__(self, predictions: Path, catalogue: Catalogue, *, blinded: bool) -> None:
        self.predictions, self.catalogue, self._blinded = predictions, catalogue, blinded
        self.log = AuditLog.of(predictions)
        self._lock = threading.Lock()
        self._events: dict[str, list[Event]] = {}
        self._newest = 0
        self._whole: set[str] = set()
        self._models: dict[str, str] = {}
        """Of cases with a verdict what the model had found when the cases were listed; of all what it had when they were last looked at."""
        self.numbers = Numbers(predictions)
        self._read = functools.lru_cache(maxsize=4)(functools.partial(read_correction, predictions))
        self.id = _identity(predictions)
        remove_leftovers(predictions)
        self.refresh()

    def refresh(self) -> None:
        """Take in cases that were predicted since. Blinded readers' pages show no eye that another reader set.

        Raises
        ------
        ConfigError: another process is writing the report.
        """
        if self.catalogue.refresh({} if self._blinded else self._eyes()):
            known = set(self.catalogue.order)
            judged = [case for case, events in self._everything().items() if case in known and any(one.verdict for one in events)]
            self._models = {case: model_sha256(self.catalogue.case(case).folder) for case in judged}

    def drawn(self, case: str) -> str:
        """Hash of what a case's page shows, which is what the model's answer is now; "" of what is no case under review."""
        if case not in self.catalogue.order:
            return ""
        model = model_sha256(self.catalogue.case(case).folder)  # first: a page that is newer than this is only loaded once more
        self.catalogue.redraw(case)
        return model

    def seen(self, case: str, visitor: Visitor) -> Seen:
        """Raises UnknownCase."""
        folder = self.catalogue.case(case).folder
        events = self._visible(case, visitor)
        state, model = state_of(case, _own(events, visitor)), model_sha256(folder)
        self._models[case] = model
        stands = state.correction if state.mask_sha256 == model else ""
        return Seen(events, state, state_of(case, events), model, stands)

    def case(self, name: str, visitor: Visitor) -> dict[str, Any]:
        """A case as its page gets it."""
        self.catalogue.redraw(name)
        case, run, seen = self.catalogue.case(name), self.catalogue.run, self.seen(name, visitor)
        eye = seen.all.eye or case.geometry.laterality
        others = [] if visitor.role == "reader" and len(seen.all.readings) < 2 else self._readings(name, seen)
        order, at = self.catalogue.order, self.catalogue.order.index(name)
        return {
            "case": name,
            "version": len(seen.events),
            "model": seen.model,
            "verdict": "unreviewed" if seen.changed else seen.state.verdict,
            "reviewer": seen.state.reviewer,
            "at": seen.state.at,
            "author": seen.author,
            "reasons": seen.state.reasons,
            "comment": seen.state.comment,
            "eye": eye,
            "eye_source": "reviewer" if seen.all.eye else case.geometry.laterality_source,
            "modality": case.modality,
            "correction": seen.correction,
            "next": self.next(name, visitor),
            "previous": order[at - 1] if at else None,
            "overlapping": case_facts.label_map_of(case, run).overlapping,
            "classes": case_facts.classes(case, run),
            "instances": case_facts.instances_url(name, seen.correction) if have_masks(case) else None,
            **case_facts.drawn(case, run, seen.model, seen.correction, self._correction(seen.correction)),
            "history": case_facts.history(seen.events),
            "notice": CHANGED if seen.changed else "",
            "readings": others,
            "disagreement": seen.all.disagreement,
        }

    def verdict(self, name: str, visitor: Visitor, sent: SentVerdict) -> Event:
        """Raises VersionConflict; Unfit where the mask that is to be taken is not there."""
        seen = self.seen(name, visitor)
        seen.check(sent.model)
        correction = seen.shown(sent.base)
        if sent.take == "model":
            correction = ""
        elif sent.take is not None:
            if sent.take not in seen.all.readings:
                raise Unfit(f"there is no verdict of the {sent.take} here yet")
            taken = seen.all.readings[sent.take]
            if taken.mask_sha256 != seen.model:
                raise Unfit(f"the verdict of the {sent.take} is about another answer of the model than the one that is there now")
            if sent.base not in (None, taken.correction):
                raise Unfit(f"the {sent.take} has corrected the case again since this page was loaded; load the page again")
            correction = taken.correction
        verdict: Verdict = "rejected" if sent.action == "reject" else "edited" if correction else "accepted"
        what = {"verdict": verdict, "reasons": sent.reasons, "comment": sent.comment, "correction": correction}
        return self._append(name, visitor, seen, sent.version, sent.action, **what)

    def edit(self, name: str, visitor: Visitor, sent: SentEdit) -> Event:
        """Store a correction, then the event that names it; one that is sent again, because its answer was lost, is stored once.

        Raises VersionConflict, Unfit.
        """
        case, run, seen = self.catalogue.case(name), self.catalogue.run, self.seen(name, visitor)
        seen.check(sent.model)
        last = seen.events[-1] if len(seen.events) == sent.version + 1 and seen.events[-1].reviewer == visitor.reviewer else None
        if len(seen.events) != sent.version and (last is None or not last.correction):  # before the work; append looks again
            raise seen.conflict()
        parent = seen.shown(sent.base)
        record = CorrectionRecord(
            case=name, base=seen.model, bundle_id=case.bundle_id, parent=parent, tools=sent.tools, seconds=sent.seconds
        )
        made = correction_of(sent, case, run, record, self._correction(parent))
        if last is not None:
            if name_of(made) == last.correction:
                return last
            raise seen.conflict()
        correction = write_correction(self.predictions, made)
        event = self._append(name, visitor, seen, sent.version, "edit", verdict="edited", comment=sent.comment, correction=correction)
        self.numbers.asked(case, run, correction)
        return event

    def eye(self, name: str, visitor: Visitor, sent: SentEye) -> Event:
        """Raises VersionConflict; Unfit where the file itself says which eye it is."""
        case, seen = self.catalogue.case(name), self.seen(name, visitor)
        if case.geometry.laterality_source in _FROM_FILE:
            raise Unfit('the file itself says which eye this is; if that is wrong, reject the case with the reason "wrong eye"')
        event = self._append(name, visitor, seen, sent.version, "eye", eye=sent.eye)
        if not self._blinded:
            self.catalogue.set_eye(name, sent.eye)
        return event

    def comment(self, name: str, visitor: Visitor, sent: SentComment) -> Event:
        """Raises VersionConflict."""
        return self._append(name, visitor, self.seen(name, visitor), sent.version, "comment", comment=sent.comment)

    def version(self, case: str, visitor: Visitor) -> int:
        return len(self._visible(case, visitor))

    def next(self, name: str, visitor: Visitor) -> str | None:
        """The next case that waits for this visitor: of an adjudicator one on which the readers disagree."""
        events = self._everything()
        if visitor.role == "adjudicator":
            waiting = (case for case in self.catalogue.after(name) if case in events and state_of(case, events[case]).disagreement)
        else:
            waiting = (case for case in self.catalogue.after(name) if not self._judged(events.get(case, ()), visitor.role))
        return next(waiting, None)

    def progress(self, visitor: Visitor) -> dict[str, Any]:
        """How far this visitor's review is, and the verdicts and eyes that they may see."""
        verdicts: dict[str, Verdict] = dict.fromkeys(self.catalogue.order, "unreviewed")
        eyes = {}
        for case, all_events in self._everything().items():
            if case not in verdicts:
                continue  # it was reviewed, and is not among the predictions any more
            events = visible(all_events, visitor.reviewer, visitor.role, visitor.blinded)
            state = state_of(case, _own(events, visitor))
            verdicts[case] = state.verdict if self._of_this_model(state.mask_sha256, case) else "unreviewed"
            if eye := state_of(case, events).eye:
                eyes[case] = eye
        counts = Counter(verdicts.values())
        kinds: tuple[Verdict, ...] = ("accepted", "rejected", "edited", "unreviewed")
        return {"cases": len(verdicts)} | {kind: counts[kind] for kind in kinds} | {"verdicts": verdicts, "eyes": eyes}

    def instances(self, name: str, visitor: Visitor, correction: str) -> dict[str, Any]:
        """The masks of a case's objects by id, of the model's answer or of a ``correction`` that the visitor may see.

        Raises UnknownCase; OcusegError where they cannot be read.
        """
        case = self.catalogue.case(name)
        if correction and correction not in {one.correction for one in self._visible(name, visitor)}:
            raise UnknownCase("there is no such correction of this case")
        found, objects = self._correction(correction), case_facts.model_objects(case, self.catalogue.run)
        if found is not None and found.objects is not None:
            objects = list(found.objects)
        return {str(one.id): runs_of(one.segmentation or {}, one.box) for one in with_segmentations(objects, case, found)}

    def numbers_of(self, name: str, visitor: Visitor, correction: str) -> dict[str, Any]:
        """What a case page shows in place of the model's numbers while it shows a ``correction`` (review/numbers.py).

        Raises UnknownCase; OcusegError where it cannot be measured.
        """
        drawn = [one for one in self._visible(name, visitor) if one.action == "edit" or one.verdict == "edited"]
        event = next((one for one in drawn if correction and one.correction == correction), None)
        if event is None:
            raise UnknownCase("there is no such correction of this case")
        case, run = self.catalogue.case(name), self.catalogue.run
        numbers = self.numbers.asked(case, run, correction)
        return {"measuring": True} if numbers is None else shown(case, run, numbers, event.reviewer)

    def all_numbers(self, visitor: Visitor) -> dict[str, Any]:
        """What the worklist shows of each case whose correction stands and was measured: its findings."""
        out, there = {}, set(self.catalogue.order)
        for name, all_events in self._everything().items():
            events = visible(all_events, visitor.reviewer, visitor.role, visitor.blinded)
            state = state_of(name, _own(events, visitor))
            if name not in there or not state.correction or not self._of_this_model(state.mask_sha256, name):
                continue
            case = self.catalogue.case(name)
            if (known := self.numbers.known(case, state.correction)) is not None:
                out[name] = findings(case, self.catalogue.run, known)
        return out

    def correction_file(self, case: str, visitor: Visitor, correction: str, file: str) -> Path | None:
        """A file of a correction that an event names which the visitor may see; None where there is none."""
        named = {one.correction for one in self._visible(case, visitor)}
        if not correction or correction not in named or not case_facts.servable(file):
            return None
        self._check(correction)
        path = corrections_folder(self.predictions) / correction / file
        return path if path.is_file() else None

    def _judged(self, events: Sequence[Event], role: Role) -> bool:
        """Whether somebody of this role gave a verdict on what the model finds now."""
        last = next((one for one in reversed(events) if one.verdict and one.role == role), None)
        return last is not None and self._of_this_model(last.mask_sha256, last.case)

    def _of_this_model(self, mask_sha256: str, case: str) -> bool:
        return mask_sha256 == self._models.get(case, mask_sha256)

    def _append(self, name: str, visitor: Visitor, seen: Seen, version: int, action: Action, **what: Any) -> Event:
        judged = visitor.role == "adjudicator" and what.get("verdict")
        event = Event(
            reviewer=visitor.reviewer,
            role=visitor.role,
            case=name,
            action="adjudicate" if judged else action,
            bundle_id=self.catalogue.case(name).bundle_id,
            mask_sha256=seen.model,
            **what,
        )
        return self.log.append(event, version, blinded=visitor.blinded)

    def _readings(self, name: str, seen: Seen) -> list[dict[str, Any]]:
        """The verdict of each role, with the masks that it is about."""
        case = self.catalogue.case(name)
        roles: tuple[Role, ...] = ("reader", "second", "adjudicator")
        keys = ("role", "reviewer", "verdict", "reasons", "comment", "at", "correction")
        found = [seen.all.readings[role] for role in roles if role in seen.all.readings]
        return [{key: getattr(one, key) for key in keys} | {"planes": case_facts.planes(case, seen.model, one.correction)} for one in found]

    def _correction(self, name: str) -> Correction | None:
        if not name:
            return None
        return self._read(name)

    def _check(self, name: str) -> None:
        """Once a correction: whether it is still what was stored."""
        if name not in self._whole:
            read_files(self.predictions, name)
            self._whole.add(name)

    def _everything(self) -> Mapping[str, list[Event]]:
        """All events by case; those that other processes wrote, too."""
        with self._lock:
            for event in self.log.events(after=self._newest):
                self._events[event.case] = [*self._events.get(event.case, ()), event]
                self._newest = event.seq
            return dict(self._events)

    def _visible(self, case: str, visitor: Visitor) -> list[Event]:
        return visible(self._everything().get(case, []), visitor.reviewer, visitor.role, visitor.blinded)

    def _eyes(self) -> dict[str, Laterality]:
        eyes: Mapping[str, Laterality] = {"R": "R", "L": "L"}
        found = {case: state_of(case, events).eye for case, events in self._everything().items()}
        return {case: eyes[eye] for case, eye in found.items() if eye in eyes}


def _own(events: list[Event], visitor: Visitor) -> list[Event]:
    """What a visitor's work on a case is made of: a reader sees where the case stands, others what their own role said of it."""
    return events if visitor.role == "reader" else [one for one in events if one.role == visitor.role]


def _identity(predictions: Path) -> str:
    """Tells this folder of predictions from any other, and says nothing else: under it a browser keeps what it has not sent yet."""
    return hashlib.sha256((predictions / RUN_FILE).read_bytes() + str(predictions.resolve()).encode()).hexdigest()[:16]
