"""The networks of ``CVAEPolicy``: its conditional MLP, and the features extractor for a space."""

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


class ConditionalMLP(nn.Module):
    """
    An MLP with two inputs: the features of a state, and an action or a latent at that state.

    The first layer is the sum of two linear layers, one for each input. So the features (B, F) pass through it once,
    whatever leading dimensions the other input (…, B, D) has.

    :param n_features: F, size of the features.
    :param n_others: D, size of the other input.
    :param net_arch: Units of each hidden layer.
    :param n_outputs: Number of outputs.
    :param activation_fn: Activation between the layers.
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
        # Saved files contain the names of these three attributes.
        self.of_features = nn.Linear(n_features, sizes[0])
        self.of_others = nn.Linear(n_others, sizes[0], bias=False)
        layers = ((activation_fn(), nn.Linear(*pair)) for pair in pairwise(sizes))
        self.rest = nn.Sequential(*(module for pair in layers for module in pair))

    def forward(self, features: Tensor, others: Tensor) -> Tensor:
        """
        :param features: Features of B states, (B, F).
        :param others: Actions or latents, (…, B, D).
        :return: Outputs, (…, B, n_outputs).
        """
        return self.rest(self.of_features(features) + self.of_others(others))


def default_extractor(observation_space: spaces.Space) -> type[BaseFeaturesExtractor]:
    """
    Choose the features extractor that SB3's policies use for a space.

    :param observation_space: Space of the observations.
    """
    if isinstance(observation_space, spaces.Dict):
        return CombinedExtractor
    return NatureCNN if is_image_space(observation_space) else FlattenExtractor
