"""From rows to what one quotes: mean per image and pooled, both labelled, each with an interval over patients."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from pipeline.evaluation.doubt import doubt_lines
from pipeline.evaluation.scoring import Row, columns
from pipeline.measurements.by_role import OF_MASKS
from pipeline.metrics.interval import (
    FEWEST_PATIENTS,
    Statistic,
    mean_of_images,
    paired_patient_bootstrap,
    patient_bootstrap,
    pooled_dice,
    pooled_iou,
)
from pipeline.metrics.overlap import EMPTY, Confusion, Presence

DRAWS, SEED, LEVEL = 2000, 0, 0.95
_POOLED: dict[str, Statistic] = {"dice": pooled_dice, "iou": pooled_iou}
_SHOWN = ("dice", "iou", "sensitivity", "specificity", "cldice", "auroc", "hd95_px", "hd95_mm", "second_reader_dice")


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """JSON value ``{class: {"held": ..., "mean_per_image": {score: {...}}, "pooled": {...}, "model_minus_second_reader_dice": {...}}}``.

    ``held``, ``missed``, ``empty_right``, ``empty_wrong``: images, as of :class:`~pipeline.metrics.overlap.Presence`. Each score:
    ``value`` (None where no image defines it; Dice is defined where the reference holds the class), ``low``, ``high`` (95 %, patients
    drawn with replacement; None with fewer than FEWEST_PATIENTS, as ``no_interval`` says), ``images`` that define it, ``undefined``
    {reason: images}.
    """
    by_class: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_class[row.cls].append(row)
    return {name: _one_class(own) for name, own in by_class.items()}


def _one_class(rows: Sequence[Row]) -> dict[str, Any]:
    out: dict[str, Any] = asdict(Presence.of(r.counts for r in rows)) | {
        "mean_per_image": {name: _mean(rows, name) for name in columns(rows)},
        "pooled": {name: _pooled([(r.case.patient, r.counts) for r in rows], name) for name in _POOLED},
    }
    twice = [r for r in rows if r.second_counts is not None]
    if twice:
        out["pooled"]["second_reader_dice"] = _pooled([(r.case.patient, r.second_counts) for r in twice if r.second_counts], "dice")
        # Where the second reader's label leaves pixels out, an image may hold the class for one of the two scores alone.
        both = [r for r in twice if r.scores["dice"].value is not None and r.scores["second_reader_dice"].value is not None]
        model, second = _by_patient(both, "dice"), _by_patient(both, "second_reader_dice")
        gain = [m - s for p in model for m, s in zip(model[p], second[p], strict=True)]
        interval = paired_patient_bootstrap(model, second, n=DRAWS, seed=SEED, level=LEVEL)
        out["model_minus_second_reader_dice"] = _with_interval(sum(gain) / len(gain) if gain else None, interval, len(gain), len(model))
    return out


def mean_of(defined: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Mean over the images of all patients, with its interval: ``value``, ``low``, ``high``, ``images`` (see :func:`summarise`)."""
    values = [v for own in defined.values() for v in own]
    value = sum(values) / len(values) if values else None
    interval = patient_bootstrap(defined, mean_of_images, n=DRAWS, seed=SEED, level=LEVEL) if values else None
    return _with_interval(value, interval, len(values), sum(bool(own) for own in defined.values()))


def by_patient(values: Iterable[tuple[str, float]]) -> dict[str, list[float]]:
    """(patient, value) of each image -> the values of each patient."""
    out: dict[str, list[float]] = defaultdict(list)
    for patient, value in values:
        out[patient].append(value)
    return out


def _mean(rows: Sequence[Row], name: str) -> dict[str, Any]:
    reasons = Counter(r.scores[name].undefined for r in rows if name in r.scores and r.scores[name].undefined is not None)
    return mean_of(_by_patient(rows, name)) | {"undefined": dict(reasons)}


def _pooled(counts: Sequence[tuple[str, Confusion]], name: str) -> dict[str, Any]:
    by_patient: dict[str, list[tuple[int, int, int, int]]] = defaultdict(list)
    total = Confusion()
    for patient, c in counts:
        by_patient[patient].append((c.tp, c.fp, c.fn, c.tn))
        total += c
    interval = patient_bootstrap(by_patient, _POOLED[name], n=DRAWS, seed=SEED, level=LEVEL)
    return _with_interval(getattr(total, name), interval, len(counts), len(by_patient)) | {
        "undefined": {EMPTY: len(counts)} if not total.held else {}
    }


