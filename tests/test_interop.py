"""A network of another library gives its own sampler's samples here, and has the same data and noise."""

import doctest
import importlib
import importlib.util
import math
import pickle
import sys
import warnings
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

import scorediff as sd
from scorediff.interop.edm import Rounded, from_edm
from scorediff.interop.exported import from_exported
from scorediff.interop.flow_matching import from_flow_matching
from scorediff.interop.k_diffusion import from_k_diffusion
from scorediff.interop.score_sde import from_score_sde
from scorediff.interop.wrapping import Wrapped

SINGLE = 3e-6  # float32, over up to 20 steps of networks with slopes of about 1
SHAPE = (3, 2, 6, 6)


class Raw(nn.Module):
    """A small convolutional network that depends smoothly on `scale` times the number it is given, and on a label."""

    def __init__(self, scale=1.0, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.scale, self.by_time = scale, nn.Linear(4, 6)
        self.first, self.last = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 2, 3, padding=1)

    def forward(self, x, t, label=None):
        angles = self.scale * t[:, None] * torch.tensor([0.5, 1.0, 2.0, 3.0])
        h = torch.tanh(self.first(x) + self.by_time(angles.cos().to(x.dtype))[:, :, None, None])
        return self.last(h) if label is None else self.last(h + label.reshape(-1, 1, 1, 1))


def column(t, x):
    return t.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))


def start(std=1.0, seed=7):
    return std * torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def flow(model, solver, x, grid, **options):
    return sd.solve(sd.ProbabilityFlow(model), x, solver, grid=grid, progress=False, **options).check().x


def gap(a, b):
    return float((a - b).abs().max() / b.abs().max())


# --- k-diffusion


class Discrete(nn.Module):
    """k-diffusion's view of a noise-predicting network on a table of betas: its rows are linear in log sigma, or
    rounded.
    """

    def __init__(self, net, quantize=False):
        super().__init__()
        alpha2 = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
        self.net, self.quantize = net, quantize
        self.register_buffer("sigmas", ((1 - alpha2) / alpha2).sqrt().float())

    @property
    def sigma_min(self):
        return self.sigmas[0]

    @property
    def sigma_max(self):
        return self.sigmas[-1]

    def row(self, sigma):
        row = np.interp(sigma.double().log(), self.sigmas.double().log(), np.arange(1000.0))
        if self.quantize:
            row = (sigma.double().log()[:, None] - self.sigmas.double().log()).abs().argmin(1).numpy()
        return torch.as_tensor(row, dtype=sigma.dtype)

    def forward(self, x, sigma, **cond):
        # x0 = x - sigma eps, given x / sqrt(1 + sigma^2)
        s = column(sigma, x)
        return x - s * self.net(x / (1 + s**2).sqrt(), self.row(sigma), **cond)


def euler_of_k_diffusion(model, x, sigmas, **cond):
    for sigma, after in pairwise(sigmas):
        d = (x - model(x, sigma.expand(len(x)), **cond)) / sigma
        x = x + d * (after - sigma)
    return x


@torch.no_grad()
def test_a_k_diffusion_model_gives_the_samples_of_its_own_euler_loop():
    model = Discrete(Raw(0.01))
    sigmas = torch.cat([model.sigmas.flip(0)[::111], torch.zeros(1)])
    x, label = start(float(model.sigma_max)), torch.tensor([0.1, -0.2, 0.5])
    theirs = euler_of_k_diffusion(model, x, sigmas, label=label)
    ours = flow(
        from_k_diffusion(model),
        sd.solvers.Euler(),
        x,
        sigmas[:-1].tolist(),
        terminal=sd.solvers.Denoise(),
        cond={"label": label},
    )
    assert gap(ours, theirs) < SINGLE


def test_the_ends_of_sigma_are_the_models_own_unless_others_are_given():
    model = Discrete(Raw())
    own = float(model.sigmas[0]), float(model.sigmas[-1])
    assert from_k_diffusion(model).schedule == sd.EDM(*own)
    assert from_k_diffusion(model, sigma_min=0.1).schedule == sd.EDM(0.1, own[1])
    assert from_k_diffusion(model, sigma_max=10).schedule == sd.EDM(own[0], 10.0)


