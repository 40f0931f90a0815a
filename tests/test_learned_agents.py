"""Agents that learn: what they learn where the answer is known, and that they act alike wherever they play."""

import json
import time
from dataclasses import asdict

import gymnasium as gym
import numpy as np
import pytest
import torch
from fake_world import FakeWorld
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from safetensors.torch import save_file

from worldsim.actions import choices
from worldsim.agents import teaching
from worldsim.agents.agent import FILE, Agent, AgentConfig, Linear, Network, draw
from worldsim.agents.behaviour_cloning import BehaviourCloning
from worldsim.agents.dreams import MOMENTS, Dreams, moments
from worldsim.agents.evolution import Evolution, Population, SeparableCMA
from worldsim.agents.imagination import ActorCritic, Imagination, returns
from worldsim.agents.q_learning import EVENED, Learner, Memory, QLearning
from worldsim.cli.agent_eval import play
from worldsim.cli.compose import compose
from worldsim.cli.main import main
from worldsim.data.episodes import DatasetInfo, Episode, EpisodeStore, EpisodeWriter
from worldsim.data.shards import acquire_lock
from worldsim.types import Clip

SPACE, SHAPE = gym.spaces.Discrete(4), (40, 48, 3)
TABLE = np.arange(4.0)[:, None]


def agent(seed=0, **sizes):
    network = Network(AgentConfig(SHAPE, 4, **sizes), seed)
    torch.nn.init.normal_(network.choice.weight, generator=torch.Generator().manual_seed(seed))
    return Agent(network, SPACE, TABLE, {"by": "a test"}, greedy=True)


def frames(count, seed=0):
    return np.random.default_rng(seed).integers(256, size=(count, 3, *SHAPE), dtype=np.uint8)


def test_returns_look_as_far_as_the_trace_and_no_further_than_an_end():
    reward, following = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[10.0], [20.0], [30.0]])
    kept, over = torch.full((3, 1), 0.5), torch.zeros(3, 1, dtype=torch.bool)
    assert returns(reward, kept, over, following, 0.0)[:, 0].tolist() == [6.0, 12.0, 19.0]  # one step, then the critic
    assert returns(reward, kept, over, following, 1.0)[:, 0].tolist() == [1 + (2 + 19 / 2) / 2, 2 + 19 / 2, 19.0]
    over[1] = True  # what follows is another dream's
    assert returns(reward, kept, over, following, 1.0)[:, 0].tolist() == [7.0, 12.0, 19.0]
    kept[1] = 0  # and here the episode was over for certain
    assert returns(reward, kept, over, following, 1.0)[:, 0].tolist() == [2.0, 2.0, 19.0]


def taught(world, updates, **how):
    sizes = {"rows": 32, "decisions": 8, "horizon": 20, "learning_rate": 1e-3, "batch": 128, "window": 1}
    learner = ActorCritic(Imagination(**(sizes | how)), world, moments(world, None, 1, 0), 0)
    return learner, [learner.update() for _ in range(updates)]


def share(learner, action):
    return float((learner.network(learner.dreams.seen)[0].argmax(-1) == action).float().mean())


def test_imagination_finds_the_action_that_pays():
    learner, told = taught(FakeWorld(end=0.0), 25)
    assert told[-1]["reward"] > told[0]["reward"] + 0.8  # 1.5 and luck by chance, 3 and luck at best
    assert share(learner, 3) > 0.9


class Deadly(FakeWorld):
    """Action 3 pays most at once and ends the episode; 1 pays for ever."""

    def foresee(self, state, action):
        state, _ = self.step(state, action)
        chosen = action.argmax(-1)
        known = type("Known", (), {})()
        known.reward_mean, known.end_probability = chosen.float() * (chosen != 2), (chosen == 3).float()
        return state, known


def test_imagination_stays_alive_where_that_pays():
    learner, told = taught(Deadly(end=0.0), 25, discount=0.95)
    assert share(learner, 1) > 0.9
    assert told[-1]["ends"] < 0.2 < told[0]["ends"]


