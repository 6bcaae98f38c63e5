"""The networks of SafeDICE and CPQ in NumPy and double precision, and the noise that a model draws."""

from collections.abc import Callable

import numpy as np
import torch

from sb3_prefine.baselines.networks import ActionVAE, Critics
from sb3_prefine.training.offline_algorithm import OfflineAlgorithm


def numbers(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def reseeded(model: OfflineAlgorithm, seed: int = 1) -> torch.Generator:
    """Seed a model, and return a generator of the numbers that it will draw."""
    model.set_random_seed(seed)
    return torch.Generator().manual_seed(seed)


def outputs(critics: Critics, inputs: np.ndarray) -> np.ndarray:
    """The outputs of n critics, (n, B)."""
    layers = [(numbers(weight), numbers(bias)) for weight, bias in zip(critics.weights, critics.biases, strict=True)]
    rows = []
    for i in range(len(layers[0][0])):
        values = inputs
        for weight, bias in layers[:-1]:
            values = np.maximum(values @ weight[i] + bias[i], 0.0)
        rows.append((values @ layers[-1][0][i] + layers[-1][1][i])[:, 0])
    return np.stack(rows)


def slopes(function: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """The gradients of a function (B, D) -> (B,), by central differences, (B, D)."""
    columns = []
    for shift in step * np.eye(inputs.shape[1]):
        columns.append((function(inputs + shift) - function(inputs - shift)) / (2 * step))
    return np.stack(columns, axis=1)


def posterior(vae: ActionVAE, observations: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and log-std of the latent z."""
    mean, log_std = np.split(_conditional(vae.encoder, observations, actions), 2, axis=-1)
    return mean, np.clip(log_std, -4.0, 15.0)


def decoded(vae: ActionVAE, observations: np.ndarray, latents: np.ndarray) -> np.ndarray:
    return np.tanh(_conditional(vae.decoder, observations, latents))


def divergences(mean: np.ndarray, log_std: np.ndarray) -> np.ndarray:
    """KL(N(mean, std) || N(0, 1)), averaged over the last dimension."""
    std = np.exp(log_std)
    return (-0.5 * (1.0 + np.log(std**2) - mean**2 - std**2)).mean(axis=-1)


def _conditional(network: torch.nn.Module, observations: np.ndarray, others: np.ndarray) -> np.ndarray:
    weights = {name: numbers(weight) for name, weight in network.named_parameters()}
    values = observations @ weights["of_features.weight"].T + weights["of_features.bias"]
    values = values + others @ weights["of_others.weight"].T
    for i in range(1, len(network.rest), 2):
        values = np.maximum(values, 0.0) @ weights[f"rest.{i}.weight"].T + weights[f"rest.{i}.bias"]
    return values
