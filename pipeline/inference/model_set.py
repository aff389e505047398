"""Several bundles that look at the same scans: which of them fit a scan, and what they say of it together.

A case has one mask and one list of classes, whichever number of networks looked at it: the classes of each, one list after the other. As
networks do not know of each other, their classes overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.bundles.bundle import Bundle
from pipeline.errors import ConfigError, ScanError
from pipeline.inference.case_files import mask_dtype
from pipeline.inference.kinds import tells_kind, with_kind
from pipeline.inference.predict import Predictor, PreprocessedScan
from pipeline.scans.spacing import Said, with_spacing
from pipeline.types import LabelClass, LabelMap, Modality, Scan
from pipeline.types.palette import class_colour

_FLAT = ("fundus", "slo")
"""Modalities that are single pictures, never stacks of slices."""


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """A scan as each of the networks that fit it is to see it; ``label_map`` of all their classes, ``of_several``: there are other
    bundles, whether they fit it or not."""

    scan: Scan
    predictors: tuple[Predictor, ...]
    prepared: tuple[PreprocessedScan, ...]
    label_map: LabelMap
    of_several: bool = False

    def noted(self, note: str) -> PreparedCase:
        """With ``note``, unless it is "", among what is told of the scan."""
        prepared = tuple(one.noted(note) for one in self.prepared)
        return replace(self, scan=prepared[0].scan, prepared=prepared)

    @property
    def size(self) -> tuple[object, ...] | None:
        """What photographs must have in common to go through the networks together; None of a volume."""
        if self.scan.pixels.ndim != 3:
            return None
        return (self.predictors, *(None if one.reduced is None else one.reduced.pixels.shape for one in self.prepared))

    @property
    def at_once(self) -> int:
        """How many of this size go through the networks together."""
        shapes = (one.reduced.pixels.shape[-2:] for one in self.prepared if one.reduced is not None)
        return min((p.at_once(rows * columns) for p, (rows, columns) in zip(self.predictors, shapes, strict=False)), default=1)


class ModelSet:
    """Bundles on a device; one of them is the usual case. ``said``: what the user says of the scale of scans.

    Raises
    ------
    ConfigError: two of them cannot share a case.
    """

    def __init__(self, predictors: Sequence[Predictor], said: Said | None = None) -> None:
        self.predictors, self.said = tuple(predictors), said or Said()
        self.bundles: tuple[Bundle, ...] = tuple(one.bundle for one in predictors)
        self._label_maps: dict[tuple[Predictor, ...], LabelMap] = {}
        kinds: dict[Modality, tuple[Predictor, ...]] = {}
        telling = tuple(one for one in self.predictors if tells_kind(one.bundle))
        self._telling = telling if len(telling) < len(self.predictors) else ()  # alone they are bundles like any other
        for one in (one for one in self.predictors if one not in self._telling):
            kinds[one.bundle.modality] = (*kinds.get(one.bundle.modality, ()), one)
        self._any_kind = kinds.pop("unknown", ())  # of bundles that have learnt from several kinds of scans
        self._kinds = {kind: (*fitting, *self._any_kind) for kind, fitting in kinds.items()}
        kinds = self._kinds or {"unknown": self._any_kind}
        for fitting in kinds.values():
            mask_dtype(self.label_map(fitting))

    @property
    def id(self) -> str:
        """The bundles' ids."""
        return "+".join(bundle.id for bundle in self.bundles)

    @property
    def classes(self) -> int:
        """Of all bundles."""
        return sum(len(bundle.label_map) for bundle in self.bundles)

    @property
    def finds_objects(self) -> bool:
        return any(finds_objects(bundle) for bundle in self.bundles)

    @property
    def answers(self) -> bool:
        """Whether a bundle says what a scan as a whole is."""
        return not all(bundle.marks for bundle in self.bundles)

    @property
    def doubts(self) -> bool:
        """Whether flips are looked at, too."""
        return any(one.doubts for one in self.predictors)

    def label_map(self, predictors: Sequence[Predictor]) -> LabelMap:
        """The classes of these, one list after the other."""
        key = tuple(predictors)
        if key not in self._label_maps:
            self._label_maps[key] = joined([one.bundle for one in key if one.bundle.marks])
        return self._label_maps[key]

    def all_classes(self) -> LabelMap:
        """Those of every kind of scan: what a case's mask holds where all bundles are for one kind, else a list to be shown."""
        maps = [self.label_map(fitting) for fitting in self._kinds.values() or (self._any_kind,)]
        return maps[0] if len(maps) == 1 else listed(maps)

    def thresholds(self) -> dict[str, float]:
        """Of all classes, by their names in the cases."""
        found: dict[str, float] = {}
        for predictors in self._kinds.values():
            own = [(one.bundle.thresholds, name) for one in predictors for name in one.marked.names]
            names = self.label_map(predictors).names
            found |= {name: of[known] for name, (of, known) in zip(names, own, strict=True) if known in of}
        return found

    def fitting(self, scan: Scan) -> tuple[Predictor, ...]:
        """The networks for a scan's kind. A file that does not say its kind is let through: a colour picture to those of photographs.

        Raises
        ------
        ScanError: code ``wrong_modality``.
        """
        kinds, kind = list(self._kinds), scan.modality
        if kind not in kinds and self._any_kind and (kind != "unknown" or not kinds):
            return self._any_kind
        if kind == "unknown":
            kind = kinds[0] if len(kinds) == 1 else likely if (likely := likely_kind(scan)) in kinds else kind
        if kind == "unknown":
            raise ScanError("wrong_modality", f"the file does not say whether it is {' or '.join(kinds)}; say it with --modality")
        trained = f"the bundle was trained on {kinds[0]}" if len(kinds) == 1 else f"the models are for {' and '.join(kinds)}"
        if kind not in kinds:
            raise ScanError("wrong_modality", f"the scan is {kind}, {trained}")
        if kind in _FLAT and scan.geometry.slices > 1:
            raise ScanError(
                "wrong_modality", f"a volume of {scan.geometry.slices} slices is no {kind} picture, which the bundle was trained on"
            )
        return self._kinds[kind]

    def ready(self, scan: Scan) -> PreparedCase:
        """Everything that may be done ahead, beside the networks; those that tell kinds have their say here, as the others hang on it.

        Raises
        ------
        ScanError: no network fits the scan (:meth:`fitting`), one cannot take it, or it is no retinal picture. BundleError: of a bundle
        that tells kinds.
        """
        scan, seen = self._look(scan)
        if scan.modality == "unknown" and likely_kind(scan) == "fundus" and (self._any_kind or "fundus" in self._kinds):
            scan = replace(scan, modality="fundus", modality_source="picture")
        scan = with_spacing(scan, self.said)
        fitting = self.fitting(scan)
        prepared = (*(one.ready(scan) for one in fitting), *(replace(one, scan=scan) for one in seen.values()))
        return PreparedCase(scan, (*fitting, *seen), prepared, self.label_map(fitting), len(self.bundles) > 1)

    def _look(self, scan: Scan) -> tuple[Scan, dict[Predictor, PreprocessedScan]]:
        """The scan with its kind, and what the bundles that tell kinds see of it; a file of which a volume may be made waits."""
        seen: dict[Predictor, PreprocessedScan] = {}
        for one in self._telling if scan.piece is None else ():
            seen[one] = one.look(scan)
            scan = with_kind(scan, one.said(seen[one]))
        return scan, seen


