"""What is measured of a set that was drawn to be so."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest

from pipeline.cards.card import CardCase, DataCard, load_card, read_scan
from pipeline.cards.find_cases import find_cases
from pipeline.errors import CardError, NothingUsableError
from pipeline.planning import facts
from pipeline.planning.facts import IMAGES, SetFacts, measure, spread, volume_slices, width_across
from pipeline.types import Part
from tests.planning import drawn


def facts_of(root: Path) -> SetFacts:
    card = load_card(str(root / "card.md"))
    return measure(card, find_cases(card, root))


@pytest.mark.parametrize("angle", [0, 17, 45, 80, 90])
def test_a_line_is_as_wide_as_it_is_whichever_way_it_runs(angle: float) -> None:
    """An outline along pixel edges is longer by |cos| + |sin| than the line; the mean over angles is 4 / pi."""
    y, x = np.mgrid[-150:150, -150:150] + 0.5
    turned = math.radians(angle)
    strip = np.abs(x * math.cos(turned) + y * math.sin(turned)) < 3
    disc = x**2 + y**2 <= 140**2
    across = width_across(strip & disc)
    assert across is not None
    stretched = (abs(math.cos(turned)) + abs(math.sin(turned))) * math.pi / 4
    assert across * stretched == pytest.approx(6, rel=0.12)


def test_a_disc_is_its_radius_wide_and_nothing_has_no_width() -> None:
    y, x = np.mgrid[-80:80, -90:90]
    assert width_across(x**2 + y**2 <= 60**2) == pytest.approx(60, rel=0.03)
    assert width_across(np.zeros((7, 9), dtype=bool)) is None


def test_lines_are_thin_and_a_disc_is_not(tmp_path: Path) -> None:
    drawn.thin(tmp_path / "thin")
    drawn.round_(tmp_path / "round")
    lines, disc = facts_of(tmp_path / "thin"), facts_of(tmp_path / "round")
    (line,), (round_,) = lines.classes, disc.classes
    assert (line.thin, line.held, line.span_px) == (True, 1.0, 232)
    assert line.width_px == pytest.approx(drawn.LINE_PX * 4 / math.pi, rel=0.25)  # upright and level lines alone: the short way round
    assert (round_.thin, round_.objects, round_.side_px) == (False, 1, pytest.approx(drawn.DISC_PX, abs=2))
    assert round_.fraction == pytest.approx((drawn.DISC_PX / drawn.FIELD_PX) ** 2, rel=0.03)
    assert lines.field_px is None  # angiography fills its frame
    assert disc.field_px is not None
    assert disc.field_px[0] == pytest.approx(drawn.FIELD_PX, abs=4)
    assert (lines.channels, disc.channels) == ((1,), (3,))
    assert (disc.plane, disc.images, disc.patients, disc.parts, disc.labels) == ((200, 232), 8, 8, {}, "masks")


def test_boxes_numbered_objects_and_volumes_are_told_apart(tmp_path: Path) -> None:
    for name in ("boxes", "objects", "oct"):
        drawn.SETS[name](tmp_path / name)
    boxes, objects, oct_ = (facts_of(tmp_path / name) for name in ("boxes", "objects", "oct"))
    assert (boxes.labels, objects.labels, oct_.labels) == ("boxes", "instances", "masks")
    for found in (boxes, objects):
        assert (found.classes[0].objects, found.classes[0].side_px) == (3, pytest.approx(13, abs=1))
    assert (oct_.slices, oct_.samples, oct_.layers, oct_.plane) == (3, 12, True, (64, 96))
    assert all(cls.thin for cls in oct_.classes)


def test_a_sample_is_bounded_and_spread() -> None:
    cases = list(range(1000))
    chosen = spread(cases, IMAGES)  # type: ignore[arg-type,type-var]
    assert len(chosen) == IMAGES
    assert chosen[0] < 50  # type: ignore[operator]
    assert chosen[-1] > 950  # type: ignore[operator]
    assert spread(cases[:5], IMAGES) == cases[:5]  # type: ignore[arg-type,comparison-overlap]


def parted(root: Path, *parts: Part | None) -> tuple[DataCard, list[CardCase]]:
    """The card, and its cases with these parts, one after the other and again."""
    card = load_card(str(root / "card.md"))
    return card, [replace(case, part=part) for case, part in zip(find_cases(card, root), cycle(parts), strict=False)]


def test_nothing_of_the_validation_or_test_part_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn.round_(tmp_path)
    card, cases = parted(tmp_path, "train", "test", "train", "validation")
    read: list[Part | None] = []
    monkeypatch.setattr(facts, "read_scan", lambda card, case: (read.append(case.part), read_scan(card, case))[1])
    found = measure(card, cases)
    assert volume_slices(card, cases) == 1
    assert read == ["train"] * 5
    assert (found.images, found.measured, found.parts) == (8, 4, {"train": 4, "test": 2, "validation": 2})


@pytest.mark.parametrize(
    ("parts", "lacking"), [(("test", "train", None, None), "none for 4 of the 8 images"), (("test",), "no training part")]
)
def test_a_test_part_beside_images_of_no_part_is_not_planned(tmp_path: Path, parts: tuple[Part | None, ...], lacking: str) -> None:
    """A split at random, as where there are no parts, would train on it."""
    drawn.round_(tmp_path)
    card, cases = parted(tmp_path, *parts)
    with pytest.raises(CardError, match=f"it names a test part of .* and {lacking}; complete its parts"):
        measure(card, cases)


def test_what_cannot_be_read_is_counted_and_nothing_readable_is_said(tmp_path: Path) -> None:
    drawn.round_(tmp_path / "round")
    files = sorted((tmp_path / "round" / "images").iterdir())
    files[2].write_bytes(b"no picture")
    found = facts_of(tmp_path / "round")
    assert (found.measured, found.unreadable) == (7, 1)
    for file in files:
        file.write_bytes(b"no picture")
    with pytest.raises(NothingUsableError, match="none of the 8 images looked at can be read: case P0_U"):
        facts_of(tmp_path / "round")
