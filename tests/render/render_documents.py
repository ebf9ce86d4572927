"""A document of every kind: each analysis, all of them, a comparison, a remedy, a verdict."""

from __future__ import annotations

from typing import Any

from render_factory import ANALYSES, document, used
from test_render_comparison import family, missing, series

from resnet_audit.results import (
    Accuracy,
    BlockRatios,
    Finding,
    IsometryNumbers,
    ProcrustesBlock,
    ProcrustesLayer,
    ProcrustesResult,
    Summary,
)


def procrustes() -> ProcrustesResult:
    layers = tuple(
        ProcrustesLayer(
            name=f"layer{stage}.0.downsample.0",
            block=f"layer{stage}.0",
            placement="shortcut",
            shape=(16 << stage, 8 << stage, 1, 1),
            stride=(2, 2),
            groups=1,
            grid=(64 >> stage, 64 >> stage),
            target=1.4142,
            iterations=7,
            deficient=0,
            before=IsometryNumbers(sigma_max=2.91, sigma_min=0.031, mean_deviation=0.43, near_target=0.11, gain=0.52),
            after=IsometryNumbers(sigma_max=1.414, sigma_min=1.41, mean_deviation=0.001, near_target=1.0, gain=0.99),
            kernel_change=0.38,
        )
        for stage in (2, 3)
    )
    return ProcrustesResult(
        kernels="raw",
        layers=layers,
        blocks=(
            ProcrustesBlock(
                name="layer2.0",
                before=BlockRatios(ratio=0.71, ratio_rms=0.69),
                after=BlockRatios(ratio=0.98, ratio_rms=None),
            ),
        ),
        objective="logit",
        inputs=used(0.14),
        accuracy=Accuracy(n=1797, before=0.981, after=0.953),
        iterations=30,
        target="auto",
        output="better.pt",
    )


def checked(document_: Any | None = None) -> Any:
    """A document of `check` with a finding of each status."""
    whole = document_ or document("spectrum")
    common = {"where": "layer3.2.conv2", "value": 8.43, "op": "le", "rule": "max", "checkpoint": "resnet20.th"}
    findings = [
        Finding(metric="spectrum.sigma_max", limit=4.0, baseline=None, status="fail", **common),
        Finding(metric="spectrum.sigma_max", limit=8.0, baseline=8.5, status="held", **common),
        Finding(metric="spectrum.sigma_max", limit=9.0, baseline=None, status="pass", **common),
    ]
    summary = Summary(failed=1, held=1, passed=1, problems=("x.pt: no number for gradient.c_hat",))
    return {**whole, "command": "check", "findings": findings, "summary": summary}


def every_document() -> dict[str, Any]:
    """A document of every kind."""
    kinds = {name: document(name) for name in (*ANALYSES, "report")}
    kinds["procrustes"] = document("procrustes", procrustes=procrustes())
    return kinds | {"series": series(), "family": family(), "missing": missing(), "check": checked()}
