"""One entry for all front ends: from a checkpoint and the settings to the residual graph.

A graph comes from the user's own code (`--arch`), from a program (TorchScript, .pt2, ONNX), or from names and shapes
alone, and looks the same after. Programs are opened here and nowhere else.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from resnet_audit.checkpoint.programs import open_program
from resnet_audit.errors import UsageError
from resnet_audit.graph import from_weights
from resnet_audit.graph.arch import load_architecture
from resnet_audit.graph.from_export import from_module, from_program
from resnet_audit.graph.from_onnx import from_onnx
from resnet_audit.graph.from_torchscript import from_torchscript
from resnet_audit.graph.ir import Input, Node, Opaque
from resnet_audit.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from resnet_audit.checkpoint import Checkpoint
    from resnet_audit.graph.residual import ResidualGraph


def discover(checkpoint: Checkpoint, settings: Settings | None = None) -> ResidualGraph:
    """The residual graph of a checkpoint.

    Raises NothingToAnalyse without weight layers; UsageError where the input size is missing or wrong, or where the
    user's code does not fit the checkpoint; UnreadableCheckpoint where a program cannot be opened.

    >>> from resnet_audit import Settings, discover, load
    >>> graph = discover(load("sample_checkpoints/digits_preact.safetensors"), Settings(input_size=(1, 8, 8)))
    >>> graph.family, len(graph.blocks), graph.runnable
    ('preactivation ResNet, basic blocks', 9, True)
    """
    settings = settings or Settings()
    if settings.arch is not None:
        module = load_architecture(settings.arch, checkpoint.tensors).to(getattr(torch, settings.dtype))
        return _with_vocabulary(replace(from_module(module, _example(settings)), batch=settings.samples))
    match checkpoint.format:
        case "torchscript":
            module = open_program(checkpoint.path, checkpoint.format)
            return _with_vocabulary(from_torchscript(module, input_size=settings.input_size))
        case "pt2":
            return _with_vocabulary(from_program(open_program(checkpoint.path, checkpoint.format)))
        case "onnx":
            return from_onnx(open_program(checkpoint.path, checkpoint.format), input_size=settings.input_size)
    return from_weights.discover(checkpoint, settings)


def _example(settings: Settings) -> Tensor:
    """Inputs to export with: images of (C, H, W), or one number of tokens. The batch is that of the measurements."""
    size = settings.input_size
    if size is None:
        raise UsageError(
            "--arch needs the size of one input; give --input-size CxHxW, or T for a token model, or --data"
        )
    if len(size) == 1:
        return torch.zeros(settings.samples, size[0], dtype=torch.long)
    return torch.zeros(settings.samples, *size, dtype=getattr(torch, settings.dtype))


def _with_vocabulary(graph: ResidualGraph) -> ResidualGraph:
    """The graph whose input says how many tokens there are, if an embedding reads it."""
    if not graph.nodes:
        return graph
    first, *others = graph.nodes
    tables = [
        node.op.weights[0].shape[0]
        for node in others
        if node.inputs == (first.name,) and isinstance(node.op, Opaque) and node.op.name == "embedding"
    ]
    if not tables:
        return graph
    source = Node(name=first.name, op=Input(vocabulary=min(tables)), shape=first.shape)
    return replace(graph, nodes=(source, *others))
