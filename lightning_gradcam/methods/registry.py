"""The registry of CAM methods, and the one step that follows all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from lightning_gradcam.errors import MethodError, did_you_mean
from lightning_gradcam.methods.components import eigencam, eigengradcam, random
from lightning_gradcam.methods.gradients import (
    gradcam,
    gradcam_elementwise,
    gradcam_plus_plus,
    hirescam,
    layercam,
    xgradcam,
)

CamMethod = Callable[[Tensor, Tensor], Tensor]
_REGISTRY: dict[str, CamMethod] = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "xgradcam": xgradcam,
    "hirescam": hirescam,
    "layercam": layercam,
    "gradcam_elementwise": gradcam_elementwise,
    "eigencam": eigencam,
    "eigengradcam": eigengradcam,
    "random": random,
}


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
