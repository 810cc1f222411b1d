"""The results: maps by layer, method and target, with the scores they explain."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from torch import Tensor

from lightning_gradcam.capture.layout import Layout
from lightning_gradcam.record.gradients import GradientSummary

if TYPE_CHECKING:
    from PIL.Image import Image

# Drawing belongs to a later folder; import it only on request.
_DRAWN = "lightning_gradcam.sheets.of_cams"


class CamKey(NamedTuple):
    """The key of one map: the names of its layer, method and target."""

    layer: str
    method: str
    target: str


def find_key(keys: Sequence[CamKey], wanted: object) -> CamKey:
    """Finds the key that ``wanted`` refers to.

    Args:
        keys: All keys.
        wanted: A full ``(layer, method, target)``, whose target may be a class index, or just a layer's name if that
            layer has a single map.

    Raises:
        KeyError: There is no such key, or a bare layer name is ambiguous; the message lists the keys.
    """
    if isinstance(wanted, str):
        matches = [key for key in keys if key.layer == wanted]
    elif isinstance(wanted, tuple):
        matches = [key for key in keys if key == tuple(str(part) for part in wanted)]
    else:
        matches = []
    if len(matches) != 1:
        why = "is ambiguous" if matches else "not found"
        listed = ", ".join(str(tuple(key)) for key in (matches or keys))
        raise KeyError(f"{wanted!r} {why}; pass one of these (layer, method, target): {listed}")
    return matches[0]


@dataclass(frozen=True, eq=False)
class Cams(Mapping[CamKey, Tensor]):
    """The maps for one batch with the explained scores; a read-only mapping.

    ``cams[layer, method, target]`` is a float tensor ``[N, h, w]`` at the layer's own resolution, not normalised;
    signed if ``relu=False``. It is ``[N, d, h, w]`` in 3-D, ``[N, t, h, w]`` for frames folded into the batch, and
    ``[N, l]`` for signals. ``cams["layer4"]`` works if that layer has a single map.

    Attributes:
        maps: :class:`CamKey` to map.
        scores: Target name to the explained scores ``[N]``.
        classes: Target name to the explained classes ``[N]`` (int64; -1 if there is none).
        output: The model's output, detached.
        predicted: The most likely classes ``[N]``, -1 where the output is NaN; ``None`` if the model does not output
            classes.
        confidence: Their probabilities ``[N]``: the softmax; the sigmoid with ``score="sigmoid"`` or if labels mark
            several classes per sample; the output itself if the model ends in one of these. ``None`` without classes.
        layouts: Layer name to the meaning of its activation's axes.
        overwritten: Whether the model modifies a layer's output in place, so that it had to be copied.
        confidences: Target name to the probabilities of the explained classes ``[N]``, as in ``confidence``; NaN for
            samples without a class. Empty without classes.
        inputs: The inputs of :func:`~lightning_gradcam.compute_cams` (not a copy), used to draw overlays. ``None`` if
            they are not a tensor.
        score: The kind of ``scores``: ``"logit"``, ``"probability"`` or ``"sigmoid"``.
        likeliest: The most likely classes, at most ten, starting with ``predicted``: int64 ``[N, k]``; ``None`` without
            classes.
        likeliest_confidence: Their probabilities ``[N, k]``, as in ``confidence``; ``None`` without
            classes.
        gradients: ``(layer, target)`` to gradient statistics, if requested
            (:class:`~lightning_gradcam.GradientSummary`); only for methods that use activations and gradients.
        levels: ``(layer, target)`` to the feature map at which each sample is explained, ``N`` names: ``"fpn[1]"`` is
            the second map that ``fpn`` returns, ``"head#2"`` the third call to ``head``. Only for layers with several
            maps on which the scores depend, such as a detector's pyramid; their maps have the size of the finest level,
            and coarser ones are enlarged by repetition.
        axes: The meaning of the input's axes if its shape is ambiguous and the model resolves it: ``"NCL"``, ``"NLC"``
            or ``"NL"`` for a signal, ``"NTCHW"`` or ``"NTHW"`` for frames; otherwise ``""``.
        causes: :class:`CamKey` to the cause of each blank map, int8 ``[N]``, 0 for maps that are not blank; see
            :class:`~lightning_gradcam.Cause`. Keys without a blank map may be missing.
        class_names: Names of all classes by index, if they were given; :meth:`save` shows them.
    """

    maps: Mapping[CamKey, Tensor]
    scores: Mapping[str, Tensor]
    classes: Mapping[str, Tensor]
    output: Any
    predicted: Tensor | None = None
    confidence: Tensor | None = None
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    overwritten: bool = False
    confidences: Mapping[str, Tensor] = field(default_factory=dict)
    inputs: Tensor | None = None
    score: Literal["logit", "probability", "sigmoid"] = "logit"
    likeliest: Tensor | None = None
    likeliest_confidence: Tensor | None = None
    gradients: Mapping[tuple[str, str], GradientSummary[Tensor]] = field(default_factory=dict)
    levels: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    axes: str = ""
    causes: Mapping[CamKey, Tensor] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("maps", "scores", "classes", "layouts", "confidences", "gradients", "levels", "causes"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __reduce__(self) -> tuple[Any, ...]:
        # Read-only views can be neither pickled nor copied.
        values = (getattr(self, field.name) for field in fields(self))
        return type(self), tuple(dict(v) if isinstance(v, MappingProxyType) else v for v in values)

    def __getitem__(self, key: CamKey | tuple[str, str, str | int] | str) -> Tensor:
        return self.maps[find_key(list(self.maps), key)]

    def __contains__(self, key: object) -> bool:
        try:
            find_key(list(self.maps), key)
        except KeyError:
            return False
        return True

    def __iter__(self) -> Iterator[CamKey]:
        return iter(self.maps)

    def __len__(self) -> int:
        return len(self.maps)

    def overlay(self, key: CamKey | tuple[str, str, str | int] | str | None = None, **drawing: Any) -> list[Image]:
        """Draws one map for each sample on its input.

        Args:
            key: The map, as in ``cams[key]``; may be omitted if there is only one.
            **drawing: Options of :class:`~lightning_gradcam.Drawing`, such as ``colormap="jet"`` or ``opacity=0.4``.

        Returns:
            A PIL image for each sample, at the input's own resolution (at most 4096 pixels per side); small inputs are
            enlarged by a whole number (``magnification=1`` keeps their size). Inputs that were normalised are
            stretched from their minimum to their maximum. Without ``scale``, colours end at the 98th percentile of the
            sample's strongest map, over all targets of this layer and method. A blank map leaves the input without
            colours. Maps with time or depth are drawn slice by slice, side by side.

        Raises:
            KeyError: ``key`` does not select exactly one map; the message lists them.
            DrawingError: An option is invalid, or the inputs are not one image for each sample.

        Example::

            compute_cams(model, image[None], "layer4").overlay()[0].show()
        """
        found: list[Image] = import_module(_DRAWN).overlays_of(self, key, drawing)
        return found

    def save(self, path: str | os.PathLike[str], **drawing: Any) -> None:
        """Writes all maps as one image file.

        A single sample's only map is written as its overlay, the image that :meth:`overlay` returns. Several maps are
        written as a sheet with a section for each layer and method. A section shows each sample with its input, an
        overlay for each target, the scores and the scale.

        Args:
            path: A file name ending in ``.png``, ``.jpg``, ``.jpeg`` or ``.webp``: a local path, or a URL that fsspec
                supports. An image too large for its format is scaled down, with a warning; PNG fits all sizes.
            **drawing: Options of :class:`~lightning_gradcam.Drawing`.

        Raises:
            DrawingError: The path has a different ending, or an option is invalid.

        Example::

            compute_cams(model, image[None], "layer4").save("cat.png")
        """
        import_module(_DRAWN).save_cams(self, path, drawing)

    def _repr_html_(self) -> str:
        # Drawing belongs to a later folder; import it only when a notebook displays the maps.
        return str(import_module("lightning_gradcam.report.notebook").cams_html(self))

    def __repr__(self) -> str:
        shapes = ", ".join(f"{tuple(key)}: {list(value.shape)}" for key, value in self.maps.items())
        return f"Cams({shapes})"
