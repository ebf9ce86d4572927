"""Singular values of every weight layer, as a linear operator on its real grid.

Source   Sedghi, Gupta, Long 2019 (arXiv 1805.10408) for stride 1; strides, groups, dilation, the certificate derived.
Formula  sigma(T) = union over frequencies w of sigma(A(w)), A the symbol of the kernel on the circular grid
Symbols  T  the layer; `folded`: with the batch normalisation behind it, diag(gamma / sqrt(var + eps)) T
         sigma_upper  certified for zero padding: the largest singular value on a torus that contains the padded image
Reads    near 1 keeps norms. A residual block can be near an isometry though none of its layers is.
Status   exact for circular padding; sigma_upper, branch_upper and interval are certified, and loose. What is measured
         of blocks at inputs is in `block_spectrum.py`.
"""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from resnet_audit.errors import NonFinite, UsageError
from resnet_audit.graph.fold import finite, fold
from resnet_audit.graph.ir import Conv, Linear, Node, Norm, Opaque, kind_of
from resnet_audit.linear import (
    Extremes,
    both,
    circular_grid,
    conv_extremes,
    conv_norm_upper,
    conv_singular_values,
    matrix_extremes,
    matrix_norm_upper,
    matrix_singular_values,
    spectrum_numbers,
)
from resnet_audit.results import Note, SpectrumBlock, SpectrumLayer, SpectrumNumbers, SpectrumResult
from resnet_audit.theory.block_spectrum import Measured, measure_blocks

if TYPE_CHECKING:
    from resnet_audit.graph.blocks import Block
    from resnet_audit.measure import Subject

Size = tuple[int, int]

METHOD = "Gram eigenvalues of the symbol, circular grid; determinant or SVD where those lose digits"


def analyse(subject: Subject) -> SpectrumResult:
    """Spectra of all weight layers and certified block intervals. Raises UsageError where the grids are unknown."""
    graph = subject.graph
    matrices = [node for node in graph.weight_nodes if isinstance(node.op, Conv | Linear)]
    blocks = () if subject.settings.fast else _finite_blocks(subject)
    # The certificates of blocks need these norms in any case.
    norms = subject.norms if blocks else {}

    def of_layers() -> list[SpectrumLayer]:
        return subject.map_layers("spectra", lambda node: _layer(subject, node, norms.get(node.name)), matrices)

    layers, (measured, inputs, block_notes) = both(
        of_layers, lambda: measure_blocks(subject, blocks), subject.settings.thread_count
    )
    known = [layer for layer in layers if layer.sigma_max is not None]
    largest = max(known, key=lambda layer: layer.sigma_max or 0.0, default=None)
    return SpectrumResult(
        sigma_max=None if largest is None else largest.sigma_max,
        sigma_max_where=None if largest is None else largest.name,
        layers=tuple(layers),
        blocks=tuple(_block(subject, block, measured.get(block.name)) for block in blocks),
        inputs=inputs,
        notes=(*_notes(subject, layers), *block_notes),
    )


def _layer(subject: Subject, node: Node, upper: float | None) -> SpectrumLayer:
    """One weight layer; upper: its certified norm with the norm behind it folded in, if it is known."""
    op = node.op
    if subject.settings.fast and (quick := _fast(subject, node)) is not None:
        return quick
    if not isinstance(op, Conv | Linear):
        raise TypeError(f"{node.name} is not a weight layer")
    size = _input_grid(subject, node) if isinstance(op, Conv) else None
    norm = _following_norm(subject, node)
    raw = _numbers(op, size, upper if norm is None else None)
    folded = None if norm is None or raw is None or not finite(norm) else _numbers(fold(op, norm), size, upper)
    return SpectrumLayer(
        name=node.name,
        block=subject.graph.block_of(node.name),
        kind="conv" if isinstance(op, Conv) else "linear",
        shape=tuple(op.weight.shape),
        stride=op.stride if isinstance(op, Conv) else (),
        groups=op.groups if isinstance(op, Conv) else 1,
        grid=() if size is None or not isinstance(op, Conv) else circular_grid(size, op.stride),
        method="SVD of the matrix" if size is None else METHOD,
        folded=folded,
        **_as_fields(raw),
    )


def _fast(subject: Subject, node: Node) -> SpectrumLayer | None:
    """Extremes and norms of one layer; None where only its whole spectrum tells them."""
    op = node.op
    if not finite(op):
        return None
    if isinstance(op, Linear):
        size: Size | None = None
        found: Extremes | None = matrix_extremes(op.weight)
        method = "power iteration (estimate from below)"
    elif isinstance(op, Conv):
        size = _input_grid(subject, node)
        found = conv_extremes(
            op.weight, size=size, stride=op.stride, padding=op.padding, dilation=op.dilation, groups=op.groups
        )
        method = "largest of the symbol, circular grid"
    else:
        return None
    if found is None:
        return None
    square, top = found.frobenius**2, found.sigma_max**2
    return SpectrumLayer(
        name=node.name,
        block=subject.graph.block_of(node.name),
        kind="linear" if size is None else "conv",
        shape=tuple(op.weight.shape),
        stride=() if isinstance(op, Linear) else op.stride,
        groups=1 if isinstance(op, Linear) else op.groups,
        grid=() if isinstance(op, Linear) or size is None else circular_grid(size, op.stride),
        method=method,
        folded=None,
        **_as_fields(None)
        | {
            "count": found.count,
            "sigma_max": found.sigma_max,
            "sigma_upper": found.sigma_upper,
            "rms": found.frobenius / math.sqrt(found.count),
            "stable_rank": square / top / found.count if top > 0.0 else None,
        },
    )


