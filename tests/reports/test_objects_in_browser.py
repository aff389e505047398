"""Objects as a browser shows them: the score sliders, boxes and their list, labels beside boxes, slices, sorting by class."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from pipeline.reports.worklist import write_report
from tests.patience import LONG_S
from tests.reports.conftest import DISC_CUP, LESIONS, Out, spot
from tests.reports.test_in_browser import CHROMIUM, OPTIONS, pytestmark, run  # noqa: F401 (pytestmark skips without Chromium)

SHAPE = (240, 400)
NAME = "pa_R_v1_i1"
COMMON = """
    const shown = (part) => getComputedStyle(part).display !== 'none';
    const seen = (part) => shown(part) && shown(part.closest('.object')) && shown(part.closest('.layer'));
    const boxes = () => [...document.querySelectorAll('.object .box')].filter(seen).length;
    const paths = () => [...document.querySelectorAll('.object .outline:not(.halo)')].filter(seen).length;
    const rows = () => [...document.querySelectorAll('#object-table tbody tr')].filter((row) => !row.hidden);
    const counts = () => [...document.querySelectorAll('[data-objects]')].map((cell) => Number(cell.textContent));
    const words = () => [...document.querySelectorAll('#object-labels text')].map((text) => text.textContent);
    const drag = (slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); };
    const score = (k) => document.querySelector(`[data-score="${k}"]`);
    const state = () => [boxes(), rows().length, counts()];
    await wait(300);
