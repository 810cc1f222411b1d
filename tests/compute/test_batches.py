"""Many samples are explained in parts, with the same maps, in bounded memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_gradcam import ConfigurationError, ProbeSet, TargetError, available_methods, compute_cams
from lightning_gradcam.capture.inputs import Inputs
from lightning_gradcam.compute.batches import explain_in_parts
from lightning_gradcam.compute.callers import Request
from lightning_gradcam.guard.model import preserved
from lightning_gradcam.methods import resolve_methods
from lightning_gradcam.probes.batches import part_of
from lightning_gradcam.targets import Given, resolve_targets


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(1, 5, 3, padding=1), nn.ReLU(), nn.Linear(5, 4)
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return self.head(self.relu(self.conv(x)).mean((2, 3)))


def net() -> Net:
    torch.manual_seed(0)
    return Net().double()


def pictures(count: int = 7) -> Tensor:
    return torch.rand(count, 1, 7, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


TARGETS: list[Any] = [
    "predicted",
    "label",
    2,
    {"per_probe": [0, 1, 2, 3, 0, 1, 2]},
    {"top": 2},
    {"contrast": ["predicted", "label"]},
]


@pytest.mark.parametrize("method", [name for name in available_methods() if name != "legrad"])
@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_parts_give_the_maps_of_the_whole(method: str, size: int) -> None:
    labels = torch.tensor([3, 2, 1, 0, 3, 2, 1])
    targets = TARGETS[:5] if method in ("cam", "finercam") else TARGETS
    whole = compute_cams(net(), pictures(), "relu", targets=targets, methods=method, labels=labels, relu=False)
    parts = compute_cams(
        net(), pictures(), "relu", targets=targets, methods=method, labels=labels, relu=False, batch_size=size
    )
    assert list(parts) == list(whole)
    for key, maps in whole.items():
        torch.testing.assert_close(parts[key], maps, rtol=0, atol=1e-12)
    for name, scores in whole.scores.items():
        torch.testing.assert_close(parts.scores[name], scores, rtol=0, atol=1e-12)
        assert torch.equal(parts.classes[name], whole.classes[name])
    torch.testing.assert_close(parts.output, whole.output, rtol=0, atol=1e-12)
    for name in ("predicted", "confidence", "likeliest", "likeliest_confidence"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=0, atol=1e-12)


def test_parts_are_as_even_as_they_can_be() -> None:
    model = net()
    x, sizes = pictures(), []
    compute_cams(model, x, "relu", batch_size=5, forward=lambda part: sizes.append(len(part)) or model(part))
    assert sizes == [4, 3]


def test_a_reference_probe_is_found_in_whichever_part_it_stands() -> None:
    for reference in (0, 5):
        whole = compute_cams(net(), pictures(), "relu", targets={"similar_to": reference}, relu=False)
        parts = compute_cams(net(), pictures(), "relu", targets={"similar_to": reference}, relu=False, batch_size=3)
        torch.testing.assert_close(parts["relu"], whole["relu"], rtol=0, atol=1e-12)


def test_masks_and_boxes_go_with_their_samples() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.conv(x).relu())

    torch.manual_seed(0)
    model, masks = Dense().double(), torch.rand(7, 7, 30) > 0.5
    options: dict[str, Any] = {"targets": [{"segment_mask": 1}, {"segment": "predicted"}], "masks": masks}
    whole = compute_cams(model, pictures(), "conv", relu=False, **options)
    parts = compute_cams(model, pictures(), "conv", relu=False, batch_size=2, **options)
    for key, maps in whole.items():
        torch.testing.assert_close(parts[key], maps, rtol=0, atol=1e-12)


def test_what_does_not_fit_all_samples_is_refused() -> None:
    with pytest.raises(TargetError, match="'per_probe' has 3 indices for 7 probes"):
        compute_cams(net(), pictures(), "relu", targets={"per_probe": [0, 1, 2]}, batch_size=3)
    with pytest.raises(TargetError, match="asks for probe 7 of 7"):
        compute_cams(net(), pictures(), "relu", targets={"similar_to": 7}, batch_size=3)
    for wrong in (0, -1, 2.0, "8"):
        with pytest.raises(ConfigurationError, match="batch_size: got"):
            compute_cams(net(), pictures(), "relu", batch_size=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error", [torch.cuda.OutOfMemoryError("CUDA out of memory"), RuntimeError("[enforce fail] can't allocate memory")]
)
def test_where_memory_does_not_suffice_half_as_many_are_tried(error: Exception) -> None:
    """The error is a made-up one; what follows it is not."""
    model, tried = net(), []

    def forward(x: Tensor) -> Tensor:
        tried.append(len(x))
        if len(x) > 2:
            raise error
        return model(x)

    expected = compute_cams(model, pictures(), "relu", relu=False)
    found = compute_cams(model, pictures(), "relu", relu=False, forward=forward)
    assert tried == [7, 4, 2, 2, 2, 1]
    torch.testing.assert_close(found["relu"], expected["relu"], rtol=0, atol=1e-12)

    def never(x: Tensor) -> Tensor:
        raise error

    with pytest.raises(type(error), match="memory"):
        compute_cams(model, pictures(), "relu", forward=never)


class Synchronizing(TorchDispatchMode):
    """Notes what would make the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "item", "_to_copy"):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("gradients", [False, True])