def _numbers(op: Conv | Linear, size: Size | None, upper: float | None) -> SpectrumNumbers | None:
    """The statistics of one operator on a grid; None if its weights are not finite. upper: its norm, if known."""
    if not finite(op):
        return None
    if isinstance(op, Linear) or size is None:
        upper = matrix_norm_upper(op.weight) if upper is None else upper
        rows, columns = op.weight.shape
        return spectrum_numbers(matrix_singular_values(op.weight), sigma_upper=upper, block_shape=(rows, columns))
    if upper is None:
        upper = conv_norm_upper(
            op.weight, size=size, stride=op.stride, padding=op.padding, dilation=op.dilation, groups=op.groups
        )
    values = conv_singular_values(op.weight, circular_grid(size, op.stride), op.stride, op.groups, op.dilation)
    block = (op.weight.shape[0] // op.groups, op.stride[0] * op.stride[1] * op.weight.shape[1])
    return spectrum_numbers(values, sigma_upper=upper, block_shape=block)


def _as_fields(numbers: SpectrumNumbers | None) -> dict[str, Any]:
    """The statistics as fields of a layer, each None without statistics."""
    return {field.name: None if numbers is None else getattr(numbers, field.name) for field in fields(SpectrumNumbers)}


def _input_grid(subject: Subject, node: Node) -> Size:
    """Rows and columns of the image that a convolution reads."""
    if node.inputs:
        _, height, width = subject.shapes[node.inputs[0]]
        return height, width
    given = subject.settings.input_size
    if given is None or len(given) != 3:
        reason = subject.graph.runnable_reason
        raise UsageError(
            f"the grid of {node.name} is unknown: {reason}; --input-size CxHxW takes HxW for every convolution"
        )
    return given[1], given[2]


def _following_norm(subject: Subject, node: Node) -> Norm | None:
    readers = subject.readers.get(node.name, [])
    if len(readers) != 1:
        return None
    op = readers[0][0].op
    return op if isinstance(op, Norm) else None


def _finite_blocks(subject: Subject) -> tuple[Block, ...]:
    """The blocks of a network that runs; none where some number of it is not finite."""
    try:
        return subject.blocks if subject.graph.runnable else ()
    except NonFinite:
        return ()


def _block(subject: Subject, block: Block, measured: Measured | None) -> SpectrumBlock:
    """Certified constants and measured numbers of one block."""
    certified, identity = subject.certificate(block), block.skip_kind == "identity"
    interval = weyl = None
    if certified is not None:
        interval = (max(0.0, 1.0 - certified.branch) if identity else 0.0, certified.block)
    if measured is not None and identity:
        weyl = (max(0.0, 1.0 - measured.branch_sigma_max), 1.0 + measured.branch_sigma_max)
    return SpectrumBlock(
        name=block.name,
        branch_upper=None if certified is None else certified.branch,
        interval=interval,
        interval_measured=weyl,
        **{field.name: None if measured is None else getattr(measured, field.name) for field in fields(Measured)},
    )


def _notes(subject: Subject, layers: list[SpectrumLayer]) -> list[Note]:
    notes = [
        Note(code="nonfinite", message="weights are not finite: no spectrum", where=layer.name)
        for layer in layers
        if layer.sigma_max is None
    ]
    norms = [node for node in subject.graph.nodes if isinstance(node.op, Norm) and not finite(node.op)]
    notes += [Note(code="nonfinite", message="not finite: nothing is folded with it", where=n.name) for n in norms]
    others = [node for node in subject.graph.weight_nodes if isinstance(node.op, Opaque)]
    notes += [
        Note(code="no_rule", message=f"no spectrum of {kind_of(n.op)} in this version", where=n.name) for n in others
    ]
    rounded = [
        node.name for node in subject.graph.weight_nodes if isinstance(node.op, Conv) and _rounded(subject, node)
    ]
    notes += [
        Note(code="grid_rounded", message="grid rounded up to a multiple of the stride", where=name) for name in rounded
    ]
    if subject.graph.loose:
        message = "the structure is unknown: every convolution is taken with stride 1, no groups, on the size given"
        notes.append(Note(code="assumed_grid", message=message))
    if subject.settings.fast:
        message = "--fast: only largest values and norms, no blocks; sigma_max of a matrix is an estimate from below"
        notes.append(Note(code="fast", message=message))
    return notes


def _rounded(subject: Subject, node: Node) -> bool:
    size = _input_grid(subject, node)
    return isinstance(node.op, Conv) and circular_grid(size, node.op.stride) != size
