"""What needs CUDA: the dream equals the CPU's to rounding, and training resumes where its weights are."""

import numpy as np
import pytest
import torch
from test_pipeline import run
from tiny_world import tiny_world

from worldsim import bundle
from worldsim.dream.vector_env import WorldModelVectorEnv
from worldsim.pipeline import train_world

pytestmark = pytest.mark.gpu


def test_a_dream_on_the_gpu_is_the_cpus_to_rounding(tmp_path):
    folder = bundle.save(tiny_world(), tmp_path / "world")
    frames = []
    for device in ("cpu", "cuda"):
        envs = WorldModelVectorEnv(folder, 4, device=device)
        envs.action_space.seed(0)
        envs.reset(seed=0)
        frames.append(np.stack([envs.step(envs.action_space.sample())[0] for _ in range(4)]).astype(int))
    assert np.abs(frames[0] - frames[1]).max() <= 2


def test_torch_output_stays_on_the_gpu(tmp_path):
    envs = WorldModelVectorEnv(bundle.save(tiny_world(), tmp_path / "world"), 4, device="cuda", output="torch")
    envs.reset(seed=0)
    observations, rewards, terminations, _, _ = envs.step(envs.action_space.sample())
    assert all(x.is_cuda for x in (observations, rewards, terminations))


def test_training_on_the_gpu_ends_in_a_world_and_resumes_stage_by_stage(tmp_path):
    for stage in ("codec", "encode", "dynamics", "outcome"):
        train_world(run(tmp_path, device="cuda"), stage)
    world = train_world(run(tmp_path, device="cuda"))
    assert world.device.type == "cuda" and torch.isfinite(world.prompts.latents).all()
