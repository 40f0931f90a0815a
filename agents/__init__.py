"""Agents that learn in dreams, installed as `worldsim.agents`: one file per agent.

Here, outside the library, because agents use only worldsim's public names.
Leaves out environments: dreams are `worldsim.dream.env`, real games are `worldsim.envs`.
"""
