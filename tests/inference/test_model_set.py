"""Several bundles make one case of a scan: each sees the kinds it fits, and every class keeps its bundle, role and pixels."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.bundles.bundle import Bundle
from pipeline.errors import BundleError, ConfigError, ScanError
from pipeline.inference.folder import predict_folder
from pipeline.inference.model_set import ModelSet, joined
from pipeline.inference.object_files import gather_coco
from pipeline.inference.predict import Predictor
from pipeline.inference.uses import Use, cases_in, doubts_in, use_lines, uses_of
from pipeline.reports.worklist import write_report
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.raster import read_image, write_png
from pipeline.tasks.base import Task
from pipeline.types import CaseKey, Geometry, LabelClass, LabelMap, Scan
from pipeline.types.case_record import CaseRecord
from pipeline.types.run_record import RunRecord
from tests.inference.conftest import DISC_CUP, VESSEL, make_bundle, run_config
from tests.inference.spots import SpotConfig, SpotTask, canvas
from tests.scans.make import OPT, dicom, ramp, saved

KEY = Pseudonyms(b"a site key of the tests")
DISC = LabelMap((LabelClass(1, "disc", (0, 114, 178), "SCT:81016008"),))
OCT = LabelMap((LabelClass(1, "RNFL", (1, 2, 3)),), layered=("RNFL",))
SPOTS = LabelMap((LabelClass(1, "exudate", (240, 228, 66)), LabelClass(2, "bleeding", (204, 121, 167))), overlapping=True)


def named(name: str, label_map: LabelMap, path: Path = Path("bundle"), **changes: Any) -> Bundle:
    config = changes.pop("config", run_config()).model_copy(update={"name": name})
    return make_bundle(path, id=f"{name:0<12}", label_map=label_map, config=config, **changes)


def spots(path: Path, masks: bool) -> Bundle:
    config = run_config().model_copy(update={"task": SpotConfig(), "name": "lesions"})
    return make_bundle(path, id="lesions00000", label_map=SPOTS, config=config, task=SpotTask(SPOTS, masks))


def scan_of(modality: str, channels: int = 3, slices: int | None = None) -> Scan:
    shape = (channels, 24, 37) if slices is None else (channels, slices, 24, 37)
    return Scan(np.zeros(shape, np.uint8), Geometry(shape[1:]), modality, CaseKey("p", "R", "1", "i"), "a" * 64)  # type: ignore[arg-type]


@pytest.fixture
def segmented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, int]]:
    """Predict with given bundles, each known by its path."""

    def predict(bundles: list[Bundle], start: Path, out: Path) -> dict[str, int]:
        known = {bundle.path: bundle for bundle in bundles}
        monkeypatch.setattr("pipeline.inference.folder_work.open_bundle", lambda path, device="cpu": known[path])
        return predict_folder([*known], start, out, device="cpu", pseudonyms=KEY, workers=1)

    return predict


def test_classes_of_several_bundles_keep_role_and_place_and_get_names_and_colours_of_their_own() -> None:
    found = joined([named("vessels", VESSEL), named("discs", DISC), named("more", DISC_CUP)])
    assert found.names == ("vessel", "disc", "disc_more", "cup")
    assert found.roles == ("vessel", "optic_disc", None, None)
    assert found.overlapping
    assert len({cls.colour for cls in found.classes}) == 4
    assert found.classes[0].colour == VESSEL.classes[0].colour
    inside = LabelMap((DISC.classes[0], LabelClass(2, "cup", (9, 9, 9), inside="disc")), overlapping=True)
    assert joined([named("discs", DISC), named("cups", inside)]).classes[2].inside == "disc_cups"
    assert joined([named("vessels", VESSEL)]) is VESSEL


def test_bundles_that_cannot_share_a_case_are_refused() -> None:
    for bundles, said in (
        ([named("a", VESSEL), named("layers", OCT)], "layers finds layers, which fill a scan by themselves"),
        ([named("a", VESSEL), named("a", VESSEL), named("a", VESSEL)], "the models hold a twice"),
        ([named("many", LabelMap(tuple(LabelClass(k, f"c{k}", (k, 0, 0)) for k in range(1, 17)))), named("a", VESSEL)], "at most 16"),
    ):
        with pytest.raises(ConfigError, match=said):
            ModelSet([Predictor(bundle) for bundle in bundles])


def test_each_scan_is_seen_by_the_bundles_for_its_kind() -> None:
    models = ModelSet([Predictor(b) for b in (named("vessels", VESSEL), named("layers", OCT, modality="oct"), named("discs", DISC))])

    def of(scan: Scan) -> list[str]:
        return [one.bundle.config.name for one in models.fitting(scan)]

    assert of(scan_of("fundus")) == of(scan_of("unknown")) == ["vessels", "discs"]
    assert of(scan_of("oct", 1, slices=3)) == ["layers"]
    for scan, said in (
        (scan_of("octa", 1), "the scan is octa, the models are for fundus and oct"),
        (scan_of("unknown", 1), "does not say whether it is fundus or oct"),
        (scan_of("fundus", 3, slices=2), "a volume of 2 slices is no fundus picture"),
    ):
        with pytest.raises(ScanError, match=said):
            models.fitting(scan)
    assert models.all_classes().names == ("vessel", "disc", "RNFL")


def test_a_scan_is_one_case_of_all_bundles_and_has_one_page(tmp_path: Path, segmented: Callable[..., dict[str, int]]) -> None:
    pixels = canvas([(4, 6, 5, 5, 0.9, 1), (20, 30, 6, 8, 0.4, 2)])
    pixels[..., 2] = np.linspace(0, 255, pixels.shape[1], dtype=np.uint8)
    (tmp_path / "scans").mkdir()
    for name in ("a", "b"):
        write_png(tmp_path / "scans" / f"{name}_OD.png", pixels if name == "a" else pixels[:, ::-1])
    bundles = [
        named("vessels", VESSEL, tmp_path / "v"),
        spots(tmp_path / "s", masks=False),
        named("layers", OCT, tmp_path / "l", modality="oct"),
    ]
    out = tmp_path / "out"
    assert segmented(bundles, tmp_path / "scans", out)["done"] == 2
    cases = sorted((out / "cases").iterdir())
    case = CaseRecord.read(cases[0])
    assert (case.bundle_id, set(case.classes)) == ("vessels00000+lesions00000", {"vessel", "exudate", "bleeding"})
    assert {name: (c.bundle_id, c.objects) for name, c in case.classes.items()} == {
        "vessel": ("vessels00000", None),
        "exudate": ("lesions00000", 1),
        "bleeding": ("lesions00000", 0),  # 0.4 is below its threshold
    }
    mask = read_image(cases[0] / "mask_000.png")
    assert case.label_map is not None
    layers = LabelMap.from_json(case.label_map).layers(mask.astype(np.int64))
    blue = read_image(cases[0] / "image_000.png")[..., 2]
    assert np.array_equal(layers[0], blue / 255 >= 0.5)
    assert not layers[1:].any()
    page = (write_report(out).parent / "cases" / f"{cases[0].name}.html").read_text(encoding="utf-8")
    assert "is missing" not in page
    assert '"names": ["vessel", "exudate", "bleeding"]' in page
    paths = {bundle.config.name: bundle.path for bundle in bundles}
    for bundle in bundles:
        bundle.path.mkdir()
        (bundle.path / "bundle.json").write_text(f'{{"id": "{bundle.id}", "modality": "{bundle.modality}"}}')
    uses = uses_of(cases_in(out))
    assert uses == {"vessels00000": Use(("vessel",), 2, 0), "lesions00000": Use(("exudate", "bleeding"), 2, 0)}
    assert use_lines(uses, paths) == ["vessels: 2 scans", "lesions: 2 scans", "layers: left out, no oct scan was segmented"]
    assert doubts_in(out) == []


def test_a_bundle_that_finds_nothing_or_never_learnt_is_told_and_its_rows_are_not_done(
    tmp_path: Path, segmented: Callable[..., dict[str, int]]
) -> None:
    (tmp_path / "scans").mkdir()
    for name in "abc":
        pixels = canvas([(4 + ord(name) % 5, 6, 5, 5, 0.9, 1)])
        pixels[..., 2] = 0
        write_png(tmp_path / "scans" / f"{name}_OD.png", pixels)
    blind = named("vessels", VESSEL, tmp_path / "v", thresholds={"vessel": 1.0}, metrics={"validation/dice/vessel": 0.012})
    segmented([blind], tmp_path / "scans", tmp_path / "out")
    useless, empty = doubts_in(tmp_path / "out")
    assert useless.startswith("Dice on the validation images: vessel 0.01; below 0.2 a result is of no use")
    assert empty.startswith("nothing of vessel was found in 3 of 3 scans")
    page = write_report(tmp_path / "out").read_text(encoding="utf-8")
    assert page.count("▲</span> not measurable</span>") == 3  # pictures so small are nobody's photographs
    assert "status done" not in page
    assert "Nothing of vessel was found in 3 of 3 scans" in page
    assert "Dice on the validation images: vessel 0.01" in page


def test_one_file_is_a_folder_of_one_and_others_beside_it_stay_unread(tmp_path: Path, segmented: Callable[..., dict[str, int]]) -> None:
    (tmp_path / "scans").mkdir()
    for name in ("a", "b"):
        write_png(tmp_path / "scans" / f"{name}_OD.png", canvas([(4, 6, 5, 5, 0.9, 1)]) + (name == "b"))
    bundles = [named("vessels", VESSEL, tmp_path / "v"), named("discs", DISC, tmp_path / "d")]
    counts = segmented(bundles, tmp_path / "scans" / "a_OD.png", tmp_path / "out")
    assert (counts["done"], len(list((tmp_path / "out" / "cases").iterdir()))) == (1, 1)
    assert segmented(bundles, tmp_path / "scans", tmp_path / "out")["done"] == 2  # the same cases, and the other one
    with pytest.raises(ConfigError, match=r"holds results of bundle vessels00000\+discs0000000, not of vessels00000"):
        segmented(bundles[:1], tmp_path / "scans", tmp_path / "out")


def test_scans_of_different_kinds_keep_the_classes_of_their_own_bundle(
    tmp_path: Path, segmented: Callable[..., dict[str, int]], caplog: pytest.LogCaptureFixture
) -> None:
    """One bundle for each kind: a mask's values mean that bundle's classes, which the run's list numbers otherwise."""
    (tmp_path / "scans").mkdir()
    write_png(tmp_path / "scans" / "a_OD.png", canvas([(4, 6, 5, 5, 0.9, 2)]))
    saved(dicom(ramp(3 * 24, 37).reshape(3, 24, 37), sop_class=OPT, modality="OPT"), tmp_path / "scans" / "b.dcm")
    bundles = [spots(tmp_path / "s", masks=True), named("layers", OCT, tmp_path / "l", modality="oct", input_channels=1)]
    out = tmp_path / "out"
    assert segmented(bundles, tmp_path / "scans", out)["done"] == 2
    cases = {CaseRecord.read(folder).modality: folder for folder in (out / "cases").iterdir()}
    records = {modality: CaseRecord.read(folder) for modality, folder in cases.items()}
    assert {modality: (one.bundle_id, tuple(one.classes)) for modality, one in records.items()} == {
        "fundus": ("lesions00000", SPOTS.names),
        "oct": ("layers000000", OCT.names),
    }
    pages = write_report(out).parent / "cases"
    for modality, label_map in (("fundus", SPOTS), ("oct", OCT)):
        record = records[modality]
        assert record.label_map is not None
        assert LabelMap.from_json(record.label_map) == label_map
        page = (pages / f"{cases[modality].name}.html").read_text(encoding="utf-8")
        assert re.findall(r'class="class-name">(\w+)<', page) == [*label_map.names]
    assert "coco.json" not in caplog.text  # nobody looked for objects in the volume
    assert len(json.loads((out / "coco.json").read_text())["annotations"]) == 1


