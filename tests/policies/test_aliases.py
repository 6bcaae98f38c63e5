"""New policies by a short name."""

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.sac.policies import SACPolicy
from torch import nn

from sb3_prefine.policies.aliases import make_policy
from sb3_prefine.policies.cvae import CVAEPolicy

OBSERVATION_SPACE = spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTION_SPACE = spaces.Box(-1.0, 3.0, (1,), np.float32)


@pytest.mark.parametrize(
    ("alias", "policy_class", "actor"),
    [
        ("MlpPolicy", ActorCriticPolicy, "mlp_extractor.policy_net"),
        ("GaussianPolicy", ActorCriticPolicy, "mlp_extractor.policy_net"),
        ("SquashedPolicy", SACPolicy, "actor.latent_pi"),
        ("CVAEPolicy", CVAEPolicy, "decoder.rest"),
    ],
)
def test_alias_makes_its_class_with_the_layers_of_the_paper(alias, policy_class, actor):
    policy = make_policy(alias, OBSERVATION_SPACE, ACTION_SPACE)
    assert type(policy) is policy_class
    sizes = [module.out_features for module in policy.get_submodule(actor) if isinstance(module, nn.Linear)]
    assert sizes[:1] == [256]
    # The actor is the only network of that size.
    assert sum(p.numel() for p in policy.parameters()) < 150_000
    smaller = make_policy(alias, OBSERVATION_SPACE, ACTION_SPACE, {"net_arch": [8]})
    assert sum(p.numel() for p in smaller.parameters()) < 500


def test_unknown_alias_is_refused():
    with pytest.raises(ValueError, match=r"^policy: 'VAEPolicy'.*GaussianPolicy"):
        make_policy("VAEPolicy", OBSERVATION_SPACE, ACTION_SPACE)
