"""The VAE of actions: its loss, derived independently, and its divergences of actions far from the data."""

import numpy as np
import torch

from sb3_prefine.baselines.networks import ActionVAE
from tests.baselines.critics_by_hand import decoded, divergences, numbers, posterior

RNG = np.random.default_rng(0)
OBSERVATIONS, ACTIONS = RNG.normal(size=(6, 4)), RNG.uniform(-1, 1, (6, 2))


def tensor(values: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float32)


def vae() -> ActionVAE:
    torch.manual_seed(0)
    return ActionVAE(4, 2, (7, 5))


def test_the_loss_is_squared_error_plus_half_the_divergence():
    model = vae()
    found = model.loss(tensor(OBSERVATIONS), tensor(ACTIONS), torch.Generator().manual_seed(3)).item()
    noise = numbers(torch.randn((6, 4), generator=torch.Generator().manual_seed(3)))
    mean, log_std = posterior(model, OBSERVATIONS, ACTIONS)
    error = (decoded(model, OBSERVATIONS, mean + np.exp(log_std) * noise) - ACTIONS) ** 2
    np.testing.assert_allclose(found, error.mean() + 0.5 * divergences(mean, log_std).mean(), rtol=1e-5)


def test_divergences_belong_to_each_action_at_its_state():
    model = vae()
    many = RNG.uniform(-1, 1, (3, 6, 2))
    found = model.divergences(tensor(OBSERVATIONS), tensor(many)).detach()
    assert found.shape == (3, 6)
    np.testing.assert_allclose(found, divergences(*posterior(model, OBSERVATIONS, many)), rtol=1e-5)


def test_actions_far_from_the_data_diverge_more():
    model, generator = vae(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(300):
        observations = torch.randn((64, 4), generator=generator)
        actions = 0.1 * torch.randn((64, 2), generator=generator) - 0.5
        optimizer.zero_grad()
        model.loss(observations, actions, generator).backward()
        optimizer.step()
    with torch.no_grad():
        of_data, far = model.divergences(observations, torch.stack((actions, actions + 1.3)))
    assert (far > of_data).float().mean() > 0.95
