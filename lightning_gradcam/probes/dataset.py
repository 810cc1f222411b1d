"""Drawing probes from a data set by index, without iterating anyone's dataloader."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from lightning_gradcam.capture.structure import entries_of
from lightning_gradcam.errors import MOST, LightningGradCAMError, ProbeError, did_you_mean
from lightning_gradcam.guard.data import isolated
from lightning_gradcam.probes.balance import balanced, balanced_of, looked_up
from lightning_gradcam.probes.batches import origins
from lightning_gradcam.probes.class_names import named_classes
from lightning_gradcam.probes.display import Normalization, choose, displayed, find_normalization, normalization
from lightning_gradcam.probes.labels import class_in, read_labels
from lightning_gradcam.probes.listed import Apart, are_flat, differ_in_size, is_listed, one_size
from lightning_gradcam.probes.paths import (
    MISSING,
    Key,
    any_picture,
    first_view,
    follow,
    no_tensor,
    structure,
    tensors_in,
)
from lightning_gradcam.probes.probe_set import ProbeSet
from lightning_gradcam.probes.samplers import UnindexedError
from lightning_gradcam.probes.wrapped import (
    LABEL_KEYS,
    find_class_names,
    find_labels,
    has_indices,
    locate,
    nested_datasets,
)

DEFAULT_PROBES = 8
_INPUT_KEYS = ("image", "images", "pixel_values", "input", "inputs", "x", "img", "data")


@dataclass(frozen=True)
class Drawn:
    """Probes, and the collated batch they stand in, for the transfer hooks of a data module.

    Attributes:
        probes: The probes.
        batch: As collated.
        transferred: The transfer hooks have been applied to it.
        remark: Why the batch's labels are not kept, for the user; ``None`` where they are, or there are none.
        rebuilt: The batch was made of archived probes: what else the collated one held is not known.
    """

    probes: ProbeSet
    batch: Any
    transferred: bool = False
    remark: str | None = None
    rebuilt: bool = False

    def form(self, input_key: Key | None) -> str:
        """Returns how the pictures stand in the batch: one of ``FORMS``, or ``""`` where they are one tensor.

        Args:
            input_key: Where they are.
        """
        if isinstance(self.batch, Apart):
            return "apart"
        entry = entry_of(self.batch, input_key)
        return "" if not is_listed(entry, self.batch) else "tuple" if isinstance(entry, tuple) else "list"


def draw_probes(
    dataset: Any,
    num_probes: int | None = None,
    *,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    among: Sequence[int] | None = None,
    input_key: Key | None = None,
    label_key: Key | None = None,
    class_names: Sequence[str] | str | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    apart: bool = False,
    fewer: bool = False,
) -> Drawn:
    """Draws a fixed probe set, reproducibly, and leaves every random number generator as it was.

    Labels, class names, the transform, ``probe_mask(index)`` and ``probe_note`` are looked for on the data set and,
    through ``Subset``, ``random_split``, ``ConcatDataset`` and wrappers with a ``dataset`` attribute, on those
    inside.

    Args:
        dataset: A map-style data set of tuples, dicts or tensors.
        num_probes: How many to draw; default: 8, or all samples where there are fewer. Classes are balanced (their
            counts differ by one at most) where labels exist: on an attribute (``targets``, ``labels``, ``samples``),
            in a column of a Hugging Face data set, or among the first samples of the draw, which are decoded for it:
            1,000 at most, fewer where that changes nothing or would take more than 20 seconds.
        seed: Of the draw.
        indices: These samples, in this order, instead of a draw.
        among: Draw from these samples alone; default: from all.
        input_key: Where a sample's picture is: a key of a dict, a field, a place in a tuple, a path of these
            (``["views", "left"]``, ``"views.left"``, ``"0.1"``), or a function that takes it out of the batch.
            Default: the first of a tuple, or the usual names (``image``, ``pixel_values``, ``x``, …). Of several views
            of the same samples, the first.
        label_key: Where the true class is, in the same forms; default: the second of a tuple, or the usual names.
        class_names: Names of the classes by index, where the data set has none; ``"imagenet"`` or a file are read.
        mean: The normalisation to undo for display, where the data set's transform does not show one.
        std: Its deviation.
        collate_fn: From samples to a batch; torch's default where not given.
        apart: Put pictures of several sizes into a batch each; the probes then show them resized to the first one's.
        fewer: Take all samples where there are fewer than ``num_probes``.

    Returns:
        The probes (sorted by class where labels exist) and their batch.

    Raises:
        ProbeError: ``num_probes`` is below 1 or above the number of samples, the data set has no indices, or a
            batch has no tensor where the input is expected.
        UnindexedError: The data set can't be read by index in this process, or its samples can't be put into a batch.
    """
    if not has_indices(dataset):
        raise UnindexedError(
            f"probes: {type(dataset).__name__} has no indices to draw from; give probes=ProbeSet(...), a saved probe"
            " set, or a folder of pictures"
        )
    class_names = named_classes(class_names)
    with isolated(dataset, collate_fn):
        if indices is None:
            names = find_class_names(dataset, label_key) or class_names
            possible = range(len(dataset)) if among is None else among
            count = _count(num_probes, len(possible), fewer=fewer)
            indices = _draw(dataset, count, seed, label_key, None if names is None else len(names), possible)
        else:
            _check_indices(indices, len(dataset))
        indices = [int(index) for index in indices]
        samples = [_sample(dataset, index) for index in indices]
        batch = _collated(samples, collate_fn or default_collate, input_key, apart=apart)
        if not isinstance(batch, Apart):
            indices = _collated_order(indices, samples, input_of(batch, input_key))
        masks = _masks(dataset, indices)
    return drawn_from(
        dataset,
        batch,
        indices=indices,
        masks=masks,
        input_key=input_key,
        label_key=label_key,
        class_names=class_names,
        mean=mean,
        std=std,
    )


def _sample(dataset: Any, index: int) -> Any:
    try:
        return dataset[index]
    except Exception as error:  # whatever a data set raises whose samples have other keys, or which only workers read
        raise UnindexedError(
            f"probes: {type(dataset).__name__} can't be indexed by {index} here"
            f" ({type(error).__name__}: {error!s:.100})"
        ) from error


def _collated(samples: list[Any], collate_fn: Callable[[list[Any]], Any], input_key: Key | None, *, apart: bool) -> Any:
    try:
        batch = collate_fn(samples)
        entry = entry_of(batch, input_key) if apart else None
        if not (is_listed(entry, batch) and differ_in_size(entry)):
            return batch
    except LightningGradCAMError:
        raise
    except Exception as error:
        # A batch of one sample in training does not show that sizes differ.
        tensors = [next((tensor for _, tensor in tensors_in(sample)), None) for sample in samples]
        shapes = list(dict.fromkeys(str(list(tensor.shape)) for tensor in tensors if tensor is not None))
        if not apart or not differ_in_size(tensors):
            sizes = "" if len(shapes) < 2 else f"have different sizes, {' and '.join(shapes[:2])}, and "
            advice = "" if len(shapes) < 2 else "; resize or pad them to one size in the transform or in collate_fn"
            raise UnindexedError(
                f"probes: the samples drawn {sizes}don't fit into one batch"
                f" ({type(error).__name__}: {error!s:.100}){advice}"
            ) from error
    try:
        return Apart(tuple(collate_fn([sample]) for sample in samples))
    except Exception as error:
        raise UnindexedError(
            f"probes: the samples drawn can't be put into batches of one ({type(error).__name__}: {error!s:.100})"
        ) from error


def _collated_order(indices: list[int], samples: list[Any], pictures: Tensor) -> list[int]:
    """Returns the indices in the order in which ``collate_fn`` puts their samples."""
    if len(pictures) != len(samples) or pictures.dim() < 2:
        return indices  # which are refused as probes
    places = origins(samples, pictures)
    if len(set(places)) < len(places):
        raise UnindexedError("probes: collate_fn puts samples in the place of other ones")
    return [indices[place] for place in places]


def drawn_from(
    dataset: Any,
    batch: Any,
    *,
    indices: Sequence[int] | None,
    masks: Tensor | None = None,
    input_key: Key | None = None,
    label_key: Key | None = None,
    class_names: Sequence[str] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> Drawn:
    """Makes probes of a batch, with what the data set tells: class names, normalisation, a note.

    Args:
        dataset: Where the batch comes from.
        batch: As collated.
        indices: Where its samples stand in the data set.
        masks: Where their telling parts are.
        input_key: See :func:`draw_probes`, as for all that follow.
        label_key: Where the true class is.
        class_names: Where the data set has none.
        mean: Undone for display.
        std: The deviation to it.

    Raises:
        ProbeError: The batch has no tensor where the input is expected.
        UnindexedError: It has another number of samples than there are indices.
    """
    inputs, found = split_batch(batch, input_key, label_key)
    if indices is not None and len(inputs) != len(indices):
        raise UnindexedError(f"probes: collate_fn makes {len(inputs)} samples of {len(indices)}")
    names = find_class_names(dataset, label_key) or (None if class_names is None else tuple(class_names))
    labels = read_labels(found, len(inputs), names)
    normalized = shown_normalization(dataset, mean, std)
    display, how = displayed(inputs.detach().cpu(), normalized)
    note = next((owner.probe_note for owner in nested_datasets(dataset) if hasattr(owner, "probe_note")), "")
    return Drawn(
        ProbeSet(
            inputs.clone(),
            ids=() if indices is None else tuple(map(str, indices)),
            labels=labels.classes,
            masks=masks,
            class_names=names,
            display=display,
            display_source=how,
            indices=None if indices is None else tuple(indices),
            note=str(note),
            values=labels.numbers,
            normalized=normalized,
        ),
        batch,
        remark=labels.remark,
    )


def split_batch(batch: Any, input_key: Key | None, label_key: Key | None) -> tuple[Tensor, Any]:
    """Takes inputs and labels out of a collated batch: a tensor, a tuple or a dict.

    Returns:
        The inputs, and the labels as they are; ``None`` where there are none.

    Raises:
        ProbeError: A key is not there, or the input is not a tensor; the message lists what is.
    """
    if isinstance(batch, Apart):
        found, given = zip(*(split_batch(each, input_key, label_key) for each in batch.batches), strict=True)
        known = all(isinstance(label, (Tensor, list, tuple)) and len(label) == 1 for label in given)
        return one_size(found), [label[0] for label in given] if known else None
    inputs = input_of(batch, input_key)
    if isinstance(batch, Tensor):
        return inputs, None
    return inputs, _label_of(batch, label_key, required=label_key is not None)


def input_of(batch: Any, input_key: Key | None, *, listed: bool | None = None) -> Tensor:
    """Takes the model's input out of a batch: of several views of the same samples, the first.

    Args:
        batch: As collated.
        input_key: Where the input is.
        listed: Its pictures stand one by one (see :func:`~lightning_gradcam.probes.listed.is_listed`); default: as the
            batch shows. A part of a batch shows it less well than the whole.

    Raises:
        ProbeError: The key is not there, or what it selects is not a tensor.
    """
    if isinstance(batch, Tensor):
        return batch
    if input_key is any_picture:
        return _any_input(batch)
    inputs = entry_of(batch, input_key)
    if listed if listed is not None else is_listed(inputs, batch):
        if len({each.shape for each in inputs}) == 1:
            return torch.stack(list(inputs))
        found = None
    else:
        # Signals have three axes, as pictures one by one do.
        found = inputs if isinstance(inputs, Tensor) else first_view(inputs, 3 if are_flat(inputs) else 4)
    if found is None:
        raise _wrong(
            f"input_key: {_shown(input_key)} selects a {type(inputs).__name__} from the batch, expected a tensor"
            f" [N, …]; {no_tensor(inputs, batch)}",
            batch,
        )
    return found


def _any_input(batch: Any) -> Tensor:
    likely = any_picture(batch)
    try:
        usual = input_of(batch, None)
    except ProbeError:
        if likely is None:
            raise
        return likely
    return likely if likely is not None and usual.dim() < min(likely.dim(), 4) else usual


def _label_of(batch: Any, label_key: Key | None, *, required: bool) -> Any:
    """Returns the labels of a batch, or a sample's; those with a usual name where they lie among other annotations."""
    found = _item(batch, label_key, LABEL_KEYS, 1, "label_key", required=required)
    named: Any = found if isinstance(found, Mapping) else entries_of(found)
    return found if named is None else next((named[name] for name in LABEL_KEYS if name in named), found)


