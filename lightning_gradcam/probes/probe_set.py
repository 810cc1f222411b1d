"""The fixed probes of a run, and their file."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_gradcam.capture.layout import input_size
from lightning_gradcam.errors import ProbeError, ProbeFileError
from lightning_gradcam.npz import checked, is_whole, read_npz, room, text, texts
from lightning_gradcam.probes.boxes import check_boxes, filled
from lightning_gradcam.probes.class_names import named_classes
from lightning_gradcam.probes.display import Normalization, Pixels, to_pixels
from lightning_gradcam.probes.labels import read_labels
from lightning_gradcam.probes.view import ProbeView, true_classes_of
from lightning_gradcam.storage import Storage

SCHEMA = 1
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)
_DTYPES = {str(dtype): dtype for dtype in (*_FLOATS, *_INTEGERS)}


@dataclass(frozen=True, eq=False)
class ProbeSet:
    """A fixed set of inputs whose maps are compared over epochs, runs and resumes.

    Attributes:
        inputs: ``[N, …]``, preprocessed as for the model, on the CPU.
        ids: One unique name for each probe; counted from 0 where not given.
        labels: True classes, int64 ``[N]`` (several a sample: 0 and 1 for each class, ``[N, C]``), or ``None``. Given
            as whole numbers, ``[N]`` or ``[N, 1]``, as names among ``class_names``, or as a row of 0 and 1 a sample.
            Numbers that are no classes, such as 0.37, become ``values``.
        masks: Where the telling parts are, bool ``[N, H, W]``, or ``None``.
        boxes: Likewise as boxes, float32 ``[N, 4]``: left, top, right and bottom in pixels of the mask's picture (where
            there are no masks, of the input); NaN for a probe without one. ``None``: none is known.
        class_names: Names of the classes by index, or ``None``; ``"imagenet"`` or a file's path are read.
        display: Pictures to draw on, uint8 ``[N, H, W, 3]``, or the frames of clips and volumes, uint8
            ``[N, T, H, W, 3]``; each input min-max stretched where not given.
        display_source: How ``display`` was recovered, for the sheet's header.
        indices: Where the probes stand in the data set they were drawn from, or ``None``.
        note: A remark for every sheet's header, for instance that the data is drawn.
        axes: What the axes of ``inputs`` mean where their shape does not tell and a model has shown it
            (:meth:`read_as`); else ``""``.
        normalized: What ``display`` was recovered with; not saved.
        values: True numbers of a regression, or shares of classes, float32 ``[N]`` or ``[N, K]``; ``None``: none known.

    Raises:
        ProbeError: Lengths differ, ids are not unique, or there is no probe.

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
        put = object.__setattr__
        put(self, "inputs", torch.as_tensor(self.inputs).detach().cpu())
        count = len(self.inputs)
        if count == 0:
            raise ProbeError("probes: got no inputs; give at least one")
        put(self, "ids", tuple(map(str, self.ids)) or tuple(map(str, range(count))))
        if self.class_names is not None:
            put(self, "class_names", tuple(map(str, named_classes(self.class_names))))
        if self.labels is not None:
            read = read_labels(self.labels, count, self.class_names, whole=True)
            if read.remark is not None:
                other = hasattr(self.labels, "__len__") and len(self.labels) != count
                few = f"got {len(self.labels)} labels for {count} inputs; give one for each" if other else read.remark
                raise ProbeError(f"probes: {few}")
            put(self, "labels", read.classes)
            put(self, "values", self.values if read.numbers is None else read.numbers)
        if self.values is not None:
            put(self, "values", torch.as_tensor(self.values).detach().cpu().float())
        if self.masks is not None:
            masks = torch.as_tensor(self.masks).detach().cpu().bool()
            # A stretch of a signal is a picture of one row.
            put(self, "masks", masks[:, None] if masks.dim() == 2 and self.inputs.dim() < 4 else masks)
        if self.boxes is not None:
            put(self, "boxes", torch.as_tensor(self.boxes).detach().cpu().float())
            check_boxes(self.boxes)
        if self.indices is not None:
            put(self, "indices", tuple(int(index) for index in self.indices))
        if self.display is None:
            pixels, source = to_pixels(self.inputs, None)
            put(self, "display", pixels)
            put(self, "display_source", source)
        shape = self.pixels.shape
        if self.pixels.dtype != np.uint8 or len(shape) not in (4, 5) or shape[-1] != 3 or 0 in shape[1:]:
            raise ProbeError(
                f"probes: got display pixels {self.pixels.dtype} {list(shape)}; give uint8 [N, H, W, 3], or for clips"
                " and volumes [N, T, H, W, 3]"
            )
        for name in ("ids", "labels", "masks", "boxes", "display", "indices", "values"):
            value = getattr(self, name)
            if value is not None and len(value) != count:
                raise ProbeError(f"probes: got {len(value)} {name} for {count} inputs; give one for each")
        if len(set(self.ids)) != count:
            twice = Counter(self.ids).most_common(1)[0][0]
            raise ProbeError(f"probes: the id {twice!r} stands more than once; give each probe an id of its own")
        # Not at the first use, which is in the background: nothing there touches torch.
        put(self, "_view", self._viewed())

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"ProbeSet({len(self)} inputs {list(self.inputs.shape[1:])}, fingerprint {self.fingerprint[:12]})"

    @property
    def pixels(self) -> Pixels:
        """The pictures to draw on, uint8 ``[N, H, W, 3]``, or ``[N, T, H, W, 3]`` for clips and volumes."""
        assert self.display is not None
        return self.display

    @property
    def view(self) -> ProbeView:
        """What drawing needs, in NumPy alone; arrays share their memory with the tensors."""
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
            signals=self._signals(),
        )

    def _signals(self) -> npt.NDArray[np.float32] | None:
        if self.inputs.dim() not in (2, 3) or not self.inputs.is_floating_point():
            return None
        numbers = self.inputs.float()
        whole = numbers[:, None] if numbers.dim() == 2 else numbers.transpose(1, 2) if self.axes == "NLC" else numbers
        signals: npt.NDArray[np.float32] = whole.numpy()
        return signals

    def read_as(self, axes: str) -> ProbeSet:
        """Returns the probes with what a model has shown of their axes; frames are drawn accordingly.

        Args:
            axes: ``"NTCHW"`` or ``"NTHW"`` for frames, ``"NCL"``, ``"NLC"`` or ``"NL"`` for signals; ``""``: nothing
                was shown, and nothing changes.
        """
        if not axes or axes == self.axes:
            return self
        display, source = self.display, self.display_source
        # Pictures of the user's own have no source, and stay.
        if axes in ("NTCHW", "NTHW") and source:
            frames = self.inputs.movedim(1, 2) if axes == "NTCHW" else self.inputs[:, None]
            known = self.normalized
            fits = known is not None and len(known.mean) in (1, frames.shape[1])
            display, source = to_pixels(frames, known if fits else None)
        return replace(self, axes=axes, display=display, display_source=source)

    @cached_property
    def regions(self) -> npt.NDArray[np.bool_] | None:
        """Where the telling parts are, bool ``[N, H, W]``: the masks, or else the boxes filled; ``None``: not known."""
        if self.masks is not None:
            return self.view.masks
        return None if self.view.boxes is None else filled(self.view.boxes, self.view.size)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the inputs' type, shape and bytes, in hexadecimal: equal only where the inputs are equal."""
        head = f"{self.inputs.dtype} {list(self.inputs.shape)} ".encode()
        return hashlib.sha256(head + _raw(self.inputs).tobytes()).hexdigest()

    def class_name(self, index: int) -> str:
        """Returns the class's name, or its index as text where it has none."""
        return self.view.class_name(index)

    def part(self, rows: Sequence[int]) -> ProbeSet:
        """Returns some of the probes, at these places."""
        chosen = list(rows)

        def of(values: Any) -> Any:
            return None if values is None else values[chosen]

        return replace(
            self,
            inputs=self.inputs[chosen],
            ids=tuple(self.ids[row] for row in chosen),
            labels=of(self.labels),
            masks=of(self.masks),
            boxes=of(self.boxes),
            display=of(self.display),
            indices=None if self.indices is None else tuple(self.indices[row] for row in chosen),
            values=of(self.values),
        )

    @classmethod
    def from_dataset(cls, dataset: Any, num_probes: int | None = None, **options: Any) -> ProbeSet:
        """Draws probes from a map-style data set by index; see :func:`~lightning_gradcam.probes.dataset.draw_probes`.

        Args:
            dataset: The data set; ``Subset``, ``random_split`` and ``ConcatDataset`` are looked through for labels,
                class names and the transform.
            num_probes: How many, class-balanced where labels exist; default: 8, or all where there are fewer.
            **options: ``seed``, ``indices``, ``input_key``, ``label_key``, ``class_names``, ``mean``, ``std``,
                ``collate_fn``.

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
        """Reads every picture in a folder; sub-folders, where there are any, are classes.

        See :func:`lightning_gradcam.probes.folder.read_folder`.
        """
        from lightning_gradcam.probes.folder import read_folder

        return read_folder(path, transform=transform, size=size, mean=mean, std=std, mode=mode, class_names=class_names)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes everything to one file (a NumPy ``.npz``, no pickle); an existing file is replaced whole or not."""
        folder, name = os.path.split(os.fspath(path))
        Storage(folder or ".").write(name, self.to_bytes())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ProbeSet:
        """Reads what :meth:`save` wrote.

        Raises:
            ProbeFileError: The file is missing, truncated, of another schema, or no probe set.
        """
        folder, name = os.path.split(os.fspath(path))
        try:
            data = Storage(folder or ".").read(name)
        except OSError as error:
            raise ProbeFileError(f"probes: {str(path)!r} can't be read ({error.strerror}); check the path") from error
        return cls.from_bytes(data, name=str(path))

    def to_bytes(self) -> bytes:
        """Returns the content of the file that :meth:`save` writes."""
        meta = {
            "schema": SCHEMA,
            "dtype": str(self.inputs.dtype),
            "ids": self.ids,
            "class_names": self.class_names,
            "display_source": self.display_source,
            "note": self.note,
            "fingerprint": self.fingerprint,
            "axes": self.axes,
        }
        arrays = {"inputs": _raw(self.inputs), "display": self.pixels}
        if self.labels is not None:
            arrays["labels"] = self.labels.numpy()
        if self.masks is not None:
            arrays["masks"] = self.masks.numpy()
        if self.boxes is not None:
            arrays["boxes"] = self.boxes.numpy()
        if self.values is not None:
            arrays["values"] = self.values.numpy()
        if self.indices is not None:
            arrays["indices"] = np.array(self.indices, np.int64)
        buffer = io.BytesIO()
        encoded = np.frombuffer(json.dumps(meta).encode(), np.uint8)
        np.savez_compressed(buffer, meta=encoded, **arrays)
        if room(buffer.tell()) < sum(array.nbytes for array in arrays.values()) + 2**16:
            # So flat that a reader would have to take it for a zip bomb.
            buffer = io.BytesIO()
            np.savez(buffer, meta=encoded, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, *, name: str = "probe set") -> ProbeSet:
        """Reads what :meth:`to_bytes` gave; ``name`` is what errors call it.

        Raises:
            ProbeFileError: As :meth:`load`.
        """
        try:
            file, meta = read_npz(data)
            if not is_whole(meta["schema"]) or meta["schema"] != SCHEMA:
                raise ProbeFileError(
                    f"probes: {name!r} has schema {meta['schema']!r:.40}, this version reads {SCHEMA}; save the probes"
                    " again with this version, or install the version that wrote them"
                )
            labels = checked(file["labels"], "labels", "int64", (1, 2)) if "labels" in file else None
            masks = checked(file["masks"], "masks", "bool", (2, 3, 4)) if "masks" in file else None
            boxes = checked(file["boxes"], "boxes", "float32", (2,)) if "boxes" in file else None
            values = checked(file["values"], "values", "float32", (1, 2)) if "values" in file else None
            indices = checked(file["indices"], "indices", "int64", (1,)) if "indices" in file else None
            inputs, dtype = torch.from_numpy(file["inputs"]), _DTYPES[text(meta, "dtype")]
            if inputs.dtype != (torch.int16 if dtype == torch.bfloat16 else dtype):
                raise TypeError(f"its inputs are {inputs.dtype}, and stated to be {dtype}")
            probes = cls(
                inputs=inputs.view(dtype),
                ids=texts(meta, "ids"),
                labels=None if labels is None else torch.from_numpy(labels),
                masks=None if masks is None else torch.from_numpy(masks),
                boxes=None if boxes is None else torch.from_numpy(boxes),
                class_names=None if meta["class_names"] is None else texts(meta, "class_names"),
                display=file["display"],
                display_source=text(meta, "display_source"),
                indices=None if indices is None else tuple(indices.tolist()),
                note=text(meta, "note"),
                values=None if values is None else torch.from_numpy(values),
                axes=text(meta, "axes") if "axes" in meta else "",
            )
            intact = probes.fingerprint == text(meta, "fingerprint")
        except ProbeFileError:
            raise
        except Exception as error:  # broken bytes raise from many depths of zip, zlib, NumPy and JSON
            raise ProbeFileError(
                f"probes: {name!r} is truncated or no probe set ({type(error).__name__}: {error!s:.200}); save the"
                " probes again, or leave probes= out to have them drawn"
            ) from error
        if not intact:
            raise ProbeFileError(f"probes: {name!r} is damaged: its inputs do not have the fingerprint it states")
        return probes


def _raw(inputs: Tensor) -> Any:
    # NumPy has no bfloat16: its bits travel as int16, and the true type's name beside them.
    plain = inputs.contiguous()
    return (plain.view(torch.int16) if plain.dtype == torch.bfloat16 else plain).numpy()