def _with_interval(value: float | None, interval: tuple[float, float] | None, images: int, patients: int) -> dict[str, Any]:
    low, high = interval if interval is not None else (None, None)
    out: dict[str, Any] = {"value": value, "low": low, "high": high, "images": images}
    if interval is not None:
        return out
    return out | {"no_interval": "no image defines it" if value is None else _few(patients)}


def _by_patient(rows: Sequence[Row], name: str) -> dict[str, list[float]]:
    scores = ((row.case.patient, row.scores[name].value) for row in rows if name in row.scores)
    return by_patient((patient, value) for patient, value in scores if value is not None)


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """One screen for a person: what was scored, each class's means with intervals, what was undefined, and every warning."""
    bundle, card = summary["bundle"], summary["card"]
    lines = [
        f"bundle {bundle['id']} ({bundle['name']}) on {card['name']}, part {summary['part']}: "
        f"{summary['images']} images of {summary['patients']} patients, native size, inside the field of view"
    ]
    for name, own in summary["classes"].items():
        threshold = summary["thresholds"].get(name)
        lines.append(f"{name}" + ("" if threshold is None else f" (threshold {threshold:g}, from validation)"))
        lines += _presence_lines(name, own)
        lines += [_line("mean per image", score, own["mean_per_image"][score]) for score in _SHOWN if score in own["mean_per_image"]]
        if "model_minus_second_reader_dice" in own:
            lines.append(_line("mean per image", "dice - second reader's", own["model_minus_second_reader_dice"]))
        lines += [_line("pooled", score, own["pooled"][score]) for score in _SHOWN if score in own["pooled"]]
    for of in OF_MASKS:
        for name, label in (("mean_absolute_error", "absolute error"), ("bias", "found - reference")) if of.name in summary else ():
            lines.append(_line(of.title, label, summary[of.name][name]))
    if "detection" in summary:
        lines += _object_lines(summary["detection"])
    if "grades" in summary:
        lines += _grade_lines(summary["grades"])
    if "surfaces" in summary:
        lines += _surface_lines("surfaces", summary["surfaces"])
    if "device_surfaces" in summary:
        lines += _surface_lines("the device's own lines beside the same labels", summary["device_surfaces"])
    lines += doubt_lines(summary.get("doubt", {}))
    lines += [f"warning: {text}" for text in summary["warnings"]]
    return lines


def _presence_lines(name: str, own: Mapping[str, Any]) -> list[str]:
    """How many images hold the class, and what became of those without it; first of all that nothing was found, where that is so."""
    seen = Presence(*(own[field.name] for field in fields(Presence)))
    sentence = seen.sentence(name)
    lines = [f"  {sentence}"] if sentence else []
    empty = seen.empty_right + seen.empty_wrong
    if empty:
        lines.append(f"  {seen.held} images hold it; of {empty} without it {seen.empty_right} were left empty, {seen.empty_wrong} were not")
    return lines


def _line(label: str, name: str, score: Mapping[str, Any]) -> str:
    value = "undefined" if score["value"] is None else f"{score['value']:.4f}"
    interval = score.get("no_interval", "") and f"({score['no_interval']})"
    if score["low"] is not None:
        interval = f"[{score['low']:.4f}, {score['high']:.4f}]"
    reasons = "; ".join(f"undefined in {count}: {reason}" for reason, count in score.get("undefined", {}).items())
    return f"  {label:<14}  {name.replace('_', ' '):<22} {value:>7}  {interval:<16}  {reasons}".rstrip()


def _surface_lines(whose: str, summary: Mapping[str, Any]) -> list[str]:
    """What a person reads of ``summary["surfaces"]``, or of the device's: a line a surface."""
    unit = summary["unit"]
    lines = [f"{whose}, in {unit}, mean over scans:"]
    for name, own in summary["surfaces"].items():
        mean = own["mean_abs"]
        if mean["value"] is None:
            lines.append(f"  {name:<16} not found in any of the {own['columns'] + own['missing']} A-scans in which it is labelled")
            continue
        interval = f" ({mean['no_interval']})" if mean["low"] is None else f" [{mean['low']:.2f}, {mean['high']:.2f}]"
        fraction = own["columns"] / (own["columns"] + own["missing"])
        text = f"  {name:<16} error {mean['value']:.2f}{interval}  bias {own['bias']['value']:+.2f}  95 % within {own['p95']['value']:.2f}"
        text += f"  found in {fraction:.1%} of A-scans"
        if own["jump_found"]["value"] is not None:
            text += f"  step between B-scans {own['jump_found']['value']:.2f} (label {own['jump_true']['value']:.2f})"
        lines.append(text)
    return lines


