"""Pictures of samples: `save(solution, path)` chooses one by their shape."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scorediff._core.files import write_whole
from scorediff.lab.data.arrays import to_pixels
from scorediff.solvers.solution import Solution

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "contact_sheet",
    "draw_rows",
    "headed",
    "lines",
    "new_figure",
    "plain",
    "save",
    "save_figure",
    "scatter",
]

_SIDE = 160  # pixels of the picture of one small image

# Colours that colour-blind readers can tell apart (Okabe and Ito, 2008), without the yellow, which paper swallows.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def save(solution: Solution, path: str | Path) -> Path:
    """Write a picture of a solution's samples `x`, whole or not at all, and return its path in full.

    Images, of shape (B, H, W), (B, 1, H, W) or (B, 3, H, W) with entries in [-1, 1], become a contact sheet on which
    small ones are enlarged; points in the plane, of shape (B, 2), a scatter plot. The suffix of `path` is the format:
    .png, .pdf, .svg or another of matplotlib's. Raises ValueError for samples of another shape, and for a format that
    there is not; OSError where nothing can be written there.

    >>> from tempfile import mkdtemp
    >>> import scorediff as sd
    >>> flow = sd.ProbabilityFlow(sd.targets.Gaussian((0.0, 1.0), (0.5, 2.0)).denoiser(sd.VPLinear()))
    >>> save(sd.sample(flow, (64, 2), "ddim", steps=10), f"{mkdtemp()}/points.png").name
    'points.png'
    """
    x = solution.x
    if x.ndim == 2 and x.shape[1] == 2:
        return scatter(path, x)
    if x.ndim == 3 or (x.ndim == 4 and x.shape[1] in (1, 3)):
        return contact_sheet(path, x, scale=max(_SIDE // x.shape[-1], 1))
    raise ValueError(
        f"samples of shape {tuple(x.shape)} have no picture: decode latents to images of shape (B, 1 or 3, H, W), or "
        "choose two entries, as in dataclasses.replace(solution, x=solution.x[:, :2])"
    )


def lines() -> Iterator[dict[str, Any]]:
    """The looks of curves without end: a colour each, then the same with other dashes."""
    for style in itertools.cycle(("-", "--", ":", "-.")):
        for color in PALETTE:
            yield {"color": color, "linestyle": style}


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of `width` by `height` inches that touches no global state and needs no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain(axes: "Axes", xlabel: str, ylabel: str) -> None:
    """Axes with two sides only, and labels."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", labelsize=8)
    axes.set_xlabel(xlabel, fontsize=9)
    axes.set_ylabel(ylabel, fontsize=9)


def headed(axes: "Axes", title: str, note: str = "") -> None:
    """A title flush left above the axes, and a fainter line below it."""
    if note:
        axes.text(0, 1.01, note, transform=axes.transAxes, fontsize=7.5, color="0.4", va="bottom")
    axes.set_title(title, loc="left", fontsize=9, pad=16 if note else 5)


def save_figure(path: str | Path, figure: "Figure", *, dpi: int = 200) -> Path:
    """Write a figure whole or not at all; the suffix of `path` is the format. Raises ValueError for an unknown one."""
    _check_format(path)
    return write_whole(path, lambda part: figure.savefig(part, dpi=dpi, bbox_inches="tight", pad_inches=0.08))


def contact_sheet(
    path: str | Path,
    images: Tensor | Sequence[Tensor],
    *,
    labels: Sequence[str] = (),
    ink: bool = False,
    title: str = "",
    scale: int = 8,
) -> Path:
    """Write images as one picture: a batch on a near-square grid, or a sequence of batches, one row each.

    A batch has shape (N, H, W), (N, 1, H, W) or (N, 3, H, W) with entries in [-1, 1]; what lies outside is clipped.
    Each pixel becomes `scale` by `scale` pixels. `labels` name the rows. With `ink`, 1 is black on white paper in
    images of one channel, else white. Raises ValueError for another shape, for labels that are not one a row, and for
    an unknown format.
    """
    rows = _square(images) if isinstance(images, Tensor) else list(images)
    _check_format(path)
    if not labels and not title:
        array = np.kron(tiled(rows, ink=ink), np.ones((scale, scale, 1), dtype=np.uint8))
        return write_whole(path, lambda part: _imsave(part, array))
    height, width, _ = tiled(rows, ink=ink).shape
    figure = new_figure(width * scale / 150 + 1.3, height * scale / 150 + (0.35 if title else 0.05))
    axes = figure.add_subplot()
    draw_rows(axes, rows, labels=labels, ink=ink)
    if title:
        axes.set_title(title, loc="left", fontsize=9)
    return save_figure(path, figure)


