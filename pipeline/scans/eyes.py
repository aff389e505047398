"""Which eye a word, a file's name or a whole set of names states: OD / OS, right / left, R / L, and their equivalents in other languages.

=============  =========================  ==========================================
right          left                       from
=============  =========================  ==========================================
OD             OS, OI, OG, OE             Latin; Spanish, Italian; French; Portuguese
right, R, RE   left, L, LE                English
droit(e), D    gauche, G                  French
derecho, -a    izquierdo, -a              Spanish
direito, -a    esquerdo, -a               Portuguese
rechts, RA     links, LA                  German
destro, DX     sinistro, SX               Italian
=============  =========================  ==========================================

A field meant for the eye may use any of them. In a file name only words that can hardly mean anything else count; D and G, RA and LA and
the like count if a set of names shows them in pairs. A single lower-case letter is too often a list index ("scan_l_2").
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline.types import Laterality

_CLEAR: dict[str, Laterality] = {
    **dict.fromkeys(("od", "right", "droit", "droite", "derecho", "derecha", "direito", "direita", "rechts", "destro"), "R"),
    **dict.fromkeys(("os", "left", "gauche", "izquierdo", "izquierda", "esquerdo", "esquerda", "links", "sinistro"), "L"),
}
"""Words that state an eye in any case."""
_CAPITAL: dict[str, Laterality] = {"R": "R", "RE": "R", "L": "L", "LE": "L", "OI": "L", "OG": "L", "OE": "L"}
"""Words that state an eye in a name if written in capitals."""
_STATED: dict[str, Laterality] = {
    **_CLEAR,
    **{word.lower(): side for word, side in _CAPITAL.items()},
    **dict.fromkeys(("d", "ra", "dx"), "R"),
    **dict.fromkeys(("g", "la", "sx"), "L"),
}
BOTH = "OU"
"""Both eyes: says nothing about the side, and is not part of the patient's name."""

PAIRS = (
    *(("OD", left) for left in ("OS", "OI", "OG", "OE")),
    *(("D", left) for left in "GEIS"),
    ("RE", "LE"), ("RA", "LA"), ("DX", "SX"),
)  # fmt: skip
"""(right, left) words that only a set of names can confirm; two-letter ones in any case."""
_LIKE_AN_EYE = re.compile("[rldgeis]|o[dsige]|[rl][ea]|[ds]x|right|left", re.IGNORECASE)
_FEWEST_PAIRS = 2

_WORD = re.compile(r"[0-9]+|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^A-Za-z0-9]+|[A-Z]")


def eye_of(text: str | None) -> Laterality | None:
    """The eye that a field states, in any case; None for words that state none ("both", "0", None)."""
    return _STATED.get(text.strip().lower()) if text else None


@dataclass(frozen=True)
class _Word:
    """A word of a name: ``text``, the name without it, the characters beside it, and whether no other word follows."""

    text: str
    rest: str
    before: str
    after: str
    last: bool

    @property
    def alone(self) -> bool:
        """Nothing but separators beside it, or digits before it: "P_R", "01R"; not "R2", "eyeR"."""
        return not self.after.isalnum() and (not self.before.isalnum() or self.before.isdigit())


def _words(stem: str) -> Iterator[_Word]:
    """The words of a name, split at separators, digits and a capital after lower-case letters."""
    pieces = _WORD.findall(stem)
    for number, piece in enumerate(pieces):
        before, after = "".join(pieces[:number]), "".join(pieces[number + 1 :])
        if not piece.isalnum() or any(c.isalnum() and not c.isascii() for c in before[-1:] + piece + after[:1]):
            continue  # a separator, or a part of a word with other letters
        yield _Word(piece, _joined(before, after), before[-1:], after[:1], not any(map(str.isalnum, after)))


def _joined(before: str, after: str) -> str:
    """What is left of a name, with one separator where the word stood, and none at the ends."""
    if before and after and not before[-1].isalnum() and not after[0].isalnum():
        after = after.lstrip("".join({c for c in after if not c.isalnum()})) or ""
    return re.sub(r"^[\W_]+|[\W_]+$", "", before + after)


def _side(word: _Word) -> Laterality | None:
    clear = _CLEAR.get(word.text.lower())
    if clear and len(word.text) > 2:
        return clear
    if clear and not any(map(str.isalpha, word.before + word.after)):
        return clear  # "P1_OD2", but not "iOS"
    return clear or _CAPITAL.get(word.text) if word.alone else None


