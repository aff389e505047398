"""Which words of a description say something of a picture, and which may name a person."""

from __future__ import annotations

import re
from typing import Any

SHORTEST = 4
"""Letters from which on a name or number is looked for in what remains; shorter ones occur by chance."""

_FIELD = frozenset(
    re.findall(
        r"\w+",
        """
    3d 3x3 6x6 angio angiography angle anterior auto autofluorescence axial baseline blue bscan bscans camera central chamber choroid
    circle color colour contrast cornea cross cube deg degree degrees depth detail disc disk dual edi en enface enhanced exam eye fa faf
    fast ffa field fields fixation flow fluorescein follow fovea free fundus ganglion glaucoma green grid hd head high icg icga image
    images inferior infrared inner ir laser layer left lens line lines low macula macular map mean mm montage mosaic mydriatic nasal
    nerve nonmydriatic oct octa od optic os ou outer pattern peripapillary photo photograph photography pole posterior progression
    protocol quality radial raster red redfree resolution retina retinal right rnfl scan scans section segment single slo source
    spectral speed standard star stereo superior swept temporal thickness tomography ultra up vessel vessels vitreous volume wide
    widefield with without
    """,
    )
)


def field_words(value: Any) -> str:
    """A description with only those words that are the field's own: kinds of scans, places in the eye, sizes such as 6x6 or 512x128.

    >>> field_words("Macula cube 512x128 OD, Mr. Meier 4.3.1950")
    'Macula cube 512x128 OD'
    """
    words = re.findall(r"[^\W_]+", str(value))
    return " ".join(word for word in words if word.casefold() in _FIELD or re.fullmatch(r"\d{1,4}[xX]\d{1,4}", word))[:64]


def names_in(name: str) -> set[str]:
    """A person's name, whole and each of its parts, in lower case; parts that are words of the field are left out."""
    parts = {part for part in re.split(r"[\^=\s,;]+", name.casefold()) if part}
    return {part for part in parts | {name.strip().casefold()} if len(part) >= SHORTEST and part not in _FIELD}
