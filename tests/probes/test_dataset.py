"""Tests of drawing probes from data sets of many kinds."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    ConcatDataset,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    default_collate,
    random_split,
)

from lightning_gradcam import ProbeError, ProbeSet
from lightning_gradcam.probes.dataset import draw_probes
from lightning_gradcam.probes.entries import input_of, split_batch
from lightning_gradcam.probes.samplers import LOOKED_AT, UnindexedError
from lightning_gradcam.probes.wrapped import find_class_names, find_labels
from tests.conftest import tiny_data

CLASSES = ("ant", "bee", "cat", "dog")


class Normalize:
    """Stands for torchvision's, by name."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        self.mean, self.std = mean, std

    def __call__(self, picture: Tensor) -> Tensor:
        return (picture - self.mean[0]) / self.std[0]


class ToTensor:
    """Stands for torchvision's, by name."""


class Counted(Dataset[Any]):
    """Pictures whose first pixel is their index; counts how often one is decoded."""

    decoded: ClassVar[list[int]] = []

    def __init__(self, count: int = 60, form: str = "tuple") -> None:
        self.form = form
        # On the class: what the data set itself holds is restored after the draw.
        type(self).decoded = []
        self._count = count

    def __len__(self) -> int:
        return self._count

    def label(self, index: int) -> int:
        return index % len(CLASSES)

    def picture(self, index: int) -> Tensor:
        picture = torch.zeros(1, 4, 4)
        picture[0, 0, 0] = index
        return picture

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self._count:
            raise IndexError(index)
        self.decoded.append(index)
        picture, label = self.picture(index), self.label(index)
        return {
            "tuple": (picture, label),
            "dict": {"image": picture, "label": label, "name": f"n{index}"},
            "odd dict": {"scan": picture, "finding": label, "weight": 0.5},
            "triple": (f"n{index}", picture, torch.tensor(label)),
            "tensor": picture,
            "array": picture.numpy(),
            "lone": (picture,),
        }[self.form]


class Labelled(Counted):
    """Also tells its labels, names, transform, masks and a note without decoding."""

    classes = CLASSES
    probe_note = "drawn by a program"

    def __init__(self, count: int = 60, attribute: str = "targets") -> None:
        super().__init__(count)
        self.transform = Normalize([0.25], [0.5])
        setattr(self, attribute, [self.label(index) for index in range(count)])

    def probe_mask(self, index: int) -> Tensor:
        mask = torch.zeros(4, 4)
        mask[index % 4, index % 3] = 1
        return mask


