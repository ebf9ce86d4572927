"""What is true of a model definition, counted from its module tree: residual sums, projections, layers of branches.

A rule says of one class of modules how many residual sums its forward makes, read in the source of its package.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

Part = str | tuple[str, ...]


@dataclass(frozen=True)
class Rule:
    """adds: residual sums of a module; when: the attribute that says whether there is one; shortcut: the skip's member;
    projection: whether the skip has weights, where that is not its member's to say.

    parts: the members that make up each branch; with a single sum all members but the shortcut do.
    """

    adds: int = 1
    when: str | Callable[[nn.Module], bool] | None = None
    shortcut: str | None = None
    projection: Callable[[nn.Module], bool] | None = None
    parts: tuple[Part, ...] = ()
    concat: bool = False
    paths: bool = True

    def holds(self, module: nn.Module) -> bool:
        if self.when is None:
            return True
        return bool(getattr(module, self.when)) if isinstance(self.when, str) else self.when(module)

    def projects(self, module: nn.Module) -> bool:
        if self.projection is not None:
            return self.projection(module)
        found = getattr(module, self.shortcut, None) if self.shortcut else None
        return isinstance(found, nn.Module) and bool(weight_layers(found, ""))


def two(*parts: Part) -> Rule:
    return Rule(adds=len(parts), parts=parts)


def count(adds: int) -> Rule:
    return Rule(adds=adds, paths=False)


def weight_layers(module: nn.Module, prefix: str) -> list[str]:
    """The names of all convolutions and linear layers in a module, attention's fused input projection included."""
    names = []
    for path, inner in module.named_modules(prefix=prefix):
        if isinstance(inner, nn.MultiheadAttention) and inner.in_proj_weight is not None:
            names.append(f"{path}.in_proj_weight")
        kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
        if isinstance(inner, kinds) or type(inner).__name__ == "Conv1D":
            names.append(path)
    return names


BLOCK = two("attn", "mlp")
HAS_SKIP = Rule(when="has_skip")
RES_CONNECT = Rule(when="use_res_connect")
LLAMA = two("self_attn", "mlp")
OPT = two("self_attn", ("fc1", "fc2"))
BERT = two("attention", ("intermediate", "output"))