def k_diffusion():
    """Its modules of samplers and of models, without what its package imports besides."""
    if importlib.util.find_spec("k_diffusion") is None:
        pytest.skip("k-diffusion is not installed")
    folder = str(Path(__file__).parents[1] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sampling = importlib.import_module("overhead").import_k_diffusion()
            return sampling, importlib.import_module("k_diffusion.external")
    finally:
        sys.path.remove(folder)


@torch.no_grad()
@pytest.mark.parametrize(
    ("theirs", "solver"),
    [("sample_euler", "euler"), ("sample_heun", "heun"), ("sample_dpmpp_2m", "dpm++2m")],
)
def test_k_diffusions_own_models_and_samplers_give_our_samples(theirs, solver):
    sampling, external = k_diffusion()
    alpha2 = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0).float()
    model = external.DiscreteEpsDDPMDenoiser(Raw(0.01), alpha2, quantize=False)
    sigmas, x = sampling.get_sigmas_karras(12, model.sigma_min, model.sigma_max), start(float(model.sigma_max))
    made = from_k_diffusion(model)
    grid = np.clip(sigmas[:-1].tolist(), *made.schedule.domain)  # their ends are off by rounding
    reference = getattr(sampling, theirs)(model, x, sigmas, disable=True)
    assert gap(flow(made, solver, x, grid, terminal=sd.solvers.Denoise()), reference) < SINGLE
    # and ours above is theirs
    assert gap(Discrete(model.inner_model)(x, sigmas[3].expand(3)), model(x, sigmas[3].expand(3))) < SINGLE


class TableGaussian(nn.Module):
    """The exact noise of N(0, 1) on DDPM's table: eps = sigma_t x."""

    def forward(self, x, t):
        return column(torch.as_tensor(sd.VPDiscrete().sigma((t.double().numpy() + 1) / 1000)), x) * x


def test_a_model_that_rounds_sigma_is_off_between_the_rows_of_its_table_and_not_on_them():
    smooth, rounded = (from_k_diffusion(Discrete(TableGaussian(), quantize)) for quantize in (False, True))
    table = smooth.net.net.sigmas.double().numpy()
    between = np.sqrt(table[1:] * table[:-1]) * np.exp(1e-6)

    def differences(sigmas):
        x = torch.from_numpy(np.sqrt(1 + sigmas**2))[:, None]  # one standard deviation of x
        return (smooth(sigmas, x)[0] - rounded(sigmas, x)[0]).abs()

    assert differences(table).max() < 1e-7
    # half a row changes sigma_t by alpha^2 beta / (4 sigma), and x0 by sigma / alpha times that
    schedule = sd.VPDiscrete()
    half_a_row = schedule.alpha(np.arange(1, 1001) / 1000) * np.array(schedule.betas) / 4
    assert float(differences(between).max()) == pytest.approx(half_a_row.max(), rel=0.05)
    assert half_a_row.max() == pytest.approx(1e-3, rel=0.05)


@torch.no_grad()
def test_on_the_rows_of_the_table_a_model_that_rounds_sigma_gives_the_samples_of_one_that_does_not():
    smooth, rounded = (from_k_diffusion(Discrete(Raw(0.01), quantize)) for quantize in (False, True))
    levels, x = tuple(smooth.net.net.sigmas.tolist()), start(157.0)
    for spacing, same in ((Rounded(levels), True), (sd.spacings.Karras(), False)):
        grid = spacing(smooth.schedule, 12)
        assert (gap(flow(smooth, "heun", x, grid), flow(rounded, "heun", x, grid)) < 1e-5) == same


# --- EDM


class Preconditioned(nn.Module):
    """EDM's D = c_skip x + c_out F(c_in x; log(sigma) / 4), with what its sampler asks of a network."""

    def __init__(self, sigma_min=0.0, sigma_max=math.inf, sigma_data=0.5):
        super().__init__()
        self.sigma_min, self.sigma_max, self.sigma_data, self.net = sigma_min, sigma_max, sigma_data, Raw()
        self.img_channels, self.img_resolution, self.label_dim = 2, 6, 3

    def round_sigma(self, sigma, return_index=False):
        return torch.as_tensor(sigma)

    def forward(self, x, sigma, class_labels=None):
        x, s = x.float(), sigma.float().reshape(-1, 1, 1, 1)
        root = (s**2 + self.sigma_data**2).sqrt()
        number = sigma.float().log().expand(len(x)) / 4
        label = None if class_labels is None else class_labels.float() @ torch.tensor([0.3, -0.4, 0.8])
        output = self.net(x / root, number, label=label)
        return (self.sigma_data / root) ** 2 * x + s * self.sigma_data / root * output


class Table(Preconditioned):
    """A network that knows some noise levels only, as EDM's view of iDDPM's does: a falling table that ends at 0."""

    def __init__(self, count=40):
        super().__init__()
        self.register_buffer("u", torch.cat([torch.logspace(1.95, -2, count), torch.zeros(1)]))
        self.sigma_min, self.sigma_max = float(self.u[-2]), float(self.u[0])

    def round_sigma(self, sigma, return_index=False):
        sigma = torch.as_tensor(sigma)
        index = (sigma[..., None] - self.u).abs().argmin(-1)
        return index if return_index else self.u[index].to(sigma.dtype)

    def forward(self, x, sigma, class_labels=None):
        return super().forward(x, self.round_sigma(sigma.float()), class_labels)


