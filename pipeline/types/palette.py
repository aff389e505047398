"""Colours for classes: seen on a photograph of the fundus, and told apart."""

from __future__ import annotations

import colorsys

Colour = tuple[int, int, int]

_CHOSEN: tuple[Colour, ...] = (
    # Okabe and Ito's palette (jfly.uni-koeln.de/color), told apart by people with any colour vision, without vermilion and orange:
    # on an orange fundus they are 6 and 10 apart from it (CIEDE2000), these 24 and more.
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (204, 121, 167),
    # Each the farthest from those before it and from the fundus, for normal and for deuteranopic eyes; bright ones first.
    (255, 255, 255),
    (20, 255, 255),
    (220, 20, 180),
    (140, 255, 180),
    (140, 100, 255),
    (60, 20, 255),
    (255, 100, 140),
    (100, 20, 60),
    (20, 20, 140),
    (100, 100, 100),
    (220, 180, 180),
    (60, 140, 140),
    (180, 180, 220),
    (60, 60, 100),
    (20, 100, 100),
)


def class_colour(index: int) -> Colour:
    """The colour of class ``index`` (from 1), another one for each of the first hundreds of classes."""
    if index <= len(_CHOSEN):
        return _CHOSEN[index - 1]
    # The golden angle spreads hues evenly, however many there are; red to yellow, a third of the circle's start, is the fundus.
    turn = (index * 0.61803398875) % 1
    red, green, blue = colorsys.hsv_to_rgb(0.2 + 0.72 * turn, (0.55, 0.75, 0.95)[index % 3], (0.95, 0.8)[index // 3 % 2])
    return round(255 * red), round(255 * green), round(255 * blue)