"""


def page(out: Out, name: str = NAME) -> Path:
    write_report(out.path)
    return out.path / "report" / "cases" / f"{name}.html"


def lesions(out: Out) -> None:
    """Five haemorrhages of 0.9, 0.75 ... 0.3 and two exudates of 0.8 and 0.45, all apart; the thresholds are 0.5 and 0.4."""
    found = [
        {"class": "haemorrhage", "score": 0.9 - 0.15 * k, "box": [20 + 70 * k, 40, 40 + 70 * k, 60], "size_mm": [0.2, 0.2]}
        for k in range(5)
    ]
    found += [{"class": "exudate", "score": s, "box": [x, 150, x + 30, 170], "size_mm": [0.3, 0.2]} for s, x in ((0.8, 60), (0.45, 250))]
    out.add_objects(NAME, SHAPE, found, thresholds={"exudate": 0.4}, geometry={"spacing_mm": [0.01, 0.01], "spacing_source": "user"})


def test_scores_choose_boxes_counts_and_rows(make_out: Callable[..., Out], tmp_path: Path) -> None:
    out = make_out(LESIONS).detection()
    lesions(out)
    told = run(
        page(out),
        COMMON
        + """
        tell('start', [...state(), id('score-reset').disabled, id('score-all-value').textContent, id('object-summary').textContent]);
        tell('words', words());
        tell('cells', rows()[0].textContent.trim().replace(/\\s+/g, ' '));
        tell('heading', id('unit-size').parentElement.textContent);
        drag(id('score-all'), 0.7);
        tell('all', [...state(), id('score-all-value').textContent, score(1).value, id('score-reset').disabled]);
        drag(score(2), 0.2);
        tell('one', [...state(), score(2).nextElementSibling.textContent, id('score-all-value').textContent]);
        id('score-reset').click();
        tell('reset', [...state(), id('score-reset').disabled, score(2).value, id('score-state').textContent]);
        key(','); tell('lower', [...state(), score(1).value, score(2).value]);
        key('t'); key('.'); tell('higher', state());
        key('t'); key('b'); tell('no boxes', [boxes(), rows().length, id('show-boxes').checked]);
        key('b'); key('l'); await wait(100); tell('no labels', words());
        key('l'); key('3'); await wait(100); tell('class off', [boxes(), rows().length, words().length, counts()]);
        key('3'); key('o'); tell('no overlay', getComputedStyle(id('object-labels')).display);
        """,
        tmp_path,
    )
    assert told["start"] == [5, 5, [0, 2, 3], True, "by class", "5 of 7 objects at these scores"]
    assert sorted(told["words"]) == ["exudate 0.45", "exudate 0.80", "haemorrhage 0.60", "haemorrhage 0.75", "haemorrhage 0.90"]
    assert told["cells"] == "haemorrhage0.900.20 × 0.20"
    assert told["heading"] == "Width × height, mm"
    assert told["all"] == [3, 3, [0, 1, 2], "0.70", "0.7", False]
    assert told["one"] == [6, 6, [0, 1, 5], "0.20", "by class"]
    assert told["reset"] == [5, 5, [0, 2, 3], True, "0.5", "the bundle's thresholds"]
    assert told["lower"] == [6, 6, [0, 2, 4], "0.35", "0.45"]
    assert told["higher"] == [5, 5, [0, 2, 3]]
    assert told["no boxes"] == [0, 5, False]
    assert told["no labels"] == []
    assert told["class off"] == [2, 2, 2, [0, 2, 3]]
    assert told["no overlay"] == "none"


def test_rows_and_boxes_point_at_each_other(make_out: Callable[..., Out], tmp_path: Path) -> None:
    out = make_out(LESIONS).detection()
    lesions(out)
    told = run(
        page(out),
        COMMON
        + """
        const drawn = () => [...document.querySelectorAll('.object.lit .box')].map((box) => box.getAttribute('x'));
        const lit = () => [drawn(), rows().map((row) => row.classList.contains('lit'))];
        const over = (kind, name, x, y) => {
            const view = document.querySelector(`#pane-${name} .view`), box = view.getBoundingClientRect();
            const [left, top, wide] = view.getAttribute('viewBox').split(' ').map(Number), scale = wide / box.width;
            const at = {clientX: box.left + (x - left) / scale, clientY: box.top + (y - top) / scale};
            view.dispatchEvent(new PointerEvent(kind, at));
        };
        over('pointermove', 'overlay', 70, 160); await wait(100);
        tell('box', [lit(), words().includes('exudate 0.80 · 0.30 × 0.20 mm')]);
        over('pointermove', 'original', 30, 50); tell('original', lit());
        over('pointermove', 'overlay', 200, 110); tell('nothing', lit());
        over('pointerleave', 'overlay', 0, 0);
        rows()[2].dispatchEvent(new PointerEvent('pointerenter')); tell('row', lit());
        rows()[2].dispatchEvent(new PointerEvent('pointerleave')); tell('left', lit());
        tell('tab order', rows().map((r) => r.querySelector('button').tabIndex));
        const press = (name) => document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: name, bubbles: true}));
        rows()[0].querySelector('button').focus(); press('ArrowDown');
        tell('down', [lit()[1], rows().indexOf(document.activeElement.closest('tr')), id('zoom').textContent]);
        document.activeElement.click(); await wait(100);
        const view = document.querySelector('.view').getAttribute('viewBox').split(' ').map(Number);
        tell('gone to', [view[0] + view[2] / 2, view[1] + view[3] / 2, view[2] < 200]);
        drag(id('score-all'), 0.85); tell('hidden', lit());
        """,
        tmp_path,
    )
    off = [False] * 5
    assert told["box"] == [[["60"], [False, True, False, False, False]], True]
    assert told["original"] == [["20"], [True, False, False, False, False]]
    assert told["nothing"] == told["left"] == [[], off]
    assert told["row"] == [["90"], [False, False, True, False, False]]
    assert told["tab order"] == [0, -1, -1, -1, -1]
    assert told["down"] == [[False, True, False, False, False], 1, "fit"]
    assert told["gone to"] == [75, 160, True]
    assert told["hidden"] == [[], [False]]


def test_labels_lie_outside_every_box(make_out: Callable[..., Out], tmp_path: Path) -> None:
    out = make_out(DISC_CUP).detection()
    disc, cup = spot(SHAPE, 260, 120, 60), spot(SHAPE, 262, 121, 25)
    crowd = [
        {"class": "cup", "score": 0.6 + k / 500, "box": [20 + 9 * (k % 12), 40 + 9 * (k // 12), 30 + 9 * (k % 12), 50 + 9 * (k // 12)]}
        for k in range(144)
    ]
    out.add_objects(NAME, SHAPE, [{"class": "disc", "score": 0.97} | disc, {"class": "cup", "score": 0.93} | cup], has_masks=True)
    out.add_objects("pb_R_v1_i1", SHAPE, crowd)
    measure = (
        COMMON
        + """
        const inside = (a, b) => a.left < b.right - 1 && b.left + 1 < a.right && a.top < b.bottom - 1 && b.top + 1 < a.bottom;
        const rect = (part) => part.getBoundingClientRect();
        const labels = [...document.querySelectorAll('#object-labels text')].map(rect);
        const drawn = [...document.querySelectorAll('.object .box')].map(rect);
        tell('words', words());
        tell('on a box', labels.filter((label) => drawn.some((box) => inside(label, box))).length);
        tell('on a label', labels.filter((label, k) => labels.some((other, n) => n > k && inside(label, other))).length);
        tell('leaders', document.querySelectorAll('#object-labels line').length);
        tell('boxes', drawn.length); tell('paths', paths());
        key('c'); tell('no contours', [paths(), boxes()]);
    """
    )
    nested = run(page(out), measure, tmp_path)
    assert sorted(nested["words"]) == ["cup 0.93", "disc 0.97"]
    assert nested["on a box"] == nested["on a label"] == 0
    assert nested["leaders"] == 1, "the cup's label stands outside the disc and is led back to the cup"
    assert nested["paths"] == 2
    assert nested["no contours"] == [0, 2]
    crowded = run(page(out, "pb_R_v1_i1"), measure, tmp_path)
    assert crowded["boxes"] == 144
    assert 0 < len(crowded["words"]) < 144, "where there is no room there is no label"
    assert all(re.fullmatch(r"0\.\d\d", text) for text in crowded["words"])
    assert crowded["on a box"] == crowded["on a label"] == 0


def test_a_thousand_boxes_stay_usable(make_out: Callable[..., Out], tmp_path: Path) -> None:
    out = make_out(LESIONS).detection()
    many = [
        {"class": "exudate", "score": 0.999 - k / 2000, "box": [10 * (k % 40), 9 * (k // 40), 10 * (k % 40) + 7, 9 * (k // 40) + 6]}
        for k in range(1000)
    ]
    out.add_objects(NAME, SHAPE, many)
    told = run(
        page(out),
        COMMON
        + """
        tell('boxes', boxes());
        for (let k = 0; k < 10; k++) { drag(id('score-all'), 0.6 + k / 100); key('+'); await wait(20); }
        tell('left', boxes());
        tell('labels', words().length);
        """,
        tmp_path,
    )
    assert told["boxes"] == 999
    assert told["left"] == 619
    assert told["labels"] <= 150


def test_objects_of_a_volume_come_with_their_slice(make_out: Callable[..., Out], tmp_path: Path) -> None:
    out = make_out(DISC_CUP).detection()
    one, two, three = spot((80, 130), 40, 30, 9), spot((80, 130), 90, 50, 12), spot((80, 130), 30, 60, 8)
    found = [
        {"class": "disc", "score": 0.9, "plane": 1} | one,
        {"class": "disc", "score": 0.8, "plane": 4} | two,
        {"class": "cup", "score": 0.3, "plane": 4} | three,
    ]
    out.add_objects(NAME, (6, 80, 130), found, has_masks=True, modality="oct")
    told = run(
        page(out),
        COMMON
        + """
        const inSlice = () => [...document.querySelectorAll('[data-slice-objects]')].map((cell) => Number(cell.textContent));
        const all = () => [boxes(), paths(), rows().length, inSlice(), counts(), document.querySelectorAll('#strip rect').length];
        tell('start', [id('slice-text').textContent, ...all()]);
        drag(id('score-all'), 0.2); tell('lower', all());
        key('t'); key('ArrowLeft'); await wait(200); tell('empty', all());
        key('Home'); key('ArrowRight'); await wait(200); tell('other', [id('slice-text').textContent, ...all()]);
        """,
        tmp_path,
    )
    assert told["start"] == ["slice 5 of 6", 1, 1, 1, [1, 0], [2, 0], 2]
    assert told["lower"] == [2, 1, 2, [1, 1], [2, 1], 3]
    assert told["empty"] == [0, 0, 0, [0, 0], [2, 0], 2]
    assert told["other"] == ["slice 2 of 6", 1, 1, 1, [1, 0], [2, 0], 2]


def test_the_worklist_sorts_by_a_class(make_out: Callable[..., Out], tmp_path: Path) -> None:
    out = make_out(LESIONS).detection()
    for name, number in (("pa", 2), ("pb", 12), ("pc", 0)):
        found = [{"class": "haemorrhage", "score": 0.9, "box": [10 * k, 5, 10 * k + 6, 9]} for k in range(number)]
        out.add_objects(f"{name}_R_v1_i1", SHAPE, found)
    told = run(
        write_report(out.path),
        """
        const seen = () => [...document.querySelectorAll('tr.case')].filter((row) => row.offsetParent);
        const order = () => seen().map((row) => row.querySelector('.open').getAttribute('href').slice(6, 8));
        const press = () => document.querySelector('[data-sort="found2"]').click();
        press(); tell('most', order());
        press(); tell('fewest', order());
        id('search').value = 'haemorrhage'; id('search').dispatchEvent(new Event('input')); tell('found', order());
        """,
        tmp_path,
    )
    assert told["most"] == ["pb", "pa", "pc"], "as numbers, most first"
    assert told["fewest"] == ["pc", "pa", "pb"]
    assert told["found"] == ["pa", "pb"]


def test_a_case_with_many_objects_prints_on_one_page(make_out: Callable[..., Out], tmp_path: Path) -> None:
    out = make_out(LESIONS).detection()
    many = [
        {"class": "exudate", "score": 0.9, "box": [10 * (k % 40), 9 * (k // 40), 10 * (k % 40) + 7, 9 * (k // 40) + 6]} for k in range(200)
    ]
    out.add_objects(NAME, SHAPE, many)
    pdf = tmp_path / "case.pdf"
    assert CHROMIUM is not None
    command = [CHROMIUM, *OPTIONS[:-1], "--no-pdf-header-footer", f"--print-to-pdf={pdf}", f"--user-data-dir={tmp_path / 'browser'}"]
    subprocess.run([*command, page(out).as_uri()], capture_output=True, timeout=LONG_S, check=True)
    (count,) = re.findall(rb"/Type /Pages\s[^>]*?/Count (\d+)", pdf.read_bytes())
    assert int(count) == 1
