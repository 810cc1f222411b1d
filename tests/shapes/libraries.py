"""Small models of Hugging Face, timm and MONAI, where these are installed; none of them downloads anything."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

from tests.shapes.case import COVERS_MOST, FIRST, VOLUME, Places, covering_most, folded, numbers, shape, tokens, words

BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def picture() -> Tensor:
    return numbers(2, 3, 64, 64)


def logits() -> dict[str, Any]:
    return {"output_key": "logits"}


def of(library: str, name: str, inputs: Callable[[], Any], right: dict[str, Places], **options: Any) -> Any:
    """Puts a model into the sweep where its library is installed."""
    if find_spec(library) is None:
        return lambda make: make
    return shape(name, inputs, right, **options)


def hugging_face(model: str, config: str, **values: Any) -> nn.Module:
    import transformers

    made: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**values, attn_implementation="eager"))
    return made


HF = "transformers"


@of(HF, "HF ViT", picture, {"vit.*.1.layernorm_before": tokens(4, 4, before=1)}, options=logits)
def hf_vit() -> nn.Module:
    return hugging_face("ViTForImageClassification", "ViTConfig", image_size=64, patch_size=16, num_labels=4, **BERT)


LAST_STAGE = {"swin*": tokens(8, 8)}


@of(HF, "HF Swin", picture, LAST_STAGE, options=logits)
def hf_swin() -> nn.Module:
    sizes = {"image_size": 64, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
    return hugging_face("SwinForImageClassification", "SwinConfig", num_labels=4, **sizes)


@of(
    HF,
    "HF SegFormer",
    picture,
    {"decode_head.*": FIRST},
    target=COVERS_MOST,
    score=covering_most,
    options=logits,
)
def hf_segformer() -> nn.Module:
    sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "num_attention_heads": [1, 1, 2, 2]}
    return hugging_face(
        "SegformerForSemanticSegmentation", "SegformerConfig", decoder_hidden_size=16, num_labels=3, **sizes
    )


def own_pair(output: Tensor) -> Tensor:
    return output.diagonal()


def image_and_words() -> dict[str, Tensor]:
    ids = words(2, 16)
    ids[:, -1] = 19
    return {"pixel_values": picture(), "input_ids": ids}


@of(
    HF,
    "HF CLIP",
    image_and_words,
    {"vision_model.*.1.layer_norm1": tokens(4, 4, before=1)},
    target=own_pair,
    options=lambda: {"output_key": "logits_per_image"},
)
def hf_clip() -> nn.Module:
    text = {**BERT, "vocab_size": 20, "max_position_embeddings": 16, "eos_token_id": 19, "bos_token_id": 18}
    vision = {**BERT, "image_size": 64, "patch_size": 16}
    return hugging_face("CLIPModel", "CLIPConfig", text_config=text, vision_config=vision, projection_dim=12)


def best_query(output: Tensor) -> Tensor:
    return output[..., :-1].flatten(1).amax(1)


@of(
    HF,
    "HF YOLOS, detection tokens after the grid",
    picture,
    {"vit.*.1.layernorm_before": tokens(4, 4, before=1, behind=10)},
    target=best_query,
    options=logits,
)
def hf_yolos() -> nn.Module:
    sizes = {"image_size": [64, 64], "patch_size": 16, "num_detection_tokens": 10, "num_labels": 3}
    return hugging_face("YolosForObjectDetection", "YolosConfig", use_mid_position_embeddings=False, **sizes, **BERT)


@of(
    HF,
    "HF DETR",
    picture,
    {"model.backbone*": FIRST, "model.input_projection": FIRST, "model.encoder*": tokens(8, 8)},
    target=best_query,
    options=logits,
)
def hf_detr() -> nn.Module:
    import transformers

    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    layers = {"encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes = {"d_model": 16, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "num_queries": 16, "num_labels": 3}
    plain = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
    return hugging_face("DetrForObjectDetection", "DetrConfig", backbone_config=backbone, **layers, **sizes, **plain)


def next_words(output: Tensor) -> Tensor:
    return output.amax(2).sum(1)


@of(
    HF,
    "HF BLIP, captioning",
    lambda: {"pixel_values": picture(), "input_ids": words(2, 16)},
    {"vision_model*": tokens(4, 4, before=1)},
    target=next_words,
    options=logits,
)
def hf_blip() -> nn.Module:
    text = {**BERT, "vocab_size": 20, "max_position_embeddings": 16, "encoder_hidden_size": 16, "bos_token_id": 18}
    vision = {**BERT, "image_size": 64, "patch_size": 16}
    return hugging_face("BlipForConditionalGeneration", "BlipConfig", text_config=text, vision_config=vision)


def frames() -> Tensor:
    """[N, T, C, H, W], as Hugging Face's video models take them."""
    return numbers(2, 4, 3, 32, 32)