def test_a_dream_begins_anew_at_the_horizon_and_at_an_end():
    dreams = taught(FakeWorld(end=0.0), 3, horizon=5)[0].dreams
    assert dreams.state.age.max() <= 5 and len(set(dreams.state.address[:, 1].tolist())) == 32
    learner, told = taught(FakeWorld(end=1.0), 1)
    assert told[0]["ends"] == 1.0 and learner.dreams.state.age.max() == 0


def test_a_held_action_is_learned_from_once():
    learner, told = taught(FakeWorld(end=0.0), 1, hold=4, discount=0.5, decisions=2)
    assert learner.dreams.state.age.max() == 8
    assert 1.2 * 1.875 < told[0]["reward"] < 2.6 * 1.875  # the reward of a decision is that of its steps, discounted


def test_moments_of_recordings_are_seen_as_they_were_recorded(tmp_path):
    world = FakeWorld()
    world.prompts = Clip(*[torch.zeros(1, 3, 1)] * 6)
    store = recording(tmp_path, 4)
    found = moments(world, store, 2, 0)
    assert found.seen.shape == (MOMENTS, 2, *SHAPE)
    seen = {(int(a), int(b)) for a, b in found.seen[:, :, 0, 0, 0]}
    pairs = {(int(f[t, 0, 0, 0]), int(f[t + 1, 0, 0, 0])) for f in map(store.observations, range(4)) for t in range(11)}
    assert seen <= pairs and torch.equal(found.state.latent[:, 0, 0, 0].long(), found.seen[:, -1, 0, 0, 0].long())
    with pytest.raises(ValueError, match="expected data= with the world's actions"):
        moments(FakeWorld(gym.spaces.Discrete(3)), store, 2, 0)


