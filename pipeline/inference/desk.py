"""What one process knows of an output folder that it may share with others, and which blocks of files it has in hand."""

from __future__ import annotations

import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.atomic import unless_gone
from pipeline.errors import TooManyFailures
from pipeline.inference import found
from pipeline.inference.aside import Aside
from pipeline.inference.case_files import Staging
from pipeline.inference.crew import Crew
from pipeline.inference.journal import Entry, Journal
from pipeline.inference.out_folder import REMOVED, WORK
from pipeline.inference.pieces import Piece
from pipeline.inference.reading import File
from pipeline.inference.shares import Shares
from pipeline.scans.identity import Pseudonyms, roles_that_counted
from pipeline.scans.listing import Block
from pipeline.scans.originals import Originals, Other
from pipeline.scans.place import Role
from pipeline.scans.record import PASSING, stamp_of

JOURNAL = "journal.sqlite"


@dataclass
class Hand:
    """A block that this process has the lease of: files that are not read yet, and that have not ended yet; what was put aside."""

    block: str
    unread: set[str]
    left: set[str]
    pieces: list[Piece] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)

    def is_read_with(self, token: str) -> bool:
        """Whether all of its files are read with this one, and some of them were put aside."""
        self.unread.discard(token)
        return not self.unread and any(piece.new for piece in self.pieces)

    def series(self) -> Iterator[list[Piece]]:
        """The files of each series that has something new, in the order of the listing."""
        groups: dict[str, list[Piece]] = {}
        for piece in self.pieces:
            groups.setdefault(piece.series, []).append(piece)
        self.pieces = []
        yield from (pieces for pieces in groups.values() if any(piece.new for piece in pieces))


