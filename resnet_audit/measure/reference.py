"""The weights that a margin bound measures from: those of another checkpoint of the same network, such as its start.

Source     the reference matrices M_i of arXiv 1706.08498, eq. 1.2; theory note `bound`, 2.4.
Formula    b = norm of folded(K) - folded(K_ref), each folded with the statistics of its own file
Guarantee  none on where it comes from: the bound holds for a reference fixed before the training data were seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from resnet_audit.checkpoint import load
from resnet_audit.errors import AuditError, NonFinite, UnreadableCheckpoint, UsageError
from resnet_audit.graph import discover
from resnet_audit.graph.describe import describe
from resnet_audit.graph.fold import finite, fold_norms
from resnet_audit.graph.ir import Conv, Linear, Node, Norm
from resnet_audit.linear import one_library_thread

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from resnet_audit.graph import ResidualGraph
    from resnet_audit.results import Note
    from resnet_audit.settings import Settings

NO_REFERENCE = "a checkpoint that cannot serve as reference"
SAME_NETWORK = "name a checkpoint of the same network, such as the start of its training"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The folded weight nodes of a reference and its norms left alone, by name; notes: what its file deserves."""

    layers: Mapping[str, Node]
    notes: tuple[Note, ...]


def read_reference(graph: ResidualGraph, folded: Iterable[Node], settings: Settings) -> Reference:
    """The layers of the checkpoint `settings.reference`: those of `folded`, by the same names, of the same shapes.

    graph, folded: the network that is audited, as found and with its norms folded. Its strides and the like count,
    whatever those of the reference are. Raises UnreadableCheckpoint and UsageError, with the path of the reference.
    """
    path = settings.reference
    if path is None:
        raise UsageError("there is no reference without --reference; give a checkpoint")
    if path == "-":
        raise UsageError("--reference -: standard input is no file to come back to; save it and name the file")
    checkpoint = load(path, settings.key)
    try:
        other = discover(checkpoint, replace(settings, input_size=graph.input_size))
        found = _layers(_folded(other))
    except UnreadableCheckpoint:
        raise
    except AuditError as error:
        raise UsageError(f"{path}: {NO_REFERENCE}; {error}") from error
    _require_same(path, _layers(folded), found)
    notes = {note.code: note for note in (*describe(checkpoint, other).notes, *checkpoint.notes)}
    return Reference(
        layers=found, notes=tuple(replace(note, message=f"{path}: {note.message}") for note in notes.values())
    )


@one_library_thread()
def _folded(graph: ResidualGraph) -> tuple[Node, ...]:
    """The folded nodes of the reference. Raises NotRunnable and NonFinite."""
    graph.require_runnable()
    _require_finite(graph.nodes)
    nodes = fold_norms(graph.nodes).nodes
    _require_finite(nodes)
    return nodes


def _require_finite(nodes: Iterable[Node]) -> None:
    broken = next((node.name for node in nodes if not finite(node.op)), None)
    if broken is not None:
        raise NonFinite(f"its {broken} holds NaN or infinite numbers, from which nothing can be measured; name another")


def _layers(nodes: Iterable[Node]) -> dict[str, Node]:
    return {node.name: node for node in nodes if isinstance(node.op, Conv | Linear | Norm)}


def _require_same(path: str, wanted: Mapping[str, Node], found: Mapping[str, Node]) -> None:
    """Raise UnreadableCheckpoint with the first layer, in the order of the audited network, that differs."""
    for name, node in wanted.items():
        if name not in found:
            why = f"it has no {name}, which the audited network has"
            raise UnreadableCheckpoint(path, NO_REFERENCE, why, SAME_NETWORK)
        if _size(found[name]) != _size(node):
            why = f"its {name} is a {_size(found[name])}, that of the audited network a {_size(node)}"
            raise UnreadableCheckpoint(path, NO_REFERENCE, why, SAME_NETWORK)
    more = next((name for name in found if name not in wanted), None)
    if more is not None:
        raise UnreadableCheckpoint(
            path, NO_REFERENCE, f"it has {more}, which the audited network has not", SAME_NETWORK
        )


def _size(node: Node) -> str:
    """Kind and shape of a layer, as in `conv of 16x3x3x3`."""
    op = node.op
    shape = op.weight.shape if isinstance(op, Conv | Linear) else op.mean.shape if isinstance(op, Norm) else ()
    return f"{type(op).__name__.lower()} of {'x'.join(map(str, shape))}"