VIDEO = {"image_size": 32, "patch_size": 8, "num_labels": 4}


@of(HF, "HF VideoMAE", frames, {"videomae*": tokens(2, 4, 4), "fc_norm": tokens(2, 4, 4)}, options=logits)
def hf_videomae() -> nn.Module:
    return hugging_face(
        "VideoMAEForVideoClassification", "VideoMAEConfig", num_frames=4, tubelet_size=2, **VIDEO, **BERT
    )


@of(HF, "HF ViViT", frames, {"vivit*.1.layernorm_before": tokens(2, 4, 4, before=1)}, options=logits)
def hf_vivit() -> nn.Module:
    sizes = {**VIDEO, "num_frames": 4, "tubelet_size": [2, 8, 8]}
    del sizes["patch_size"]
    return hugging_face("VivitForVideoClassification", "VivitConfig", **sizes, **BERT)


@of(
    HF,
    "HF TimeSformer, patches first, then frames",
    frames,
    {
        "timesformer.encoder*": Places("", lambda a: a[:, -64:].mT.reshape(2, -1, 4, 4, 4).permute(0, 1, 4, 2, 3)),
        # The last one whose tokens stand frame by frame.
        "timesformer.embeddings.patch_embeddings": folded(4, tokens(4, 4)),
        "timesformer.embeddings.patch_embeddings.projection": folded(4),
    },
    options=logits,
    error=("layout",),
)
def hf_timesformer() -> nn.Module:
    return hugging_face("TimesformerForVideoClassification", "TimesformerConfig", num_frames=4, **VIDEO, **BERT)


@of(
    HF,
    "HF spectrogram transformer",
    lambda: numbers(2, 64, 32),
    {"audio_spectrogram_transformer*": Places("", lambda a: a[:, 2:].mT.reshape(2, 16, 2, -1))},
    options=logits,
)
def hf_ast() -> nn.Module:
    """Its input is [N, time, frequency], its patches' grid frequency by time: the transformer turns the picture."""
    sizes = {"max_length": 64, "num_mel_bins": 32, "patch_size": 16, "time_stride": 8, "frequency_stride": 16}
    return hugging_face("ASTForAudioClassification", "ASTConfig", num_labels=4, **sizes, **BERT)


def timm_model(name: str, **options: Any) -> nn.Module:
    import timm

    made: nn.Module = timm.create_model(name, num_classes=4, img_size=64, **options)
    return made


SMALL = {"embed_dim": 16, "depth": 2, "num_heads": 2}


@of(
    "timm", "timm ViT with four registers", picture, {"blocks*": tokens(4, 4, before=5), "norm": tokens(4, 4, before=5)}
)
def timm_registers() -> nn.Module:
    return timm_model("vit_tiny_patch16_224", reg_tokens=4, global_pool="avg", **SMALL)


@of("timm", "timm Swin with two stages", picture, {"norm": Places("NHWC", lambda a: a.movedim(-1, 1))})
def timm_swin() -> nn.Module:
    return timm_model("swin_tiny_patch4_window7_224", embed_dim=8, depths=(1, 1), num_heads=(2, 2), window_size=4)


def volume() -> Tensor:
    return numbers(1, 1, 32, 32, 32)


def monai(name: str, *sizes: Any, **options: Any) -> nn.Module:
    """A network of MONAI, whose import changes the environment of the process."""
    before = dict(os.environ)
    try:
        made: nn.Module = getattr(import_module("monai.networks.nets"), name)(*sizes, **options)
    finally:
        os.environ.clear()
        os.environ.update(before)
    return made


@of(
    "monai",
    "MONAI 3-D DenseNet",
    lambda: numbers(2, 1, 32, 32, 32),
    {"features*": VOLUME, "class_layers.relu": VOLUME},
)
def monai_densenet() -> nn.Module:
    return monai("DenseNet", 3, 1, 4, init_features=8, growth_rate=4, block_config=(2, 2))


@of(
    "monai",
    "MONAI 3-D U-Net",
    volume,
    {"model.2.0": VOLUME, "model.[01]*": VOLUME},
    target=COVERS_MOST,
    score=covering_most,
)
def monai_unet() -> nn.Module:
    return monai("UNet", 3, 1, 3, channels=(4, 8, 16), strides=(2, 2))


@of("monai", "MONAI UNETR", volume, {"decoder2*": VOLUME}, target=COVERS_MOST, score=covering_most)
def monai_unetr() -> nn.Module:
    return monai("UNETR", 1, 3, (32, 32, 32), feature_size=4, hidden_size=16, mlp_dim=24, num_heads=2)
