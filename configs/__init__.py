"""The commands' arguments and presets as Hydra YAML, installed as `worldsim.configs`.

Here so that Hydra finds them in a wheel: only this root folder needs to be a package.
Leaves out code.
"""
