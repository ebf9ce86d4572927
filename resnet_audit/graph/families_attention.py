"""Multi-head attention as one operation, for the families that have it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

from resnet_audit.graph.families_plan import NotThisFamily
from resnet_audit.graph.ir import Opaque

if TYPE_CHECKING:
    from torch import Tensor

    from resnet_audit.graph.families_nodes import Given, Writer

HEAD_SIZE = 64


def heads_of(write: Writer, given: Given, width: int) -> int:
    """The number of heads: the configuration's, else as many as heads of 64 fit, which is an assumption."""
    heads = given.number("num_attention_heads", "num_heads", "n_head", "n_heads")
    if heads is None:
        if width % HEAD_SIZE:
            raise NotThisFamily(
                f"the number of heads is not stored, and {width} channels are no multiple of {HEAD_SIZE}"
            )
        heads = width // HEAD_SIZE
        write.assume(f"attention has {heads} heads of {HEAD_SIZE} channels, the usual size; their number is not stored")
    if width % heads:
        raise NotThisFamily(f"{heads} heads do not divide {width} channels")
    return heads


def attention(write: Writer, name: str, sources: tuple[str, ...], heads: int, *, causal: bool = False) -> str:
    """Softmax attention of queries, keys and values, given as three values or packed in one."""
    tokens, packed = write.shapes[sources[0]]
    width = packed // 3 if len(sources) == 1 else packed
    if packed != width * (3 if len(sources) == 1 else 1):
        raise NotThisFamily(f"{sources[0]} does not hold queries, keys and values of one width")

    def value(*inputs: Tensor) -> Tensor:
        parts = inputs[0].chunk(3, dim=-1) if len(inputs) == 1 else inputs
        query, key, content = (part.reshape(*part.shape[:2], heads, -1).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(query, key, content, is_causal=causal)
        return mixed.transpose(1, 2).flatten(2)

    op = Opaque(name="scaled_dot_product_attention", function=value)
    return write.add(name, op, *sources, shape=(tokens, width))
