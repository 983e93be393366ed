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

from kdcourse import checks, data, experiment, losses, measure, models, plot, tasks
from kdcourse._machine import RESULTS, default_device  # noqa: F401
from kdcourse.data import augmented
from kdcourse.doctor import doctor
from kdcourse.experiment import compare
from kdcourse.measure import report
from kdcourse.outputs import Logits, Output
from kdcourse.schemes import Distiller, MultiExit, Mutual, OnPolicy, Supervised, export
from kdcourse.taps import taps
from kdcourse.teachers import EMA, Cached, Ensemble, Live
from kdcourse.training import History, Recipe, fastest, fit
from kdcourse.zoo import teacher

__all__ = [
    "EMA", "Cached", "Distiller", "Ensemble", "History", "Live", "Logits", "MultiExit", "Mutual",
    "OnPolicy", "Output", "Recipe", "Supervised", "augmented", "checks", "compare", "data",
    "default_device", "doctor", "experiment", "explore", "export", "fastest", "fit", "losses",
    "measure", "models", "plot", "report", "taps", "tasks", "teacher",
]


def __getattr__(name):
    if name == "explore":  # needs a notebook's libraries, so only on demand
        import importlib

        return importlib.import_module("kdcourse.explore")
    raise AttributeError(f"module 'kdcourse' has no attribute {name!r}")