def grid_of_edm(net, steps, sigma_max=80.0, rho=7):
    """Equation 5 of arXiv:2206.00364, rounded by the network, as `steps` nodes."""
    lo, hi = max(0.002, net.sigma_min), min(sigma_max, net.sigma_max)
    i = torch.arange(steps, dtype=torch.float64)
    return net.round_sigma((hi ** (1 / rho) + i / (steps - 1) * (lo ** (1 / rho) - hi ** (1 / rho))) ** rho)


@torch.no_grad()
def sample_as_edm(net, latents, nodes, class_labels=None):
    """Algorithm 1 of arXiv:2206.00364, to sigma = 0; the state in float64."""
    t = torch.cat([nodes, torch.zeros(1, dtype=torch.float64)])
    x = latents.double() * t[0]
    for now, after in pairwise(t):
        d = (x - net(x, now, class_labels).double()) / now
        ahead = x + (after - now) * d
        if after != 0:
            d_ahead = (ahead - net(ahead, after, class_labels).double()) / after
            ahead = x + (after - now) * (d + d_ahead) / 2
        x = ahead
    return x


def sample_as_we_do(model, dtype, **grid):
    x, cond = start().to(dtype) * model.schedule.t_start, {"class_labels": torch.eye(3)}
    options = {"terminal": sd.solvers.Denoise(), "cond": cond, "progress": False}
    return sd.solve(sd.ProbabilityFlow(model), x, sd.Heun(), **grid, **options).check().x.double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("net", "sigma_max"),
    # where the network rounds, ours is EDM's grid if its ends are levels
    [(Preconditioned(), 80.0), (Preconditioned(0.02, 50.0), 80.0), (Table(), float(Table().u[3]))],
    ids=["any", "within", "table"],
)
def test_an_edm_network_gives_the_samples_of_edms_own_algorithm_on_its_own_grid(net, sigma_max, dtype):
    theirs = sample_as_edm(net, start(), grid_of_edm(net, 10, sigma_max), torch.eye(3))
    ours = sample_as_we_do(from_edm(net, sigma_max=sigma_max), dtype, steps=9, spacing=Rounded.of(net))
    # in float64 what differs is the rounding of the network's input
    assert gap(ours, theirs) < (SINGLE if dtype is torch.float32 else 1e-6)


def test_between_ends_that_are_not_levels_edms_grid_is_taken_as_it_is_and_ours_is_off_by_a_level_at_most():
    net = Table()
    nodes, model = grid_of_edm(net, 10), from_edm(net)
    theirs = sample_as_edm(net, start(), nodes, torch.eye(3))
    assert gap(sample_as_we_do(model, torch.float64, grid=nodes.tolist()), theirs) < 1e-6
    ours = torch.tensor(Rounded.of(net)(model.schedule, 9).times)
    rows = [net.round_sigma(t, return_index=True) for t in (ours, nodes)]
    assert (rows[0] - rows[1]).abs().max() <= 1


def test_the_ends_of_sigma_are_edms_cut_to_what_the_network_knows():
    assert from_edm(Preconditioned()).schedule == sd.EDM(0.002, 80.0)
    assert from_edm(Preconditioned(0.02, 50.0)).schedule == sd.EDM(0.02, 50.0)
    assert from_edm(Preconditioned(), sigma_min=0.01, sigma_max=100.0).schedule == sd.EDM(0.01, 100.0)
    table = Table()
    ends = from_edm(table).schedule.domain
    assert ends[0] == float(table.u[-2]) and ends[1] == float(table.round_sigma(torch.tensor(80.0)))


def test_a_rounded_grid_lies_on_the_levels_nearest_to_the_other_grid_and_has_its_ends():
    levels, schedule = tuple(np.geomspace(0.01, 60.0, 200).tolist()), sd.EDM()
    plain, rounded = sd.spacings.Karras()(schedule, 9).times, Rounded(levels)(schedule, 9).times
    assert rounded[0] == 80.0 and rounded[-1] == 0.002
    assert [min(levels, key=lambda level: abs(level - t)) for t in plain[1:-1]] == rounded[1:-1].tolist()
    assert Rounded()(schedule, 9) == sd.spacings.Karras()(schedule, 9)
    assert Rounded.of(Preconditioned()) == Rounded()
    assert Rounded.of(Table(), sd.spacings.UniformTime()) == Rounded(
        tuple(Table().u[:-1].flip(0).tolist()), sd.spacings.UniformTime()
    )


