r"""Gradient statistics: their distribution, the channels they favour, and whether they have vanished.

For each layer and target, the gradients :math:`g_{ks} = \partial y / \partial A_{ks}` that the maps use anyway (no
extra backward pass) are counted in bins, as are Grad-CAM's channel weights
:math:`\alpha_k = \frac{1}{|S|} \sum_s g_{ks}`. The bins are the same for all layers, steps and runs, which makes steps
comparable and lets parts of a batch be combined exactly: two bins per octave from :math:`2^{-32}` to :math:`2^8` for
each sign, one bin on each side for smaller and for larger values, and one for zero. A number's bin is read directly
from its bits, without rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

A = TypeVar("A")
B = TypeVar("B")
NumPyArray = npt.NDArray[Any]

CHANNELS = 8
# Number of mantissa bits used: 2 to this power bins per octave.
_BITS = 1
_LOWEST, _HIGHEST = -32, 8
# Float32's smallest normal number, and the bound above its largest.
_ZERO, _BEYOND = -126, 128
# Maximum number of values counted together, because their codes take twice the memory of the gradients.
_ROOM = 2**22


def _edges() -> npt.NDArray[np.float64]:
    steps = 2.0 ** np.arange(_LOWEST, _HIGHEST)[:, None] * (1 + np.arange(2**_BITS) / 2**_BITS)
    above = np.concatenate([[2.0**_ZERO], steps.ravel(), [2.0**_HIGHEST, 2.0**_BEYOND]])
    edges: npt.NDArray[np.float64] = np.concatenate([-above[::-1], above])
    edges.setflags(write=False)
    return edges


EDGES = _edges()
"""Edges of all bins, float64 ``[B + 1]``, ascending. A number on an edge is counted in the bin farther from zero. The
middle bin counts zeros, and magnitudes below float32's smallest normal number (``2**-126``)."""

_SPREAD = {"counts": np.int64, "min": np.float32, "max": np.float32, "sum": np.float64, "norm": np.float64}
DTYPES: Mapping[str, Any] = MappingProxyType(
    {
        **{f"{group}.{name}": dtype for group in ("gradients", "weights") for name, dtype in _SPREAD.items()},
        "channels": np.int64,
        "channel_weights": np.float32,
        "largest": np.float32,
        "vanished": np.bool_,
    }
)
"""The arrays of a :class:`GradientSummary` stored in a record: name to dtype."""


@dataclass(frozen=True, eq=False)
class Spread(Generic[A]):
    """Distribution of each sample's numbers.

    Attributes:
        counts: Number of values between consecutive :data:`EDGES`, int64 ``[N, B]``; NaN and infinity are not counted.
        min: The smallest value ``[N]``.
        max: The largest value ``[N]``.
        sum: The sum ``[N]``.
        norm: The square root of the sum of squares ``[N]``; in float32, squares below ``1e-45`` are 0.
    """

    counts: A
    min: A
    max: A
    sum: A
    norm: A

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """Edges of the bins, ``[B + 1]``, ascending: :data:`EDGES`, the same for all layers, steps and runs."""
        return EDGES


