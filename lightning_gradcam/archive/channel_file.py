"""The file format for one logged step of channels, like ``cam_file.py`` for maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, BinaryIO, cast

from lightning_gradcam.archive.cam_file import full_values, half_precision, metrics_of, open_step
from lightning_gradcam.npz import is_whole, npz_bytes, text, texts
from lightning_gradcam.record.cam_record import FloatArray
from lightning_gradcam.record.channel_record import ChannelKind, ChannelRecord

SCHEMA = 1


def packed_channels(record: ChannelRecord) -> bytes:
    """Returns the record as the bytes of a step file.

    Each map, and each colour channel of a pattern, is rounded to 11 bits of its own largest magnitude.
    """
    meta: dict[str, Any] = {name: getattr(record, name) for name in ("epoch", "step", "stage", "kind", "probe_ids")}
    meta.update(schema=SCHEMA, layers=list(record.channels), chosen=[record.chosen[layer] for layer in record.channels])
    meta["numbers"] = [list(record.numbers.get(layer, ())) for layer in record.channels]
    if record.metrics:
        meta["metrics"] = dict(record.metrics)
    arrays: dict[str, Any] = {}
    for place, (layer, values) in enumerate(record.channels.items()):
        arrays.update(half_precision(values, place, 2))
        for number, named in enumerate(record.numbers.get(layer, {}).values()):
            arrays[f"numbers{place}_{number}"] = named
    return npz_bytes(meta, arrays)


def unpacked_channels(source: bytes | BinaryIO, only: str | None = None) -> ChannelRecord:
    """Reads the output of :func:`packed_channels`; corrupt bytes raise any error from zip, NumPy or JSON.

    Args:
        source: The file's bytes, or the open file, from which only the required parts are read.
        only: The single layer to read; ``None`` means all.
    """
    file = open_step(source, SCHEMA)
    meta = file.meta
    layers = texts(meta, "layers")
    if len(set(layers)) < len(layers):
        raise ValueError("it contains a layer twice")
    channels: dict[str, FloatArray] = {}
    chosen: dict[str, tuple[int, ...]] = {}
    numbers: dict[str, Mapping[str, FloatArray]] = {}
    for place, (layer, places, listed) in enumerate(zip(layers, meta["chosen"], meta["numbers"], strict=True)):
        if only is not None and layer != only:
            continue
        if not isinstance(places, list) or not all(map(is_whole, places)):
            raise TypeError(f"'chosen' for {layer[:40]!r} is not a list of integers")
        channels[layer] = full_values(file, place, 2, (4, 5))
        chosen[layer] = tuple(places)
        names = texts({"numbers": listed}, "numbers")
        numbers[layer] = {name: file.take(f"numbers{place}_{at}", "float32", None) for at, name in enumerate(names)}
    return ChannelRecord(
        epoch=meta["epoch"],
        step=meta["step"],
        stage=text(meta, "stage"),
        kind=cast(ChannelKind, text(meta, "kind")),
        probe_ids=texts(meta, "probe_ids"),
        channels=channels,
        chosen=chosen,
        numbers=numbers,
        metrics=metrics_of(meta),
    )
