"""Work against precision, and the pictures of it."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

import scorediff as sd
from scorediff._core.files import check_writable, write_whole
from scorediff.lab.data import digits
from scorediff.lab.pictures import contact_sheet, save, scatter, tiled
from scorediff.study import Reference, TrajectoryRow, WorkPrecision, reference, sliced_wasserstein, work_precision
from scorediff.study.drawing import _separated

GAUSSIAN = sd.targets.Gaussian()
FLOW = sd.ProbabilityFlow(GAUSSIAN.denoiser(sd.VPLinear()))


def start(n=8, dtype=torch.float64, flow=FLOW):
    return sd.prior(flow.schedule, (n, *flow.denoiser.target.event_shape), dtype=dtype)


def study(solvers, nfes, **options):
    return work_precision(FLOW, solvers, nfes, x=options.pop("x", start()), progress=False, **options)


@pytest.fixture(scope="module")
def on_digits():
    """DDIM and the 2M solvers on the 1797 digits at bandwidth 0.4: the figures that the project promises."""
    flow = sd.ProbabilityFlow(sd.targets.Empirical(digits(), 0.4).denoiser(sd.VPLinear()))
    names, spacing = ["ddim", "dpm-2m", "dpm++2m"], sd.spacings.UniformLogSNR()
    return work_precision(flow, names, (20, 40, 80, 160), x=start(64, flow=flow), spacing=spacing, progress=False)


def medians(made, name):
    return np.array([row.median for row in made.trajectories if row.solver == name])


@pytest.mark.nightly
def test_on_digits_the_median_error_of_ddim_falls_by_1_8_per_doubling(on_digits):
    errors = medians(on_digits, "ddim")
    assert np.all(errors[:-1] / errors[1:] > 1.8)


@pytest.mark.parametrize("name, first", [("dpm++2m", 3.3), ("dpm-2m", 3.0)])
@pytest.mark.nightly
def test_on_digits_the_median_error_of_2m_falls_by_3_3_per_doubling(on_digits, name, first):
    errors = medians(on_digits, name)
    falls = errors[:-1] / errors[1:]
    assert (errors[0] / errors[-1]) ** (1 / 3) > 3.3
    # in noise form the first doubling, 20 to 40 steps, is not yet in the asymptotic range
    assert falls[0] > first and np.all(falls[1:] > 3.3)


def test_on_digits_the_reference_is_known_far_better_than_any_error(on_digits):
    assert on_digits.reference.error < 1e-3 * min(row.median for row in on_digits.trajectories)


@pytest.mark.nightly
def test_at_a_small_bandwidth_samples_flip_and_the_rms_error_shows_no_order():
    flow = sd.ProbabilityFlow(sd.targets.Empirical(digits(), 0.1).denoiser(sd.VPLinear()))
    made = work_precision(
        flow, ["ddim"], (20, 40), x=start(64, flow=flow), spacing=sd.spacings.UniformLogSNR(), progress=False
    )
    few, more = made.trajectories
    assert few.other > 0 and more.other > 0
    assert few.rms / more.rms < 1.8 < few.median / more.median


def test_the_reference_is_the_exact_flow_of_a_gaussian_within_its_stated_error():
    x = start()
    made = reference(FLOW, x)
    exact = GAUSSIAN.flow(FLOW.schedule, FLOW.schedule.t_start, FLOW.schedule.t_end, x)
    assert made.error < 1e-8
    assert float((made.x - exact).square().mean(1).sqrt().max()) < made.error


def test_the_reference_is_that_of_another_library():
    flow = sd.ProbabilityFlow(sd.targets.GaussianMixture().denoiser(sd.EDM()))
    x = start(3, flow=flow)
    other = sd.sample(
        flow, solver="scipy-dop853:rtol=1e-11,atol=1e-11,coordinates=log-snr", x=x, progress=False
    ).check()
    assert torch.allclose(reference(flow, x).x, other.x, rtol=0, atol=1e-7)


def test_budgets_are_evaluations_and_those_below_one_step_are_left_out():
    made = study(["ddim", "rk4"], (40, 3, 9, 9))
    assert [(r.solver, r.steps, r.evaluations) for r in made.trajectories] == [
        ("ddim", 3, 3),
        ("ddim", 9, 9),
        ("ddim", 40, 40),
        ("rk4", 2, 8),
        ("rk4", 10, 40),
    ]
    assert [r.order for r in made.trajectories] == [1, 1, 1, 4, 4]


def test_a_cost_that_a_solver_does_not_declare_is_measured():
    class Undeclared(sd.Solver):
        order = 2

        def run(self, problem, x, grid, noise):
            for t, s in grid.pairs():
                middle = x + (s - t) / 2 * problem.drift(t, x)
                x = x + (s - t) * problem.drift((t + s) / 2, middle)
                yield s, x

    assert [r.steps for r in study([Undeclared()], (20,)).trajectories] == [10]


def test_an_adaptive_solver_runs_down_the_tolerances_that_the_dtype_holds():
    fine = study(["rk45"], (1,), rtols=(1e-3, 1e-5, 1e-9)).trajectories
    coarse = study(["rk45"], (1,), rtols=(1e-3, 1e-9), x=start(dtype=torch.float32)).trajectories
    assert len(fine) == 3 and len(coarse) == 1
    assert fine[0].median > fine[1].median > fine[2].median
    assert fine[0].evaluations < fine[1].evaluations < fine[2].evaluations


def test_an_adaptive_solver_with_tolerances_of_its_own_keeps_them():
    (row,) = study(["rk45:rtol=1e-4"], (1,)).trajectories
    alone = sd.sample(FLOW, solver="rk45:rtol=1e-4", x=start(), progress=False)
    assert row.evaluations == alone.evaluations.mean()


def test_a_given_reference_is_used():
    x = start()
    exact = GAUSSIAN.flow(FLOW.schedule, FLOW.schedule.t_start, FLOW.schedule.t_end, x)
    made = study(["ddim"], (1000,), x=x, reference=exact)
    assert made.reference.error is None
    assert made.trajectories[0].median == pytest.approx(study(["ddim"], (1000,), x=x).trajectories[0].median, rel=1e-4)


def test_a_solver_of_both_problems_runs_on_the_one_given():
    names = ["ddim", "ddpm", "dpm++2m"]
    on_flow = study(names, (10,), x=start(64))
    on_sde = work_precision(sd.ReverseSDE(FLOW.denoiser, 1.0), names, (10,), x=start(64), progress=False)
    assert [r.solver for r in on_flow.trajectories] == ["ddim", "dpm++2m"]
    assert [r.solver for r in on_flow.distributions] == ["ddpm"]
    assert [r.solver for r in on_sde.distributions] == ["ddim", "ddpm"]
    # DDPM is DDIM at eta = 1
    assert on_sde.distributions[0].distance == pytest.approx(on_sde.distributions[1].distance)


def test_the_distribution_of_an_sde_solver_comes_down_to_the_floor():
    made = study(["ddpm"], (4, 60), x=start(500))
    few, many = made.distributions
    assert many.distance < 2 * made.floor < few.distance


def test_sliced_wasserstein_of_a_shift_is_its_length_over_the_root_of_the_dimension():
    a = sd.targets.Gaussian(torch.zeros(8), 1.0).sample(50)
    assert sliced_wasserstein(a, a) == 0
    shifted = sliced_wasserstein(a, a + 3.0, projections=4000)
    assert shifted == pytest.approx(3.0, rel=0.03)
    assert sliced_wasserstein(a + 3.0, a, projections=4000) == shifted
    with pytest.raises(ValueError, match="one size"):
        sliced_wasserstein(a, a[:3])


def test_runs_that_fail_are_counted_and_have_no_error():
    made = study(["rk45:max_evaluations=9"], (1,), rtols=(1e-5,))
    (row,) = made.trajectories
    assert row.failed == 8 and np.isnan(row.median)
    assert "8 failed" in made.table()


@pytest.mark.parametrize("nfes", [(), (0, 5)])
def test_a_budget_below_one_evaluation_is_refused(nfes):
    with pytest.raises(ValueError, match="budgets"):
        study(["ddim"], nfes)


def test_two_solvers_of_one_name_want_labels():
    pair = [sd.solvers.Euler(), dataclasses.replace(sd.solvers.Euler(), coordinates=sd.coordinates.Time())]
    with pytest.raises(ValueError, match="two solvers are called 'euler'"):
        study(pair, (5,))
    assert {r.solver for r in study(dict(zip("ab", pair, strict=True)), (5,)).trajectories} == {"a", "b"}


def test_an_sde_solver_wants_a_distribution_to_be_compared_with():
    net = sd.Denoiser(lambda x, t: torch.zeros_like(x), sd.VPLinear(), sd.NoisePrediction())
    with pytest.raises(ValueError, match="target="):
        work_precision(sd.ProbabilityFlow(net), ["ddpm"], (5,), x=start(), progress=False)


def test_a_network_in_float32_has_a_reference_too():
    net = sd.interop.Wrapped(torch.nn.Linear(2, 2), lambda net, x, t: net(x))
    with torch.no_grad():
        flow = sd.ProbabilityFlow(sd.Denoiser(net, sd.VPLinear(), sd.DataPrediction()))
        made = reference(flow, start(4, torch.float32))
    assert made.error < 1e-3


def test_the_table_fits_in_100_columns_and_says_what_it_measures():
    text = study(["ddim", "torchdiffeq-dopri5", "sde-dpm++2m"], (10, 20), x=start(32)).table()
    assert max(map(len, text.splitlines())) <= 100
    assert "true trajectory" in text and "distribution" in text and "floor" in text
    line = next(line for line in text.splitlines() if line.startswith("ddim") and " 20 " in line)
    assert float(line.split()[5]) == pytest.approx(2, abs=0.3)  # "per x2" of order 1


def test_the_csv_holds_every_run(tmp_path):
    made = study(["ddim", "rk45", "ddpm"], (5, 10), x=start(16))
    made.to_csv(tmp_path / "a.csv")
    with (tmp_path / "a.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["measure"] for line in lines] == ["trajectory"] * len(made.trajectories) + ["distribution"] * 2
    assert float(lines[0]["median"]) == made.trajectories[0].median
    assert float(lines[-1]["distance"]) == made.distributions[-1].distance and float(lines[-1]["floor"]) == made.floor


@pytest.mark.parametrize("names", [["ddim", "dpm-1", "rk45"], ["ddpm"], ["ddim", "ddpm"]])
def test_the_plot_is_drawn_for_trajectories_distributions_and_both(tmp_path, names):
    study(names, (5, 10), x=start(16)).plot(tmp_path / "a.png", title="title")
    assert imread(tmp_path / "a.png").size


def test_solvers_that_agree_share_a_curve(tmp_path):
    study(["ddim", "dpm-1", "heun"], (5, 10)).plot(tmp_path / "a.svg")
    # text in an SVG file is drawn as shapes, announced by a comment
    text = (tmp_path / "a.svg").read_text()
    assert "<!-- ddim = dpm-1 -->" in text and "<!-- heun -->" in text


def test_a_study_without_a_finite_error_has_no_plot(tmp_path):
    row = TrajectoryRow("a", 1, 1.0, 1.0, float("nan"), float("nan"), float("nan"), failed=1)
    with pytest.raises(ValueError, match="nothing to draw"):
        WorkPrecision((row,), (), Reference(start()), None, 1, 0.0).plot(tmp_path / "a.png")
    with pytest.raises(ValueError, match="no runs"):
        WorkPrecision((), (), None, None, 1, 0.0).plot(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_names_at_the_ends_keep_their_distance():
    levels = _separated(np.array([0.1, 0.1, 0.12, 0.5, 0.5]), 0.05)
    assert np.all(np.diff(levels) > 0.05 - 1e-12)
    assert levels[:3].mean() == pytest.approx(np.mean([0.1, 0.1, 0.12]))


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"

    def fails(part):
        part.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fails)
    assert not list(tmp_path.iterdir())
    write_whole(path, lambda part: part.write_text("old"))
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fails)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_path_that_cannot_be_written_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="make it first"):
        check_writable(tmp_path / "nowhere" / "a.png")
    with pytest.raises(NotADirectoryError, match="not a folder"):
        check_writable(tmp_path / "file" / "a.png")
    with pytest.raises(IsADirectoryError, match="name a file"):
        check_writable(tmp_path)
    assert check_writable(tmp_path / "a.png") == tmp_path / "a.png"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_takes_no_files_is_refused(tmp_path, monkeypatch):
    def touch(path):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "touch", touch)
    with pytest.raises(PermissionError, match="Read-only file system; choose another folder"):
        check_writable(tmp_path / "a.png")


def test_a_contact_sheet_shows_every_image_where_it_belongs(tmp_path):
    images = torch.linspace(-1, 1, 6).reshape(6, 1, 1, 1).expand(6, 1, 2, 2)
    contact_sheet(tmp_path / "a.png", images, scale=3)
    sheet = imread(tmp_path / "a.png")[..., 0]
    assert sheet.shape == (3 * (2 * 3 + 1), 3 * (3 * 3 + 1))  # 2 rows of 3, a line of one pixel around each
    centres = sheet[6::9, 6::9]
    assert np.allclose(centres, [[0, 0.2, 0.4], [0.6, 0.8, 1.0]], atol=0.005)


def test_ink_is_dark_and_what_is_not_a_number_is_paper():
    made = tiled([torch.tensor([[[[1.0, -1.0, float("nan"), 7.0]]]])], ink=True)
    assert made[1, 1:5, 0].tolist() == [0, 255, 255, 0]


def test_colour_images_keep_their_channels():
    image = torch.tensor([1.0, -1.0, 0.0]).reshape(1, 3, 1, 1)
    assert tiled([image])[1, 1].tolist() == [255, 0, 128]


@pytest.mark.parametrize("shape", [(4, 2, 8, 8), (8, 8), (0, 1, 8, 8)])
def test_a_batch_that_is_not_of_images_is_refused(tmp_path, shape):
    with pytest.raises(ValueError, match="images of shape"):
        contact_sheet(tmp_path / "a.png", [torch.zeros(shape)])
    assert not list(tmp_path.iterdir())


def test_rows_are_labelled_one_by_one(tmp_path):
    rows = [torch.zeros(3, 8, 8), torch.zeros(2, 8, 8)]
    contact_sheet(tmp_path / "a.png", rows, labels=["one", "two"], title="title")
    assert imread(tmp_path / "a.png").size
    with pytest.raises(ValueError, match="1 labels for 2 rows"):
        contact_sheet(tmp_path / "b.png", rows, labels=["one"])
    with pytest.raises(ValueError, match="several shapes"):
        contact_sheet(tmp_path / "b.png", [torch.zeros(3, 8, 8), torch.zeros(3, 4, 4)])


def test_points_are_scattered_in_two_dimensions_only(tmp_path):
    scatter(tmp_path / "a.png", GAUSSIAN.sample(20), truth=GAUSSIAN.sample(30), title="title")
    assert imread(tmp_path / "a.png").size
    with pytest.raises(ValueError, match="wants \\(N, 2\\)"):
        scatter(tmp_path / "b.png", torch.zeros(4, 3))


def solution_of(x):
    return dataclasses.replace(sd.sample(FLOW, (1, 2), "ddim", steps=1), x=x)


@pytest.mark.parametrize("shape", [(6, 8, 8), (6, 1, 8, 8), (6, 3, 8, 8)])
def test_a_solution_of_images_is_saved_as_their_contact_sheet(tmp_path, shape):
    images = torch.rand(shape) * 2 - 1
    assert save(solution_of(images), tmp_path / "a.png") == tmp_path / "a.png"
    contact_sheet(tmp_path / "b.png", images, scale=20)
    assert np.array_equal(imread(tmp_path / "a.png"), imread(tmp_path / "b.png"))


def test_a_solution_of_points_in_the_plane_is_saved_as_their_scatter_plot(tmp_path):
    points = GAUSSIAN.sample(20)
    save(solution_of(points), tmp_path / "a.png")
    scatter(tmp_path / "b.png", points)
    assert np.array_equal(imread(tmp_path / "a.png"), imread(tmp_path / "b.png"))


@pytest.mark.parametrize("shape", [(4, 3), (4, 2, 2, 2), (4, 4, 8, 8), (2, 1, 3, 8, 8)])
def test_samples_that_have_no_picture_are_refused_with_the_way_out_and_leave_no_file(tmp_path, shape):
    with pytest.raises(ValueError, match=r"have no picture: decode latents to images .* or choose two entries"):
        save(solution_of(torch.zeros(shape)), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(4, 2), (4, 8, 8)])
def test_a_picture_in_a_format_that_there_is_not_leaves_no_file(tmp_path, shape):
    with pytest.raises(ValueError, match="abc"):
        save(solution_of(torch.zeros(shape)), tmp_path / "a.abc")
    assert not list(tmp_path.iterdir())


def test_importing_the_package_or_a_study_loads_no_picture_and_no_command_line(fresh):
    heavy = "{'typer', 'rich', 'matplotlib', 'scipy', 'torchdiffeq', 'torchsde'}"
    code = f"import sys, scorediff, scorediff.study, scorediff.lab.pictures; print(sorted({heavy} & set(sys.modules)))"
    assert fresh(code).stdout.strip() == "[]"
