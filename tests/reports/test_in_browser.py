"""The pages as a browser runs them, from file://, without a network: toggles, sliders, keys, slices, sorting, searching."""

from __future__ import annotations

import ast
import csv
import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.reports.worklist import write_report
from tests.patience import LONG_S
from tests.reports.conftest import Out, disc_and_cup, vcdr
from tests.reports.test_worklist import EVIL

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1280,900"),
    *("--virtual-time-budget=4000", "--dump-dom"),
)
REPORT = """
const out = document.createElement('pre'); out.id = 'told'; out.textContent = JSON.stringify(told); document.body.append(out); })();
"""


def run(page: Path, script: str, tmp_path: Path) -> dict[str, Any]:
    """Load a page with ``script`` appended; the script calls ``tell(name, value)``; returns what it told.

    A page without the script's results, or with an error, fails here. Errors include blocked content (CSP).
    """
    probe = page.with_name("probe.js")
    probe.write_text(
        "const told = {errors: []};\n"
        "const tell = (name, value) => { told[name] = value; };\n"
        "const wait = (ms) => new Promise((done) => setTimeout(done, ms));\n"
        "const key = (name) => document.dispatchEvent(new KeyboardEvent('keydown', {key: name, bubbles: true}));\n"
        "const id = (name) => document.getElementById(name);\n"
        "window.addEventListener('error', (event) => told.errors.push(String(event.message)));\n"
        "document.addEventListener('securitypolicyviolation', (event) => told.errors.push(event.violatedDirective));\n"
        f"(async () => {{ try {{\n{script}\n}} catch (error) {{ told.errors.push(String(error)); }}\n{REPORT}",
        encoding="utf-8",
    )
    copy = page.with_name(f"probe_{page.name}")
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", '<script src="probe.js"></script></body>'), encoding="utf-8")
    assert CHROMIUM is not None
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={tmp_path / 'browser'}", copy.as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=LONG_S, check=False, encoding="utf-8", errors="replace")
    found = re.search(r'<pre id="told">(.*?)</pre>', done.stdout, re.S)
    assert found, f"the page's script did not finish: {done.stderr[-500:]}"
    told: dict[str, Any] = json.loads(html.unescape(found[1]))
    assert told.pop("errors") == []
    return told