def draw_rows(
    axes: "Axes",
    rows: Sequence[Tensor],
    *,
    labels: Sequence[str] = (),
    ink: bool = False,
    framed: Sequence[Sequence[int]] = (),
) -> None:
    """Draw batches as rows of images, see `contact_sheet`; `framed[i]` lists the images of row i that get a frame."""
    from matplotlib.patches import Rectangle

    if labels and len(labels) != len(rows):
        raise ValueError(f"{len(labels)} labels for {len(rows)} rows: give one per row, or none")
    array = tiled(rows, ink=ink)
    axes.imshow(array, interpolation="nearest", aspect="equal")
    height, width = (side + 1 for side in rows[0].shape[-2:])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=8.5)
    axes.set_xticks([])
    axes.set_yticks([(i + 0.5) * height for i in range(len(labels))], list(labels))
    for i, chosen in enumerate(framed):
        for j in chosen:
            corner = (j * width + 0.3, i * height + 0.3)
            axes.add_patch(Rectangle(corner, width - 0.6, height - 0.6, fill=False, color=PALETTE[1], linewidth=1.1))


def tiled(rows: Sequence[Tensor], *, ink: bool = False) -> np.ndarray:
    """Batches as one image of shape (H, W, 3), uint8, a row each, with a line of one pixel around every image."""
    batches = [_bytes(batch, ink) for batch in rows]
    if len({batch.shape[1:] for batch in batches}) != 1:
        raise ValueError(f"images of several shapes: {sorted({batch.shape[1:3] for batch in batches})}")
    count, (height, width, _) = max(map(len, batches)), batches[0].shape[1:]
    sheet = np.full((len(batches) * (height + 1) + 1, count * (width + 1) + 1, 3), 255 if ink else 64, dtype=np.uint8)
    for i, batch in enumerate(batches):
        for j, image in enumerate(batch):
            top, left = i * (height + 1) + 1, j * (width + 1) + 1
            sheet[top : top + height, left : left + width] = image
    return sheet


def scatter(path: str | Path, points: Tensor, *, truth: Tensor | None = None, title: str = "") -> Path:
    """Write a picture of `points` of shape (N, 2), in front of exact samples `truth` of shape (M, 2) where given.

    Raises ValueError for points of another shape.
    """
    for given in (points, truth):
        if given is not None and (given.ndim != 2 or given.shape[1] != 2):
            raise ValueError(f"points of shape {tuple(given.shape)}: a scatter plot wants (N, 2)")
    figure = new_figure(4.6, 4.4)
    axes = figure.add_subplot()
    if truth is not None:
        _dots(axes, truth, 5, "0.82", "exact")
    _dots(axes, points, float(np.clip(300 / max(len(points), 1) ** 0.5, 3, 16)), PALETTE[0], "samples")
    axes.set_aspect("equal", adjustable="datalim")
    plain(axes, "$x_1$", "$x_2$")
    if truth is not None:
        key = axes.legend(frameon=False, ncols=2, handletextpad=0.1, markerscale=1.8, fontsize=8.5, loc="lower left")
        key.set_bbox_to_anchor((0, 1), transform=axes.transAxes)
    axes.set_title(title, loc="right", fontsize=8.5)
    return save_figure(path, figure)


def _dots(axes: "Axes", points: Tensor, size: float, color: str, label: str) -> None:
    first, second = points.detach().cpu().double().numpy().T
    axes.scatter(first, second, s=size, color=color, linewidths=0, label=label)


def _square(images: Tensor) -> list[Tensor]:
    columns = max(int(np.ceil(np.sqrt(len(images)))), 1)
    return list(images.split(columns))


def _bytes(images: Tensor, ink: bool) -> np.ndarray:
    """A batch as uint8 of shape (N, H, W, 3)."""
    shape = tuple(images.shape)
    if len(shape) == 3:
        images = images.unsqueeze(1)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.numel():
        raise ValueError(f"images of shape {shape}: (N, H, W), (N, 1, H, W) or (N, 3, H, W) is wanted, N at least 1")
    values = torch.nan_to_num(images.detach().cpu().double(), nan=-1.0)
    values = -values if ink and images.shape[1] == 1 else values
    return to_pixels(values).permute(0, 2, 3, 1).expand(-1, -1, -1, 3).numpy()


def _check_format(path: str | Path) -> None:
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if Path(path).suffix.lower().removeprefix(".") not in known:
        raise ValueError(f"{path}: its suffix is not a format of pictures; known: {', '.join(sorted(known))}")


def _imsave(path: Path, array: np.ndarray) -> None:
    from matplotlib.image import imsave

    imsave(path, array)
