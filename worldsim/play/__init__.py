"""The front-end: a pygame window to play worlds in, a page for browsers, and play without either, into a video.

Here as the only place that opens windows. Leaves out the recorder of games (`data.recorder`).
"""
