"""The registry of CAM methods, and the ReLU that follows all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal, get_args

from torch import Tensor

from lightning_gradcam.errors import MethodError, did_you_mean
from lightning_gradcam.methods import components, gradients, input_space, perturbation, scores

CamMethod = Callable[..., Tensor]
Needs = Literal["gradients", "activations", "rerun", "model"]
MODEL = "model"


@dataclass(frozen=True)
class Method:
    """A method's function and the arguments it requires.

    Attributes:
        function: The formula.
        needs: ``"gradients"``: it accepts activations and gradients ``[N, C, *S]`` and returns ``[N, *S]``.
            ``"activations"``: it accepts only activations. ``"rerun"``: it accepts a :class:`~lightning_gradcam.Rerun`
            for each layer and returns ``[T, N, …]`` for all targets. ``"model"``: the same, but called once for all
            layers; its maps have the key ``"model"``.
    """

    function: CamMethod
    needs: Needs = "gradients"


_REGISTRY: dict[str, Method] = {
    "gradcam": Method(gradients.gradcam),
    "gradcam++": Method(gradients.gradcam_plus_plus),
    "smoothgradcam++": Method(scores.smoothgradcam_plus_plus, "rerun"),
    "xgradcam": Method(gradients.xgradcam),
    "hirescam": Method(gradients.hirescam),
    "layercam": Method(gradients.layercam),
    "gradcam_elementwise": Method(gradients.gradcam_elementwise),
    "eigencam": Method(components.eigencam, "activations"),
    "eigengradcam": Method(components.eigengradcam),
    "scorecam": Method(perturbation.scorecam, "rerun"),
    "ablationcam": Method(perturbation.ablationcam, "rerun"),
    "cam": Method(scores.cam, "rerun"),
    "finercam": Method(scores.finercam, "rerun"),
    "shapleycam": Method(scores.shapleycam, "rerun"),
    "legrad": Method(scores.legrad, "rerun"),
    "guided_gradcam": Method(input_space.guided_gradcam, "rerun"),
    "guided_backprop": Method(input_space.guided_backprop, "model"),
    "fullgrad": Method(input_space.fullgrad, "model"),
    "random": Method(components.random, "activations"),
}
_BUILT_IN = frozenset(_REGISTRY)


def relu(maps: Tensor) -> Tensor:
    """Keeps positive evidence for the target: negative values become 0 (equation 2 of the Grad-CAM paper).

    Args:
        maps: Signed maps, any shape.

    Returns:
        The maps with ``max(value, 0)``; NaN stays NaN.
    """
    return maps.clamp(min=0)


def register_method(name: str, method: CamMethod, *, needs: Needs = "gradients", overwrite: bool = False) -> None:
    """Registers a CAM method under a name that ``methods=`` then accepts.

    Args:
        name: The method's name in options, keys and tags: lower-case letters, digits, ``_`` and ``+``.
        method: A pure function from activations ``[N, C, *S]`` and gradients of the same shape to a signed map
            ``[N, *S]``; both inputs are float32 (float64 if the model runs in it).
        needs: ``"gradients"`` (default): the method is called with activations and gradients. ``"activations"``: it is
            called with activations only. ``"rerun"``: it is called with a :class:`~lightning_gradcam.Rerun`, which runs
            the model again, and returns the maps ``[T, N, *S]`` for all targets. ``"model"``: the same, but called once
            for all layers; its maps have the key ``"model"`` instead of a layer's name.
        overwrite: Whether to replace a method registered earlier under this name, for instance when a notebook cell
            runs again. By default, reusing a name is an error. Built-in methods are never replaced.

    Raises:
        MethodError: The name contains other characters or is taken, ``method`` can't be called, or ``needs`` is
            unknown.

    Example:
        >>> register_method("mean_activation", lambda activations: activations.mean(1), needs="activations")
        >>> "mean_activation" in available_methods()
        True
    """
    if not name or not set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_+"):
        raise MethodError(f"name: got {name!r}; use lower-case letters, digits, '_' and '+'")
    if name in _REGISTRY and (name in _BUILT_IN or not overwrite):
        instead = "" if name in _BUILT_IN else ", or replace the method with overwrite=True"
        raise MethodError(f"name: the method {name!r} exists already; choose another name{instead}")
    if not callable(method):
        raise MethodError(f"method: got {method!r}; pass a function of activations and gradients")
    if needs not in get_args(Needs):
        raise MethodError(f"needs: got {needs!r}; valid: {', '.join(map(repr, get_args(Needs)))}")
    _REGISTRY[name] = Method(_checked(name, method), needs)


def _checked(name: str, method: CamMethod) -> CamMethod:
    @wraps(method)
    def call(*given: Any) -> Tensor:
        # Later methods receive the same tensors, and this one may work in place.
        maps = method(*(value.clone() if isinstance(value, Tensor) else value for value in given))
        if not isinstance(maps, Tensor):
            raise MethodError(
                f"methods: {name!r} returned a {type(maps).__name__}; a method must return its maps as one tensor"
            )
        return maps

    return call


def available_methods() -> tuple[str, ...]:
    """Returns the names that ``methods=`` accepts, in the order of registration."""
    return tuple(_REGISTRY)


def resolve_methods(methods: str | Sequence[str]) -> dict[str, Method]:
    """Looks up one or more methods by name.

    Returns:
        Methods by name, in the order requested.

    Raises:
        MethodError: No name was given, or a name is unknown.
    """
    names = list(methods) if isinstance(methods, Sequence) and not isinstance(methods, str) else [methods]
    if not names:
        raise MethodError(f"methods: got an empty list{did_you_mean('', _REGISTRY)}")
    for name in names:
        if not isinstance(name, str) or name not in _REGISTRY:
            raise MethodError(f"methods: method {name!r} not found{did_you_mean(str(name), _REGISTRY)}")
    return {name: _REGISTRY[name] for name in names}