def test_classes_fill_opacity_zoom_and_keys(make_out: Callable[..., Out], tmp_path: Path) -> None:
    out = make_out()
    known = {"laterality": "R", "laterality_source": "tag", "spacing_mm": [0.01, 0.01], "spacing_source": "user"}
    out.add("pa_R_v1_i1", disc_and_cup(), geometry=known, warnings=[EVIL.replace("alert", "tell")])
    out.add("pa_L_v1_i1", disc_and_cup())
    out.add("pa_R_v2_i1", disc_and_cup())
    out.add("pb_R_v1_i1", disc_and_cup())
    write_report(out.path)
    told = run(
        out.path / "report" / "cases" / "pa_R_v1_i1.html",
        """
        const shown = (k) => getComputedStyle(document.querySelectorAll('.layer')[k]).display !== 'none';
        const path = document.querySelector('.layer path');
        const boxes = () => [...document.querySelectorAll('.view')].map((v) => v.getAttribute('viewBox'));
        const numbers = () => boxes()[0].split(' ').map(Number);
        await wait(300);
        tell('picture', [...document.querySelectorAll('image')].map((i) => i.getBBox().width));
        tell('start', [shown(0), shown(1), getComputedStyle(path).fillOpacity]);
        key('1'); tell('one', [shown(0), shown(1), document.querySelector('input[data-class="0"]').checked]);
        key('a'); tell('all', [shown(0), shown(1)]);
        key('a'); tell('none', [shown(0), shown(1)]);
        key('a');
        key('o'); tell('hidden', [shown(0), id('show-overlay').checked]);
        key('o');
        key('f'); tell('filled', getComputedStyle(path).fillOpacity);
        key('f'); tell('unfilled', getComputedStyle(path).fillOpacity);
        const slider = document.querySelector('input[data-opacity="1"]');
        slider.value = 40; slider.dispatchEvent(new Event('input'));
        tell('opacity', getComputedStyle(document.querySelectorAll('.layer')[1]).opacity);
        const before = numbers();
        key('+'); tell('zoomed', [before[2] / numbers()[2], id('zoom').textContent]);
        const middle = numbers();
        key('ArrowRight'); tell('moved', numbers()[0] > middle[0]);
        tell('together', boxes()[0] === boxes()[1]);
        key('0'); tell('fitted', JSON.stringify(numbers()) === JSON.stringify(before));
        const bar = document.querySelector('.scalebar line:last-of-type');
        tell('bar', [bar.getAttribute('x2') - bar.getAttribute('x1'), document.querySelector('.scalebar text').textContent]);
        key('g'); tell('redfree', document.querySelector('.scan').style.filter);
        key('?'); tell('help', id('help').open); key('?');
        key(' '); const peeked = getComputedStyle(id('overlay')).display;
        document.dispatchEvent(new KeyboardEvent('keyup', {key: ' ', bubbles: true}));
        tell('peek', [peeked, getComputedStyle(id('overlay')).display]);
        key('s'); tell('single', [getComputedStyle(id('pane-original')).display, location.hash]); key('s');
        const halo = document.querySelector('use.halo');
        tell('halo', [getComputedStyle(halo).getPropertyValue('--line').trim(), halo.getAttribute('href'), halo.getBBox().width > 0]);
        tell('ways', ['fellow', 'visit', 'patient'].map((name) => id(name) && id(name).getAttribute('href')));
        const inline = document.createElement('script');
        inline.textContent = 'window.broken = true';
        document.body.append(inline);
        await wait(50);
        tell('inline script ran', window.broken === true);
        tell('blocked', told.errors.splice(0));
        tell('next', id('next').getAttribute('href'));
        """,
        tmp_path,
    )
    assert told["picture"] == [160, 160]
    assert told["start"] == [True, True, "0"]
    assert told["one"] == [False, True, False]
    assert told["all"] == [True, True]
    assert told["none"] == [False, False]
    assert told["hidden"] == [False, False]
    assert float(told["filled"]) == pytest.approx(0.35)
    assert told["unfilled"] == "0"
    assert told["opacity"] == "0.4"
    assert told["zoomed"][0] == pytest.approx(1.25, abs=0.01)
    assert told["moved"]
    assert told["together"]
    assert told["fitted"]
    length, text = told["bar"]
    stated = float(text.split()[0]) * {"mm": 1.0, "µm": 0.001}[text.split()[1]]
    assert length * 0.01 == pytest.approx(stated), "the bar is as long as it says"
    assert "url(" in told["redfree"]
    assert told["help"]
    assert told["peek"] == ["none", "inline"]
    assert told["single"] == ["none", "#redfree=on&panes=one"]
    assert told["halo"] == ["5px", "#outline-0", True], "close up there is room for bolder ones"
    assert told["ways"] == ["pa_L_v1_i1.html", "pa_R_v2_i1.html", "../patients/pa.html"]
    assert told["inline script ran"] is False
    assert told["blocked"] == ["script-src-elem"]
    assert "x" not in told
    assert told["next"].startswith("pa_L_v1_i1.html")


