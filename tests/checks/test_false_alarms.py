"""False alarms: Grad-CAM that is right by a known place, called anything but sound. Counted in `.ci/nightly`."""

from __future__ import annotations

import pytest

from lightning_gradcam import check_maps
from tests.checks.planted import shapes, trained

# The last layer before the pooling of each network.
BEFORE_POOLING = {"pooled": "9", "strided": "5", "residual": "5"}


@pytest.mark.nightly
@pytest.mark.parametrize("kind", BEFORE_POOLING)
def test_at_most_one_of_twenty_is_not_sound(kind: str) -> None:
    model, accuracy = trained(0, kind)
    assert accuracy > 0.9
    layer, found = BEFORE_POOLING[kind], []
    for draw in range(20):
        pictures, _, masks = shapes(8, 7000 + draw)
        row = check_maps(model, pictures, layer, masks=masks, seed=draw).verdicts[layer, "gradcam"]
        if row.figures["energy_inside"] >= 2 * row.figures["object_area"]:
            found.append(row.verdict)
    assert len(found) >= 10
    assert sum(verdict != "sound" for verdict in found) <= 1, found
