"""Properties are checked without a clock: the first example also pays for imports, and machines are shared."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("ocuseg", deadline=None)
settings.load_profile("ocuseg")