@pytest.mark.parametrize("steps", range(1, 9))
@pytest.mark.parametrize(
    "spacing", [sd.spacings.UniformTime(), sd.spacings.Karras(), sd.spacings.UniformLogSNR(), sd.spacings.Karras(50.0)]
)
def test_a_rounded_grid_never_uses_a_level_twice_and_uses_all_of_them_before_it_fails(spacing, steps):
    levels = (0.002, 0.5, 1.0, 2.0, 3.0, 10.0, 40.0, 41.0, 80.0)
    times = Rounded(levels, spacing)(sd.EDM(), steps).times
    assert len(times) == steps + 1 and np.all(np.diff(times) < 0)
    assert set(times[1:-1]) <= set(levels[1:-1])
    with pytest.raises(ValueError, match="7 levels lie between the ends: at most 8 steps fit"):
        Rounded(levels, spacing)(sd.EDM(), 9)


# --- flow matching


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_a_velocity_network_gives_the_samples_of_euler_in_its_own_direction_of_time(scale):
    net, n = Raw(2 / scale), 12
    with_data_at_0 = from_flow_matching(net, data_at=0, time_scale=scale)
    with_data_at_1 = from_flow_matching(lambda x, s: -net(x, scale - s), data_at=1, time_scale=scale)
    # from noise at 1 to data at 0
    down = start()
    for i in range(n, 0, -1):
        down = down - net(down, torch.full((3,), scale * i / n)) / n
    # from noise at 0 to data at 1, the opposite velocity at the opposite time
    up = start()
    for i in range(n):
        up = up + -net(up, torch.full((3,), scale - scale * i / n)) / n
    grid = np.linspace(1.0, 0.0, n + 1)
    assert gap(flow(with_data_at_0, sd.solvers.Euler(), start(), grid), down) < SINGLE
    assert gap(flow(with_data_at_1, sd.solvers.Euler(), start(), grid), up) < SINGLE
    assert gap(up, down) < SINGLE


@torch.no_grad()
def test_uniform_steps_of_a_shifted_flow_are_euler_steps_of_its_network_at_shifted_times():
    net, n, shift = Raw(2.0), 12, 3.0
    uniform = np.linspace(0.99, 0.0, n + 1)
    x = start()
    for now, after in pairwise(shift * t / (1 + (shift - 1) * t) for t in uniform):
        x = x + (after - now) * net(x, torch.full((3,), now))
    model = from_flow_matching(net, data_at=0, shift=shift)
    assert gap(flow(model, sd.DDIM(), start(), uniform[:-1], terminal=sd.solvers.Denoise()), x) < SINGLE


# --- score_sde


class Scored(nn.Module):
    """An output of the size of a score on VE: over sigma, which it is given."""

    def __init__(self):
        super().__init__()
        self.net = Raw()

    def forward(self, x, labels):
        s = column(labels, x)
        return self.net(x / (1 + s), labels.log()) / s


def paper_vp(t, beta_min=0.1, beta_max=20.0):
    """f and g^2, the time that the network is given, and what its output is times to be the score."""
    beta, total = beta_min + t * (beta_max - beta_min), beta_min * t + t**2 * (beta_max - beta_min) / 2
    return -beta / 2, beta, 999 * t, -1 / math.sqrt(1 - math.exp(-total))


def paper_sub_vp(t, beta_min=0.1, beta_max=20.0):
    beta, total = beta_min + t * (beta_max - beta_min), beta_min * t + t**2 * (beta_max - beta_min) / 2
    return -beta / 2, beta * (1 - math.exp(-2 * total)), 999 * t, -1 / (1 - math.exp(-total))


def paper_ve(t, sigma_min=0.01, sigma_max=50.0):
    sigma = sigma_min * (sigma_max / sigma_min) ** t
    return 0.0, sigma**2 * 2 * math.log(sigma_max / sigma_min), sigma, 1.0


PAPERS = {
    "vp": (sd.VPLinear(), paper_vp, Raw(0.003), 1.0, 1e-3),
    "sub-vp": (sd.schedules.SubVP(), paper_sub_vp, Raw(0.003), 1.0, 1e-2),
    "ve": (sd.VE(), paper_ve, Scored(), 50.0, 1e-5),
}


