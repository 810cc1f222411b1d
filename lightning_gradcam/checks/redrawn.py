"""Other weights for a moment: drawn at random, of some modules or of all, with the trained ones' mean and spread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def redrawn(modules: Sequence[nn.Module], seed: int, calibrate: Callable[[], object] | None = None) -> Iterator[None]:
    """Gives modules random weights: each tensor's are normal, with the mean and the spread of those it has.

    Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018: what a map shows is learnt where other weights give
    another map. The spread is kept, so that the network neither dies nor saturates; the statistics of batch norms are
    those of the new weights, for the same reason. The tensors' own storage is put aside and comes back, bit for bit,
    after an exception too.

    Args:
        modules: Whose own weights are redrawn; not those of their parts.
        seed: Of the draws.
        calibrate: Runs the model on some pictures, for the statistics of the batch norms among ``modules``: in batches
            that are alike, since they are averaged.

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
    held: dict[int, tuple[Tensor, Tensor]] = {}
    norms = [m for m in modules if isinstance(m, _BatchNorm) and m.track_running_stats and not _waits(m)]
    for module in modules:
        for weight in [p for p in module._parameters.values() if p is not None]:
            if can_be_redrawn(weight):
                held[id(weight)] = weight, weight.data
    for norm in norms:
        for statistic in (norm.running_mean, norm.running_var, norm.num_batches_tracked):
            if statistic is not None:
                held[id(statistic)] = statistic, statistic.data
    modes = [(norm, norm.training, norm.momentum) for norm in norms]
    # In training mode they would wait for the other processes, which do not take part.
    alone = [m for m in norms if type(m).forward is nn.SyncBatchNorm.forward and "forward" not in vars(m)]
    try:
        for tensor, data in held.values():
            tensor.data = _like(data, generator) if isinstance(tensor, nn.Parameter) else data.clone()
        torch.clear_autocast_cache()
        if norms and calibrate is not None:
            for norm in norms:
                # The mean over batches: the last one alone may be of a kind, or a single picture.
                vars(norm)["training"], norm.momentum = True, None
                if norm.num_batches_tracked is not None:
                    norm.num_batches_tracked.zero_()
            for norm in alone:
                vars(norm)["forward"] = MethodType(_BatchNorm.forward, norm)
            # A batch norm that gets a single value has no statistics to take.
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
    """Whether a weight can get other values for a moment: sharded and quantised ones stay as they are."""
    return type(weight.data) is Tensor and weight.is_floating_point()


def _waits(norm: _BatchNorm) -> bool:
    """Whether a batch norm may wait for other processes in a forward of its own, which can't be replaced."""
    own = type(norm).forward is not nn.SyncBatchNorm.forward or "forward" in vars(norm)
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    return isinstance(norm, nn.SyncBatchNorm) and own and together


def _as_before(modes: Sequence[tuple[_BatchNorm, bool, float | None]], alone: Sequence[_BatchNorm]) -> None:
    for norm, training, momentum in modes:
        vars(norm)["training"], norm.momentum = training, momentum
    for norm in alone:
        vars(norm).pop("forward", None)


def from_the_top(model: nn.Module, stages: int) -> list[tuple[str, list[nn.Module]]]:
    """Returns which modules are redrawn at each stage, from the last layer down to all of them.

    The order is that in which the model registers its layers, which is nearly always that of its forward.

    Args:
        model: The model.
        stages: How many at most: the last layer alone, and then as many more layers each time.

    Returns:
        The name of the lowest module of each stage, and all its modules; the last stage has every one.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.Linear(2, 2))
        >>> [(name, len(modules)) for name, modules in from_the_top(net, 2)]
        [('3', 1), ('0', 3)]
    """
    owners = [(name, m) for name, m in model.named_modules() if any(p is not None for p in m._parameters.values())]
    owners.reverse()
    last = len(owners)
    ends = sorted({*(1 + round(step * (last - 1) / max(stages - 1, 1)) for step in range(stages)), last} - {0})
    chosen = ends if stages > 1 else ends[-1:]
    return [(owners[end - 1][0], [m for _, m in owners[:end]]) for end in chosen]


def _like(data: Tensor, generator: torch.Generator) -> Tensor:
    values = data.float()
    spread = float(values.std()) if values.numel() > 1 else 0.0
    drawn = torch.randn(data.shape, generator=generator)
    return (drawn * spread + float(values.mean())).to(data)
