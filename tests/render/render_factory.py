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
    DataUsed,
    Distribution,
    Document,
    EnsembleBlock,
    EnsembleResult,
    GradientBlock,
    GradientResult,
    GraphResult,
    Histogram,
    Incoherent,
    InputsUsed,
    MarginPoint,
    MeasuredHessian,
    Note,
    Occam,
    PerCover,
    Predicted,
    Quantiles,
    Recommended,
    ReferenceScheme,
    ScalingBlock,
    ScalingResult,
    ShortcutBlock,
    ShortcutResult,
    SpectralDensity,
    SpectrumBlock,
    SpectrumLayer,
    SpectrumNumbers,
    SpectrumResult,
    SpinGlass,
    Veit,
    ZeroHessian,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

ANALYSES = ("graph", "bound", "spectrum", "gradient", "ensemble", "shortcut", "scaling")
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
            branch_gamma=0.5 + index / 20,
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
        branch_gamma=0.7,
        blocks=blocks,
    )


def cover(shift: float, *, data: bool = True) -> Cover:
    return Cover(
        log10_spectral_complexity=16.29 - shift,
        log10_R=40.769 - 2 * shift,
        log10_R_chain=40.064 - 2 * shift,
        log10_ln_covering=36.07 - 2 * shift if data else None,
        log10_complexity_term=18.577 - shift if data else None,
        log10_n_needed=43.8 - 2.05 * shift,
        log10_margin_needed=18.577 - shift if data else None,
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
            frobenius=1.0 + index,
            share=PerCover(operator=upper / total / 1.2, patch=upper / total),
            sensitivity=PerCover(operator=0.9, patch=0.86 + index / 200),
            log10_change=PerCover(operator=-0.041, patch=-0.04 - index / 5000),
            gain_per_square=PerCover(operator=0.07 / (1 + index), patch=0.08 / (1 + index)),
            actionable=f"{name.replace('conv', 'bn')}.weight" if name != "linear" else None,
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
        reference=None,
        data=data_used() if data else None,
        weight_factors=20,
        identity_vines=9,
        covers=Covers(
            operator=cover(0.0, data=data),
            patch=cover(2.09, data=data),
            operator_biases=cover(-0.3, data=data),
            patch_biases=cover(1.8, data=data),
        ),
        bound_cover="patch",
        log10_residual_over_chain=0.705,
        log10_lipschitz=10.389,
        post_hoc_union=False,
        union_nats=None,
        tail=0.0204 if data else None,
        empirical_margin_risk=0.31 if data else None,
        bound=None,
        vacuous=True if data else None,
        log10_path_norm_l1=21.967,
        log10_path_norm_l1_max_logit=21.005,
        log10_path_norm_l2=1.818,
        log10_path_norm_term=21.395 if data else None,
        occam=Occam(fp32=7.73, fp16=5.46, zlib_fp16=5.29) if data else None,
        parameter_count_bound=10.1 if data else None,
        measures={"PARAMS": 2.3, "LOG_SPEC_ORIG_MAIN": 9.1, "FRO_OVER_SPEC": 0.04} if data else {"PARAMS": None},
        unsupported=(),
        layers=layers,
    )


def data_used() -> DataUsed:
    points = tuple(MarginPoint(margin=2.0**k, risk=0.1 + k / 20, log10_bound=16.5 - k / 3.3) for k in range(5))
    return DataUsed(
        count=50000,
        x_rms=1.02,
        largest_norm=131.4,
        largest_entry=2.64,
        error=0.0012,
        margins=points,
        best_margin=16.0,
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
        mean_deviation=0.71,
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
        mean_deviation=0.55,
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
            interval_measured=None if index in (3, 6) else (0.0, 3.2 + index),
            branch_residual=1e-3,
            block_residual=4e-4,
            near_one=0.72 - index / 20,
            near_one_error=0.04,
            mean_deviation=0.106 + index / 30,
            mean_deviation_error=0.008,
            count=16384 >> index // 3,
            samples=4,
            method="Lanczos, 24 steps (estimate from below)",
        )
        for index, name in enumerate(BLOCKS)
    )
    return SpectrumResult(sigma_max=8.43, sigma_max_where=names[-1], layers=layers, blocks=blocks, inputs=used())


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
        telescoping_residual=2.4e-7,
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
        projection_sd=2.81,
        cancellation=0.53,
        incoherent=Incoherent(energy=shares, coherence=shares, mean=11.2, standard_error=0.0421, draws=8),
        veit=Veit(distribution=shares, mean=14.62, standard_error=0.233, p05=10, p95=18, paths=64),
        predicted=Predicted(energy=8.41, amplitude=12.93, binomial=13.5),
        spin_glass=SpinGlass(beta=(0.93,) * count, mode=14, mean=13.93, theta=0.312),
        blocks=tuple(EnsembleBlock(name=name, branch_gain=0.71, skip_gain=0.93) for name in BLOCKS),
    )


