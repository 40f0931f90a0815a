"""Draws what diffusion does, into PNG files: noise on a frame, a dreamed frame taking shape, solvers, weightings.

python demos/draw_diffusion.py [world=NAME_OR_PATH] [out=FOLDER]      needs matplotlib: pip install worldsim-rl[report]
"""

import sys
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import torch

import worldsim
from worldsim import bundle
from worldsim.diffusion import levels, weighting
from worldsim.diffusion.flow import count_evaluations
from worldsim.diffusion.grids import KarrasGrid, UniformGrid
from worldsim.diffusion.names import SAMPLERS
from worldsim.diffusion.process import RectifiedFlow, VarianceExploding, VPCosine, VPLinear, add_noise, unit_variance

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from PIL import Image

SHOWN = {"rectified flow": RectifiedFlow(), "VP, cosine": VPCosine(), "EDM": VarianceExploding()}


def draw_forward(world):
    """One frame's latent at rising levels of three processes, as the network gets it, and what it decodes to."""
    clean = world.prompts.latents[:1, -1]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    steps, rows = torch.linspace(0, 1, 7), {}
    for name, process in SHOWN.items():
        noisy = [add_noise(process, clean, noise, level[None]) * unit_variance(process, level) for level in steps]
        if not rows:
            rows[f"{name}:\nlatent"] = colours(torch.cat(noisy))
        rows[f"{name}:\ndecoded"] = world.autoencoder.decode(torch.cat(noisy))
    return sheet(
        rows, [f"level {level:.2f}" for level in steps], "A frame becomes noise (three channels of its latent)"
    )


def draw_reverse(world, steps=8):
    """What the sampler holds and what it takes for the clean frame, at every evaluation for one dreamed frame."""
    state = world.initial(torch.tensor([0]), torch.zeros(1, 3, dtype=torch.int64))
    seen = []

    def watched(denoise, process, *rest):
        def spy(x, level, target_level):
            clean = denoise(x, level, target_level)
            seen.append((level.item(), x * unit_variance(process, level[0]), clean))
            return clean

        return replace(SAMPLERS["ddim"], steps=steps)(spy, process, *rest)

    def noise(index):
        return torch.randn(state.latent.shape, generator=torch.Generator().manual_seed(index))

    with torch.no_grad():
        world.denoiser.sample(watched, world.action_codec.null[None], state.context, noise)
    levels_seen, held, clean = zip(*seen, strict=True)
    held, clean, decode = torch.cat(held), torch.cat(clean), world.autoencoder.decode
    rows = {"held:\nlatent": colours(held), "decoded": decode(held)}
    rows |= {"taken for\nclean: latent": colours(clean), "decoded ": decode(clean)}
    return sheet(rows, [f"level {level:.2f}" for level in levels_seen], "A dreamed frame takes shape")


def colours(latents):
    """The first three channels `[n c h w]` as pictures uint8 `[n h w 3]`, -2 to 2."""
    return ((latents[:, :3] / 4 + 0.5).clamp(0, 1) * 255).byte().movedim(1, -1)


def sheet(rows, titles, title):
    """Pictures uint8 `[n H W 3]` in named rows, with titles on top."""
    pictures = next(iter(rows.values()))
    height, width = pictures.shape[1:3]
    size = (1.3 * len(pictures) + 1, (1.3 * len(rows) * height / width) + 0.7)
    figure, axes = plt.subplots(len(rows), len(pictures), figsize=size, squeeze=False, layout="constrained")
    for row, (name, pictures) in zip(axes, rows.items(), strict=True):
        row[0].set_ylabel(name, fontsize=9)
        for axis, picture in zip(row, pictures, strict=True):
            axis.imshow(picture.cpu().numpy())
            axis.set(xticks=[], yticks=[])
    for axis, text in zip(axes[0], titles, strict=True):
        axis.set_title(text, fontsize=9)
    figure.suptitle(title)
    return figure


