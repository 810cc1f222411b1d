"""Converts an archive to a page's data: a description, and signed 8-bit maps, each with two scales of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_gradcam.archive import Archive
from lightning_gradcam.errors import printable
from lightning_gradcam.record.blank import blank_sentence, record_codes
from lightning_gradcam.record.cam_record import CamRecord, FloatArray
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.render.drawing import Drawing
from lightning_gradcam.render.overlay import maxima, not_finite
from lightning_gradcam.render.scale import limits_of
from lightning_gradcam.render.signals import band_height, charted
from lightning_gradcam.render.slices import Slices
from lightning_gradcam.render.tiles import evenly
from lightning_gradcam.report.pictures import probe_entries, probe_pictures, source_remark
from lightning_gradcam.sheets.header import method_title
from lightning_gradcam.stats import STATS, affordable, to_last

FORMAT = 2
MAX_PROBES = 64
# Maximum size in bytes of a page's maps before compression.
MAX_BYTES = 64_000_000
_CHART = (98, 224)
# Byte values on either side of zero.
_LEVELS = 127


@dataclass(frozen=True, eq=False)
class Outline:
    """The data shared by all steps of a run.

    Attributes:
        header: The description as JSON-compatible values, without steps.
        keys: Keys of the maps, in the order of a step's block.
        rows: Indices of the probes shown.
        slices: The slices shown for each key's maps.
    """

    header: dict[str, Any]
    keys: tuple[CamKey, ...]
    rows: tuple[int, ...]
    slices: Mapping[CamKey, Slices]

    @classmethod
    def of(cls, archive: Archive, *, title: str | None = None, max_probes: int = MAX_PROBES) -> Outline:
        """Describes a run.

        Args:
            archive: The run's archive; as long as it has no steps, there are no keys.
            title: The run's name. Default: the last two parts of the archive's path.
            max_probes: Maximum number of probes in the page; if there are more, evenly spaced ones are shown.

        Raises:
            ArchiveError: The archive is damaged.
        """
        first, manifest = archive.record(0).maps if archive.steps else {}, archive.manifest
        flat = next((maps.shape for maps in first.values() if maps.ndim == 2), ())
        probes, _ = charted(archive.probes.view, Drawing(), flat, _CHART)
        slices = {key: Slices.of(maps.shape, probes.pixels.shape) for key, maps in first.items()}
        rows = tuple(evenly(len(probes), max_probes))
        wide = max((len(found.chosen) for found in slices.values()), default=1)
        height, width, pictures = probe_pictures(probes, rows, next((s for s in slices.values() if s.depth), None))
        # The page measures evidence inside a region at the image's or mask's own resolution, as the numbers do.
        full = probes.pixels.shape[-3:-1] if probes.masks is None else probes.masks.shape[1:]
        own = {} if full == (height, width) else {"full": list(full)}
        more = {"band": band_height(height)} if flat else own
        header = {
            "format": FORMAT,
            "id": manifest.run,
            "title": title or "/".join(archive.path.rstrip("/").split("/")[-2:]),
            "path": archive.path,
            "created": manifest.created,
            "score": manifest.score,
            "fingerprint": manifest.fingerprint,
            "note": probes.note,
            "remark": "" if len(rows) == len(probes) else f"{len(rows)} of {len(probes)} probes, evenly chosen",
            "pictures": source_remark(probes.display_source),
            "class_names": None if probes.class_names is None else list(probes.class_names),
            "display": {"width": width, "height": height, "slices": wide, **more},
            "keys": [_key(key, maps, slices[key]) for key, maps in first.items()],
            "layers": list(manifest.layers),
            "methods": list(manifest.methods),
            "targets": list(manifest.targets),
            "probes": probe_entries(probes, rows, pictures, (height, width)),
            "stats": {name: {k: v for k, v in vars(stat).items() if k != "better"} for name, stat in STATS.items()},
        }
        return cls(header, tuple(first), rows, slices)

    def step(self, record: CamRecord, last: CamRecord | None = None) -> tuple[dict[str, Any], bytes]:
        """Returns one step's description as JSON-compatible values, and its block.

        Args:
            record: The record of the step.
            last: The record of the run's last step, if the maps are also to be compared with it.

        Returns:
            The description and the block, which contains uint8 ``[N, h, slices * w]`` for each key. A byte of 128 is
            zero. Positive values are 129 to 255, the map's largest value; negative values are 127 to 1, the largest
            magnitude. The distance from 128, divided by 127, is the square root of the value relative to that largest
            one, which keeps enough levels for small values next to an extreme one. The description states these largest
            values in ``maxima`` and ``minima`` (magnitudes), and the values of
            :func:`~lightning_gradcam.render.scale.limits_of` in ``limits`` and ``signed_limits``. A map that is not
            finite is 128 everywhere, with ``None`` in all four.
        """
        rows, blocks, entries = list(self.rows), [], []
        changed = {} if last is None else record.changed_from(last)
        for key in self.keys:
            maps = record.maps[key][rows]
            scales = {
                "maxima": maxima(maps),
                "minima": maxima(-maps),
                "limits": limits_of(maps),
                "signed_limits": limits_of(maps, signed=True),
            }
            scales = {name: np.where(not_finite(maps), np.nan, values) for name, values in scales.items()}
            blocks.append(_signed_bytes(self.slices[key].of_maps(maps), scales["maxima"], scales["minima"]).tobytes())
            found = {name: values[rows] for name, values in record.numbers.get(key, {}).items()}
            if last is not None:
                flipped = changed[key.target][rows] if key.target in changed else None
                found.update(to_last(maps, last.maps[key][rows], flipped))
            numbers = {name: rounded(values) for name, values in found.items()}
            entry = {**{name: rounded(values) for name, values in scales.items()}, "numbers": numbers}
            if sentence := blank_sentence(record_codes(record.maps, record.causes, [key], rows)):
                entry["blank"] = sentence
            entries.append(entry)
        of_targets = {
            name: {
                "scores": rounded(scores[rows]),
                "classes": record.classes[name][rows].tolist(),
                "confidences": rounded(record.confidences.get(name, np.full_like(scores, np.nan))[rows]),
            }
            for name, scores in record.scores.items()
        }
        described = {
            "step": record.step,
            "epoch": record.epoch,
            "stage": record.stage,
            "predicted": record.predicted[rows].tolist(),
            "confidence": rounded(record.confidence[rows]),
            "targets": of_targets,
            "maps": entries,
        }
        if record.likeliest.size and any(len(probe["true"]) > 1 for probe in self.header["probes"]):
            described["sets"] = _sets(record, rows)
        return described, b"".join(blocks)


@dataclass(frozen=True, eq=False)
class Payload:
    """A page's data for one run.

    Attributes:
        header: The description as JSON-compatible values.
        blocks: One block of maps per step.
    """

    header: dict[str, Any]
    blocks: tuple[bytes, ...]

    @classmethod
    def of(
        cls,
        archive: Archive,
        *,
        title: str | None = None,
        max_probes: int = MAX_PROBES,
        max_bytes: int = MAX_BYTES,
    ) -> Payload:
        """Reads an archive once.

        Args:
            archive: The run's archive.
            title: The run's name. Default: the last two parts of the archive's path.
            max_probes: Maximum number of probes in the page; if there are more, evenly spaced ones are shown.
            max_bytes: Maximum size of the maps in bytes. If not all steps fit, evenly spaced ones are used, including
                the first and the last.

        Raises:
            ArchiveError: The archive or one of its steps is damaged.
        """
        outline = Outline.of(archive, title=title, max_probes=max_probes)
        count, entries, blocks = len(archive.steps), [], []
        last = archive.record(count - 1) if count else None
        compared = set() if last is None else set(evenly(count, affordable(last.maps), ends=True))
        shown = range(count)
        for index in range(count):
            if index in shown:
                described, block = outline.step(archive.record(index), last if index in compared else None)
                entries.append(described)
                blocks.append(block)
            if index == 0 and count * len(block) > max_bytes:
                shown = evenly(count, max(2, max_bytes // len(block)), ends=True)  # type: ignore[assignment]
        remarks, thinned = [outline.header["remark"]], {}
        if len(entries) < count:
            thinned = {"thinned": True}
            remarks.append(f"{len(entries)} of {count} logged steps, evenly chosen")
        remark = "; ".join(filter(None, remarks))
        described = {**outline.header, **thinned, "remark": remark, "findings": statements(archive), "steps": entries}
        return cls(described, tuple(blocks))

    def maps(self, start: int = 0, stop: int | None = None) -> bytes:
        """Returns the blocks of some steps, concatenated."""
        return b"".join(self.blocks[start:stop])


def statements(archive: Archive) -> list[dict[str, Any]]:
    """Returns a run's findings, most severe first.

    Args:
        archive: The run's archive.

    Returns:
        One entry per finding, with the field names of :class:`~lightning_gradcam.Finding`. If the findings can't be
        computed, a single entry with the reason, because the page must be written nevertheless.
    """
    try:
        found = archive.findings
    except Exception as error:  # nothing in findings may keep a page from being written
        why = printable(f"{type(error).__name__}: {error!s:.200}")
        return [{"kind": "", "severity": "low", "text": f"The findings can't be computed ({why}).", "advice": ""}]
    return [{**vars(each), "figures": {n: v for n, v in each.figures.items() if math.isfinite(v)}} for each in found]


def _key(key: CamKey, maps: FloatArray, slices: Slices) -> dict[str, Any]:
    # A signal's map has one row, drawn in the band below its curve.
    height, width = maps.shape[-2:] if maps.ndim > 2 else (1, maps.shape[-1])
    size = {"width": width, "height": height, "slices": len(slices.chosen)}
    line: dict[str, Any] = {"signal": True} if maps.ndim == 2 else {}
    # The total number of slices, if not all are shown.
    more = {"depth": slices.depth} if slices.depth > len(slices.chosen) else {}
    return {**key._asdict(), "method_title": method_title(key.method), **size, **line, **more}


def _signed_bytes(maps: FloatArray, top: FloatArray, low: FloatArray) -> npt.NDArray[np.uint8]:
    """Returns slices side by side, uint8 ``[N, h, s * w]``, encoded as described in :meth:`Outline.step`.

    Args:
        maps: Signed slices ``[N, s, h, w]``.
        top: Each map's largest positive value, ``[N]``; NaN for a map that is not finite.
        low: The largest magnitude of each map's negative values, ``[N]``.
    """
    broken = np.isnan(top).reshape(-1, 1, 1, 1)
    clean = np.where(broken, 0, maps)
    ends = np.where(clean > 0, top.reshape(-1, 1, 1, 1), low.reshape(-1, 1, 1, 1))
    shares = np.divide(np.abs(clean), ends, out=np.zeros(clean.shape), where=clean != 0)
    steps = (np.sqrt(np.clip(shares, 0, 1)) * _LEVELS).round()
    count, shown, height, width = steps.shape
    found = (128 + np.sign(clean) * steps).transpose(0, 2, 1, 3).reshape(count, height, shown * width)
    return np.asarray(found, np.uint8)


def _sets(record: CamRecord, rows: list[int]) -> list[list[list[float]]]:
    """Returns each probe's classes with a probability above 0.5, for probes with several labels."""
    pairs = zip(record.likeliest[rows], record.likeliest_confidence[rows], strict=True)
    return [[[int(c), float(f"{p:.4g}")] for c, p in zip(*pair, strict=True) if p > 0.5] for pair in pairs]


def rounded(values: npt.NDArray[Any]) -> list[float | None]:
    """Returns numbers for JSON, rounded to four digits, with ``None`` for non-finite values."""
    return [float(f"{value:.4g}") if math.isfinite(value) else None for value in values.tolist()]
