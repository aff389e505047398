"""Tables as spreadsheets write them: comma, semicolon or tab, in any encoding with a byte order mark, or UTF-8; errors name the line."""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path

from pipeline.cards.plain_text import read_plain_text
from pipeline.errors import CardError

_DELIMITERS = ",;\t|"


def read_table(path: Path) -> list[tuple[int, dict[str, str]]]:
    """(line, value by column) of every row that is not empty. Short rows lack their last columns.

    Raises
    ------
    CardError: not text, no header, two columns with the same name, or a row with more values than columns; names the line.
    """
    text = read_plain_text(path)
    first = text.partition("\n")[0].strip()
    told = first.lower().startswith("sep=") and len(first) == 5  # what Excel puts first where it says which one it used
    delimiter = first[4] if told else max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    header: list[str] = []
    rows = []
    try:
        for cells in reader:
            values = [cell.strip() for cell in cells]
            if not any(values) or (told and reader.line_num == 1):
                continue
            if not header:
                header = values
                twice = [name for name, count in Counter(filter(None, header)).items() if count > 1]
                if twice:
                    raise CardError(f"column {twice[0]!r} occurs twice in its header; give each column a name of its own")
                continue
            if any(values[len(header) :]):
                raise CardError(
                    f"line {reader.line_num} has {len(values)} values for {len(header)} columns; put what holds {delimiter!r} in quotes"
                )
            rows.append((reader.line_num, {name: value for name, value in zip(header, values, strict=False) if name}))
    except csv.Error as error:
        raise CardError(f"line {reader.line_num} cannot be read ({error})") from None
    if not header:
        raise CardError("it is empty; its first line must name the columns")
    return rows
