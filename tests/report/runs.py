"""Runs made by hand for the page: known maps, so that every pixel of the viewer can be computed."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from lightning_gradcam.report.payload import Payload
from lightning_gradcam.report.pictures import region_entry

STATS = {
    "drift": {"title": "drift", "low": 0.0, "high": 1.0, "reading": "0: as at the previous step; 1: elsewhere."},
    "entropy": {"title": "entropy", "low": 0.0, "high": 1.0, "reading": "0: one place; 1: everywhere."},
}


def data_url(pixels: np.ndarray[Any, Any]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def packed(maps: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], dict[str, list[float | None]]]:
    """Signed maps `[N, h, w]` in the page's bytes, and what an entry states of them; `None` where not finite."""
    finite = np.isfinite(maps).all(axis=(1, 2))
    clean = np.where(finite[:, None, None], maps, 0)
    found = {"maxima": np.maximum(clean, 0).max(axis=(1, 2)), "minima": np.maximum(-clean, 0).max(axis=(1, 2))}
    for name, values in (("limits", np.maximum(clean, 0)), ("signed_limits", np.abs(clean))):
        places = np.sort(values.reshape(len(values), -1), axis=1)
        robust = places[:, round(0.98 * (places.shape[1] - 1))]
        found[name] = np.where(robust > 0, robust, places[:, -1])
    ends = np.where(clean > 0, found["maxima"][:, None, None], found["minima"][:, None, None])
    roots = np.sqrt(np.abs(clean) / np.where(ends > 0, ends, 1))
    stated = {
        name: [float(value) if ok else None for value, ok in zip(values, finite, strict=True)]
        for name, values in found.items()
    }
    return (128 + np.sign(clean) * (127 * roots).round()).astype(np.uint8), stated


def made(
    maps: Mapping[tuple[str, str, str], np.ndarray[Any, Any]],
    pictures: np.ndarray[Any, Any],
    *,
    epochs: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
    predicted: Sequence[Sequence[int]] | None = None,
    true: Sequence[Sequence[int]] | None = None,
    ids: Sequence[str] | None = None,
    class_names: Sequence[str] | None = ("Shirt", "Coat", "Bag"),
    numbers: Mapping[str, np.ndarray[Any, Any]] | None = None,
    confidence: float = 0.75,
    masks: Sequence[np.ndarray[Any, Any] | None] | None = None,
    boxes: Sequence[Sequence[float] | None] | None = None,
    slices: int = 1,
    **header: Any,
) -> Payload:
    """A payload of maps `[steps, N, h, w]` (slices side by side) by (layer, method, target)."""
    count, probes = next(iter(maps.values())).shape[:2]
    height, width = pictures.shape[1], pictures.shape[2] // slices
    epochs = range(count) if epochs is None else epochs
    true = [[0]] * probes if true is None else true
    entries, blocks = [], []
    for place in range(count):
        chosen = [0] * probes if predicted is None else list(predicted[place])
        block, described = b"", []
        for values in maps.values():
            found, stated = packed(values[place])
            block += found.tobytes()
            given = {name: series[place].tolist() for name, series in (numbers or {}).items()}
            described.append({**stated, "numbers": given})
        sure = [None if index < 0 else confidence for index in chosen]
        targets = {
            target: {"scores": [1.5 + n for n in range(probes)], "classes": chosen, "confidences": sure}
            for target in dict.fromkeys(key[2] for key in maps)
        }
        entries.append(
            {
                "step": 10 * (place + 1) if steps is None else steps[place],
                "epoch": epochs[place],
                "stage": "fit",
                "predicted": chosen,
                "confidence": sure,
                "targets": targets,
                "maps": described,
            }
        )
        blocks.append(block)
    names = list(class_names or [])
    described_probes = [
        {
            "id": str(n) if ids is None else ids[n],
            "true": list(true[n]),
            "true_names": [names[index] if index < len(names) else f"class {index}" for index in true[n]],
            "image": data_url(pictures[n]),
            **region_entry(
                None if masks is None or masks[n] is None else np.asarray(masks[n]) > 0,
                None if boxes is None else boxes[n],
                (height, width),
            ),
        }
        for n in range(probes)
    ]
    keys = [
        {
            "layer": layer,
            "method": method,
            "target": target,
            "method_title": {"gradcam": "Grad-CAM"}.get(method, method),
            "width": values.shape[3] // slices,
            "height": values.shape[2],
            "slices": slices,
        }
        for (layer, method, target), values in maps.items()
    ]
    found = {
        "format": 2,
        "id": "run-1",
        "title": "version_0/gradcam",
        "path": "logs/version_0/gradcam",
        "created": "2026-11-21T10:00:00+00:00",
        "score": "logit",
        "fingerprint": "f" * 64,
        "note": "",
        "remark": "",
        "pictures": "",
        "class_names": None if class_names is None else names,
        "display": {"width": width, "height": height, "slices": slices},
        "keys": keys,
        "layers": list(dict.fromkeys(key[0] for key in maps)),
        "methods": list(dict.fromkeys(key[1] for key in maps)),
        "targets": list(dict.fromkeys(key[2] for key in maps)),
        "probes": described_probes,
        "stats": STATS,
        "steps": entries,
    }
    return Payload({**found, **header}, tuple(blocks))


def garments(epochs: int = 6, probes: int = 4, layers: int = 3, size: int = 28, **options: Any) -> Payload:
    """Smooth moving blobs in the example's shapes: pictures of `size`, maps two pixels smaller at the first layer."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / (size - 1)
    pictures = np.stack([np.repeat((255 * np.abs(np.sin(5 * x + n) * y))[..., None], 3, axis=2) for n in range(probes)])
    maps = {}
    for layer in range(layers):
        blobs = np.zeros((epochs, probes, size, size))
        for t in range(epochs):
            for n in range(probes):
                cx, cy = 0.2 + 0.6 * t / max(1, epochs - 1), 0.2 + 0.15 * (n % 4)
                blobs[t, n] = (1 + t) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) * 12 * (layer + 1))
        maps[(f"network.relu{layer + 1}", "gradcam", "predicted")] = blobs + 0.02 * rng.random(blobs.shape)
    predicted = [[(n + (t < epochs // 2 and n % 2)) % 3 for n in range(probes)] for t in range(epochs)]
    numbers = {
        "drift": np.linspace(0.1, 0.9, epochs)[:, None] * np.linspace(0.5, 1, probes),
        "entropy": np.linspace(0.9, 0.4, epochs)[:, None] * np.ones(probes),
    }
    settings = {"predicted": predicted, "true": [[n % 3] for n in range(probes)], "numbers": numbers}
    return made(maps, pictures, **{**settings, **options})
