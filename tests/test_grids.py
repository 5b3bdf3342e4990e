"""Grids are monotone and hit their ends; each spacing is uniform in what it says."""

import numpy as np
import pytest
from discovery import COORDINATES, SCHEDULES, SPACINGS, examples, label
from hypothesis import given
from hypothesis import strategies as st

import scorediff as sd
from scorediff._core import registry


@pytest.mark.parametrize("schedule", SCHEDULES, ids=label)
@pytest.mark.parametrize("spacing", SPACINGS, ids=label)
def test_every_spacing_gives_a_falling_grid_that_hits_its_ends(spacing, schedule):
    for steps in (1, 2, 3, 7, 12, 100, 900):
        if isinstance(spacing, sd.spacings.Times) and steps > 1:
            continue
        grid = spacing(schedule, steps)
        assert grid.steps == steps and grid.start == schedule.t_start and grid.end == schedule.t_end
        assert np.all(np.diff(grid.times) < 0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=label)
@pytest.mark.parametrize("spacing", SPACINGS, ids=label)
@examples(5)
@given(ends=st.tuples(st.floats(-2.5, -0.5), st.floats(0.5, 2.5)))
def test_a_start_below_the_schedules_own_is_met(spacing, schedule, ends):
    t_start, t_end = (schedule.time_at(value) for value in ends)
    if isinstance(spacing, sd.spacings.Times):
        grid = sd.spacings.Times((0.5 * (t_start + t_end),))(schedule, 2, t_start=t_start, t_end=t_end)
    else:
        grid = spacing(schedule, 5, t_start=t_start, t_end=t_end)
    assert grid.start == t_start and grid.end == t_end


@pytest.mark.parametrize("schedule", SCHEDULES, ids=label)
def test_each_spacing_is_uniform_in_what_it_says(schedule):
    def steps_of(spacing, variable):
        return np.diff(variable(spacing(schedule, 9).times))

    def ratio(t):
        return schedule.sigma(t) / schedule.alpha(t)

    variables = [
        (sd.spacings.UniformTime(), lambda t: t),
        (sd.spacings.UniformLogSNR(), schedule.log_snr),
        (sd.spacings.Quadratic(), np.sqrt),
        (sd.spacings.Karras(rho=5.0), lambda t: ratio(t) ** (1 / 5)),
        (sd.spacings.Exponential(), lambda t: np.log(ratio(t))),
        (sd.spacings.UniformAngle(0.5), lambda t: np.arctan(ratio(t) / 0.5)),
        (sd.spacings.FlowTime(), lambda t: ratio(t) / (1 + ratio(t))),
        (sd.spacings.UniformIn(sd.coordinates.DDIMCoordinates()), lambda t: ratio(t) ** (1 / 7)),
        (sd.spacings.Exponential(rho=2.0), lambda t: np.sqrt(np.abs(schedule.log_snr(t) - schedule.log_snr(t[0])))),
    ]
    for spacing, variable in variables:
        steps = steps_of(spacing, variable)
        np.testing.assert_allclose(steps, steps[0], rtol=1e-9, err_msg=repr(spacing))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=label)
def test_coordinates_have_a_spacing_by_name_that_is_even_in_them_and_it_is_the_one_of_their_own_name(schedule):
    for coordinates in COORDINATES:
        name = registry.name_of(coordinates)
        times = registry.parse(sd.spacings.Spacing, f"uniform:coordinates={name}")(schedule, 9).times
        steps = np.diff(coordinates.value(schedule, times) ** (1 / coordinates.rho))
        np.testing.assert_allclose(steps, steps[0], rtol=1e-9, err_msg=name)
        if name in registry.names(sd.spacings.Spacing):
            assert sd.Grid(times) == registry.parse(sd.spacings.Spacing, name)(schedule, 9)


