"""The page on which a reviewer logs in, with the words that it has to say."""

from __future__ import annotations

import html
import re
from urllib.parse import parse_qs

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>Log in · ocuseg review</title>
<link rel="icon" href="data:,">
<style nonce="{nonce}">
body {{ font: 1rem/1.5 system-ui, sans-serif; background: #10171d; color: #e6edf2; margin: 0; min-height: 100vh; }}
body {{ display: grid; place-content: center; }}
form {{ display: grid; gap: .8rem; width: 20rem; }}
h1 {{ font-size: 1.2rem; margin: 0; }}
label {{ display: grid; gap: .2rem; }}
input, button {{ font: inherit; padding: .45rem .6rem; border-radius: 6px; border: 1px solid #4a5a67; background: #fff; color: #10171d; }}
button {{ background: #1d6fa5; color: #fff; border-color: #1d6fa5; }}
[role=alert] {{ color: #ffd27a; margin: 0; }}
p {{ margin: 0; font-size: .85rem; color: #9fb0bd; }}
</style>
</head>
<body>
<form method="post" action="/login">
<h1>ocuseg review</h1>
{message}<input type="hidden" name="next" value="{target}">
<label>Name <input name="name" autocomplete="username" required autofocus></label>
<label>Password <input name="password" type="password" autocomplete="current-password" required></label>
<button>Log in</button>
<p>Research use, not for diagnosis</p>
</form>
</body>
</html>
"""
_TARGET = re.compile(r"/((cases|patients)/[A-Za-z0-9_.-]+\.html)?")


def page(nonce: str, target: str, message: str = "") -> str:
    said = f'<p role="alert">{html.escape(message)}</p>\n' if message else ""
    return _PAGE.format(nonce=nonce, target=html.escape(safe_target(target)), message=said)


def safe_target(target: str) -> str:
    """A page of this server to go to after the login; the worklist in place of anything else."""
    return target if _TARGET.fullmatch(target) else "/"


def fields(body: bytes) -> tuple[str, str, str]:
    """(name, password, target) of a sent form."""
    sent = parse_qs(body.decode("utf-8", "replace"), max_num_fields=10)
    name, password, target = ((sent.get(key) or [""])[0] for key in ("name", "password", "next"))
    return name.strip(), password, target