def test_half_of_the_moments_come_shortly_before_a_rare_reward_or_an_end(tmp_path):
    """Of two episodes of 300 steps one pays at step 200 alone, the other ends by itself."""
    with EpisodeWriter(tmp_path, DatasetInfo("x", SHAPE, SPACE, 15.0)) as writer:
        for number, paid in enumerate(([200], [])):
            rewards = np.zeros(300, np.float32)
            rewards[paid] = 1
            seen = np.zeros((301, *SHAPE), np.uint8) + (np.arange(301) // 2 % 256).astype(np.uint8)[:, None, None, None]
            seen[:, 0, 1] = number
            writer.append(Episode(seen, np.zeros((300, 1)), rewards, number == 1, number == 0, number, "x"))
    world = FakeWorld()
    world.prompts = Clip(*[torch.zeros(1, 3, 1)] * 6)
    last = moments(world, EpisodeStore(tmp_path), 1, 0).seen[:, 0]
    at, episode = 2 * last[:, 5, 5, 0].long(), last[:, 0, 1, 0]
    soon = torch.where(episode == 1, (at >= 282) & (at <= 298), (at >= 182) & (at <= 200))
    assert 0.5 <= soon.float().mean() < 0.6 and 0.3 < (episode[soon] == 1).float().mean() < 0.7


@pytest.mark.parametrize("spread", [0.1, 2.0])
def test_evolution_finds_the_bottom_of_an_ellipsoid(spread):
    search, generator = SeparableCMA(20, 16, spread), torch.Generator().manual_seed(0)
    axes = 10 ** torch.linspace(0, 3, 20, dtype=torch.float64)
    goal = torch.linspace(-2, 2, 20, dtype=torch.float64)
    for _ in range(600):
        candidates = search.ask(generator)
        search.tell(candidates, -(axes * (candidates - goal).square()).sum(-1))
    assert (search.state["mean"] - goal).abs().max() < 1e-6
    assert search.state["size"] < 1e-4


def test_evolution_finds_the_action_that_pays():
    how = Evolution(candidates=8, dreams=2, horizon=5, window=1)
    world = FakeWorld(end=0.0)
    population = Population(how, world, moments(world, None, 1, 0), 0)
    told = [population.update() for _ in range(40)]
    assert told[0]["mean"] < 11 and told[-1]["mean"] > 14  # 10 by chance, 17.5 at best
    logits = population.network(population.starts.seen)[0]
    assert (logits.argmax(-1) == 3).float().mean() > 0.5


def valuing(world, updates, favourite, **how):
    """Returns a learner that at first would always take its favourite action."""
    sizes = {"rows": 8, "memory": 100, "horizon": 20, "ahead": 3, "window": 1, "batch": 32}
    sizes |= {"learning_rate": 1e-3, "follow": 0.05}
    learner = Learner(QLearning(**(sizes | how)), world, moments(world, None, 1, 0), 1)
    for network in (learner.network, learner.asked):
        torch.nn.init.constant_(network.choice.bias[favourite : favourite + 1], 1.0)
    assert share(learner, favourite) == 1.0
    return learner, [learner.update() for _ in range(updates)]


def test_q_learning_finds_the_action_that_pays():
    assert share(valuing(FakeWorld(end=0.0), 60, favourite=0)[0], 3) > 0.9


def test_q_learning_stays_alive_where_that_pays():
    learner, told = valuing(Deadly(end=0.0), 100, favourite=3, discount=0.95)
    assert share(learner, 1) > 0.9 and told[-1]["ends"] < 0.2


def test_q_learning_is_a_training_like_the_others(tmp_path):
    how = QLearning(rows=2, memory=30, ahead=2, window=1, batch=4, horizon=5, trials=1, trial_rows=2)
    taught = how.train(FakeWorld(end=0.0), None, tmp_path, 0.02, 0)
    assert taught.greedy and taught.facts["how"]["by"] == "QLearning" and taught.facts["updates"] > 1


def memory(**steps):
    """Returns a memory of one row whose rewards are 1, 2, 3, ... and whose frames show how many came before."""
    found = Memory(8, 1, 1, (1, 1, 3), torch.device("cpu"))
    for number in range(len(steps["age"])):
        kept = 0.0 if number in steps.get("ends", ()) else 0.5
        found.add(
            frames=torch.full((1, 1, 1, 1, 3), number, dtype=torch.uint8), chosen=torch.tensor([number % 4]),
            age=torch.tensor([steps["age"][number]]), reward=torch.tensor([number + 1.0]), kept=torch.tensor([kept]),
            cut=torch.tensor([number in steps.get("cuts", ())]), begun=torch.tensor([1]),
        )  # fmt: skip
    return found


def moments_seen(*frames):
    """Returns what is seen at two moments, the first one of which nobody began at."""
    return torch.tensor([[0] * len(frames), frames], dtype=torch.uint8)[..., None, None, None].expand(2, -1, 1, 1, 3)


def test_a_memory_sees_no_other_dream_s_frames():
    found, row = memory(age=[5, 6, 7, 0, 1, 2, 3, 4, 5, 6]), torch.zeros(4, dtype=torch.long)
    seen = found.seen(torch.tensor([3, 4, 6, 9]), row, moments_seen(101, 102, 3))[..., 0, 0, 0]
    assert seen.tolist() == [[101, 102, 3], [102, 3, 4], [4, 5, 6], [7, 8, 9]]  # 8 and 9 stand where 0 and 1 stood


def test_a_memory_of_held_actions_has_the_frames_between():
    found = Memory(8, 1, 2, (1, 1, 3), torch.device("cpu"))
    step = {name: torch.zeros(1) for name in ("chosen", "reward", "kept", "cut")} | {"begun": torch.ones(1)}
    for age in range(4):  # two frames a decision
        frames = torch.tensor([2 * age, 2 * age + 1], dtype=torch.uint8).reshape(1, 2, 1, 1, 1).expand(1, 2, 1, 1, 3)
        found.add(frames=frames, age=torch.tensor([age]), **step)
    starts, row = moments_seen(102, 0, 1), torch.zeros(3, dtype=torch.long)
    seen = found.seen(torch.tensor([2, 1, 0]), row, starts)[..., 0, 0, 0]
    assert seen.tolist() == [[3, 4, 5], [1, 2, 3], [102, 0, 1]]


@pytest.mark.parametrize("hold", [1, 2, 3, 4, 6])
def test_what_a_q_learner_learns_from_is_what_it_acts_on(hold):
    world, acted = FakeWorld(end=0.0), []
    starts = moments(world, None, 4, 0)
    starts.seen[:, :-1] = torch.randint(256, starts.seen[:, :-1].shape, dtype=torch.uint8)  # each its own past
    how = QLearning(rows=8, memory=100, window=4, hold=hold, decisions=40, horizon=30)  # some begin anew
    learner = Learner(how, world, starts, 1)
    choose = learner.network.forward
    learner.network.forward = lambda seen: acted.append(seen.clone()) or choose(seen)
    learner._dream()
    assert (learner.memory.age[1:40] == 0).any() and len(acted) == 40
    for number, seen in enumerate(acted):
        kept = learner.memory.seen(torch.full((8,), number), torch.arange(8), starts.seen)
        assert torch.equal(kept, seen)


def test_a_memory_s_returns_stop_at_ends_and_ask_for_what_is_cut():
    found = memory(age=[0, 1, 2, 3, 0, 1], ends=[1], cuts=[3])
    total, kept, then = found.returns(torch.tensor([0, 1, 2, 4]), torch.zeros(4, dtype=torch.long), 2)
    assert total.tolist() == [1 + 0.5 * 2, 2.0, 3.0, 5 + 0.5 * 6]
    assert kept.tolist() == [0.0, 0.0, 0.5, 0.25]  # what follows an end is worth nothing
    assert then.tolist()[2:] == [3, 6]  # the cut decision's own reward is not counted: its state is asked


def test_a_memory_draws_what_is_about_to_happen_more_often_and_never_a_cut():
    found = Memory(64, 2, 1, (1, 1, 3), torch.device("cpu"))
    for number in range(64):
        flat = {name: torch.zeros(2, dtype=torch.long) for name in ("chosen", "age", "begun")}
        reward, cut = torch.tensor([float(number == 40), 0.0]), torch.tensor([False, number % 8 == 0])
        found.add(
            frames=torch.zeros(2, 1, 1, 1, 3, dtype=torch.uint8), reward=reward, kept=torch.ones(2), cut=cut, **flat
        )
    draw_ = lambda events: found.draw(4000, events, 1, 4, torch.Generator().manual_seed(0))  # noqa: E731
    soon = lambda at, row, counts: ((row == 0) & (at > 36) & (at <= 40)).float().mean()  # noqa: E731
    assert abs(soon(*draw_(0.5)) - 0.5) < 0.05 and soon(*draw_(0.0)) < 0.06
    at, row, counts = draw_(0.5)
    assert not ((row == 1) & (at % 8 == 0)).any() and at.min() >= 1 and at.max() < 60
    drawn_evenly = 4 / (2 * 59 - 7)  # of two rows' decisions 1 to 59, without the cut ones
    even = counts ** (1 / EVENED)
    weighed = (even * ((row == 0) & (at > 36) & (at <= 40))).sum() / even.sum()
    assert counts.max() == 1 and abs(weighed - drawn_evenly) < 0.005


def test_random_actions_are_taken_for_some_decisions_and_as_often_as_a_row_s_chance_says():
    learner = valuing(FakeWorld(end=0.0), 1, favourite=0, rows=64)[0]
    learner.chance = torch.full((64,), 0.3)
    done = torch.stack([learner._explored(torch.zeros(64, dtype=torch.long)) for _ in range(400)])
    assert abs(float((done > 0).float().mean()) - 0.3 * 3 / 4) < 0.03  # one of four random actions is the chosen one
    again = (done[1:] == done[:-1])[done[:-1] > 0].float().mean()
    assert again > 0.7
    learner.updates = 0
    assert float((learner._explored(torch.zeros(64, dtype=torch.long)) > 0).float().mean()) > 0.5


def learners(world):
    starts = moments(world, None, 1, 0)
    return {
        "imagination": lambda: ActorCritic(Imagination(rows=4, decisions=2, window=1), world, starts, 0),
        "evolution": lambda: Population(Evolution(candidates=4, dreams=1, horizon=2, window=1), world, starts, 0),
        "q_learning": lambda: Learner(QLearning(rows=4, memory=40, ahead=2, window=1), world, starts, 0),
    }


@pytest.mark.parametrize("name", ["imagination", "evolution", "q_learning"])
def test_a_training_goes_on_from_its_tensors(name):
    make = learners(FakeWorld(end=0.1))[name]
    first, second = make(), make()
    first.update()
    second.restore({key: value.clone() for key, value in first.tensors().items()})
    for learner in (first, second):
        learner.restore({key: value.clone() for key, value in learner.tensors().items()})  # luck begins anew in both
        learner.update()
    one, two = first.tensors(), second.tensors()
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


class Slow:
    """Counts its updates; the third is its best."""

    def __init__(self):
        self.network, self.updates = Linear(AgentConfig(SHAPE, 4, 1, width=0)), 0

    def update(self):
        self.updates += 1
        time.sleep(0.02)
        torch.nn.init.constant_(self.network.choice.bias, self.updates)
        return {}

    def tensors(self):
        return {"updates": torch.tensor(self.updates)}

    def restore(self, tensors):
        self.updates = int(tensors["updates"])


def test_the_best_agent_of_all_trials_is_kept_and_a_killed_training_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(teaching, "SAVE_SECONDS", 0.0)
    trial = lambda network: -abs(float(network.choice.bias.detach()[0]) - 3)  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        killed = Slow()
        killed.update = lambda: (_ for _ in ()).throw(KeyboardInterrupt) if killed.updates == 3 else Slow.update(killed)
        teaching.teach(killed, Evolution(), FakeWorld(), None, tmp_path, 0.01, 0, trial, 100)
    assert Agent.load(tmp_path).network.choice.bias.tolist() == [3.0] * 4
    following = Slow()
    agent = teaching.teach(following, Evolution(), FakeWorld(), None, tmp_path, 0.01, 0, trial, 100)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["updates"] for line in lines if "trial" in line] == list(range(1, following.updates + 1))
    assert agent.network.choice.bias.tolist() == [3.0] * 4 and agent.facts["best"] == 0
    again = Slow()
    teaching.teach(again, Evolution(), FakeWorld(), None, tmp_path, 0.01, 0, trial, 100)
    assert again.updates == following.updates  # there was nothing more to do
    with pytest.raises(ValueError, match="same seed"):
        teaching.teach(Slow(), Evolution(), FakeWorld(), None, tmp_path, 0.01, 4, trial, 100)