@torch.no_grad()
@pytest.mark.parametrize("kind", PAPERS)
def test_a_network_of_score_sde_gives_the_samples_of_the_probability_flow_written_as_in_the_paper(kind):
    schedule, paper, net, std, t_end = PAPERS[kind]

    def drift(t, y):
        f, g2, label, to_score = paper(t)
        x = torch.tensor(y, dtype=torch.float32).reshape(1, *SHAPE[1:])
        # dx/dt = f x - g^2 score / 2
        score = to_score * net(x, torch.full((1,), label))
        return (f * x - g2 * score / 2).double().numpy().ravel()

    theirs = [solve_ivp(drift, (1.0, t_end), x.double().numpy().ravel(), rtol=1e-5, atol=1e-5) for x in start(std)]
    theirs = torch.tensor(np.array([run.y[:, -1] for run in theirs])).reshape(SHAPE)
    problem, times = sd.ProbabilityFlow(from_score_sde(net, schedule)), {"t_start": 1.0, "t_end": t_end}
    same = sd.backends.SciPy("RK45", coordinates=sd.coordinates.Time())
    # another run of the same method, and another method, to the tolerances of both
    for solver, tolerance in ((same, SINGLE), (sd.RK45(rtol=2e-6, atol=2e-6), 1e-4)):
        ours = sd.solve(problem, start(std), solver, progress=False, **times).check().x
        assert gap(ours.double(), theirs) < tolerance


# --- exported programs


def noise(program):
    return from_exported(program, sd.VPLinear(), sd.NoisePrediction())


class Conditioned(nn.Module):
    """A noise-predicting network with a condition, for vectors."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last = nn.Linear(3, 16), nn.Linear(16, 2)

    def forward(self, x, t, shift):
        return self.last(torch.tanh(self.first(torch.cat([x, t[:, None]], dim=1)))) + shift


def as_program(net, batch, dtype=torch.float32):
    free = None if batch is None else {0: batch}
    shapes = None if batch is None else {"x": free, "t": free, "shift": free}
    example = torch.zeros(4, 2, dtype=dtype), torch.zeros(4, dtype=dtype)
    return torch.export.export(net, example, {"shift": torch.zeros(4, 1, dtype=dtype)}, dynamic_shapes=shapes)


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """One network in every form, objects and paths; "fixed" for batches of 4 alone, "bounded" for at most 4."""
    folder, net = tmp_path_factory.mktemp("programs"), Conditioned()
    program = as_program(net, torch.export.Dim("batch"))
    example = {"x": torch.zeros(4, 2), "t": torch.zeros(4), "shift": torch.zeros(4, 1)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        script, trace = torch.jit.script(net), torch.jit.trace(net, example_kwarg_inputs=example)
        script.save(str(folder / "script.pt"))
        trace.save(str(folder / "trace.bin"))
    torch.export.save(program, folder / "program.pt2")
    (folder / "program.dat").write_bytes((folder / "program.pt2").read_bytes())
    return {
        "net": net,
        "script": script,
        "script file": folder / "script.pt",
        "trace file": str(folder / "trace.bin"),
        "program": program,
        "module": program.module(),
        "program file": folder / "program.pt2",
        "program file of another name": folder / "program.dat",
        "fixed": as_program(net, None),
        "bounded": as_program(net, torch.export.Dim("batch", max=4)),
    }


@pytest.mark.parametrize(
    "form",
    ["script", "script file", "trace file", "program", "module", "program file", "program file of another name"],
)
def test_a_network_gives_the_same_samples_before_and_after_export_also_where_the_batch_shrinks(programs, form):
    schedule, cond = sd.VPLinear(), {"shift": torch.tensor([[0.0], [0.1], [0.3], [-2.0]])}
    before = sd.Denoiser(programs["net"], schedule, sd.NoisePrediction(), time=lambda t: 2 * t)
    after = from_exported(programs[form], schedule, sd.NoisePrediction(), time=lambda t: 2 * t)
    assert after.dtype is torch.float32 and after.device == torch.device("cpu")
    for solver, options in (("dpm++2m", {"steps": 8}), (sd.RK45(1e-3, 1e-3), {})):
        here, there = (
            sd.sample(sd.ProbabilityFlow(m), (4, 2), solver, cond=cond, progress=False, **options)
            for m in (before, after)
        )
        assert gap(there.x, here.x) < 1e-6
    # samples finish one by one
    assert len(set(there.evaluations)) > 1


def test_a_program_of_a_fixed_batch_says_which_one_and_what_to_do(programs):
    cond = {"shift": torch.tensor([[0.0], [0.1], [0.3], [-2.0]])}
    fixed, bounded = (sd.ProbabilityFlow(noise(programs[form])) for form in ("fixed", "bounded"))
    assert sd.sample(fixed, (4, 2), "ddim", steps=3, cond=cond, progress=False).check().x.shape == (4, 2)
    with pytest.raises(ValueError, match=r"shape \(\d, 2\): it takes \(4, 2\).*dynamic"):
        sd.sample(fixed, (4, 2), sd.RK45(1e-3, 1e-3), cond=cond, progress=False)
    with pytest.raises(ValueError, match=r"shape \(5, 2\).*<= 4.*dynamic"):
        sd.sample(bounded, (5, 2), "ddim", steps=3, cond={"shift": torch.zeros(5, 1)}, progress=False)


class Growing(nn.Module):
    """A network in training, which makes another tensor on the way."""

    def __init__(self):
        super().__init__()
        self.weight, self.drop = nn.Parameter(torch.ones(2)), nn.Dropout(0.5)

    def forward(self, x, t):
        return self.drop(self.weight * x) + torch.ones(2, device=x.device) * t[:, None]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_script_is_read_ready_to_be_used_and_every_form_goes_to_the_device_that_is_asked_for(tmp_path, caplog):
    # `meta`, a device that every machine has
    net, example = Growing(), (torch.zeros(4, 2), torch.zeros(4))
    torch.jit.script(net).save(str(tmp_path / "script.pt"))
    program = torch.export.export(net.eval(), example)
    torch.export.save(program, tmp_path / "program.pt2")
    x = torch.ones(4, 2)
    (tmp_path / "renamed.dat").write_bytes((tmp_path / "program.pt2").read_bytes())
    for path in (tmp_path / "script.pt", tmp_path / "program.pt2", tmp_path / "renamed.dat"):
        torch.testing.assert_close(noise(path)(0.5, x).output, x + 0.5)
    assert "Unable to load" not in caplog.text
    for form in (tmp_path / "script.pt", tmp_path / "program.pt2", torch.jit.script(net), program):
        moved = from_exported(form, sd.VPLinear(), sd.NoisePrediction(), device="meta")
        assert moved.device == moved(0.5, x.to("meta")).output.device == torch.device("meta")


class Bomb:
    """An object that makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def save_pickle(bomb, path):
    path.write_bytes(pickle.dumps(bomb))