RULES: dict[str, Rule] = {
    # torchvision
    "torchvision.models.resnet.BasicBlock": Rule(shortcut="downsample"),
    "torchvision.models.resnet.Bottleneck": Rule(shortcut="downsample"),
    "torchvision.models.video.resnet.BasicBlock": Rule(shortcut="downsample"),
    "torchvision.models.video.resnet.Bottleneck": Rule(shortcut="downsample"),
    "torchvision.models.regnet.ResBottleneckBlock": Rule(shortcut="proj"),
    "torchvision.models.mobilenetv2.InvertedResidual": RES_CONNECT,
    "torchvision.models.mobilenetv3.InvertedResidual": RES_CONNECT,
    "torchvision.models.efficientnet.MBConv": RES_CONNECT,
    "torchvision.models.efficientnet.FusedMBConv": RES_CONNECT,
    "torchvision.models.mnasnet._InvertedResidual": Rule(when="apply_residual"),
    "torchvision.models.convnext.CNBlock": Rule(),
    "torchvision.models.vision_transformer.EncoderBlock": two("self_attention", "mlp"),
    "torchvision.models.swin_transformer.SwinTransformerBlock": BLOCK,
    "torchvision.models.swin_transformer.SwinTransformerBlockV2": count(2),
    "torchvision.models.maxvit.MBConv": Rule(shortcut="proj"),
    "torchvision.models.maxvit.PartitionAttentionLayer": two("attn_layer", "mlp_layer"),
    "torchvision.models.densenet._DenseLayer": Rule(concat=True, paths=False),
    # timm
    "timm.models.resnet.BasicBlock": Rule(shortcut="downsample"),
    "timm.models.resnet.Bottleneck": Rule(shortcut="downsample"),
    "timm.models.regnet.Bottleneck": Rule(shortcut="downsample"),
    "timm.models.resnest.ResNestBottleneck": Rule(shortcut="downsample"),
    "timm.models.sknet.SelectiveKernelBasic": Rule(shortcut="downsample"),
    "timm.models.sknet.SelectiveKernelBottleneck": Rule(shortcut="downsample"),
    "timm.models.resnetv2.PreActBottleneck": Rule(shortcut="downsample"),
    "timm.models.resnetv2.PreActBasic": Rule(shortcut="downsample"),
    "timm.models.resnetv2.Bottleneck": Rule(shortcut="downsample"),
    "timm.models.senet.SEResNetBlock": Rule(shortcut="downsample"),
    "timm.models.senet.SEBottleneck": Rule(shortcut="downsample"),
    "timm.models.senet.SEResNeXtBottleneck": Rule(shortcut="downsample"),
    "timm.models.byobnet.BasicBlock": Rule(when=lambda m: m.shortcut is not None, shortcut="shortcut"),
    "timm.models.byobnet.BottleneckBlock": Rule(when=lambda m: m.shortcut is not None, shortcut="shortcut"),
    "timm.models.byobnet.EdgeBlock": Rule(when=lambda m: m.shortcut is not None, shortcut="shortcut"),
    "timm.models.byobnet.DarkBlock": Rule(when=lambda m: m.shortcut is not None, shortcut="shortcut"),
    # y = x + g(x) + f(x) of the RepVGG paper; without x the 1x1 convolution g is the shortcut.
    "timm.models.byobnet.RepVggBlock": Rule(projection=lambda m: m.identity is None, paths=False),
    "timm.models._efficientnet_blocks.InvertedResidual": HAS_SKIP,
    "timm.models._efficientnet_blocks.DepthwiseSeparableConv": HAS_SKIP,
    "timm.models._efficientnet_blocks.EdgeResidual": HAS_SKIP,
    "timm.models._efficientnet_blocks.CondConvResidual": HAS_SKIP,
    "timm.models._efficientnet_blocks.UniversalInvertedResidual": HAS_SKIP,
    "timm.models._efficientnet_blocks.MobileAttention": HAS_SKIP,
    "timm.models._efficientnet_blocks.ConvBnAct": HAS_SKIP,
    "timm.models.rexnet.LinearBottleneck": Rule(when="use_shortcut", paths=False),
    "timm.models.ghostnet.GhostBottleneck": Rule(shortcut="shortcut", paths=False),
    "timm.models.convnext.ConvNeXtBlock": Rule(shortcut="shortcut"),
    "timm.models.inception_next.MetaNeXtBlock": Rule(),
    "timm.models.vision_transformer.Block": BLOCK,
    "timm.models.beit.Block": count(2),
    "timm.models.eva.EvaBlock": count(2),
    "timm.models.cait.LayerScaleBlock": BLOCK,
    "timm.models.cait.LayerScaleBlockClassAttn": count(2),
    "timm.models.mlp_mixer.MixerBlock": two("mlp_tokens", "mlp_channels"),
    "timm.models.mlp_mixer.ResBlock": two("linear_tokens", "mlp_channels"),
    "timm.models.mlp_mixer.SpatialGatingBlock": Rule(paths=False),
    "timm.models.swin_transformer.SwinTransformerBlock": BLOCK,
    "timm.models.swin_transformer_v2.SwinTransformerV2Block": count(2),
    "timm.models.metaformer.MetaFormerBlock": two("token_mixer", "mlp"),
    "timm.models.pvt_v2.Block": BLOCK,
    "timm.models.convmixer.Residual": Rule(),
    "timm.models.visformer.Block": Rule(adds=2, paths=False, when=lambda m: hasattr(m, "attn")),
    "timm.models.densenet.DenseLayer": Rule(concat=True, paths=False),
    "timm.models.repvit.RepViTMlp": count(0),
    "timm.models.starnet.Block": Rule(),
    "timm.models.focalnet.FocalNetBlock": two("modulation", "mlp"),
    "timm.models.twins.Block": BLOCK,
    "timm.models.twins.PosConv": Rule(when=lambda m: m.stride == 1),
    "timm.models.nfnet.NormFreeBlock": Rule(shortcut="downsample", paths=False),
    "timm.models.vovnet.OsaBlock": Rule(when="residual", paths=False),
    "timm.models.mobilevit.BottleneckBlock": Rule(when=lambda m: m.shortcut is not None, shortcut="shortcut"),
    # transformers
    "transformers.models.gpt2.modeling_gpt2.GPT2Block": BLOCK,
    "transformers.models.gpt_neo.modeling_gpt_neo.GPTNeoBlock": BLOCK,
    "transformers.models.gptj.modeling_gptj.GPTJBlock": Rule(),
    "transformers.models.gpt_neox.modeling_gpt_neox.GPTNeoXLayer": Rule(),
    "transformers.models.opt.modeling_opt.OPTDecoderLayer": OPT,
    "transformers.models.bloom.modeling_bloom.BloomBlock": two("self_attention", "mlp"),
    "transformers.models.phi.modeling_phi.PhiDecoderLayer": Rule(),
    "transformers.models.cohere.modeling_cohere.CohereDecoderLayer": Rule(),
    **{
        f"transformers.models.{name}.modeling_{name}.{title}DecoderLayer": LLAMA
        for name, title in (
            ("llama", "Llama"),
            ("mistral", "Mistral"),
            ("qwen2", "Qwen2"),
            ("qwen3", "Qwen3"),
            ("gemma", "Gemma"),
            ("gemma2", "Gemma2"),
            ("stablelm", "StableLm"),
            ("olmo", "Olmo"),
            ("olmo2", "Olmo2"),
            ("starcoder2", "Starcoder2"),
            ("granite", "Granite"),
        )
    },
    "transformers.models.bert.modeling_bert.BertLayer": BERT,
    "transformers.models.roberta.modeling_roberta.RobertaLayer": BERT,
    "transformers.models.xlm_roberta.modeling_xlm_roberta.XLMRobertaLayer": BERT,
    "transformers.models.electra.modeling_electra.ElectraLayer": BERT,
    "transformers.models.camembert.modeling_camembert.CamembertLayer": BERT,
    "transformers.models.ernie.modeling_ernie.ErnieLayer": BERT,
    "transformers.models.mpnet.modeling_mpnet.MPNetLayer": count(2),
    "transformers.models.deberta.modeling_deberta.DebertaLayer": count(2),
    "transformers.models.distilbert.modeling_distilbert.TransformerBlock": two("attention", "ffn"),
    "transformers.models.t5.modeling_t5.T5LayerSelfAttention": count(1),
    "transformers.models.t5.modeling_t5.T5LayerFF": Rule(),
    "transformers.models.bart.modeling_bart.BartEncoderLayer": OPT,
    "transformers.models.vit.modeling_vit.ViTLayer": count(2),
    "transformers.models.deit.modeling_deit.DeiTLayer": count(2),
    "transformers.models.dinov2.modeling_dinov2.Dinov2Layer": count(2),
    "transformers.models.beit.modeling_beit.BeitLayer": count(2),
    "transformers.models.clip.modeling_clip.CLIPEncoderLayer": LLAMA,
    "transformers.models.siglip.modeling_siglip.SiglipEncoderLayer": LLAMA,
    "transformers.models.convnext.modeling_convnext.ConvNextLayer": Rule(),
    "transformers.models.convnextv2.modeling_convnextv2.ConvNextV2Layer": Rule(),
    "transformers.models.resnet.modeling_resnet.ResNetBasicLayer": Rule(shortcut="shortcut"),
    "transformers.models.resnet.modeling_resnet.ResNetBottleNeckLayer": Rule(shortcut="shortcut"),
    "transformers.models.regnet.modeling_regnet.RegNetXLayer": Rule(shortcut="shortcut"),
    "transformers.models.regnet.modeling_regnet.RegNetYLayer": Rule(shortcut="shortcut"),
    "transformers.models.swin.modeling_swin.SwinLayer": count(2),
    "transformers.models.wav2vec2.modeling_wav2vec2.Wav2Vec2EncoderLayer": two("attention", "feed_forward"),
    "transformers.models.hubert.modeling_hubert.HubertEncoderLayer": two("attention", "feed_forward"),
    "transformers.models.wav2vec2.modeling_wav2vec2.Wav2Vec2PositionalConvEmbedding": Rule(),
    "transformers.models.hubert.modeling_hubert.HubertPositionalConvEmbedding": Rule(),
    "transformers.models.poolformer.modeling_poolformer.PoolFormerLayer": count(2),
    "transformers.models.segformer.modeling_segformer.SegformerLayer": two("attention", "mlp"),
    "transformers.models.mobilenet_v2.modeling_mobilenet_v2.MobileNetV2InvertedResidual": Rule(when="use_residual"),
    # torch
    "torch.nn.modules.transformer.TransformerEncoderLayer": two("self_attn", ("linear1", "linear2")),
}


