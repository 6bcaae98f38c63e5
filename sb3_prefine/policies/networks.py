"""The networks of ``CVAEPolicy``: its MLP, and the features extractor for a space."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
)
from torch import Tensor, nn


def default_extractor(observation_space: spaces.Space) -> type[BaseFeaturesExtractor]:
    """The features extractor that SB3's policies have for a space."""
    if isinstance(observation_space, spaces.Dict):
        return CombinedExtractor
    return NatureCNN if is_image_space(observation_space) else FlattenExtractor


class Conditional(nn.Module):
    """
    A multilayer perceptron of the features of a state and of something else there.

    Its first layer is a sum of two, so that the features (B, F) pass it once, whatever leading dimensions the other
    input (…, B, D) has.
    """

    def __init__(
        self,
        n_features: int,
        n_others: int,
        net_arch: Sequence[int],
        n_outputs: int,
        activation_fn: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        sizes = [*net_arch, n_outputs]
        self.of_features = nn.Linear(n_features, sizes[0])
        self.of_others = nn.Linear(n_others, sizes[0], bias=False)
        layers = ((activation_fn(), nn.Linear(*pair)) for pair in pairwise(sizes))
        self.rest = nn.Sequential(*(module for pair in layers for module in pair))

    def forward(self, features: Tensor, others: Tensor) -> Tensor:
        return self.rest(self.of_features(features) + self.of_others(others))
