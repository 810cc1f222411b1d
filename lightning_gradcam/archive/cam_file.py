"""One logged step's file: its name and its bytes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, BinaryIO, cast

import numpy as np

from lightning_gradcam.npz import Npz, checked, is_whole, npz_bytes, open_npz, room, text, texts
from lightning_gradcam.record.cam_record import UNTRAINED_EPOCH, CamRecord, FloatArray
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.record.gradients import DTYPES, EDGES, GradientSummary, NumPyArray
from lightning_gradcam.targets import ScoreKind

SCHEMA = 1
_GROUPS = ("gradients", "weights")
_FACTS = tuple(f"{group}.{name}" for group in _GROUPS for name in ("min", "max", "sum", "norm"))
_NAME = re.compile(r"step-([0-9]{1,19})-epoch-(untrained|[0-9]{1,19})(?:-([0-9]{1,19}))?\.npz")
_REMAINS = re.compile(rf"\.?{_NAME.pattern}(\.\d+\.tmp)?")


def step_file_name(step: int, epoch: int, repeat: int = 0) -> str:
    """Returns ``step-0000000469-epoch-0003.npz``; the baseline's epoch is ``untrained``, a repeat ends in ``-1``."""
    shown = "untrained" if epoch == UNTRAINED_EPOCH else f"{epoch:04d}"
    return f"step-{step:010d}-epoch-{shown}{f'-{repeat}' if repeat else ''}.npz"


