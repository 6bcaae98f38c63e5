"""While a robot loads, MuJoCo's deprecation messages are suppressed, and its other warnings are not."""

import subprocess
import sys

import mujoco
import pytest

from sb3_prefine.envs.quiet import _warn, without_deprecations


@pytest.mark.parametrize("env_id", ["SpeedLimitHalfCheetah-v0", "SafetyHalfCheetahVelocity-v1"])
def test_making_a_robot_prints_and_logs_nothing(env_id, tmp_path):
    code = f"import gymnasium, sb3_prefine.envs; gymnasium.make({env_id!r}).reset(seed=0)"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout == result.stderr == ""
    assert not list(tmp_path.iterdir())


def test_the_previous_warning_handler_is_restored():
    messages: list[str] = []
    mujoco.set_mju_user_warning(messages.append)
    try:
        before = mujoco.get_mju_user_warning()
        with without_deprecations():
            assert mujoco.get_mju_user_warning() is _warn
        assert mujoco.get_mju_user_warning() is before
    finally:
        mujoco.set_mju_user_warning(None)


def test_other_warnings_become_python_warnings():
    with pytest.warns(UserWarning, match="unstable"):
        _warn("Nan, Inf or huge value in QACC: the simulation is unstable")
    _warn("compiler attribute 'x' is deprecated")


def test_without_mujoco_the_error_names_what_to_install():
    code = (
        "import sys; sys.modules['mujoco'] = None\n"
        "import gymnasium, sb3_prefine.envs; gymnasium.make('SpeedLimitHalfCheetah-v0')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr.splitlines()[-1].startswith("ImportError: This environment needs MuJoCo")
    assert 'pip install "sb3-prefine[demo]"' in result.stderr.splitlines()[-1]
