"""The files of a folder in groups with the same place, naming scheme and kind, each with the pattern that fits exactly its files."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.cards.draft_looks import Look, look_at
from pipeline.cards.draft_words import EXTENSION, names_a_kind, part_of, shape, split_stem, states_eye
from pipeline.errors import OcusegError
from pipeline.scans.eyes import eye_of
from pipeline.scans.segmentation import segment_labels
from pipeline.types import ProgressCallback

_LOOKED_AT = 12
_FEW = 6
_LEVELS = ("{patient}", "{visit}", "{series}")
TEXTS = (".txt", ".xml", ".json", ".csv", ".names")
Key = tuple[str, ...]
"""What distinguishes the images of a set: the identifying words of folders and names."""


@dataclass
class Group:
    """``files`` by key; ``folder``, ``before``, ``after`` are parts of the pattern. ``named``: the pattern fits no other group's files.

    ``shown`` is its name for people: its folders as they are, and * for what differs.
    """

    folder: str
    before: str
    after: str
    extension: str
    files: dict[Key, str]
    shown: str
    look: Look | None = None
    named: bool = True
    extensions: tuple[str, ...] = ()
    shapes: dict[str, str] = field(default_factory=dict)

    def pattern(self, name: str = "{name}") -> str:
        """The card's pattern, with ``name`` for what differs from file to file."""
        ending = self.extension
        if len(self.extensions) > 1:
            ending = "{ending:" + "|".join(e.replace(".", "\\.") for e in self.extensions) + "}"
        elif not ending and any("." in file.rpartition("/")[2] for file in self.files.values()):
            ending = ""
        file = f"{self.before}{name if self.middles != {''} else ''}{self.after}{ending}"
        text = f"{self.folder}/{file}" if self.folder else file
        for stated, expression in self.shapes.items():
            text = text.replace(f"{{{stated}}}", f"{{{stated}:{expression}}}", 1)
        return text

    @property
    def names(self) -> tuple[str, ...]:
        """Fields of the pattern, in the order of the keys."""
        found = re.findall(r"\{(\w+)\}", self.folder)
        found += ["part"] if "{part}" in self.before + self.after else []
        return (*found, "name")

    def matched(self, images: Group) -> dict[Key, str]:
        """The file that belongs to each image, by the image's key; empty if the patterns do not have the same fields."""
        own = tuple(name for name in self.names if name != "name" or self.middles != {""})
        if not set(own) <= set(images.names):
            return {}
        files = {tuple(value for name, value in zip(self.names, key, strict=True) if name in own): file for key, file in self.files.items()}
        known = ((key, dict(zip(images.names, key, strict=True))) for key in images.files)
        return {key: files[wanted] for key, said in known if (wanted := tuple(said[name] for name in own)) in files}

    @property
    def middles(self) -> set[str]:
        return {key[-1] for key in self.files}

    @property
    def is_label(self) -> bool:
        return self.look is not None and self.look.is_label


def groups_of(files: Sequence[str], top: Path, literal: Sequence[str] = (), *, public: bool = False) -> list[Group]:
    """Groups of relative paths.

    ``literal``: folders, as shown, that the user has named: they are written as they are, like all folders of a public set.
    """
    places = _folders(files, top, literal, public)
    found: dict[tuple[str, str, str, str], list[tuple[Key, str, str]]] = defaultdict(list)
    for relative, (folder, key, shown) in zip(files, places, strict=True):
        file = relative.rpartition("/")[2]
        ending = match[0] if (match := EXTENSION.search(file)) else ""
        stem = split_stem(file.removesuffix(ending))
        part = () if stem.part is None else (stem.part,)
        found[folder, stem.before, stem.after, ending].append(((*key, *part, stem.middle), relative, shown))
    _join_words(found)
    groups = []
    for (folder, before, after, ending), members in sorted(found.items()):
        shown = members[0][2] if len({shown for _, _, shown in members}) == 1 else folder
        name = f"{before}*{after}{ending}"
        one = Group(
            folder,
            before,
            after,
            ending,
            {key: file for key, file, _ in members},
            f"{shown}/{name}" if shown else name,
            extensions=(ending,),
        )
        groups.append(_with_suffix(_with_parts(one), public or any(f"{shown}/".startswith(f"{name}/") for name in literal)))
    return _merged(groups)


