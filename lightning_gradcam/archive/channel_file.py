"""One logged step of channels as the bytes of a file, as ``step_file.py`` has it for maps."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any, BinaryIO, cast

import numpy as np

from lightning_gradcam.npz import checked, is_whole, open_npz, text, texts
from lightning_gradcam.record.cam_record import FloatArray
from lightning_gradcam.record.channel_record import ChannelKind, ChannelRecord

SCHEMA = 1


def packed_channels(record: ChannelRecord) -> bytes:
    """Returns the record as the bytes of a step file.

    Each map, and each colour channel of a pattern, loses all but 11 bits of its own largest magnitude.
    """
    meta: dict[str, Any] = {name: getattr(record, name) for name in ("epoch", "step", "stage", "kind", "probe_ids")}
    meta.update(schema=SCHEMA, layers=list(record.channels), chosen=[record.chosen[layer] for layer in record.channels])
    meta["numbers"] = [list(record.numbers.get(layer, ())) for layer in record.channels]
    arrays: dict[str, Any] = {}
    for place, (layer, values) in enumerate(record.channels.items()):
        finite = np.where(np.isfinite(values), values, 0)
        largest = np.abs(finite).reshape(*values.shape[:2], -1).max(axis=2)
        # 1 and not 0 for maps without a finite value: infinity times 0 would come back as NaN.
        scale = np.where(largest > 0, largest, 1).astype(np.float32)
        arrays[f"scale{place}"], arrays[f"map{place}"] = scale, (values / _spread(scale, values)).astype(np.float16)
        for number, named in enumerate(record.numbers.get(layer, {}).values()):
            arrays[f"numbers{place}_{number}"] = named
    buffer = io.BytesIO()
    np.savez(buffer, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)
    return buffer.getvalue()


def unpacked_channels(source: bytes | BinaryIO, only: str | None = None) -> ChannelRecord:
    """Reads what :func:`packed_channels` gave; broken bytes raise whatever they make zip, NumPy and JSON raise.

    Args:
        source: The file's bytes, or the open file, of which only the parts that are needed are read.
        only: The one layer to read; ``None``: all.
    """
    file = open_npz(source)
    meta = file.meta
    if meta["schema"] != SCHEMA:
        raise ValueError(f"it has schema {meta['schema']!r:.40}, this version reads {SCHEMA}")
    if not (is_whole(meta["epoch"]) and is_whole(meta["step"])):
        raise TypeError("its epoch and step are no whole numbers")
    layers = texts(meta, "layers")
    if len(set(layers)) < len(layers):
        raise ValueError("it holds a layer twice")
    channels: dict[str, FloatArray] = {}
    chosen: dict[str, tuple[int, ...]] = {}
    numbers: dict[str, Mapping[str, FloatArray]] = {}
    for place, (layer, places, listed) in enumerate(zip(layers, meta["chosen"], meta["numbers"], strict=True)):
        if only is not None and layer != only:
            continue
        shares = checked(file[f"map{place}"], f"map{place}", "float16", (4, 5)).astype(np.float32)
        scale = checked(file[f"scale{place}"], f"scale{place}", "float32", (2,))
        if scale.shape != shares.shape[:2]:
            raise ValueError(f"'scale{place}' is {list(scale.shape)} for maps {list(shares.shape)}")
        if not isinstance(places, list) or not all(map(is_whole, places)):
            raise TypeError(f"'chosen' of {layer[:40]!r} is no list of whole numbers")
        with np.errstate(over="ignore", invalid="ignore"):
            channels[layer] = np.multiply(shares, _spread(scale, shares), out=shares)
        chosen[layer] = tuple(places)
        names = texts({"numbers": listed}, "numbers")
        numbers[layer] = {
            name: checked(file[f"numbers{place}_{at}"], f"numbers{place}_{at}", "float32", (1,))
            for at, name in enumerate(names)
        }
    return ChannelRecord(
        epoch=meta["epoch"],
        step=meta["step"],
        stage=text(meta, "stage"),
        kind=cast(ChannelKind, text(meta, "kind")),
        probe_ids=texts(meta, "probe_ids"),
        channels=channels,
        chosen=chosen,
        numbers=numbers,
    )


def _spread(scale: FloatArray, values: FloatArray) -> FloatArray:
    return scale.reshape(*scale.shape, *[1] * (values.ndim - 2))
