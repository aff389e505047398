"""Which class a picture as a whole is: by its folder, by its name, or by a column of the table that lists the images."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from pipeline.cards.labels import IGNORE_NAME
from pipeline.errors import CardError
from pipeline.registry import Strict
from pipeline.scans.eyes import eye_of
from pipeline.types import LabelMap

EYE = "eye"


class PictureClass(Strict):
    """A field of the images' pattern (a folder, a part of the file's name) or a column of their table says what each picture is."""

    field: str = Field(description="field of images.file, or column of images.table, whose value is each picture's class")
    values: dict[str, str] = Field(
        default_factory=dict,
        description="what each value means: a class, or ignore for pictures to leave out; without them each value is a class's own name",
    )

    def check(self, label_map: LabelMap, labels: bool) -> None:
        """Raises ValueError where the rest of the card does not go together with this."""
        if labels:
            raise ValueError("picture_class: labels mark pixels or objects; a card of whole pictures has none")
        if len(label_map) < 2 or label_map.overlapping or label_map.layered:
            raise ValueError("picture_class: needs two classes or more that exclude each other, and no layers")
        strange = sorted(set(self.values.values()) - {*label_map.names, IGNORE_NAME})
        if strange:
            raise ValueError(f"picture_class.values name class {strange[0]!r}, but classes are: {', '.join(label_map.names)}")
        if self.field == EYE and not label_map.mirrors:
            raise ValueError("picture_class: a mirrored right eye is a left one: say so by mirrors_to of both classes")

    def of(self, fields: Mapping[str, str], names: tuple[str, ...]) -> str | None:
        """The class of the image with these fields; None of one to leave out.

        Raises
        ------
        CardError: its value is no class.
        """
        text = fields.get(self.field, "")
        values = self.values or {name: name for name in names}
        if self.field == EYE:
            text, values = _eye(text), {_eye(value): name for value, name in values.items()}
        if text not in values:
            raise CardError(f"its {self.field} {text!r} is no class of the card; name it in picture_class.values, or as ignore")
        return None if values[text] == IGNORE_NAME else values[text]


def _eye(text: str) -> str:
    return eye_of(text) or text