def save_old_pickle(bomb, path):
    path.write_bytes(pickle.dumps(bomb, protocol=0))


def save_old(bomb, path):
    torch.save({"net": bomb}, path, _use_new_zipfile_serialization=False)


SAVES = {
    "net.pkl": save_pickle,
    "net.bin": save_old_pickle,
    "net.ckpt": save_old,
    "net.pt": lambda bomb, path: torch.save({"net": bomb}, path),
    "net.pt2": torch.save,
}


@pytest.mark.parametrize("name", SAVES)
def test_a_pickle_is_refused_and_never_run(tmp_path, name):
    path, mark = tmp_path / name, tmp_path / "mark"
    SAVES[name](Bomb(mark), path)
    with pytest.raises(ValueError, match="pickle may run any code"):
        from_exported(path, sd.VPLinear(), sd.NoisePrediction())
    assert not mark.exists()
    # it would have
    if name in ("net.pkl", "net.bin"):
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert mark.exists()


# --- all of them

MEAN, VARIANCE = torch.tensor([0.5, -1.0, 0.0]).double(), torch.tensor([1.0, 0.3, 0.02]).double()


def posterior(x, alpha, sigma):
    """E[x0 | x] and E[eps | x] of N(MEAN, VARIANCE)."""
    data = MEAN + alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2) * (x - alpha * MEAN)
    return data, (x - alpha * data) / sigma


class GaussianNoise(nn.Module):
    """The noise of it on VPLinear at 999 t, from its formula."""

    def forward(self, x, labels):
        t = column(labels, x) / 999
        alpha = torch.exp(-(t**2) * 19.9 / 4 - t * 0.1 / 2)
        return posterior(x, alpha, (1 - alpha**2).sqrt())[1]


def gaussian_data(x, sigma, class_labels=None):
    return posterior(x, 1.0, column(sigma, x))[0]


def gaussian_velocity(x, t):
    data, noise = posterior(x, 1 - column(t, x), column(t, x))
    return noise - data


def gaussian_sub_vp(x, labels):
    t = column(labels, x) / 999
    alpha = torch.exp(-(t**2) * 19.9 / 4 - t * 0.1 / 2)
    return posterior(x, alpha, 1 - alpha**2)[1]


def gaussian_score(x, sigma):
    s = column(sigma, x)
    return -(x - MEAN) / (VARIANCE + s**2)


def exported_gaussian():
    free, example = {0: torch.export.Dim("batch")}, (torch.zeros(4, 3).double(), torch.ones(4).double())
    program = torch.export.export(GaussianNoise(), example, dynamic_shapes=(free, free))
    return from_exported(program, sd.VPLinear(), sd.NoisePrediction(), time=lambda t: 999 * t)


