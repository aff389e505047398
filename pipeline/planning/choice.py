"""A planned setting with its reason, and a run file made of such."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

WIDTH = 120


@dataclass(frozen=True)
class Choice:
    """``key`` is dotted (``data.crop``), ``value`` plain YAML, ``why`` a comment for the people who will edit it; "" for none."""

    key: str
    value: Any
    why: str = ""


def run_file(head: Sequence[str], choices: Sequence[Choice]) -> str:
    """YAML text: the lines of ``head`` as comments, then each choice below its reason; choices of one section follow each other."""
    lines = [line for text in head for line in _comment(text, "")]
    current = ""
    for choice in choices:
        section, _, key = choice.key.rpartition(".")
        if section and section != current:
            lines.append(f"{section}:")
        current, indent = section, "  " if section else ""
        lines += _comment(choice.why, indent) if choice.why else []
        lines.append(f"{indent}{key}: {_flow(choice.value, indent)}")
    return "\n".join(lines) + "\n"


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ", break_on_hyphens=False)


def _flow(value: Any, indent: str) -> str:
    """YAML on one line where it fits."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=WIDTH - 16)
    return text.removesuffix("...\n").strip().replace("\n", f"\n{indent}")


def percent(fraction: float) -> str:
    """0.104 -> "10.4 %", 0.0045 -> "0.45 %"."""
    value = 100 * fraction
    return f"{value:.0f} %" if value >= 99.95 or value == 0 else f"{value:.1f} %" if value >= 1 else f"{value:.2g} %"
