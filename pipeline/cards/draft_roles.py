"""The role of each group of files: images, labels, a second reader, fields of view; or a question if two readings are possible."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from pipeline.cards.draft_groups import Group
from pipeline.cards.draft_looks import look_at
from pipeline.cards.draft_words import AGREEMENT, NUMBERED, READER, SECOND, VIEW
from pipeline.cards.labels import read_stored
from pipeline.errors import CardError, OcusegError
from pipeline.scans.field_of_view import detect_field_of_view

Role = Literal["images", "labels", "classes", "objects", "agreement", "second_reader", "field_of_view", "nothing"]
Takes = dict[str, str]
_SAME = 0.6
_COMPARED = 5


@dataclass
class Question:
    """``answers``: the meaning of each, and the options of `ocuseg card new` for it."""

    text: str
    answers: list[tuple[str, Takes]]


class OpenQuestionError(CardError):
    """Two readings of a folder are possible; the message names the options that choose between them."""

    def __init__(self, question: Question) -> None:
        options = "; ".join(f"{words}: {' '.join(option(key, value) for key, value in takes.items())}" for words, takes in question.answers)
        super().__init__(f"{question.text} Answer with one of: {options}")
        self.question = question


def option(key: str, value: str) -> str:
    return f"--missing {value}" if key == "--missing" else f"--take '{key}={value}'"


@dataclass
class Roles:
    """``second``: a second reader's group, and the first reader's group that it repeats."""

    images: Group
    labels: list[Group] = field(default_factory=list)
    second: list[tuple[Group, Group]] = field(default_factory=list)
    view: Group | None = None
    left_out: list[tuple[Group, str]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


def assign(groups: Sequence[Group], top: Path, takes: Takes) -> Roles | Question:
    """Roles of the groups, or the question to ask first. ``takes``: roles given by the user for a group (as shown) or a folder.

    Raises
    ------
    CardError: no images, or no files where the user named some.
    """
    wrong = [value for key, value in takes.items() if value not in get_args(Role) and key != "--missing"]
    if wrong:
        raise CardError(f"--take: unknown {wrong[0]!r}; known: {', '.join(get_args(Role))}")
    return _assigned(groups, top, takes)


def _given(group: Group, takes: Mapping[str, str]) -> str | None:
    for key, role in reversed(list(takes.items())):  # a later answer is about less
        if group.shown == key or group.shown.startswith(key.rstrip("/") + "/") or fnmatch.fnmatchcase(group.shown, key):
            return role
    return None


def _assigned(groups: Sequence[Group], top: Path, takes: Takes) -> Roles | Question:
    pictures = [g for g in groups if g.look is not None]
    given = {id(g): role for g in pictures if (role := _given(g, takes)) is not None}
    shown = ", ".join(g.shown for g in pictures)
    for key, role in takes.items():
        if key != "--missing" and not any(_given(g, {key: role}) for g in groups):
            raise CardError(f"no files fit {key!r}, which --take or --labels names; there are: {shown}")
    images = _images(pictures, given, any(role == "labels" for role in given.values()))
    if isinstance(images, Question):
        return images
    roles = Roles(images)
    chosen = any(given.get(id(g)) in ("labels", "classes", "objects", "agreement") for g in pictures if g is not images)
    fitting: list[Group] = []
    for group in pictures:
        role = given.get(id(group))
        if group is images:
            continue
        why = _why_not(group, images, role)
        if why is None and role is None and chosen and not VIEW.search(group.shown) and not _reads_again(group, pictures, given):
            why = "not among the labels that you named"
        if why is not None:
            if role in ("labels", "classes", "objects", "agreement"):
                raise CardError(f"{group.shown}: {why}; make names and sizes alike, or list the pairs in a CSV with columns image,label")
            roles.left_out.append((group, why))
        else:
            fitting.append(group)
    nameless = [g for g in pictures if not g.named and g.is_label and id(g) not in given and g.shown != g.folder]
    if nameless and not fitting and not any(g.look is None and g.extension != ".csv" for g in groups):
        return _which(nameless)
    return _labels(roles, fitting, given, top, takes)


def _images(pictures: Sequence[Group], given: Mapping[int, str], chosen: bool) -> Group | Question:
    said = [g for g in pictures if given.get(id(g)) == "images"]
    free = [g for g in pictures if id(g) not in given and g.named]
    candidates = said or [g for g in free if not g.is_label]
    if not candidates:
        if chosen and len(free) == 1:  # what is left once the labels are named
            return free[0]
        if any(not g.named for g in pictures):
            raise CardError(_unnamed(pictures))
        raise CardError(
            "every picture in the folder looks like a label (it has few values); put the images beside them, or say which they are: "
            "--take 'FOLDER=images'"
        )

    def partners(group: Group) -> int:
        return sum(bool(other.matched(group)) for other in pictures if other.is_label)

    best = max(candidates, key=lambda g: (partners(g), len(g.files)))
    rivals = [g for g in candidates if g is not best and partners(g) == partners(best) and 2 * len(g.matched(best)) > len(best.files)]
    if rivals and not said:
        both = [best, *rivals]
        answers = [(f"{g.shown} are the images", {g.shown: "images"}) for g in both]
        return Question(f"Pictures of the same names lie in {' and '.join(g.shown for g in both)}.", answers)
    return best


def _unnamed(pictures: Sequence[Group]) -> str:
    names = ", ".join(sorted({g.shown.rpartition("/")[0] for g in pictures if not g.named}))
    return (
        f"no word in the folder names {names} says what they hold, and a name that may identify somebody is not written unasked; say what "
        "they are with --take 'FOLDER=images', --take 'FOLDER=labels', or that no name identifies anybody with --public"
    )


def _which(nameless: Sequence[Group]) -> Question:
    """The question about folders of labels without a known word, if they are the only labels."""
    folders = sorted({g.shown.rpartition("/")[0] for g in nameless})
    answers: list[tuple[str, Takes]] = [(f"the labels are in {folder}", {folder: "labels"}) for folder in folders]
    pairs = [(one, two) for one in folders for two in folders if one != two] if len(folders) == 2 else []
    answers += [(f"in {one}, and {two} is a second reader's", {one: "labels", two: "second_reader"}) for one, two in pairs]
    if len(folders) > 1:
        answers.append(("in all of them, each a different class", dict.fromkeys(folders, "labels")))
    return Question(f"Labels lie in {' and '.join(folders)}; names that are used go into the card: which are the labels?", answers)


def _why_not(group: Group, images: Group, role: str | None) -> str | None:
    """Why a group cannot be used, or None."""
    if role == "nothing":
        return "you said nothing"
    if not group.named and role is None:
        return "no word in its name says what it is, and it may identify somebody: name it with --take, or allow all names with --public"
    if not group.is_label and role is None:
        return "pictures, not labels"
    matched = group.matched(images)
    if not matched or 2 * len(matched) < min(len(images.files), len(group.files)):
        return "no label has a name that fits an image"
    sizes = [{_plane(shape) for shape in g.look.shapes} for g in (group, images) if g.look is not None]
    return None if len(sizes) == 2 and sizes[0] & sizes[1] else "of another size than the images"


def _plane(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The sides of a picture, shortest first, without an axis of one slice: a NIfTI label may have its axes in another order."""
    plane = shape[:-1] if len(shape) == 3 and shape[-1] == 3 else shape
    return tuple(sorted(side for side in plane if side > 1))


