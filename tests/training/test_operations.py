"""Floating-point operations, counted by hand: two for each multiplication that is added to a sum."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from dmlbench.overhead.operations import operations


@pytest.mark.parametrize(
    ("layer", "products"),
    [
        # positions of the output x weights, for 2 images; of a transposed one positions of the input
        (nn.Conv2d(4, 6, 3, padding=1, bias=False), 8 * 8 * 4 * 6 * 9),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2, bias=False), 4 * 4 * (4 * 8 * 9 // 2)),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4), 8 * 8 * 4 * 9),  # depthwise
        (nn.ConvTranspose2d(4, 6, 2, stride=2, bias=False), 8 * 8 * 4 * 6 * 4),
        (nn.ConvTranspose2d(4, 4, 2, stride=2, groups=4, bias=False), 8 * 8 * 4 * 4),
    ],
    ids=["plain", "grouped", "depthwise", "transposed", "transposed depthwise"],
)
def test_a_convolution_and_its_two_gradients_take_the_same(layer, products):
    images = torch.rand(2, 4, 8, 8)
    assert operations(lambda: layer(images)) == 2 * 2 * products
    assert operations(lambda: layer(images).sum().backward()) == 2 * (2 * 2 * products)  # nothing learns the images
    images.requires_grad_()
    assert operations(lambda: layer(images).sum().backward()) == 3 * (2 * 2 * products)


def test_attention_is_counted_on_a_cpu():
    queries, keys, values = (torch.rand(2, 3, 5, 8, requires_grad=True) for _ in range(3))
    products = 2 * 3 * (5 * 5 * 8)  # of queries and keys; as many of their weights and values
    forward = 2 * (2 * products)
    assert operations(lambda: functional.scaled_dot_product_attention(queries, keys, values)) == forward
    # backward: the weights anew, and two products for each of the two
    both = operations(lambda: functional.scaled_dot_product_attention(queries, keys, values).sum().backward())
    assert both == forward + 2 * (5 * products)


@torch.no_grad()
def test_a_transformer_in_evaluation_mode_is_counted_as_in_training():
    block, tokens = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), torch.rand(2, 5, 8)
    training = operations(lambda: block.train()(tokens))
    assert operations(lambda: block.eval()(tokens)) == training > 0
    assert torch.backends.mha.get_fastpath_enabled()
