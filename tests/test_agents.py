"""The agents: each runs as it is called, and the planner finds the plan that pays."""

import subprocess
import sys

import numpy as np
import pytest
from fake_world import FakeWorld

from worldsim.agents import planner, ppo_sb3, random_policy
from worldsim.agents.planner import Planner, Player, look_at
from worldsim.agents.random_policy import interval, returns
from worldsim.dream.vector_env import WorldModelVectorEnv

QUICK = ["--episodes", "2", "--limit", "6"]


def fake(rows=3, **arguments):
    return WorldModelVectorEnv(FakeWorld(**({"end": 0.0} | arguments)), rows)


def test_returns_are_of_one_episode_in_each_row():
    envs, twin = fake(4, end=0.2), fake(4, end=0.2)
    found = returns(envs, lambda _: np.ones(4, int), seed=3)
    twin.reset(seed=3)
    expected, open_rows = np.zeros(4), np.ones(4, bool)
    for _ in range(100):
        _, rewards, terminated, _, _ = twin.step(np.ones(4, int))
        expected[open_rows] += rewards[open_rows]
        open_rows &= ~terminated
    assert not open_rows.any() and np.allclose(found, expected) and len(set(found)) == 4


def test_the_interval_holds_the_mean():
    assert interval(np.array([1.0, 1.0, 1.0])) == "+1.00 [+1.00, +1.00]"
    mean, low, high = map(float, interval(np.arange(100.0)).translate(str.maketrans("[],", "   ")).split())
    assert mean == 49.5 and 40 < low < mean < high < 60


def test_the_planner_finds_the_action_that_pays():
    dream = fake()
    dream.reset(seed=0)
    plan = Planner(dream, choices=2, hold=2, candidates=32, rounds=3)
    before = dream.get_state().to_bytes()
    assert plan(dream.get_state()).tolist() == [3, 3, 3]  # the fake world's reward is luck and the action's number
    assert dream.get_state().to_bytes() == before


def test_the_planner_stays_alive_where_that_pays():
    class Deadly(FakeWorld):
        """Action 3 pays most at once and ends the episode; 1 pays for ever."""

        def step(self, state, action):
            state, outcome = super().step(state, action)
            chosen = action.argmax(-1)
            return state, type(outcome)(chosen.float(), chosen == 3)

        def foresee(self, state, action):
            state, outcome = self.step(state, action)
            return state, type("Known", (), {
                "reward_mean": outcome.reward, "end_probability": outcome.terminated.float()})  # fmt: skip

    dream = WorldModelVectorEnv(Deadly(), 2)
    dream.reset(seed=0)
    assert Planner(dream, choices=3, hold=2, candidates=64, rounds=3)(dream.get_state()).tolist() == [2, 2]


def test_a_player_holds_its_choice_and_looks_at_the_last_frames():
    looks = []
    plan = lambda state: np.full(2, state)  # noqa: E731
    plan.hold = 3
    player = Player(plan, lambda frames, taken: looks.append(([*frames], [*taken])) or len(looks), window=2)
    acts = [player(np.full(2, i)).tolist() for i in range(7)]
    assert acts == [[1, 1]] * 3 + [[2, 2]] * 3 + [[3, 3]]
    assert [([f[0] for f in frames], [t[0] for t in taken]) for frames, taken in looks] == [
        ([0], []), ([2, 3], [1]), ([5, 6], [2])]  # fmt: skip


def test_what_real_frames_show_becomes_the_dreams_state():
    dream = fake(2)
    frames = [np.full((2, 40, 48, 3), grey, np.uint8) for grey in (3, 4)]
    state = look_at(dream)(frames, [np.array([1, 2])])
    twin = fake(2)
    clip = {"frames": np.stack(frames, 1), "actions": np.array([[1], [2]])}
    twin.reset(seed=0, options={"prompt": clip})
    assert state.to_bytes() == twin.get_state().to_bytes()
    assert state.to_bytes() != look_at(dream)(frames[1:], []).to_bytes()


@pytest.mark.parametrize("agent", [random_policy, planner, ppo_sb3], ids=lambda agent: agent.__name__)
def test_help_says_what_it_does_and_lists_its_arguments(agent, capsys):
    with pytest.raises(SystemExit) as stop:
        agent.main(["--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0 and "python -m worldsim.agents" in out and "--world" in out


def test_agents_run_as_modules():
    command = [sys.executable, "-m", "worldsim.agents.random_policy", "--help"]
    assert "--episodes" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_random_and_planner_play_the_dream_and_the_real_game(capsys):
    random_policy.main(QUICK)
    planner.main([*QUICK, "--choices", "2", "--candidates", "3", "--rounds", "1"])
    out = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].strip() for line in out] == ["random, dream", "random,  real", "dream", "real"]
    assert all("planner" in line and "random" in line for line in out[2:])


@pytest.mark.slow
@pytest.mark.parametrize("where", ["dream", "real"])
def test_ppo_learns_in_either_and_is_judged_in_the_real_game(where, capsys, tmp_path):
    path = tmp_path / "agent.zip"
    ppo_sb3.main([*QUICK, "--train", where, "--timesteps", "512", "--num-envs", "4", "--out", str(path)])
    out = capsys.readouterr().out
    assert f"in the {where} at the end" in out and "in the real game: PPO" in out and path.exists()
