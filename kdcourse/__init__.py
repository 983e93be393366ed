"""kdcourse: knowledge distillation, correct and measured.

    import kdcourse as kd

    data    = kd.data.glyphs(train=4000, seed=0)
    teacher = kd.teacher("glyphs")
    student = kd.models.convnet(width=16, classes=len(data.classes), seed=0)
    scheme  = kd.Distiller(student, teacher, 0.1 * kd.losses.CE() + 0.9 * kd.losses.KD(T=4))
    history = kd.fit(scheme, data, kd.Recipe(epochs=60, lr=0.32), seed=0)
    kd.report(scheme, data)
"""

__version__ = "0.1.0"

from kdcourse import checks, data, experiment, losses, measure, models, plot, streams
from kdcourse._machine import RESULTS  # noqa: F401
from kdcourse.doctor import doctor
from kdcourse.experiment import compare
from kdcourse.measure import report
from kdcourse.models import taps
from kdcourse.schemes import Distiller, MultiExit, Mutual, Supervised, export
from kdcourse.teachers import EMA, Cached, Ensemble, Live
from kdcourse.training import History, Recipe, fit
from kdcourse.views import augmented
from kdcourse.zoo import teacher

__all__ = [
    "EMA",
    "Cached",
    "Distiller",
    "Ensemble",
    "History",
    "Live",
    "MultiExit",
    "Mutual",
    "Recipe",
    "Supervised",
    "augmented",
    "checks",
    "compare",
    "data",
    "doctor",
    "experiment",
    "explore",
    "export",
    "fit",
    "losses",
    "measure",
    "models",
    "plot",
    "report",
    "streams",
    "taps",
    "teacher",
]


def __getattr__(name):
    if name == "explore":  # needs a notebook's libraries, so only on demand
        import importlib

        return importlib.import_module("kdcourse.explore")
    raise AttributeError(f"module 'kdcourse' has no attribute {name!r}")