def _shown(key: Any) -> str:
    return f"the function {getattr(key, '__name__', key)!s:.60}" if callable(key) else f"{key!r:.120}"


def _wrong(text: str, batch: Any) -> ProbeError:
    """Returns an error with the structure of the batch, as far as there is room for it."""
    room = MOST - len(text) - len("; the batch is ")
    return ProbeError(f"{text}; the batch is {structure(batch, min(room, 240))}" if room > 20 else text)


def entry_of(batch: Any, input_key: Key | None) -> Any:
    """Returns the entry of a batch that holds the model's input: a tensor, or pictures one by one in a tuple or list.

    Raises:
        ProbeError: The key is not there.
    """
    if isinstance(batch, Tensor):
        return batch
    if input_key is not any_picture:
        return _item(batch, input_key, _INPUT_KEYS, 0, "input_key", required=True)
    usual = _item(batch, None, _INPUT_KEYS, 0, "input_key", required=False)
    return usual if is_listed(usual, batch) else _any_input(batch)


def shown_normalization(
    dataset: Any, mean: float | Sequence[float] | None, std: float | Sequence[float] | None
) -> Normalization | None:
    """Returns what to undo for display: a ``Normalize`` in the data set's transform, else the user's numbers."""
    transforms = [
        getattr(owner, name, None) for owner in nested_datasets(dataset) for name in ("transform", "transforms")
    ]
    return choose([find_normalization(transform) for transform in transforms], normalization(mean, std))