def parse_step_file_name(name: str) -> tuple[int, int, int] | None:
    """Returns step, epoch and repeat, or ``None`` if it is not a step file."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    return int(match[1]), UNTRAINED_EPOCH if match[2] == "untrained" else int(match[2]), int(match[3] or 0)


def is_ours(name: str) -> bool:
    """Whether the file is a step file, or the remains of one that was only partly written."""
    return _REMAINS.fullmatch(name) is not None


def packed_cams(record: CamRecord) -> bytes:
    """Returns the record as the bytes of a step file; maps are rounded to 11 bits of their largest magnitude."""
    names = ("epoch", "step", "stage", "score", "probe_ids")
    meta: dict[str, Any] = {name: getattr(record, name) for name in names}
    meta.update(schema=SCHEMA, keys=list(record.maps), targets=list(record.scores))
    meta["numbers"] = [list(record.numbers.get(key, ())) for key in record.maps]
    meta["gradients"] = list(record.gradients)
    if record.metrics:
        meta["metrics"] = dict(record.metrics)
    if record.levels:
        meta["levels"] = [{"key": key, "names": names} for key, names in record.levels.items()]
    arrays: dict[str, Any] = {"predicted": record.predicted, "confidence": record.confidence}
    for place, maps in enumerate(record.maps.values()):
        arrays.update(half_precision(maps, place, 1))
    for place, key in enumerate(record.maps):
        if key in record.numbers:
            arrays[f"numbers{place}"] = np.stack(list(record.numbers[key].values())).astype(np.float32)
    for place, name in enumerate(record.scores):
        arrays[f"scores{place}"], arrays[f"classes{place}"] = record.scores[name], record.classes[name]
        if name in record.confidences:
            arrays[f"confidences{place}"] = record.confidences[name]
    if record.likeliest.shape[1]:
        arrays["likeliest"], arrays["likeliest_confidence"] = record.likeliest, record.likeliest_confidence
    if record.maps and record.limits.keys() >= record.maps.keys():
        arrays["limits"] = np.stack([record.limits[key] for key in record.maps]).astype(np.float32)
    if record.causes:
        none = np.zeros(len(record.probe_ids), np.int8)
        arrays["causes"] = np.stack([record.causes.get(key, none) for key in record.maps]).astype(np.int8)
    for place, summary in enumerate(record.gradients.values()):
        arrays.update({f"{name}{place}": values for name, values in _packed_summary(summary).items()})
    return npz_bytes(meta, arrays)


def half_precision(values: FloatArray, place: int, axes: int) -> dict[str, NumPyArray]:
    """Returns arrays from which :func:`full_values` restores maps, with 11 bits of their largest magnitude.

    Args:
        values: The maps.
        place: Their index in the file.
        axes: Number of leading axes that distinguish maps.
    """
    finite = np.where(np.isfinite(values), values, 0)
    largest = np.abs(finite).reshape(*values.shape[:axes], -1).max(axis=axes)
    # Use 1 instead of 0 for maps without a finite value: infinity times 0 would be read back as NaN.
    scale = np.where(largest > 0, largest, 1).astype(np.float32)
    shares = values / scale.reshape(*scale.shape, *[1] * (values.ndim - axes))
    return {f"scale{place}": scale, f"map{place}": shares.astype(np.float16)}


def full_values(file: Npz, place: int, axes: int, dims: Sequence[int]) -> FloatArray:
    """Reads the output of :func:`half_precision`, if its arrays are consistent.

    Args:
        file: The step file.
        place: The maps' index in the file.
        axes: As passed to :func:`half_precision`.
        dims: Allowed numbers of axes of the maps.
    """
    shares: FloatArray = checked(file[f"map{place}"], f"map{place}", "float16", dims).astype(np.float32)
    scale = file.take(f"scale{place}", "float32", *shares.shape[:axes])
    with np.errstate(over="ignore", invalid="ignore"):
        np.multiply(shares, scale.reshape(*scale.shape, *[1] * (shares.ndim - axes)), out=shares)
    return shares


def open_step(source: bytes | BinaryIO, schema: int) -> Npz:
    """Opens a step file of maps or channels and checks its schema, epoch and step."""
    file = open_npz(source)
    if file.meta["schema"] != schema:
        raise ValueError(f"it has schema {file.meta['schema']!r:.40}, but this version reads {schema}")
    if not (is_whole(file.meta["epoch"]) and is_whole(file.meta["step"])):
        raise TypeError("its epoch and step are not integers")
    return file


def unpacked_cams(
    source: bytes | BinaryIO, keys: Collection[CamKey] | None = None, maps: Collection[CamKey] | None = None
) -> CamRecord:
    """Reads the output of :func:`packed_cams`; corrupt bytes raise any error from zip, NumPy or JSON.

    Args:
        source: The file's bytes, or the open file, from which only the required parts are read.
        keys: Maps to read, with their statistics and gradients; ``None`` means all.
        maps: The subset of ``keys`` whose maps to read; for the others, only statistics and gradients are read.
            ``None`` means all.

    Raises:
        KeyError: One of the keys is not in the file.
    """
    file, places = _opened(source)
    meta = file.meta
    if keys is not None:
        if missing := [key for key in keys if key not in places]:
            raise KeyError(f"it has no maps for {tuple(missing[0])!r:.200}")
        places = {key: place for key, place in places.items() if key in keys}
    ids, names = texts(meta, "probe_ids"), texts(meta, "targets")
    count = len(ids)
    explained = [_pair(key) for key in meta.get("gradients", ())]
    if len(explained) * count * 16 * len(EDGES) > room(file.size):
        raise ValueError(f"the file is too small for histograms of {len(explained)} gradients and {count} probes")
    read = {(key.layer, key.target) for key in places}

    def of_targets(name: str, dtype: str, required: bool = True) -> dict[str, Any]:
        there = [place for place in range(len(names)) if required or f"{name}{place}" in file]
        return {names[place]: file.take(f"{name}{place}", dtype, count) for place in there}

    def of_keys(name: str, dtype: str, *each: int) -> dict[CamKey, Any]:
        # One row for each map in the file, with one or a few numbers for each probe.
        rows = file.take(name, dtype, len(meta["keys"]), count, *each) if name in file else None
        return {} if rows is None else {key: rows[place] for key, place in places.items()}

    numbers: dict[CamKey, Mapping[str, Any]] = {}
    for key, place in places.items():
        if f"numbers{place}" in file:
            stats = texts({"numbers": meta["numbers"][place]}, "numbers")
            values = file.take(f"numbers{place}", "float32", len(stats), count)
            numbers[key] = MappingProxyType(dict(zip(stats, values, strict=True)))
    likeliest = {}
    if "likeliest" in file:
        likeliest["likeliest"] = classes = file.take("likeliest", "int64", count, None)
        likeliest["likeliest_confidence"] = file.take("likeliest_confidence", "float32", *classes.shape)
    return CamRecord(
        epoch=meta["epoch"],
        step=meta["step"],
        stage=text(meta, "stage"),
        score=cast(ScoreKind, text(meta, "score")),
        probe_ids=ids,
        maps={key: _maps(file, place, count) for key, place in places.items() if maps is None or key in maps},
        scores=of_targets("scores", "float32"),
        classes=of_targets("classes", "int64"),
        predicted=file.take("predicted", "int64", count),
        confidence=file.take("confidence", "float32", count),
        confidences=of_targets("confidences", "float32", required=False),
        numbers=numbers,
        **likeliest,
        gradients={
            key: _unpacked_summary(file, place, count)
            for place, key in enumerate(explained)
            if keys is None or key in read
        },
        limits=of_keys("limits", "float32", 2),
        causes={key: codes for key, codes in of_keys("causes", "int8").items() if codes.any()},
        levels={key: names for key, names in _levels(meta, count).items() if keys is None or key in read},
        metrics=metrics_of(meta),
    )


def unpacked_maps(source: bytes | BinaryIO, key: CamKey) -> FloatArray | None:
    """Reads only one key's maps from a step file; returns ``None`` if it has none."""
    file, places = _opened(source)
    return _maps(file, places[key], len(texts(file.meta, "probe_ids"))) if key in places else None


