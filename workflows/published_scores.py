"""Published scores beside those of the shipped models, and whether they can have been counted where their papers say.

    python workflows/published_scores.py [--write]

Prints both tables; ``--write`` renews them in docs/models.md and docs/results/published_scores.md, between their marks. Ours come from
``pipeline/bundles/shipped/NAME/scores.json``. Needs mlscorecheck (`ocuseg[dev]`), which knows how many pixels of each photograph of DRIVE
are vessels, inside the field of view and in all: from so many, some triples of accuracy, sensitivity and specificity cannot come (Fazekas
and Kovacs, arXiv:2310.12527). No data is needed.
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.bundles.shipped_models import SHIPPED, names, read_model

DOCS = Path(__file__).resolve().parents[1] / "docs"
BEGIN, END = "<!-- published_scores: begin -->", "<!-- published_scores: end -->"
Region = Literal["field of view", "all pixels", "not said"]
COUNTINGS = {
    "fov_mos": "field of view, mean",
    "fov_som": "field of view, pooled",
    "all_mos": "all pixels, mean",
    "all_som": "all pixels, pooled",
}
"""mlscorecheck's names of its assumptions: the region, and whether scores are means over images (mos) or of all images' pixels (som)."""
VERDICTS = {"field of view": "the field of view alone", "all pixels": "all pixels alone", "either": "either", "neither": "neither"}
"""Where scores can have been counted, and how that is told."""


@dataclass(frozen=True)
class Beside:
    """What has been published for the data set of one of our scores, and how far the two are comparable."""

    on: str
    score: str
    published: str
    comparable: str


BESIDE = (
    Beside(
        "DRIVE test",
        "Dice vessel",
        "trained on DRIVE: DRIU 0.821, M2U-Net 0.802, U-Net 0.825, W-Net 0.828; second observer 0.788",
        "**yes**: the same 20 photographs, observer, field of view and size. They have learnt from DRIVE, ours never saw it",
    ),
    Beside(
        "DRIVE test",
        "Dice vessel",
        "never seen either, U-Net: trained on CHASE_DB1 0.774, on HRF 0.712",
        "**nearly**: theirs is scored at 768 x 768 pixels",
    ),
    Beside(
        "CHASE_DB1 test",
        "Dice vessel",
        "DRIU 0.812, M2U-Net 0.798, U-Net 0.807, W-Net 0.820; second observer 0.768",
        "**no**: their split is the other way round. They train on children 11 to 14, our test part, and test on 01 to 10, which train "
        "ours. Theirs is the harder one: the second observer has 0.769 there and 0.798 on our part, counted by ocuseg",
    ),
    Beside(
        "HRF test",
        "Dice vessel",
        "half size: DRIU 0.808, M2U-Net 0.796, U-Net 0.811, W-Net 0.814",
        "**no**: they test on numbers 06 to 15 of each class, ours on 01 to 10, and 11 to 15 have trained ours; half of the photographs "
        "are the same",
    ),
    Beside(
        "Drishti-GS1",
        "Dice optic_disc",
        "trained on it: U-Net 0.975, W-Net 0.965; never seen, U-Net trained on REFUGE 0.943, on DRIONS 0.966, on RIM-ONE 0.890",
        "**no**: theirs are the 51 photographs of the test part at 512 x 512 pixels, ours the other 50; theirs is a disc where all four "
        "experts agree, ours where three do",
    ),
)
"""Published: bob.ip.binseg's tables, named in docs/models.md."""


@dataclass(frozen=True)
class Triple:
    """Scores on DRIVE's test part; ``named``: where its paper says that they were counted."""

    who: str
    named: Region
    accuracy: float
    sensitivity: float
    specificity: float