@dataclass(frozen=True)
class Truth:
    """adds, concats, projections: how many; branches: the layers of each branch, where the rules know them all."""

    adds: int
    concats: int
    projections: int
    branches: frozenset[frozenset[str]] | None


def truth_of(net: nn.Module) -> Truth:
    adds = concats = projections = 0
    branches: set[frozenset[str]] = set()
    known = True
    for path, module in net.named_modules():
        rule = RULES.get(f"{type(module).__module__}.{type(module).__qualname__}")
        if rule is None or not rule.holds(module):
            continue
        adds += 0 if rule.concat else rule.adds
        concats += rule.concat
        projections += rule.projects(module)
        known = known and rule.paths
        if rule.paths:
            branches.update(_branches(rule, module, path))
    return Truth(adds, concats, projections, frozenset(branches) if known else None)


def _branches(rule: Rule, module: nn.Module, path: str) -> list[frozenset[str]]:
    if not rule.parts:
        every = set(weight_layers(module, path))
        skip = getattr(module, rule.shortcut, None) if rule.shortcut else None
        gone = set(weight_layers(skip, f"{path}.{rule.shortcut}")) if isinstance(skip, nn.Module) else set()
        return [frozenset(every - gone)]
    found = []
    for part in rule.parts:
        members = (part,) if isinstance(part, str) else part
        found.append(
            frozenset(name for key in members for name in weight_layers(module.get_submodule(key), f"{path}.{key}"))
        )
    return found