@dataclass(frozen=True, eq=False)
class GradientSummary(Generic[A]):
    """Gradient statistics for one layer and target, per sample; tensors, or NumPy arrays in a record.

    Only positions that appear in maps are included; class and register tokens are not.

    Attributes:
        gradients: All gradients at the layer.
        weights: Grad-CAM's channel weights: the gradients' means over positions.
        channels: The channels with the largest weights, at most eight, largest first: int64 ``[N, k]``.
        channel_weights: Their weights ``[N, k]``.
        largest: The largest magnitude of a gradient ``[N]``.
        vanished: Whether no gradient reaches the sample at all, bool ``[N]``: all are zero, or smaller than float32's
            smallest normal number.

    If a sample's score is not finite, ReLUs pass zero gradients. Its floating-point statistics are then NaN, and
    ``vanished`` is false.
    """

    gradients: Spread[A]
    weights: Spread[A]
    channels: A
    channel_weights: A
    largest: A
    vanished: A

    def arrays(self) -> dict[str, A]:
        """Returns all arrays by name, those in a :class:`Spread` as ``"gradients.counts"``; the first axis is ``N``."""
        found: dict[str, A] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Spread):
                found.update({f"{field.name}.{part.name}": getattr(value, part.name) for part in fields(value)})
            else:
                found[field.name] = value
        return found

    @classmethod
    def of(cls, arrays: Mapping[str, A]) -> GradientSummary[A]:
        """Builds a summary from the result of :meth:`arrays`."""

        def spread(name: str) -> Spread[A]:
            return Spread(**{part.name: arrays[f"{name}.{part.name}"] for part in fields(Spread)})

        plain = {field.name: arrays[field.name] for field in fields(cls) if field.name in arrays}
        return GradientSummary(spread("gradients"), spread("weights"), **plain)

    def each(self, call: Callable[[str, A], B]) -> GradientSummary[B]:
        """Returns a summary with a function applied to each array and its name."""
        return GradientSummary.of({name: call(name, values) for name, values in self.arrays().items()})


def summarised(gradients: Tensor, scores: Tensor) -> GradientSummary[Tensor]:
    """Computes statistics of a layer's gradients on their device, without blocking the host.

    Args:
        gradients: Gradients of the scores with respect to the activation ``[N, C, *S]``, float32 or float64; not
            modified.
        scores: The explained scores ``[N]``.

    Returns:
        The summary; floating-point values have the gradients' dtype.

    Example:
        >>> slopes = torch.tensor([[[[0.0, 0.5]], [[-2.0, -2.0]]]])
        >>> found = summarised(slopes, torch.ones(1))
        >>> found.channels.tolist(), found.channel_weights.tolist(), found.largest.tolist()
        ([[0, 1]], [[0.25, -2.0]], [2.0])
        >>> [(float(EDGES[n]), int(count)) for n, count in enumerate(found.gradients.counts[0]) if count]
        [(-3.0, 2), (-1.1754943508222875e-38, 1), (0.5, 1)]
    """
    if gradients.device.type not in ("cpu", "cuda"):
        # Other backends lack some of the integer operations.
        gradients, scores = gradients.cpu(), scores.cpu()
    known = scores.detach().isfinite()
    every, weights = gradients.flatten(1), gradients.flatten(2).mean(dim=2)
    facts = [
        fact
        for values in (every, weights)
        for fact in (values.amin(1), values.amax(1), values.sum(1), torch.linalg.vector_norm(values, dim=1))
    ]
    # Use few operations: for small layers, each takes as long as a pass over the gradients.
    facts = list(torch.stack(facts).where(known, torch.nan))
    counts = _counts(torch.stack([_table(every), _table(weights)]))
    largest = torch.maximum(facts[0].abs(), facts[1].abs())
    ranked = weights.sort(dim=1, descending=True, stable=True)
    return GradientSummary(
        gradients=Spread(counts[0], *facts[:4]),
        weights=Spread(counts[1], *facts[4:]),
        channels=ranked.indices[:, :CHANNELS].clone(),
        channel_weights=ranked.values[:, :CHANNELS].where(known[:, None], torch.nan),
        largest=largest,
        # Comparisons with NaN are false.
        vanished=largest < 2.0**_ZERO,
    )


def joined(parts: Sequence[GradientSummary[Tensor]]) -> GradientSummary[Tensor]:
    """Joins the summaries of a batch's parts; the result equals the summary of the whole batch."""
    arrays = [part.arrays() for part in parts]
    return GradientSummary.of({name: torch.cat([each[name] for each in arrays]) for name in arrays[0]})


