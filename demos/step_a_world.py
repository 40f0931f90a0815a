"""Steps a shipped world like any Gymnasium environment: one row, then eight at once."""

import gymnasium as gym

import worldsim

gym.register_envs(worldsim)

env = gym.make("worldsim/Arena-v0")
observation, info = env.reset(seed=0)
total = 0.0
for _ in range(100):
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    total += reward
    if terminated or truncated:
        observation, info = env.reset()
print(f"one row: frame {observation.shape}, 100 steps, reward {total:.1f}")

envs = gym.make_vec("worldsim/Arena-v0", num_envs=8)
observations, infos = envs.reset(seed=0)
for _ in range(20):
    observations, rewards, terminations, truncations, infos = envs.step(envs.action_space.sample())
print(f"eight rows: frames {observations.shape}, ages {infos['age'].tolist()}")
