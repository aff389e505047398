"""What a draft takes from file and folder names: kinds of files, official parts and readers, but never people."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.cards.patterns import Pattern
from pipeline.scans.eyes import eye_of

PARTS: dict[str, str] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
VIEW = re.compile(r"fov|field.?of.?view", re.IGNORECASE)
_PERSON = "manual|expert|reader|observer|grader|annotator|rater"
READER = re.compile(
    rf"(?<![a-z])(?:(?:1st|2nd|first|second)[_\- ]?)?(?:{_PERSON}|ho)s?(?:[_\- ]?[\dab])?"
    r"(?![a-z0-9])|1st|2nd",
    re.IGNORECASE,
)
SECOND = re.compile(rf"2nd|second|(?:{_PERSON}|mask|label|gt)s?.?(?:2|b)(?![a-z0-9])", re.IGNORECASE)
AGREEMENT = re.compile(r"soft|prob|agree|heat", re.IGNORECASE)
NUMBERED = re.compile(r"instance|(?<![a-z])ids?(?![a-z])|object", re.IGNORECASE)
# Only endings that name a format: what follows the last dot of "Doe.Jane" is no extension.
EXTENSION = re.compile(
    r"\.(?:nii|dcm|dicom|ima|img|png|jpe?g|jp2|j2k|jls|tiff?|gif|bmp|p[bgnp]m|webp|avif|mh[ad]|nrrd|vol|e2e|fd[as]|txt|xml|json|csv|names)"
    r"(?:\.gz)?$",
    re.IGNORECASE,
)
# Whole words that name a kind of file. Nothing open-ended: "seg.*" and "val.*" would also be Segers and Valentina.
_KIND = re.compile(
    r"(?:images?|imgs?|originals?|scans?|photos?|photographs?|pictures?|raw|data|datasets?|sets?|masks?|labels?|lbls?|annos?|targets?|inputs?|seg|segs|segmentations?"
    r"|gt|ground|truths?|groundtruths?|annotations?|second|first|ho"
    rf"|(?:{_PERSON})s?"
    r"|fov|fundus|cfp|octa?|slo|volumes?|bscans?|vessels?|arter(?:y|ies)|veins?|av|dis[ck]s?|cups?|optic|fovea|macula|lesions?|exudates?"
    r"|hard|soft|ha?emorrhages?|microaneurysms?|fluids?|layers?|computed|auto|automatic"
    r"|corrected|final|binary|colou?rs?|rgb|gr[ae]y|full|half|size|resized|cropped|small|instances?|ids?|objects?|semantic|panoptic"
    r"|maps?|softmaps?|probs?|probability|agreement|yolo|coco|boxes|bbox|bboxes|polygons?|splits?|classes|obj|retinal?|with|of|and|all|only"
    r"|bild|bilder|fotos?|masken?|imagen|imagenes|mascaras?|masques?|etiquetas?|o[dc]seg|cupseg|dis[ck]seg)\d?|(?:train|training|val|valid|validation|test|testing)\d*|[12](?:st|nd)",
    re.IGNORECASE,
)
# Short forms of lesions and structures, which stand for them only beside other words: "MA" alone may be anybody's initials.
_SHORT = re.compile(r"MA|HE|EX|SE|CWS|OD|OC|NV", re.IGNORECASE)


def words(text: str) -> list[str]:
    """The words of a name, without a number or letter that counts folders ("2. Masks", "a. Training Set")."""
    text = re.sub(r"^[A-Za-z0-9]{1,2}[.)] *(?=\S)", "", text)
    spaced = re.sub(r"field.?of.?view", "fov", text, flags=re.IGNORECASE)
    return [w for w in re.split(r"[^A-Za-z0-9]+|(?<=[a-z])(?=[A-Z])", spaced) if w]


def names_a_kind(text: str, *, alone: bool = True) -> bool:
    """Whether every word of ``text`` names a kind of file ("2nd_manual", "GroundTruth"), numbers below 100 aside.

    ``alone``: at least one word must; a number by itself may identify somebody.
    """
    found = words(text)
    told = [bool(_KIND.fullmatch(word)) for word in found]
    rest = r"\d{1,2}|" + _SHORT.pattern if any(told) else r"\d{1,2}"
    rest += "|[a-d]" if READER.search(text) else ""
    known = all(kind or re.fullmatch(rest, w, re.IGNORECASE) for w, kind in zip(found, told, strict=True))
    return text.isascii() and known and (any(told) or not alone)


def part_of(text: str) -> str | None:
    """The official part that a folder's name stands for: "a. Training Set" is train, "Training400" too."""
    found = {part for word in words(text) if (part := PARTS.get(word.rstrip("0123456789").lower())) is not None}
    return found.pop() if len(found) == 1 and names_a_kind(text) else None


