"""Students do in few steps what their teachers do in many: where all is known, and from a tiny world to a tiny student.

Points in a plane and numbers on a line have teachers in closed form, so that a method's own mistake shows.
"""

import json
import math
import shutil
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from test_pipeline import PIXEL, run
from tiny_world import record
from torch import nn
from toy import CENTRES, SHARES, draw_data, sliced_distance

from worldsim.cli.main import main
from worldsim.data.episodes import EpisodeStore
from worldsim.distill import METHODS
from worldsim.distill.task import Task, follow, jump, land, landing, sampled, standing
from worldsim.evaluation.drift import Reference
from worldsim.models.denoiser import Denoiser
from worldsim.models.layers import level_features
from worldsim.objectives.denoising import Draws
from worldsim.pipeline import Distillation, StageSizes, distill_world, train_world
from worldsim.pipeline import distillation as distillation_module
from worldsim.training.loop import Rhythm

MEAN, STD = 0.7, 0.3
TOLD = 2 * 2 * 6  # features of time and target


def told(time, target):
    return torch.cat((level_features(time, 6), level_features(target, 6)), 1)


class Line(nn.Module):
    """A student of numbers: its clean latent is linear in x, as a Gaussian's flow map wants it."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(TOLD, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, x, time, target):
        slope, shift = self.body(told(time, target)).T[..., None, None, None]
        return slope * x + shift


class Plane(nn.Module):
    """A student, or with a third output a critic, of points in a plane."""

    def __init__(self, outputs=2):
        super().__init__()
        sizes = (2 + TOLD, 128, 128, 128)
        layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.SiLU())]
        self.body = nn.Sequential(*layers, nn.Linear(128, outputs))

    def forward(self, x, time, target):
        out = self.body(torch.cat((x.flatten(1), told(time, target)), 1))
        return out[:, :2].reshape(x.shape) if out.shape[1] == 2 else (out[:, :2].reshape(x.shape), out[:, 2])


def gaussian(x, time, target):
    """The mean of clean numbers given x, for data of N(MEAN, STD^2)."""
    time = time[:, None, None, None]
    gain = (1 - time) * STD**2 / (((1 - time) * STD) ** 2 + time**2)
    return MEAN + gain * (x - (1 - time) * MEAN)


def mixture(x, time, target):
    """The mean of clean points given x, for the mixture of `toy`."""
    alpha, sigma = (1 - time)[:, None], time[:, None]
    variance = (alpha * 0.2) ** 2 + sigma**2
    off = x.flatten(1)[:, None] - alpha[:, None] * CENTRES
    share = (SHARES.log() - off.square().sum(-1) / (2 * variance)).softmax(1)
    mean = CENTRES + (alpha * 0.04 / variance)[:, :, None] * off
    return (share[..., None] * mean).sum(1).reshape(x.shape)


def teach(method, make, teacher, data, reach, steps, rate=2e-3, rows=256):
    """Returns a student's average after so many steps of a method, begun as its teacher's copy."""
    torch.manual_seed(0)
    known, generator = METHODS[method], torch.Generator().manual_seed(0)
    student, critic = make(), Plane(3)
    copy_teacher((student, critic), teacher, data, generator)
    for index in range(known.rounds):
        average = make()
        average.load_state_dict(student.state_dict())
        groups = [{"params": net.parameters(), "own": own} for net, own in ((student, known.share), (critic, 1.0))]
        optimizer = torch.optim.AdamW(groups, rate, betas=(0.9, 0.95))
        for step in range(steps // known.rounds):
            progress = step * known.rounds / steps
            for group in optimizer.param_groups:
                group["lr"] = rate * group["own"] * min(1, 3 * (1 - progress))

            def judge(*inputs):
                with standing(critic):
                    return critic(*inputs)

            def clamped(net):
                return lambda *inputs: net(*inputs) if torch.is_grad_enabled() else net(*inputs).clamp(-reach, reach)

            clean, draw = data(rows, generator), Draws(torch.zeros(1), generator)
            given = (teacher, clamped(student), clamped(average), clean, draw)
            optimizer.zero_grad()
            known.loss(Task(*given, 1, progress, index, critic, judge)).total.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            with torch.no_grad():
                for ours, theirs in zip(average.parameters(), student.parameters(), strict=True):
                    ours.lerp_(theirs, 0.02)
        teacher = average.requires_grad_(False)
        student = make()
        student.load_state_dict(average.state_dict())
    return average


def copy_teacher(networks, teacher, data, generator, steps=600):
    """Lets networks learn the teacher's mean, whatever target they are told."""
    for net in networks:
        optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / steps)
            clean = data(256, generator)
            if clean.shape[1] != 2 and isinstance(net, Plane):
                return  # numbers have no critic
            time = torch.rand(256, generator=generator)
            target = time * torch.rand(256, generator=generator)
            x = land(torch.randn(clean.shape, generator=generator), clean, torch.ones(256), time)
            found = net(x, time, target)
            found = found[0] if isinstance(found, tuple) else found
            optimizer.zero_grad()
            (found - teacher(x, time, target)).square().mean().backward()
            optimizer.step()