def _join_words(found: dict[tuple[str, str, str, str], list[tuple[Key, str, str]]]) -> None:
    """A name that consists of known words alone ("test.png") counts as a name like the others in its folder."""
    for place in [place for place, members in found.items() if all(key[-1] == "" for key, _, _ in members)]:
        folder, _, _, ending = place
        others = [p for p, members in found.items() if p[0] == folder and p[3] == ending and members[0][0][-1] and "{" not in p[1] + p[2]]
        for key, relative, shown in found[place] if others else ():
            stem = _stem(relative)
            fits = [p for p in others if stem.startswith(p[1]) and stem.endswith(p[2]) and len(stem) > len(p[1] + p[2])]
            _, before, after, _ = best = max(fits, key=lambda p: len(p[1] + p[2]), default=(folder, "", "", ending))
            depth = folder.count("{")
            found[best].append(((*key[:depth], stem[len(before) : len(stem) - len(after)]), relative, shown))
        if others:
            del found[place]


def _with_parts(group: Group) -> Group:
    """A word for a part that all files share distinguishes nothing and is kept literally."""
    if "{part}" not in group.before + group.after or "{part}" in group.folder:
        return group
    words = {word for file in group.files.values() for word in [split_stem(_stem(file)).part] if word}
    if len(words) == 1:
        word = words.pop()
        group.before, group.after, group.shown = (t.replace("{part}", word) for t in (group.before, group.after, group.shown))
        group.files = {(*key[:-2], key[-1]): file for key, file in group.files.items()}
    return group


def _stem(file: str) -> str:
    return EXTENSION.sub("", file.rpartition("/")[2])


def _with_suffix(group: Group, free: bool) -> Group:
    """An ending that all names share ("im01.ah", "im02.ah") is part of the pattern if names are ``free`` to be written; a short word
    for a structure ("_OD" in a folder of optic discs) always is."""
    found = {match[0] if (match := re.search(r"[_\-. ][A-Za-z]+$", middle)) else "" for middle in group.middles}
    suffix = found.pop() if len(found) == 1 else ""
    structure = suffix[1:].upper() == "OD" and re.search("disc|disk|optic", group.folder, re.IGNORECASE) is not None
    if suffix and ((free and not eye_of(suffix[1:])) or structure):
        group.after = suffix + group.after
        group.files = {(*key[:-1], key[-1].removesuffix(suffix)): file for key, file in group.files.items()}
    return group


def _merged(groups: list[Group]) -> list[Group]:
    """Groups that differ in the extension alone (.jpg and .JPG, .png and .jpg) and hold different images, as one."""
    out: dict[tuple[str, str, str], Group] = {}
    rest: list[Group] = []
    for group in groups:
        place = (group.folder, group.before, group.after)
        other = out.get(place)
        if group.extension.lower() in TEXTS or not group.extension:
            rest.append(group)
        elif other is None or set(other.files) & set(group.files):
            out.setdefault(place, group)
            rest += [group] if other is not None else []
        else:
            other.files |= group.files
            other.extensions = (*other.extensions, group.extension)
            other.shown = other.shown.removesuffix(other.extensions[0]) + ".*" if len(other.extensions) == 2 else other.shown
    return [*out.values(), *rest]


def is_segmentation(path: Path) -> bool:
    """Whether a file is a DICOM segmentation, by its header."""
    try:
        return segment_labels(path) is not None
    except OcusegError:
        return False


Looks = dict[tuple[str, ...], Look | None]


