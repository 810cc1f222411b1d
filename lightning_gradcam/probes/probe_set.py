"""A run's fixed probes, with saving and loading."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_gradcam.capture.layout import input_size
from lightning_gradcam.errors import ProbeError, ProbeFileError
from lightning_gradcam.probes.boxes import check_boxes, filled
from lightning_gradcam.probes.class_names import named_classes
from lightning_gradcam.probes.display import Normalization, Pixels, to_pixels
from lightning_gradcam.probes.labels import read_labels
from lightning_gradcam.probes.view import ProbeView, rows_of, signals_of, true_classes_of
from lightning_gradcam.storage import Storage

# Attributes with one entry for each probe, besides the inputs.
_EACH = ("ids", "labels", "masks", "boxes", "display", "indices", "values")
_TYPES = {"masks": torch.bool, "boxes": torch.float32, "values": torch.float32}


@dataclass(frozen=True, eq=False)
class ProbeSet:
    """A fixed set of inputs whose maps are compared across epochs, runs and resumes.

    Attributes:
        inputs: The model's inputs ``[N, …]``, preprocessed, on the CPU.
        ids: One unique name for each probe; default: numbers from 0.
        labels: True classes, int64 ``[N]`` (several per sample: 0/1 for each class, ``[N, C]``), or ``None``. Accepts
            integers ``[N]`` or ``[N, 1]``, names from ``class_names``, or one row of 0/1 for each sample. Numbers that
            are not classes, such as 0.37, become ``values``.
        masks: Pixels that show the class, bool ``[N, H, W]``, or ``None``.
        boxes: The same regions as boxes, float32 ``[N, 4]``: left, top, right and bottom in pixels of the mask's image
            (the input's, if there are no masks); NaN for a probe without a box. ``None`` if unknown.
        class_names: Class names by index, or ``None``; also accepts ``"imagenet"``, the path to a file, or
            ``"package.module:Name"``.
        display: Images to draw on, uint8 ``[N, H, W, 3]``, or the frames of clips and volumes, uint8
            ``[N, T, H, W, 3]``; default: each input stretched between its minimum and maximum.
        display_source: How ``display`` was recovered, for the sheet's header.
        indices: The probes' indices in their data set, or ``None``.
        note: A note for every sheet's header, for instance that the data is synthetic.
        axes: The meaning of the axes of ``inputs``, if their shape is ambiguous and a model has resolved it
            (:meth:`read_as`); otherwise ``""``.
        normalized: The normalisation undone for ``display``; not saved.
        values: True values of a regression, or class proportions, float32 ``[N]`` or ``[N, K]``; ``None`` if unknown.

    Raises:
        ProbeError: Lengths differ, ids are not unique, or there are no probes.

    Example:
        >>> probes = ProbeSet(torch.rand(4, 1, 8, 8), labels=torch.tensor([0, 1, 2, 0]))
        >>> probes.ids
        ('0', '1', '2', '3')
    """

    inputs: Tensor
    ids: tuple[str, ...] = ()
    labels: Tensor | None = None
    masks: Tensor | None = None
    class_names: tuple[str, ...] | None = None
    display: Pixels | None = None
    display_source: str = ""
    indices: tuple[int, ...] | None = None
    note: str = ""
    boxes: Tensor | None = None
    values: Tensor | None = None
    axes: str = ""
    normalized: Normalization | None = None

    def __post_init__(self) -> None:
        put = partial(object.__setattr__, self)
        put("inputs", torch.as_tensor(self.inputs, device="cpu").detach())
        count = len(self.inputs)
        if count == 0:
            raise ProbeError("probes: got no inputs; pass at least one")
        put("ids", tuple(map(str, self.ids)) or tuple(map(str, range(count))))
        if self.class_names is not None:
            put("class_names", tuple(map(str, named_classes(self.class_names))))
        if self.labels is not None:
            read = read_labels(self.labels, count, self.class_names, whole=True)
            if read.remark is not None:
                other = hasattr(self.labels, "__len__") and len(self.labels) != count
                few = f"got {len(self.labels)} labels for {count} inputs; pass one for each" if other else read.remark
                raise ProbeError(f"probes: {few}")
            put("labels", read.classes)
            put("values", self.values if read.numbers is None else read.numbers)
        for name, kind in _TYPES.items():
            if (given := getattr(self, name)) is not None:
                put(name, torch.as_tensor(given, device="cpu").detach().to(kind))
        if self.masks is not None and self.masks.dim() == 2 and self.inputs.dim() < 4:
            # A signal is drawn as an image with one row.
            put("masks", self.masks[:, None])
        if self.boxes is not None:
            check_boxes(self.boxes)
        if self.indices is not None:
            put("indices", tuple(int(index) for index in self.indices))
        if self.display is None:
            pixels, source = to_pixels(self.inputs, None)
            put("display", pixels)
            put("display_source", source)
        shape = self.pixels.shape
        if self.pixels.dtype != np.uint8 or len(shape) not in (4, 5) or shape[-1] != 3 or 0 in shape[1:]:
            raise ProbeError(
                f"probes: got display pixels {self.pixels.dtype} {list(shape)}; pass uint8 [N, H, W, 3], or for clips"
                " and volumes [N, T, H, W, 3]"
            )
        for name in _EACH:
            value = getattr(self, name)
            if value is not None and len(value) != count:
                raise ProbeError(f"probes: got {len(value)} {name} for {count} inputs; pass one for each")
        if len(set(self.ids)) != count:
            twice = Counter(self.ids).most_common(1)[0][0]
            raise ProbeError(f"probes: the id {twice!r} is used more than once; use a different id for each probe")
        # Not lazily: the first use is in the background, where nothing may call torch.
        put("_view", self._viewed())

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"ProbeSet({len(self)} inputs {list(self.inputs.shape[1:])}, fingerprint {self.fingerprint[:12]})"

    @property
    def pixels(self) -> Pixels:
        """The images to draw on, uint8 ``[N, H, W, 3]``, or ``[N, T, H, W, 3]`` for clips and volumes."""
        assert self.display is not None
        return self.display

    @property
    def view(self) -> ProbeView:
        """The data that drawing needs, in NumPy only; arrays share memory with the tensors."""
        view: ProbeView = self._view  # type: ignore[attr-defined]
        return view

    def _viewed(self) -> ProbeView:
        masks = self.masks.numpy() if self.masks is not None and self.masks.dim() == 3 else None
        size = input_size(self.inputs) if self.inputs.dim() >= 4 else None
        shape = self.pixels.shape[-3:-1] if size is None else size[-2:]
        return ProbeView(
            ids=self.ids,
            pixels=self.pixels,
            true=true_classes_of(self.labels),
            masks=masks,
            boxes=None if self.boxes is None else self.boxes.numpy(),
            size=(int(shape[0]), int(shape[1])) if masks is None else (masks.shape[1], masks.shape[2]),
            class_names=self.class_names,
            note=self.note,
            display_source=self.display_source,
            signals=signals_of(self.inputs, self.axes),
            values=None if self.values is None else self.values.numpy(),
        )

    def read_as(self, axes: str) -> ProbeSet:
        """Returns the probes with their axes interpreted as the model interprets them; frames are drawn accordingly.

        Args:
            axes: ``"NTCHW"`` or ``"NTHW"`` for frames, ``"NCL"``, ``"NLC"`` or ``"NL"`` for signals; ``""`` if the
                model does not reveal them, which changes nothing.
        """
        if not axes or axes == self.axes:
            return self
        display, source = self.display, self.display_source
        # Display images from the user have no source and are kept.
        if axes in ("NTCHW", "NTHW") and source:
            frames = self.inputs.movedim(1, 2) if axes == "NTCHW" else self.inputs[:, None]
            known = self.normalized
            fits = known is not None and len(known.mean) in (1, frames.shape[1])
            display, source = to_pixels(frames, known if fits else None)
        return replace(self, axes=axes, display=display, display_source=source)

    @cached_property
    def regions(self) -> npt.NDArray[np.bool_] | None:
        """Pixels that show the class, bool ``[N, H, W]``: the masks, or else the filled boxes; ``None`` if unknown."""
        if self.masks is not None:
            return self.view.masks
        return None if self.view.boxes is None else filled(self.view.boxes, self.view.size)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the inputs' type, shape and bytes, in hexadecimal; equal only if the inputs are equal."""
        head = f"{self.inputs.dtype} {list(self.inputs.shape)} ".encode()
        return hashlib.sha256(head + raw(self.inputs).tobytes()).hexdigest()

    def class_name(self, index: int) -> str:
        """Returns the class's name, or its index as text if it has none."""
        return self.view.class_name(index)

    def part(self, rows: Sequence[int]) -> ProbeSet:
        """Returns the probes at these indices."""
        return replace(self, **{name: rows_of(getattr(self, name), rows) for name in ("inputs", *_EACH)})

    @classmethod
    def from_dataset(cls, dataset: Any, num_probes: int | None = None, **options: Any) -> ProbeSet:
        """Draws probes from a map-style data set by index; see :func:`~lightning_gradcam.probes.dataset.draw_probes`.

        Args:
            dataset: The data set; ``Subset``, ``random_split`` and ``ConcatDataset`` are searched for labels,
                class names and the transform.
            num_probes: Number of probes, class-balanced if labels exist; default: 8, or all samples if there are fewer.
            **options: ``indices`` and ``collate_fn``, and these options of the callback: ``seed``, ``input_key``,
                ``label_key``, ``class_names``, ``mean``, ``std``.

        Example:
            >>> from torch.utils.data import TensorDataset
            >>> data = TensorDataset(torch.rand(20, 1, 8, 8), torch.arange(20) % 4)
            >>> ProbeSet.from_dataset(data, 4, seed=1).labels
            tensor([0, 1, 2, 3])
        """
        from lightning_gradcam.probes.dataset import draw_probes

        return draw_probes(dataset, num_probes, **options).probes

    @classmethod
    def from_folder(
        cls,
        path: str | os.PathLike[str],
        *,
        transform: Callable[[Any], Tensor] | None = None,
        size: int | Sequence[int] | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        mode: str = "RGB",
        class_names: Sequence[str] | str | None = None,
    ) -> ProbeSet:
        """Reads every image in a folder and its sub-folders, sorted by name.

        Args:
            path: The folder. Images in a sub-folder get its name as their true class.
            transform: Function from a PIL image to the model's input ``[C, H, W]``, such as the validation data set's
                transform. ``size`` is then ignored, and ``mean`` and ``std`` are only used to undo it for display.
            size: Height and width to resize to, or one number for both.
            mean: Mean to subtract after scaling to 0…1, one value for each channel or one for all.
            std: Standard deviation to divide by afterwards, in the same form.
            mode: The PIL mode in which to open the images: ``"RGB"`` or ``"L"``.
            class_names: The model's classes in order, in any form that :class:`ProbeSet` accepts; sub-folders are then
                looked up here instead of being numbered by their sorted names.

        Returns:
            The probes; ids are paths relative to ``path``.

        Raises:
            ProbeError: The folder does not exist or contains no images, an image is unreadable, images differ in size,
                a sub-folder is not in ``class_names``, or the transform does not accept PIL images or return tensors.
        """
        from lightning_gradcam.probes.folder import Preparation, read_folder

        resized = size if transform is None else None
        return read_folder(path, Preparation(transform, resized, mean, std, mode, named_classes(class_names)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes everything to one file (a NumPy ``.npz``, no pickle); an existing file is replaced atomically."""
        folder, name = os.path.split(os.fspath(path))
        Storage(folder or ".").write(name, self.to_bytes())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ProbeSet:
        """Reads the output of :meth:`save`.

        Raises:
            ProbeFileError: The file is missing, truncated, of a different schema, or not a probe set.
        """
        folder, name = os.path.split(os.fspath(path))
        try:
            data = Storage(folder or ".").read(name)
        except OSError as error:
            raise ProbeFileError(f"probes: {str(path)!r} can't be read ({error.strerror}); check the path") from error
        return cls.from_bytes(data, name=str(path))

    def to_bytes(self) -> bytes:
        """Returns the content of the file that :meth:`save` writes."""
        from lightning_gradcam.probes.file import to_bytes

        return to_bytes(self)

    @classmethod
    def from_bytes(cls, data: bytes, *, name: str = "probe set") -> ProbeSet:
        """Reads the output of :meth:`to_bytes`; errors refer to it by ``name``.

        Raises:
            ProbeFileError: As for :meth:`load`.
        """
        from lightning_gradcam.probes.file import from_bytes

        return from_bytes(data, name)


def raw(inputs: Tensor) -> npt.NDArray[Any]:
    """Returns inputs as an array; bfloat16, which NumPy lacks, is stored bit by bit as int16."""
    plain = inputs.contiguous()
    return (plain.view(torch.int16) if plain.dtype == torch.bfloat16 else plain).numpy()
