"""Reviewers in headless Chromium: ten cases accepted, rejected and corrected, with a conflict, a reload and two crashes."""

from __future__ import annotations

import base64
import importlib.resources
import io
import json
import multiprocessing
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.metrics.matching import encode_mask
from pipeline.reports.results import read_case, read_run
from pipeline.review.accounts import Accounts
from pipeline.review.corrections import read_correction
from pipeline.review.instances import decoded
from pipeline.review.log import AuditLog
from pipeline.review.reviewed import read_labels
from pipeline.review.server import Wishes, started
from pipeline.review.state import states
from pipeline.scans.raster import png_of, read_pages
from pipeline.serving import Serving
from pipeline.types import LabelClass, LabelMap
from tests.patience import LONG_S
from tests.reports.conftest import DISC_CUP, Out, disc_and_cup
from tests.review import reading
from tests.review.conftest import FIRST

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

AXE = importlib.resources.files("axe_playwright_python") / "axe.min.js"
ROWS, COLUMNS = 60, 80
LAYERS = LabelMap((LabelClass(1, "RNFL", (230, 159, 0)), LabelClass(2, "fluid", (86, 180, 233))), layered=("RNFL",))
SPOTS = LabelMap((LabelClass(1, "exudate", (86, 180, 233)), LabelClass(2, "haemorrhage", (230, 159, 0))), overlapping=True)
SHOWN = """() => {
  const boxes = [...document.querySelectorAll('input[data-class]')], own = document.querySelector('.review-mask');
  const only = (shown) => boxes.forEach((box) => { box.checked = shown(box); box.dispatchEvent(new Event('change')); });
  const seen = boxes.map((one) => {
    only((box) => box === one);
    const { data } = own.getContext('2d').getImageData(0, 0, own.width, own.height);
    return btoa(String.fromCharCode(...data.filter((_, k) => k % 4 === 3)));
  });
  only(() => true);
  return seen;
}"""
NAMES = [f"p{at}_U_v1_i1" for at in range(10)]
VOLUME, INSTANCES = "r0_U_v1_i1", "s0_U_v1_i1"
AREAS = """() => [...document.querySelectorAll('.review-area')].map((one) => one.getAttribute('d'))"""
COLOURS = AREAS.replace("'d'", "'color'")


def serve(predictions: Path, port: int, told: Connection) -> None:
    with started(predictions, Wishes(port=port, reviewer="anna")) as serving:
        told.send(serving.port)
        serving.wait()


def blank() -> npt.NDArray[np.bool_]:
    return np.zeros((ROWS, COLUMNS), np.bool_)


def box_of(mask: npt.NDArray[np.bool_]) -> list[int]:
    rows, columns = np.nonzero(mask)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def area(path: str) -> npt.NDArray[np.bool_]:
    """The mask that a page draws as "Mx yHXv1Hxz", a stretch of a row each."""
    mask = blank()
    for x, y, stop in re.findall(r"M(\d+) (\d+)H(\d+)", path):
        mask[int(y), int(x) : int(stop)] = True
    return mask


