"""CAM formulas and their registry: pure functions from activations and gradients to signed maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from lightning_gradcam.errors import MethodError, did_you_mean

CamMethod = Callable[[Tensor, Tensor], Tensor]
_REGISTRY: dict[str, CamMethod] = {}


def gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    r"""Grad-CAM before its ReLU.

    .. math:: M = \sum_k \alpha_k A_k, \qquad \alpha_k = \frac{1}{|S|} \sum_{s \in S} \frac{\partial y}{\partial A_{ks}}

    with :math:`A_k` the activation of channel :math:`k`, :math:`S` its places and :math:`y` the explained score.

    Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017,
    equations 1 and 2. Cost: one forward and one backward.

    Args:
        activations: The layer's output ``[N, C, *S]``.
        gradients: Of the score with respect to it, the same shape.

    Returns:
        Signed map ``[N, *S]`` in the units of the score; :func:`relu` gives the published map.

    Example:
        >>> import torch
        >>> gradcam(torch.ones(1, 2, 2, 2), torch.ones(1, 2, 2, 2))
        tensor([[[2., 2.],
                 [2., 2.]]])
    """
    weights = gradients.flatten(2).mean(dim=2)
    return (activations.flatten(2) * weights[:, :, None]).sum(dim=1).reshape(-1, *activations.shape[2:])


def relu(maps: Tensor) -> Tensor:
    """Keeps what speaks for the target: negative values become 0 (equation 2 of the Grad-CAM paper).

    Args:
        maps: Signed maps, any shape.

    Returns:
        The maps with ``max(value, 0)``; NaN stays NaN.
    """
    return maps.clamp(min=0)


def register_method(name: str, method: CamMethod) -> None:
    """Adds a CAM method under a name that ``methods=`` then takes.

    Args:
        name: The name in options, keys and tags: lower-case letters, digits, ``_`` and ``+``.
        method: A pure function from activations ``[N, C, *S]`` and gradients of the same shape to a signed map
            ``[N, *S]``; both come in float32 (float64 where the model runs in it).

    Raises:
        MethodError: The name has other characters or is taken, or ``method`` can't be called.

    Example:
        >>> register_method("mean_activation", lambda activations, gradients: activations.mean(1))
        >>> "mean_activation" in available_methods()
        True
    """
    if not name or not set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_+"):
        raise MethodError(f"name: got {name!r}; use lower-case letters, digits, '_' and '+'")
    if name in _REGISTRY:
        raise MethodError(f"name: the method {name!r} exists already; choose another name")
    if not callable(method):
        raise MethodError(f"method: got {method!r}; give a function of activations and gradients")
    _REGISTRY[name] = method


def available_methods() -> tuple[str, ...]:
    """Returns the names that ``methods=`` takes, in the order of registration."""
    return tuple(_REGISTRY)


def resolve_methods(methods: str | Sequence[str]) -> dict[str, CamMethod]:
    """Looks up one name or several.

    Returns:
        Name to function, in the order asked for.

    Raises:
        MethodError: Nothing was given, or a name is unknown.
    """
    names = list(methods) if isinstance(methods, Sequence) and not isinstance(methods, str) else [methods]
    if not names:
        raise MethodError(f"methods: got an empty list{did_you_mean('', _REGISTRY)}")
    for name in names:
        if not isinstance(name, str) or name not in _REGISTRY:
            raise MethodError(f"methods: method {name!r} not found{did_you_mean(str(name), _REGISTRY)}")
    return {name: _REGISTRY[name] for name in names}


register_method("gradcam", gradcam)
