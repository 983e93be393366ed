"""Terms that train something, and what they compare."""

import torch

from helpers.laws import randn
from kdcourse.losses import (
    AB,
    FT,
    ICKD,
    MGD,
    OFD,
    SRRL,
    HiddenCosine,
    HiddenMSE,
    Paraphraser,
    ReviewKD,
    SemCKD,
    SimKD,
    ViTKD,
)


def maps(*shape, seed=0):
    return randn(*shape, seed=seed).float()


def linear(*sizes):
    """A classifier with reproducible weights."""
    layer = torch.nn.Linear(*sizes)
    layer.weight.data = maps(sizes[1], sizes[0], seed=8)
    return layer


TRAINED = {  # how to make the term, and what it compares
    "OFD": (lambda: OFD("a", "b"), (maps(4, 3, 5, 5), maps(4, 6, 5, 5, seed=1))),
    "OFD, margin": (lambda: OFD("a", "b", margin=-torch.ones(6)),
                    (maps(4, 3, 5, 5), maps(4, 6, 5, 5, seed=1))),
    "ReviewKD": (lambda: ReviewKD(["a", "b"], ["c", "d"], width=4),
                 ((maps(4, 3, 6, 6), maps(4, 5, 3, 3)),
                  (maps(4, 6, 8, 8, seed=1), maps(4, 2, 4, 4, seed=1)))),
    "AB": (lambda: AB("a", "b"), (maps(4, 3, 6, 4), maps(4, 5, 3, 4, seed=1))),
    "FT": (lambda: FT("a", "b", paraphraser=Paraphraser(6)),
           (maps(4, 3, 6, 4), maps(4, 6, 3, 4, seed=1))),
    "ICKD": (lambda: ICKD("a", "b"), (maps(4, 3, 6, 4), maps(4, 5, 3, 4, seed=1))),
    "MGD": (lambda: MGD("a", "b", share=0.5),
            (maps(4, 3, 6, 4), maps(4, 5, 3, 4, seed=1))),
    "MGD, places of tokens": (lambda: MGD(share=0.5, mask="place"),
                              (maps(4, 17, 5), maps(4, 16, 5, seed=1))),
    "ViTKD": (lambda: ViTKD(["a", "b", "c"], ["d", "e", "f"], alpha=0.3, beta=1e-3),
              (tuple(maps(4, 10, 3, seed=i) for i in range(3)),
               tuple(maps(4, 10, 5, seed=i) for i in range(3, 6)))),
    "SRRL": (lambda: SRRL("a", "b", classifier=linear(5, 7)),
             (maps(4, 3, 6, 4), maps(4, 5, 3, 4, seed=1))),
    "SRRL, vectors": (lambda: SRRL(classifier=linear(5, 2), beta=0.2),
                      (maps(4, 3), maps(4, 5, seed=1))),
    "SemCKD": (lambda: SemCKD(["a", "b"], ["d", "e", "f"], batch=9),
               ((maps(4, 3, 6, 4), maps(4, 4, 3, 3, seed=1)),
                (maps(4, 2, 6, 6, seed=2), maps(4, 10, 5, seed=3), maps(4, 3, 2, 2, seed=4)))),
    "SimKD": (lambda: SimKD("a", "b"), (maps(4, 3, 5, 4), maps(4, 6, 3, 6, seed=1))),
    "SimKD, no paths": (lambda: SimKD(factor=3), (maps(4, 3, 2, 2), maps(4, 6, 4, 2, seed=1))),
    "HiddenMSE": (lambda: HiddenMSE("a", "b"), (maps(4, 5, 3), maps(4, 5, 6, seed=1))),
    "HiddenCosine": (lambda: HiddenCosine("a", "b"), (maps(4, 5, 3), maps(4, 5, 6, seed=1))),
}


def built(name, seed=0):
    make, features = TRAINED[name]
    term = make()
    term.build(*features, seed)
    return term, features