def numbers(rows, generator):
    return MEAN + STD * torch.randn(rows, 1, 1, 1, generator=generator)


def points(rows, generator):
    return draw_data(rows, generator)[torch.randperm(rows, generator=generator)].reshape(rows, 2, 1, 1)


def test_a_jump_and_the_clean_latent_behind_it_are_inverse():
    x, goal = torch.randn(2, 4, 3, 2, 2).unbind()
    time, target = torch.tensor([1.0, 0.75, 0.5, 0.1]), torch.tensor([0.0, 0.5, 0.25, 0.0])
    clean = landing(x, goal, time, target)
    assert torch.allclose(land(x, clean, time, target), goal, atol=1e-5)
    assert torch.allclose(jump(lambda *_: clean, x, time, target), goal, atol=1e-5)


def test_noise_is_as_hot_as_the_teacher_s_dreams():
    clean, generator = torch.full((4, 1, 32, 32), 3.0), torch.Generator().manual_seed(0)
    task = Task(*[lambda *_: clean] * 3, clean, Draws(clean, generator), temperature=1.5)
    assert task.noise().std() == pytest.approx(1.5, rel=0.05)
    half = task.noised(torch.full((4,), 0.5))
    assert half.std() == pytest.approx(0.75, rel=0.05) and half.mean() == pytest.approx(1.5, rel=0.05)


def test_a_teacher_s_flow_is_followed_to_where_it_leads():
    x = torch.linspace(-2, 2, 9).reshape(9, 1, 1, 1)
    one = torch.ones(9)
    for time, target in ((1.0, 0.0), (0.75, 0.25)):
        start, end = (((1 - t) * MEAN, math.hypot((1 - t) * STD, t)) for t in (time, target))
        exact = end[0] + end[1] / start[1] * (x - start[0])
        assert torch.allclose(follow(gaussian, x, time * one, target * one, 64), exact, atol=2e-3)


@pytest.mark.parametrize("method", sorted({*METHODS} - {"matching", "adversarial_matching", "drifting"}))
def test_a_student_of_numbers_learns_the_flow_map_itself(method):
    student = teach(method, Line, gaussian, numbers, 4.0, 3000)
    x = torch.linspace(-1.5, 1.5, 7).reshape(7, 1, 1, 1)
    with torch.no_grad():
        error = sampled(student, x, 1) - (MEAN + STD * x)
    assert error.square().mean().sqrt() < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_student_of_points_makes_the_data_in_one_step(method):
    student = teach(method, Plane, mixture, points, 3.0, 6000, rows=512)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        made = sampled(student, torch.randn(512, 2, 1, 1, generator=generator), 1).reshape(512, 2)
    others = [CENTRES[torch.multinomial(SHARES, 512, True, generator=generator)] for _ in range(16)]
    others = [x + 0.2 * torch.randn(512, 2, generator=generator) for x in others]
    floor = torch.stack([sliced_distance(a, b) for a, b in pairwise(others)]).mean()
    found = torch.stack([sliced_distance(made, other) for other in others]).mean()
    assert found < 2 * floor