class Wrapper(Dataset[Any]):
    """A user's own wrapper: nothing but `dataset`, a length and items."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]


def drawn_indices(dataset: Any, count: int, **options: Any) -> tuple[int, ...]:
    probes = draw_probes(dataset, count, **options).probes
    assert probes.indices is not None
    return probes.indices


@pytest.mark.parametrize("count", [1, 3, 4, 6, 8, 11])
@pytest.mark.parametrize(
    "make", [Labelled, Counted, lambda: tiny_data(60)], ids=["labels known", "labels in items only", "tensors"]
)
def test_classes_are_balanced_within_one(make: Callable[[], Any], count: int) -> None:
    probes = draw_probes(make(), count, seed=3).probes
    assert probes.labels is not None
    total = 5 if isinstance(make(), TensorDataset) else 4
    counts = Counter(probes.labels.tolist())
    assert sum(counts.values()) == count
    assert max(counts.values()) - min([*counts.values(), *[0] * (total - len(counts))]) <= 1


def test_rare_class_is_taken_as_far_as_it_goes() -> None:
    data = TensorDataset(torch.rand(20, 1, 4, 4), torch.tensor([1] * 18 + [0] * 2))
    probes = draw_probes(data, 8).probes
    assert Counter(probes.labels.tolist()) == {1: 6, 0: 2}  # type: ignore[union-attr]


def test_probes_are_sorted_by_class_then_index() -> None:
    probes = draw_probes(Labelled(), 9, seed=1).probes
    assert probes.labels is not None
    assert probes.indices is not None
    order = list(zip(probes.labels.tolist(), probes.indices, strict=True))
    assert order == sorted(order)


def test_same_seed_gives_same_probes_and_other_seeds_others() -> None:
    draws = [drawn_indices(Labelled(400), 8, seed=seed) for seed in (0, 0, 1, 2)]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 3


def test_global_seed_has_no_influence() -> None:
    torch.manual_seed(1)
    first = drawn_indices(Labelled(), 8)
    torch.manual_seed(2)
    assert drawn_indices(Labelled(), 8) == first


def test_probes_are_the_samples_at_their_indices() -> None:
    probes = draw_probes(Labelled(), 8).probes
    assert probes.indices is not None
    assert probes.inputs[:, 0, 0, 0].tolist() == list(probes.indices)
    assert probes.labels is not None
    assert probes.labels.tolist() == [index % 4 for index in probes.indices]
    assert probes.ids == tuple(map(str, probes.indices))


def test_batch_is_the_collated_samples() -> None:
    drawn = draw_probes(Counted(form="dict"), 4)
    assert list(drawn.batch) == ["image", "label", "name"]
    assert torch.equal(drawn.batch["image"], drawn.probes.inputs)
    assert drawn.batch["name"] == [f"n{index}" for index in drawn.probes.indices or ()]


def test_explicit_indices_are_taken_in_their_order() -> None:
    data = Labelled()
    probes = draw_probes(data, 2, indices=[7, 3, 50]).probes
    assert probes.indices == (7, 3, 50)
    assert data.decoded == [7, 3, 50]


def test_explicit_index_beyond_the_end_is_refused_with_the_length() -> None:
    with pytest.raises(
        ProbeError, match="indices: got index 60; the data set has 60 samples, so pass indices from 0 to 59"
    ):
        draw_probes(Labelled(60), indices=[3, 60])


def test_explicit_indices_may_be_an_array() -> None:
    assert drawn_indices(Labelled(), 2, indices=np.array([7, 3])) == (7, 3)


def test_empty_indices_are_refused() -> None:
    with pytest.raises(ProbeError, match="indices|no inputs"):
        draw_probes(Labelled(), indices=[])


@pytest.mark.parametrize("count", [0, -1, 61])
def test_impossible_number_of_probes_is_refused_with_the_range(count: int) -> None:
    with pytest.raises(ProbeError, match=f"num_probes: got {count}; the data set has 60 samples, so pass 1 to 60"):
        draw_probes(Labelled(60), count)


def test_all_samples_can_be_probes() -> None:
    assert sorted(drawn_indices(Labelled(12), 12)) == list(range(12))


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield torch.zeros(1, 4, 4), 0


class LongStream(Stream):
    def __len__(self) -> int:
        return 10


@pytest.mark.parametrize("data", [Stream(), LongStream(), object()], ids=lambda data: type(data).__name__)
def test_data_without_indices_is_refused_with_what_to_give(data: Any) -> None:
    with pytest.raises(
        ProbeError, match=f"probes: {type(data).__name__} can't be indexed.*ProbeSet.*saved probe set.*folder of images"
    ):
        draw_probes(data, 4)


# ---- what a data set and its wrappers tell


def wrappings() -> list[tuple[str, Any]]:
    data = Labelled()
    return [
        ("plain", data),
        ("Subset", Subset(data, list(range(59, 9, -1)))),
        ("random_split", random_split(data, [40, 20], torch.Generator().manual_seed(0))[0]),
        ("ConcatDataset", ConcatDataset([Labelled(20), Labelled(40)])),
        ("wrapper", Wrapper(data)),
        ("wrapper in Subset in Concat", ConcatDataset([Subset(Wrapper(data), range(5, 45)), Labelled(20)])),
        ("Subset of Subset", Subset(Subset(data, range(1, 60)), range(1, 50, 3))),
    ]


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in wrappings()])
def test_everything_is_found_through_wrappers(data: Any) -> None:
    probes = draw_probes(data, 8, seed=4).probes
    assert probes.class_names == CLASSES
    assert probes.note == "drawn by a program"
    assert probes.display_source == "Normalize undone"
    assert probes.labels is not None
    assert Counter(probes.labels.tolist()) == dict.fromkeys(range(4), 2)
    assert probes.masks is not None
    origin = probes.inputs[:, 0, 0, 0].long().tolist()  # the index in the innermost data set
    for mask, index in zip(probes.masks, origin, strict=True):
        assert mask.nonzero().tolist() == [[index % 4, index % 3]]
    assert probes.indices is not None
    assert all(data[i][0][0, 0, 0] == index for i, index in zip(probes.indices, origin, strict=True))


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in wrappings()])
def test_labels_agree_with_the_items_through_wrappers(data: Any) -> None:
    labels = find_labels(data)
    assert labels is not None
    assert labels.tolist() == [data[index][1] for index in range(len(data))]


@pytest.mark.parametrize("attribute", ["targets", "labels", "_labels"])
@pytest.mark.parametrize("form", [list, tuple, np.array, torch.tensor], ids=lambda form: form.__name__)
def test_labels_are_read_from_attributes_of_any_form(attribute: str, form: Callable[[Any], Any]) -> None:
    data = Counted(8)
    setattr(data, attribute, form([3, 1, 0, 2, 3, 1, 0, 2]))
    labels = find_labels(data)
    assert labels is not None
    assert labels.tolist() == [3, 1, 0, 2, 3, 1, 0, 2]


def test_labels_are_read_from_image_folder_samples() -> None:
    data = Counted(3)
    data.samples = [("a.png", 2), ("b.png", 0), ("c.png", 1)]  # type: ignore[attr-defined]
    assert find_labels(data).tolist() == [2, 0, 1]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "targets",
    [[0.5] * 60, [[1, 2], [3]] * 30, torch.zeros(60, 2, dtype=torch.int64), ["a"] * 60, [1] * 59, None, lambda: None],
    ids=["floats", "ragged", "two columns", "texts", "too few", "none", "a function"],
)
def test_attributes_that_are_no_labels_are_passed_over(targets: Any) -> None:
    data = Counted(60)
    data.targets = targets  # type: ignore[attr-defined]
    assert find_labels(data) is None
    assert Counter(draw_probes(data, 8).probes.labels.tolist()) == dict.fromkeys(range(4), 2)  # type: ignore[union-attr]


def test_wrapper_of_another_length_does_not_lend_its_labels() -> None:
    class Doubled(Wrapper):
        def __len__(self) -> int:
            return 2 * len(self.dataset)

        def __getitem__(self, index: int) -> Any:
            return self.dataset[index // 2]

    assert find_labels(Doubled(Labelled())) is None


def test_class_names_are_taken_from_either_attribute() -> None:
    data = Counted()
    assert find_class_names(data) is None
    data.class_names = ("x", "y")  # type: ignore[attr-defined]
    assert find_class_names(data) == ("x", "y")
    data.classes = [0, 1]  # type: ignore[attr-defined]
    assert find_class_names(Wrapper(data)) == ("x", "y")


def test_masks_are_left_out_where_one_part_has_none() -> None:
    assert draw_probes(ConcatDataset([Labelled(20), Counted(20)]), 40).probes.masks is None


def test_masks_belong_to_their_samples_at_the_seams_of_a_concatenation() -> None:
    data = ConcatDataset([Labelled(5), Labelled(2), Labelled(9)])
    probes = draw_probes(data, indices=[0, 4, 5, 6, 7, 8, 15]).probes
    assert probes.masks is not None
    assert [mask.nonzero().tolist() for mask in probes.masks] == [[[i % 4, i % 3]] for i in (0, 4, 0, 1, 0, 1, 8)]


# ---- how much is decoded


@pytest.mark.parametrize("attribute", ["targets", "labels"])
def test_known_labels_mean_that_only_the_chosen_are_decoded(attribute: str) -> None:
    data = Labelled(5000, attribute)
    indices = drawn_indices(Subset(data, range(4000)), 8)
    assert sorted(data.decoded) == sorted(indices)


@pytest.mark.parametrize(("form", "most"), [("tuple", LOOKED_AT), ("dict", LOOKED_AT), ("tensor", 1)])
def test_unknown_labels_decode_a_bounded_pool(form: str, most: int) -> None:
    data = Counted(5000, form)
    draw_probes(data, 6)
    assert len(data.decoded) <= most + 6


# ---- forms of samples


@pytest.mark.parametrize(
    ("form", "input_key", "label_key"),
    [
        ("tuple", None, None),
        ("dict", None, None),
        ("dict", "image", "label"),
        ("odd dict", "scan", "finding"),
        ("triple", 1, 2),
        ("triple", -2, -1),
    ],
)
def test_input_and_label_are_found(form: str, input_key: Any, label_key: Any) -> None:
    probes = draw_probes(Counted(form=form), 8, input_key=input_key, label_key=label_key).probes
    assert probes.indices is not None
    assert probes.inputs[:, 0, 0, 0].tolist() == list(probes.indices)
    assert probes.labels is not None
    assert probes.labels.tolist() == [index % 4 for index in probes.indices]
    assert Counter(probes.labels.tolist()) == dict.fromkeys(range(4), 2)


@pytest.mark.parametrize("form", ["tensor", "lone"])
def test_samples_without_label_give_probes_without(form: str) -> None:
    probes = draw_probes(Counted(form=form), 8).probes
    assert probes.labels is None
    assert len(set(probes.indices or ())) == 8
    assert list(probes.indices or ()) == sorted(probes.indices or ())


def test_bare_arrays_are_pictures() -> None:
    assert draw_probes(Counted(form="array"), 4).probes.labels is None


def test_dict_without_a_usual_label_gives_none() -> None:
    probes = draw_probes(Counted(form="odd dict"), 8, input_key="scan").probes
    assert probes.labels is None


@pytest.mark.parametrize("name", ["image", "pixel_values", "x", "img", "inputs"])
@pytest.mark.parametrize("label", ["label", "labels", "target", "y"])
def test_usual_names_are_guessed(name: str, label: str) -> None:
    inputs, labels = split_batch({"other": 0, label: torch.tensor([3]), name: torch.ones(1, 2)}, None, None)
    assert torch.equal(inputs, torch.ones(1, 2))
    assert labels is not None
    assert labels.tolist() == [3]


def test_labels_that_are_no_class_indices_are_left_out() -> None:
    data = TensorDataset(torch.rand(8, 1, 4, 4), torch.rand(8, 3))
    assert draw_probes(data, 4).probes.labels is None
    assert draw_probes(TensorDataset(torch.rand(8, 1, 4, 4), torch.rand(8)), 4).probes.labels is None


@pytest.mark.parametrize(
    ("form", "options", "text"),
    [
        (
            "dict",
            {"input_key": "imag"},
            "input_key: 'imag' is not in the batch; did you mean 'image'.*image, label, name",
        ),
        ("dict", {"label_key": "labl"}, "label_key: 'labl' is not in the batch; did you mean 'label'"),
        ("tuple", {"input_key": 5}, "input_key: '5' is not in the batch; available: 0, 1"),
        ("tuple", {"input_key": "image"}, "input_key: 'image' is not in the batch; available: 0, 1"),
        ("tuple", {"label_key": 2}, "label_key: '2' is not in the batch; available: 0, 1"),
        ("dict", {"input_key": "name"}, "input_key: 'name' selects a list from the batch, expected a tensor"),
        ("triple", {}, "input_key: None selects a (tuple|list) from the batch, expected a tensor"),
    ],
)
def test_wrong_key_is_refused_with_what_there_is(form: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ProbeError, match=text):
        draw_probes(Counted(form=form), 4, **options)


def test_dict_without_a_usual_input_is_refused_with_its_keys() -> None:
    with pytest.raises(ProbeError, match="input_key: .* in the batch.*available: scan, finding, weight"):
        draw_probes(Counted(form="odd dict"), 4)


def test_no_key_is_suggested_where_none_was_given() -> None:
    with pytest.raises(ProbeError) as caught:
        draw_probes(Counted(form="odd dict"), 4)
    assert "did you mean" not in str(caught.value)


def test_batch_that_is_no_container_is_refused() -> None:
    with pytest.raises(ProbeError, match="a batch is a str, expected a tensor, a tuple or a dict"):
        input_of("picture", None)


def test_own_collate_function_is_used() -> None:
    def collate(samples: list[Any]) -> dict[str, Any]:
        return {
            "pixel_values": torch.stack([s[0] for s in samples]) * 2,
            "labels": torch.tensor([s[1] for s in samples]),
        }

    probes = draw_probes(Counted(), 4, collate_fn=collate).probes
    assert probes.inputs[:, 0, 0, 0].tolist() == [2.0 * index for index in probes.indices or ()]
    assert sorted(probes.labels.tolist()) == [0, 1, 2, 3]  # type: ignore[union-attr]


def test_samples_that_a_collate_function_sorts_keep_their_indices() -> None:
    def collate(samples: list[Any]) -> Any:
        return default_collate(sorted(samples, key=lambda sample: -float(sample[0].sum())))

    probes = draw_probes(Counted(), 4, collate_fn=collate).probes
    assert probes.inputs[:, 0, 0, 0].tolist() == [*(probes.indices or ())]
    assert probes.ids == tuple(map(str, probes.indices or ()))
    assert [*(probes.indices or ())] == sorted(probes.indices or (), reverse=True)


def test_label_key_names_the_batch_after_an_own_collate_function() -> None:
    def collate(samples: list[Any]) -> dict[str, Any]:
        return {
            "pixel_values": torch.stack([s["image"] for s in samples]),
            "labels": torch.tensor([s["label"] for s in samples]),
        }

    probes = draw_probes(Counted(form="dict"), 4, label_key="labels", collate_fn=collate).probes
    assert probes.labels is not None


def test_samples_of_an_own_class_are_left_to_the_collate_function() -> None:
    class Sample:
        def __init__(self, picture: Tensor) -> None:
            self.picture = picture

    data = [Sample(torch.zeros(1, 4, 4)) for _ in range(6)]
    probes = draw_probes(data, 2, collate_fn=lambda samples: torch.stack([s.picture for s in samples])).probes
    assert len(probes) == 2


def test_probes_do_not_share_memory_with_the_batch() -> None:
    drawn = draw_probes(Counted(), 4)
    drawn.batch[0].zero_()
    assert drawn.probes.inputs[:, 0, 0, 0].tolist() == list(drawn.probes.indices or ())


# ---- display


@pytest.mark.parametrize(
    ("transform", "given", "source", "value"),
    [
        (Normalize([0.25], [0.5]), (0.1, 0.2), "Normalize undone", 0.5 * 0.5 + 0.25),
        (ToTensor(), (0.1, 0.2), "mean and std as given", 0.5 * 0.2 + 0.1),
        (None, (0.1, 0.2), "mean and std as given", 0.5 * 0.2 + 0.1),
        (ToTensor(), (None, None), "as loaded", 0.5),
        (None, (None, None), "each image min-max stretched", 1.0),
    ],
    ids=["Normalize wins", "then the user's", "the user's alone", "then as loaded", "then min-max"],
)
def test_display_precedence(transform: Any, given: tuple[Any, Any], source: str, value: float) -> None:
    inputs = torch.zeros(4, 1, 4, 4)
    inputs[:, :, 1, 2] = 0.5
    data = TensorDataset(inputs)
    data.transform = transform  # type: ignore[attr-defined]
    probes = draw_probes(Wrapper(data), 2, mean=given[0], std=given[1]).probes
    assert probes.display_source == source
    assert probes.pixels[0, 1, 2].tolist() == [round(value * 255)] * 3


# ---- random numbers


class Restless(Counted):
    """Augments at random from every source there is."""

    def __init__(self) -> None:
        super().__init__(40)
        self.generator = torch.Generator().manual_seed(5)
        self.numpy = np.random.default_rng(5)
        self.legacy = np.random.RandomState(5)
        self.python = random.Random(5)

    def __getitem__(self, index: int) -> Any:
        noise = random.random() + np.random.rand() + torch.rand(1).item()
        noise += torch.rand(1, generator=self.generator).item() + self.numpy.random()
        noise += self.legacy.rand() + self.python.random()
        return self.picture(index) + noise, self.label(index)


def states(data: Restless) -> list[Any]:
    return [
        random.getstate(),
        np.random.get_state()[1].tolist(),  # type: ignore[union-attr,index]
        np.random.get_state()[2],  # type: ignore[index]
        torch.get_rng_state().tolist(),
        data.generator.get_state().tolist(),
        data.numpy.bit_generator.state,
        data.legacy.get_state()[1].tolist(),  # type: ignore[union-attr,index]
        data.legacy.get_state()[2],  # type: ignore[index]
        data.python.getstate(),
    ]


@pytest.mark.parametrize("wrap", [lambda data: data, Wrapper, lambda data: Subset(data, range(30))])
def test_no_random_number_generator_is_moved(wrap: Callable[[Any], Any]) -> None:
    data = Restless()
    before = states(data)
    first = draw_probes(wrap(data), 4).probes
    assert states(data) == before
    assert draw_probes(wrap(data), 4).probes.fingerprint == first.fingerprint
    data[0]
    assert states(data) != before


def test_random_number_generators_are_restored_after_an_error() -> None:
    data = Restless()
    before = states(data)
    with pytest.raises(ProbeError, match="input_key"):
        draw_probes(data, 4, input_key="picture")
    assert states(data) == before


def test_from_dataset_is_the_same_draw() -> None:
    assert ProbeSet.from_dataset(Labelled(), 5, seed=2).indices == drawn_indices(Labelled(), 5, seed=2)


class Clips(Labelled):
    """Clips [C, T, H, W] whose frames brighten; the transform normalises them."""

    def __init__(self) -> None:
        super().__init__(12)
        self.transform = Normalize([0.5], [0.25])

    def picture(self, index: int) -> Tensor:
        return self.transform(torch.linspace(0, 1, 4)[None, :, None, None].expand(3, 4, 6, 5))


def test_clips_are_drawn_with_their_frames() -> None:
    probes = draw_probes(Clips(), 4).probes
    assert probes.inputs.shape == (4, 3, 4, 6, 5)
    assert probes.pixels.shape == (4, 4, 6, 5, 3)
    assert probes.pixels[0, :, 0, 0, 0].tolist() == [0, 85, 170, 255]
    assert probes.display_source == "Normalize undone"
    assert probes.labels is not None
    assert probes.labels.tolist() == [0, 1, 2, 3]


def test_clips_of_a_tensor_data_set_are_stretched() -> None:
    data = TensorDataset(torch.rand(8, 1, 3, 6, 5), torch.arange(8) % 2)
    probes = draw_probes(data, 4, seed=1).probes
    assert probes.pixels.shape == (4, 3, 6, 5, 3)
    assert probes.pixels.reshape(4, -1).max(1).tolist() == [255] * 4
    assert probes.display_source == "each clip or volume min-max stretched"


class Reversed(Wrapper):
    """A user's wrapper that moves the samples."""

    def __getitem__(self, index: int) -> Any:
        return self.dataset[len(self.dataset) - 1 - index]