def test_a_network_that_no_scan_is_for_is_never_built_and_the_run_knows_its_classes(
    tmp_path: Path, segmented: Callable[..., dict[str, int]]
) -> None:
    built = []

    def build() -> Task:
        built.append("layers")
        raise BundleError("its weights do not fit its network")

    (tmp_path / "scans").mkdir()
    write_png(tmp_path / "scans" / "a_OD.png", canvas([]))
    layers = named("layers", OCT, tmp_path / "l", modality="oct", input_channels=1, build=build)
    bundles, out = [named("vessels", VESSEL, tmp_path / "v"), layers], tmp_path / "out"
    assert (segmented(bundles, tmp_path / "scans", out)["done"], built) == (1, [])
    record = RunRecord.read(out)
    assert (record.bundle_id, sorted(record.engines)) == ("vessels00000+layers000000", ["vessels00000"])
    assert LabelMap.from_json(record.classes).names == ("vessel", "RNFL")
    saved(dicom(ramp(3 * 24, 37).reshape(3, 24, 37), sop_class=OPT, modality="OPT"), tmp_path / "scans" / "b.dcm")
    with pytest.raises(BundleError, match="do not fit"):  # no fault of the scan's, so that it is not entered as its end
        segmented(bundles, tmp_path / "scans", out)
    assert (built, [row.split(",")[3] for row in (out / "ledger.csv").read_text().splitlines()[1:]]) == (["layers"], ["done"])