class Server:
    """The review server in a process of its own, which can be killed and started again at the same port."""

    def __init__(self, predictions: Path) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.review.test_browser"])
        self.predictions, self.port = predictions, 0
        self.start()

    def start(self) -> None:
        here, there = self._context.Pipe()
        self.process = self._context.Process(target=serve, args=(self.predictions, self.port, there), daemon=True)
        self.process.start()
        there.close()  # or its end would never be seen
        assert here.poll(LONG_S), "the server did not start"
        self.port = here.recv()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Ten photographs with disc and cup, a B-scan with a layer, objects, and a volume, as `ocuseg segment` writes them."""
    out = Out(tmp_path_factory.mktemp("review") / "out")
    every = [cls for label_map in (DISC_CUP, LAYERS, SPOTS) for cls in label_map.classes]
    run = LabelMap(tuple(replace(cls, index=at) for at, cls in enumerate(every, start=1)), overlapping=True)
    out.write_run(classes=run.to_json(), objects=True)
    noise = np.random.default_rng(0).integers(20, 90, (ROWS, COLUMNS), dtype=np.uint8)
    for name in NAMES:
        out.add(name, disc_and_cup(ROWS, COLUMNS), noise, label_map=DISC_CUP.to_json())
    out.label_map = LAYERS
    layer = np.zeros((ROWS, COLUMNS), np.uint8)
    layer[20:40] = 1
    layer[25:28, 10:20] = 2
    folder = out.add("q0_U_v1_i1", layer, noise, label_map=LAYERS.to_json(), modality="oct")
    lines = [f"0,{column},20.00,40.00" for column in range(COLUMNS)]
    (folder / "surfaces.csv").write_text("\n".join(["slice,column,top of RNFL,bottom of RNFL", *lines]) + "\n", encoding="utf-8")
    out.label_map = SPOTS
    found = [{"class": "exudate", "score": 0.9, "box": [10, 10, 20, 20]}, {"class": "haemorrhage", "score": 0.8, "box": [40, 10, 50, 20]}]
    out.add_objects("q1_U_v1_i1", (ROWS, COLUMNS), found, label_map=SPOTS.to_json())
    out.label_map = DISC_CUP
    out.add(VOLUME, np.zeros((3, ROWS, COLUMNS), np.uint8), np.stack([noise] * 3), label_map=DISC_CUP.to_json(), modality="oct")
    out.label_map = SPOTS
    masks = [blank() for _ in range(3)]
    masks[0][10:20, 10:20] = masks[1][15:25, 15:25] = masks[2][40:50, 60:70] = True
    found = [{"class": "exudate", "score": 0.9 - at / 4, "box": box_of(mask), "mask": mask} for at, mask in enumerate(masks)]
    folder = out.add_objects(INSTANCES, (ROWS, COLUMNS), found, has_masks=True, label_map=SPOTS.to_json())
    annotations = [{"id": at, "segmentation": encode_mask(mask)} for at, mask in enumerate(masks, 1)]
    (folder / "coco.json").write_text(json.dumps({"annotations": annotations}), encoding="utf-8")
    made = Server(out.path)
    try:
        yield made
    finally:
        made.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield made
        finally:
            made.close()


class Tab:
    """One tab of a reviewer's browser; an error on its page, or something that the content policy refuses, fails the test."""

    def __init__(self, context: Any, server: Server | Serving) -> None:
        self.page, self._server, self.errors = context.new_page(), server, list[str]()
        self.page.set_default_timeout(LONG_S * 1000)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(said.text) if "Content Security" in said.text else None)

    def open(self, name: str, waiting: str = "#review-progress progress") -> None:
        self.page.goto(f"http://127.0.0.1:{self._server.port}/cases/{name}.html")
        self.page.wait_for_selector(waiting)

    def keys(self, *names: str) -> None:
        for name in names:
            self.page.keyboard.press(name)

    def until(self, function: str) -> None:
        self.page.wait_for_function(f"() => {function}")

    def arrived(self, name: str) -> None:
        self.until(f"location.pathname.endsWith('/{name}.html') && document.querySelector('#review-progress progress') !== null")

    def edit(self) -> None:
        self.keys("e")
        self.page.wait_for_selector("#review-save")

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the scan lies in the window."""
        place = self.page.evaluate("() => window.ocusegCase.view.place()")
        box = self.page.locator("#pane-overlay .view").bounding_box()
        return box["x"] + (x - place["x"]) / place["across"], box["y"] + (y - place["y"]) / place["perPixel"]

    def click(self, x: float, y: float, **how: Any) -> None:
        self.page.mouse.click(*self.at(x, y), **how)

    def drag(self, *points: tuple[float, float]) -> None:
        self.page.mouse.move(*self.at(*points[0]))
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*self.at(*point), steps=3)
        self.page.mouse.up()

    @contextmanager
    def late(self, address: str) -> Iterator[None]:
        """What is asked of an address inside is answered when that has ended."""
        held: list[Any] = []
        self.page.route(address, lambda route: held.append(route))
        try:
            yield
            deadline = time.monotonic() + LONG_S
            while not held and time.monotonic() < deadline:
                self.page.wait_for_timeout(10)
            assert held, address
        finally:
            waiting, held = held, []
            for route in waiting:
                route.continue_()
            self.page.unroute(address)

    def shown(self) -> npt.NDArray[np.uint8]:
        """The mask that the canvas shows: each class alone, then put together as the bit field of disc and cup."""
        seen = self.page.evaluate(SHOWN)
        layers = [np.frombuffer(base64.b64decode(one), np.uint8).reshape(ROWS, COLUMNS) > 0 for one in seen]
        return sum(((layer << at).astype(np.uint8) for at, layer in enumerate(layers)), np.zeros((ROWS, COLUMNS), np.uint8))


@pytest.fixture
def make_tab(browser: Any, server: Server) -> Iterator[Callable[[], Tab]]:
    context, tabs = browser.new_context(viewport={"width": 1300, "height": 850}), list[Tab]()

    def made() -> Tab:
        tabs.append(Tab(context, server))
        return tabs[-1]

    yield made
    context.close()
    assert [error for tab in tabs for error in tab.errors] == []


def stored(server: Server, name: str) -> npt.NDArray[np.unsignedinteger[Any]]:
    correction = states(server.predictions)[name].correction
    return read_correction(server.predictions, correction).masks[0]


def test_ten_cases_are_reviewed_and_nothing_is_lost(server: Server, make_tab: Callable[[], Tab]) -> None:
    tab, masks = make_tab(), {}
    tab.open(NAMES[0])
    held: list[Any] = []  # a verdict that is long on its way leads nobody away who has gone on
    tab.page.route("**/verdict", lambda route: held.append(route))
    tab.keys("a", "j")
    tab.arrived(NAMES[1])
    tab.keys("j")
    tab.arrived(NAMES[2])
    held[0].continue_()
    tab.page.unroute("**/verdict")
    tab.until(f"document.querySelector('#review-status').textContent.startsWith('Accepted: {NAMES[0]}')")
    assert tab.page.url.endswith(f"/{NAMES[2]}.html")
    tab.open(NAMES[1])
    tab.keys("k")
    tab.page.keyboard.type("the fovea, too")
    tab.keys("Escape", "r", "Enter")
    tab.until("document.querySelector('#review-status').textContent.startsWith('Say why')")
    tab.keys("3", "5", "4", "4", "Enter")
    tab.arrived(NAMES[2])

    tab.edit()  # strokes, polygon, fill, undo, redo
    tab.keys("b", "[", "[")
    tab.drag((10, 10), (30, 12))
    tab.keys("p")
    for x, y in ((5, 30), (25, 30), (25, 50), (5, 50)):
        tab.click(x, y)
    tab.keys("Enter", "e")
    tab.drag((15, 40), (15, 45))  # a hole
    tab.keys("f")
    tab.click(15, 40)  # filled
    tab.keys("Control+z", "Control+z", "Control+Shift+Z", "Control+Shift+Z", "Control+z")  # and open again
    tab.keys("2", "b")
    tab.drag((60, 5), (70, 8))
    masks[NAMES[2]] = tab.shown()
    tab.keys("Control+s")
    tab.arrived(NAMES[3])

    tab.page.click("[data-eye=R]")
    tab.until("document.querySelector('.pane-eye').textContent === 'OD'")
    tab.edit()  # the disc's ellipse: moved, then made wider by its handle
    tab.keys("d")
    tab.drag((52 + 9, 30), (45 + 9, 25))
    tab.keys("ArrowLeft", "Shift+ArrowRight")
    tab.until("document.querySelector('#review-undo').disabled === false")
    masks[NAMES[3]] = tab.shown()
    tab.keys("Control+s")
    tab.arrived(NAMES[4])

    tab.edit()  # a second tab is faster; this one's edit goes on top
    tab.drag((45, 30), (50, 30), (40, 25))
    second = make_tab()
    second.open(NAMES[4], ".review-question")
    second.page.click("[data-answer=later]")
    second.keys("a")
    second.arrived(NAMES[5])
    masks[NAMES[4]] = tab.shown()
    tab.keys("Control+s")
    tab.page.wait_for_selector(".review-question")
    assert "anna" not in tab.page.inner_text(".review-question h2")
    assert "You saved another version" in tab.page.inner_text(".review-question")
    tab.page.click("[data-answer=mine]")
    tab.arrived(NAMES[5])

    second.keys("r", "1", "Enter")  # here the other one's is taken
    second.arrived(NAMES[6])
    tab.keys("a")
    tab.page.click("[data-answer=theirs]")
    tab.until("document.querySelector('#review-verdict').dataset.verdict === 'rejected'")
    second.page.close()
    tab.keys("j")
    tab.arrived(NAMES[6])

    tab.edit()  # reload in the middle of an edit
    tab.keys("b")
    tab.drag((5, 5), (20, 20))
    tab.until("document.querySelector('#review-undo').disabled === false")
    masks[NAMES[6]] = tab.shown()
    tab.page.reload()
    tab.page.click("[data-answer=go]")
    tab.page.wait_for_selector("#review-save")
    np.testing.assert_array_equal(tab.shown(), masks[NAMES[6]])
    tab.keys("Control+s")
    tab.arrived(NAMES[7])

    server.kill()  # a verdict waits for the server
    tab.keys("a")
    tab.until("document.querySelector('#review-status').textContent.startsWith('Not saved yet')")
    server.start()
    tab.arrived(NAMES[8])
    tab.edit()  # an edit outlives both the server and the tab
    tab.keys("b")
    tab.drag((5, 50), (70, 50))
    masks[NAMES[8]] = tab.shown()
    server.kill()
    tab.keys("Control+s")
    tab.until("document.querySelector('#review-status').textContent.startsWith('Not saved yet')")
    tab.page.close()
    server.start()
    tab = make_tab()
    tab.open(NAMES[9])
    tab.until(f"document.querySelector('#review-status').textContent.startsWith('Saved what was kept of {NAMES[8]}')")
    tab.keys("a")
    tab.arrived("q0_U_v1_i1")

    found = states(server.predictions)
    verdicts = ["accepted", "rejected", "edited", "edited", "edited", "rejected", "edited", "accepted", "edited", "accepted"]
    assert [found[name].verdict for name in NAMES] == verdicts
    assert found[NAMES[1]].reasons == ("missed", "border")
    assert found[NAMES[1]].comment == "the fovea, too"
    assert found[NAMES[3]].eye == "R"
    assert found[NAMES[4]].version == 2
    for name, mask in masks.items():
        np.testing.assert_array_equal(stored(server, name), mask, err_msg=name)
    assert AuditLog.of(server.predictions).verify() is None


def test_surfaces_and_boxes_are_dragged(server: Server, make_tab: Callable[[], Tab]) -> None:
    tab = make_tab()
    tab.open("q0_U_v1_i1")
    tab.edit()
    tab.keys("l", "[", "[", "[")
    tab.drag((40.5, 20), (40.5, 50))  # down over the other surface, which stops it
    tab.drag((15.5, 20), (15.5, 30))  # through the fluid, which stays
    tab.keys("Control+s")
    tab.arrived("q1_U_v1_i1")
    tab.edit()
    tab.drag((15, 15), (18, 16))
    tab.drag((60, 40), (70, 50))  # a new one of the chosen class
    tab.keys("2")
    tab.click(45, 15)
    tab.keys("Delete", "Control+z", "Control+Shift+Z", "Control+s")
    tab.page.wait_for_selector("#review-save", state="detached")

    now = states(server.predictions)
    layers = read_correction(server.predictions, now["q0_U_v1_i1"].correction)
    top, bottom = layers.surfaces["top of RNFL"][0], layers.surfaces["bottom of RNFL"][0]
    assert top[40] == bottom[40] == 40
    assert top[15] == 30
    assert (top[70:] == 20).all()
    assert (bottom == 40).all()
    rows = np.arange(ROWS)[:, None] + 0.5
    expected = ((rows > top) & (rows < bottom)).astype(np.uint8)
    expected[25:28, 10:20] = 2
    np.testing.assert_array_equal(layers.masks[0], expected)
    objects = read_correction(server.predictions, now["q1_U_v1_i1"].correction).objects
    assert objects is not None
    assert [(one.name, one.score, [round(side) for side in one.box]) for one in objects] == [
        ("exudate", 0.9, [13, 11, 23, 21]),
        ("haemorrhage", None, [60, 40, 70, 50]),
    ]


def test_an_adjudicator_logs_in_and_accepts_the_reading_that_is_shown(browser: Any, predictions: Path, tmp_path: Path) -> None:
    accounts, password = tmp_path / "accounts.json", "correct horse battery"
    Accounts(accounts).add("cara", password)
    mask = disc_and_cup(ROWS, COLUMNS)
    mask[5:9, 5:20] = 1
    reading.read(predictions, FIRST, "accepted", by="anna")
    correction = reading.edit(predictions, FIRST, [mask], by="ben", role="second")
    context = browser.new_context(viewport={"width": 1300, "height": 850})
    with started(predictions, Wishes(port=0, accounts=accounts, adjudicators=["cara"])) as serving:
        tab = Tab(context, serving)
        tab.open(FIRST, "input[name=password]")
        tab.page.fill("input[name=name]", "cara")
        tab.page.fill("input[name=password]", password)
        tab.keys("Enter")
        with tab.late("**/corrections/**"):
            tab.page.click("[data-show=second]")
            tab.keys("a")  # of what is not drawn yet there is no verdict
        tab.page.wait_for_selector("[data-show=second][aria-pressed=true]")
        tab.keys("f")  # areas, too
        np.testing.assert_array_equal(tab.shown(), mask)
        tab.keys("a")
        tab.until("document.querySelector('#review-verdict').dataset.verdict === 'edited'")
        told = tab.page.inner_text("#review-verdict")
        context.close()
    assert tab.errors == []
    assert "by ben, accepted by cara" in told
    found = states(predictions)[FIRST]
    assert (found.reviewer, found.verdict, found.disagreement, found.correction) == ("cara", "edited", False, correction)


def test_masks_pass_through_the_page_exactly(server: Server, make_tab: Callable[[], Tab]) -> None:
    tab = make_tab()
    tab.open(NAMES[0])
    random = np.random.default_rng(0)
    for kind in (np.uint8, np.uint16):
        values = random.integers(0, np.iinfo(kind).max, (37, 53), dtype=kind, endpoint=True)
        script = """async (text) => {
          const { decodeGrey, encodeGrey, toBase64 } = await import('/review/png.js');
          return toBase64(await encodeGrey(await decodeGrey(Uint8Array.from(atob(text), (one) => one.charCodeAt(0)))));
        }"""
        made = base64.b64decode(tab.page.evaluate(script, base64.b64encode(png_of(values)).decode()))
        (read,) = read_pages(io.BytesIO(made), "png", max_pixels=values.size)
        assert read.dtype == kind
        np.testing.assert_array_equal(read, values)


def test_what_is_accepted_is_what_is_shown(server: Server, make_tab: Callable[[], Tab]) -> None:
    tab, before = make_tab(), len(AuditLog.of(server.predictions).events())
    tab.open(NAMES[2])  # a corrected case, of which the model's own contours are shown
    tab.until("document.querySelector('#review-compare').hidden === false")
    tab.keys("x", "a")
    tab.until("document.querySelector('#review-status').textContent.endsWith('Press A again.')")
    tab.open(NAMES[9])
    (server.predictions / "cases" / NAMES[9] / "mask_000.png").write_bytes(png_of(np.zeros((ROWS, COLUMNS), np.uint8)))
    tab.keys("r", "1", "Enter")
    tab.until("document.querySelector('#review-status').textContent.startsWith('the case was predicted again')")
    assert len(AuditLog.of(server.predictions).events()) == before
    tab.page.reload()
    tab.until("document.querySelector('#review-verdict')?.dataset.verdict === 'unreviewed'")


def test_an_objects_mask_is_painted_alone(server: Server, make_tab: Callable[[], Tab]) -> None:
    tab = make_tab()
    tab.open(INSTANCES)
    tab.edit()
    assert len(tab.page.evaluate(AREAS)) == 2, "the third is below its threshold"
    assert tab.page.evaluate(ENTERED) == [2], "back from the class of pixels, the chosen object is of the class that it was"
    tab.click(12.5, 12.5)
    tab.keys("b", "[", "[", "[")
    tab.drag((12.5, 17.5), (30.5, 17.5))  # over the other, which stays as it is
    tab.keys("e")
    tab.drag((11.5, 10.5), (11.5, 13.5))
    tab.keys("Control+z", "Control+Shift+Z")
    tab.keys("o", "Tab", "2")  # the other one is a haemorrhage
    tab.keys("Control+z", "Control+z")  # and an exudate again, also in what was there before the step before
    assert len(set(tab.page.evaluate(COLOURS))) == 1
    tab.keys("Control+Shift+Z", "Control+Shift+Z")
    tab.keys("Escape", "1", "p")
    for x, y in ((50, 40), (60, 40), (60, 50)):
        tab.click(x, y)
    tab.keys("Enter", "o", "Tab", "Delete", "Control+z")  # the first goes, and is back
    shown = [area(path) for path in tab.page.evaluate(AREAS)]
    tab.keys("Control+s")
    tab.page.wait_for_selector("#review-save", state="detached")
    name = states(server.predictions)[INSTANCES].correction
    made = read_correction(server.predictions, name)
    assert made.objects is not None
    assert [(one.name, one.score) for one in made.objects] == [("exudate", 0.9), ("haemorrhage", 0.65), ("exudate", None)]
    masks = [decoded(one.segmentation or {}) for one in made.objects]
    np.testing.assert_array_equal(masks, shown)
    assert [list(one.box) for one in made.objects] == [box_of(mask) for mask in masks]
    first, second = blank(), blank()
    first[10:20, 10:20] = second[15:25, 15:25] = True
    np.testing.assert_array_equal(masks[1], second)
    assert masks[0][17, 29]
    assert not masks[0][10:14, 11].any()
    assert not (masks[0] & ~first)[:15].any()
    np.testing.assert_array_equal(made.masks[0], (masks[0] | masks[2]) * 1 + masks[1] * 2)
    labels = read_labels(server.predictions, read_run(server.predictions), read_case(server.predictions / "cases" / INSTANCES), name)
    assert [one.segmentation for one in labels.objects] == [one.segmentation for one in made.objects]
    tab.open(INSTANCES)
    tab.edit()
    np.testing.assert_array_equal([area(path) for path in tab.page.evaluate(AREAS)], masks)

    tab.keys("b")
    tab.drag((30.5, 50.5), (35.5, 50.5))  # one more, unfinished when somebody else has painted another one
    shown = [area(path) for path in tab.page.evaluate(AREAS)]
    theirs = [one.model_dump(by_alias=True) for one in made.objects]
    theirs[1] |= {"segmentation": encode_mask(first), "box": box_of(first)}
    reading.edit(server.predictions, INSTANCES, list(made.masks), objects=theirs, by="ben")
    tab.page.reload()
    tab.page.click("[data-answer=go]")
    tab.page.wait_for_selector("#review-save")
    np.testing.assert_array_equal([area(path) for path in tab.page.evaluate(AREAS)], shown)
    tab.keys("Control+s")
    tab.page.click("[data-answer=mine]")
    tab.page.wait_for_selector("#review-save", state="detached")
    objects = read_correction(server.predictions, states(server.predictions)[INSTANCES].correction).objects
    assert objects is not None
    np.testing.assert_array_equal([decoded(one.segmentation or {}) for one in objects], shown)


def test_what_is_late_is_about_what_it_was_asked_for(server: Server, make_tab: Callable[[], Tab]) -> None:
    tab = make_tab()
    tab.open(VOLUME)
    with tab.late("**/mask_000.png*"):
        tab.keys("e", "e")
    tab.page.wait_for_selector("#review-save")
    assert tab.page.locator(".review-mask").count() == 1, "one editor"
    tab.keys("b")
    with tab.late("**/mask_001.png*"):
        tab.keys("ArrowDown")
        tab.drag((10, 10), (30, 10))  # the picture is of slice 1, and no mask yet
    tab.page.wait_for_selector(".review-mask[data-slice='1']")
    assert tab.page.is_disabled("#review-undo")
    tab.drag((10, 30), (30, 30))
    mask = tab.shown()
    with tab.late("**/edit"):
        tab.keys("Control+s")
        tab.drag((10, 50), (30, 50))
        tab.until("document.querySelector('#review-status').textContent.startsWith('It is being saved')")
    tab.page.wait_for_selector("#review-save", state="detached")
    masks = read_correction(server.predictions, states(server.predictions)[VOLUME].correction).masks
    assert [bool(one.any()) for one in masks] == [False, True, False]
    np.testing.assert_array_equal(masks[1], mask)

    tab.open(VOLUME, "#review-verdict[data-verdict=edited]")
    with tab.late("**/corrections/**"):
        tab.page.reload()
        tab.page.wait_for_selector("#review-verdict[data-verdict=edited]")
        tab.keys("a")
        tab.until("document.querySelector('#review-status').textContent.startsWith('The correction is not drawn yet')")
        tab.keys("e")
    tab.page.wait_for_selector("#review-save")
    assert tab.page.locator(".review-mask").count() == 1, "the correction is not drawn under its editor"
    tab.keys("Escape")
    tab.until("document.querySelector('#found').textContent.includes('Counted on the correction by anna')")
    tab.keys("x")
    tab.until("!document.querySelector('#found').textContent.includes('Counted on the correction')")
    tab.page.evaluate("window.samePage = true")
    tab.keys("j", "j")
    tab.until(f"!location.pathname.endsWith('/{VOLUME}.html')")
    assert tab.page.evaluate("window.samePage"), "the second press does not load the page anew"


def test_a_conflict_on_a_volume_and_the_way_back_to_the_model(server: Server, make_tab: Callable[[], Tab]) -> None:
    tab, known = make_tab(), states(server.predictions).get(VOLUME)
    kept = read_correction(server.predictions, known.correction).masks if known else (np.zeros((ROWS, COLUMNS), np.uint8),) * 3
    tab.open(VOLUME)
    tab.edit()
    tab.keys("b", "2", "ArrowDown", "ArrowDown")
    tab.page.wait_for_selector(".review-mask[data-slice='2']")
    tab.drag((40, 40), (50, 40))
    theirs = disc_and_cup(ROWS, COLUMNS)
    reading.edit(server.predictions, VOLUME, [theirs, kept[1], theirs], by="ben")
    tab.keys("Control+s")
    asked = tab.page.inner_text(".review-question")
    assert "Somebody else has reviewed this case" in asked
    assert "You changed slice 3." in asked
    tab.page.click("[data-answer=both]")
    tab.page.wait_for_selector("#review-save", state="detached")
    now = read_correction(server.predictions, states(server.predictions)[VOLUME].correction).masks
    np.testing.assert_array_equal(now[:2], [theirs, kept[1]])
    assert now[2].any()
    assert not (now[2] & 1)[:20].any(), "what they drew there is not taken"
    tab.open(VOLUME)
    tab.page.wait_for_selector(".review-mask")
    tab.keys("z")
    tab.until("document.querySelector('#review-status').textContent.includes('Press Z again')")
    tab.keys("z")
    tab.until(f"!location.pathname.endsWith('/{VOLUME}.html')")
    events, state = AuditLog.of(server.predictions).events(VOLUME), states(server.predictions)[VOLUME]
    assert (state.verdict, state.correction, events[-2].verdict) == ("accepted", "", "edited")
    np.testing.assert_array_equal(read_correction(server.predictions, events[-2].correction).masks, now)
    assert tab.page.evaluate(ANSWERS) == ["mine", "theirs"], "of objects a list is sent, which cannot go on top of theirs"


ENTERED = """async () => {
  const { boxTool } = await import('/review/boxes.js'), asked = [];
  const classes = [{ index: 1, kind: 'object' }, { index: 2, kind: 'object' }, { index: 3, kind: 'mask' }];
  boxTool({ info: { classes, instances: 'there' }, label: 3, chosen: { class: 2 }, chooseClass: (k) => asked.push(k) }).enter();
  return asked;
}"""
ANSWERS = """async () => {
  const { conflict } = await import('/review/dom.js');
  conflict({ by: 'ben', at: '' }, { planes: [0, 1], correction: 'theirs' }, { planes: [], objects: [], base: '' }, 'case', 'anna');
  return [...document.querySelectorAll('[data-answer]')].map((one) => one.dataset.answer);
}"""
AXE_RUN = """async () => {
  document.querySelector('#review-reasons').hidden = false;
  document.querySelector('.review-history').open = true;
  const { passes, violations } = await axe.run(document, { resultTypes: ['violations'], preload: false });
  const grave = violations.filter((one) => ['serious', 'critical'].includes(one.impact));
  return [passes.length, grave.map((one) => [one.id, one.nodes.slice(0, 3).map((node) => node.html.slice(0, 200))])];
}"""


def test_axe_finds_nothing_serious(server: Server, make_tab: Callable[[], Tab]) -> None:
    tab = make_tab()
    tab.open(NAMES[0])
    tab.edit()
    tab.page.evaluate(AXE.read_text(encoding="utf-8") + "; undefined")
    rules, found = tab.page.evaluate(AXE_RUN)
    assert found == []
    assert rules > 10, "the rules were asked"
