"""The dream as an environment: for one row (`env`), for many (`vector_env`), and what both share (`rows`).

Here because these modules are one thing: what `gym.make` returns, and what it is handed (`action_reader`, `options`,
`saved_state`, `sb3`). Leaves out the model itself, whose three verbs are `world_model`'s.
"""