def scaling(names: Sequence[str] = BLOCKS) -> ScalingResult:
    blocks = tuple(
        ScalingBlock(
            name=name,
            stage=1 + index // 3,
            alpha=0.3 + index / 5,
            alpha_weights=None if index == 4 else 0.35 + index / 4,
            alpha_measured=0.3 + index / 5,
            alpha_centred=0.33 + index / 5,
            alpha_worst=7.2 if index == 5 else None,
            cosine=0.05 - index / 50,
            rule=None if index == 4 else "gates" if index == 5 else "statistics",
            parameters=() if index == 4 else (f"{name}.bn2.weight", f"{name}.bn2.bias"),
        )
        for index, name in enumerate(names)
    )
    return ScalingResult(
        method="measured",
        inputs=used(),
        residual_time=4.363,
        spread=0.613,
        spread_relative=0.6308,
        level="mild",
        rms_alpha=1.323,
        recommended=Recommended(target_S=1.0, uniform_alpha=0.3536, factor=0.2888),
        blocks=blocks,
        references=(
            ReferenceScheme(scheme="1 (plain)", residual_time=4.5, spread=0.597),
            ReferenceScheme(scheme="1/sqrt L (depth-muP)", residual_time=0.9, spread=0.899),
            ReferenceScheme(scheme="0 (Fixup, SkipInit, ReZero, zero gamma)", residual_time=0.0, spread=None),
        ),
    )


def shortcut(names: Sequence[str] = BLOCKS) -> ShortcutResult:
    blocks = tuple(
        ShortcutBlock(
            name=name,
            depth=3 if index == 8 else 2,
            depth_min=2,
            skip="resample" if index in (3, 6) else "identity",
            zero_point="weights" if index == 8 else "gamma",
            level="warn" if index == 8 else "ok",
            scale=0.02 if index == 8 else 0.36 + index / 8,
        )
        for index, name in enumerate(names)
    )
    stages = tuple(
        ZeroHessian(
            stage=stage,
            block=names[0],
            rows=72 << stage,
            columns=72 << stage,
            sigma_max=20.5 - stage,
            rank=126,
            condition=6.6e6,
            tolerance=2.05e-9,
        )
        for stage in (1, 2, 3)
    )
    return ShortcutResult(
        depths={"2": 8, "3": 1},
        inputs=used(),
        target="prediction",
        blocks=blocks,
        zero_hessian=stages,
        hessian=measured_hessian(),
    )


def measured_hessian() -> MeasuredHessian:
    top = (3027.92, 1810.67, 394.4)
    density = SpectralDensity(
        tolerance=30.28,
        above=3.4e-5,
        above_error=1.6e-5,
        below=4.9e-6,
        below_error=6.1e-6,
        nodes=(-40.28, 0.1, *top[::-1]),
        weights=(5e-6, 0.99996, 1.2e-5, 1.1e-5, 1.2e-5),
    )
    return MeasuredHessian(
        blocks=(),
        parameters=269722,
        method="lanczos",
        lambda_max=top[0],
        lambda_min=-40.28,
        lambda_min_residual=5.3e-6,
        top=top,
        residuals=(1.2e-7, 1.2e-7, 3.1e-7),
        trace=6580.1,
        trace_se=84.4,
        matvecs=37,
        density=density,
    )


def document(command: str = "report", globs: tuple[str, ...] = (), **changes: object) -> Document:
    """A document of one checkpoint with all that the command asks; `changes` replace its keys."""
    made = {
        "graph": graph,
        "bound": bound,
        "spectrum": spectrum,
        "gradient": gradient,
        "ensemble": ensemble,
        "shortcut": shortcut,
        "scaling": scaling,
    }
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
        shortcut=shortcut((name,)),
        scaling=scaling((name,)),
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