def test_nothing_waits_for_the_device_once_the_plan_is_tried(gradients: bool) -> None:
    model = net()
    asked = Request(
        resolve_targets(["predicted", {"top": 2}]),
        resolve_methods(["gradcam", "layercam"]),
        {},
        model,
        relu=False,
        batch_size=4,
        check=False,
        keep_output=False,
        gradients=gradients,
    )
    x = pictures()
    with preserved(model), Synchronizing() as synchronizing:
        explain_in_parts(model, ["conv", "relu"], Inputs(x).part, Given(len(x)), asked)
    assert synchronizing.found == []


def test_a_batch_is_taken_apart_wherever_its_samples_stand() -> None:
    x, y = torch.arange(3), torch.arange(6).reshape(3, 2)
    batch = {"x": x, "pair": (x, y), "names": ["a", "b", "c"], "scale": 2.0, "boxes": [torch.rand(2, 4)] * 3}
    found = part_of(batch, 1, 3, 3)
    assert found["x"].tolist() == [1, 2]
    assert [entry.tolist() for entry in found["pair"]] == [[1, 2], [[2, 3], [4, 5]]]
    assert found["names"] == ["b", "c"]
    assert found["scale"] == 2.0
    assert len(found["boxes"]) == 2
    two = part_of((torch.rand(2, 1), torch.tensor([0, 1])), 0, 1, 2)
    assert [len(entry) for entry in two] == [1, 1]


def test_a_probe_set_of_any_size_is_explained_in_parts_by_the_callback(tmp_path: Any) -> None:
    import pytorch_lightning as pl

    from lightning_gradcam import GradCAMCallback
    from tests.conftest import TinyModule, loaders, trainer

    archives = []
    for size in (3, 100):
        pl.seed_everything(0)
        inputs = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(3))
        probes = ProbeSet(inputs, labels=torch.arange(10) % 5)
        callback = GradCAMCallback(
            "net.relu2", probes=probes, targets=["predicted", "label"], batch_size=size, on_error="raise"
        )
        trainer(tmp_path / str(size), callbacks=callback).fit(TinyModule(), *loaders())
        archives.append(callback.archive)
    for target in ("predicted", "label"):
        few, all_ = (archive.maps("net.relu2", target=target, relu=False) for archive in archives)
        assert few.shape == (2, 10, 6, 6)
        assert abs(few - all_).max() < 1e-3 * abs(all_).max()
