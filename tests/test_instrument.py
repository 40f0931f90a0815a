"""The instrument itself: the real game as its own world model scores perfectly, and every planted fault is caught."""

from dataclasses import replace
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from worldsim.actions import rest_action
from worldsim.data.episodes import Episode, EpisodeStore, EpisodeWriter
from worldsim.data.policies import StickyPolicy
from worldsim.data.recorder import Recorder, dataset_info
from worldsim.envs import arena
from worldsim.evaluation import events
from worldsim.evaluation.control import control
from worldsim.evaluation.controllability import _compare, action_effect, candidates, retrieval
from worldsim.evaluation.drift import SPAN, Reference, drift
from worldsim.evaluation.features import kernel_distance
from worldsim.evaluation.fidelity import fidelity
from worldsim.evaluation.floors import tries
from worldsim.evaluation.habits import Life, _by_age, habits
from worldsim.evaluation.memory import revisits
from worldsim.evaluation.rare import rare
from worldsim.evaluation.returns import _erring, _grades, returns
from worldsim.evaluation.subject import RealGame, Step
from worldsim.evaluation.verdict import verdicts

LEFT, RIGHT = np.array([0.0, 0, 1, 0]), np.array([0.0, 0, 0, 1])
TRAINING = 40  # steps of the network that compares chunks


