"""Documents built by hand, with the magnitudes of a small residual network."""

from __future__ import annotations

import io
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from resnet_audit.render import console, render
from resnet_audit.results import (
    BlockEntry,
    BoundLayer,
    BoundResult,
    Cover,
    Covers,
    Distribution,
    Document,
    EnsembleBlock,
    EnsembleResult,
    GradientBlock,
    GradientResult,
    GraphResult,
    Histogram,
    InputsUsed,
    Note,
    PerCover,
    Quantiles,
    SpectrumBlock,
    SpectrumLayer,
    SpectrumNumbers,
    SpectrumResult,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

ANALYSES = ("graph", "bound", "spectrum", "gradient", "ensemble")
BLOCKS = tuple(f"layer{stage}.{index}" for stage in (1, 2, 3) for index in range(3))
CONVS = ("conv1", *(f"{block}.conv{index}" for block in BLOCKS for index in (1, 2)))
UPPER = (3.712, 2.530, 1.968, 3.050, 2.244, 2.107, 4.428, 1.476, 4.008, 2.214, 4.291, 2.063, 5.675, 1.471, 6.075)
UPPER = (*UPPER, 1.940, 11.021, 2.811, 31.178)
RATIOS = (1.363, 1.021, 0.951, 0.865, 1.105, 1.028, 0.902, 0.994, 5.395)
GOLDEN = Path(__file__).parent.parent / "golden"
OVERWRITE = "RESNET_AUDIT_OVERWRITE_GOLDEN"


def graph(names: Sequence[str] = BLOCKS) -> GraphResult:
    blocks = tuple(
        BlockEntry(
            name=name,
            skip="resample" if index in (3, 6) else "identity",
            weight_layers=2,
            layers=(f"{name}.conv1", f"{name}.conv2"),
            skip_layers=(),
            stage=1 + index // 3,
            transition=index in (3, 6),
            input_shape=(16 << max(0, index - 1) // 3, 32 >> max(0, index - 1) // 3, 32 >> max(0, index - 1) // 3),
            output_shape=(16 << index // 3, 32 >> index // 3, 32 >> index // 3),
            evidence="named" if index in (3, 6) else "shape",
        )
        for index, name in enumerate(names)
    )
    return GraphResult(
        source="weights",
        family="CIFAR ResNet",
        runnable=True,
        runnable_reason=None,
        stem=("conv1",),
        between=(),
        head=("linear",),
        unplaced=(),
        block_count=len(blocks),
        unplaced_count=0,
        nonfinite_count=0,
        dangerous_globals=(),
        dangerous_globals_count=0,
        assumptions=(
            "input size 3x32x32: the family's",
            "stride 2 at layer2.0 and layer3.0: the channel count doubles there",
            "shortcut of layer2.0 and layer3.0: every second pixel, zero channels added on both sides (option A)",
        ),
        blocks=blocks,
    )


def cover(shift: float, *, data: bool = True) -> Cover:
    return Cover(
        log10_spectral_complexity=16.29 - shift,
        log10_R=40.769 - 2 * shift,
        log10_R_chain=40.064 - 2 * shift,
        log10_ln_covering=36.07 - 2 * shift if data else None,
        log10_complexity_term=18.577 - shift if data else None,
        log10_n_needed=43.8 - 2.05 * shift if data else None,
        vacuous=True if data else None,
    )


def bound(*, data: bool = True) -> BoundResult:
    names = (*CONVS, "linear")
    uppers = (*UPPER, 5.985)
    total = sum(uppers)
    layers = tuple(
        BoundLayer(
            name=name,
            placement="stem" if name == "conv1" else "head" if name == "linear" else "vine",
            sigma_upper=upper,
            b_operator=9267.1 / (1 + index / 4),
            b_patch=9.18 * (1 + index),
            windows=1 if name == "linear" else 4 if name in {"layer2.0.conv1", "layer3.0.conv1"} else 9,
            share=PerCover(operator=upper / total / 1.2, patch=upper / total),
            sensitivity=PerCover(operator=0.9, patch=0.86 + index / 200),
            actionable="bn weight" if name != "linear" else None,
        )
        for index, (name, upper) in enumerate(zip(names, uppers, strict=True))
    )
    return BoundResult(
        input_size=(3, 32, 32),
        n_train=50000 if data else None,
        x_rms=1.0,
        margin=1.0,
        delta=0.01,
        epsilon=math.sqrt(50000) if data else None,
        preset="paper",
        weight_factors=20,
        identity_vines=9,
        covers=Covers(
            operator=cover(0.0, data=data),
            patch=cover(2.09, data=data),
            operator_biases=cover(-0.3, data=data),
            patch_biases=cover(1.8, data=data),
        ),
        log10_residual_over_chain=0.705,
        log10_lipschitz=10.389,
        tail=0.0204 if data else None,
        empirical_margin_risk=None,
        bound=None,
        vacuous=True if data else None,
        log10_path_norm_l1=21.967,
        log10_path_norm_l1_max_logit=21.005,
        unsupported=(),
        layers=layers,
    )


def histogram(centre: float) -> Histogram:
    edges = tuple(-3 + index / 8 for index in range(33))
    weights = [math.exp(-(((left - centre) / 0.6) ** 2)) if left < centre + 0.7 else 0.0 for left in edges[:-1]]
    return Histogram(log10_edges=edges, share=tuple(weight / sum(weights) for weight in weights))


def quantiles(top: float) -> Quantiles:
    return Quantiles(
        p01=0.01 * top, p05=0.05 * top, p25=0.2 * top, p50=0.3 * top, p75=0.5 * top, p95=0.8 * top, p99=0.95 * top
    )


def spectrum_layer(name: str, index: int) -> SpectrumLayer:
    top = 8.43 * (1 + index) / 19
    stage = max(0, (index - 1) // 6)
    channels = 16 << stage
    first = name == "conv1"
    stride = 2 if index in (7, 13) else 1
    folded = SpectrumNumbers(
        count=channels * 64,
        sigma_max=top / 2,
        sigma_min=1.1e-5 * (index + 1),
        sigma_upper=top / 1.9,
        condition=9.1e4,
        rank=channels * 64,
        rms=0.3,
        stable_rank=0.02,
        effective_rank=0.41,
        near_one=0.031,
        quantiles=quantiles(top / 2),
        histogram=histogram(-0.5),
    )
    return SpectrumLayer(
        name=name,
        block=None if first else name.rpartition(".")[0],
        kind="conv",
        shape=(channels, 3 if first else channels // stride, 3, 3),
        stride=(stride, stride),
        groups=1,
        grid=(32 >> stage, 32 >> stage),
        method="fft",
        count=channels * 1024,
        sigma_max=top,
        sigma_min=1.8e-5 * (1 + index % 7),
        sigma_upper=top * 1.02,
        condition=top / 1.8e-5 / (1 + index % 7),
        rank=channels * 1024,
        rms=0.61,
        stable_rank=0.0123,
        effective_rank=0.52,
        near_one=0.082,
        quantiles=quantiles(top),
        histogram=histogram(-0.4 + index / 40),
        folded=folded,
    )


def spectrum(names: Sequence[str] = CONVS) -> SpectrumResult:
    layers = tuple(spectrum_layer(name, index) for index, name in enumerate(names))
    blocks = tuple(
        SpectrumBlock(
            name=name,
            branch_sigma_max=2.2 + index,
            block_sigma_max=2.9 + index,
            branch_upper=4.98 + 9 * index,
            interval=(0.0, 5.98 + 9 * index),
        )
        for index, name in enumerate(BLOCKS)
    )
    return SpectrumResult(sigma_max=8.43, sigma_max_where=names[-1], layers=layers, blocks=blocks)


def used(mismatch: float | None = 0.36) -> InputsUsed:
    return InputsUsed(kind="pink", n=32, bn_mismatch_mean=mismatch, bn_mismatch_logsd=0.27)


def gradient(names: Sequence[str] = BLOCKS, mismatch: float | None = 0.36) -> GradientResult:
    blocks = tuple(
        GradientBlock(
            name=name,
            kind="block",
            transition=index in (3, 6),
            ratio=ratio,
            ratio_rms=ratio * 0.98,
            p05=ratio * 0.8,
            p50=ratio,
            p95=ratio * 1.3,
            mask_factor=0.82,
            residual_factor=ratio / 0.82,
            branch_gain=0.71 * ratio,
            skip_gain=0.9,
            cosine=-0.042,
            upper=4.98 + index,
            interval=(0.0, 4.98 + index),
        )
        for index, (name, ratio) in enumerate(zip(names, RATIOS, strict=False))
    )
    return GradientResult(
        objective="logit",
        inputs=used(mismatch),
        norms=(1.0,) * (len(blocks) + 1),
        ratio_median=1.028,
        c_hat=0.213,
        ratio_worst=5.395,
        ratio_product=math.prod(RATIOS),
        blocks=blocks,
    )


def ensemble(count: int = 27, chance: float = 0.52) -> EnsembleResult:
    shares = tuple(math.comb(count, k) * chance**k * (1 - chance) ** (count - k) for k in range(count + 1))
    squares = sum(share**2 for share in shares)
    return EnsembleResult(
        unit="blocks",
        objective="logit",
        inputs=used(),
        identity_residual=3.2e-7,
        distribution=Distribution(
            norm=shares,
            energy=tuple(share**2 / squares for share in shares),
            projection=tuple(share * (1 + 0.3 * (-1) ** k) for k, share in enumerate(shares)),
        ),
        depth_mean=count * chance,
        depth_mode=14,
        depth_p05=10,
        depth_p95=18,
        projection_mean=12.1,
        cancellation=0.53,
        blocks=tuple(EnsembleBlock(name=name, branch_gain=0.71, skip_gain=0.93) for name in BLOCKS),
    )


def document(command: str = "report", globs: tuple[str, ...] = (), **changes: object) -> Document:
    """A document of one checkpoint with all that the command asks; `changes` replace its keys."""
    made = {"graph": graph, "bound": bound, "spectrum": spectrum, "gradient": gradient, "ensemble": ensemble}
    keys = ANALYSES if command == "report" else ("graph", command)
    entry: dict[str, Any] = {
        "path": "resnet20.th",
        "sha256": "ab" * 32,
        "format": "torch-zip",
        "parameters": 269722,
        "error": None,
        **{key: made[key]() for key in ANALYSES if key in keys},
        "notes": (Note(code="prefix", message="the prefix module. was removed from 127 names"),),
    }
    entry.update(changes)
    return {
        "schema_version": "1.0",
        "tool": {"name": "resnet-audit", "version": "0.1.0", "torch": "2.10.0", "threads": 2},
        "command": command,
        "settings": {
            "seed": 0,
            "samples": 32,
            "input_size": None,
            "inputs": "auto",
            "dtype": "float32",
            "device": "cpu",
            "blocks": globs,
        },
        "checkpoints": [cast("Any", entry)],
    }


def hostile(name: str) -> Document:
    """A report in which every block and layer carries `name`."""
    shown = spectrum((name,))
    first = bound()
    return document(
        graph=graph((name,)),
        bound=replace(first, layers=tuple(replace(layer, name=name) for layer in first.layers)),
        spectrum=replace(shown, blocks=(replace(shown.blocks[0], name=name),)),
        gradient=gradient((name,)),
        ensemble=replace(ensemble(), blocks=(EnsembleBlock(name=name, branch_gain=1.0, skip_gain=None),)),
    )


class Stream(io.StringIO):
    """A text stream that says which encoding it has."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__()
        self._name = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._name


def printed(shown: Document, *, width: int | None = 80, wide: bool = False, encoding: str = "utf-8") -> str:
    stream = Stream(encoding)
    render(shown, console(stream, wide=wide, width=width))
    return stream.getvalue()


def matches_golden(name: str, text: str) -> bool:
    """Whether `text` is the golden file; writes it instead if the overwrite switch is set."""
    path = GOLDEN / name
    if os.environ.get(OVERWRITE) == "1":
        path.write_text(text, encoding="utf-8")
    return path.read_text(encoding="utf-8") == text
