"""Recorded gameplay: the store on disk, the recorder, the policies that act while recording, and training clips.

Here because data outlives code: everything that reads or writes a data folder is in this package.
Leaves out models and training.
"""