def test_spacings_go_by_their_names_and_no_two_make_one_grid_but_as_their_options_say():
    found = registry.names(sd.spacings.Spacing).items()
    named = {name: one for name, one in found if type(one).__module__.startswith("scorediff.spacings")}
    same_by_default = {"uniform"}  # stands for any coordinates, and for DDIM's unless it says which
    named = {name: one for name, one in named.items() if name not in same_by_default}
    assert all(registry.name_of(spacing) == name for name, spacing in named.items())
    grids = {name: s(sd.VPLinear(), 6).times for name, s in named.items() if name != "times"}
    same = {(a, b) for a in grids for b in grids if a < b and np.allclose(grids[a], grids[b], rtol=1e-9)}
    # a root of degree 7 is both EDM's default and that of DDIM's coordinates; exponent 1 changes nothing
    assert same == {("ddim", "karras"), ("exponential", "log-snr")}


@pytest.mark.parametrize("steps", [7, 10, 13, 30, 64, 160, 320, 999])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_a_subsequence_holds_rows_of_the_table_each_once(steps, power):
    grid = sd.spacings.Subsequence(power=power)(sd.VPDiscrete(), steps)
    rows = grid.times * 1000 - 1
    np.testing.assert_allclose(rows, np.rint(rows), atol=1e-9)
    assert len(set(np.rint(rows))) == steps + 1


def test_a_grid_cannot_be_changed():
    grid = sd.Grid([1.0, 0.5])
    with pytest.raises(AttributeError, match="immutable"):
        grid.times = np.zeros(2)
    with pytest.raises(ValueError, match="read-only"):
        grid.times[0] = 2.0
    assert grid == sd.Grid([1.0, 0.5]) and hash(grid) == hash(sd.Grid([1.0, 0.5]))
    assert grid.reversed() == sd.Grid([0.5, 1.0])


@pytest.mark.parametrize(
    ("make", "error", "word"),
    [
        (lambda: sd.Grid([1.0, 0.5, 0.5]), ValueError, r"repeats at times 1 and 2 \(0.5, 0.5\)"),
        (lambda: sd.Grid([1.0, 0.4, 0.5, 0.1]), ValueError, r"turns at times 1 and 2 \(0.4, 0.5\)"),
        (lambda: sd.Grid([1.0]), ValueError, "at least two"),
        (lambda: sd.Grid([1.0, float("nan")]), ValueError, "time 1 is nan"),
        (lambda: sd.spacings.UniformTime()(sd.VPLinear(), 0), ValueError, "steps = 0"),
        (lambda: sd.spacings.UniformTime()(sd.VPLinear(), -3), ValueError, "steps = -3"),
        (lambda: sd.spacings.UniformTime()(sd.VPLinear(), 2.5), TypeError, "whole number, got 2.5"),
        (lambda: sd.spacings.UniformTime()(sd.VPLinear(), 5, t_start=1.5), ValueError, "t_start = 1.5"),
        (lambda: sd.spacings.UniformTime()(sd.VPLinear(), 5, t_start=0.2, t_end=0.4), ValueError, "t_end = 0.4"),
        (
            lambda: sd.spacings.UniformLogSNR()(sd.RectifiedFlow(), 5, t_start=1.0),
            ValueError,
            "infinite at t = 1.*UniformAngle",
        ),
        (lambda: sd.spacings.Subsequence()(sd.VPDiscrete(), 1000), ValueError, "at most 999 fit"),
        (lambda: sd.spacings.Times((0.5,))(sd.VPLinear(), 5), ValueError, "steps = 5 wants 4 inner times"),
        (lambda: sd.spacings.Times()(sd.VPLinear(), 12), ValueError, "wants 11 inner times"),
        (
            lambda: sd.spacings.Karras(rho=0.0)(sd.VPLinear(), 5),
            ValueError,
            r"Karras\(rho=0.0\) makes no grid of 5 steps",
        ),
        (
            lambda: sd.spacings.UniformAngle(data_std=0.0)(sd.VPLinear(), 5),
            ValueError,
            r"UniformAngle\(data_std=0.0\) makes no",
        ),
        (lambda: sd.spacings.Beta(a=0.0)(sd.VPLinear(), 5), ValueError, r"Beta\(a=0.0, b=0.6\) makes no grid"),
    ],
)
def test_a_grid_that_cannot_be_one_is_refused_with_the_reason(make, error, word):
    with pytest.raises(error, match=word):
        make()