@pytest.mark.parametrize("method", ["matching", "adversarial_matching"])
def test_student_and_critic_learn_from_their_own_terms_alone(method):
    generator = torch.Generator().manual_seed(1)
    student, critic, clean = Plane(), Plane(3), points(64, generator)

    def gradient(of, learns, judges):
        def judge(*inputs):
            with standing(judges):
                return judges(*inputs)

        draw = Draws(torch.zeros(1), torch.Generator().manual_seed(2))
        loss = METHODS[method].loss(Task(mixture, student, student, clean, draw, critic=learns, judge=judge))
        return torch.autograd.grad(loss.total, list(of.parameters()))

    same, alone = gradient(critic, critic, critic), gradient(critic, critic, deepcopy(critic))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(same, alone, strict=True))
    assert any(g.abs().sum() > 0 for g in same)
    apart = lambda x, *told: critic(x.detach(), *told)  # noqa: E731
    same, alone = gradient(student, critic, critic), gradient(student, apart, critic)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(same, alone, strict=True))
    assert any(g.abs().sum() > 0 for g in same)


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    folder = tmp_path_factory.mktemp("taught")
    world = train_world(run(folder, preset=replace(PIXEL, temperature=1.25)))
    return folder, world


def distillation(folder, method, **changes) -> Distillation:
    facts = {"minutes": 0.05, "sizes": StageSizes(8, 1e-3), "own_frames": 2, "device": "cpu"}
    store, teacher = EpisodeStore(folder / "data"), str(folder / "run" / "world")
    return Distillation(store, folder / method, teacher, method, rhythm=Rhythm(1, 1e9, 5), **facts | changes)


@pytest.mark.parametrize("method", ["progressive", "adversarial_matching", "drifting"])
def test_a_world_becomes_a_student_that_needs_fewer_steps(taught, method):
    folder, teacher = taught
    student = distill_world(distillation(folder, method, steps=2))
    assert student.steps == 2 and student.temperature == 1.25 and student.fingerprint != teacher.fingerprint
    assert student.info.provenance["preset"] == f"{method}, 2 steps"
    before = student.info.provenance["begun_from"]
    assert before["preset"] == "tiny" and before["minutes"] == teacher.info.provenance["minutes"]
    card = (folder / method / "world" / "README.md").read_text()
    assert before["fingerprint"] == teacher.fingerprint and teacher.fingerprint in card and method in card
    again = distill_world(distillation(folder, method, steps=2))  # what is done is returned
    assert again.fingerprint == student.fingerprint
    with pytest.raises(ValueError, match=r"same preset.name, found preset.name=.*; use another out="):
        distill_world(distillation(folder, method, steps=4))


def test_students_learn_with_drafts_and_without(tmp_path, monkeypatch):
    drafting = replace(PIXEL, backbone=partial(PIXEL.backbone, drafts=True))
    train_world(run(tmp_path, preset=drafting))
    told, plain = [], Denoiser.forward

    def spy(network, history, target, forecast=None):
        if torch.is_grad_enabled():  # the student's own evaluations
            told.append((target.level[:, 0], target.draft.flatten(1).isfinite().all(1)))
        return plain(network, history, target, forecast)

    monkeypatch.setattr(Denoiser, "forward", spy)
    student = distill_world(distillation(tmp_path, "mean_flow", steps=2))
    level, draft = (torch.cat(part) for part in zip(*told, strict=True))
    assert student.denoiser.drafts and not draft[level > 0.5].any()  # where a sampler of two begins
    assert 0.3 < draft[level <= 0.5].float().mean() < 0.7
    told.clear()
    made, taught = distillation_module._task, {}

    def watched(*arguments):
        task, index = made(*arguments), arguments[-1]
        time = torch.full((len(task.clean),), 0.75)
        told.clear()
        with torch.enable_grad():
            task.teacher(task.clean, time, time - 0.25)
        taught[index] = told[-1][1].any()
        return task

    monkeypatch.setattr(distillation_module, "_task", watched)
    distill_world(distillation(tmp_path, "progressive", steps=2))
    # The world was told drafts from everywhere, its students nothing where a sampler of two begins.
    assert taught[0] and len(taught) > 1 and not any(taught[index] for index in taught if index)


def test_a_distillation_that_is_killed_goes_on(taught, monkeypatch):
    folder, _ = taught
    how = replace(distillation(folder, "consistency", minutes=0.2), rhythm=Rhythm(0.0, 1e9, 1))
    drawn, seen = [], distillation_module.seen_clips

    def dies(*arguments):
        drawn.append(arguments)
        if len(drawn) > 12:
            raise KeyboardInterrupt
        return seen(*arguments)

    monkeypatch.setattr(distillation_module, "seen_clips", dies)
    with pytest.raises(KeyboardInterrupt):
        distill_world(how)
    (log,) = how.folder.glob("*/log.jsonl")
    before = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    monkeypatch.undo()
    assert distill_world(how).steps == 1
    after = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert before and after[: len(before) - 1] == before[:-1] and after == sorted(set(after)) and after[-1] > before[-1]