class Hands:
    """The blocks in hand, by their files; ``publish`` is told of each whose files have all ended, and of the others at the end."""

    def __init__(self, publish: Callable[[Hand, bool], None]) -> None:
        self._publish = publish
        self._of: dict[str, Hand] = {}

    def begin(self, block: str, todo: Iterable[str], known: Iterable[Piece]) -> Hand:
        tokens = set(todo)
        hand = Hand(block, set(tokens), tokens, [*known])
        self._of |= dict.fromkeys((*tokens, *(piece.file.token for piece in hand.pieces)), hand)
        return hand

    def of(self, token: str) -> Hand | None:
        return self._of.get(token)

    def entries(self) -> list[Entry]:
        """Of files that have ended, and are not published yet."""
        return [entry for hand in {id(hand): hand for hand in self._of.values()}.values() for entry in hand.entries]

    def put_aside(self, piece: Piece) -> None:
        self._of[piece.file.token].pieces.append(piece)

    def enter(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            hand = self._of.get(entry.token)
            if hand is None:
                continue
            hand.entries.append(entry)
            hand.left.discard(entry.token)
            if not hand.left:
                self._end(hand, whole=True)

    def _end(self, hand: Hand, *, whole: bool) -> None:
        for token in [token for token, one in self._of.items() if one is hand]:
            del self._of[token]
        self._publish(hand, whole)

    def close(self) -> None:
        """Of what is not finished, publish what is."""
        for hand in {id(hand): hand for hand in self._of.values()}.values():
            self._end(hand, whole=False)


class Desk:
    """``out`` as this process knows it: a copy of its journal with what was published since. A context manager.

    ``root``: what tokens are of · ``again``: look again at what was rejected, too · ``enough``: whether to begin no more files ·
    ``tell`` is called with the number of files whose end is known, and how the last one ended.
    """

    def __init__(
        self,
        out: Path,
        root: Path,
        names: Pseudonyms,
        crew: Crew,
        *,
        scratch: Path | None = None,
        again: bool = False,
    ) -> None:
        self.out, self.root, self.names, self.crew = out, root, names, crew
        self._aside = Aside(scratch)
        self.staging = Staging.of(out, crew.me, None if scratch is None else self._aside.path)
        self.hands, self.originals = Hands(self._publish), Originals()
        self.again = again
        self.enough: Callable[[], bool] = lambda: False
        self.tell: Callable[[int, str], None] = lambda done, note: None
        self.waiting: set[str] = set()  # blocks that others work on
        self.finished, self.stopped, self.roles = 0, False, Counter[Role]()
        self.failures, self.most_failures = 0, math.inf
        self._journal: Journal | None = None
        self.take_in_again()

    @property
    def journal(self) -> Journal:
        """A copy of the folder's own, for this process alone."""
        assert self._journal is not None
        return self._journal

    def take_in_again(self) -> None:
        """Read the folder's journal, which another process has replaced, and what was published since."""
        if self._journal is not None:
            self._journal.close()
        self._copy()
        while self.is_replaced():  # meanwhile, so that the copy may not be whole
            self._copy()
        self._journal = Journal(self._aside.path / JOURNAL, self.names, copy=True)
        self.shares = Shares(self.out / WORK / "entries", self.crew.me)
        self.shares.take_in(self.journal)
        if entries := self.hands.entries():
            self.journal.record(*entries)
        for entry in filter(self.stands, self.journal.results()):
            self.note_original(entry)

    def _copy(self) -> None:
        self._seen = _state(self.out / JOURNAL)
        for end in ("", "-journal"):  # a version before 4 may have been killed while it wrote
            (self._aside.path / f"{JOURNAL}{end}").unlink(missing_ok=True)
            with unless_gone():
                shutil.copyfile(self.out / f"{JOURNAL}{end}", self._aside.path / f"{JOURNAL}{end}")

    def catch_up(self) -> bool:
        """What others have published or settled since; whether one has replaced the journal, as what was published is then in there."""
        self._take_in()
        replaced = self.is_replaced()
        if replaced:
            self.take_in_again()
        return replaced

    def _take_in(self) -> None:
        def told(entry: Entry) -> None:
            if entry.status in ("done", "part") and self.stands(entry):
                self.note_original(entry)

        self.shares.take_in(self.journal, told)

    def take_over(self) -> None:
        """This process has replaced the folder's journal: remove what was published, which is in it, and what dead processes left."""
        self._seen = _state(self.out / JOURNAL)
        self.shares.forget()
        living = self.crew.clear_up()
        found.forget(self.out / WORK, {*living} - {self.crew.me})
        self.shares.clear_up(living)
        for path in (*(self.out / ".staging").glob("*"), *(self.out / WORK).glob(f"{REMOVED}*")):
            if path.name not in living:
                shutil.rmtree(path, ignore_errors=True)

    def files(self, blocks: Iterable[Block], *, anew: bool = False) -> Iterator[File]:
        """Files that need work, of blocks that nobody else works on; those whose end is known are counted and passed over, unless they
        are to be looked at ``anew``."""
        for block in blocks:
            yield from self._files_of(block, anew)
            if self.stopped:
                return

    def _files_of(self, block: Block, anew: bool) -> Iterator[File]:
        todo, refused, known = self._look_through(block, anew)
        if not todo and not refused:
            return
        if self.shares.is_news(block.id):
            self._count("done", len(todo) + len(refused))
            return
        if not self.crew.take(block.id):
            self.waiting.add(block.id)
            return
        if self.shares.is_news(block.id):  # finished between the two questions
            self.crew.give_back(block.id)
            self._count("done", len(todo) + len(refused))
            return
        if self.is_replaced():  # it may have been in there, and what was published is removed
            self.crew.give_back(block.id)
            self.take_in_again()
            yield from self._files_of(block, anew)
            return
        self.hands.begin(block.id, (file.token for file in (*todo, *(file for file, _ in refused))), known)
        self.enter(entry for _, entry in refused)
        for file in todo:
            if self.enough():
                self.stopped = True
                return
            yield file

    def _look_through(self, block: Block, anew: bool) -> tuple[list[File], list[tuple[File, Entry]], list[Piece]]:
        """Files to read, those that cannot be, with their ends, and known ones that may be slices."""
        todo: list[File] = []
        refused: list[tuple[File, Entry]] = []
        known: list[Piece] = []
        of = self.journal.of_files(listed.token for listed in block.files)
        for listed in block.files:
            file = File(listed.path, listed.token, stamp_of(listed.path, self.names), listed.key)
            entries = [one for one in of.get(file.token, ()) if one.stamp == file.stamp and self.stands(one)]
            if listed.problem is not None:
                refused.append((file, file.refused(listed.problem)))
            elif anew or not entries:
                todo.append(file)
            else:
                entry = entries[0]
                self._count(entry.status)
                if entry.status in ("done", "part"):
                    self.roles.update(roles_that_counted(entry.case, file.path, self.root, self.names))
                if entry.series and entry.status != "duplicate":
                    known.append(Piece(file, entry.series, new=False))
        return todo, refused, known

    def stands(self, entry: Entry) -> bool:
        """Whether an entry still holds: what failed or was not readable is tried again, and so are a result that somebody removed and
        what was a duplicate of either."""
        if entry.status in ("done", "part"):
            return (self.out / "cases" / entry.case).is_dir()
        if entry.status == "duplicate":
            other = self.other(entry)
            return other is not None and other.kind != "conflict"
        return entry.status != "failed" and entry.code not in PASSING and not (self.again and entry.status == "rejected")

    def note_original(self, entry: Entry) -> None:
        self.originals.add(entry.token, entry.case, entry.own or entry.sha256, entry.instance, entry.pixels)

    def other(self, entry: Entry) -> Other | None:
        return self.originals.find(entry.token, entry.own or entry.sha256, entry.instance, entry.pixels)

    def enter(self, entries: Iterable[Entry]) -> None:
        """How files have ended; together, as they belong to one case or end at one time."""
        ended = [*entries]
        if not ended:
            return
        self.journal.record(*ended)
        for entry in ended:
            if entry.status == "done" and not entry.series:  # a slice was noted when it was put aside
                self.note_original(entry)
        self.hands.enter(ended)
        for entry in ended:
            self._count(entry.status)
        self.count_failures(sum(entry.status in ("failed", "rejected") for entry in ended))

    def count_failures(self, files: int) -> None:
        """Raises TooManyFailures: with so many more there are more than ``most_failures``."""
        self.failures += files
        if self.failures > self.most_failures:
            self.most_failures = math.inf  # said once
            raise TooManyFailures(
                f"{self.failures} files failed or were rejected, more than --max-failures allows; what is finished is saved"
            )

    def _count(self, status: str, files: int = 1) -> None:
        self.finished += files
        self.tell(self.finished, status)

    def _publish(self, hand: Hand, whole: bool) -> None:
        if hand.entries and self.crew.holds(hand.block):  # else somebody took it over, and publishes the same
            self.shares.publish(hand.block, hand.entries, whole=whole)
        self.crew.give_back(hand.block)

    def come_free(self) -> set[str]:
        """Of the blocks that others worked on, those that nobody works on any more and nobody has published."""
        free = set()
        for block in sorted(self.waiting):
            if self.shares.is_news(block):
                self.waiting.discard(block)
            elif self.is_replaced() or self.crew.take(block):
                free.add(block)  # if it was taken, it stays so
        self.waiting -= free
        return free

    def is_replaced(self) -> bool:
        """Whether another process has replaced the journal since this one read it."""
        return _state(self.out / JOURNAL) != self._seen

    def close(self) -> None:
        self.originals.close()
        if self._journal is not None:
            self._journal.close()
        self.staging.close()
        self._aside.close()


def is_complete(out: Path) -> bool:
    """Whether all that was published is settled, so that nothing is left of any shard that has begun."""
    return not any((out / WORK / "entries").glob("*.jsonl"))


def _state(path: Path) -> tuple[int, int, int]:
    """Another one after a file was replaced."""
    state = 0, 0, 0
    with unless_gone(), path.open("rb") as file:  # a file that is opened tells its true state, also where that is cached
        status = os.fstat(file.fileno())
        state = status.st_ino, status.st_mtime_ns, status.st_size
    return state