READERS = {
    "k-diffusion": lambda: from_k_diffusion(gaussian_data, sigma_min=0.01, sigma_max=80.0),
    "edm": lambda: from_edm(gaussian_data),
    "flow, data at 0": lambda: from_flow_matching(gaussian_velocity, data_at=0),
    "flow, data at 1": lambda: from_flow_matching(lambda x, s: -gaussian_velocity(x, 1 - s), data_at=1),
    "flow, shifted and scaled": lambda: from_flow_matching(
        lambda x, s: -gaussian_velocity(x, 1 - s / 1000), data_at=1, shift=3.0, time_scale=1000
    ),
    "score_sde, vp": lambda: from_score_sde(GaussianNoise(), sd.VPLinear()),
    "score_sde, sub-vp": lambda: from_score_sde(gaussian_sub_vp, sd.schedules.SubVP()),
    "score_sde, ve": lambda: from_score_sde(gaussian_score, sd.VE()),
    "exported": exported_gaussian,
}


@pytest.mark.parametrize("kind", READERS)
def test_every_adapter_reads_an_exact_gaussian_as_its_data_and_noise_at_common_times_and_at_one_per_sample(kind):
    model = READERS[kind]()
    exact = sd.targets.Gaussian(MEAN, VARIANCE).denoiser(model.schedule)
    lo, hi = model.schedule.t_end, model.schedule.t_start
    times = lo + (hi - lo) * np.array([0.01, 0.2, 0.5, 0.9, 1.0])
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for t in (*times.tolist(), times):
        for ours, wanted in zip(model(t, x), exact(t, x), strict=True):
            # float64 throughout; the sigma of a small t loses digits in 1 - alpha^2
            torch.testing.assert_close(ours, wanted, rtol=1e-8, atol=1e-8)


ADAPTERS = [getattr(sd.interop, name) for name in sd.interop.__all__ if name.startswith("from_")]


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.__name__)
def test_the_example_of_every_adapter_makes_a_model_whose_samples_know_of_no_other(adapter):
    known = {name: getattr(sd.schedules, name) for name in sd.schedules.__all__} | {adapter.__name__: adapter}
    (example,) = doctest.DocTestFinder().find(adapter, globs=known)
    assert doctest.DocTestRunner().run(example, clear_globs=False).failed == 0
    model, x = example.globs["model"], example.globs["x"]
    middle = model.schedule.time_at(0.0)
    x = torch.cat([x, x.flip(0) + 0.5, x - 1.0])
    together, each_its_time = model(middle, x), model(np.full(len(x), middle), x)
    alpha, sigma = float(model.schedule.alpha(middle)), float(model.schedule.sigma(middle))
    torch.testing.assert_close(alpha * together[0] + sigma * together[1], x, rtol=1e-5, atol=1e-5)
    for part in (0, 1):
        torch.testing.assert_close(together[part], each_its_time[part], rtol=1e-5, atol=1e-5)
        alone = torch.cat([model(middle, x[i : i + 1])[part] for i in range(len(x))])
        torch.testing.assert_close(alone, together[part], rtol=1e-5, atol=1e-5)


