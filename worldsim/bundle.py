"""A world on disk: `world.json`, safetensors and a card in one folder that needs nothing else.

Here so that a world can be sent, shipped and loaded by name; classes come from one fixed table, so it runs no code.
Leaves out optimiser state, which is the trainer's.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from worldsim.actions import ActionCodec, space_from_json, space_to_json
from worldsim.diffusion import grids, samplers, stochastic
from worldsim.diffusion.discrete import DiscreteVP
from worldsim.diffusion.guidance import Guidance
from worldsim.diffusion.names import choose_guidance, choose_sampler
from worldsim.diffusion.prediction import (
    CleanPrediction,
    NoisePrediction,
    PreconditionedPrediction,
    ScorePrediction,
    VelocityPrediction,
    VPrediction,
)
from worldsim.diffusion.process import RectifiedFlow, VarianceExploding, VPCosine, VPLinear
from worldsim.files import save_tensors, sync_folder, write_json
from worldsim.models.autoencoder import ConvAutoencoder, ConvAutoencoderConfig
from worldsim.models.conv import ConvBackbone, ConvBackboneConfig
from worldsim.models.denoiser import Denoiser
from worldsim.models.folded import FoldedPixels, FoldedPixelsConfig
from worldsim.models.forecast import LastFrame, Motion, MotionConfig
from worldsim.models.latent_action import LatentActionConfig, LatentActions
from worldsim.models.next_frame import NextFrame, NextFrameConfig
from worldsim.models.outcome import OutcomeConfig, OutcomeModel
from worldsim.models.transformer import Transformer, TransformerConfig
from worldsim.models.unet import UNet, UNetConfig
from worldsim.types import Clip, Forecaster, Sampler, WorldInfo
from worldsim.world_model import WorldModel

FORMAT_VERSION = 5
HOTTEST = 3.0  # temperature
PROMPT = [field.name for field in fields(Clip) if field.name not in ("frames", "varies")]  # what is kept of a clip
WORLDS = Path(__file__).parent / "worlds"
MODULES = {
    "ConvAutoencoder": (ConvAutoencoder, ConvAutoencoderConfig),
    "FoldedPixels": (FoldedPixels, FoldedPixelsConfig),
    "ConvBackbone": (ConvBackbone, ConvBackboneConfig),
    "Transformer": (Transformer, TransformerConfig),
    "UNet": (UNet, UNetConfig),
    "Motion": (Motion, MotionConfig),
    "NextFrame": (NextFrame, NextFrameConfig),
    "OutcomeModel": (OutcomeModel, OutcomeConfig),
    "LatentActions": (LatentActions, LatentActionConfig),
}
PROCESSES = (RectifiedFlow, VPLinear, VPCosine, VarianceExploding, DiscreteVP)
PREDICTIONS = (
    CleanPrediction, NoisePrediction, VPrediction, VelocityPrediction, ScorePrediction, PreconditionedPrediction,
)  # fmt: skip
SAMPLERS = (
    samplers.EulerSampler, samplers.HeunSampler, samplers.MidpointSampler, samplers.RungeKuttaSampler,
    samplers.AdamsBashforthSampler, samplers.DPMSolverSingleSampler, samplers.DPMSolverMultiSampler,
    stochastic.DDIMSampler, stochastic.AncestralSampler, stochastic.SDEDPMSolverSampler,
    stochastic.EulerMaruyamaSampler, stochastic.ChurnSampler, stochastic.LangevinSampler,
)  # fmt: skip
GRIDS = (grids.UniformGrid, grids.TrailingGrid, grids.KarrasGrid, grids.LogSNRGrid)
VALUES = {cls.__name__: cls for cls in (*PROCESSES, *PREDICTIONS, *SAMPLERS, *GRIDS, Guidance)}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
OF_A_WARP = ("warp_width", "keyframes", "renewed", "followed")  # sizes of a backbone in format version 1
WEIGHTS = ("autoencoder", "denoiser", "outcome", "prompts")


def shipped() -> list[str]:
    """Returns the names of the worlds that come with the package."""
    return sorted(path.parent.name for path in WORLDS.glob("*/world.json"))


def save(world: WorldModel, folder: str | Path, dtype: torch.dtype = torch.float32, card: str = "") -> Path:
    """Writes a world's bundle whole or not at all, replacing one that is there; weights are stored in `dtype`."""
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors = {
        "autoencoder": world.autoencoder.state_dict(),
        "denoiser": world.denoiser.state_dict(),
        "outcome": world.outcome.state_dict(),
        "prompts": {name: getattr(world.prompts, name) for name in PROMPT},
    }
    if world.latent is not None:
        tensors["latent"] = world.latent.state_dict()
    for name, state in tensors.items():
        stored = {key: _stored(key, value, dtype) for key, value in state.items()}
        save_tensors(stored, temporary / f"{name}.safetensors")
    description = _describe(world) | {"sha256": {name: _sha256(temporary / f"{name}.safetensors") for name in tensors}}
    write_json(temporary / "world.json", description)
    (temporary / "README.md").write_text(card or f"# {world.info.name}\n\nA learned world of {world.info.game}.\n")
    _replace_folder(temporary, folder)
    return folder