PUBLISHED = (
    Triple("second observer", "field of view", 0.9473, 0.7761, 0.9725),
    Triple("Staal 2004", "field of view", 0.9441, 0.7750, 0.9725),
    Triple("Mendonca 2006", "field of view", 0.9463, 0.7315, 0.9781),
    Triple("Ricci 2007", "field of view", 0.9595, 0.7283, 0.9832),
    Triple("Lupascu 2010", "not said", 0.9597, 0.6728, 0.9874),
    Triple("Villalobos-Castaldi 2010", "all pixels", 0.9759, 0.9649, 0.9480),
    Triple("Zhang 2010", "field of view", 0.9382, 0.7120, 0.9724),
    Triple("Marin 2011", "field of view", 0.9452, 0.7067, 0.9801),
    Triple("Miri 2011", "not said", 0.9458, 0.7352, 0.9795),
    Triple("You 2011", "field of view", 0.9434, 0.7410, 0.9751),
    Triple("Fraz 2012 (a)", "field of view", 0.9430, 0.7152, 0.9769),
    Triple("Fraz 2012 (b)", "field of view", 0.9480, 0.7406, 0.9807),
    Triple("Odstrcilik 2013", "all pixels", 0.9340, 0.7060, 0.9693),
    Triple("Azzopardi 2014", "not said", 0.9442, 0.7655, 0.9704),
    Triple("Wang 2015", "field of view", 0.9767, 0.8173, 0.9733),
    Triple("Li 2016", "not said", 0.9527, 0.7569, 0.9816),
    Triple("Liskowski 2016", "field of view", 0.9535, 0.7811, 0.9807),
    Triple("Memari 2017", "not said", 0.9722, 0.8726, 0.9884),
    Triple("Hassan 2018", "not said", 0.9793, 0.8981, 0.9883),
    Triple("Jebaseeli 2019", "field of view", 0.9898, 0.8027, 0.9980),
    Triple("Jiang 2019", "not said", 0.9706, 0.8325, 0.9838),
    Triple("Park 2020", "not said", 0.9706, 0.8346, 0.9836),
    Triple("Wu 2020", "not said", 0.9582, 0.7996, 0.9813),
)
"""As Kovacs and Fazekas collected them (docs/results/published_scores.md): all that are cited 250 times or reach an accuracy of 0.97, the
second observer, and the one that they rank first."""
ROUNDED = 1e-4
"""All are given to four digits; how they were rounded is unknown."""


def ours() -> list[Triple]:
    """The shipped models' own triples on DRIVE, where they are recorded."""
    rows = ((name, row) for name in names() for row in json.loads((SHIPPED / name / "scores.json").read_text(encoding="utf-8")))
    beside = {name: row["beside"] for name, row in rows if row["on"].startswith("DRIVE test") and "beside" in row}
    return [
        Triple(f"`{name}`", "field of view", own["pixel_accuracy"], own["sensitivity"], own["specificity"]) for name, own in beside.items()
    ]


def consistent(triple: Triple) -> set[str]:
    """Of :data:`COUNTINGS`, those from which the scores can come."""
    from mlscorecheck.check.bundles.retina import check_drive_vessel_aggregated

    logging.getLogger("mlscorecheck").setLevel(logging.WARNING)  # it tells every step of its search
    scores = {"acc": triple.accuracy, "sens": triple.sensitivity, "spec": triple.specificity}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what PuLP 4 will no longer have: mlscorecheck needs an earlier one
        found = check_drive_vessel_aggregated("test", 1, scores, ROUNDED, verbosity=0)["inconsistency"]
    return {counting for counting in COUNTINGS if not found[f"inconsistency_{counting}"]}


def region(possible: set[str]) -> str:
    """Where scores that can come from these were counted."""
    regions = {COUNTINGS[counting].partition(",")[0] for counting in possible}
    return {0: "neither", 1: next(iter(regions), ""), 2: "either"}[len(regions)]


def comparison() -> list[str]:
    """Every score of a shipped model beside what has been published for its data set."""
    lines = ["| on | ours | published | comparable |", "|---|---|---|---|"]
    for beside in BESIDE:
        for name in names():
            for on, score, value, low, high in read_model(name).scores:
                if on.startswith(beside.on) and score == beside.score:
                    interval = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
                    lines.append(f"| {on} | `{name}` {value:.3f}{interval} | {beside.published} | {beside.comparable} |")
    return lines


def triples() -> tuple[list[str], str]:
    """The table of the triples, and what it comes to in one sentence."""
    head = ["who", "says", "accuracy", "sensitivity", "specificity", *COUNTINGS.values(), "counted in"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    counted: Counter[str] = Counter()
    otherwise = 0
    for triple in (*ours(), *PUBLISHED):
        possible = consistent(triple)
        where = region(possible)
        if triple in PUBLISHED:
            counted[where] += 1
            otherwise += triple.named not in ("not said", where)
        numbers = (f"{value:.4f}" for value in (triple.accuracy, triple.sensitivity, triple.specificity))
        marks = ("possible" if counting in possible else "-" for counting in COUNTINGS)
        lines.append(f"| {' | '.join((triple.who, triple.named, *numbers, *marks, where))} |")
    told = ", ".join(f"{counted[where]} from {how}" for where, how in VERDICTS.items() if counted[where])
    return lines, f"Of {len(PUBLISHED)} published triples, {told}; {otherwise} cannot come from where their papers say."


def renew(page: Path, text: str) -> None:
    """Replace what stands between the marks of a page."""
    before, _, after = page.read_text(encoding="utf-8").partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after.partition(END)[2]}", encoding="utf-8")


def pages() -> dict[Path, str]:
    """What stands between the marks, by page."""
    lines, sentence = triples()
    return {
        DOCS / "models.md": "\n".join([*comparison(), "", sentence]),
        DOCS / "results" / "published_scores.md": "\n".join([*lines, "", sentence]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="renew the tables in docs/")
    options = parser.parse_args()
    for page, text in pages().items():
        print(text, end="\n\n")
        if options.write:
            renew(page, text)


if __name__ == "__main__":
    main()
