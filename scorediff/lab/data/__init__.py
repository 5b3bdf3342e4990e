"""Data to train on and to measure against: those of the package, Fashion-MNIST, folders of images, arrays."""

from scorediff.lab.data.arrays import Data
from scorediff.lab.data.digits import digits, digits_labels
from scorediff.lab.data.files import from_file, from_folder
from scorediff.lab.data.idx import fashion_mnist
from scorediff.lab.data.named import NAMED, load_data

__all__ = ["NAMED", "Data", "digits", "digits_labels", "fashion_mnist", "from_file", "from_folder", "load_data"]
