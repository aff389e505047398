"""The report's own pages as the review server shows them: unchanged on the disk, with the review bar's script added on the way."""

from __future__ import annotations

import html
import re
from pathlib import Path

from pipeline.review.sessions import Visitor

PAGE = Path(__file__).parent / "page"
_POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
_ADDED = '<link rel="stylesheet" href="/review/review.css">\n<script type="module" src="/review/review.js"></script>\n</head>'
_CASE = r"[A-Za-z0-9.-]{1,64}_[RLU]_[A-Za-z0-9.-]{1,64}_[A-Za-z0-9.-]{1,64}"
_FILE = r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,200}"
_IN_REPORT = re.compile(
    rf"index\.html|rows\.js|worklist\.csv|assets/{_FILE}\.(css|js)|data/{_FILE}\.js|(thumbs|views)/{_FILE}\.jpg|(cases|patients)/{_FILE}\.html"
)
_IN_PREDICTIONS = re.compile(rf"ledger\.csv|coco\.json|cases/{_CASE}/[A-Za-z0-9_-]{{1,64}}\.(png|jpg)")
_OWN = re.compile(rf"review/({_FILE}\.(js|css|svg))")


def policy(nonce: str) -> str:
    """The content policy of every answer; ``nonce`` is of the ``<style>`` elements in a page."""
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )


def file_of(predictions: Path, path: str) -> Path | None:
    """The file that an address stands for: of the report, of a case's pictures and masks, or of the bar; None for all else.

    A file that lies elsewhere, behind a symbolic link, is none.
    """
    if own := _OWN.fullmatch(path):
        return _inside(PAGE, own[1])
    if _IN_REPORT.fullmatch(path):
        return _inside(predictions / "report", path)
    return _inside(predictions, path) if _IN_PREDICTIONS.fullmatch(path) else None


def case_of(path: str) -> str:
    """The case that a page is about, or ""."""
    return Path(path).stem if path.startswith("cases/") and path.endswith(".html") else ""


def with_bar(page: str, case: str, model: str, visitor: Visitor, nonce: str) -> str:
    """A report's page with the bar's style and script, its ``case`` (or "") with the hash of what the model found, and the visitor's token;
    the header's policy takes the place of its own."""
    body = f'<body data-csrf="{html.escape(visitor.csrf)}"' + (f' data-case="{html.escape(case)}" data-model="{model}"' if case else "")
    page = _POLICY.sub("", page, count=1).replace("</head>", _ADDED, 1).replace("<style>", f'<style nonce="{nonce}">')
    return page.replace("<body", body, 1)


def _inside(root: Path, path: str) -> Path | None:
    found = (root / path).resolve()
    return found if found.is_relative_to(root.resolve()) and found.is_file() else None
