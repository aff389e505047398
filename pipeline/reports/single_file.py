"""A case's page as one HTML file: style, scripts and pictures stand in it, so that it opens wherever it is sent, and asks for nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.reports.pages import write_text

_KINDS = {".png": "image/png", ".jpg": "image/jpeg"}
_POLICY = "policy to come"
"""Stands in the page until its scripts are known."""


def write_single_file(out: Path, name: str) -> Path:
    """``out/report/single/<name>.html`` from the page that `ocuseg report` wrote; returns its path.

    Links to other pages and files become plain text. The page's content policy allows its own scripts, by their hashes, and nothing else.

    Raises
    ------
    ConfigError: there is no page of that case. OSError: a picture cannot be read, or the file cannot be written.
    """
    page = out / "report" / "cases" / f"{name}.html"
    if Path(name).name != name or not page.is_file():
        raise ConfigError(f"no case {name!r} in this report; the names are those of the worklist, for example {_example(out)}")
    reader = _Inliner(page, out)
    reader.feed(page.read_text(encoding="utf-8"))
    reader.close()
    allowed = " ".join(dict.fromkeys(reader.hashes)) or "'none'"
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}; base-uri 'none'; form-action 'none'"
    target = out / "report" / "single" / f"{name}.html"
    target.parent.mkdir(exist_ok=True)
    write_text(target, "".join(reader.parts).replace(_POLICY, policy, 1))
    return target


def _example(out: Path) -> str:
    return next((path.stem for path in sorted((out / "report" / "cases").glob("*.html"))), "none, because there is no case")


class _Inliner(HTMLParser):
    """Copies a page to ``parts``; what it refers to is put in its place, or, where that is another page, left out."""

    def __init__(self, page: Path, out: Path) -> None:
        super().__init__(convert_charrefs=False)
        self.page, self.out = page, out.resolve()
        self.parts: list[str] = []
        self.hashes: list[str] = []
        self._late: list[str] = []  # outlines of slices, which viewer.js must be there for
        self._json: list[str] | None = None
        self._skipping = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._skipping:
            return
        own = dict(attrs)
        if tag == "nav" and own.get("aria-label") == "Cases":
            self._skipping = "nav"
        elif tag == "meta" and own.get("http-equiv") == "Content-Security-Policy":
            self.parts.append(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">')
        elif tag == "link" and own.get("rel") == "stylesheet":
            self.parts.append(f"<style>{self._text_of(own['href'])}</style>")
        elif tag == "script" and own.get("src"):
            if own.get("data-case"):  # order.js, which leads to other pages
                self._skipping = "script"
            else:
                self._script(self._text_of(own["src"]), closed=False)
        elif tag == "script":
            self._json = []
            self.parts.append(self.get_starttag_text() or "")
        else:
            self.parts.append(self._rewritten(tag, attrs))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if not self._skipping:
            self.parts.append(self._rewritten(tag, attrs, end="/"))

    def handle_endtag(self, tag: str) -> None:
        if self._skipping:
            self._skipping = "" if tag == self._skipping else self._skipping
            return
        if tag == "script" and self._json is not None:
            self.parts.append(self._data("".join(self._json)))
            self._json = None
        if tag == "body":
            for text in self._late:
                self._script(text, closed=True)
        self.parts.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if self._json is not None:
            self._json.append(data)
        elif not self._skipping:
            self.parts.append(data)

    def handle_entityref(self, name: str) -> None:
        self.handle_data(f"&{name};")

    def handle_charref(self, name: str) -> None:
        self.handle_data(f"&#{name};")

    def handle_decl(self, decl: str) -> None:
        self.parts.append(f"<!{decl}>")

    def _script(self, text: str, *, closed: bool) -> None:
        text = text.replace("</script", "<\\/script").replace("<!--", "<\\!--")
        self.hashes.append(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'")
        self.parts.append(f"<script>{text}" + ("</script>\n" if closed else ""))

    def _rewritten(self, tag: str, attrs: list[tuple[str, str | None]], end: str = "") -> str:
        changed = [(key, self._reference(tag, key, value)) for key, value in attrs]
        if changed == attrs:
            return self.get_starttag_text() or ""
        kept = [pair for pair, before in zip(changed, attrs, strict=True) if pair[1] != "" or pair == before]
        return f"<{tag}" + "".join(f" {key}" if value is None else f' {key}="{html.escape(value)}"' for key, value in kept) + f"{end}>"

    def _reference(self, tag: str, key: str, value: str | None) -> str | None:
        if key not in ("href", "src", "xlink:href") or value is None or value.startswith(("#", "data:")):
            return value
        return "" if tag == "a" else self._picture(value)

    def _data(self, text: str) -> str:
        """The JSON of the page, its pictures in place of their paths; of the only picture, which the page has, no second copy."""
        data = json.loads(text)
        if len(data.get("images", ())) == 1:
            data["images"] = [""]
        self._late = [self._text_of(name) for name in dict.fromkeys(data.get("scripts", ()))]
        data["scripts"] = []
        return json.dumps(self._inlined(data), ensure_ascii=False).replace("<", "\\u003c")

    def _inlined(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._inlined(one) for key, one in value.items()}
        if isinstance(value, list):
            return [self._inlined(one) for one in value]
        return self._picture(value) if isinstance(value, str) and re.fullmatch(r"\.\./[\w./-]+\.(png|jpg)", value) else value

    def _picture(self, reference: str) -> str:
        path = self._path(reference)
        return f"data:{_KINDS[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"

    def _text_of(self, reference: str | None) -> str:
        return self._path(reference or "").read_text(encoding="utf-8")

    def _path(self, reference: str) -> Path:
        path = (self.page.parent / reference).resolve()
        if not path.is_relative_to(self.out):
            raise ConfigError(f"{self.page.name} refers to {reference}, which is outside the folder; make the report anew")
        return path
