r"""Gradients in numbers: how large they are, which channels they speak for, and whether they have vanished.

Of each layer and target, the gradients :math:`g_{ks} = \partial y / \partial A_{ks}` that explain anyway (no further
backward) are counted into bins, and so are the channel weights :math:`\alpha_k = \frac{1}{|S|} \sum_s g_{ks}` of
Grad-CAM. The bins are the same for all layers, steps and runs, so that steps can be compared, and parts of a batch put
together, exactly: two bins an octave from :math:`2^{-32}` to :math:`2^8` for either sign, one on each side for what is
smaller and what is larger, and one for zero. They are read off the numbers' own bits, without rounding.
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
# Bins an octave are 2 to the power of this many bits of the mantissa.
_BITS = 1
_LOWEST, _HIGHEST = -32, 8
# Float32's smallest normal number, and what lies beyond its largest.
_ZERO, _BEYOND = -126, 128
# Rows that are counted at once hold at most this many numbers: their codes take twice the memory of the gradients.
_ROOM = 2**22


def _edges() -> npt.NDArray[np.float64]:
    steps = 2.0 ** np.arange(_LOWEST, _HIGHEST)[:, None] * (1 + np.arange(2**_BITS) / 2**_BITS)
    above = np.concatenate([[2.0**_ZERO], steps.ravel(), [2.0**_HIGHEST, 2.0**_BEYOND]])
    edges: npt.NDArray[np.float64] = np.concatenate([-above[::-1], above])
    edges.setflags(write=False)
    return edges


EDGES = _edges()
"""Edges of all bins, float64 ``[B + 1]``, ascending. A number on an edge counts to the bin farther from zero; the bin
in the middle is that of zero, and of what is smaller than float32's smallest normal number (``2**-126``)."""

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
"""What a record keeps of a :class:`GradientSummary`: the name of an array to its type."""


@dataclass(frozen=True, eq=False)
class Spread(Generic[A]):
    """Distribution of the numbers of each sample.

    Attributes:
        counts: How many fall between each two of :data:`EDGES`, int64 ``[N, B]``; NaN and infinity are not counted.
        min: The smallest ``[N]``.
        max: The largest ``[N]``.
        sum: Their sum ``[N]``.
        norm: The root of the sum of their squares ``[N]``; float32 takes squares below ``1e-45`` for 0.
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
    """The gradients of one layer and target in numbers, for each sample; tensors, and NumPy arrays in a record.

    Only the places that maps show count: class and register tokens are left out.

    Attributes:
        gradients: All gradients of the layer.
        weights: The channel weights of Grad-CAM: the means of the gradients over the places.
        channels: The channels with the largest weights, int64 ``[N, k]``, the largest first; at most eight.
        channel_weights: Their weights ``[N, k]``.
        largest: The largest magnitude of a gradient ``[N]``.
        vanished: Whether no gradient reaches the sample at all, bool ``[N]``: each is zero, or smaller than float32's
            smallest normal number.

    Of a sample whose score is not finite, for which ReLUs pass gradients of zero, all numbers are NaN, and ``vanished``
    is false.
    """

    gradients: Spread[A]
    weights: Spread[A]
    channels: A
    channel_weights: A
    largest: A
    vanished: A

    def arrays(self) -> dict[str, A]:
        """Returns all arrays by name, those of a :class:`Spread` as ``"gradients.counts"``; each begins with ``N``."""
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
        """Builds a summary from what :meth:`arrays` returns."""

        def spread(name: str) -> Spread[A]:
            return Spread(**{part.name: arrays[f"{name}.{part.name}"] for part in fields(Spread)})

        plain = {field.name: arrays[field.name] for field in fields(cls) if field.name in arrays}
        return GradientSummary(spread("gradients"), spread("weights"), **plain)

    def each(self, call: Callable[[str, A], B]) -> GradientSummary[B]:
        """Returns a summary of what a function makes of each array and its name."""
        return GradientSummary.of({name: call(name, values) for name, values in self.arrays().items()})


def summarised(gradients: Tensor, scores: Tensor) -> GradientSummary[Tensor]:
    """Puts a layer's gradients into numbers, on their device, without making the host wait for it.

    Args:
        gradients: Of the scores with respect to the activation ``[N, C, *S]``, float32 or float64; not changed.
        scores: The explained scores ``[N]``.

    Returns:
        The summary; floating-point numbers are of the gradients' type.

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
    # In few operations: of small layers, each takes as long as a pass over the gradients.
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
    """Puts the summaries of a batch's parts together; they are what the whole batch would give."""
    arrays = [part.arrays() for part in parts]
    return GradientSummary.of({name: torch.cat([each[name] for each in arrays]) for name in arrays[0]})