def test_a_trial_is_not_made_twice(tmp_path):
    asked, killed = [], Slow()
    killed.update = lambda: (_ for _ in ()).throw(KeyboardInterrupt) if killed.updates == 3 else Slow.update(killed)
    trial = lambda network: asked.append(float(network.choice.bias.detach()[0])) or 0.0  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        teaching.teach(killed, Evolution(), FakeWorld(), None, tmp_path, 0.01, 0, trial, 100)
    teaching.teach(Slow(), Evolution(), FakeWorld(), None, tmp_path, 0.01, 0, trial, 100)
    assert asked == sorted(set(asked))


def test_a_linear_agent_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    Linear(AgentConfig(SHAPE, 4, 1, width=0))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_frame_that_no_decision_sees_is_not_decoded():
    world = FakeWorld(end=0.0)
    starts = moments(world, None, 3, 0)
    plain, sparing = Dreams(world, starts, 4, 0), Dreams(world, starts, 4, 0)
    looked, observe = [], world.observe
    world.observe = lambda state: looked.append(1) or observe(state)
    chosen = torch.zeros(4, dtype=torch.long)
    told = [[dreams.step(chosen, is_seen=dreams is plain or i > 1) for i in range(5)] for dreams in (plain, sparing)]
    assert torch.equal(plain.seen, sparing.seen) and len(looked) == 5 + 3
    assert all(torch.equal(a, b) for one, two in zip(*told, strict=True) for a, b in zip(one, two, strict=True))


