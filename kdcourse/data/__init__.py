"""Data sets, batches, augmentation."""

from kdcourse._random import generator
from kdcourse.data.arrays import from_arrays
from kdcourse.data.augment import Augment, Augmented, AugmentedStream, augmented
from kdcourse.data.dataset import SPLITS, Batch, Dataset, Split, check_dataset
from kdcourse.data.folder import folder
from kdcourse.data.glyphs import FACES, GLYPHS, glyphs, glyphs_fingerprint
from kdcourse.data.loaders import Stream, from_loaders
from kdcourse.data.masked import Masked
from kdcourse.data.public import cifar10, cifar100, digits, fashion_mnist, mnist
from kdcourse.data.sentences import sentences
from kdcourse.data.text import NOVELS, from_texts, text
from kdcourse.data.tokens import Text

__all__ = ["FACES", "GLYPHS", "NOVELS", "SPLITS", "Augment", "Augmented", "AugmentedStream",
           "Batch", "Dataset", "Masked", "Split", "Stream", "Text", "augmented", "check_dataset",
           "cifar10", "cifar100", "digits", "fashion_mnist", "folder", "from_arrays",
           "from_loaders", "from_texts", "generator", "glyphs", "glyphs_fingerprint", "mnist",
           "sentences", "text"]
