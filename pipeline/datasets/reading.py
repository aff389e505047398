"""One case from its files or from the disk cache, with its name in every error."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.cards.card import CardCase, DataCard
from pipeline.cards.labels import CocoLabel
from pipeline.cards.targets import WeakMasks
from pipeline.datasets.cache import CACHE_VERSION, CachedCase, load_case, save_case
from pipeline.datasets.normalise import NormaliseConfig
from pipeline.datasets.preprocess import TargetKind, preprocess_case
from pipeline.errors import CardError, OcusegError, ScanError
from pipeline.models.selective_search import SelectiveSearchConfig
from pipeline.scans.open import content_sha256
from pipeline.types import CaseKey


@dataclass
class CaseReader:
    """Reads and normalises cases of a card; with a ``cache_dir`` into folders there, from which the arrays are mapped into memory."""

    card: DataCard
    normalise: NormaliseConfig
    need: TargetKind
    weak_masks: WeakMasks
    cache_dir: Path | None
    search: SelectiveSearchConfig | None = None
    unsearched: Collection[CaseKey] = ()
    _label_hashes: dict[Path, str] = field(default_factory=dict)

    def load(self, case: CardCase) -> CachedCase:
        """A case's arrays.

        Raises
        ------
        CardError: its files cannot be read, or do not fit each other or the card.
        """
        try:
            if self.cache_dir is None:
                return self._preprocessed(case)
            folder = self.cache_dir / self._digest(case)
            cached = load_case(folder)
            if cached is None:
                save_case(self._preprocessed(case), folder)
                cached = load_case(folder)
                if cached is None:
                    raise CardError(f"case {case.key}: its cached arrays cannot be read back; check the disk of the cache folder")
            return replace(cached, about=cached.about | {"part": case.part})
        except OSError as error:
            raise CardError(f"case {case.key}: a file cannot be read ({error.strerror or type(error).__name__})") from error
        except OcusegError as error:
            text = str(error)
            raise CardError(text if text.startswith(f"case {case.key}") else f"case {case.key}: {text}") from error

    def load_or_error(self, case: CardCase) -> CachedCase | CardError:
        """A case's arrays, or the error where its files cannot be read; that files do not fit each other or the card is raised."""
        try:
            return self.load(case)
        except CardError as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, ScanError | OSError):
                cause = cause.__cause__
            if cause is None:
                raise
            return error

    def _preprocessed(self, case: CardCase) -> CachedCase:
        hashes = [None if path is None else self._label_sha256(path) for _, path in case.labels]
        return preprocess_case(self.card, case, self.normalise, self.need, self.weak_masks, hashes, self._search(case))

    def _search(self, case: CardCase) -> SelectiveSearchConfig | None:
        return None if case.key in self.unsearched else self.search

    def _label_sha256(self, path: Path) -> str:
        """Of a label file, which may be one for many cases."""
        if path not in self._label_hashes:
            self._label_hashes[path] = content_sha256(path)
        return self._label_hashes[path]

    def _digest(self, case: CardCase) -> str:
        """Name of the cache folder: the content of every file and all that shapes the arrays."""
        basis: dict[str, Any] = {
            "version": CACHE_VERSION,
            "image": content_sha256(case.image),
            # By its name an image is found in a COCO file.
            "name": case.image.name if any(isinstance(source, CocoLabel) for source, _ in case.labels) else None,
            "labels": [[source.model_dump(), None if path is None else self._label_sha256(path)] for source, path in case.labels],
            "field_of_view": None if case.field_of_view is None else content_sha256(case.field_of_view),
            "field_of_view_source": None if self.card.field_of_view is None else self.card.field_of_view.model_dump(),
            "picture_class": case.picture_class,
            "need": self.need,
            "weak_masks": self.weak_masks,
            "normalise": self.normalise.model_dump(),
            "label_map": self.card.label_map.to_json(),
            "modality": self.card.modality,
        }
        if (search := self._search(case)) is not None:
            basis["search"] = search.model_dump()
        return hashlib.sha256(json.dumps(basis, sort_keys=True, default=str).encode()).hexdigest()[:32]
