"""Make what comes with the package: the networks, and the classifiers whose features they are measured by.

    python recipes/make.py digits-classifier      10 seconds
    python recipes/make.py digits-unet            7 minutes on two cores
    python recipes/make.py fashion-classifier     3 minutes; wants Debian's package dataset-fashion-mnist
    python recipes/make.py fashion-unet           an hour on two cores

A network is trained in runs/NAME, from where it was left; measured; and compared with the one of the package. With
--write it takes its place.
"""

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

import scorediff as sd
from scorediff.lab import metrics
from scorediff.lab.checkpoints import Checkpoint, load, save, shipped
from scorediff.lab.data import Data, load_data
from scorediff.lab.networks import UNet
from scorediff.lab.training import LogNormalTimes, OutputWeighting, Recipe, train
from scorediff.lab.training.loss import held_out_loss

ASSETS = Path(sd.__file__).parent / "assets"
SAMPLES = 5000


@dataclass(frozen=True)
class Network:
    """A network of the package: what it learns, and how."""

    data: str
    recipe: Recipe


# EDM's preconditioning and noise levels (arXiv:2206.00364), about the scale of the data, on the VP schedule
EDM = Recipe(weighting=OutputWeighting(), lr=2e-3, average=0.1)
NETWORKS = {
    "digits-unet": Network(
        "digits",
        dataclasses.replace(
            EDM,
            prediction=sd.EDMPrediction(data_std=0.75),
            network=UNet(width=32, blocks=1, dropout=0.1),
            times=LogNormalTimes(mean=-0.5, std=1.3),
            steps=4000,
        ),
    ),
    "fashion-unet": Network(
        "fashion-mnist",
        dataclasses.replace(
            EDM,
            prediction=sd.EDMPrediction(data_std=0.7),
            network=UNet(width=48, blocks=1, patch=2, dropout=0.05),
            times=LogNormalTimes(mean=-0.7, std=1.3),
            flip=True,
            held_out=2000,
            steps=8000,
        ),
    ),
}
CLASSIFIERS = {"digits-classifier": ("digits", 256, 40), "fashion-classifier": ("fashion-mnist", 5000, 8)}


def classifier(name: str, write: bool) -> None:
    """Train a classifier and say how many held-out images it tells."""
    data, held_out, epochs = CLASSIFIERS[name]
    net, right = metrics.fit_classifier(load_data(data), held_out=held_out, epochs=epochs)
    print(f"{name}: {right:.2%} of {held_out} held-out images")
    if write:
        path = ASSETS / "classifiers" / f"{data}.safetensors"
        print(metrics.save_classifier(path, net, data=data, epochs=epochs, accuracy=round(right, 4)))


def network(name: str, write: bool) -> None:
    """Train a network, measure it, and compare it with the one of the package."""
    chosen = NETWORKS[name]
    data = load_data(chosen.data)
    made = train(data, Path("runs") / name, chosen.recipe, picture_every=1000)
    made.net.half().float()  # as it will lie in the package
    card = {**made.card, **measured(made, data, chosen.recipe)}
    made = dataclasses.replace(made, card=card)
    before = load(name).card if name in shipped() else {}
    for key in ("held_out_loss", "frechet_distance"):
        kept = f", in the package {before[key]:.4g}" if key in before else ""
        print(f"{name}: {key} {card[key]:.4g} ± {card[key.replace('_loss', '') + '_error']:.2g}{kept}")
    if write:
        print(save(ASSETS / f"{name}.safetensors", made, dtype=torch.float16))


def measured(made: Checkpoint, data: Data, recipe: Recipe) -> dict[str, float]:
    """The loss on what was held out; and the Frechet distance of samples to the data, every class as often as there."""
    _, held_out = data.split(recipe.held_out, recipe.seed)
    loss, loss_error = held_out_loss(made.denoiser, recipe, data.take(held_out))
    extractor = metrics.classifier(data.title).features
    labels = torch.from_numpy(data.labels)[torch.linspace(0, len(data) - 1, SAMPLES).long()]
    flow = sd.ProbabilityFlow(made.denoiser)
    found = sd.sample(
        flow, (SAMPLES, *made.shape), "dpm++2m", steps=40, cond={"label": labels}, batch_size=250, terminal="denoise"
    )
    distance = metrics.frechet_distance(metrics.features(data, extractor), metrics.features(found.check().x, extractor))
    return {
        "held_out_loss": loss,
        "held_out_error": loss_error,
        "frechet_distance": distance.value,
        "frechet_distance_error": distance.error,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*NETWORKS, *CLASSIFIERS])
    parser.add_argument("--write", action="store_true", help="put it into the package")
    given = parser.parse_args()
    (network if given.name in NETWORKS else classifier)(given.name, given.write)
