"""What the league compares: pairs of networks, and every loss with its published weight.

Where a weight stands is said in the docstring of its loss. A weight that was published for one pair
is used for all of them, unless `Pair` has others.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import nn

from kdcourse import losses, models
from kdcourse.losses import CE, KD
from kdcourse.schemes import Distiller, Edge

BATCH = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """A teacher and a student, by their names in `kd.models.cifar`.

    lr: of the student; 0.01 for ShuffleNet in RepDistiller's train_student.py.
    dkd, review: published weights `beta` of `DKD` and of `ReviewKD`. cat: that of `CATKD`, and its
        settings.
    """

    teacher: str
    student: str
    lr: float = 0.05
    dkd: float
    review: float
    cat: tuple[float, dict]


ALIKE = {"normalize": False}  # how CAT-KD's authors compare two networks of one architecture
PAIRS = {f"{pair.teacher}-{pair.student}": pair for pair in (
    Pair(teacher="resnet56", student="resnet20", dkd=2, review=0.6, cat=(0.7, ALIKE)),
    Pair(teacher="resnet32x4", student="resnet8x4", dkd=8, review=5, cat=(15, ALIKE)),
    Pair(teacher="vgg13", student="vgg8", dkd=6, review=5, cat=(4.5, ALIKE)),
    Pair(teacher="wrn_40_2", student="wrn_16_2", dkd=6, review=5, cat=(12, ALIKE)),
    Pair(teacher="resnet32x4", student="shufflenetv2", lr=0.01, dkd=8, review=8,
         cat=(600, {"grid": 4})))}


class Case:
    """The networks of one run, and the paths of their layers.

    s, t: the ends of the stages of student and teacher. before_s, before_t: those before the ReLU.
    features: a pair of paths, the features before the last layer. last: the last maps.
    paraphraser: of the teacher's last stage, for `FT`; trained before it is used.
    """

    features, last = ("fc:input", "fc:input"), ("last", "last")

    def __init__(self, pair: Pair, classes: int, seed: int, teacher: nn.Module | None = None):
        self.pair = pair
        self.student = models.cifar(pair.student, classes, seed)
        self.teacher = models.cifar(pair.teacher, classes) if teacher is None else teacher
        self.s, self.t = self.student.stages, self.teacher.stages
        self.before_s, self.before_t = self.student.before_relu, self.teacher.before_relu
        self.paraphraser = losses.Paraphraser(self.teacher.fc.in_features)

    def use_class_maps(self) -> None:
        """Make both networks compute class activation maps, for `CATKD`."""
        self.student, self.teacher = (losses.class_maps(network, "last", "fc")
                                      for network in (self.student, self.teacher))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """One line of the table.

    objective: from a case; None where it does not fit the pair.
    first: the objective of a first stage (30 of 240 epochs), after which the student is trained by
        `objective`. paraphrases: a first stage trains a paraphraser instead.
    prepare: changes the case first. network: makes of the trained scheme what is measured, where
        that is not the student.
    ramp: the share of the epochs in which the terms with a teacher rise to their weight.
    weight_decay, erase: where they differ from the published protocol (erase: a share of the side).
    note: what a reader of the table must know.
    """

    objective: Callable
    first: Callable | None = None
    paraphrases: bool = False
    prepare: Callable | None = None
    network: Callable | None = None
    ramp: float = 0.0
    weight_decay: float = 5e-4
    erase: float = 0.0
    note: str = ""


def _each(kind, case: Case):
    """Add the terms of all stages."""
    return sum(map(kind, case.s, case.t))


def _halved(weight: float, kind, case: Case):
    """Add terms before the ReLU: the last stage with this weight, each one before with half."""
    paths = zip(case.before_s, case.before_t, strict=True)
    return sum(weight / 2 ** (len(case.s) - place) * kind(*pair)
               for place, pair in enumerate(paths, 1))


def _flow(case: Case):
    """Add FSP of neighbouring layers; None where their widths differ."""
    if case.pair.student == "shufflenetv2":
        return None
    student, teacher = ["stem", *case.s], ["stem", *case.t]
    return sum(losses.FSP(student[place: place + 2], teacher[place: place + 2])
               for place in range(len(case.s)))


def _tf_kd(case: Case):
    """Weigh a virtual teacher; published for ShuffleNetV2 only, of these students."""
    if case.pair.student != "shufflenetv2":
        return None
    return 0.05 * CE() + 0.95 / 100 * losses.TfKD(T=10, variant="code")


def _labels(case: Case):
    return 1.0 * CE()


ONE_PAIR = "weight published for ResNet-32x4 to ResNet-8x4"
METHODS = {
    "labels": Method(objective=_labels),
    "labels, weight decay 1e-3": Method(objective=_labels, weight_decay=1e-3),
    "labels, cutout": Method(objective=_labels, erase=0.25,
                             note="8 x 8 pixels grey (DeVries & Taylor 2017, arXiv:1708.04552)"),
    "label smoothing": Method(objective=lambda case: 1.0 * losses.LabelSmoothing(0.1),
                              note="0.1, as on ImageNet (Szegedy et al. 2016)"),
    "KD": Method(objective=lambda case: 0.1 * CE() + 0.9 * KD(T=4)),
    "FitNet": Method(objective=lambda case: CE() + 100 * losses.Hint(
        case.s[1], case.t[1], projection="code")),
    "AT": Method(objective=lambda case: CE() + 1000 * _each(losses.AT, case)),
    "SP": Method(objective=lambda case: CE() + 3000 * losses.SP(case.s[-1], case.t[-1])),
    "CC": Method(objective=lambda case: CE() + 100 * losses.CC(*case.features),
                 note="the paper's formula and another weight; RepDistiller's row is another loss"),
    "VID": Method(objective=lambda case: CE() + _each(losses.VID, case)),
    "RKD": Method(objective=lambda case: CE() + 25 * losses.RKDDistance(*case.features)
                  + 50 * losses.RKDAngle(*case.features)),
    "PKT": Method(objective=lambda case: CE() + 30000 * losses.PKT(*case.features)),
    "AB": Method(first=lambda case: _halved(0.003, losses.AB, case), objective=_labels),
    "FT": Method(paraphrases=True, objective=lambda case: CE() + 500 * losses.FT(
        case.s[-1], case.t[-1], paraphraser=case.paraphraser),
        note="the authors' loss and weight; RepDistiller's row is another one, with weight 200"),
    "FSP": Method(first=_flow, objective=lambda case: _flow(case) and _labels(case)),
    "NST": Method(objective=lambda case: CE() + 50 * _each(losses.NST, case)),
    "CRD": Method(objective=lambda case: CE() + 0.8 * losses.CRD(*case.features)),
    "CRD + KD": Method(objective=lambda case: CE() + 0.8 * losses.CRD(*case.features) + KD(T=4)),
    "OFD": Method(objective=lambda case: CE() + _halved(1e-3, losses.OFD, case),
                  note="weight published at batch 128"),
    "ReviewKD": Method(ramp=20 / 240, objective=lambda case: CE() + case.pair.review
                       * losses.ReviewKD([*case.s, "fc:input"], [*case.before_t, "fc:input"]),
                       note="weight published at batch 128"),
    "CAT-KD": Method(prepare=Case.use_class_maps, objective=lambda case: CE() + case.pair.cat[0]
                     * losses.CATKD("head.maps", "head.maps", **case.pair.cat[1])),
    "SimKD": Method(objective=lambda case: 1.0 * losses.SimKD(*case.last),
                    network=lambda scheme, case: scheme.objective.terms["SimKD"].network(
                        scheme.student, case.teacher.fc),
                    note="the student with a projector and the teacher's classifier"),
    "ICKD": Method(objective=lambda case: CE() + 4 * losses.ICKD(case.s[-1], case.t[-1]),
                   note=ONE_PAIR),
    "SRRL": Method(objective=lambda case: CE() + KD(T=4) + losses.SRRL(
        *case.features, classifier=case.teacher.fc), note=ONE_PAIR),
    "SemCKD": Method(objective=lambda case: CE() + KD(T=4) + 400 * losses.SemCKD(
        case.s, case.t, batch=BATCH), note=ONE_PAIR),
    "MGD": Method(objective=lambda case: CE() + 7e-5 * losses.MGD(*case.last),
                  note="weight published on ImageNet"),
    "IRG": Method(objective=lambda case: CE() + KD(T=4) + 0.005 * losses.IRG(*case.features),
                  note=ONE_PAIR),
    "LogitMSE": Method(objective=lambda case: 1.0 * losses.LogitMSE("mean"),
                       note="weight published for wide ResNets at batch 128"),
    "HardLabel": Method(objective=lambda case: 0.5 * CE() + 0.5 * losses.HardLabel(),
                        note="weight published for DeiT on ImageNet"),
    "DKD": Method(ramp=20 / 240, objective=lambda case: CE() + losses.DKD(beta=case.pair.dkd)),
    "MLKD": Method(objective=lambda case: 0.1 * CE() + 0.45 * losses.MLKD(),
                   note="the half of it that needs no second, strongly augmented view"),
    "DIST": Method(objective=lambda case: CE() + 2 * losses.DIST(T=4, variant="code")),
    "LogitStd": Method(objective=lambda case: 0.1 * CE() + 9 * losses.LogitStd(
        T=2, variant="code"), note=ONE_PAIR),
    "NKD": Method(objective=lambda case: CE() + losses.NKD(gamma=3.5, T=3),
                  note="weight published for ResNet-34 to ResNet-18 at batch 128"),
    "OFA": Method(objective=lambda case: losses.LabelSmoothing(0.1) + losses.OFA(),
                  note="the last layer only, without exits"),
    "CTKD": Method(objective=lambda case: 0.1 * CE() + 0.9 * losses.CTKD()),
    "Tf-KD": Method(objective=_tf_kd, note="no teacher; weight published at batch 128"),
}


class Raised(Distiller):
    """Distil with the labels from the start, while the terms with a teacher rise to their weight by
    a step at each epoch, as DKD's and ReviewKD's authors do it.

    rising: the epoch in which they have their weight; the first one has 1 / rising of it.
    """

    def __init__(self, student, teacher, objective, rising: int):
        labels, soft = objective.split_by_teacher()
        super().__init__(student, teacher, soft)
        self.of_labels, self.rising, self.per_epoch, self.steps = labels, max(1, rising), 1, 0

    def check(self, data):
        super().check(data)
        self.per_epoch = max(1, len(data.train) // BATCH)

    def edges(self, batch):
        share = min(1.0, (self.steps // self.per_epoch + 1) / self.rising)
        student = self.output(batch)
        return [Edge(student, None, self.of_labels),
                Edge(student, self.teacher(batch, self._teacher_paths), self.objective,
                     weight=share)]

    def after_step(self):
        super().after_step()
        self.steps += 1

    def get_extra_state(self):
        return torch.tensor(self.steps)

    def set_extra_state(self, state):
        self.steps = int(state)