@pytest.mark.parametrize("split", [lambda data: data, lambda data: Subset(data, [*range(7, 50)])])
@pytest.mark.parametrize("wrapper", [Wrapper, Reversed])
def test_the_masks_of_samples_that_a_wrapper_moved_are_not_used(split: Any, wrapper: type[Wrapper]) -> None:
    inner = Labelled()
    data = split(wrapper(inner))
    drawn = draw_probes(data, 6)
    assert "__getitem__" not in vars(Labelled)
    if wrapper is Wrapper:
        base = [index + (7 if isinstance(data, Subset) else 0) for index in drawn.probes.indices or ()]
        assert drawn.probes.masks is not None
        assert torch.equal(drawn.probes.masks, torch.stack([inner.probe_mask(index).bool() for index in base]))
    else:
        assert drawn.probes.masks is None
        assert "probe_mask: the masks of Labelled are not used, because sample" in (drawn.remark or "")


@pytest.mark.parametrize("number", [int, lambda label: 3 - label])
def test_samples_that_a_collate_function_changes_and_sorts_lose_their_indices(number: Callable[[int], int]) -> None:
    def changed(samples: list[Any]) -> Any:
        pictures, labels = zip(*samples, strict=True)
        return torch.stack(pictures) / 2 + 1, torch.tensor([number(label) for label in labels])

    def sorted_too(samples: list[Any]) -> Any:
        return changed(sorted(samples, key=lambda sample: -float(sample[0].mean())))

    data = Labelled()
    drawn = draw_probes(data, 6, collate_fn=changed).probes
    assert drawn.indices == drawn_indices(data, 6)
    with pytest.raises(UnindexedError, match="collate_fn changes the images and rearranges the samples"):
        draw_probes(data, 6, collate_fn=sorted_too)