def _counts(table: Tensor) -> Tensor:
    """Converts counts of leading bits, ``[…, 2, codes]`` from :func:`_table`, to bins ``[…, B]``."""
    codes = table.shape[-1]
    bias = {2 ** (8 + _BITS): 127, 2 ** (11 + _BITS): 1023}[codes]
    zero, low, high = ((bias + power) << _BITS for power in (_ZERO, _LOWEST, _HIGHEST))
    # The last exponent belongs to NaN and infinity.
    end = codes - (1 << _BITS)
    below = table[..., zero:low].sum(dim=-1, keepdim=True)
    above = table[..., high:end].sum(dim=-1, keepdim=True)
    outward = torch.cat([below, table[..., low:high], above], dim=-1)
    middle = table[..., :zero].sum(dim=(-2, -1))[..., None]
    return torch.cat([outward[..., 0, :].flip(-1), middle, outward[..., 1, :]], dim=-1)


def _table(values: Tensor) -> Tensor:
    """Counts the leading bits of ``[N, K]`` numbers, ``[N, 2, codes]``: negative numbers first, then the others."""
    rows = max(1, _ROOM // values.shape[1])
    if len(values) > rows:
        return torch.cat([_table(part) for part in torch.split(values, rows)])
    double = values.dtype == torch.float64
    whole, exponent, mantissa = (torch.int64, 11, 52) if double else (torch.int32, 8, 23)
    codes = 2 ** (exponent + _BITS)
    places = len(values) * 2 * codes
    # An arithmetic shift: the sign becomes -codes, and exponent and mantissa keep their order.
    begin = torch.arange(codes, places, 2 * codes, device=values.device, dtype=whole)[:, None]
    leading = (values.contiguous().view(whole) >> (mantissa - _BITS)).add_(begin).flatten()
    # `bincount` would make the host wait for the device.
    on_cpu = values.device.type == "cpu"
    found = torch.bincount(leading, minlength=places) if on_cpu else _tally(leading, places)
    return found.reshape(len(values), 2, codes)


def _tally(codes: Tensor, places: int) -> Tensor:
    """Counts integers from 0 up to, but excluding, ``places``."""
    one = torch.ones((), dtype=torch.int64, device=codes.device)
    found = torch.zeros(places, dtype=torch.int64, device=codes.device)
    return found.scatter_add_(0, codes.long(), one.expand_as(codes))


def vanished_of(
    gradients: Mapping[tuple[str, str], GradientSummary[NumPyArray]],
) -> dict[tuple[str, str], npt.NDArray[np.float32]]:
    """Returns whether the gradient has vanished, for each layer and target.

    Args:
        gradients: A record's gradients.

    Returns:
        ``(layer, target)`` to 1 or 0 for each sample, float32 ``[N]``; NaN if its score or gradient is not finite. The
        logged share is the mean over finite values.
    """
    return {
        key: np.where(np.isfinite(summary.largest), summary.vanished, np.nan).astype(np.float32)
        for key, summary in gradients.items()
    }


def vanished_layers(gradients: Mapping[tuple[str, str], GradientSummary[NumPyArray]]) -> Iterator[str]:
    """Yields the layers whose gradients have vanished for all samples and all targets."""
    shares = vanished_of(gradients)
    for layer in dict.fromkeys(layer for layer, _ in shares):
        every = np.concatenate([values for (other, _), values in shares.items() if other == layer])
        if (known := every[np.isfinite(every)]).size and known.all():
            yield layer


def vanishing_remark(layer: str, *, epoch: int, step: int, score: str) -> str:
    """Returns a warning that no gradient reaches a layer, to be shown once per layer.

    Args:
        layer: The layer's name.
        epoch: The step's epoch.
        step: The step.
        score: The kind of score: a saturated probability is a likely cause.
    """
    cause = (
        f"a {score} that has saturated (explain the 'logit' instead), or dead ReLUs after the layer"
        if score in ("probability", "sigmoid")
        else "dead ReLUs after the layer, weights that have become zero, or a contrast of a class with itself"
    )
    return (
        f"layer {layer!r}: in epoch {epoch}, step {step}, the gradient of the score is zero for every probe, so its "
        f"maps are blank; common causes are {cause} (reported once per layer)"
    )
