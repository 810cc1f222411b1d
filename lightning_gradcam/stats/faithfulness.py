r"""Whether a model's confidence follows its maps: pixels are hidden by importance, and the model is asked again.

Throughout, :math:`f(x)` is the confidence in the explained class (its ``score``) and :math:`M` the map, resized
bilinearly to the picture :math:`x`. The model is called under ``no_grad`` in the mode it is in: put it in ``eval()``.
Every forward is one batch like ``inputs``; a sample's numbers do not depend on the others in its batch. Where a map is
not finite, they are NaN. Signals ``[N, C, L]`` with maps ``[N, l]`` are taken as pictures of one row. Of a model that
ends in a softmax or sigmoid of its own, the confidence is its output as it is, whatever ``score`` says. No number is
good or bad alone: changed pictures are unlike those the model has learned from, so compare methods on the same model
and pictures, with ``random`` among them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.stats.asking import Case, Model
from lightning_gradcam.stats.imputation import baseline_of, impute

# Filled-in pixels are off by a hundredth of the noise at most; see `impute`.
_FILLED = 1e-5


def average_drop(
    model: Model, inputs: Tensor, maps: Tensor, *, classes: Tensor | None = None, score: str = "probability"
) -> Tensor:
    r"""Share of the confidence that is lost where the map hides the picture: :math:`\max(f(x) - f(x \circ H), 0)/f(x)`.

    :math:`H = \max(M, 0) / \max_s M_s` leaves the most important pixel as it is and turns what has no importance into
    0, in the model's own units; a map without a positive value hides everything.

    Chattopadhyay et al., "Grad-CAM++: Generalized Gradient-based Visual Explanations for Deep Convolutional Networks",
    WACV 2018; they report the mean in percent.

    Args:
        model: Any callable from inputs to logits ``[N, C]``, or to a single logit ``[N]`` or ``[N, 1]``; or to the
            probabilities that a softmax or sigmoid at its end makes of them.
        inputs: Preprocessed pictures ``[N, C, H, W]``.
        maps: ``[N, h, w]``.
        classes: The explained classes ``[N]``, such as ``cams.classes["predicted"]``; default: the most likely ones.
        score: ``"probability"`` or ``"sigmoid"``.

    Returns:
        ``[N]``, 0 to 1; lower is better. It favours maps that hide little.

    Raises:
        ConfigurationError: A shape or option does not fit, or the model returns no logits.

    Example:
        >>> model = lambda x: x.flatten(1)[:, :1].log()
        >>> average_drop(model, torch.ones(1, 1, 1, 2), torch.tensor([[[1.0, 2.0]]]), classes=torch.tensor([1]))
        tensor([0.3333])
    """
    before, after = _masked(model, inputs, maps, classes, score)
    return ((before - after).clamp(min=0) / before).where(before != 0, 0)


def average_increase(
    model: Model, inputs: Tensor, maps: Tensor, *, classes: Tensor | None = None, score: str = "probability"
) -> Tensor:
    r"""Whether hiding what has no importance makes the model more confident: 1 where :math:`f(x \circ H) > f(x)`.

    The same paper and :math:`H` as :func:`average_drop`; its mean is the share of pictures.

    Args:
        model: As for :func:`average_drop`, and so are the other arguments.
        inputs: ``[N, C, H, W]``.
        maps: ``[N, h, w]``.
        classes: ``[N]``.
        score: ``"probability"`` or ``"sigmoid"``.

    Returns:
        ``[N]``, 0 or 1; higher is better.

    Raises:
        ConfigurationError: As :func:`average_drop`.

    Example:
        >>> model = lambda x: -x.sum((1, 2, 3))
        >>> average_increase(model, torch.ones(1, 1, 1, 2), torch.tensor([[[0.0, 1.0]]]), classes=torch.tensor([1]))
        tensor([1.])
    """
    before, after = _masked(model, inputs, maps, classes, score)
    return (after > before).to(after.dtype).where(before.isfinite() & after.isfinite(), torch.nan)


def deletion_curve(
    model: Model,
    inputs: Tensor,
    maps: Tensor,
    *,
    classes: Tensor | None = None,
    score: str = "probability",
    baseline: str | Tensor = "zeros",
    steps: int = 25,
    seed: int = 0,
) -> Tensor:
    """Confidence while pixels are deleted, the most important first, equally many at every step.

    Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018.

    Args:
        model: As for :func:`average_drop`.
        inputs: ``[N, C, H, W]``.
        maps: ``[N, h, w]``; of signed maps, what speaks against the class goes last.
        classes: ``[N]``; default: the most likely ones.
        score: ``"probability"``, ``"sigmoid"`` or ``"logit"``.
        baseline: What deleted pixels become: ``"zeros"`` (in the model's units: after the usual normalisation, the
            data's mean colour), ``"mean"`` (each channel's mean over the picture), ``"blurred"``, or a tensor that
            broadcasts to the inputs.
        steps: How many forwards follow the first.
        seed: Decides the order of pixels that are equally important, the same in every picture: a map that is the
            same everywhere deletes at random.

    Returns:
        ``[N, steps + 1]``, from the picture to the baseline. A steep fall is good: a low :func:`area_under`.

    Raises:
        ConfigurationError: A shape or option does not fit, or the model returns no logits.

    Example:
        >>> model = lambda x: torch.stack([x.sum((1, 2, 3)), x.sum((1, 2, 3)) * 0], 1)
        >>> deletion_curve(model, torch.ones(1, 1, 1, 2), torch.tensor([[[1.0, 2.0]]]), score="logit", steps=2)
        tensor([[2., 1., 0.]])
    """
    case = Case.of(model, inputs, maps, classes, score)
    return _curve(case, case.inputs, baseline_of(case.inputs, _in_rows(baseline, inputs)), steps, seed)


def insertion_curve(
    model: Model,
    inputs: Tensor,
    maps: Tensor,
    *,
    classes: Tensor | None = None,
    score: str = "probability",
    baseline: str | Tensor = "blurred",
    steps: int = 25,
    seed: int = 0,
) -> Tensor:
    """Confidence while pixels appear, the most important first: :func:`deletion_curve` from the baseline's side.

    Args:
        model: As for :func:`deletion_curve`, and so are the other arguments.
        inputs: ``[N, C, H, W]``.
        maps: ``[N, h, w]``.
        classes: ``[N]``.
        score: ``"probability"``, ``"sigmoid"`` or ``"logit"``.
        baseline: Where it starts; ``"blurred"`` is a Gaussian of 11 by 11 pixels, sigma 5, as RISE's.
        steps: How many forwards follow the first.
        seed: Decides the order of pixels that are equally important.

    Returns:
        ``[N, steps + 1]``, from the baseline to the picture. A steep rise is good: a high :func:`area_under`.

    Raises:
        ConfigurationError: As :func:`deletion_curve`.
    """
    case = Case.of(model, inputs, maps, classes, score)
    return _curve(case, baseline_of(case.inputs, _in_rows(baseline, inputs)), case.inputs, steps, seed)


def area_under(curve: Tensor) -> Tensor:
    """Area under curves by the trapezoidal rule; all pixels together are 1.

    Args:
        curve: ``[N, steps + 1]``.

    Returns:
        ``[N]``, between the curve's least and greatest value. Low is good for deletion, high for insertion.

    Raises:
        ConfigurationError: A curve has less than two points.

    Example:
        >>> area_under(torch.tensor([[1.0, 0.5, 0.0]]))
        tensor([0.5000])
    """
    if curve.dim() != 2 or curve.shape[1] < 2:
        raise ConfigurationError(f"curve: got shape {list(curve.shape)}; give [N, steps + 1], two points or more")
    return (curve[:, 1:] + curve[:, :-1]).mean(dim=1) / 2


def road(
    model: Model,
    inputs: Tensor,
    maps: Tensor,
    *,
    classes: Tensor | None = None,
    score: str = "probability",
    percentiles: Sequence[float] = (20, 40, 60, 80),
    noise: float = 0.01,
    seed: int = 0,
) -> Tensor:
    r"""ROAD, combined: how much more it costs to lose the important pixels: :math:`\frac{1}{2}(f(x_L) - f(x_M))`.

    In :math:`x_M` the most important pixels are removed (MoRF), in :math:`x_L` as many of the least important (LeRF);
    removed means filled in by :func:`impute`, as a hole's shape could tell the class. The mean over ``percentiles``.

    Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods", ICML 2022; combined as
    pytorch-grad-cam's ``ROADCombined``, whose percentiles say what stays (80 there is 20 here; 20, 40, 60, 80 agree).

    Args:
        model: As for :func:`deletion_curve`, and so are the next four.
        inputs: ``[N, C, H, W]``.
        maps: ``[N, h, w]``.
        classes: ``[N]``.
        score: ``"probability"``, ``"sigmoid"`` or ``"logit"``.
        percentiles: How many percent of the pixels are removed, between 0 and 100; two forwards each.
        noise: As for :func:`impute`.
        seed: Of the noise, and of the order of pixels that are equally important.

    Returns:
        ``[N]``, -0.5 to 0.5 for probabilities; higher is better, 0 is what chance gives.

    Raises:
        ConfigurationError: A shape or option does not fit, or the model returns no logits.
    """
    if not percentiles or not all(0 < percent < 100 for percent in percentiles):
        raise ConfigurationError(f"percentiles: got {percentiles!r}; give some between 0 and 100, such as [20, 80]")
    case = Case.of(model, inputs, maps, classes, score)
    ranks, pixels = case.ranks(seed), case.maps.shape[1:].numel()
    counts = [min(max(round(percent / 100 * pixels), 1), pixels - 1) for percent in percentiles]

    def without(removed: Tensor) -> Tensor:
        return case.score(impute(case.inputs, removed, noise=noise, seed=seed, precision=_FILLED))

    return torch.stack([without(ranks >= pixels - n) - without(ranks < n) for n in counts]).mean(dim=0) / 2


def _in_rows(baseline: str | Tensor, inputs: Tensor) -> str | Tensor:
    """Returns a baseline of signals as one of pictures of one row."""
    rows = isinstance(baseline, Tensor) and inputs.dim() == 3 and baseline.dim() > 0
    return baseline.unsqueeze(-2) if isinstance(baseline, Tensor) and rows else baseline


def _masked(model: Model, inputs: Tensor, maps: Tensor, classes: Tensor | None, score: str) -> tuple[Tensor, Tensor]:
    if score == "logit":
        raise ConfigurationError("score: got 'logit', which has no share to lose; give 'probability' or 'sigmoid'")
    case = Case.of(model, inputs, maps, classes, score)
    positive = case.maps.clamp(min=0)
    peak = positive.amax(dim=(1, 2), keepdim=True)
    kept = positive / peak.where(peak > 0, 1)
    return case.score(case.inputs), case.score(case.inputs * kept[:, None].to(case.inputs.dtype))


def _curve(case: Case, start: Tensor, end: Tensor, steps: int, seed: int) -> Tensor:
    if steps < 1:
        raise ConfigurationError(f"steps: got {steps}; give a whole number, 1 or more")
    ranks, pixels = case.ranks(seed), case.maps.shape[1:].numel()
    counts = [round(step / steps * pixels) for step in range(steps + 1)]
    return torch.stack([case.score(torch.where((ranks < n)[:, None], end, start)) for n in counts], dim=1)
