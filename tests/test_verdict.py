"""Figures in words: the rule that is printed is the rule that is used."""

import pytest

from worldsim.evaluation.verdict import verdicts


def metrics(one=30.0, ahead=26.0, detail=1.0, **more):
    psnr = lambda value: {"psnr": {"mean": value, "low": value, "high": value}}  # noqa: E731
    share = {"detail": {"mean": detail, "low": detail, "high": detail}}
    return {
        "one_step": {**psnr(one), **share},
        "open_loop": {"1": {**psnr(one), **share}, "16": {**psnr(ahead), **share}},
        "copy_last": {"1": psnr(25.0), "16": psnr(22.0)},
        "dataset_mean": psnr(24.0),
        **more,
    }


def word(m, start):
    (found,) = [v.word for v in verdicts(m) if v.question.startswith(start)]
    return found


@pytest.mark.parametrize(("value", "expected"), [(28.1, "good"), (27.9, "fair"), (25.9, "poor")])
def test_one_step_is_judged_against_the_last_frame(value, expected):
    assert word(metrics(one=value), "Is the next") == expected


@pytest.mark.parametrize(("value", "expected"), [(26.1, "good"), (24.1, "fair"), (23.9, "poor")])
def test_sixteen_steps_are_judged_against_the_better_floor(value, expected):
    assert word(metrics(ahead=value), "And 16") == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(0.81, "good"), (1.24, "good"), (0.6, "fair"), (1.9, "fair"), (2.1, "poor")]
)
def test_too_little_and_too_much_detail_are_as_bad(value, expected):
    assert word(metrics(detail=value), "Is it sharp") == expected


def test_what_was_not_measured_has_no_line():
    assert len(verdicts(metrics())) == 3
    told = {"0": {"top1": {"mean": 0.25, "low": 0.2, "high": 0.3}, "chance": 0.25}}
    assert word(metrics(controllability={"retrieval": told}), "Do actions") == "poor"
    assert word(metrics(drift={"collapse": None, "length": 10_000}), "Does a long") == "good"
    assert word(metrics(drift={"collapse": 100, "length": 10_000}), "Does a long") == "poor"
    assert len(verdicts(metrics(drift={"collapse": None, "length": 10_000, "tells": False}))) == 3


@pytest.mark.parametrize(
    ("mean", "itself", "expected"), [(0.81, 0.9, "good"), (0.45, 0.55, "fair"), (0.3, None, "poor")]
)
def test_returns_are_judged_by_themselves_and_not_where_the_game_s_own_are_luck(mean, itself, expected):
    figure = lambda x: x and {"mean": x, "low": x - 0.1, "high": x + 0.1}  # noqa: E731
    found = {"pearson": figure(mean), "itself": figure(itself), "policies": 16}
    assert word(metrics(returns=found), "Do good policies") == expected
    assert len(verdicts(metrics(returns=found | {"itself": figure(0.4)}))) == 3


def lived(*pairs, steps=300):
    figures = {str(i): {"lived": {"dream": {"mean": a}, "real": {"mean": b}}} for i, (a, b) in enumerate(pairs)}
    return {"habits": figures, "rank_correlation": None, "steps": steps}


@pytest.mark.parametrize(("dream", "expected"), [(110, "good"), (145, "fair"), (155, "poor")])
def test_lives_are_judged_by_the_mean_of_the_habits_by_which_one_dies(dream, expected):
    assert word(metrics(habits=lived((100, 100), (2 * dream - 100, 100), (300, 300))), "Do habits") == expected


def test_lives_say_nothing_where_nobody_dies():
    assert len(verdicts(metrics(habits=lived((300, 299), (298, 300))))) == 3
    assert len(verdicts(metrics(habits=lived((300, 299), (298, 200))))) == 4


@pytest.mark.parametrize(("share", "expected"), [(0.96, "good"), (0.9, "fair"), (0.7, "poor")])
def test_control_is_judged_at_its_worst_age_and_not_where_the_judge_itself_is_blind(share, expected):
    judged = lambda value, real=0.8: {"share": {"mean": value}, "dream": 0.5, "real": real, "chance": 0.4}  # noqa: E731
    told = {"judged": {"0": judged(1.0), "64": judged(share)}}
    assert word(metrics(controllability=told), "Does it obey") == expected
    told["judged"]["64"] = judged(share, 0.45)
    assert not [v for v in verdicts(metrics(controllability=told)) if v.question.startswith("Does it obey")]
