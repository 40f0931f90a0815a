"""Source games: the real games that worlds are recorded from, one file per game.

Here so that dreams can be compared with what they dream of; `worldsim-real/<Game>-v0` are their Gymnasium ids.
Leaves out every game that Gymnasium already knows: `generic.py` reaches those.
"""