def _check_indices(indices: Sequence[int], total: int) -> None:
    wrong = [int(index) for index in indices if not 0 <= index < total]
    if wrong or len(indices) == 0:
        came = f"index {wrong[0]}" if wrong else "no index"
        raise ProbeError(f"indices: got {came}; the data set has {total} samples, give some of 0 to {total - 1}")


def _count(num_probes: int | None, total: int, *, fewer: bool) -> int:
    wanted = DEFAULT_PROBES if num_probes is None else num_probes
    count = min(wanted, total) if num_probes is None or fewer else wanted
    if not 1 <= count <= total:
        raise ProbeError(f"num_probes: got {wanted}; the data set has {total} samples, so give 1 to {total}")
    return count


def _draw(
    dataset: Any, count: int, seed: int, label_key: Key | None, classes: int | None, among: Sequence[int]
) -> list[int]:
    places = torch.randperm(len(among), generator=torch.Generator().manual_seed(seed)).numpy()
    order = places if among == range(len(among)) else np.asarray(among)[places]
    labels = find_labels(dataset, label_key)
    if labels is not None:
        return balanced(labels, order, count)
    found = looked_up(lambda index: _label(_sample(dataset, index), label_key), order, count, classes)
    return sorted(order[:count].tolist()) if found is None else balanced_of(found, count)


