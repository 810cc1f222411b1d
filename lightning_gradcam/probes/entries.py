"""Finds the model's input and the labels in a collated batch of any structure."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_gradcam.errors import MOST, ProbeError, did_you_mean
from lightning_gradcam.probes.batches import Apart, are_flat, is_listed, one_size
from lightning_gradcam.probes.labels import LABEL_KEYS
from lightning_gradcam.probes.paths import MISSING, Key, any_picture, first_view, follow, named_in, no_tensor, structure

_INPUT_KEYS = ("image", "images", "pixel_values", "input", "inputs", "x", "img", "data")


def split_batch(batch: Any, input_key: Key | None, label_key: Key | None) -> tuple[Tensor, Any]:
    """Extracts inputs and labels from a collated batch: a tensor, a tuple or a dict.

    Returns:
        The inputs, and the labels unchanged; ``None`` if there are none.

    Raises:
        ProbeError: A key does not exist, or the input is not a tensor; the message lists what exists.
    """
    if isinstance(batch, Apart):
        found, given = zip(*(split_batch(each, input_key, label_key) for each in batch.batches), strict=True)
        known = all(isinstance(label, (Tensor, list, tuple)) and len(label) == 1 for label in given)
        return one_size(found), [label[0] for label in given] if known else None
    inputs = input_of(batch, input_key)
    return inputs, None if isinstance(batch, Tensor) else label_of(batch, label_key, required=label_key is not None)


def input_of(batch: Any, input_key: Key | None, *, listed: bool | None = None) -> Tensor:
    """Extracts the model's input from a batch; if there are several views of the same samples, the first view.

    Args:
        batch: As collated.
        input_key: Location of the input in the batch.
        listed: Whether its images are separate (see :func:`~lightning_gradcam.probes.batches.is_listed`). Default:
            detected from the batch, which is less reliable for part of a batch.

    Raises:
        ProbeError: The key does not exist, or the selected entry is not a tensor.
    """
    if isinstance(batch, Tensor):
        return batch
    if input_key is any_picture:
        return _any_input(batch)
    inputs = entry_of(batch, input_key)
    if listed if listed is not None else is_listed(inputs, batch):
        found = torch.stack(list(inputs)) if len({each.shape for each in inputs}) == 1 else None
    else:
        # Signals have three axes, just as separate images do.
        found = inputs if isinstance(inputs, Tensor) else first_view(inputs, 3 if are_flat(inputs) else 4)
    if found is None:
        raise _wrong(
            f"input_key: {_shown(input_key)} selects a {type(inputs).__name__} from the batch, expected a tensor"
            f" [N, …]; {no_tensor(inputs, batch)}",
            batch,
        )
    return found


def entry_of(batch: Any, input_key: Key | None) -> Any:
    """Returns the batch entry with the model's input: a tensor, or a tuple or list of separate images.

    Raises:
        ProbeError: The key does not exist.
    """
    if isinstance(batch, Tensor):
        return batch
    if input_key is not any_picture:
        return _item(batch, input_key, _INPUT_KEYS, 0, "input_key", required=True)
    usual = _item(batch, None, _INPUT_KEYS, 0, "input_key", required=False)
    return usual if is_listed(usual, batch) else _any_input(batch)


def label_of(batch: Any, label_key: Key | None, *, required: bool) -> Any:
    """Returns the labels of a batch or of one sample; among several annotations, those with a common label name.

    Args:
        batch: A collated batch, or one sample.
        label_key: Location of the labels in the batch.
        required: Whether to raise an error, instead of returning ``None``, if there are none.
    """
    found = _item(batch, label_key, LABEL_KEYS, 1, "label_key", required=required)
    named = named_in(found)
    return found if named is None else next((named[name] for name in LABEL_KEYS if name in named), found)


def _any_input(batch: Any) -> Tensor:
    likely = any_picture(batch)
    try:
        usual = input_of(batch, None)
    except ProbeError:
        if likely is None:
            raise
        return likely
    return likely if likely is not None and usual.dim() < min(likely.dim(), 4) else usual


def _item(batch: Any, key: Key | None, usual: tuple[str, ...], place: int, argument: str, *, required: bool) -> Any:
    if callable(key):
        try:
            return key(batch)
        except Exception as error:
            why = f"{type(error).__name__}: {error!s:.120}"
            raise _wrong(f"{argument}: {_shown(key)} failed on the batch ({why})", batch) from error
    named, is_sequence = named_in(batch), isinstance(batch, (list, tuple))
    if key is None and named is not None:
        key = next((name for name in usual if name in named), None)
    if key is None and is_sequence:
        key = place
    if key is not None and (found := follow(batch, key)) is not MISSING:
        return found
    if named is None and not is_sequence:
        raise ProbeError(f"probes: a batch is a {type(batch).__name__}, expected a tensor, a tuple or a dict")
    if not required:
        return None
    choices = [str(name) for name in (range(len(batch)) if is_sequence else named)]
    if key is None:
        raise _wrong(
            f"{argument}: none of {', '.join(usual)} is in the batch; available: {', '.join(choices)}"[:300], batch
        )
    name = str(key) if isinstance(key, (str, int)) else ".".join(map(str, key))
    raise _wrong(f"{argument}: {name!r} is not in the batch{did_you_mean(name, choices, limit=8)}", batch)


def _shown(key: Any) -> str:
    return f"the function {getattr(key, '__name__', key)!s:.60}" if callable(key) else f"{key!r:.120}"


def _wrong(text: str, batch: Any) -> ProbeError:
    """Returns an error that shows the batch's structure, shortened to fit."""
    room = MOST - len(text) - len("; the batch is ")
    return ProbeError(f"{text}; the batch is {structure(batch, min(room, 240))}" if room > 20 else text)
