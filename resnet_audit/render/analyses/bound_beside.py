"""Beside the covering bound: where weight decay acts, and the other measures of the same network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnet_audit.render import words
from resnet_audit.render.fit import Column
from resnet_audit.render.parts import Part, Table

if TYPE_CHECKING:
    from resnet_audit.results import BoundLayer, BoundResult

ADVICE_ROWS = 6
SHOWN_MEASURES = ("LOG_SPEC_ORIG_MAIN", "FRO_OVER_SPEC", "LOG_PROD_OF_FRO")


def advice_parts(layers: tuple[BoundLayer, ...]) -> list[Part]:
    """The layers whose squared norm costs the patch cover most, first; the others are in the JSON."""
    known = [(layer, layer.gain_per_square.patch) for layer in layers if layer.gain_per_square is not None]
    ranked = sorted(((gain, layer) for layer, gain in known if gain is not None), key=lambda pair: -pair[0])
    if not ranked:
        return []
    rows = [layer for _, layer in ranked[:ADVICE_ROWS]]
    shown = f"{len(rows)} of {len(ranked)} layers (all with --format json)" if len(ranked) > len(rows) else "all layers"
    columns = (
        Column(header="weight decay acts on", cells=tuple(_target(layer) for layer in rows), priority=0, align="left"),
        Column(header="norm", cells=words.numbers([layer.frobenius for layer in rows]), priority=4),
        Column(
            header="share",
            cells=tuple(words.share(layer.share.patch if layer.share else None) for layer in rows),
            priority=3,
        ),
        Column(
            header="sensitivity",
            cells=words.numbers([layer.sensitivity.patch if layer.sensitivity else None for layer in rows]),
            priority=2,
        ),
        Column(
            header="-10 % of norm",
            cells=words.numbers([layer.log10_change.patch if layer.log10_change else None for layer in rows]),
            priority=3,
        ),
        Column(header="per squared norm", cells=words.numbers([gain for gain, _ in ranked[:ADVICE_ROWS]]), priority=1),
    )
    caption = (
        f"{shown}, patch cover, by what a unit of squared norm takes off ln sqrt(R); sensitivity: d ln sqrt(R) / "
        "d ln norm; -10 %: change of log10 of the bound; a norm behind a layer undoes decay of the layer itself"
    )
    return [Table(columns=columns, caption=caption)]


def _target(layer: BoundLayer) -> str:
    return layer.actionable or f"{layer.name} (no parameter)"


def beside_parts(result: BoundResult) -> list[Part]:
    """Certificates, path norms, counting bounds, and the measures that researchers report most."""
    occam = result.occam
    counted = (
        (words.number(value, 3) for value in (occam.fp32, occam.fp16, occam.zlib_fp16))
        if occam is not None
        else (words.UNDEFINED,) * 3
    )
    fp32, fp16, zlib = counted
    rows = [
        ("Lipschitz constant, l2", words.power(result.log10_lipschitz), "certified, at most"),
        ("L1 path norm", words.power(result.log10_path_norm_l1), "exact"),
        ("L1 path norm, largest logit", words.power(result.log10_path_norm_l1_max_logit), "exact"),
        ("L2 path norm", words.power(result.log10_path_norm_l2), "exact"),
        ("path norm term at margin", words.power(result.log10_path_norm_term), "beside the margin risk"),
        ("parameter count bound", words.number(result.parameter_count_bound, 3), "beside the margin risk"),
        ("bits of the net, fp32", fp32, "beside the training error"),
        ("bits of the net, fp16", fp16, "beside the training error"),
        ("bits of the net, fp16 in zlib", zlib, "beside the training error"),
        *((name, words.number(result.measures.get(name), 4), "for comparison") for name in SHOWN_MEASURES),
    ]
    rows = [row for row in rows if row[1] != words.UNDEFINED]
    if not rows:
        return []
    names, values, kinds = zip(*rows, strict=True)
    columns = (
        Column(header="beside it", cells=names, priority=0, align="left"),
        Column(header="value", cells=values, priority=1, align="left"),
        Column(header="what it is", cells=kinds, priority=2, align="left"),
    )
    return [Table(columns=columns, caption=_caption(result))]


def _caption(result: BoundResult) -> str:
    caption = "BN folded; a bound of 1 or more says nothing; `resnet-audit explain bound` tells what each number means"
    others = [name for name, value in result.measures.items() if value is not None and name not in SHOWN_MEASURES]
    return f"{caption}; {words.count(len(others), 'more measure')} with --format json" if others else caption