def laterality_from_name(stem: str) -> tuple[Laterality | None, str]:
    """The eye that a file's name states, and the name without that statement (so that both eyes share a patient).

    Only a clear word counts: OD, OS, right, left and the like in any case, a capital R, L, RE, LE, OI, OG or OE of its own or after digits.
    Two words that contradict each other count as none.

    >>> laterality_from_name("Image_01L")
    ('L', 'Image_01')
    >>> laterality_from_name("RET002OD")
    ('R', 'RET002')
    >>> laterality_from_name("glaucoma_0017")
    (None, 'glaucoma_0017')
    """
    sides = {side for word in _words(stem) if (side := _side(word))}
    if len(sides) > 1:
        return None, stem
    rest = stem
    while (word := next((word for word in _words(rest) if _side(word) or word.text == BOTH), None)) and word.rest:
        rest = word.rest
    return (sides.pop() if sides else None), rest


@dataclass(frozen=True)
class NamedEyes:
    """The eyes that a whole set of names states.

    ``of``: (eye or None, name without it) of each name; ``rule``: how eyes were read, in words, or "" where no name states one;
    ``question``: two unknown words in which names differ in pairs, as pictures of two eyes would; ``example``: the first pair.
    """

    of: dict[str, tuple[Laterality | None, str]]
    rule: str = ""
    question: tuple[str, str] | None = None
    example: tuple[str, str] | None = None


def eyes_in_names(stems: Iterable[str]) -> NamedEyes:
    """Read the eyes of a set of file names (without extensions): by clear words, else by a convention that the set shows in pairs."""
    of = {stem: laterality_from_name(stem) for stem in dict.fromkeys(stems)}
    spoken = {word.text for stem, (side, _) in of.items() if side for word in _words(stem) if _side(word)}
    rules = [f"{word} {'right' if _CLEAR.get(word.lower(), _CAPITAL.get(word)) == 'R' else 'left'}" for word in sorted(spoken)]
    silent = [stem for stem, (side, _) in of.items() if side is None]
    right, left, pairs = max(((*pair, _pairs(silent, *pair)) for pair in PAIRS), key=lambda found: len(found[2]))
    if len(pairs) >= _FEWEST_PAIRS and 2 * len(pairs) >= len(silent) / 2:
        for rest, (first, second) in pairs.items():
            of[first], of[second] = ("R", rest), ("L", rest)
        rules += [f"{right} right", f"{left} left"]
        silent = [stem for stem in silent if of[stem][0] is None]
    question, example = _question(silent)
    return NamedEyes(of, ", ".join(rules), question, example)


def _pairs(stems: list[str], right: str, left: str) -> dict[str, tuple[str, str]]:
    """(right, left) names by what is left of them; a rest that occurs with only one of the two is not a pair."""
    sides: tuple[dict[str, str], dict[str, str]] = {}, {}
    for stem in stems:
        for word in _words(stem):
            text = word.text.upper() if len(right) > 1 else word.text
            if text in (right, left) and (word.alone or len(right) > 1) and word.rest:
                sides[text == left][word.rest] = stem
    return {rest: (stem, sides[1][rest]) for rest, stem in sides[0].items() if rest in sides[1]}


def _question(stems: list[str]) -> tuple[tuple[str, str] | None, tuple[str, str] | None]:
    """The two words that are the only difference between nearly all names in pairs, and one pair; (None, None) if there are none."""
    groups: dict[str, dict[str, str]] = {}
    for stem in stems:
        for word in _words(stem):
            number = word.text.isdigit()
            if (
                word.rest
                and (word.last or _LIKE_AN_EYE.fullmatch(word.text))
                and (not number or (word.alone and not word.before.isdigit() and word.text in "012"))
            ):
                groups.setdefault(word.rest, {})[word.text] = stem
    couples = Counter(tuple(sorted(group)) for group in groups.values() if len(group) == 2)
    if not couples:
        return None, None
    (words, count), *_ = couples.most_common(1)
    if count < _FEWEST_PAIRS or 2 * count < 0.8 * len(stems):
        return None, None
    example = next(group for group in groups.values() if tuple(sorted(group)) == words)
    return (words[0], words[1]), (example[words[0]], example[words[1]])