class Labelled(nn.Module):
    """Its output is its label, per sample."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x, t, label):
        return self.weight * (label + 0 * x)


class ClassLabelled(Labelled):
    def forward(self, x, sigma, class_labels=None):
        return super().forward(x, sigma, class_labels)


CONDITIONED = {
    "k-diffusion": lambda net: from_k_diffusion(net, sigma_min=0.01, sigma_max=80.0),
    "edm": lambda net: from_edm(ClassLabelled()),
    "flow": lambda net: from_flow_matching(net, data_at=1),
    "score_sde": lambda net: from_score_sde(net, sd.VPLinear()),
    "wrapped": lambda net: sd.Denoiser(
        Wrapped(net, lambda net, x, t, label: net(x, t, label)), sd.VPLinear(), sd.DataPrediction()
    ),
}


@pytest.mark.parametrize("kind", CONDITIONED)
def test_conditions_reach_the_network_and_follow_their_samples(kind):
    model, name = CONDITIONED[kind](Labelled()), "class_labels" if kind == "edm" else "label"
    labels = torch.tensor([[1.0], [-2.0], [0.5]])
    torch.testing.assert_close(model(0.5, torch.zeros(3, 2), **{name: labels}).output, labels.expand(3, 2))
    problem = sd.ProbabilityFlow(model)
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))

    def run(rows):
        options = {"cond": {name: labels[rows]}, "t_start": 0.9, "t_end": 0.1, "progress": False}
        return sd.solve(problem, x[rows], sd.RK45(), **options).check().x

    torch.testing.assert_close(run([0, 1, 2]), torch.cat([run([i]) for i in range(3)]), rtol=1e-6, atol=1e-6)


def test_a_wrapped_network_is_followed_to_another_dtype_and_is_given_sigma_in_it():
    net = nn.Linear(2, 2)

    def denoised(x, sigma):  # as k-diffusion does, which casts nothing
        return net(x / (1 + sigma[:, None] ** 2).sqrt())

    model = from_k_diffusion(Wrapped(net, lambda net, x, sigma: denoised(x, sigma)), sigma_min=0.01, sigma_max=80.0)
    assert model.dtype is torch.float32
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        net.to(dtype)
        assert model.dtype is dtype
        assert model(0.5, torch.ones(3, 2))[0].dtype is torch.float32


class RoundsWithoutTable:
    def round_sigma(self, sigma):
        return sigma.round()


BAD = {
    "no function": (lambda: Wrapped(3, print), TypeError, "got int"),
    "no call": (lambda: Wrapped(print, "net"), TypeError, "got str"),
    "no model": (lambda: from_k_diffusion("model"), TypeError, "got str"),
    "no sigma_min": (
        lambda: from_k_diffusion(gaussian_data, sigma_max=80),
        ValueError,
        "no sigma_min: give sigma_min=",
    ),
    "no sigma_max": (lambda: from_k_diffusion(gaussian_data, sigma_min=1), ValueError, "no sigma_max: give sigma_max="),
    "sigma turned": (lambda: from_k_diffusion(gaussian_data, sigma_min=80, sigma_max=1), ValueError, "from 80 to 1"),
    "sigma of 0": (lambda: from_k_diffusion(gaussian_data, sigma_min=0, sigma_max=1), ValueError, "from 0 to 1"),
    "sigma without end": (lambda: from_k_diffusion(Preconditioned()), ValueError, "from 0 to inf.*give sigma_min="),
    "edm without a network": (lambda: from_edm(None), TypeError, "NoneType"),
    "edm between no ends": (lambda: from_edm(Preconditioned(), sigma_min=90), ValueError, "from 90 to 80"),
    "edm without end": (lambda: from_edm(Preconditioned(), sigma_max=math.inf), ValueError, "from 0.002 to inf"),
    "levels that fall": (lambda: Rounded((2.0, 1.0)), ValueError, r"levels = \(2.0, 1.0\)"),
    "levels in a list": (lambda: Rounded([1.0, 2.0]), ValueError, r"levels = \[1.0, 2.0\].*in a tuple"),
    "no spacing": (lambda: Rounded((1.0, 2.0), "karras"), TypeError, "spacing = 'karras'"),
    "no table": (lambda: Rounded.of(RoundsWithoutTable()), ValueError, "no table u: give Rounded"),
    "data at neither end": (lambda: from_flow_matching(gaussian_velocity, data_at=2), ValueError, "data_at = 2"),
    "data at True": (lambda: from_flow_matching(gaussian_velocity, data_at=True), ValueError, "data_at = True"),
    "data at a word": (lambda: from_flow_matching(gaussian_velocity, data_at="noise"), ValueError, "data_at = 'noise'"),
    "no data_at": (lambda: from_flow_matching(gaussian_velocity), TypeError, "data_at"),
    "scale of 0": (lambda: from_flow_matching(print, data_at=0, time_scale=0), ValueError, "time_scale = 0"),
    "shift of 0": (lambda: from_flow_matching(print, data_at=0, shift=0), ValueError, "shift=0"),
    "a table of betas": (lambda: from_score_sde(print, sd.VPDiscrete()), TypeError, "betas.*say what it predicts"),
    "no score network": (lambda: from_score_sde(1, sd.VPLinear()), TypeError, "net must be"),
    "a plain module": (lambda: noise(Conditioned()), TypeError, "Conditioned is neither.*Denoiser"),
    "no such file": (lambda: noise("there/is/none.pt2"), FileNotFoundError, "no file 'there/is/none.pt2'"),
    "a folder": (lambda: noise(Path(__file__).parent), FileNotFoundError, "no file"),
    "text": (lambda: noise(Path(__file__)), ValueError, "neither TorchScript nor a program"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_with_the_way_out(case):
    call, error, match = BAD[case]
    with pytest.raises(error, match=match):
        call()


def test_another_archive_and_one_of_machine_code_are_refused(tmp_path):
    np.savez(tmp_path / "arrays.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match="some other archive"):
        noise(tmp_path / "arrays.npz")
    program = tmp_path / "compiled.pt2"
    with zipfile.ZipFile(program, "w") as archive:
        archive.writestr("compiled/archive_format", "pt2")
        archive.writestr("compiled/data/aotinductor/model/run.so", b"")
    with pytest.raises(ValueError, match=r"machine code.*aoti_load_package"):
        noise(program)
