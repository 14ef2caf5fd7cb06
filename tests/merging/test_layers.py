"""Places of tensors in a model."""

from __future__ import annotations

import pytest

from lrnb.merging.layers import places_of


def test_what_is_outside_the_layers_comes_before_or_after_them():
    names = ["model.embed_tokens.weight", *(f"model.layers.{i}.mlp.up_proj.weight" for i in range(5))]
    names += ["model.norm.weight", "lm_head.weight"]
    found = places_of(names)
    assert [found[name].layer for name in names] == [-1, 0, 1, 2, 3, 4, 5, 5]
    assert [found[name].depth for name in names] == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1]


def test_every_stack_counts_its_own_layers():
    names = ["vision.blocks.1.w", "vision.blocks.0.w", "text.layers.3.w", "text.embed.w", "transformer.wte.w"]
    found = places_of(names)
    assert [found[name].layers for name in names] == [2, 2, 4, 4, 4]
    assert [found[name].depth for name in names] == [1, 0, 1, 0, 0]


@pytest.mark.parametrize(("name", "depth"), [("embed.w", 0), ("layers.0.w", 1), ("norm.w", 1), ("w", 1)])
def test_one_layer_or_none(name, depth):
    names = ["embed.w", "layers.0.w", "norm.w"] if name != "w" else ["w"]
    assert places_of(names)[name].depth == depth
