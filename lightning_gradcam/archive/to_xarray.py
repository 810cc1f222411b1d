"""Converts an archive to labelled arrays, for your own statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.record.cam_record import FloatArray
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.stats import to_last

if TYPE_CHECKING:
    from lightning_gradcam.archive.reader import Archive

# The parts of a map's key, as dimensions.
_KEY = ("layer", "cam_method", "target")


def numbers_of(archive: Archive, key: CamKey) -> dict[str, FloatArray]:
    """Returns one map's statistics at all steps; see :meth:`Archive.numbers`.

    Args:
        archive: The run's archive.
        key: The map's key.

    Raises:
        ArchiveError: A step can't be read.
    """
    count = len(archive.steps)
    found: dict[str, FloatArray] = {}
    last = archive.record(count - 1, keys=[key]) if count else None
    for row in range(count):
        record = archive.record(row, keys=[key])
        changed = None if last is None else record.changed_from(last).get(key.target)
        stats = {
            **record.numbers.get(key, {}),
            "score": record.scores[key.target],
            "confidence": record.confidences.get(key.target, np.full(len(record.probe_ids), np.nan)),
            **(to_last(record.maps[key], last.maps[key], changed) if last is not None else {}),
        }
        for name, values in stats.items():
            missing = np.full((count, len(record.probe_ids)), np.nan, np.float32)
            found.setdefault(name, missing)[row] = values
    return found


def to_dataset(archive: Archive) -> Any:
    """Returns the archive as an ``xarray.Dataset``; see :meth:`Archive.to_xarray`.

    Args:
        archive: The run's archive.

    Raises:
        ConfigurationError: xarray is not installed.
        ArchiveError: A step can't be read.
    """
    try:
        import xarray
    except ImportError:
        raise ConfigurationError(
            "to_xarray: xarray is not installed; pip install 'lightning-gradcam[xarray]', or use Archive.maps and"
            " Archive.numbers, which return NumPy arrays"
        ) from None
    records = [archive.record(row) for row in range(len(archive.steps))]
    probes, keys = archive.probes, list(records[0].maps) if records else []
    data: dict[str, Any] = {
        "predicted": (("step", "probe"), _stacked([record.predicted for record in records], len(probes), np.int64)),
        "confidence": (("step", "probe"), _stacked([record.confidence for record in records], len(probes))),
    }
    coords: dict[str, Any] = {
        "step": list(archive.steps),
        "epoch": ("step", list(archive.epochs)),
        "probe": list(probes.ids),
        "layer": list(dict.fromkeys(key.layer for key in keys)),
        "cam_method": list(archive.methods),
        "target": list(archive.targets),
    }
    if probes.labels is not None and probes.labels.dim() == 1:
        coords["label"] = ("probe", probes.labels.numpy())
    for variable, name in (("score", "scores"), ("explained_class", "classes")):
        of_targets = [
            _stacked([getattr(record, name)[target] for record in records], len(probes)) for target in archive.targets
        ]
        data[variable] = (("step", "probe", "target"), np.stack(of_targets, axis=-1))
    for variable, of in _groups(archive, keys).items():
        own = records[0].maps[of[0]].shape[1:]
        names = [f"{variable}_{axis}" for axis in "zyx"[-len(own) :]]
        found = [{key: record.maps[key] for key in of} for record in records]
        data[variable] = (("step", "probe", *_KEY[1:], *names), _filled(found, coords, _KEY[1:], own))
        for name, size in zip(names, own, strict=True):
            coords[name] = (np.arange(size) + 0.5) / size
    for stat in dict.fromkeys(name for record in records for stats in record.numbers.values() for name in stats):
        found = [{key: stats[stat] for key, stats in record.numbers.items() if stat in stats} for record in records]
        data[stat] = (("step", "probe", *_KEY), _filled(found, coords, _KEY))
    if metrics := list(dict.fromkeys(name for record in records for name in record.metrics)):
        coords["metric"] = metrics
        logged = [[record.metrics.get(name, np.nan) for name in metrics] for record in records]
        data["metrics"] = (("step", "metric"), np.array(logged))
    attributes = {"run": archive.manifest.run, "score": archive.manifest.score, "fingerprint": probes.fingerprint}
    return xarray.Dataset(data, coords, {**attributes, "created": archive.manifest.created})


def _groups(archive: Archive, keys: list[CamKey]) -> dict[str, list[CamKey]]:
    """Groups maps by array: one for each layer, and one for each method at it whose maps have a different shape."""
    found: dict[str, list[CamKey]] = {}
    for key in keys:
        own = f"{key.layer}/{key.method}"
        found.setdefault(own if own in archive.manifest.map_shapes else key.layer, []).append(key)
    return found


def _filled(
    found: list[dict[CamKey, FloatArray]], coords: dict[str, Any], dims: Sequence[str], own: Sequence[int] = ()
) -> FloatArray:
    """Returns each step's values for all probes, by these parts of their keys; NaN where a step has none."""
    sizes = [len(found), *(len(coords[name]) for name in ("probe", *dims)), *own]
    values = np.full(sizes, np.nan, np.float32)
    for row, of_keys in enumerate(found):
        for key, each in of_keys.items():
            places = {name: coords[name].index(part) for name, part in zip(_KEY, key, strict=True)}
            values[(row, slice(None), *(places[name] for name in dims))] = each
    return values


def _stacked(values: list[Any], probes: int, dtype: Any = np.float32) -> Any:
    return np.stack(values) if values else np.zeros((0, probes), dtype)