def test_an_agent_is_the_same_when_loaded(tmp_path):
    first = agent(window=2)
    first.save(tmp_path)
    second = Agent.load(tmp_path, greedy=True)
    started = np.ones(3, bool)
    for part in np.swapaxes(frames(5), 0, 1):
        acts = first(part, started), second(part, started)
        assert np.array_equal(*acts) and acts[0].shape == (5, 1)
        started = np.zeros(5, bool)
    assert second.facts == {"by": "a test"} and second.space == SPACE


def test_an_agent_sees_the_last_frames_and_forgets_them_when_an_episode_begins():
    player, steps = agent(window=3), np.swapaxes(frames(1), 0, 1)
    seen = []
    player.network.forward = lambda x: seen.append(x.numpy().copy()) or (torch.zeros(len(x), 4), None)
    for part, started in zip(steps, (True, False, True), strict=True):
        player(part, np.array([started]))
    a, b, c = (part[0] for part in steps)
    assert all(np.array_equal(x[0], y) for x, y in zip(seen, ([a, a, a], [a, a, b], [c, c, c]), strict=True))


def test_an_agent_holds_what_it_chose():
    player, asked = agent(window=1, hold=3), []
    forward = player.network.forward
    player.network.forward = lambda x: asked.append(len(x)) or forward(x)
    steps = [frames(2, seed)[:, 0] for seed in range(5)]
    acts = [player(part, np.array([i == 0, i in (0, 2)])) for i, part in enumerate(steps)]
    assert asked == [2, 1, 1]  # both; the second, whose episode begins; the first anew
    assert np.array_equal(acts[0], acts[1]) and acts[2][0] == acts[0][0]