def test_objects_of_different_kinds_of_scans_keep_their_class_in_the_whole_file(
    tmp_path: Path, segmented: Callable[..., dict[str, int]]
) -> None:
    (tmp_path / "scans").mkdir()
    write_png(tmp_path / "scans" / "a_OD.png", canvas([(4, 6, 5, 5, 0.9, 2)]))
    write_png(tmp_path / "scans" / "b_OD.png", canvas([(14, 6, 5, 5, 0.9, 1)]))
    out = tmp_path / "out"
    segmented([spots(tmp_path / "s", masks=True)], tmp_path / "scans", out)
    part = max((out / "cases").iterdir()) / "coco.json"
    own = json.loads(part.read_text())
    own["categories"] = [{"id": 1, "name": "drusen"}]  # of another bundle, for another kind
    own["annotations"] = [found | {"category_id": 1} for found in own["annotations"]]
    part.write_text(json.dumps(own))
    gather_coco(out)
    whole = json.loads((out / "coco.json").read_text())
    names = {category["id"]: category["name"] for category in whole["categories"]}
    assert sorted(names.values()) == ["bleeding", "drusen", "exudate"]
    first = json.loads((min((out / "cases").iterdir()) / "coco.json").read_text())
    found = [one["category_id"] for one in first["annotations"]]
    assert [names[one["category_id"]] for one in whole["annotations"]] == [*(SPOTS.names[number - 1] for number in found), "drusen"]
