"""The command line: what it lists, what it starts, and how it fails (one line on stderr, exit code 2)."""

import errno
import json
import os
import subprocess
import sys
from importlib import import_module
from importlib.resources import files

import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from worldsim.cli import arguments, worlds
from worldsim.cli.compose import compose, module_name
from worldsim.cli.main import COMMANDS, main
from worldsim.cli.train import build_preset
from worldsim.dream import registration

HEAVY = ("torch", "pygame", "hydra", "omegaconf", "imageio", "matplotlib", "accelerate")


def failure_of(argv: list[str], capsys) -> str:
    """Runs a command that must fail as users' errors do; returns its line."""
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n") and err.count("\n") == 1
    return err


def leaves(config: DictConfig, prefix: str = "") -> set[str]:
    """The dotted keys of a config file, read by OmegaConf."""
    found = set()
    for key in config:
        value = config._get_node(key)
        if key == "_target_" or (not prefix and key in ("defaults", "hydra")):
            continue
        if isinstance(value, DictConfig) and len(value) and not value._is_missing() and not value._is_none():
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found.add(f"{prefix}{key}")
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_module_with_main(command):
    module = import_module(module_name(command))
    assert callable(module.main)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_names_every_argument_of_its_file(command, capsys):
    text = (files("worldsim.configs") / f"{arguments.file_name(command)}.yaml").read_text()
    assert main([command, "--help"]) == 0
    printed = capsys.readouterr().out
    for key in leaves(OmegaConf.create(text)):
        assert f"  {key}=" in printed


def test_help_shows_default_comment_and_group_options(monkeypatch):
    texts = {
        "record.yaml": "# @package _global_\ndefaults:\n  - game: ???  # which game\n  - _self_\n\nout: ???  # folder\n"
        "frames: 10_000  # how many\nplan:\n  depth: 3\n  note: ${out}/x\n",
        "game/arena.yaml": "# the laboratory game\nid: worldsim-real/Arena-v0\n",
        "game/gym.yaml": "# any id\nid: ???\n",
    }
    monkeypatch.setattr(arguments, "_text", texts.__getitem__)
    monkeypatch.setattr(arguments, "_options", lambda group: ("arena", "gym"))
    lines = [line.split() for line in arguments.help_text("record", "record a game").splitlines()[4:]]
    assert lines == [
        ["game=", "(required)", "which", "game"],
        ["out=", "(required)", "folder"],
        ["frames=", "[10_000]", "how", "many"],
        ["plan.depth=", "[3]"],
        ["plan.note=", "[${out}/x]"],
        ["game=arena", "the", "laboratory", "game"],
        ["game=gym", "any", "id;", "needs", "game.id="],
    ]


def test_help_tells_comments_of_several_lines_whole():
    text = arguments.help_text("import", "x")
    assert "desktop recordings (OWAMcap), the id of a local Minari data set, or a data folder for a shift" in text


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(argv, capsys):
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name}" in printed and text in printed for name, text in COMMANDS.items())


def test_help_starts_nothing_heavy():
    code = (
        "import sys; from worldsim.cli.main import main; main(['--help']); main(['worlds', '--help']);"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_python_dash_m_worldsim_is_the_command():
    done = subprocess.run([sys.executable, "-m", "worldsim", "nonsense"], text=True, capture_output=True)
    assert done.returncode == 2
    assert done.stderr.startswith("worldsim: unknown command 'nonsense'; expected one of record, import, export, check")


@pytest.mark.parametrize("buffered", ["", "1"])
def test_help_that_nobody_reads_to_its_end_is_no_error(buffered):
    command = [sys.executable, "-m", "worldsim", "play", "--help"]
    env = os.environ | {"PYTHONUNBUFFERED": buffered}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(60) == 0
    process.stderr.close()


def test_an_unknown_argument_lists_the_known_ones(capsys):
    line = failure_of(["record", "game=arena", "out=x", "frame=3"], capsys)
    assert line.startswith("worldsim record: unknown argument 'frame'; expected one of game, ")
    assert "frames" in line


def test_an_argument_to_a_command_without_any_is_refused(capsys):
    assert "unknown argument 'x'; this command takes none" in failure_of(["worlds", "x=3"], capsys)


def test_an_unknown_game_lists_the_known_ones(capsys):
    line = failure_of(["record", "game=doom3", "out=x"], capsys)
    assert "unknown game 'doom3'; expected one of arena, doom_maze, doom_take_cover, dream, gym" in line


def test_a_missing_game_lists_the_known_ones(capsys):
    line = failure_of(["record", "out=x"], capsys)
    assert "game= is required; expected one of arena, doom_maze, doom_take_cover, dream, gym" in line


def test_a_missing_argument_is_named(capsys):
    line = failure_of(["record", "game=arena", "policy=random", "frames=9"], capsys)
    assert line.startswith("worldsim record: out= (data folder) is required; worldsim record --help")


def test_a_setting_that_only_the_chosen_game_needs_is_named(capsys):
    line = failure_of(["record", "game=gym", "policy=random", "frames=9", "out=x"], capsys)
    assert line.startswith("worldsim record: game.id= is required;")


@pytest.mark.parametrize("argument", ["out", "out=a=b", "--out", "out=(x"])
def test_an_unreadable_argument_is_shown_with_the_form_it_should_have(argument, capsys):
    line = failure_of(["record", "game=arena", argument], capsys)
    assert f"cannot read {argument!r}; expected key=value" in line


@pytest.mark.parametrize("key", ["steps", "temperature", "context_level"])
def test_a_preset_s_setting_reaches_the_training(key):
    config = compose("train", ["data=x", "out=y", "minutes=1", f"preset.{key}={3 if key == 'steps' else 0.75}"])
    preset = instantiate(config.preset, _convert_="all")
    assert getattr(build_preset(preset, "conv", config), key) == (3 if key == "steps" else 0.75)


@pytest.mark.parametrize("key", ["preset.heat", "preset.backbones.conv.heat"])
def test_a_setting_that_no_preset_has_is_refused(key):
    config = compose("train", ["data=x", "out=y", "minutes=1", f"+{key}=1"])
    with pytest.raises(ValueError, match=r"expected settings of a preset among [a-z_, ]+ found heat"):
        build_preset(instantiate(config.preset, _convert_="all"), "conv", config)


def test_a_list_where_one_value_belongs_says_how_to_quote_it(capsys):
    line = failure_of(["record", "game=arena", "out=a,b"], capsys)
    assert "quote a text with commas" in line and 'out="a,b"' in line
    assert compose("record", ["game=arena", "policy=random", "frames=9", 'out="a,b"']).out == "a,b"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("expected frames > 0,\n  found 0"), "expected frames > 0, found 0"),
        (OSError(errno.ENOSPC, "No space left on device", "data/x.npy"), "No space left on device: data/x.npy; free"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a"), "No such file or directory: a"),
        (ImportError("vizdoom is missing; pip install worldsim-rl[games]"), "worldsim-rl[games]"),
    ],
)
def test_a_user_error_inside_a_command_is_one_line(error, expected, monkeypatch, capsys):
    monkeypatch.setattr(worlds, "main", raiser(error))
    line = failure_of(["worlds"], capsys)
    assert line.startswith("worldsim worlds: ") and expected in line