def test_act_is_for_a_single_game():
    player, twin = agent(window=1), agent(window=1)
    frame = frames(1)[0, 0]
    assert player.act(frame, started=True) == int(twin(frame[None], np.array([True]))[0, 0])
    assert SPACE.contains(player.act(frame))


def test_a_draw_follows_the_odds():
    logits = torch.tensor([0.1, 0.2, 0.7]).log().expand(20000, 3)
    drawn = draw(logits, torch.Generator().manual_seed(0)).bincount() / 20000
    assert torch.allclose(drawn, torch.tensor([0.1, 0.2, 0.7]), atol=0.015)
    assert draw(logits, None).unique().tolist() == [2]


def test_the_nearest_action_of_a_table_is_found():
    table = np.array([[0, 0], [1, 0], [0, -1.0]])
    assert choices(np.array([[0.9, 0.1], [0, -0.6], [0.1, 0]]), table).tolist() == [1, 2, 0]


def damaged(path, how):
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "changed":
        data = bytearray(path.read_bytes())
        data[-50] ^= 255
        path.write_bytes(bytes(data))
    else:
        save_file({"x": torch.zeros(1)}, path)


@pytest.mark.parametrize("how", ["cut", "changed", "foreign"])
def test_a_damaged_agent_is_refused_in_one_sentence(how, tmp_path):
    agent().save(tmp_path)
    damaged(tmp_path / FILE, how)
    with pytest.raises(ValueError, match="found a damaged one"):
        Agent.load(tmp_path)


def test_an_agent_for_other_actions_or_frames_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"expected an agent for the actions Discrete\(3\), found one for Discrete\(4\)"
    ):
        agent().check(gym.spaces.Discrete(3))
    with pytest.raises(ValueError, match="expected frames of"):
        agent()(np.zeros((1, 8, 8, 3), np.uint8), np.ones(1, bool))


