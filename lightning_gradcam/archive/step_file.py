"""One logged step as a file: its name, and its bytes."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

import numpy as np

from lightning_gradcam.cams import CamKey
from lightning_gradcam.npz import checked, is_whole, read_npz, text, texts
from lightning_gradcam.record import UNTRAINED_EPOCH, CamRecord
from lightning_gradcam.targets import ScoreKind

SCHEMA = 1
_NAME = re.compile(r"step-([0-9]{1,19})-epoch-(untrained|[0-9]{1,19})(?:-([0-9]{1,19}))?\.npz")
_REMAINS = re.compile(rf"\.?{_NAME.pattern}(\.\d+\.tmp)?")


def step_file_name(step: int, epoch: int, repeat: int = 0) -> str:
    """Returns ``step-0000000469-epoch-0003.npz``; the baseline's epoch is ``untrained``, a repeat ends in ``-1``."""
    shown = "untrained" if epoch == UNTRAINED_EPOCH else f"{epoch:04d}"
    return f"step-{step:010d}-epoch-{shown}{f'-{repeat}' if repeat else ''}.npz"


def parse_step_file_name(name: str) -> tuple[int, int, int] | None:
    """Returns step, epoch and repeat, or ``None`` where the file is not a step's."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    return int(match[1]), UNTRAINED_EPOCH if match[2] == "untrained" else int(match[2]), int(match[3] or 0)


def is_ours(name: str) -> bool:
    """Whether the file is a step's, or the half-written remains of one."""
    return _REMAINS.fullmatch(name) is not None


def packed(record: CamRecord) -> bytes:
    """Returns the record as the bytes of a step file; maps lose all but 11 bits of their own largest magnitude."""
    names = ("epoch", "step", "stage", "score", "probe_ids")
    meta: dict[str, Any] = {name: getattr(record, name) for name in names}
    meta.update(schema=SCHEMA, keys=list(record.maps), targets=list(record.scores))
    meta["numbers"] = [list(record.numbers.get(key, ())) for key in record.maps]
    arrays: dict[str, Any] = {"predicted": record.predicted, "confidence": record.confidence}
    for place, maps in enumerate(record.maps.values()):
        finite = np.where(np.isfinite(maps), maps, 0)
        largest = np.abs(finite).reshape(len(maps), -1).max(axis=1)
        # 1 and not 0 for maps without a finite value: infinity times 0 would come back as NaN.
        scale = np.where(largest > 0, largest, 1).astype(np.float32)
        shares = maps / scale.reshape(-1, *[1] * (maps.ndim - 1))
        arrays[f"scale{place}"], arrays[f"map{place}"] = scale, shares.astype(np.float16)
    for place, key in enumerate(record.maps):
        if key in record.numbers:
            arrays[f"numbers{place}"] = np.stack(list(record.numbers[key].values())).astype(np.float32)
    for place, name in enumerate(record.scores):
        arrays[f"scores{place}"], arrays[f"classes{place}"] = record.scores[name], record.classes[name]
        if name in record.confidences:
            arrays[f"confidences{place}"] = record.confidences[name]
    buffer = io.BytesIO()
    np.savez(buffer, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)
    return buffer.getvalue()


def unpacked(data: bytes) -> CamRecord:
    """Reads what :func:`packed` gave; broken bytes raise whatever they make zip, NumPy and JSON raise."""
    file, meta = read_npz(data)
    if meta["schema"] != SCHEMA:
        raise ValueError(f"it has schema {meta['schema']!r:.40}, this version reads {SCHEMA}")
    if not (is_whole(meta["epoch"]) and is_whole(meta["step"])):
        raise TypeError("its epoch and step are no whole numbers")
    ids, names = texts(meta, "probe_ids"), texts(meta, "targets")

    def numbers(name: str, dtype: str) -> Any:
        values = checked(file[name], name, dtype, (1,))
        if len(values) != len(ids):
            raise ValueError(f"{name!r} has {len(values)} entries for {len(ids)} probes")
        return values

    maps: dict[CamKey, Any] = {}
    measured: dict[CamKey, Mapping[str, Any]] = {}
    for place, key in enumerate(meta["keys"]):
        layer, method, target = texts({"key": key}, "key")
        shares = checked(file[f"map{place}"], f"map{place}", "float16", range(2, 6)).astype(np.float32)
        if len(shares) != len(ids):
            raise ValueError(f"'map{place}' has {len(shares)} entries for {len(ids)} probes")
        scale = numbers(f"scale{place}", "float32").reshape(-1, *[1] * (shares.ndim - 1))
        with np.errstate(over="ignore", invalid="ignore"):
            maps[CamKey(layer, method, target)] = np.multiply(shares, scale, out=shares)
        if f"numbers{place}" in file:
            stats = texts({"numbers": meta["numbers"][place]}, "numbers")
            values = checked(file[f"numbers{place}"], f"numbers{place}", "float32", (2,))
            if values.shape != (len(stats), len(ids)):
                raise ValueError(
                    f"'numbers{place}' is {list(values.shape)} for {len(stats)} names and {len(ids)} probes"
                )
            measured[CamKey(layer, method, target)] = MappingProxyType(dict(zip(stats, values, strict=True)))
    return CamRecord(
        epoch=meta["epoch"],
        step=meta["step"],
        stage=text(meta, "stage"),
        score=cast(ScoreKind, text(meta, "score")),
        probe_ids=ids,
        maps=MappingProxyType(maps),
        scores=MappingProxyType({name: numbers(f"scores{place}", "float32") for place, name in enumerate(names)}),
        classes=MappingProxyType({name: numbers(f"classes{place}", "int64") for place, name in enumerate(names)}),
        predicted=numbers("predicted", "int64"),
        confidence=numbers("confidence", "float32"),
        confidences=MappingProxyType(
            {
                name: numbers(f"confidences{place}", "float32")
                for place, name in enumerate(names)
                if f"confidences{place}" in file
            }
        ),
        numbers=MappingProxyType(measured),
    )