def _readerless(group: Group) -> str:
    """A group's name without the reader's: equal for two readers of the same labels."""
    return re.sub(r"[_\-. ]+(?=/|\.\w+$|$)", "", READER.sub("", group.shown).lower())


def _reads_again(group: Group, pictures: Sequence[Group], given: Mapping[int, str]) -> bool:
    first = [g for g in pictures if given.get(id(g)) == "labels"]
    return bool(SECOND.search(group.shown)) and any(_readerless(g) == _readerless(group) for g in first)


def _labels(roles: Roles, fitting: list[Group], given: Mapping[int, str], top: Path, takes: Takes) -> Roles | Question:
    for group in fitting:
        if given.get(id(group)) == "field_of_view" or (
            id(group) not in given and roles.view is None and _is_view(group, roles.images, top)
        ):
            roles.view = group
    rest = [g for g in fitting if g is not roles.view]
    for group in rest:
        full = look_at([top / file for file in group.files.values()])
        group.look = full if full is not None and full.kind != "picture" else group.look
    seconds = [g for g in rest if given.get(id(g)) == "second_reader"]
    rest = [g for g in rest if g not in seconds]
    series: dict[str, list[Group]] = {}
    for group in rest:
        series.setdefault(_readerless(group), []).append(group)
    for again in series.values():
        again.sort(key=lambda g: (given.get(id(g)) is None, bool(SECOND.search(g.shown)), g.shown))
        first, *others = again
        roles.labels.append(first)
        for number, group in enumerate(others):
            if given.get(id(group)) is not None:
                roles.labels.append(group)
            elif number == 0 and first.look is not None and group.look is not None and first.look.values == group.look.values:
                roles.second.append((group, first))
            else:
                roles.left_out.append((group, "a third reader of the same; a card has two"))
    roles.second += [(g, repeats) for g in seconds if (repeats := _repeated(g, roles.labels)) is not None]
    return _twice(roles, given, top) or _kinds(roles, given) or _gaps(roles, takes) or roles


def _repeated(group: Group, firsts: Sequence[Group]) -> Group | None:
    """The first reader's group most similar to this one."""
    return max(
        firsts,
        key=lambda g: (g.look == group.look, g.look is not None and group.look is not None and g.look.kind == group.look.kind),
        default=None,
    )


