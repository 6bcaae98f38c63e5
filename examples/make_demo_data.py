"""
Make the files of `sb3-prefine demo`: a policy that breaks a speed limit, and preferred and dispreferred episodes.

    python examples/make_demo_data.py        # 20 minutes on one core

1. PPO with a small network trains on HalfCheetah for reward alone. Its return is high, and it is nearly always faster
   than 3.2096 m/s, the limit of Safety-Gymnasium's SafetyHalfCheetahVelocity-v1.
2. The dispreferred data are five of its own episodes. The preferred data are episodes of slower gaits: of the same
   policy with all its actions scaled down.
"""

from pathlib import Path

import mujoco
import stable_baselines3
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

import sb3_prefine
import sb3_prefine.envs
from sb3_prefine import Trajectories, collect, load_reference

ENV_ID = "SpeedLimitHalfCheetah-v0"
COST_LIMIT = 25.0
FOLDER = Path(sb3_prefine.__file__).parent / "cli" / "demo_data"
TIMESTEPS = 1_000_000
# Factors on the actions, for speeds just below the limit.
SCALES = (0.70, 0.72, 0.74)


def train() -> None:
    """Train PPO with normalised observations, and save it in RL Zoo's layout."""
    env = VecNormalize(make_vec_env(ENV_ID, n_envs=8, seed=0), gamma=0.98)
    model = PPO(
        "MlpPolicy",
        env,
        learning_rate=LinearSchedule(3e-4, 3e-5, 1.0),
        n_steps=256,
        batch_size=128,
        n_epochs=10,
        gamma=0.98,
        gae_lambda=0.92,
        clip_range=0.15,
        ent_coef=4e-4,
        vf_coef=0.58,
        max_grad_norm=0.8,
        policy_kwargs={
            "net_arch": [64, 64],
            "activation_fn": torch.nn.ReLU,
            "ortho_init": False,
            "log_std_init": -1.5,
        },
        seed=0,
        device="cpu",
    )
    model.learn(TIMESTEPS, progress_bar=True)
    (FOLDER / "reference").mkdir(parents=True, exist_ok=True)
    model.save(FOLDER / "reference.zip", exclude=["_last_obs", "_last_episode_starts", "ep_info_buffer"])
    env.save(str(FOLDER / "reference" / "vecnormalize.pkl"))
    (FOLDER / "reference" / "config.yml").write_text("normalize: true\n")


def choose_episodes() -> None:
    """Record the episodes of the policy and of the slower gaits, and choose the preferred ones."""
    reference = load_reference(FOLDER / "reference.zip")
    dispreferred = collect(reference, ENV_ID, n_episodes=5, n_envs=5, seed=1)
    gaits = Trajectories.concatenate(
        [
            collect(
                reference, ENV_ID, n_episodes=6, n_envs=6, seed=2, action_transform=lambda actions, s=scale: s * actions
            )
            for scale in SCALES
        ]
    )
    safe = gaits[gaits.episode_costs <= COST_LIMIT]
    preferred = safe[safe.episode_returns.argsort()[-8:]]
    print(f"slower gaits: {gaits}\npreferred: {preferred}\ndispreferred: {dispreferred}")
    versions = {
        "made_by": "examples/make_demo_data.py",
        "sb3_prefine": sb3_prefine.__version__,
        "stable_baselines3": stable_baselines3.__version__,
        "mujoco": mujoco.__version__,
    }
    preferred.to_hdf5(FOLDER / "preferred.hdf5", attributes=versions)
    dispreferred.to_hdf5(FOLDER / "dispreferred.hdf5", attributes=versions)


if __name__ == "__main__":
    torch.set_num_threads(1)
    train()
    choose_episodes()