def test_slices_of_a_volume(make_out: Callable[..., Out], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.reports.slices.PART", 100)
    out = make_out()
    mask = np.zeros((12, 80, 130), np.uint8)
    for index in range(2, 9):
        mask[index] = disc_and_cup(80, 130) * (index != 5)
    mask[7, 60:70, 10:30] = 1
    out.add("pa_R_v1_i1", mask, modality="oct")
    write_report(out.path)
    told = run(
        out.path / "report" / "cases" / "pa_R_v1_i1.html",
        """
        const of = (selector) => document.querySelector(selector);
        const state = async () => {
            await wait(250);
            const drawn = of('.layer path').getAttribute('d').length > 0;
            return [id('slice-text').textContent, of('.scan').getAttribute('href').slice(-13), drawn,
                of('[data-slice-pixels="0"]').textContent.replace(/\\D/g, '')];
        };
        tell('start', await state());
        key('ArrowLeft'); tell('left', await state());
        key('ArrowUp'); tell('up', await state());
        key('Home'); tell('first', await state());
        key('PageDown'); tell('on', await state());
        id('slice').value = 7; id('slice').dispatchEvent(new Event('input')); tell('slider', await state());
        tell('strip', document.querySelectorAll('#strip rect').length);
        """,
        tmp_path,
    )
    disc = int((disc_and_cup(80, 130) & 1).sum())
    most = int((mask[7] & 1).sum())
    assert told["start"] == ["slice 8 of 12", "image_007.png", True, str(most)]
    assert told["left"] == ["slice 7 of 12", "image_006.png", True, str(disc)]
    assert told["up"] == ["slice 6 of 12", "image_005.png", False, "0"]
    assert told["first"] == ["slice 1 of 12", "image_000.png", False, "0"]
    assert told["on"] == ["slice 11 of 12", "image_010.png", False, "0"]
    assert told["slider"] == told["start"]
    assert told["strip"] == 12, "six slices of two classes"


def test_the_worklist_sorts_filters_and_searches(make_out: Callable[..., Out], tmp_path: Path) -> None:
    out = make_out()
    for place, name in enumerate(("pa_R_v1_i1", "pa_L_v1_i1", "pb_R_v1_i1")):
        out.add(
            name,
            disc_and_cup() & (1 if place == 1 else 3),
            geometry={"laterality": name[3], "laterality_source": "tag"},
            warnings=[EVIL.replace("alert", "tell"), "a second"][: place + 1],
            quality={"grade": ("good", "poor", "good")[place], "reasons": ["blurred"] if place == 1 else []},
            doubt={"score": (0.1, 0.2, 0.9)[place]},
        )
    out.reject("rejected", "truncated", "the picture ends early")
    index = write_report(out.path)
    told = run(
        index,
        """
        const rows = () => [...document.querySelectorAll('tr.case')];
        const order = () => rows().map((row) => row.querySelector('.open').getAttribute('href').slice(6, 10));
        const press = (name) => document.querySelector(`[data-sort="${name}"]`).click();
        const chip = (value) => document.querySelector(`.filter[data-value="${value}"]`);
        const search = (text) => { id('search').value = text; id('search').dispatchEvent(new Event('input')); return order(); };
        tell('first', order());
        tell('texts', rows().map((row) => [...row.children].map((cell) => cell.textContent.trim())));
        press('case'); tell('case', [order(), location.hash, document.querySelector('[aria-sort]').textContent.slice(0, 7)]);
        press('case'); tell('reversed', [order(), location.hash]);
        press('warnings'); tell('warned', order());
        id('order').value = 'needs'; id('order').dispatchEvent(new Event('change'));
        tell('back', [order(), location.hash]);
        tell('chips', ['OD', 'OS', '?', 'good', 'poor', 'not graded'].map((v) => chip(v).hidden ? 'hidden' : chip(v).textContent));
        chip('OD').click(); tell('right', [order(), location.hash, chip('poor').textContent, chip('OS').textContent]);
        chip('OD').click(); id('only').click(); tell('only', [order(), location.hash]); id('only').click();
        tell('OD', search('OD')); tell('eye:os', search('eye:os')); tell('modality', search('photo'));
        tell('finding', search('finding:cup'));
        tell('missing', search('missing:cup')); tell('reason', search('reason:blur'));
        tell('beginning', search('di pb')); tell('inside', search('isc'));
        tell('name', [search('pb_r_v1'), id('matches').textContent, location.hash]);
        const files = () => [...document.querySelectorAll('tr.file')].filter((row) => !row.hidden);
        search('truncated'); tell('file', [order().length, files().length, id('none').hidden]);
        search('');
        key('j'); key('j'); tell('second', document.activeElement.getAttribute('href').slice(6, 10));
        key('k'); tell('chosen', [document.activeElement.getAttribute('href').slice(6, 10), location.hash]);
        location.hash = '#order=eye&eye=OD&q=disc'; await wait(50);
        tell('read', [order(), id('search').value, id('order').value, document.querySelector('.open').getAttribute('href')]);
        document.querySelector('.open').focus(); tell('carried', document.querySelector('.open').getAttribute('href'));
        await wait(200); tell('thumbs', [...document.images].filter((i) => i.naturalWidth).length > 0);
        """,
        tmp_path,
    )
    assert told["first"] == ["pa_L", "pb_R", "pa_R"], "the poor picture, then by doubt"
    assert told["case"] == [["pa_R", "pa_L", "pb_R"], "#order=case", "Patient"]
    assert told["reversed"] == [["pb_R", "pa_L", "pa_R"], "#order=case&dir=desc"]
    assert told["warned"] == ["pa_L", "pb_R", "pa_R"]
    assert told["back"] == [told["first"], ""]
    assert told["chips"] == ["OD 2", "OS 1", "hidden", "good 2", "poor 1", "hidden"]
    assert told["right"] == [["pb_R", "pa_R"], "#eye=OD", "poor 0", "OS 1"], "counts are of what a chip would leave"
    assert told["only"] == [["pa_L"], "#only=eyes"]
    assert told["OD"] == told["finding"] == ["pb_R", "pa_R"]
    assert told["eye:os"] == told["missing"] == told["reason"] == ["pa_L"]
    assert told["modality"] == told["inside"] == [], "a kind of scan is not searched for, and words match from their beginning"
    assert told["beginning"] == ["pb_R"]
    assert told["name"] == [["pb_R"], "1 of 3 cases, 0 of 1 other files", "#q=pb_r_v1"]
    assert told["file"] == [0, 1, False]
    assert told["second"] == "pb_R"
    assert told["chosen"] == ["pa_L", "#at=pa_L_v1_i1"]
    assert told["read"] == [["pb_R", "pa_R"], "disc", "eye", "cases/pb_R_v1_i1.html"]
    assert told["carried"] == "cases/pb_R_v1_i1.html#order=eye&eye=OD&q=disc"
    assert told["thumbs"]
    assert "x" not in told
    assert told["texts"] == static_rows(index), "the page says without scripts what the script draws"
    with (out.path / "report" / "worklist.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["case"][:4] for row in table] == told["first"]


def test_a_long_worklist_has_pages_and_search_and_order_are_of_all_of_them(make_out: Callable[..., Out], tmp_path: Path) -> None:
    """One case's row, 45 times under other names, on pages of 20."""
    out = make_out()
    out.add("p_R_v1_i1", disc_and_cup(), geometry={"laterality": "R", "laterality_source": "tag"}, doubt={"score": 0.5})
    index = write_report(out.path)
    page = index.read_text(encoding="utf-8")
    assert 'data-page="2000"' in page
    index.write_text(page.replace('data-page="2000"', 'data-page="20"'), encoding="utf-8")
    script = index.with_name("rows.js")
    data = json.loads(ast.literal_eval(script.read_text().removeprefix("ocusegRows(").removesuffix(");\n")))
    number = 45
    data |= {"rows": number, "columns": {name: {"texts": values, "at": [0] * number} for name, values in data["columns"].items()}}
    data["columns"] |= {"name": [f"p{k}_R_v1_i{k}" for k in range(number)], "doubt": [k / number for k in range(number)]}
    for cls in data["classes"]:
        cls |= {name: {"texts": cls[name], "at": [0] * number} for name in ("text", "amount", "withheld")}
    script.write_text(f"ocusegRows('{json.dumps(data)}');\n")
    told = run(
        index,
        """
        const names = () => [...document.querySelectorAll('tr.case')].map((row) => row.dataset.name.split('_')[0]);
        const pagers = () => [...document.querySelectorAll('.pager')];
        const pager = () => pagers().map((own) => own.hidden ? 'hidden' : own.querySelector('output').textContent);
        const steps = () => [...document.querySelector('.pager').querySelectorAll('button')].map((button) => button.disabled);
        const search = (text) => { id('search').value = text; id('search').dispatchEvent(new Event('input')); };
        const address = () => location.hash.slice(1).split('&').sort().join('&');
        const focused = () => document.activeElement.closest('tr').dataset.name.split('_')[0];
        tell('first', [names()[0], pager(), steps(), document.querySelector('tr.case').getAttribute('aria-rowindex')]);
        document.querySelector('.pager [data-step="1"]').click();
        tell('second', [names()[0], pager()[0], steps(), address(), document.querySelector('tr.case').getAttribute('aria-rowindex')]);
        document.querySelector('.open').focus(); tell('link', document.querySelector('.open').getAttribute('href'));
        key('k'); tell('back', [focused(), address()]);
        key('j'); tell('on', [focused(), address()]);
        search('p43'); tell('searched', [names(), pager(), id('matches').textContent, address()]);
        search('');
        id('order').value = 'doubt'; id('order').dispatchEvent(new Event('change')); tell('ordered', [names()[0], pager()[0]]);
        location.hash = '#order=doubt&page=9'; await wait(50); tell('beyond', [names()[0], pager()[0], steps(), address()]);
        location.hash = '#at=p21_R_v1_i21'; await wait(50); tell('at', [focused(), pager()[0], address()]);
        dispatchEvent(new Event('beforeprint')); tell('printed', names().length);
        """,
        tmp_path,
    )
    assert told["first"] == ["p0", ["1 to 20 of 45"] * 2, [True, False], "2"]
    assert told["second"] == ["p20", "21 to 40 of 45", [False, False], "page=2", "22"]
    assert told["link"] == "cases/p20_R_v1_i20.html"
    assert told["back"] == ["p19", "at=p19_R_v1_i19"]
    assert told["on"] == ["p20", "at=p20_R_v1_i20&page=2"]
    assert told["searched"] == [["p43"], ["hidden"] * 2, "1 of 45 cases", "at=p20_R_v1_i20&q=p43"]
    assert told["ordered"] == ["p44", "1 to 20 of 45"]
    assert told["beyond"] == ["p4", "41 to 45 of 45", [False, True], "order=doubt&page=3"]
    assert told["at"] == ["p21", "21 to 40 of 45", "at=p21_R_v1_i21&page=2"]
    assert told["printed"] == 20


def static_rows(index: Path) -> list[list[str]]:
    """Of each row that stands in the page the words of its cells."""
    cells = re.compile(r"<t[dh][^>]*>(.*?)</t[dh]>", re.S)
    rows = re.findall(r'<tr class="case.*?</tr>', index.read_text(encoding="utf-8"), re.S)
    return [[html.unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in cells.findall(row)] for row in rows]


def test_next_on_a_case_page_follows_the_worklist_and_leads_back(make_out: Callable[..., Out], tmp_path: Path) -> None:
    out = make_out()
    for place, name in enumerate(("pa_R_v1_i1", "pb_L_v1_i1", "pc_R_v1_i1", "pd_R_v1_i1")):
        out.add(name, disc_and_cup(), geometry={"laterality": name[3], "laterality_source": "tag"}, doubt={"score": place / 10})
    write_report(out.path)
    told = run(
        out.path / "report" / "cases" / "pc_R_v1_i1.html",
        """
        const links = () => ['previous', 'next'].map((name) => id(name).getAttribute('href'));
        await wait(100); tell('first', [links(), document.querySelector('[data-order-place]').textContent]);
        location.hash = '#eye=OD&order=case&view=large'; await wait(100);
        tell('eye', [links(), document.querySelector('[data-order-place]').textContent, id('worklist-link').getAttribute('href')]);
        location.hash = '#q=pc'; await wait(100); tell('alone', [links(), id('next').className]);
        """,
        tmp_path,
    )
    assert told["first"] == [["pd_R_v1_i1.html", "pb_L_v1_i1.html"], "2 of 4"], "the most doubtful comes first"
    rest = "#eye=OD&order=case&view=large"
    assert told["eye"][:2] == [[f"pa_R_v1_i1.html{rest}", f"pd_R_v1_i1.html{rest}"], "2 of 3"]
    assert told["eye"][2] == f"../index.html{rest}&at=pc_R_v1_i1"
    assert told["alone"] == [[None, None], "button off"]


def test_a_case_prints_on_one_page(make_out: Callable[..., Out], tmp_path: Path) -> None:
    out = make_out()
    for number in range(12):
        out.add(f"p{number:02d}_R_v1_i1", disc_and_cup(), warnings=["the picture is dark"])
    index = write_report(out.path)
    assert CHROMIUM is not None
    pages = {}
    for name, page in (("case", out.path / "report" / "cases" / "p03_R_v1_i1.html"), ("worklist", index)):
        pdf = tmp_path / f"{name}.pdf"
        command = [CHROMIUM, *OPTIONS[:-1], "--no-pdf-header-footer", f"--print-to-pdf={pdf}", f"--user-data-dir={tmp_path / 'browser'}"]
        subprocess.run([*command, page.as_uri()], capture_output=True, timeout=LONG_S, check=True)
        (count,) = re.findall(rb"/Type /Pages\s[^>]*?/Count (\d+)", pdf.read_bytes())
        pages[name] = int(count)
    assert pages["case"] == 1
    assert 2 <= pages["worklist"] <= 4


def test_two_visits_of_a_patient_are_compared(make_out: Callable[..., Out], tmp_path: Path) -> None:
    out = make_out()
    for visit, ratio in (("v1", 0.41), ("v2", 0.52), ("v3", 0.5)):
        for eye in "RL":
            out.add(
                f"pa_{eye}_{visit}_i1",
                disc_and_cup(60, 80),
                geometry={"laterality": eye, "laterality_source": "tag"},
                measures=[vcdr(ratio)],
            )
    write_report(out.path)
    told = run(
        out.path / "report" / "patients" / "pa.html",
        """
        const shown = () => [...document.querySelectorAll('.visit')].map((visit) => visit.offsetParent !== null);
        const rows = () => id('comparison').hidden ? null :
            [...id('comparison').querySelectorAll('tbody tr')].map((row) => [...row.cells].map((cell) => cell.textContent));
        const links = document.querySelectorAll('[data-visit]');
        tell('latest', [shown(), rows()]);
        links[0].click(); tell('two', [shown(), rows()]);
        links[0].click(); tell('one', [shown(), rows()]);
        key('v'); tell('next', shown());
        key('e'); const first = document.activeElement.getAttribute('href');
        key('e'); tell('eyes', [first, document.activeElement.getAttribute('href')]);
        await wait(100);
        tell('pictures', [...document.querySelectorAll('.side img')].filter((image) => image.naturalWidth > 0).length > 0);
        """,
        tmp_path,
    )
    assert told["latest"] == [[False, False, True], None]
    assert told["two"] == [
        [True, False, True],
        [[eye, "vertical cup-to-disc ratio", "0.41", "0.50", "+0.09"] for eye in ("OD", "OS")],
    ]
    assert told["one"] == [[True, False, False], None]
    assert told["next"] == [False, True, False]
    assert told["eyes"] == ["../cases/pa_R_v2_i1.html", "../cases/pa_L_v2_i1.html"]
    assert told["pictures"]