def recording(folder, episodes=10, rewards=True):
    """Episodes whose frames show in grey which action the best of them take next; the others take any."""
    info = DatasetInfo("nothing", SHAPE, SPACE, 15.0, None, None, None, has_rewards=rewards)
    rng = np.random.default_rng(0)
    with EpisodeWriter(folder, info) as writer:
        for index in range(episodes):
            told = rng.integers(4, size=12)
            shown = np.broadcast_to((60 * np.append(told, 0))[:, None, None, None], (13, *SHAPE)).astype(np.uint8)
            taken = told if index < 2 else rng.integers(4, size=12)
            earned = np.full(12, 1.0 if index < 2 else 0.0, np.float32)
            writer.append(Episode(shown, taken[:, None] * 1.0, earned if rewards else None, True, False, index, "x"))
    return EpisodeStore(folder)


def test_behaviour_cloning_does_what_the_best_episodes_did(tmp_path):
    how = BehaviourCloning(best=0.2, window=1, batch=32, learning_rate=3e-3)
    cloned = how.train(FakeWorld(), recording(tmp_path / "data"), tmp_path / "agent", 0.1, 0)
    cloned.greedy = True
    shown = np.broadcast_to((60 * np.arange(4))[:, None, None, None], (4, *SHAPE)).astype(np.uint8)
    assert cloned(shown, np.ones(4, bool))[:, 0].tolist() == [0, 1, 2, 3]
    assert (cloned.facts["episodes"], cloned.facts["frames"]) == (2, 24)


def test_cloning_without_recordings_or_rewards_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected data= recordings with their actions"):
        BehaviourCloning().train(FakeWorld(), None, tmp_path, 0.1, 0)
    with pytest.raises(ValueError, match="expected recordings with rewards"):
        BehaviourCloning().train(FakeWorld(), recording(tmp_path / "data", rewards=False), tmp_path, 0.1, 0)


class Counting(gym.Env):
    """Lasts as many steps as its seed says; pays the action's number."""

    observation_space, action_space = gym.spaces.Box(0, 255, SHAPE, np.uint8), SPACE

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = seed
        return np.zeros(SHAPE, np.uint8), {}

    def step(self, action):
        self.left -= 1
        return np.zeros(SHAPE, np.uint8), float(action), self.left == 0, False, {}


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_every_episode_counts_once_however_long_it_is(rows):
    envs = SyncVectorEnv([Counting] * rows, autoreset_mode=AutoresetMode.DISABLED)
    two = lambda seen, started: np.full((len(started), 1), 2.0)  # noqa: E731
    lives = play(envs, two, 7, seed=2, limit=6, horizon=3)
    lengths = [min(2 + i, 6) for i in range(7)]
    assert lives == [(2.0 * n, n, 2.0 * min(n, 3)) for n in lengths]


