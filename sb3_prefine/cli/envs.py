"""``sb3-prefine envs``."""


def envs(install: bool = False) -> None:
    """
    List the Safety* environments, or install their packages.

    safety-gymnasium, bullet-safety-gym and dsrl pin versions that cannot be installed next to Stable-Baselines3 2.9.
    This command installs them without their pins. sb3_prefine.envs makes them work.

    :param install: Install the packages before listing the environments.
    """
    from rich.console import Console
    from rich.table import Table

    from sb3_prefine.envs import CATALOGUE
    from sb3_prefine.envs.install import install_safety_packages, installed_packages

    if install:
        install_safety_packages()
    for package, version in installed_packages().items():
        print(f"{package} {version or 'not installed: sb3-prefine envs --install'}")
    table = Table("environment", "package", "obs.", "act.", "horizon")
    table.columns[0].no_wrap = True
    for env in CATALOGUE:
        sizes = (env.observation_size, env.action_size, env.max_episode_steps)
        table.add_row(env.id, env.package, *(str(size) for size in sizes))
    Console().print(table)