def metrics_of(meta: Mapping[str, Any]) -> dict[str, float]:
    """Reads the trainer's metrics at a step; empty for archives from version 0.1.0."""
    found = meta.get("metrics", {})
    if not isinstance(found, dict) or not all(type(value) in (int, float) for value in found.values()):
        raise TypeError("'metrics' is not a JSON object with numeric values")
    return {name: float(value) for name, value in found.items()}


def _opened(source: bytes | BinaryIO) -> tuple[Npz, dict[CamKey, int]]:
    """Opens a step file; also returns the index of each key, which is part of its arrays' names."""
    file = open_step(source, SCHEMA)
    places: dict[CamKey, int] = {}
    for place, key in enumerate(file.meta["keys"]):
        layer, method, target = texts({"key": key}, "key")
        places[CamKey(layer, method, target)] = place
    return file, places


def _maps(file: Npz, place: int, count: int) -> FloatArray:
    maps = full_values(file, place, 1, range(2, 6))
    if len(maps) != count:
        raise ValueError(f"'map{place}' has {len(maps)} entries, but there are {count} probes")
    return maps


def _levels(meta: Mapping[str, Any], samples: int) -> dict[tuple[str, str], tuple[str, ...]]:
    """Reads the feature map at which each probe is explained; empty for archives from version 0.1.0."""
    found = {_pair(entry["key"]): texts(entry, "names") for entry in meta.get("levels", ())}
    for key, names in found.items():
        if len(names) != samples:
            raise ValueError(f"'levels' for {key!r:.200} has {len(names)} entries, but there are {samples} probes")
    return found


def _pair(key: object) -> tuple[str, str]:
    layer, target = texts({"key": key}, "key")
    return layer, target


def _packed_summary(summary: GradientSummary[NumPyArray]) -> dict[str, NumPyArray]:
    """Packs a summary: only non-empty bins of counts, and integers in as few bytes as possible."""
    arrays = summary.arrays()
    found = {"slope_facts": np.stack([arrays[name] for name in _FACTS]).astype(np.float64)}
    for group in _GROUPS:
        counts = arrays[f"{group}.counts"]
        bins = np.flatnonzero(counts.any(axis=0))
        found[f"{group}_bins"], found[f"{group}_counts"] = bins.astype(np.int16), _smallest(counts[:, bins])
    found["slope_channels"] = _smallest(summary.channels)
    for name in ("channel_weights", "largest", "vanished"):
        found[f"slope_{name}"] = arrays[name]
    return found


def _smallest(values: NumPyArray) -> NumPyArray:
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))


def _unpacked_summary(file: Npz, place: int, samples: int) -> GradientSummary[NumPyArray]:
    facts = file.take(f"slope_facts{place}", "float64", len(_FACTS), samples)
    with np.errstate(over="ignore"):
        found = {name: facts[row].astype(DTYPES[name]) for row, name in enumerate(_FACTS)}
    for group in _GROUPS:
        bins = file.take(f"{group}_bins{place}", "int16", None)
        if len(bins) and (bins[0] < 0 or bins[-1] >= len(EDGES) - 1 or (np.diff(bins) <= 0).any()):
            raise ValueError(f"'{group}_bins{place}' is not a list of ascending indices below {len(EDGES) - 1}")
        counts = np.zeros((samples, len(EDGES) - 1), np.int64)
        counts[:, bins] = file.take(f"{group}_counts{place}", "unsigned", samples, len(bins))
        found[f"{group}.counts"] = counts
    found["channels"] = file.take(f"slope_channels{place}", "unsigned", samples, None).astype(np.int64)
    found["channel_weights"] = file.take(f"slope_channel_weights{place}", "float32", *found["channels"].shape)
    found["largest"] = file.take(f"slope_largest{place}", "float32", samples)
    found["vanished"] = file.take(f"slope_vanished{place}", "bool", samples)
    return GradientSummary.of(found)