def test_an_agent_is_taught_judged_recorded_and_played_by_command(tmp_path, capsys):
    quick = ["imagination.rows=2", "imagination.decisions=2", "imagination.horizon=4", "imagination.trials=1"]
    out = str(tmp_path / "agent")
    seen = str(tmp_path / "seen")
    assert main(["record", "game=arena", "policy=random", "frames=40", f"out={seen}"]) == 0
    assert main(["agent", "train", "world=arena", "steps=1", "minutes=0.01", f"data={seen}", f"out={out}", *quick]) == 0
    assert main(["agent", "eval", f"agent={out}", f"out={out}", "episodes=3", "max_episode_steps=5"]) == 0
    found = json.loads((tmp_path / "agent" / "agent.json").read_text())
    assert len(found["returns"]) == 3 and found["game"] == "worldsim-real/Arena-v0" and "imagined" in found
    dream = [f"out={tmp_path / 'dream'}", "world=arena", "steps=1", "episodes=2", "max_episode_steps=3"]
    assert main(["agent", "eval", f"agent={out}", *dream]) == 0
    for policy in (out, f"{out}+{out}+sticky"):
        assert main(["record", "game=arena", f"policy={policy}", "frames=20", f"out={tmp_path / policy[-4:]}"]) == 0
    film = ["headless=true", "frames=3", "steps=1", f"out={tmp_path / 'film.mp4'}"]
    assert main(["play", "world=arena", f"agent={out}", *film]) == 0
    capsys.readouterr()
    assert main(["play", "world=doom-take-cover", f"agent={out}", *film]) == 2
    assert "expected an agent for the actions Discrete(3), found one for MultiBinary(4)" in capsys.readouterr().err
    assert main(["record", "game=arena", f"policy={out}+nobody", "frames=20", f"out={tmp_path / 'no'}"]) == 2
    assert "unknown policy 'nobody'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["agent", "train", "world=arena", "out=x", "minutes=0"], "expected minutes above 0"),
        (["agent", "train", "world=arena", "out=x", "minutes=1", "agent=genius"], "expected agent= one of imagination"),
        (["agent", "train", "world=arena", "out=x", "minutes=1", "imagination.rows=0"], "expected rows to be a whole"),
        (
            ["agent", "train", "world=arena", "out=x", "minutes=1", "agent=q_learning", "q_learning.memory=9"],
            "a memory of at least 16",
        ),
        (
            ["agent", "train", "world=arena", "out=x", "minutes=1", "imagination.unsure=abc"],
            "expected entropy and unsure",
        ),
        (
            ["agent", "eval", "agent=random", "out=x", "game=arena", "seed=1.5"],
            "expected a seed of at least 0, found 1.5",
        ),
        (["agent", "eval", "agent=random", "out=x", "game=arena", "dtype=fp16"], "expected dtype= one of float32, bf"),
        (["agent", "eval", "agent=random", "out=x", "episodes=0"], "expected episodes to be a whole number"),
        (["agent", "eval", "agent=random", "out=x"], "expected game= or world= to play in, found neither"),
        (["agent", "eval", "agent=random", "out=x", "world=arena", "game=arena"], "found both; leave one out"),
        (["agent", "learn"], "unknown command 'agent'; expected one of"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_data_without_rewards_or_a_folder_without_agent_is_refused(tmp_path, capsys):
    info = DatasetInfo("x", SHAPE, SPACE, 15.0, has_rewards=False)
    with EpisodeWriter(tmp_path / "data", info) as writer:
        writer.append(Episode(frames(1)[0], np.zeros((2, 1)), None, False, True, None, "x"))
    data = f"data={tmp_path / 'data'}"
    assert main(["agent", "train", "world=arena", data, "minutes=1", f"out={tmp_path / 'agent'}"]) == 2
    assert "expected data= with rewards to learn from" in capsys.readouterr().err
    assert main(["agent", "eval", f"agent={tmp_path}", "game=arena", "out=x"]) == 2
    assert "found no agent.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize("how", [Imagination, QLearning, Evolution, BehaviourCloning])
def test_every_setting_of_an_agent_stands_in_the_configuration(how):
    blocks = compose("agent_train", ["world=x", "out=x", "minutes=1"])
    (block,) = (b for b in blocks.values() if getattr(b, "_target_", "").endswith(f".{how.__name__}"))
    assert {key: value for key, value in block.items() if key != "_target_"} == asdict(how())


def test_named_policies_are_judged_too(tmp_path, capsys):
    assert (
        main(["agent", "eval", "agent=held", "game=arena", "episodes=2", "max_episode_steps=4", f"out={tmp_path}"]) == 0
    )
    assert "held in worldsim-real/Arena-v0: return" in capsys.readouterr().out


def test_two_trainings_into_one_folder_are_refused_and_a_damaged_one_is_named(tmp_path, capsys):
    command = ["agent", "train", "world=arena", "minutes=0.01", f"out={tmp_path}"]
    lock = acquire_lock(tmp_path)
    assert main(command) == 2 and "is being written by another process" in capsys.readouterr().err
    lock.close()
    (tmp_path / teaching.CHECKPOINT).write_bytes(b"torn")
    with pytest.raises(ValueError, match="expected a whole checkpoint"):
        teaching.teach(Slow(), Evolution(), FakeWorld(), None, tmp_path, 0.01, 0)