def test_a_programming_error_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(worlds, "main", raiser(AttributeError("a bug")))
    with pytest.raises(AttributeError, match="a bug"):
        main(["worlds"])


def test_ctrl_c_ends_with_code_130(monkeypatch, capsys):
    monkeypatch.setattr(worlds, "main", raiser(KeyboardInterrupt()))
    assert main(["worlds"]) == 130
    assert capsys.readouterr().err == "worldsim worlds: interrupted\n"


def test_a_wrong_constructor_argument_is_named_without_a_traceback(monkeypatch, capsys):
    from hydra.utils import instantiate

    node = OmegaConf.create({"model": {"_target_": "fractions.Fraction", "numerator": "x"}})
    monkeypatch.setattr(worlds, "main", lambda config: instantiate(node.model))
    assert "model: Invalid literal for Fraction: 'x'" in failure_of(["worlds"], capsys)


def raiser(error: BaseException):
    def main(config):
        raise error

    return main


def test_modules_beside_the_user_can_be_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "module_beside_the_user.py").write_text("answer = 42\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main(["worlds"]) == 0
    assert __import__("module_beside_the_user").answer == 42


def write_world(folder, **facts) -> None:
    folder.mkdir(parents=True)
    (folder / "world.json").write_text(json.dumps({"name": folder.name, "game": "Some-v0", "fps": 15, **facts}))


def test_worlds_lists_what_ships(tmp_path, monkeypatch, capsys):
    psnr = {"psnr": {"mean": 31.25, "low": 31, "high": 32}}
    space = {
        "type": "Dict",
        "spaces": {"keys": {"type": "MultiBinary", "n": [4]}, "fire": {"type": "Discrete", "n": 2}},
    }
    metrics = {"one_step": psnr, "copy_last": {"1": psnr}}
    write_world(tmp_path / "take-cover", action_space=space, provenance={"minutes": 15}, metrics=metrics)
    write_world(tmp_path / "video", action_space=None)
    monkeypatch.setattr(registration, "WORLDS", tmp_path)
    assert main(["worlds"]) == 0
    printed = capsys.readouterr().out
    assert 'gym.make("worldsim/TakeCover-v0")' in printed and 'gym.make("worldsim/Video-v0")' in printed
    assert "Some-v0, 15 frames a second" in printed
    assert "Dict(keys: MultiBinary(4), fire: Discrete(2))" in printed
    assert "15 minutes" in printed
    assert "one step 31.2 dB, copying the last frame 31.2 dB" in printed


def test_worlds_says_so_where_none_ship(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(registration, "WORLDS", tmp_path)
    assert main(["worlds"]) == 0
    assert "no worlds ship" in capsys.readouterr().out


def test_worlds_names_a_file_that_is_not_json(tmp_path, monkeypatch, capsys):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "world.json").write_text("{")
    monkeypatch.setattr(registration, "WORLDS", tmp_path)
    assert "broken/world.json is not readable as JSON" in failure_of(["worlds"], capsys)


def test_a_space_from_the_library_is_described():
    from gymnasium.spaces import Box, Discrete, MultiDiscrete, Tuple

    from worldsim.actions import space_to_json

    space = Tuple([Discrete(3), MultiDiscrete([2, 5]), Box(-1, 1, (2, 3))])
    assert worlds.describe_space(space_to_json(space)) == "Tuple(Discrete(3), MultiDiscrete(2, 5), Box(2, 3))"


def test_bench_refuses_a_device_that_is_not_there(capsys, tmp_path):
    assert main(["bench", "world=arena", "device=gpu", f"out={tmp_path}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_bench_refuses_a_dtype_that_it_does_not_know(capsys, tmp_path):
    assert main(["bench", "world=arena", "dtype=fp16", f"out={tmp_path}"]) == 2
    assert "expected dtype= one of float32, bfloat16, found fp16" in capsys.readouterr().err
