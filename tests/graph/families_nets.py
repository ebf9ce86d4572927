"""Small networks of several families, written apart from the package with torch.nn, under the names of their files."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

CLASSES = 5


def trained(net: nn.Module) -> nn.Module:
    """The network in evaluation mode, with every number moved from its initial value."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in net.parameters():
            value.add_(torch.randn(value.shape, generator=generator), alpha=0.1)
        for key, value in net.named_buffers():
            if key.endswith("running_var"):
                value.add_(torch.rand(value.shape, generator=generator))
            elif key.endswith("running_mean"):
                value.add_(torch.randn(value.shape, generator=generator), alpha=0.1)
    return net.eval()


class Named(nn.Module):
    """A module whose members are given by dotted names, and whose forward is given as a function of it."""

    def __init__(self, forward, **members: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self._run = forward
        for name, member in members.items():
            setattr(self, name, member)

    def forward(self, x):
        return self._run(self, x)


def conv(outputs, inputs, size=1, stride=1, groups=1, *, bias=False):
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=bias)


def se_block(inputs, outputs, stride, *, linear):
    def run(block, x):
        branch = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
        means = branch.mean((2, 3), keepdim=not linear)
        gate = torch.sigmoid(block.se.fc2(F.relu(block.se.fc1(means))))
        branch = branch * (gate[:, :, None, None] if linear else gate)
        return F.relu(branch + (block.downsample(x) if hasattr(block, "downsample") else x))

    def pointwise(wide, narrow):
        return nn.Linear(narrow, wide) if linear else conv(wide, narrow, bias=True)

    block = Named(
        run,
        conv1=conv(outputs, inputs, 3, stride),
        bn1=nn.BatchNorm2d(outputs),
        conv2=conv(outputs, outputs, 3),
        bn2=nn.BatchNorm2d(outputs),
        se=Named(None, fc1=pointwise(2, outputs), fc2=pointwise(outputs, 2)),
    )
    if inputs != outputs:
        block.downsample = nn.Sequential(conv(outputs, inputs, 1, stride), nn.BatchNorm2d(outputs))
    return block


def se_resnet(*, linear):
    def run(net, x):
        x = F.relu(net.bn1(net.conv1(x)))
        return net.fc(net.layer2(net.layer1(x)).mean((2, 3)))

    return Named(
        run,
        conv1=conv(4, 3, 3),
        bn1=nn.BatchNorm2d(4),
        layer1=nn.Sequential(se_block(4, 4, 1, linear=linear), se_block(4, 4, 1, linear=linear)),
        layer2=nn.Sequential(se_block(4, 8, 2, linear=linear), se_block(8, 8, 1, linear=linear)),
        fc=nn.Linear(8, CLASSES),
    )


def densenet():
    def layer(inputs):
        def run(m, x):
            y = m.conv2(F.relu(m.norm2(m.conv1(F.relu(m.norm1(x))))))
            return torch.cat([x, y], 1)

        norms = {"norm1": nn.BatchNorm2d(inputs), "norm2": nn.BatchNorm2d(8)}
        return Named(run, conv1=conv(8, inputs), conv2=conv(3, 8, 3), **norms)

    def transition(m, x):
        return F.avg_pool2d(m.conv(F.relu(m.norm(x))), 2)

    def run(net, x):
        f = net.features
        x = F.max_pool2d(F.relu(f.norm0(f.conv0(x))), 3, 2, 1)
        for layer_ in f.denseblock1.children():
            x = layer_(x)
        x = f.transition1(x)
        for layer_ in f.denseblock2.children():
            x = layer_(x)
        return net.classifier(F.relu(f.norm5(x)).mean((2, 3)))

    first = Named(None, **{f"denselayer{k + 1}": layer(6 + 3 * k) for k in range(3)})
    second = Named(None, **{f"denselayer{k + 1}": layer(7 + 3 * k) for k in range(11)})
    features = Named(
        None,
        conv0=conv(6, 3, 7, 2),
        norm0=nn.BatchNorm2d(6),
        denseblock1=first,
        transition1=Named(transition, norm=nn.BatchNorm2d(15), conv=conv(7, 15)),
        denseblock2=second,
        norm5=nn.BatchNorm2d(40),
    )
    return Named(run, features=features, classifier=nn.Linear(40, CLASSES))


def mobilenet():
    def unit(outputs, inputs, size=1, stride=1, groups=1):
        return nn.Sequential(conv(outputs, inputs, size, stride, groups), nn.BatchNorm2d(outputs), nn.ReLU6())

    def block(inputs, outputs, stride, expand):
        wide = inputs * expand
        layers = [unit(wide, inputs)] if expand > 1 else []
        layers += [unit(wide, wide, 3, stride, wide), conv(outputs, wide), nn.BatchNorm2d(outputs)]
        residual = stride == 1 and inputs == outputs
        return Named(lambda m, x: m.conv(x) + x if residual else m.conv(x), conv=nn.Sequential(*layers))

    layers, inputs = [unit(4, 3, 3, 2)], 4
    plan = [(6, 1, 1), (8, 2, 2), (10, 2, 2), (12, 1, 2), (14, 2, 1), (16, 1, 2), (18, 1, 1)]
    for index, (outputs, count, stride) in enumerate(plan):
        for k in range(count):
            layers.append(block(inputs, outputs, stride if k == 0 else 1, 3 if index else 1))
            inputs = outputs
    layers.append(unit(20, inputs))
    head = nn.Sequential(nn.Dropout(), nn.Linear(20, CLASSES))
    return Named(
        lambda n, x: n.classifier(n.features(x).mean((2, 3))), features=nn.Sequential(*layers), classifier=head
    )


class ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of a map."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def convnext():
    def block(width):
        def run(m, x):
            y = m.norm(m.dwconv(x).permute(0, 2, 3, 1))
            y = m.gamma * m.pwconv2(F.gelu(m.pwconv1(y)))
            return x + y.permute(0, 3, 1, 2)

        return Named(
            run,
            dwconv=conv(width, width, 7, 1, width, bias=True),
            norm=nn.LayerNorm(width, eps=1e-6),
            pwconv1=nn.Linear(width, 4 * width),
            pwconv2=nn.Linear(4 * width, width),
            gamma=nn.Parameter(torch.full((width,), 0.5)),
        )

    def run(net, x):
        for down, stage in zip(net.downsample_layers, net.stages, strict=True):
            x = stage(down(x))
        return net.head(net.norm(x.mean((2, 3))))

    downs = nn.ModuleList(
        [
            nn.Sequential(nn.Conv2d(3, 4, 4, 4), ChannelNorm(4, eps=1e-6)),
            nn.Sequential(ChannelNorm(4, eps=1e-6), nn.Conv2d(4, 6, 2, 2)),
        ]
    )
    stages = nn.ModuleList([nn.Sequential(block(4), block(4)), nn.Sequential(block(6))])
    norm = nn.LayerNorm(6, eps=1e-6)
    return Named(run, downsample_layers=downs, stages=stages, norm=norm, head=nn.Linear(6, CLASSES))


def heads_apart(x, heads):
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def attend(query, key, value, heads, *, causal=False):
    """Softmax attention, spelled out."""
    q, k, v = (heads_apart(part, heads) for part in (query, key, value))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def vit(width=128, heads=2):
    def block():
        def run(m, x):
            x = x + m.attn.proj(attend(*m.attn.qkv(m.norm1(x)).chunk(3, -1), heads))
            return x + m.mlp.fc2(F.gelu(m.mlp.fc1(m.norm2(x))))

        return Named(
            run,
            norm1=nn.LayerNorm(width, eps=1e-6),
            norm2=nn.LayerNorm(width, eps=1e-6),
            attn=Named(None, qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width)),
            mlp=Named(None, fc1=nn.Linear(width, 32), fc2=nn.Linear(32, width)),
        )

    def run(net, x):
        x = net.patch_embed.proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([net.cls_token.expand(len(x), -1, -1), x], 1) + net.pos_embed
        return net.head(net.norm(net.blocks(x))[:, 0])

    return Named(
        run,
        patch_embed=Named(None, proj=nn.Conv2d(3, width, 4, 4)),
        cls_token=nn.Parameter(torch.zeros(1, 1, width)),
        pos_embed=nn.Parameter(torch.zeros(1, 10, width)),
        blocks=nn.Sequential(block(), block()),
        norm=nn.LayerNorm(width, eps=1e-6),
        head=nn.Linear(width, CLASSES),
    )


class Turned(nn.Module):
    """A linear layer that stores its weight as (inputs, outputs)."""

    def __init__(self, outputs, inputs) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        return x @ self.weight + self.bias


def gpt2(width=128, heads=2, words=11):
    def block():
        def run(m, x):
            x = x + m.attn.c_proj(attend(*m.attn.c_attn(m.ln_1(x)).chunk(3, -1), heads, causal=True))
            return x + m.mlp.c_proj(F.gelu(m.mlp.c_fc(m.ln_2(x)), approximate="tanh"))

        return Named(
            run,
            ln_1=nn.LayerNorm(width),
            ln_2=nn.LayerNorm(width),
            attn=Named(None, c_attn=Turned(3 * width, width), c_proj=Turned(width, width)),
            mlp=Named(None, c_fc=Turned(48, width), c_proj=Turned(width, 48)),
        )

    def run(net, ids):
        x = net.wte(ids) + net.wpe.weight[: ids.shape[1]]
        return net.ln_f(net.h(x)) @ net.wte.weight.T

    return Named(
        run,
        wte=nn.Embedding(words, width),
        wpe=nn.Embedding(9, width),
        h=nn.Sequential(block(), block()),
        ln_f=nn.LayerNorm(width),
    )


def bert(width=128, heads=2, words=11):
    def layer():
        def run(m, x):
            s, out = m.attention.self, m.attention.output
            x = out.LayerNorm(x + out.dense(attend(s.query(x), s.key(x), s.value(x), heads)))
            return m.output.LayerNorm(x + m.output.dense(F.gelu(m.intermediate.dense(x))))

        def ended(inputs):
            return Named(None, dense=nn.Linear(inputs, width), LayerNorm=nn.LayerNorm(width, eps=1e-12))

        own = {part: nn.Linear(width, width) for part in ("query", "key", "value")}
        return Named(
            run,
            attention=attention(own, ended(width)),
            intermediate=Named(None, dense=nn.Linear(width, 24)),
            output=ended(24),
        )

    def attention(own, output):
        module = Named(None, output=output)
        module.add_module("self", Named(None, **own))
        return module

    def run(net, ids):
        e = net.embeddings
        x = e.word_embeddings(ids) + e.position_embeddings.weight[: ids.shape[1]] + e.token_type_embeddings.weight[0]
        return torch.tanh(net.pooler.dense(net.encoder.layer(e.LayerNorm(x))[:, 0]))

    embeddings = Named(
        None,
        word_embeddings=nn.Embedding(words, width),
        position_embeddings=nn.Embedding(9, width),
        token_type_embeddings=nn.Embedding(2, width),
        LayerNorm=nn.LayerNorm(width, eps=1e-12),
    )
    encoder = Named(None, layer=nn.Sequential(layer(), layer()))
    pooler = Named(None, dense=nn.Linear(width, width))
    return Named(run, embeddings=embeddings, encoder=encoder, pooler=pooler)
