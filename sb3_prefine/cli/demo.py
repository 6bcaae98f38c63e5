"""``sb3-prefine demo``."""

from pathlib import Path


def demo(out: Path = Path("runs/demo"), steps: int = 3_000, episodes: int = 20, seed: int = 0) -> None:
    """
    See a policy that runs too fast become safe, in a minute.

    A HalfCheetah that PPO trained earns its reward and breaks a speed limit. Five of its own episodes are called bad,
    and a few episodes of slower gaits good: PREFINE learns from them, without touching the environment. Everything
    that is needed came with the package.

    :param out: the folder for the fine-tuned zip and the picture
    :param steps: gradient steps
    :param episodes: evaluation episodes, before and after
    :param seed: of the training; the evaluation's is the next
    """
    from sb3_prefine.cli.run_demo import run_demo

    run_demo(out, steps, episodes, seed)
