"""Over a hundred model definitions of other packages, built small and without trained weights."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Definition:
    """One model: the package it is from, its name there, what it is built with, and the size of one input."""

    package: str
    name: str
    options: tuple[tuple[str, Any], ...] = ()
    size: tuple[int, ...] = (3, 64, 64)

    def __str__(self) -> str:
        return f"{self.package}:{self.name}"

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        options = dict(self.options)
        if self.package == "torchvision":
            owner: Any = importlib.import_module("torchvision.models")
            *folders, name = self.name.split(".")
            for folder in folders:
                owner = getattr(owner, folder)
            return getattr(owner, name)(**options)
        if self.package == "timm":
            return importlib.import_module("timm").create_model(self.name, pretrained=False, **options)
        owner = importlib.import_module("transformers")
        config = re.sub(r"(LMHeadModel|EncoderModel|VisionModel|Model)$", "", self.name)
        config += "VisionConfig" if self.name.endswith("VisionModel") else "Config"
        return getattr(owner, self.name)(getattr(owner, config)(**options))

    def example(self) -> Tensor:
        if self.package == "transformers" and self.size == (TOKENS,):
            return torch.randint(10, 40, (2, TOKENS))
        return torch.randn(2, *self.size)


TOKENS = 6
IMAGE = (3, 224, 224)
VIDEO = (3, 4, 32, 32)


def _tv(names: str, size: tuple[int, ...] = (3, 64, 64), **options: Any) -> list[Definition]:
    return [Definition("torchvision", name, tuple(options.items()), size) for name in names.split()]


def _timm(names: str, size: tuple[int, ...] = (3, 64, 64), **options: Any) -> list[Definition]:
    return [Definition("timm", name, tuple(options.items()), size) for name in names.split()]


def _hf(names: str, size: tuple[int, ...] = (TOKENS,), **options: Any) -> list[Definition]:
    return [Definition("transformers", name, tuple(options.items()), size) for name in names.split()]


HEADS = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
TEXT = {**HEADS, "vocab_size": 50, "max_position_embeddings": 32, "pad_token_id": 0}
PATCHES = {**HEADS, "image_size": 32, "patch_size": 8}
PICTURE = (3, 32, 32)
STAGES = {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 2, 1, 1]}

TORCHVISION = [
    *_tv("resnet18 resnet34 resnet50 resnet101 wide_resnet50_2 resnext50_32x4d convnext_tiny convnext_small"),
    *_tv("regnet_x_400mf regnet_x_800mf regnet_y_400mf regnet_y_800mf regnet_x_1_6gf mobilenet_v2"),
    *_tv("mobilenet_v3_small mobilenet_v3_large mnasnet0_5 mnasnet1_0 efficientnet_b0 efficientnet_b1"),
    *_tv("efficientnet_v2_s swin_t swin_v2_t densenet121 vgg11 vgg11_bn alexnet squeezenet1_1 shufflenet_v2_x0_5"),
    *_tv("inception_v3 googlenet", size=(3, 96, 96), init_weights=False, aux_logits=True),
    *_tv("VisionTransformer", image_size=64, patch_size=16, num_layers=3, num_heads=2, hidden_dim=32, mlp_dim=64),
    *_tv(
        "MaxVit",
        input_size=(64, 64),
        stem_channels=16,
        partition_size=2,
        block_channels=[16, 32],
        block_layers=[1, 2],
        head_dim=8,
        stochastic_depth_prob=0.0,
    ),
    *_tv("segmentation.fcn_resnet50 segmentation.deeplabv3_resnet50", weights_backbone=None),
    *_tv("segmentation.lraspp_mobilenet_v3_large", weights_backbone=None),
    *_tv("video.r3d_18 video.mc3_18 video.r2plus1d_18", size=VIDEO),
]
TIMM = [
    *_timm("resnet18 resnet26 resnet26d resnet26t resnet50d resnext50_32x4d seresnet18 ecaresnet26t skresnet18"),
    *_timm("resnetblur18 resnest14d resnetv2_50 legacy_seresnet18 gernet_s repvgg_a0 regnetx_002 regnety_002"),
    *_timm("efficientnet_lite0 efficientnet_b0 tf_efficientnet_b0 tf_efficientnetv2_b0 mobilenetv2_050"),
    *_timm("mobilenetv3_small_050 mobilenetv4_conv_small mnasnet_small fbnetc_100 spnasnet_100 hardcorenas_a"),
    *_timm("tinynet_e rexnet_100 ghostnet_050 convnext_atto convnextv2_atto inception_next_atto starnet_s1"),
    *_timm("poolformer_s12 poolformerv2_s12 pvt_v2_b0 densenet121 ese_vovnet19b_dw nf_regnet_b0 vgg11"),
    *_timm("focalnet_tiny_srf convmixer_768_32 caformer_s18 convformer_s18"),
    *_timm("vit_tiny_patch16_224 deit_tiny_patch16_224 deit3_small_patch16_224", img_size=64, depth=4),
    *_timm("beit_base_patch16_224", img_size=64, depth=2),
    *_timm("eva02_tiny_patch14_224", size=(3, 56, 56), img_size=56, depth=2),
    *_timm("cait_xxs24_224", img_size=64, depth=4),
    *_timm("mixer_s16_224 resmlp_12_224 gmlp_ti16_224", img_size=64),
    *_timm("swin_tiny_patch4_window7_224 swinv2_tiny_window8_256", img_size=64, window_size=2, depths=(1, 1, 2, 1)),
    *_timm("twins_svt_small", size=(3, 224, 224)),
]
TRANSFORMERS = [
    *_hf("GPT2LMHeadModel GPT2Model", n_layer=2, n_embd=32, n_head=4, vocab_size=50, n_positions=16),
    *_hf(
        "GPTNeoModel",
        num_layers=2,
        hidden_size=32,
        num_heads=4,
        vocab_size=50,
        max_position_embeddings=32,
        attention_types=[[["global", "local"], 1]],
    ),
    *_hf("GPTJModel", n_layer=2, n_embd=32, n_head=4, vocab_size=50, n_positions=16, rotary_dim=4),
    *_hf("BloomModel", n_layer=2, hidden_size=32, n_head=4, vocab_size=50),
    *_hf(
        "OPTModel",
        num_hidden_layers=2,
        hidden_size=32,
        ffn_dim=64,
        num_attention_heads=4,
        vocab_size=50,
        word_embed_proj_dim=32,
        max_position_embeddings=32,
    ),
    *_hf("GPTNeoXModel LlamaModel OlmoModel Olmo2Model", **TEXT),
    *_hf("MistralModel Qwen2Model Qwen3Model StableLmModel", **TEXT, num_key_value_heads=2),
    *_hf("GemmaModel Gemma2Model", **TEXT, head_dim=8, num_key_value_heads=2),
    *_hf("PhiModel CohereModel Starcoder2Model GraniteModel", **TEXT),
    *_hf(
        "BertModel RobertaModel XLMRobertaModel ElectraModel CamembertModel ErnieModel MPNetModel DebertaModel", **TEXT
    ),
    *_hf("DistilBertModel", n_layers=2, dim=32, n_heads=4, hidden_dim=64, vocab_size=50, max_position_embeddings=32),
    *_hf("T5EncoderModel", num_layers=2, d_model=32, d_kv=8, d_ff=64, num_heads=4, vocab_size=50),
    *_hf("ViTModel DeiTModel Dinov2Model BeitModel CLIPVisionModel SiglipVisionModel", PICTURE, **PATCHES),
    *_hf("ConvNextModel ConvNextV2Model RegNetModel", PICTURE, **STAGES),
    *_hf("ResNetModel", PICTURE, **STAGES, embedding_size=8, layer_type="basic"),
    *_hf(
        "SwinModel", PICTURE, image_size=32, patch_size=2, embed_dim=8, depths=[1, 2], num_heads=[2, 4], window_size=2
    ),
    *_hf(
        "SegformerModel",
        PICTURE,
        hidden_sizes=[8, 16, 16, 16],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 2, 2],
        decoder_hidden_size=16,
    ),
    *_hf("PoolFormerModel", PICTURE, hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1]),
    *_hf("MobileNetV2Model", PICTURE, depth_multiplier=0.35),
    *_hf(
        "Wav2Vec2Model HubertModel",
        (800,),
        **HEADS,
        vocab_size=30,
        conv_dim=(8, 8),
        conv_stride=(5, 4),
        conv_kernel=(10, 4),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        num_feat_extract_layers=2,
    ),
]
DEFINITIONS = [*TORCHVISION, *TIMM, *TRANSFORMERS]
