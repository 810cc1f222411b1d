r"""Faithfulness metrics: how a model's confidence changes when pixels are hidden in order of importance.

Throughout, :math:`f(x)` is the confidence in the explained class (its ``score``) and :math:`M` is the map, resized
bilinearly to the image :math:`x`. The model is called under ``no_grad`` in its current mode, so call ``eval()`` first.
Every forward pass is one batch with the shape of ``inputs``; a sample's values do not depend on the rest of its batch.
They are NaN if its map is not finite. Signals ``[N, C, L]`` with maps ``[N, l]`` are treated as images with one row. If
a model ends in its own softmax or sigmoid, the confidence is its unchanged output, whatever ``score`` is. No value is
good or bad in itself, because the changed images differ from the training data. Compare methods on the same model and
images, including ``random``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.stats.asking import Case, Model, pixel_ranks
from lightning_gradcam.stats.imputation import baseline_of, impute

# Filled-in pixels deviate by at most a hundredth of the noise; see `impute`.
_FILLED = 1e-5


def average_drop(
    model: Model, inputs: Tensor, maps: Tensor, *, classes: Tensor | None = None, score: str = "probability"
) -> Tensor:
    r"""Returns the share of confidence lost when the map masks the image: :math:`\max(f(x) - f(x \circ H), 0)/f(x)`.

    :math:`H = \max(M, 0) / \max_s M_s` leaves the most important pixel unchanged and sets pixels without importance to
    0, in the model's input units. A map without a positive value hides everything.

    Chattopadhyay et al., "Grad-CAM++: Generalized Gradient-based Visual Explanations for Deep Convolutional Networks",
    WACV 2018; they report the mean in percent.

    Args:
        model: Any callable from inputs to logits ``[N, C]``, to a single logit ``[N]`` or ``[N, 1]``, or to the
            probabilities from a final softmax or sigmoid.
        inputs: Preprocessed images ``[N, C, H, W]``.
        maps: The maps, ``[N, h, w]``.
        classes: The explained classes ``[N]``, such as ``cams.classes["predicted"]``. Default: the most likely classes.
        score: ``"probability"`` (default) or ``"sigmoid"``.

    Returns:
        ``[N]``, 0 to 1; lower is better. The metric favours maps that hide little.

    Raises:
        ConfigurationError: A shape or option is invalid, or the model does not return logits.

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
    r"""Returns whether hiding unimportant pixels makes the model more confident: 1 where :math:`f(x \circ H) > f(x)`.

    From the same paper as :func:`average_drop`, with the same :math:`H`. The mean is the fraction of such images.

    Args:
        model: As for :func:`average_drop`, like all other arguments.
        inputs: Preprocessed images ``[N, C, H, W]``.
        maps: The maps, ``[N, h, w]``.
        classes: The explained classes ``[N]``. Default: the most likely classes.
        score: ``"probability"`` (default) or ``"sigmoid"``.

    Returns:
        ``[N]``, 0 or 1; higher is better.

    Raises:
        ConfigurationError: As for :func:`average_drop`.

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
    """Returns the confidence as pixels are deleted, most important first, with equal numbers at every step.

    Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018.

    Args:
        model: As for :func:`average_drop`.
        inputs: Preprocessed images ``[N, C, H, W]``.
        maps: The maps, ``[N, h, w]``; in signed maps, evidence against the class is deleted last.
        classes: The explained classes ``[N]``. Default: the most likely classes.
        score: ``"probability"`` (default), ``"sigmoid"`` or ``"logit"``.
        baseline: The replacement for deleted pixels: ``"zeros"`` (in the model's input units, which is the data's mean
            colour after the usual normalisation), ``"mean"`` (each channel's mean over the image), ``"blurred"``, or a
            tensor that broadcasts to the inputs. Default: ``"zeros"``.
        steps: Number of forward passes after the first. Default: 25.
        seed: Random seed for the order of equally important pixels, which is the same in every image. With a constant
            map, pixels are deleted at random.

    Returns:
        ``[N, steps + 1]``, from the image to the baseline. The steeper the fall (the lower :func:`area_under`), the
        better.

    Raises:
        ConfigurationError: A shape or option is invalid, or the model does not return logits.

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
    """Returns the confidence as pixels are inserted, most important first: :func:`deletion_curve` from the baseline.

    Args:
        model: As for :func:`deletion_curve`, like all other arguments.
        inputs: Preprocessed images ``[N, C, H, W]``.
        maps: The maps, ``[N, h, w]``.
        classes: The explained classes ``[N]``. Default: the most likely classes.
        score: ``"probability"`` (default), ``"sigmoid"`` or ``"logit"``.
        baseline: The starting image. Default: ``"blurred"``, with a Gaussian of 11 by 11 pixels and sigma 5 as in RISE.
        steps: Number of forward passes after the first. Default: 25.
        seed: Random seed for the order of equally important pixels.

    Returns:
        ``[N, steps + 1]``, from the baseline to the image. The steeper the rise (the higher :func:`area_under`), the
        better.

    Raises:
        ConfigurationError: As for :func:`deletion_curve`.
    """
    case = Case.of(model, inputs, maps, classes, score)
    return _curve(case, baseline_of(case.inputs, _in_rows(baseline, inputs)), case.inputs, steps, seed)


def area_under(curve: Tensor) -> Tensor:
    """Returns the area under curves by the trapezoidal rule, with the fraction of pixels from 0 to 1 on the x axis.

    Args:
        curve: The curves, ``[N, steps + 1]``.

    Returns:
        ``[N]``, between the curve's smallest and largest value. Lower is better for deletion, higher for insertion.

    Raises:
        ConfigurationError: A curve has fewer than two points.

    Example:
        >>> area_under(torch.tensor([[1.0, 0.5, 0.0]]))
        tensor([0.5000])
    """
    if curve.dim() != 2 or curve.shape[1] < 2:
        raise ConfigurationError(f"curve: got shape {list(curve.shape)}; pass [N, steps + 1], with two or more points")
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
    r"""Returns combined ROAD, the extra cost of losing important pixels: :math:`\frac{1}{2}(f(x_L) - f(x_M))`.

    In :math:`x_M` the most important pixels are removed (MoRF), in :math:`x_L` the same number of the least important
    ones (LeRF). Removed pixels are filled in by :func:`impute`, because a hole's shape could reveal the class. The
    result is the mean over ``percentiles``.

    Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods", ICML 2022. MoRF and LeRF are
    combined as in pytorch-grad-cam's ``ROADCombined``, whose percentiles specify what remains (80 there is 20 here; 20,
    40, 60, 80 are the same set).

    Args:
        model: As for :func:`deletion_curve`, like the next four arguments.
        inputs: Preprocessed images ``[N, C, H, W]``.
        maps: The maps, ``[N, h, w]``.
        classes: The explained classes ``[N]``. Default: the most likely classes.
        score: ``"probability"`` (default), ``"sigmoid"`` or ``"logit"``.
        percentiles: Percentages of pixels to remove, between 0 and 100. Each requires two forward passes.
        noise: Standard deviation of the noise added to filled-in pixels, as for :func:`impute`. Default: 0.01.
        seed: Random seed for the noise and for the order of equally important pixels.

    Returns:
        ``[N]``, -0.5 to 0.5 for probabilities; higher is better, and 0 is chance level.

    Raises:
        ConfigurationError: A shape or option is invalid, or the model does not return logits.
    """
    if not percentiles or not all(0 < percent < 100 for percent in percentiles):
        raise ConfigurationError(
            f"percentiles: got {percentiles!r}; pass percentiles between 0 and 100, such as [20, 80]"
        )
    case = Case.of(model, inputs, maps, classes, score)
    ranks, pixels = pixel_ranks(case.maps, seed), case.maps.shape[1:].numel()
    counts = [min(max(round(percent / 100 * pixels), 1), pixels - 1) for percent in percentiles]

    def without(removed: Tensor) -> Tensor:
        return case.score(impute(case.inputs, removed, noise=noise, seed=seed, precision=_FILLED))

    return torch.stack([without(ranks >= pixels - n) - without(ranks < n) for n in counts]).mean(dim=0) / 2


def _in_rows(baseline: str | Tensor, inputs: Tensor) -> str | Tensor:
    """Returns a baseline for signals as an image with one row, and any other baseline unchanged."""
    rows = isinstance(baseline, Tensor) and inputs.dim() == 3 and baseline.dim() > 0
    return baseline.unsqueeze(-2) if isinstance(baseline, Tensor) and rows else baseline


def _masked(model: Model, inputs: Tensor, maps: Tensor, classes: Tensor | None, score: str) -> tuple[Tensor, Tensor]:
    if score == "logit":
        raise ConfigurationError(
            "score: got 'logit', but this measure needs a probability; pass 'probability' or 'sigmoid'"
        )
    case = Case.of(model, inputs, maps, classes, score)
    positive = case.maps.clamp(min=0)
    peak = positive.amax(dim=(1, 2), keepdim=True)
    kept = positive / peak.where(peak > 0, 1)
    return case.score(case.inputs), case.score(case.inputs * kept[:, None].to(case.inputs.dtype))


def _curve(case: Case, start: Tensor, end: Tensor, steps: int, seed: int) -> Tensor:
    if steps < 1:
        raise ConfigurationError(f"steps: got {steps}; pass an integer >= 1")
    ranks, pixels = pixel_ranks(case.maps, seed), case.maps.shape[1:].numel()
    counts = [round(step / steps * pixels) for step in range(steps + 1)]
    return torch.stack([case.score(torch.where((ranks < n)[:, None], end, start)) for n in counts], dim=1)
