"""What a PACS answers by a number, in words (PS3.4 annexes B, C and J; PS3.7 annex C)."""

from __future__ import annotations

_SUCCESS = 0x0000
_EXACT = {
    0x0105: "it holds another object under this identifier",
    0x0106: "a value is not one that it takes",
    0x0107: "it lacks an attribute",
    0x0110: "it failed while it processed the request",
    0x0111: "it holds this object already",
    0x0112: "it does not know this object",
    0x0117: "the identifier (UID) is not valid",
    0x0118: "it does not take objects of this SOP class",
    0x0119: "it holds this object with another SOP class",
    0x0120: "it misses an attribute",
    0x0122: "it does not take objects of this SOP class",
    0x0124: "our AE title may not do this; ask who runs the PACS to allow it",
    0x0211: "it does not offer this operation",
    0xA801: "it does not know the destination of the move; our AE title, host and port must be set up on the PACS",
    0xFE00: "it was cancelled",
}
_KINDS = {
    0xA700: "it is out of resources (memory or disk)",
    0xA900: "the object does not fit its SOP class",
    0xC000: "it cannot process it",
}
ALREADY_THERE = 0x0111


def is_success(status: int) -> bool:
    """Whether the object is kept: success, or one of the warnings (coerced or dropped elements)."""
    return status in (_SUCCESS, 0x0001, 0x0107, 0x0116) or status & 0xF000 == 0xB000


def is_passing(status: int) -> bool:
    """Whether it may go better later: out of resources, or a failure while processing."""
    return status == 0x0110 or status & 0xFF00 == 0xA700


def failure_reason(status: int) -> str:
    """A status or Failure Reason (0008,1197) as words, with its number."""
    kind = _KINDS.get(status & 0xFF00) or (_KINDS[0xC000] if status & 0xF000 == 0xC000 else None)
    return f"{_EXACT.get(status) or kind or 'it gives no reason'} (0x{status:04X})"