def likely_kind(scan: Scan) -> Modality:
    """What the file says; a colour picture that says nothing is taken for a photograph."""
    colour = scan.pixels.ndim == 3 and scan.pixels.shape[0] == 3
    return "fundus" if colour and scan.modality == "unknown" else scan.modality


def finds_objects(bundle: Bundle) -> bool:
    """Whether a bundle finds objects (boxes with scores) rather than pixels."""
    return bool(bundle.config.task.need == "objects")  # type: ignore[attr-defined]


def joined(bundles: Sequence[Bundle]) -> LabelMap:
    """The classes of several bundles for one mask: overlapping, each with the role it has in its bundle, no two of one name or colour.

    A name that an earlier bundle has gets its own bundle's added.

    Raises
    ------
    ConfigError: one of several bundles has layers, which exclude each other.
    """
    if not bundles:
        return LabelMap(())
    if len(bundles) == 1:
        return bundles[0].label_map
    classes: list[LabelClass] = []
    for bundle in bundles:
        if bundle.label_map.layered:
            raise ConfigError(f"{bundle.config.name} finds layers, which fill a scan by themselves; segment with it alone")
        taken = {cls.name for cls in classes}
        own = bundle.label_map.renamed({name: f"{name}_{bundle.config.name}" for name in bundle.label_map.names if name in taken})
        if taken & set(own.names):
            raise ConfigError(f"the models hold {bundle.config.name} twice; name each once")
        for cls, role in zip(own.classes, own.roles, strict=True):
            colour = cls.colour if cls.colour not in {c.colour for c in classes} else _free_colour(classes)
            classes.append(replace(cls, index=len(classes) + 1, role=role, colour=colour))
    if len(classes) > 16:
        raise ConfigError(f"the models find {len(classes)} classes together, and a mask holds at most 16; choose fewer models")
    return LabelMap(tuple(classes), overlapping=True)


def listed(maps: Sequence[LabelMap]) -> LabelMap:
    """The classes of several label maps as one list, each name once: to be shown, not what a mask holds."""
    classes = {cls.name: cls for own in maps for cls in own.classes}
    return LabelMap(tuple(replace(cls, index=number, inside=None) for number, cls in enumerate(classes.values(), 1)))


def _free_colour(classes: Sequence[LabelClass]) -> tuple[int, int, int]:
    taken = {cls.colour for cls in classes}
    return next(colour for number in range(1, 100) if (colour := class_colour(number)) not in taken)
