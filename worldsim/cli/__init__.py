"""The commands: one short `main(config)` for each, in a module of the command's name.

Here, and nowhere else, live Hydra and its configs; what a command calls knows nothing of them.
Leaves out the work itself: commands build objects from their arguments and call the library.
"""