def load(
    world: str | Path,
    device: torch.device | str = "cpu",
    steps: int | None = None,
    sampler: str | Sampler | None = None,
    guidance: float | Guidance | None = None,
    dtype: torch.dtype | str | None = None,
    temperature: float | None = None,
) -> WorldModel:
    """Loads a world by the name of a shipped one or the path of a bundle.

    How it is sampled is its own, unless a `sampler` (by name, or built), its `steps`, a `guidance` or a `temperature`
    says otherwise: above 1 more comes of what is rare.
    With `dtype="bfloat16"` (None: float32) batches dream faster where the hardware multiplies it, far slower elsewhere.
    Raises ValueError, in one sentence, for an unknown name and a bundle that is incomplete, corrupt or newer.
    """
    folder, device, dtype = _find(world), read_device(device), read_dtype(dtype)
    try:
        text = json.loads((folder / "world.json").read_text())
        if text["format_version"] > FORMAT_VERSION:
            raise ValueError(
                f"expected format version up to {FORMAT_VERSION} in {folder}, found {text['format_version']}; "
                "upgrade worldsim"
            )
        named = (*WEIGHTS, "latent") if text["parts"].get("latent") else WEIGHTS
        weights = {name: _read_weights(folder, name, text["sha256"][name]) for name in named}
        own, own_guidance = _value(text["parts"]["sampler"]), _value(text["parts"].get("guidance"))
        sampling = choose_sampler(own, sampler, steps), choose_guidance(own_guidance, guidance)
        temperature = read_temperature(text.get("temperature", 1.0) if temperature is None else temperature)
        return _build(text, weights, device, dtype, *sampling, temperature)
    except torch.OutOfMemoryError:
        raise
    except (KeyError, TypeError, AttributeError, RuntimeError, json.JSONDecodeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(
            f"expected a whole world bundle in {folder}, found a damaged one ({reason}); train or copy it again"
        ) from error


def read_device(device: torch.device | str) -> torch.device:
    """Returns a device that is there. Raises ValueError, in one sentence, for one that is not."""
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError, TypeError) as error:  # the second is what a torch without CUDA raises
        reason = str(error).splitlines()[0][:120]
        raise ValueError(f"expected device= one of this machine's, found {device!s} ({reason})") from error


def read_dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    """Returns what to multiply in; None is float32. Raises ValueError, in one sentence, for what it does not know."""
    if (name := str(torch.float32 if dtype is None else dtype).removeprefix("torch.")) not in DTYPES:
        raise ValueError(f"expected dtype= one of {', '.join(DTYPES)}, found {dtype}")
    return DTYPES[name]


def read_temperature(temperature: Any) -> float:
    """Returns a temperature. Raises ValueError, in one sentence, for one that no frame can begin at."""
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)) or not 0 < temperature <= HOTTEST:
        raise ValueError(f"expected a temperature above 0 and up to {HOTTEST:g}, found {temperature!r}; 1 is the usual")
    return float(temperature)


def read_info(text: dict) -> WorldInfo:
    """Returns the facts in a bundle's `world.json`."""
    space = space_from_json(text["action_space"]) if text["action_space"] is not None else None
    table = np.array(text["discrete_table"]) if text["discrete_table"] is not None else None
    return WorldInfo(
        text["name"], text["game"], text["fps"], space, tuple(text["frame_shape"]), text["keymap"], table,
        text["provenance"], text["metrics"],
    )  # fmt: skip


def _find(world: str | Path) -> Path:
    if str(world) in shipped():
        return WORLDS / str(world)
    world = str(world)
    if (Path(world) / "world.json").is_file():
        return Path(world)
    if Path(world).is_dir():
        raise ValueError(f"expected a world bundle in {world}, found a folder without world.json; give its path")
    raise ValueError(
        f"expected the path of a world or one of {', '.join(shipped()) or '(none shipped)'}, found {world}"
    )


def _describe(world: WorldModel) -> dict[str, Any]:
    info, denoiser = world.info, world.denoiser
    return {
        "format_version": FORMAT_VERSION,
        "name": info.name,
        "game": info.game,
        "fps": info.fps,
        "frame_shape": list(info.frame_shape),
        "action_space": space_to_json(info.action_space) if info.action_space is not None else None,
        "keymap": info.keymap,
        "discrete_table": info.discrete_table.tolist() if info.discrete_table is not None else None,
        "provenance": info.provenance,
        "metrics": info.metrics,
        "context_level": world.context_level,
        "temperature": world.temperature,
        "parts": {
            "autoencoder": _plain(world.autoencoder, world.autoencoder.config),
            "backbone": _plain(denoiser.backbone, denoiser.backbone.config),
            "forecaster": _plain_forecaster(denoiser.forecaster),
            "outcome": _plain(world.outcome, world.outcome.config),
            "process": _plain_value(denoiser.process),
            "prediction": _plain_value(denoiser.prediction),
            "sampler": _plain_value(world.sampler),
            "guidance": _plain_value(world.guidance),
            "latent": None if world.latent is None else _plain(world.latent, world.latent.config),
        },
    }