@dataclass(frozen=True)
class Stem:
    """A file's name in three pieces: ``middle`` is a name or number that may identify people, ``before`` and ``after`` name a kind of file.

    A word for an official part is written {part} there: "21_training_mask" is "", "21", "_{part}_mask".
    """

    before: str
    middle: str
    after: str
    part: str | None = None


def split_stem(stem: str) -> Stem:
    tokens = re.split(r"([_\-. ]+)", stem)  # word, separator, word, ...
    part: list[str] = []

    def literal(token: str) -> str | None:
        if token.lower() in PARTS and (not part or part[0] == token):
            part[:] = [token]
            return "{part}"
        if names_a_kind(token) or (len(tokens) > 2 and re.fullmatch("MA|HE|EX|SE|CWS|OC", token)):
            return token
        return None

    before, after = "", ""
    while tokens and (text := literal(tokens[0])) is not None:
        before += text + "".join(tokens[1:2])
        tokens = tokens[2:]
    while tokens and (text := literal(tokens[-1])) is not None:
        after = "".join(tokens[-2:-1]) + text + after
        tokens = tokens[:-2]
    return Stem(before, "".join(tokens), after, part[0] if part else None)


def shape(names: set[str]) -> str:
    """A regular expression of letters and digits for names, without a letter of them: P01, P12 are [A-Z]\\d\\d."""

    def of(name: str) -> str:
        out = re.sub(r"[a-z]+", "a", re.sub(r"[A-Z]+", "A", re.sub(r"\d+", "0", name)))
        out = "".join(c if c in "aA0" or not c.isalnum() else "?" for c in out)
        return "".join({"a": "[a-z]+", "A": "[A-Z]+", "0": r"\d+", "?": "[^/]"}.get(c, re.escape(c)) for c in out)

    found = sorted({of(name) for name in names})
    return "|".join(found) if len(found) <= 3 and not any(c in text for text in found for c in "{}") else "[^/]+"


_EYE = Pattern.compile("{eye}")


def states_eye(word: str) -> bool:
    """Whether a pattern's field {eye} fits a word, so that a draft may use it."""
    return _EYE.match(word) is not None and eye_of(word) is not None


_EYE_AT_END = re.compile(r"(?P<patient>.*[^_\-. A-Za-z]|.+(?=[_\-. ]))(?P<gap>[_\-. ]?)(?P<eye>[A-Za-z]+)")


def eye_at_end(names: set[str]) -> str | None:
    """ "{patient}_{eye}" where every name is a patient and an eye, some patient has both and the eye is told apart from the name."""
    found = [_EYE_AT_END.fullmatch(name) for name in names]
    if not names or not all(m is not None and states_eye(m["eye"]) for m in found):
        return None
    told = [(m["patient"], m["gap"], eye_of(m["eye"])) for m in found if m is not None]
    gaps = {gap for _, gap, _ in told}
    apart = all(gap or patient[-1].isdigit() for patient, gap, _ in told)
    both = {patient for patient, _, eye in told if eye == "R"} & {patient for patient, _, eye in told if eye == "L"}
    if len(gaps) != 1 or not apart or not both:
        return None
    return f"{{patient}}{gaps.pop()}{{eye}}"