def _counts(table: Tensor) -> Tensor:
    """From leading parts of bits, ``[…, 2, codes]`` as :func:`_table` counts them, to bins ``[…, B]``."""
    codes = table.shape[-1]
    bias = {2 ** (8 + _BITS): 127, 2 ** (11 + _BITS): 1023}[codes]
    zero, low, high = ((bias + power) << _BITS for power in (_ZERO, _LOWEST, _HIGHEST))
    # The last exponent is that of NaN and infinity.
    end = codes - (1 << _BITS)
    below = table[..., zero:low].sum(dim=-1, keepdim=True)
    above = table[..., high:end].sum(dim=-1, keepdim=True)
    outward = torch.cat([below, table[..., low:high], above], dim=-1)
    middle = table[..., :zero].sum(dim=(-2, -1))[..., None]
    return torch.cat([outward[..., 0, :].flip(-1), middle, outward[..., 1, :]], dim=-1)


def _table(values: Tensor) -> Tensor:
    """How often ``[N, K]`` have each leading part of their bits, ``[N, 2, codes]``: negative ones, then the others."""
    rows = max(1, _ROOM // values.shape[1])
    if len(values) > rows:
        return torch.cat([_table(part) for part in torch.split(values, rows)])
    double = values.dtype == torch.float64
    whole, exponent, mantissa = (torch.int64, 11, 52) if double else (torch.int32, 8, 23)
    codes = 2 ** (exponent + _BITS)
    places = len(values) * 2 * codes
    # An arithmetic shift: of the sign it makes -codes, and leaves exponent and mantissa as they count upwards.
    begin = torch.arange(codes, places, 2 * codes, device=values.device, dtype=whole)[:, None]
    leading = (values.contiguous().view(whole) >> (mantissa - _BITS)).add_(begin).flatten()
    # `bincount` would make the host wait for another device.
    on_cpu = values.device.type == "cpu"
    found = torch.bincount(leading, minlength=places) if on_cpu else _tally(leading, places)
    return found.reshape(len(values), 2, codes)


def _tally(codes: Tensor, places: int) -> Tensor:
    """Counts whole numbers from 0 to before ``places``."""
    one = torch.ones((), dtype=torch.int64, device=codes.device)
    found = torch.zeros(places, dtype=torch.int64, device=codes.device)
    return found.scatter_add_(0, codes.long(), one.expand_as(codes))


def vanished_of(
    gradients: Mapping[tuple[str, str], GradientSummary[NumPyArray]],
) -> dict[tuple[str, str], npt.NDArray[np.float32]]:
    """Returns whether the gradient has vanished, for each layer and target.

    Args:
        gradients: A record's.

    Returns:
        ``(layer, target)`` to 1 or 0 for each sample, float32 ``[N]``; NaN if its score or gradient is not finite.
        The mean over those that are known is the share that is logged.
    """
    return {
        key: np.where(np.isfinite(summary.largest), summary.vanished, np.nan).astype(np.float32)
        for key, summary in gradients.items()
    }


def vanished_layers(gradients: Mapping[tuple[str, str], GradientSummary[NumPyArray]]) -> Iterator[str]:
    """Yields the layers at which the gradients of all samples and all targets have vanished."""
    shares = vanished_of(gradients)
    for layer in dict.fromkeys(layer for layer, _ in shares):
        every = np.concatenate([values for (other, _), values in shares.items() if other == layer])
        if (known := every[np.isfinite(every)]).size and known.all():
            yield layer


def vanishing_remark(layer: str, *, epoch: int, step: int, score: str) -> str:
    """Returns, once per layer, a warning that no gradient reaches it in a trained step.

    Args:
        layer: Its name.
        epoch: Of the step.
        step: Its x value.
        score: What is explained: a saturated probability is a likely cause.
    """
    cause = (
        f"a {score} that has saturated (explain the 'logit' instead), or ReLUs behind it that have died"
        if score in ("probability", "sigmoid")
        else "ReLUs behind it that have died, weights that have become zero, or a contrast of a class with itself"
    )
    return (
        f"layer {layer!r}: in epoch {epoch}, step {step}, the gradient of the score is zero there for every probe, so"
        f" that its maps are blank; usual causes are {cause} (reported once per layer)"
    )