def _label(sample: Any, label_key: Key | None) -> Hashable | None:
    # Only a collate function may understand the sample; whether a label is missing is seen at the batch.
    known = isinstance(sample, (Mapping, list, tuple)) or entries_of(sample) is not None
    try:
        return class_in(_label_of(sample, label_key, required=False)) if known else None
    except ProbeError:  # a function of the user's own may understand batches only
        return None


def _item(batch: Any, key: Key | None, usual: tuple[str, ...], place: int, argument: str, *, required: bool) -> Any:
    if callable(key):
        try:
            return key(batch)
        except Exception as error:
            why = f"{type(error).__name__}: {error!s:.120}"
            raise _wrong(f"{argument}: {_shown(key)} fails on the batch ({why})", batch) from error
    if key is not None and not isinstance(key, int) and (found := follow(batch, key)) is not MISSING:
        return found
    named: Any = batch if isinstance(batch, Mapping) else entries_of(batch)
    if key is None and named is not None and (names := [name for name in usual if name in named]):
        return named[names[0]]
    if named is not None and not isinstance(batch, tuple):
        # A command line reads the key "0" as a number.
        own = str(key) if isinstance(key, int) and key not in named else key
        if isinstance(own, (str, int)) and own in named:
            return named[own]
        choices = [str(name) for name in named]
    elif isinstance(batch, (list, tuple)):
        position = place if key is None else key
        if isinstance(position, int) and -len(batch) <= position < len(batch):
            return batch[position]
        key, choices = position, [str(number) for number in range(len(batch))]
    else:
        raise ProbeError(f"probes: a batch is a {type(batch).__name__}, expected a tensor, a tuple or a dict")
    if not required:
        return None
    if key is None:
        raise _wrong(
            f"{argument}: none of {', '.join(usual)} is in the batch; available: {', '.join(choices)}"[:300], batch
        )
    name = str(key) if isinstance(key, (str, int)) else ".".join(map(str, key))
    raise _wrong(f"{argument}: {name!r} is not in the batch{did_you_mean(name, choices, limit=8)}", batch)


def _masks(dataset: Any, indices: Sequence[int]) -> Tensor | None:
    located = [locate(dataset, index) for index in indices]
    if not all(hasattr(base, "probe_mask") for base, _ in located):
        return None
    masks = [torch.as_tensor(base.probe_mask(index)).bool()[None] for base, index in located]
    return one_size(masks, "nearest")
