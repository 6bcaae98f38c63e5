"""The networks of the CVAE."""

import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from torch import nn

from sb3_prefine.policies.networks import ConditionalMLP, default_extractor
from tests.families import DictEnv, ImageEnv
from tests.worlds import RandomEnv


def test_mlp_of_two_inputs_is_an_mlp_of_their_concatenation():
    network = ConditionalMLP(4, 3, [8, 6], 2, nn.Tanh)
    first = nn.Linear(7, 8)
    with torch.no_grad():
        first.weight.copy_(torch.cat((network.of_features.weight, network.of_others.weight), dim=1))
        first.bias.copy_(network.of_features.bias)
    features, others = torch.randn(5, 4), torch.randn(2, 3, 5, 3)
    both = torch.cat((features.expand(2, 3, 5, 4), others), dim=-1)
    torch.testing.assert_close(network(features, others), network.rest(first(both)))
    assert [layer.out_features for layer in network.rest if isinstance(layer, nn.Linear)] == [6, 2]


@pytest.mark.parametrize(
    ("space", "extractor"),
    [
        (RandomEnv.observation_space, FlattenExtractor),
        (spaces.Discrete(3), FlattenExtractor),
        (ImageEnv.observation_space, NatureCNN),
        (DictEnv.observation_space, CombinedExtractor),
    ],
)
def test_features_extractor_is_sb3_s_for_the_space(space, extractor):
    assert default_extractor(space) is extractor