def _is_view(group: Group, images: Group, top: Path) -> bool:
    """Whether it is a field of view: by its name, or a single piece that covers a photograph up to its dark surround."""
    if group.look is None or group.look.kind not in ("classes", "agreement") or len(group.look.values) > 1:
        return False
    if VIEW.search(group.shown):
        return True
    for key, file in list(group.matched(images).items())[:_COMPARED]:
        try:
            mask, stored = read_stored(top / file), read_stored(top / images.files[key])
        except OcusegError:
            return False
        inside = (mask.max(axis=-1) if mask.ndim == 3 and mask.shape[-1] == 3 else mask) > 0
        if inside.ndim != 2 or stored.ndim != 3 or stored.shape[-1] != 3 or inside.mean() > 0.99:
            return False
        view = detect_field_of_view(np.moveaxis(stored, -1, 0))
        if view.shape != inside.shape or np.sum(view & inside) < 0.9 * np.sum(view | inside):
            return False
    return True


def _twice(roles: Roles, given: Mapping[int, str], top: Path) -> Question | None:
    """Handles labels that mark the same pixels as others: the user's choice is kept, without one a question is asked."""
    for index, one in enumerate(roles.labels):
        for other in roles.labels[index + 1 :]:
            if not _same_marks(one, other, roles.images, top):
                continue
            said = [g for g in (one, other) if id(g) in given]
            if len(said) == 2:
                continue
            if said:
                less = other if said[0] is one else one
                roles.labels.remove(less)
                roles.left_out.append((less, f"marks the same as {said[0].shown}"))
                return _twice(roles, given, top)
            answers = [(f"{g.shown} alone", {g.shown: "labels", h.shown: "nothing"}) for g, h in ((one, other), (other, one))]
            if one.look is not None and other.look is not None and (one.look.kind, one.look.values) == (other.look.kind, other.look.values):
                answers += [
                    (f"{g.shown}, and {h.shown} by a second reader", {g.shown: "labels", h.shown: "second_reader"})
                    for g, h in ((one, other), (other, one))
                ]
            answers.append(("both, as different classes", {one.shown: "labels", other.shown: "labels"}))
            return Question(f"{one.shown} and {other.shown} mark the same pixels: which are the labels?", answers)
    return None


def _same_marks(one: Group, other: Group, images: Group, top: Path) -> bool:
    """Whether a class of one group, or all of them, is nearly a class of the other, in each of a few images."""
    mine, theirs = one.matched(images), other.matched(images)
    shared = [key for key in mine if key in theirs][:_COMPARED]
    agreed = 0
    for key in shared:
        try:
            marks = [_marks(read_stored(top / files[key])) for files in (mine, theirs)]
        except OcusegError:
            continue
        pairs = ((a, b) for a in marks[0] for b in marks[1] if a.shape == b.shape)
        agreed += any((a & b).sum() > _SAME * (a | b).sum() for a, b in pairs)
    return bool(shared) and 2 * agreed > len(shared)


def _marks(stored: npt.NDArray[np.generic]) -> list[npt.NDArray[np.bool_]]:
    if stored.ndim == 3 and stored.shape[-1] == 3:
        stored = stored.astype(np.int64) @ np.array([65536, 256, 1])
    values = [v for v in np.unique(stored) if v]
    each = [stored == v for v in values] if len(values) <= 8 else []
    return [mark for mark in [stored != 0, *each] if mark.any()]


def _kinds(roles: Roles, given: Mapping[int, str]) -> Question | None:
    """Settles what values mean if the pixels leave it open."""
    for group in roles.labels:
        look, role = group.look, given.get(id(group))
        if look is None:
            continue
        if role in ("classes", "objects", "agreement"):
            look.kind = role  # type: ignore[assignment]
        elif " or " in look.kind:
            first, second = look.kind.split(" or ")
            if (AGREEMENT if second == "agreement" else NUMBERED).search(group.shown):
                look.kind = second  # type: ignore[assignment]
                continue
            values = ", ".join(map(str, look.values[:6])) + (", ..." if len(look.values) > 6 else "")
            meant = {
                "classes": "each a class",
                "objects": "each one object, numbered anew in each image",
                "agreement": "how many readers agree",
            }
            answers = [(meant[kind], {group.shown: kind}) for kind in (first, second)]
            return Question(f"{group.shown} hold the values {values}: what do they stand for?", answers)
    return None


def _gaps(roles: Roles, takes: Takes) -> Question | None:
    """Settles images without a label: is nothing there, or has nobody labelled them?"""
    for group in roles.labels:
        lacking = len(roles.images.files) - len(group.matched(roles.images))
        if not lacking:
            continue
        if "--missing" not in takes:
            text = f"{lacking} of {len(roles.images.files)} images have no file in {group.shown}: nothing there, or not labelled?"
            answers: list[tuple[str, Takes]] = [("nothing is there", {"--missing": "empty"}), ("not labelled", {"--missing": "skip"})]
            return Question(text, answers)
        roles.missing[group.shown] = takes["--missing"]
    if roles.view is not None and len(roles.view.matched(roles.images)) < len(roles.images.files):
        roles.left_out.append((roles.view, "not every image has a field of view"))
        roles.view = None
    return None
