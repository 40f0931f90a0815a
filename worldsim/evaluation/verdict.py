"""Figures in words: for each measure whether it is good, fair or poor, by a rule that is printed beside it.

Here so that a report's first lines and a world's card say the same of the same numbers.
Leaves out tables and plots (`report`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TELLS = 0.1  # by how much a judge must be better than chance on real frames
ALL = 0.98  # of the steps that were played: who lives longer in dream and game does not die


@dataclass(frozen=True)
class Verdict:
    """One line: what was asked, what was measured, how good that is, and by which rule."""

    question: str
    figure: str
    word: str  # good, fair or poor
    rule: str


def verdicts(m: dict[str, Any]) -> list[Verdict]:
    """Returns a line for every measure that `metrics.json` has."""
    lines = [
        _lives(m),
        _things(m),
        _covered(m),
        _one_step(m),
        _open_loop(m),
        _detail(m),
        _actions(m),
        _control(m),
        _memory(m),
        _drift(m),
        _ends(m),
        _rewards(m),
        _returns(m),
    ]
    return [line for line in lines if line is not None]


def _word(value: float, good: float, fair: float) -> str:
    return "good" if value >= good else "fair" if value >= fair else "poor"


def _lives(m: dict[str, Any]) -> Verdict | None:
    if not (figure := m.get("habits")):
        return None
    lived = [[h["lived"][side]["mean"] for side in ("dream", "real")] for h in figure["habits"].values()]
    mortal = [both for both in lived if min(both) < ALL * figure["steps"]]
    if not mortal:
        return None
    off = [abs(dream / max(real, 1e-6) - 1) for dream, real in mortal]
    mean, rank = sum(off) / len(off), figure["rank_correlation"]
    text = f"{len(off)} of {len(lived)} habits die, on average {mean:.0%} off, the worst {max(off):.0%}"
    text += f", rank correlation {rank['mean']:.2f}" if rank else ""
    rule = "good up to 20 % on average, fair 50"  # the worst of a few is off by luck alone, of few rows
    return Verdict("Do habits live as long as in the game?", text, _word(-mean, -0.2, -0.5), rule)


def _things(m: dict[str, Any]) -> Verdict | None:
    found = [
        (abs(dream - real) / max(real, 0.1), f"{kind} at age {age} ({habit}): {dream:.2f} instead of {real:.2f}")
        for habit, figures in ((m.get("habits") or {}).get("habits") or {}).items()
        for kind, counted in figures.get("things", {}).items()
        for age, dream in counted["count"]["dream"].items()
        if (real := counted["count"]["real"].get(age)) is not None
    ]
    if not found:
        return None
    off, text = max(found)
    return Verdict(
        "Is as much to be seen as in the game?", text, _word(-off, -0.1, -0.25), "good up to 10 % off, fair 25"
    )


def _covered(m: dict[str, Any]) -> Verdict | None:
    found = [
        (h["longest"] / max(h["lived"]["real"]["mean"], 1), f"{name} for {h['longest']} steps at most")
        for name, h in ((m.get("habits") or {}).get("habits") or {}).items()
        if "longest" in h
    ]
    if not found:
        return None
    share, text = min(found)
    rule = "good from half as long as one lives by it, fair from a tenth"
    return Verdict("Do these recordings hold every action for long?", text, _word(share, 0.5, 0.1), rule)


def _one_step(m: dict[str, Any]) -> Verdict:
    gain = m["one_step"]["psnr"]["mean"] - m["copy_last"]["1"]["psnr"]["mean"]
    text = f"{m['one_step']['psnr']['mean']:.1f} dB, {gain:+.1f} dB against the last frame kept"
    return Verdict("Is the next frame right?", text, _word(gain, 3, 1), "good from +3 dB, fair from +1")


def _open_loop(m: dict[str, Any]) -> Verdict | None:
    if "16" not in m["open_loop"]:
        return None
    mine, floors = m["open_loop"]["16"]["psnr"]["mean"], [m["copy_last"]["16"], m["dataset_mean"]]
    gain = mine - max(floor["psnr"]["mean"] for floor in floors)
    text = f"{mine:.1f} dB, {gain:+.1f} dB against the better of last and mean frame"
    return Verdict("And 16 frames on?", text, _word(gain, 2, 0), "good from +2 dB, fair from 0")


def _detail(m: dict[str, Any]) -> Verdict | None:
    share = m["open_loop"].get("16", m["one_step"]).get("detail")
    if not share:
        return None
    value = min(share["mean"], 1 / max(share["mean"], 1e-6))
    text = f"{share['mean']:.2f} of the real fine detail"
    return Verdict("Is it sharp?", text, _word(value, 0.8, 0.5), "good from 0.8 to 1.25, fair from 0.5 to 2")


def _actions(m: dict[str, Any]) -> Verdict | None:
    told = (m.get("controllability") or {}).get("retrieval")
    if told:
        first = told["0"]
        value = (first["top1"]["mean"] - first["chance"]) / max(1 - first["chance"], 1e-6)
        text = f"{first['top1']['mean']:.0%} of futures told by their action (chance {first['chance']:.0%})"
        rule = "good from 80 % of the way from chance to all, fair from 40 %"
        return Verdict("Do actions do what they do in the game?", text, _word(value, 0.8, 0.4), rule)
    effect = ((m.get("controllability") or {}).get("shuffled") or {}).get("0")
    if not effect:
        return None
    effect = effect["delta_psnr"]
    text = f"{effect['mean']:+.1f} dB by the right actions"
    return Verdict("Do actions matter?", text, _word(effect["mean"], 1, 0.2), "good from +1 dB, fair from +0.2")


def _control(m: dict[str, Any]) -> Verdict | None:
    judged = (m.get("controllability") or {}).get("judged")
    if not judged:
        return None
    told = {age: figures for age, figures in judged.items() if figures["share"] is not None}
    if not told or any(figures["real"] - figures["chance"] < TELLS for figures in told.values()):
        return None
    age, worst = min(told.items(), key=lambda item: item[1]["share"]["mean"])
    text = f"at age {age} {worst['dream']:.0%} of actions named from its frames, {worst['real']:.0%} from real ones"
    rule = "good from 95 % of the way from chance to the real, fair from 80"
    return Verdict("Does it obey at every age?", text, _word(worst["share"]["mean"], 0.95, 0.8), rule)


def _memory(m: dict[str, Any]) -> Verdict | None:
    figure = (m.get("memory") or {}).get("1")
    if not figure:
        return None
    lost = figure["stay"]["mean"] - figure["revisit"]["mean"]
    text = f"{lost:+.1f} dB lost by leaving for {figure['steps']} frames"
    return Verdict("Is it still there after looking away?", text, _word(-lost, -1, -3), "good up to 1 dB, fair up to 3")


def _drift(m: dict[str, Any]) -> Verdict | None:
    figure = m.get("drift")
    if not figure:
        return None
    age, length = figure["collapse"], figure["length"]
    if age is None and not figure.get("tells", True):
        return None
    text = f"no collapse in {length} frames" if age is None else f"collapsed at frame {age}"
    value = length if age is None else age
    return Verdict("Does a long dream last?", text, _word(value, length, 300), "good: to the end; fair: 300 frames")


def _ends(m: dict[str, Any]) -> Verdict | None:
    figure = m.get("termination")
    if not figure:
        return None
    mean, base = figure["average_precision"]["mean"], figure["base_rate"]
    text = f"average precision {mean:.2f}, by chance {base:.2f}"
    rule = "good from half of the way from chance to all, fair from a fifth"
    return Verdict("Does it see the end coming?", text, _word((mean - base) / max(1 - base, 1e-6), 0.5, 0.2), rule)


def _rewards(m: dict[str, Any]) -> Verdict | None:
    figure = m.get("reward")
    if not figure:
        return None
    text = f"{figure['skill']['mean']:.0%} of the variance of {figure['within']} steps' rewards explained"
    rule = "good from 50 %, fair from 10 %"
    return Verdict("Does it know what brings reward?", text, _word(figure["skill"]["mean"], 0.5, 0.1), rule)


def _returns(m: dict[str, Any]) -> Verdict | None:
    figure = m.get("returns")
    if not figure:
        return None
    p, itself = figure["pearson"], figure.get("itself")
    text = f"correlation {p['mean']:.2f} [{p['low']:.2f}, {p['high']:.2f}] over {figure['policies']} policies"
    if itself:
        text = f"{text}, {itself['mean']:.2f} of the game with itself"
    if itself and itself["mean"] < 0.5:  # luck decides: it tells nothing of the dream
        return None
    rule = "good from 0.8, fair from 0.4"
    return Verdict("Do good policies do well in it?", text, _word(p["mean"], 0.8, 0.4), rule)