def _object_lines(detection: Mapping[str, Any]) -> list[str]:
    """What a person reads of ``summary["detection"]``: average precision by class with intervals, then what is found of lesions."""
    lines = [f"objects in {detection['images']} images, at most {detection['most_detections']} detections of an image and class:"]
    for name, presence in detection["presence"].items():
        lines += _presence_lines(f"object of {name}", presence)
    few = "" if detection["patients"] >= FEWEST_PATIENTS else f"({_few(detection['patients'])})"
    for kind in ("box", "mask"):
        scores = detection[kind]
        if scores is None:
            continue
        classes = {"all classes": scores} | scores["classes"]
        for name, own in classes.items():
            wide = f"{kind} AP@[.50:.95] {_number(own['ap'])}  AP@.75 {_number(own['ap75'])}"
            lines.append(f"  {name:<16} {kind} AP@.50 {_number(own['ap50'])}  {_ap50_interval(own) or few:<18} {wide}".rstrip())
    for name, own in detection["f1_centre"].items():
        curve = detection["froc"][name]
        found = "" if curve is None else f"; mean sensitivity at 1/4 to 8 false positives an image {curve['score']:.4f}"
        known = own["tp"] + own["fn"]  # without a true object, F1 says no more than whether anything was found
        f1 = f"{own['f1']:.4f} at score {own['threshold']:g}" if known else f"undefined: no true object, {own['fp']} found"
        lines.append(f"  {name:<16} centre-hit F1 {f1}{found}")
    for name, found in detection["located"].items():
        lines += [] if found is None else [_located_line(name, found)]
    for name, recall in (detection["proposals"] or {"by_class": {}})["by_class"].items():
        lines.append(f"  {name:<16} recall of proposals at IoU .50: " + ", ".join(f"{_number(v)} of first {n}" for n, v in recall.items()))
    return lines


def _located_line(name: str, found: Mapping[str, Any]) -> str:
    """What a person reads of where the one object of each picture was found."""

    def told(own: Mapping[str, Any]) -> str:
        interval = "" if own["low"] is None or own["high"] is None else f" [{own['low']:.3f}, {own['high']:.3f}]"
        return ("undefined" if own["value"] is None else f"{own['value']:.3f}") + interval

    lost = f"; not found in {found['missed']} of {found['images']}" if found["missed"] else ""
    return f"  {name:<16} centre off by {told(found['centre_error'])} diameters (median), IoU {told(found['overlap'])} (mean){lost}"


def _grade_lines(grades: Mapping[str, Any]) -> list[str]:
    """What a person reads of ``summary["grades"]``: scores with intervals, then each class's answers."""
    lines = [f"whole pictures, {grades['images']} of {grades['patients']} patients:"]
    scores = grades["scores"]
    lines += [_grade_line(name, scores[name]) for name in scores if "/" not in name]
    for name, row in zip(grades["names"], grades["confusion"], strict=True):
        told = ", ".join(f"{count} as {answer}" for answer, count in zip(grades["names"], row, strict=True) if count)
        right = scores[f"sensitivity/{name}"]["value"]
        lines.append(f"  {name:<16} {sum(row)} pictures" + ("" if right is None else f", {right:.1%} right: {told}"))
    return lines


def _grade_line(name: str, score: Mapping[str, Any]) -> str:
    value = "undefined" if score["value"] is None else f"{score['value']:.4f}"
    interval = "" if score["low"] is None else f"[{score['low']:.4f}, {score['high']:.4f}]"
    return f"  {name.replace('_', ' '):<22} {value:>7}  {interval}".rstrip()


def _few(patients: int) -> str:
    return f"n = {patients} patient{'s' if patients > 1 else ''}"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _ap50_interval(own: Mapping[str, Any]) -> str:
    return "" if own["ap50_low"] is None else f"[{own['ap50_low']:.4f}, {own['ap50_high']:.4f}]"