def with_looks(groups: Sequence[Group], top: Path, looks: Looks, progress: ProgressCallback | None = None) -> list[Group]:
    """The groups of pictures and text files, with what the pixels of a few of each show; ``looks`` caches that."""
    out = []
    for done, group in enumerate(groups, 1):
        if group.extension.lower() not in TEXTS:
            every = sorted(group.files.values())
            files = tuple(every[:: max(len(every) // _LOOKED_AT, 1)][:_LOOKED_AT])
            if files not in looks:
                looks[files] = look_at([top / file for file in files])
            group.look = copy(looks[files])
            if group.look is not None or is_segmentation(top / every[0]):
                out.append(group)
        else:
            out.append(group)
        if progress is not None:
            progress(done, len(groups))
    return out


def _folders(files: Sequence[str], top: Path, literal: Sequence[str], public: bool) -> list[tuple[str, Key, str]]:
    """(pattern, captured fields, as shown) of each file's folder: words for kinds of files literally, official parts as {part}, eyes as
    {eye}, folders beside others with files of the same names as * (shown literally), and every other level as {patient}, {visit},
    ... or, if it has one folder only, as *."""
    split = [file.split("/")[:-1] for file in files]
    stems = [split_stem(_stem(file)).middle for file in files]
    chosen = {tuple(folder.split("/")[: n + 1]) for folder in literal for n in range(folder.count("/") + 1)}
    out: list[list[str]] = [[] for _ in files]
    keys: list[list[str]] = [[] for _ in files]
    shown: list[list[str]] = [[] for _ in files]
    for depth in range(max(map(len, split), default=0)):
        together: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for index, parents in enumerate(split):
            if len(parents) > depth:
                together[tuple(out[index])].append(index)
        for before, members in together.items():
            holds: dict[str, set[str]] = defaultdict(set)
            for index in members:
                holds[split[index][depth]].add(stems[index])
            kinds = {n for n in holds if names_a_kind(n)}
            kinds |= {split[i][depth] for i in members if (*shown[i], split[i][depth]) in chosen}
            told = _beside(holds, kinds)
            if not kinds and 2 <= len(holds) <= _FEW:
                told = _unlike({name: [top / files[i] for i in members if split[i][depth] == name] for name in holds})
            names = set(holds) - kinds - told
            level, captures = "*", False
            if len(holds) > 1 and all(map(part_of, holds)) and "{part}" not in before:
                level, captures, kinds, told, names = "{part}", True, set(), set(), set(holds)
            elif names and all(map(states_eye, names)) and "{eye}" not in before:
                level, captures = "{eye}", True
            elif len(names) > 1:
                known = sum(text in before for text in _LEVELS)
                level, captures = (_LEVELS[known], True) if known < len(_LEVELS) else ("*", False)
            for index in members:
                own = split[index][depth]
                if own in kinds or (own in told and public):
                    out[index].append(own)
                    shown[index].append(own)
                elif own in told:
                    out[index].append(f"*{own}")  # apart from the others, and marked as unnamed
                    shown[index].append(own)
                else:
                    out[index].append(level)
                    shown[index].append(level)
                    if captures:
                        keys[index].append(own)
    return [("/".join(o), tuple(k), "/".join(s)) for o, k, s in zip(out, keys, shown, strict=True)]


def _beside(holds: dict[str, set[str]], kinds: set[str]) -> set[str]:
    """Folders without a known word that hold files of the same names as a folder with one: not patients."""

    def alike(name: str, other: str) -> bool:
        shared = len(holds[name] & holds[other])
        return shared > 1 and 2 * shared >= min(len(holds[name]), len(holds[other]))

    return {name for name in set(holds) - kinds if any(alike(name, other) for other in kinds)}


def _unlike(holds: dict[str, list[Path]]) -> set[str]:
    """A few folders without a known word are not patients if some hold only pictures and others only labels."""
    kinds = []
    for paths in holds.values():
        looks = [look_at([paths[place]]) for place in {0, len(paths) // 2, len(paths) - 1}]
        kinds.append({look.is_label for look in looks if look is not None})
    return set(holds) if {True} in kinds and {False} in kinds and {True, False} not in kinds else set()


def make_exact(groups: Sequence[Group]) -> None:
    """Make sure that no pattern fits another group's files: by the shape of names if that suffices, else ``named`` is False."""
    from pipeline.cards.patterns import Pattern

    for group in groups:
        if "*" in group.folder.replace("/*/", "/") and any(part.startswith("*") and len(part) > 1 for part in group.folder.split("/")):
            group.named = False
            continue
        others = [file for other in groups if other is not group for file in other.files.values()]

        def free(group: Group = group, others: Sequence[str] = others) -> bool:
            fits = Pattern.compile(group.pattern()).match
            return not any(fits(file) for file in others)

        depths = {part: depth for depth, part in enumerate(group.folder.split("/")) if part in _LEVELS}
        levels = {part[1:-1]: shape({file.split("/")[depth] for file in group.files.values()}) for part, depth in depths.items()}
        names = {"name": shape(group.middles)} if group.middles != {""} else {}
        group.named = False
        for shapes in ({}, levels, names, levels | names):
            group.shapes = shapes
            if free():
                group.named = True
                break