def _plain(part: Any, config: Any) -> dict[str, Any]:
    return {"class": type(part).__name__, "config": asdict(config)}


def _plain_forecaster(forecaster: Forecaster) -> dict[str, Any] | None:
    """Returns the description of a forecaster that has weights; None stands for the last frame, kept."""
    return _plain(forecaster, forecaster.config) if isinstance(forecaster, (Motion, NextFrame)) else None


def _plain_value(value: Any) -> Any:
    if not is_dataclass(value):
        return value
    parts = {field.name: _plain_value(getattr(value, field.name)) for field in fields(value)}
    return {"class": type(value).__name__, "config": parts}


def _build(
    text: dict,
    weights: dict[str, dict[str, Tensor]],
    device: torch.device,
    dtype: torch.dtype,
    sampler: Sampler,
    guidance: Guidance | None,
    temperature: float,
) -> WorldModel:
    parts = text["parts"]
    described = parts.get("forecaster")
    with torch.random.fork_rng(devices=[]):  # modules draw weights that the bundle's replace
        autoencoder, backbone, outcome = (_module(parts[name]) for name in ("autoencoder", "backbone", "outcome"))
        forecaster = LastFrame() if described is None else _module(described)
        if isinstance(forecaster, NextFrame):
            forecaster.see_through(autoencoder)
        if parts.get("latent") and text["format_version"] < 4:
            raise ValueError("expected latent actions of format version 4, found older ones; train the world again")
        latent = _module(parts["latent"]) if parts.get("latent") else None
    process, prediction = (_value(parts[name]) for name in ("process", "prediction"))
    denoiser = Denoiser(backbone, autoencoder.bound, process, prediction, forecaster)
    modules = {"autoencoder": autoencoder, "denoiser": denoiser, "outcome": outcome}
    modules |= {} if latent is None else {"latent": latent.eval().requires_grad_(False)}
    for name, module in modules.items():
        module.load_state_dict(weights[name])  # copies into float32 parameters
        module.to(device)
    prompts = Clip(**{k: v.float() if v.is_floating_point() else v for k, v in weights["prompts"].items()})
    prompts = prompts.to(device)
    info = read_info(text)
    if prompts.action.shape[-1] != ActionCodec(info.action_space).width:
        raise ValueError(
            f"expected prompts with actions of {info.action_space}, found {prompts.action.shape[-1]} channels"
        )
    return WorldModel(
        info, autoencoder, denoiser, outcome, sampler, prompts, text["context_level"], guidance, latent, dtype,
        temperature,
    )  # fmt: skip


def module_of(config: Any) -> Any:
    """Builds the module that a config belongs to."""
    return {config_class: module for module, config_class in MODULES.values()}[type(config)](config)


def _module(part: dict) -> Any:
    _, config = _known(MODULES, part["class"])
    sizes = {key: _tuple(value) for key, value in part["config"].items()}
    if part["class"] == "ConvBackbone":
        if sizes.get("warp_width"):
            raise ValueError("expected a world of format version 2, found one of 1 with a warp in it; train it again")
        sizes = {key: value for key, value in sizes.items() if key not in OF_A_WARP}
    return module_of(config(**sizes))


def _value(part: Any) -> Any:
    if not isinstance(part, dict):
        return _tuple(part)
    return _known(VALUES, part["class"])(**{key: _value(value) for key, value in part["config"].items()})


def _known(table: dict, name: str) -> Any:
    if name not in table:
        raise ValueError(
            f"expected one of {', '.join(table)} in world.json, found {name!r}; upgrade worldsim or check the source"
        )
    return table[name]


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


def _read_weights(folder: Path, name: str, expected: str) -> dict[str, Tensor]:
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise ValueError(f"expected {path.name} in {folder}, found none; copy the whole folder again")
    if (found := _sha256(path)) != expected:
        raise ValueError(f"expected {path} with sha256 {expected[:12]}…, found {found[:12]}…; copy the file again")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"expected tensors in {path}, found a corrupt file ({error}); copy it again") from error


def _stored(key: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    # Statistics and bins stay exact; weights and prompts may be rounded.
    exact = ("background", "mean", "std", "bound", "bins", "words", "usual", "softness")
    rounded = value.is_floating_point() and key.rpartition(".")[2] not in exact
    return value.to(dtype) if rounded else value


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _replace_folder(temporary: Path, folder: Path) -> None:
    """Moves a finished folder to its place. A kill between the two renames leaves both whole, as hidden folders."""
    sync_folder(temporary)
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder, old)
    os.rename(temporary, folder)
    shutil.rmtree(old, ignore_errors=True)