def make():
    return arena.Arena(max_episode_steps=None)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Twelve episodes of the arena of at most 140 steps."""
    return recorded(tmp_path_factory.mktemp("arena") / "data", 1500)


def recorded(folder, steps):
    env = SyncVectorEnv([make], autoreset_mode=AutoresetMode.DISABLED)
    with EpisodeWriter(folder, dataset_info(env)) as writer:
        policy = StickyPolicy(arena.Arena().action_space, np.random.default_rng(0), longest=8)
        Recorder(env, policy, writer, "sticky", 0, 140).record(steps)
    return EpisodeStore(folder)


@pytest.fixture(scope="module")
def episodes(store):
    return [i for i, record in enumerate(store.records) if record.total_steps > 100][:6]


class Fault:
    """The real game with something wrong; subclasses in the tests say what."""

    window = 1

    def __init__(self):
        self.game = RealGame(make)

    def reset(self, starts, seed=0):
        self.game.reset(starts, seed)
        self.age, self.before = 0, np.stack([start.frames[-1] for start in starts])

    def step(self, actions, look=True):
        result = self.game.step(self.acts(actions))
        frames = self.shows(result.frames)
        self.age, self.before = self.age + 1, frames
        return Step(frames, self.brings(result.reward), result.end)

    def reconstruct(self, frames):
        return frames.copy()

    def acts(self, actions):
        return actions

    def shows(self, frames):
        return frames

    def brings(self, reward):
        return reward


class Late(Fault):
    """Every action shows one frame later."""

    def reset(self, starts, seed=0):
        super().reset(starts, seed)
        self.held = np.nan_to_num(np.stack([start.actions[-1] for start in starts]))

    def acts(self, actions):
        self.held, due = actions, self.held
        return due


class Deaf(Fault):
    """Nobody presses anything."""

    def acts(self, actions):
        return np.tile(rest_action(make().action_space), (len(actions), 1))


class Frozen(Fault):
    """After twenty frames the picture stands still."""

    def shows(self, frames):
        return frames if self.age < 20 else self.before


class Greying(Fault):
    """Every frame is a little greyer than the one before."""

    def shows(self, frames):
        share = min(self.age / 100, 1)
        return (frames * (1 - share) + 128 * share).astype(np.uint8)


class Mean(Fault):
    """Always the mean frame of the recordings."""

    def __init__(self, store):
        super().__init__()
        frames = np.concatenate([store.observations(i) for i in range(len(store))])
        self.mean = frames.mean(0).astype(np.uint8)

    def shows(self, frames):
        return np.tile(self.mean, (len(frames), 1, 1, 1))


class Unjust(Fault):
    """What one row earns, the next is paid."""

    def brings(self, reward):
        return np.roll(reward, 1)


class Ballless(Fault):
    """A codec that keeps everything but the ball."""

    def reconstruct(self, frames):
        rebuilt = frames.copy()
        for frame in rebuilt:
            x, y = arena.decode(frame)["ball"]
            frame[y : y + 3, x : x + 3] = frame[0, 0]
        return rebuilt


class Still(Fault):
    """Keeps showing the last real frame."""

    def shows(self, frames):
        return self.before


@pytest.fixture(scope="module")
def perfect():
    return RealGame(make)


def test_the_real_game_measured_as_its_own_world_is_perfect_frame_by_frame(perfect, store, episodes):
    m = fidelity(perfect, store, episodes, starts=4, probe=arena.decode)
    assert {f["psnr"]["mean"] for f in m["open_loop"].values()} == {100.0} and m["codec"]["psnr"]["mean"] == 100
    assert all(f["detail"]["mean"] == 1 for f in m["open_loop"].values())
    assert all(value["within_1px"] == 1 for value in m["positions"].values())
    assert tries(perfect, store, episodes, 2, count=2)["32"]["psnr"]["mean"] == 100


def test_a_world_that_keeps_the_last_frame_scores_as_copy_last_does(store, episodes):
    m = fidelity(Still(), store, episodes, starts=4)
    assert all(m["open_loop"][h]["psnr"] == m["copy_last"][h]["psnr"] for h in m["copy_last"])


def test_every_future_of_the_real_game_is_told_by_its_action_at_any_age_and_a_deaf_world_guesses(
    perfect, store, episodes
):
    told, deaf = (retrieval(subject, store, episodes, make()) for subject in (perfect, Deaf()))
    for age in ("0", "16", "64"):
        assert told[age]["top1"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
        assert told[age]["frames_to_effect"]["mean"] == 0
        assert deaf[age]["top1"]["high"] < 0.6 and deaf["0"]["chance"] < 0.35
    effect = action_effect(perfect, store, episodes, 8)
    ages = ("0", "16", "64")
    assert all(effect[age]["delta_psnr"]["low"] > 20 and effect[age]["shuffled_ratio"]["low"] > 1e3 for age in ages)
    effect = action_effect(Deaf(), store, episodes, 8)
    assert all(effect[age]["delta_psnr"]["mean"] == 0 and effect[age]["shuffled_ratio"]["mean"] == 1 for age in ages)


def test_a_perfect_dream_is_told_where_rest_lies_between_two_actions():
    frames = np.stack([np.full((1, 8, 8, 3), 100 + shift, np.uint8) for shift in (0, -2, 2)])  # rest, left, right
    assert [row[0] for row in _compare(frames, frames)] == [1, 1, 1]


def test_an_age_that_few_rows_reach_has_no_figure():
    alive = [1.0] * 12 + [0.0] * 20
    lives = [Life(alive, [0.0] * 32, list(range(32)), []) for _ in range(3)]
    assert set(_by_age(lives, lambda life, t: life.change[t])) == {"0", "10"}
    assert set(_by_age([*lives, Life([1.0] * 32, [0.0] * 32, [0.0] * 32, [])], lambda life, t: 0.0)) == {"0", "10"}


class Wilful(Fault):
    """Obeys every other time, and else does as it likes."""

    def reset(self, starts, seed=0):
        super().reset(starts, seed)
        self.rng = np.random.default_rng(0)

    def acts(self, actions):
        return np.where(self.rng.random((len(actions), 1)) < 0.5, self.rng.permutation(actions), actions)


class Lame(Fault):
    """The last key does nothing."""

    def acts(self, actions):
        return actions * (1, 1, 1, 0)


def test_a_judge_names_the_actions_of_the_real_game_at_any_age_and_catches_a_world_that_obeys_half_the_time(
    perfect, tmp_path
):
    store = recorded(tmp_path / "data", 6000)
    measured = ((perfect, 12), (Wilful(), 32), (Lame(), 12))
    real, wilful, lame = (control(subject, store, list(range(8)), rows, 200) for subject, rows in measured)
    assert list(real) == ["0", "16", "64", "256"]
    assert real["0"]["share"] == {"mean": 1.0, "low": 1.0, "high": 1.0} and real["0"]["real"] > 0.65
    assert all(figures["share"]["mean"] > 0.85 and figures["chance"] == 0.5 for figures in real.values())
    assert all(figures["share"]["high"] < 0.8 for figures in wilful.values())
    assert set(real["0"]["values"]) == {f"{key}: {held}" for key in range(4) for held in (0, 1)}
    lost = {value: x["real"] - x["dream"] for value, x in lame["0"]["values"].items()}
    assert max(lost, key=lost.get) == "3: 1" and lost["3: 1"] > 0.4
    verdict = lambda m: said({}, "obey at every age", {"controllability": {"judged": m}})  # noqa: E731
    assert verdict(real).word != "poor" and verdict(wilful).word == "poor"


class Mortal(Fault):
    """Ends after 20 steps, and freezes then."""

    def step(self, actions, look=True):
        result = super().step(actions, look)
        self.frozen = result.frames if self.age < 20 else self.frozen
        return replace(result, frames=self.frozen, end=np.full(len(actions), float(self.age == 20)))


def test_what_a_dream_shows_after_its_end_is_not_judged(store):
    judged = control(Mortal(), store, [0, 1, 2, 3], 8, 20)
    assert list(judged) == ["0", "16"] and judged["16"]["dream"] == judged["16"]["real"]


def test_a_recording_without_actions_has_no_control_and_drifts_all_the_same(store, tmp_path):
    info = replace(store.info, action_space=None, keymap=None, discrete_table=None, has_rewards=False)
    frames = [np.array(store.observations(i)) for i in range(4)]
    with EpisodeWriter(tmp_path / "data", info) as writer:
        for part in frames:
            writer.append(Episode(part, None, None, False, True, None, "film"))
    silent = EpisodeStore(tmp_path / "data")
    assert control(Film(), silent, [0, 1, 2, 3]) is None
    assert drift(Film(), Reference(silent, [0, 1, 2, 3], 5), 130)["ages"]["0"]["stall"] == 1


class Film:
    """A world without actions that shows its first frame for ever."""

    window = 1

    def reset(self, starts, seed=0):
        self.frames = np.stack([start.frames[-1] for start in starts])

    def step(self, actions, look=True):
        assert actions.shape == (len(self.frames), 0)
        return Step(self.frames, *np.zeros((2, len(self.frames))))


def test_actions_that_show_a_frame_late_are_caught(store, episodes):
    assert retrieval(Late(), store, episodes, make())["0"]["frames_to_effect"]["low"] > 0.5
    assert fidelity(Late(), store, episodes, starts=8)["one_step"]["psnr"]["mean"] < 60


def test_a_codec_that_loses_the_ball_is_caught_where_psnr_passes_it(store, episodes):
    m = fidelity(Ballless(), store, episodes[:2], starts=1, probe=arena.decode)
    assert m["codec"]["psnr"]["mean"] > 25
    assert m["positions"]["ball/codec"]["within_2px"] < 0.2 and m["positions"]["agent/codec"]["within_1px"] == 1


def test_rewards_paid_to_others_are_caught(perfect, store, episodes):
    right, wrong = (events.reward(events.foresee(s, store, episodes, 16)) for s in (perfect, Unjust()))
    assert right["skill"]["mean"] == right["correlation"]["mean"] == 1
    assert wrong["skill"]["mean"] < 0.5 and wrong["correlation"]["mean"] < 0.7


@pytest.fixture(scope="module")
def drifts(perfect, store, episodes):
    reference = Reference(store, episodes, TRAINING)
    subjects = {"real": perfect, "frozen": Frozen(), "grey": Greying(), "mean": Mean(store)}
    return {name: drift(subject, reference, 320, arena.decode) for name, subject in subjects.items()}


class Stopwatch(Fault):
    """Its latents say how many steps have passed."""

    @property
    def state(self):
        return SimpleNamespace(latent=torch.full((4, 1, 1, 1), float(self.age)))


@pytest.mark.parametrize(("length", "expected"), [(320, [0, 32, 100, 192]), (500, [0, 32, 100, 316, 372])])
def test_every_age_is_looked_at_where_it_is(store, episodes, length, expected):
    looked = drift(Stopwatch(), Reference(store, episodes, 5), length)["ages"]
    assert [int(age) for age in looked] == expected
    assert [figures["latent_mean"] for figures in looked.values()] == [age + (SPAN + 1) / 2 for age in expected]


def test_the_real_game_does_not_drift(drifts):
    real = drifts["real"]
    assert real["collapse"] is None and all(f["valid"] > 0.95 for f in real["ages"].values())
    assert max(f["distance"] for f in real["ages"].values()) < 0.5 and real["stall_floor"] < 0.05


def test_a_script_that_lives_long_leads_the_dreams(perfect, store, episodes):
    seen = []

    def watching(frame, rng, space):
        seen.append(arena.decode(frame)["agent"])
        return arena.careful(frame, rng, space)

    drift(perfect, Reference(store, episodes, 5), 130, script=watching)
    assert len(seen) == 4 * 130 and len(set(seen)) > 50  # it sees every frame, and moves


@pytest.mark.parametrize("name", ["frozen", "grey", "mean"])
def test_a_world_that_freezes_greys_or_blurs_collapses(drifts, name):
    ages = list(drifts[name]["ages"].values())
    assert drifts[name]["collapse"] is not None and ages[-1]["distance"] > 0.3
    assert (ages[-1]["stall"] > 0.99) == (name != "real")
    assert name == "frozen" or ages[-1]["detail"] < 0.5
    assert name == "frozen" or ages[-1]["valid"] < 0.05


def test_a_way_back_is_remembered_by_the_game_and_forgotten_by_a_mean_frame(perfect, store, episodes):
    for figures in revisits(perfect, store, episodes, make(), LEFT, RIGHT).values():
        assert figures["revisit"]["mean"] == figures["stay"]["mean"] == 100
    assert all(f["revisit"]["mean"] < 30 for f in revisits(Mean(store), store, episodes, make(), LEFT, RIGHT).values())


def test_returns_correlate_fully_with_themselves_and_not_with_anothers(perfect, store, episodes, monkeypatch):
    monkeypatch.setattr("worldsim.evaluation.returns.SKILLED", 4)
    same = returns(perfect, store, episodes, make, per_policy=2)
    assert same["pearson"] == {"mean": 1.0, "low": 1.0, "high": 1.0} and same["policies"] == 8
    assert same["itself"]["mean"] < 1  # the game from other starts: what luck leaves
    other = returns(Unjustly(store), store, episodes, make, per_policy=2)
    assert other is None or other["pearson"]["mean"] < 0.8


class Unjustly(Fault):
    """Pays by the clock."""

    def __init__(self, store):
        super().__init__()
        self.rng = np.random.default_rng(0)

    def brings(self, reward):
        return self.rng.normal(size=reward.shape)


def test_a_game_of_other_settings_is_refused(store, episodes):
    class Other(gym.ObservationWrapper):
        def observation(self, frame):
            return 255 - frame

    with pytest.raises(ValueError, match="that the data was recorded with"):
        retrieval(RealGame(make), store, episodes, Other(make()))


def test_two_measurements_say_the_same(perfect, store, episodes):
    runs = [drift(perfect, Reference(store, episodes, 5), 130) for _ in range(2)]
    assert runs[0] == runs[1]


GROUND = arena.draw(arena.start(0))[3, 32]


class Losing(Fault):
    """Every coin is lost with 2 % a frame, and for ever."""

    def reset(self, starts, seed=0):
        super().reset(starts, seed)
        self.rng, self.lost = np.random.default_rng(0), [set() for _ in starts]

    def shows(self, frames):
        shown = frames.copy()
        for frame, lost in zip(shown, self.lost, strict=True):
            coins = arena.things(frame)["coin"]
            lost |= {coin for coin in coins if self.rng.random() < 0.02}
            for x, y in lost & set(coins):
                frame[y : y + 3, x : x + 3] = GROUND
        return shown


class Barren(Losing):
    """A coin that is taken does not come again."""

    def reset(self, starts, seed=0):
        super().reset(starts, seed)
        self.known = [set(arena.things(start.frames[-1])["coin"]) for start in starts]

    def shows(self, frames):
        shown = frames.copy()
        for frame, known in zip(shown, self.known, strict=True):
            for x, y in set(arena.things(frame)["coin"]) - known:
                frame[y : y + 3, x : x + 3] = GROUND
        return shown


class Waiting(Fault):
    """The picture stands still while nobody presses anything."""

    def acts(self, actions):
        self.resting = ~actions.any(1)
        return actions

    def shows(self, frames):
        return np.where(self.resting[:, None, None, None], self.before, frames)


class Deathless(Fault):
    """Nobody ever dies."""

    def step(self, actions, look=True):
        result = super().step(actions, look)
        return Step(result.frames, result.reward, np.zeros(len(result.end)))


def of_habits(subject, store, episodes):
    return habits(subject, store, episodes, make, arena.things, {"collect": arena.collect}, rows=3, length=70)


def said(m, question, others=None):
    return next(v for v in verdicts({"habits": m, **ONE_STEP, **(others or {})}) if question in v.question)


ONE_STEP = {  # what verdicts need beside
    "one_step": {"psnr": {"mean": 0.0}},
    "copy_last": {"1": {"psnr": {"mean": 0.0}}},
    "open_loop": {},
    "drift": None,
}


def test_the_real_game_lives_and_shows_by_every_habit_as_itself(perfect, store, episodes):
    m = of_habits(perfect, store, episodes)
    assert m["rank_correlation"]["mean"] == pytest.approx(1)
    for h in m["habits"].values():
        pairs = [h[key] for key in ("lived", "return", "change", "whole")]
        pairs += [pair for kind in h["things"].values() for pair in kind.values()]
        assert all(pair["dream"] == pair["real"] for pair in pairs)
        assert set(h["whole"]["real"].values()) == {1.0} and set(h["things"]["coin"]["count"]["real"].values()) == {3.0}
    born = m["habits"]["collect"]["things"]["coin"]["appear"]["real"].values()
    assert 0.01 < np.mean(list(born)) < 0.1
    assert said(m, "to be seen").word == said(m, "live as long").word == "good"


@pytest.mark.parametrize("fault", [Losing, Barren])
def test_a_dream_that_loses_coins_or_bears_none_is_caught(fault, store, episodes):
    m = of_habits(fault(), store, episodes)
    coins = m["habits"]["collect"]["things"]["coin"]
    assert coins["count"]["dream"]["50"] < 2.5 and coins["count"]["real"]["50"] == 3
    if fault is Barren:
        assert not any(coins["appear"]["dream"].values()) and any(coins["appear"]["real"].values())
    else:
        assert np.mean(list(m["habits"]["held 0"]["things"]["coin"]["vanish"]["dream"].values())) > 0.02
    assert said(m, "to be seen").word == "poor" and "coin" in said(m, "to be seen").figure


@pytest.fixture(scope="module")
def small_things(perfect, store, episodes):
    subjects = {"real": perfect, "losing": Losing(), "frozen": Frozen()}
    return {name: rare(subject, store, episodes, 12) for name, subject in subjects.items()}


def test_small_things_without_names_are_there_in_the_game_and_missed_where_coins_are_lost(small_things):
    real, losing = small_things["real"], small_things["losing"]
    assert real["0"]["distance"] < real["0"]["floor"] < 0.2
    assert real["0"]["change"]["dream"] == real["0"]["change"]["real"]
    assert losing["256"]["distance"] > 2 * max(real["256"]["distance"], real["256"]["floor"])


def test_small_things_that_stand_still_are_caught(small_things):
    assert all(figures["change"]["real"]["low"] > 0.01 for figures in small_things["real"].values())
    assert small_things["frozen"]["64"]["change"]["dream"]["high"] == 0


def test_a_dream_that_waits_while_nobody_acts_is_caught(store, episodes):
    m = of_habits(Waiting(), store, episodes)
    assert not any(m["habits"]["held 0"]["change"]["dream"].values())
    assert all(value > 0.05 for value in m["habits"]["held 0"]["change"]["real"].values())


def test_a_dream_in_which_nobody_dies_is_caught(store, episodes):
    m = of_habits(Deathless(), store, episodes)
    assert all(h["lived"]["dream"]["mean"] == 70 for h in m["habits"].values())
    assert min(h["lived"]["real"]["mean"] for h in m["habits"].values()) < 70
    assert said(m, "live as long").word != "good"


def test_networks_are_chosen_by_other_starts_than_they_are_measured_from(perfect, store, episodes, monkeypatch):
    chosen, measured = [], []
    monkeypatch.setattr("worldsim.evaluation.returns.CHOSEN", 3)
    monkeypatch.setattr("worldsim.evaluation.returns._network", lambda game, starts, *rest: chosen.extend(starts))
    monkeypatch.setattr("worldsim.evaluation.returns._return", lambda by, starts, act: measured.extend(starts) or 0.0)
    returns(perfect, store, episodes, make, per_policy=3)
    places = [{(start.episode, start.position) for start in starts} for starts in (chosen, measured)]
    assert len(places[0]) == 3 and len(places[1]) == 6 and not places[0] & places[1]


def test_scripts_are_policies_of_graded_skill_with_the_same_luck_in_dream_and_game(perfect, store, episodes):
    scripts = {"collect": arena.collect, "careful": arena.careful}
    found = returns(perfect, store, episodes, make, scripts, per_policy=4)
    assert found["pearson"]["mean"] == 1 and found["policies"] == 16
    assert (
        found["dreamed_and_real"] == returns(perfect, store, episodes, make, scripts, per_policy=4)["dreamed_and_real"]
    )
    up, played = np.array([1, 0, 0, 0], np.int8), []
    for script, share in _grades({"up": lambda frame, rng, space: up}):
        act = _erring(script, share, np.zeros((1, 4)), store.info.action_space)
        played.append(float((act(np.zeros((400, 64, 64, 3), np.uint8), None, 0) == up).all(1).mean()))
    assert played == pytest.approx([1 - n / 8 for n in range(8)], abs=0.08)


def test_rest_is_compared_where_the_table_does_not_have_it(store):
    table = np.array([[1.0, 1], [1, -1], [-1, 1]])
    info = replace(store.info, action_space=gym.spaces.Box(-1, 1, (2,)), discrete_table=table)
    assert candidates(SimpleNamespace(info=info)).tolist() == [[0, 0]]


def test_a_floor_needs_two_chunks_on_both_sides():
    reference = Reference.__new__(Reference)
    reference.episodes, reference._owners, reference._unit = [0, 1], np.array([0, 0, 0, 1]), 1.0
    reference._real = np.random.default_rng(0).normal(size=(4, 3))
    assert len(reference.floor(8)) == 0
    reference._owners = np.array([0, 0, 1, 1])
    assert len(reference.floor(8)) == 100 and np.isfinite(reference.floor(8)).all()


@pytest.mark.parametrize(("scripts", "shares"), [(1, 8), (3, 3), (5, 2), (9, 2)])
def test_however_many_scripts_there_are_each_of_them_errs_by_degrees(scripts, shares):
    grades = _grades({str(i): arena.collect for i in range(scripts)})
    assert len(grades) == scripts * shares and {share for _, share in grades} == {n / shares for n in range(shares)}


def test_things_that_differ_beyond_three_deviations_are_told_apart():
    rng = np.random.default_rng(0)
    far, farther = (rng.normal(size=(64, 12)) * 0.1 + at for at in (4, 8))
    assert kernel_distance(far, farther) > 1
