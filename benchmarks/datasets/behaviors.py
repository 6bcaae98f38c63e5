"""Agents for the generated data: small Gaussian policies with only the arrays that acting needs."""

import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from sb3_prefine.utils.files import write_atomically

CLIP = 10.0  # largest normalised observation, VecNormalize's default
# Processors differ in the order of their sums. Actions are computed in float64 and rounded to this many decimals, so
# they are the same on all processors, and episodes differ only where the simulator differs.
DECIMALS = 4

Layers = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Behavior:
    """
    A Gaussian policy with two hidden tanh layers on normalised observations, with SB3's ``predict``.

    :param mean: (D,) mean of the observations.
    :param std: (D,) standard deviation of the observations.
    :param weights: (out, in) weights of each of the three layers.
    :param biases: (out,) biases of each of the three layers.
    :param log_std: (A,) log standard deviation of the actions.
    """

    mean: np.ndarray
    std: np.ndarray
    weights: Layers
    biases: Layers
    log_std: np.ndarray

    @classmethod
    def from_ppo(cls, model: PPO, normalize: VecNormalize) -> "Behavior":
        """Copy the actor of a PPO with SB3's default network, in half precision."""
        policy, statistics = model.policy, normalize.obs_rms
        assert isinstance(statistics, RunningMeanStd)  # a Dict observation space has more than one
        first, second = (policy.mlp_extractor.policy_net[i] for i in (0, 2))
        last = policy.action_net
        return cls(
            mean=statistics.mean.astype(np.float32),
            std=np.sqrt(statistics.var + normalize.epsilon).astype(np.float32),
            weights=(_half(first.weight), _half(second.weight), _half(last.weight)),
            biases=(_half(first.bias), _half(second.bias), _half(last.bias)),
            log_std=policy.log_std.detach().numpy().copy(),
        )

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, None]:
        """
        Compute actions, as SB3's ``predict`` does.

        :param observation: (N, D) raw observations.
        :param state: Not used.
        :param episode_start: Not used.
        :param deterministic: Whether to take the mean. Otherwise noise is drawn from NumPy's global random state.
        :return: (N, A) rounded actions, not clipped, and None.
        """
        hidden = np.clip((np.asarray(observation, np.float64) - self.mean) / self.std, -CLIP, CLIP)
        for weight, bias in zip(self.weights[:2], self.biases[:2], strict=True):
            hidden = np.tanh(hidden @ weight.T.astype(np.float64) + bias)
        actions = hidden @ self.weights[2].T.astype(np.float64) + self.biases[2]
        if not deterministic:
            noise = np.random.normal(size=actions.shape)  # noqa: NPY002
            actions = actions + np.exp(self.log_std.astype(np.float64)) * noise
        return actions.round(DECIMALS).astype(np.float32), None

    def with_noise(self, factor: float) -> "Behavior":
        """
        Copy the agent with other noise.

        :param factor: Factor by which the standard deviation of the actions is multiplied.
        :return: The copy.
        """
        return replace(self, log_std=self.log_std + np.float32(np.log(factor)))


@dataclass(frozen=True, eq=False)
class Behaviors:
    """
    Behaviors of one task, in the order of training.

    :param columns: (n_behaviors, …) stacked arrays of the behaviors, by name.
    """

    columns: dict[str, np.ndarray]

    @classmethod
    def stack(cls, behaviors: Sequence[Behavior]) -> "Behaviors":
        """Stack one or more behaviors."""
        arrays = [_arrays(behavior) for behavior in behaviors]
        return cls({name: np.stack([a[name] for a in arrays]) for name in arrays[0]})

    @classmethod
    def load(cls, path: Path) -> "Behaviors":
        """Read a file that :meth:`save` wrote."""
        with np.load(path) as file:
            return cls({name: file[name] for name in file.files})

    def save(self, path: Path) -> None:
        """Write the behaviors atomically. The same behaviors give the same bytes; np.savez would write the time."""
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for name, column in self.columns.items():
                array = io.BytesIO()
                np.lib.format.write_array(array, column, allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), array.getvalue(), zipfile.ZIP_LZMA)
        write_atomically(path, content.getvalue())

    def __len__(self) -> int:
        return len(self.columns["mean"])

    def __getitem__(self, index: int) -> Behavior:
        c = {name: column[index] for name, column in self.columns.items()}
        return Behavior(
            mean=c["mean"],
            std=c["std"],
            weights=(c["weight_0"], c["weight_1"], c["weight_2"]),
            biases=(c["bias_0"], c["bias_1"], c["bias_2"]),
            log_std=c["log_std"],
        )

    def __iter__(self) -> Iterator[Behavior]:
        return (self[i] for i in range(len(self)))


def _arrays(behavior: Behavior) -> dict[str, np.ndarray]:
    return {
        "mean": behavior.mean,
        "std": behavior.std,
        "log_std": behavior.log_std,
        **{f"weight_{i}": weight for i, weight in enumerate(behavior.weights)},
        **{f"bias_{i}": bias for i, bias in enumerate(behavior.biases)},
    }


def _half(parameter: torch.Tensor) -> np.ndarray:
    return parameter.detach().numpy().astype(np.float16)
