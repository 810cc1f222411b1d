"""The file format of a probe set: a NumPy ``.npz`` without pickles, read as untrusted data."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lightning_gradcam.errors import ProbeFileError
from lightning_gradcam.npz import checked, is_whole, npz_bytes, open_npz, room, text, texts
from lightning_gradcam.probes.probe_set import ProbeSet, raw

SCHEMA = 1
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)
_DTYPES = {str(dtype): dtype for dtype in (*_FLOATS, *_INTEGERS)}
# Optional arrays: their type and allowed numbers of axes.
_OPTIONAL: dict[str, tuple[str, tuple[int, ...]]] = {
    "labels": ("int64", (1, 2)),
    "masks": ("bool", (2, 3, 4)),
    "boxes": ("float32", (2,)),
    "values": ("float32", (1, 2)),
    "indices": ("int64", (1,)),
}


def to_bytes(probes: ProbeSet) -> bytes:
    """Returns the content of a probe set's file."""
    names = ("ids", "class_names", "display_source", "note", "fingerprint", "axes")
    meta = {"schema": SCHEMA, "dtype": str(probes.inputs.dtype), **{name: getattr(probes, name) for name in names}}
    arrays: dict[str, Any] = {"inputs": raw(probes.inputs), "display": probes.pixels}
    for name, (kind, _) in _OPTIONAL.items():
        if (value := getattr(probes, name)) is not None:
            arrays[name] = np.asarray(value, kind)
    packed = npz_bytes(meta, arrays, compressed=True)
    # Don't compress data so uniform that a reader would reject it as a zip bomb.
    fits = room(len(packed)) >= sum(array.nbytes for array in arrays.values()) + 2**16
    return packed if fits else npz_bytes(meta, arrays)


def from_bytes(data: bytes, name: str) -> ProbeSet:
    """Reads the content of a probe set's file, which may come from an untrusted source.

    Args:
        data: The whole file.
        name: The file's name in errors.

    Raises:
        ProbeFileError: The content is truncated, of a different schema, or not a probe set.
    """
    try:
        file = open_npz(data)
        meta = file.meta
        if not is_whole(meta["schema"]) or meta["schema"] != SCHEMA:
            raise ProbeFileError(
                f"probes: {name!r} has schema {meta['schema']!r:.40}, but this version reads {SCHEMA}; save the probes"
                " again with this version, or install the version that wrote them"
            )
        found = {key: checked(file[key], key, *valid) for key, valid in _OPTIONAL.items() if key in file}
        inputs, dtype = torch.from_numpy(file["inputs"]), _DTYPES[text(meta, "dtype")]
        if inputs.dtype != (torch.int16 if dtype == torch.bfloat16 else dtype):
            raise TypeError(f"its inputs are {inputs.dtype}, but declared as {dtype}")
        optional: dict[str, Any] = {key: torch.from_numpy(array) for key, array in found.items()}
        probes = ProbeSet(
            inputs.view(dtype),
            ids=texts(meta, "ids"),
            class_names=None if meta["class_names"] is None else texts(meta, "class_names"),
            display=file["display"],
            display_source=text(meta, "display_source"),
            note=text(meta, "note"),
            axes=text(meta, "axes") if "axes" in meta else "",
            **optional,
        )
        intact = probes.fingerprint == text(meta, "fingerprint")
    except ProbeFileError:
        raise
    except Exception as error:  # corrupt bytes raise various errors from zip, zlib, NumPy and JSON
        raise ProbeFileError(
            f"probes: {name!r} is truncated or not a probe set ({type(error).__name__}: {error!s:.200}); save the"
            " probes again, or leave probes= out to draw new ones"
        ) from error
    if not intact:
        raise ProbeFileError(
            f"probes: {name!r} is damaged: its inputs do not match its fingerprint; restore it from a copy, or save the"
            " probes again"
        )
    return probes