def test_a_student_cannot_teach(taught):
    folder, _ = taught
    world = str(distilled(folder) / "world")
    with pytest.raises(ValueError, match="itself a student by shortcut; give its teacher"):
        distill_world(replace(distillation(folder, "regression"), folder=folder / "again", teacher=world))


def test_a_teacher_that_does_not_say_its_faults_is_asked_for_them(taught):
    folder, _ = taught
    shutil.copytree(folder / "run" / "world", folder / "silent")
    text = json.loads((folder / "silent" / "world.json").read_text())
    del text["provenance"]["faulty_share"]
    (folder / "silent" / "world.json").write_text(json.dumps(text))
    how = replace(distillation(folder, "regression"), folder=folder / "none", teacher=str(folder / "silent"))
    with pytest.raises(ValueError, match=r"expected faulty_share= with .*, which does not say its own"):
        distill_world(how)


def distilled(folder):
    how = distillation(folder, "shortcut")
    distill_world(how)
    return how.folder


def test_what_cannot_be_distilled_is_said_in_one_line(taught, tmp_path, capsys):
    folder, _ = taught
    world, data = f"world={folder / 'run' / 'world'}", f"data={folder / 'data'}"
    record(tmp_path / "other", episodes=2)
    other = tmp_path / "other" / "dataset.json"
    other.write_text(other.read_text().replace('"counting"', '"another"'))
    wrong = {
        "expected method= one of regression,": [world, data, "minutes=1", "method=magic"],
        "expected minutes above 0, found 0": [world, data, "minutes=0"],
        "expected data= of the teacher's game, counting, found another": [world, f"data={other.parent}", "minutes=1"],
        "expected steps= 1, 2, 4 or 8, found 3": [world, data, "minutes=1", "steps=3"],
        "expected a batch that is a multiple of 8, found 12": [world, data, "minutes=1", "method=drifting", "batch=12"],
        "expected the path of a world or one of": ["world=nowhere", data, "minutes=1"],
        "expected own_share and faulty_share from 0 to 1, found half": [world, data, "minutes=1", "own_share=half"],
        "and a learning rate above 0, found": [world, data, "minutes=1", "learning_rate=high"],
        "expected checkpoint_seconds and preview_seconds": [world, data, "minutes=1", "rhythm.preview_seconds=often"],
    }
    for sentence, arguments in wrong.items():
        assert main(["distill", *arguments, f"out={tmp_path / 'out'}"]) == 2
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1
        assert not (tmp_path / "out").exists()


def test_students_stand_beside_their_teacher_in_one_table(taught, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("worldsim.evaluation.comparison.LONG", 128)
    monkeypatch.setattr("worldsim.evaluation.comparison.Reference", partial(Reference, training_steps=3))
    folder, _ = taught
    student = distilled(folder) / "world"
    record(tmp_path / "test", episodes=6, steps=40, seed=900)
    worlds = f"worlds=[{folder / 'run' / 'world'},{student}]"
    assert main(["compare", worlds, f"data={tmp_path / 'test'}", f"out={tmp_path / 'table'}"]) == 0
    rows = json.loads((tmp_path / "table" / "table.json").read_text())["rows"]
    assert [row["steps"] for row in rows] == ["1", "2", "4", "32 Heun", "1"]
    best = rows[3]
    assert best["flow_map_error"] == 0 and best["diversity"] == 1
    assert all(row["flow_map_error"] > 0 for row in rows if row is not best)
    assert all(row["regression_16"]["mean"] > 5 and row["mean_frame"]["mean"] > 5 for row in rows[:3])
    assert rows[-1]["regression_16"] is None  # a student is no mean
    assert (tmp_path / "table" / "table.md").read_text() in capsys.readouterr().out
    assert (tmp_path / "table" / "plot.png").stat().st_size > 1000
    assert main(["compare", f"worlds={student}", f"data={tmp_path / 'test'}", f"out={tmp_path / 'one'}"]) == 2
    assert "expected worlds= as a list, the teacher first" in capsys.readouterr().err
