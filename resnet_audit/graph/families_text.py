"""GPT-2 and BERT from the names that transformers gives their layers."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from torch.nn import functional as F

from resnet_audit.errors import UsageError
from resnet_audit.graph.execute import like
from resnet_audit.graph.families_attention import attention, heads_of
from resnet_audit.graph.families_nodes import Writer
from resnet_audit.graph.families_plan import NotThisFamily
from resnet_audit.graph.ir import Opaque

if TYPE_CHECKING:
    from torch import Tensor

    from resnet_audit.graph.families_nodes import Given, Recipe

TOKENS = 32
"""Tokens of an input whose length nobody gave."""

GPT2_EPS, BERT_EPS = 1e-5, 1e-12

MASKS = re.compile(r"\.attn\.(masked_)?bias$|(^|\.)embeddings\.(position_ids|token_type_ids)$")
"""Buffers of older files that hold no weights: causal masks and position numbers."""


def gpt2(given: Given) -> Recipe:
    """A GPT-2 language model: pre-normalised causal attention and mlp; without a head, the token embedding serves."""
    given, root = _text(given, "wte.weight")
    write, (vocabulary, width) = _tokens(given, f"{root}wte.weight", f"{root}wpe.weight")
    table = given.tensors[f"{root}wte.weight"]
    _embedding(write, f"{root}wte", f"{root}wpe")
    heads = heads_of(write, given, width)
    index = 0
    while write.has(f"{(name := f'{root}h.{index}')}.ln_1.weight"):
        before = write.last
        write.layer_norm(f"{name}.ln_1", eps=GPT2_EPS)
        write.linear(f"{name}.attn.c_attn", turned=True)
        attention(write, f"{name}.attn.attention", (write.last,), heads, causal=True)
        write.linear(f"{name}.attn.c_proj", turned=True)
        before = write.sum(f"{name}.attn", write.last, before)
        write.layer_norm(f"{name}.ln_2", eps=GPT2_EPS)
        write.activation("gelu_tanh", write.linear(f"{name}.mlp.c_fc", turned=True))
        write.linear(f"{name}.mlp.c_proj", turned=True)
        write.sum(f"{name}.mlp", write.last, before)
        index += 1
    write.layer_norm(f"{root}ln_f", eps=GPT2_EPS)
    if write.has("lm_head.weight"):
        write.linear("lm_head")
    else:
        write.matrix("lm_head", table, None)
        write.assume(f"the head is the token embedding ({vocabulary} tokens), as in published models")
    write.assume(f"activations are GELU (tanh form), eps of the layer norms is {GPT2_EPS:g}, attention is causal")
    return write.recipe("GPT-2")


def bert(given: Given) -> Recipe:
    """A BERT encoder with its pooler and classifier where they are there: post-normalised attention and mlp."""
    given, root = _text(given, "embeddings.word_embeddings.weight")
    if f"{root}encoder.layer.0.attention.self.query.weight" not in given.tensors:
        raise NotThisFamily(f"{root}encoder.layer.0.attention.self.query is not in the file")
    words, places = (f"{root}embeddings.{kind}_embeddings" for kind in ("word", "position"))
    write, (_, width) = _tokens(given, f"{words}.weight", f"{places}.weight")
    _embedding(write, words, places, f"{root}embeddings.token_type_embeddings")
    write.layer_norm(f"{root}embeddings.LayerNorm", eps=BERT_EPS)
    heads = heads_of(write, given, width)
    index = 0
    while write.has(f"{(name := f'{root}encoder.layer.{index}')}.attention.self.query.weight"):
        _bert_layer(write, name, heads)
        index += 1
    if write.has(f"{root}pooler.dense.weight"):
        write.add(f"{root}pooler.first", Opaque(name="select", function=_first), shape=(width,))
        write.activation("tanh", write.linear(f"{root}pooler.dense"))
        if write.has("classifier.weight"):
            write.linear("classifier")
    elif write.has("cls.predictions.bias"):
        write.activation("gelu", write.linear("cls.predictions.transform.dense"))
        write.layer_norm("cls.predictions.transform.LayerNorm", eps=BERT_EPS)
        bias, table = write.take("cls.predictions.bias"), given.tensors[f"{words}.weight"]
        write.maybe("cls.predictions.decoder.bias")  # the same numbers again
        own = write.maybe("cls.predictions.decoder.weight", *table.shape)
        write.matrix("cls.predictions.decoder", table if own is None else own, bias)
    write.assume(
        f"activations are GELU, eps of the layer norms is {BERT_EPS:g}",
        "all tokens are of type 0 and none is masked",
    )
    return write.recipe("BERT")


def _bert_layer(write: Writer, name: str, heads: int) -> None:
    before = write.last
    parts = tuple(write.linear(f"{name}.attention.self.{part}", before) for part in ("query", "key", "value"))
    attention(write, f"{name}.attention.self.attention", parts, heads)
    write.linear(f"{name}.attention.output.dense")
    write.sum(f"{name}.attention", write.last, before)
    before = write.layer_norm(f"{name}.attention.output.LayerNorm", eps=BERT_EPS)
    write.activation("gelu", write.linear(f"{name}.intermediate.dense"))
    write.linear(f"{name}.output.dense")
    write.sum(f"{name}.mlp", write.last, before)
    write.layer_norm(f"{name}.output.LayerNorm", eps=BERT_EPS)


def _first(x: Tensor) -> Tensor:
    return x[:, 0]


def _text(given: Given, end: str) -> tuple[Given, str]:
    """The same without masks and with today's names, and the prefix of the key that ends so."""
    renamed = {
        re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", key)): tensor
        for key, tensor in given.tensors.items()
        if not (MASKS.search(key) and (tensor.ndim != 1 or not tensor.is_floating_point()))
    }
    found = [key for key in renamed if key == end or key.endswith(f".{end}")]
    if len(found) != 1:
        raise NotThisFamily(f"{end} occurs {len(found)} times in the file")
    return replace(given, tensors=renamed), found[0].removesuffix(end)


def _tokens(given: Given, words: str, places: str) -> tuple[Writer, tuple[int, int]]:
    """A writer for inputs of token numbers; vocabulary and width."""
    if places not in given.tensors:
        raise NotThisFamily(f"{places} is not in the file")
    vocabulary, width = given.tensors[words].shape
    longest = given.tensors[places].shape[0]
    write = Writer(given, (min(TOKENS, longest),), "tokens, a short text; --input-size sets another", vocabulary)
    if len(write.input_size) != 1 or not 0 < write.input_size[0] <= longest:
        size = "x".join(map(str, write.input_size))
        raise UsageError(
            f"an input of {size} does not fit; the network reads up to {longest} tokens; give --input-size T"
        )
    return write, (vocabulary, width)


def _embedding(write: Writer, words: str, places: str, kinds: str | None = None) -> None:
    """Rows of the token table, then the sum with those of the positions and of the first kind of token."""
    table, (tokens,) = write.take(f"{words}.weight"), write.input_size
    width = table.shape[1]

    def look_up(numbers: Tensor) -> Tensor:
        return F.embedding(numbers.long(), table)

    write.add(words, Opaque(name="embedding", function=look_up, weights=(table,)), shape=(tokens, width))
    rows = write.take(f"{places}.weight")[:tokens]
    if kinds is not None:
        rows = rows + write.take(f"{kinds}.weight")[:1]

    def place(x: Tensor) -> Tensor:
        return x + like(rows, x)

    write.add(places, Opaque(name="position_embedding", function=place, weights=(rows,)), shape=(tokens, width))