def mixture(process):
    """The exact denoiser of three Gaussians on a line."""
    shares, means, stds = torch.tensor([[0.3, 0.5, 0.2], [-1.5, 0.2, 1.8], [0.4, 0.3, 0.5]], dtype=torch.float64)

    def denoise(x, level, target_level):
        alpha, sigma = process.alpha(level[0]), process.sigma(level[0])
        away, variance = x[..., None] - alpha * means, (alpha * stds) ** 2 + sigma**2
        chance = (shares.log() - away**2 / (2 * variance) - variance.log() / 2).softmax(-1)
        return (chance * (means + alpha * stds**2 / variance * away)).sum(-1)

    return denoise


def draw_solvers():
    """Error against network evaluations, where the truth is known; both axes logarithmic."""
    start = torch.linspace(-2, 2, 33, dtype=torch.float64)[:, None, None, None]
    names = ["euler", "heun", "midpoint", "dpm2s", "dpm2m", "dpm3m", "ab2", "ab3", "ab4", "rk4"]
    cases = [("rectified flow, equal steps", RectifiedFlow(), UniformGrid())]
    cases += [("VP, Karras' steps", VPLinear(), KarrasGrid(ratio_min=0.0))]
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), sharey=True, layout="constrained")
    for axis, (title, process, grid) in zip(axes, cases, strict=True):

        def run(name, steps, process=process, grid=grid):
            sampler = replace(SAMPLERS[name], steps=steps, grid=grid)
            return sampler(mixture(process), process, start.shape, lambda _: start), count_evaluations(sampler, process)

        truth, _ = run("rk4", 400)
        for index, name in enumerate(names):
            found = [run(name, steps) for steps in (2, 4, 8, 16, 32, 64)]
            error = [(sample - truth).square().mean().sqrt().item() for sample, _ in found]
            marker = "osD^v"[index % 5] if index < 5 else "xP*<>"[index % 5]
            axis.loglog([count for _, count in found], error, marker=marker, markersize=4, linewidth=1, label=name)
        axis.set(title=title, xlabel="network evaluations")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("root mean square error")
    figure.suptitle("Solvers where the truth is known: a mixture of three Gaussians")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    return figure


def draw_weightings():
    """How much an error counts, and how often a level is drawn."""
    process, log_snr = RectifiedFlow(), torch.linspace(-8, 8, 300)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for weight in ("Uniform", "Ramp", "Simple", "Elbo", "EDMWeight", "MinSNR", "Sigmoid", "FlowWeight"):
        left.semilogy(log_snr, getattr(weighting, weight)()(process.level_at(log_snr), process), label=weight)
    left.set(
        title="weight of the clean latent's squared error", xlabel="log SNR (clean to the right)", ylim=(1e-4, 1e4)
    )
    uniform = (torch.arange(200_000) + 0.5) / 200_000
    for name in ("UniformLevels", "PowerLevels", "LogitNormalLevels", "LogNormalLevels"):
        density, edges = np.histogram(getattr(levels, name)().draw(uniform, process), 60, (0, 1), density=True)
        right.plot((edges[1:] + edges[:-1]) / 2, density, label=name)
    right.set(title="density of the levels trained on", xlabel="level (pure noise to the right)", ylim=(0, 4))
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    return figure


def main(arguments):
    given = dict(argument.split("=", 1) for argument in arguments)
    own = "doom-take-cover" if "doom-take-cover" in bundle.shipped() else "arena"
    world, folder = worldsim.load(given.get("world", own)), Path(given.get("out", "worldsim-pictures"))
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "forward": draw_forward(world),
        "reverse": draw_reverse(world),
        "solvers": draw_solvers(),
        "weightings": draw_weightings(),
    }
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=72 if name in ("forward", "reverse") else 90)
        Image.open(folder / f"{name}.png").convert("RGB").quantize(256).save(folder / f"{name}.png", optimize=True)
        print(folder / f"{name}.png")


if __name__ == "__main__":
    main(sys.argv[1:])
