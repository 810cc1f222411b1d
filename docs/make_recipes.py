"""Makes the pictures of docs/recipes from the pages' own code; takes some minutes, needs `.[dev]`.

Small networks are trained on drawn garments; photographs are explained with the network of examples/photographs.py.

python docs/make_recipes.py [page …]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images" / "recipes"
sys.path.insert(0, str(ROOT))

from tests.recipes.pages import page, run

# No more than what makes the pictures telling.
SETTINGS = {"SOURCE": '"drawn"', "MODELS": "[]"}
LONGER = {"vit_swin": "3", "detection": "5", "segmentation": "2", "gradients": "3"}
# Page to picture: which of the files it leaves (the last one in order), and how much of its height is shown.
PICTURES: dict[str, dict[str, tuple[str, int]]] = {
    "flax": {
        "flax.png": ("out/flax/three_layers.png", 1000),
        "flax-gradients.png": ("out/flax/gradients.png", 1000),
    },
    "pytorch": {"pytorch.png": ("out/pytorch/three_layers.png", 1000)},
    "tensorflow": {"tensorflow.png": ("out/tensorflow/three_layers.png", 1000)},
    "vgg16": {"vgg16.jpg": ("out/vgg16/efficientnet_lite0.png", 1000)},
    "xception": {"xception.jpg": ("out/xception/efficientnet_lite0.png", 1000)},
    "imagenet": {
        "imagenet.jpg": ("out/imagenet/classes.png", 1000),
        "imagenet-book.jpg": ("out/imagenet/book.png", 1000),
    },
    "activations": {
        "activations.png": ("out/activations/version_0/features/sheets/network.relu3/*.png", 534),
        "activations-real.jpg": ("out/activations/real.png", 1000),
    },
    "filters": {
        "filters.png": ("out/filters/version_0/patterns/sheets/network.conv3/*.png", 1000),
        "filters-real.jpg": ("out/filters/real.png", 1000),
        "filters-normalised.jpg": ("out/filters/normalised.png", 1000),
    },
    "gradients": {"gradients.png": ("out/gradients/histograms.png", 1000)},
    "vit_swin": {"vit.png": ("out/vit_swin/vit/version_0/gradcam/sheets/*/hirescam/*.png", 846)},
    "segmentation": {"segmentation.png": ("out/segmentation/version_0/gradcam/sheets/body.7/hirescam/*.png", 702)},
    "volumes": {"volumes.png": ("out/volumes/version_0/gradcam/sheets/body.3/hirescam/*.png", 550)},
    "detection": {"detection.png": ("out/detection/version_0/gradcam/sheets/network.backbone.5/hirescam/*.png", 690)},
}


def main(names: list[str]) -> None:
    """Runs pages and keeps their pictures."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name in names:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            run(page(name), folder, settings={**SETTINGS, "EPOCHS": LONGER.get(name, "1")}, limit=3600)
            for kept, (pattern, height) in PICTURES[name].items():
                with Image.open(sorted(folder.glob(pattern))[-1]) as image:
                    shown = image.convert("RGB").crop((0, 0, image.width, min(image.height, height)))
                shown.save(IMAGES / kept, optimize=True, **({"quality": 80} if kept.endswith(".jpg") else {}))
                print(IMAGES / kept, f"{(IMAGES / kept).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:] or list(PICTURES))
