"""Temporarily replaces the weights of some or all modules with random ones of the same mean and spread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def redrawn(modules: Sequence[nn.Module], seed: int, calibrate: Callable[[], object] | None = None) -> Iterator[None]:
    """Temporarily replaces weights with normally distributed ones of the same mean and standard deviation per tensor.

    Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018: what a map shows is learnt if random weights
    produce a different map. The spread is preserved to keep the network from dying or saturating. For the same reason,
    batch norm statistics are recomputed for the new weights. The original storage is restored bit for bit, even after
    an exception.

    Args:
        modules: The modules whose own weights to replace, excluding those of their children.
        seed: Random seed.
        calibrate: Runs the model on some images to compute the statistics of the batch norms among ``modules``. Its
            batches should be similar, because their statistics are averaged.

    Example:
        >>> linear = nn.Linear(2, 2)
        >>> before = linear.weight.detach().clone()
        >>> with redrawn([linear], seed=0):
        ...     bool((linear.weight == before).any())
        False
        >>> bool((linear.weight == before).all())
        True
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [m for m in modules if isinstance(m, _BatchNorm) and m.track_running_stats and not _waits(m)]
    weights = [p for m in modules for p in m._parameters.values() if p is not None and can_be_redrawn(p)]
    statistics = [s for m in norms for s in (m.running_mean, m.running_var, m.num_batches_tracked) if s is not None]
    held = {id(tensor): (tensor, tensor.data) for tensor in (*weights, *statistics)}
    modes = [(norm, norm.training, norm.momentum) for norm in norms]
    # In training mode, these would wait for other processes, which do not participate.
    alone = [m for m in norms if type(m).forward is nn.SyncBatchNorm.forward and "forward" not in vars(m)]
    try:
        for tensor, data in held.values():
            tensor.data = _like(data, generator) if isinstance(tensor, nn.Parameter) else data.clone()
        torch.clear_autocast_cache()
        if norms and calibrate is not None:
            for norm in norms:
                # Use the mean over batches: the last batch may be unrepresentative or a single image.
                vars(norm)["training"], norm.momentum = True, None
                if norm.num_batches_tracked is not None:
                    norm.num_batches_tracked.zero_()
            for norm in alone:
                vars(norm)["forward"] = MethodType(_BatchNorm.forward, norm)
            # A batch norm with a single value per channel has no statistics.
            with torch.no_grad(), suppress(ValueError):
                calibrate()
            _as_before(modes, alone)
        yield
    finally:
        _as_before(modes, alone)
        for tensor, data in held.values():
            tensor.data = data
        torch.clear_autocast_cache()


def can_be_redrawn(weight: Tensor) -> bool:
    """Whether a weight can be replaced temporarily; sharded and quantised weights can't be."""
    return type(weight.data) is Tensor and weight.is_floating_point()


def _waits(norm: _BatchNorm) -> bool:
    """Whether a batch norm may wait for other processes in a custom ``forward``, which can't be replaced."""
    own = type(norm).forward is not nn.SyncBatchNorm.forward or "forward" in vars(norm)
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    return isinstance(norm, nn.SyncBatchNorm) and own and together


def _as_before(modes: Sequence[tuple[_BatchNorm, bool, float | None]], alone: Sequence[_BatchNorm]) -> None:
    for norm, training, momentum in modes:
        vars(norm)["training"], norm.momentum = training, momentum
    for norm in alone:
        vars(norm).pop("forward", None)


def from_the_top(model: nn.Module, stages: int) -> list[tuple[str, list[nn.Module]]]:
    """Returns the modules to randomise at each stage, from only the last layer to all layers.

    The order is that in which the model registers its layers, which nearly always matches its forward pass.

    Args:
        model: The model.
        stages: Maximum number of stages. With several, the first has only the last layer, and each further stage adds
            about the same number of layers.

    Returns:
        The name of the lowest module at each stage, and all modules to randomise; at the last stage, these are all
        modules with weights.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.Linear(2, 2))
        >>> [(name, len(modules)) for name, modules in from_the_top(net, 2)]
        [('3', 1), ('0', 3)]
    """
    owners = [(name, m) for name, m in model.named_modules() if any(p is not None for p in m._parameters.values())]
    owners.reverse()
    last = len(owners)
    ends = sorted({*(1 + round(step * (last - 1) / max(stages - 1, 1)) for step in range(stages)), last} - {0})
    return [(owners[end - 1][0], [m for _, m in owners[:end]]) for end in (ends if stages > 1 else ends[-1:])]


def _like(data: Tensor, generator: torch.Generator) -> Tensor:
    values = data.float()
    spread = float(values.std()) if values.numel() > 1 else 0.0
    return (torch.randn(data.shape, generator=generator, device="cpu") * spread + float(values.mean())).to(data)
