"""The runs of the league: one protocol, and rows that are kept as soon as they are complete."""

import collections
import dataclasses
import functools
import itertools
import warnings
from pathlib import Path

import numpy as np
import torch
from filelock import Timeout
from torch import nn

from kdcourse import _files, data, losses, measure
from kdcourse._key import named, stamp
from kdcourse._machine import RESULTS, default_device, where
from kdcourse.data import Dataset
from kdcourse.experiment.records import Store, rounded
from kdcourse.league.methods import BATCH, METHODS, PAIRS, Case, Method, Raised
from kdcourse.models import cifar
from kdcourse.schemes import Distiller, Scheme, Supervised
from kdcourse.taps import Early, predict, predict_split
from kdcourse.training import Recipe, fit
from kdcourse.zoo import trained

TEACHER_SEED = 100
# SHA-256 of CIFAR-100 as `images` brings it, which goes into the params of the data.
CIFAR100 = "557289cacfdb"


def protocol(epochs: int = 240, lr: float = 0.05, weight_decay: float = 5e-4,
             first: bool = False) -> Recipe:
    """Make the recipe of the published table, for another number of epochs in proportion.

    240 epochs, batch 64, SGD with momentum 0.9 (not Nesterov's), a rate that is divided by 10 after
    150, 180 and 210 epochs, weight decay on everything that is trained, full precision
    (RepDistiller, train_student.py, commit b84f547). There the last 16 images of an epoch make a
    batch of their own; here they are left out.

    first: the recipe of a first stage: 30 of 240 epochs at one rate (helper/pretrain.py).

    >>> protocol().schedule, protocol(60).schedule, protocol(first=True).epochs
    ((150, 180, 210), (38, 45, 52), 30)
    """
    falls = sorted({round(epochs * last / 240) for last in (150, 180, 210)} - {0, epochs})
    if first:
        epochs, falls = max(1, round(epochs / 8)), ()
    return Recipe(epochs=epochs, batch=BATCH, lr=lr, weight_decay=weight_decay, optimizer=sgd,
                  schedule=tuple(falls), validate_every=epochs)


def sgd(groups: list[dict], lr: float) -> torch.optim.Optimizer:
    """Make SGD with momentum 0.9 and weight decay on all parameters, norms and biases included."""
    decay = max(group["weight_decay"] for group in groups)
    groups = [{**group, "weight_decay": decay} for group in groups if group["params"]]
    return torch.optim.SGD(groups, lr=lr, momentum=0.9)


def images(root) -> Dataset:
    """Load CIFAR-100 from a folder: 50,000 training images, and the 10,000 test images, which are
    `val` and `test`, as nothing is chosen by them.

    root: holds `train/CLASS/*.png` and `test/CLASS/*.png`, or torchvision's files, which are
        downloaded there once. Both bring the same images in the same order (by class and content).
        Another set of small colour images in folders makes a league of its own.

    Raises `ValueError` for a folder without test images, and what `kd.data.folder` and
    `kd.data.cifar100` raise.
    """
    root = Path(root).expanduser()
    in_folders = (root / "train").is_dir()
    if in_folders and not (root / "test").is_dir():
        raise ValueError(f"Expected the folders train and test in {root}, got train alone. Put the "
                         "test images into test/CLASS/.")
    found = data.folder(root) if in_folders else data.cifar100(root, val=100)
    train = [torch.cat(parts) for parts in ((found.train.x, found.val.x),
                                            (found.train.y, found.val.y))]
    held_out = _ordered(found.test.x, found.test.y)
    return data.from_arrays(*_ordered(*train), classes=found.classes, val=held_out, test=held_out,
                            name="images")


def _ordered(x_NCHW: torch.Tensor, y: torch.Tensor):
    """Sort images, as uint8, by class and content."""
    x = (255 * x_NCHW).round().to(torch.uint8)
    keys = [(label, _files.digest(image.tobytes())) for label, image
            in zip(y.tolist(), x.numpy(), strict=True)]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__))
    return x[order], y[order]


@dataclasses.dataclass(frozen=True)
class Run:
    """One row: a student of a pair, trained by a method, with a seed, for so many epochs."""

    pair: str
    method: str
    seed: int
    epochs: int = 240

    def __str__(self):
        return f"{self.pair}, {self.method}, seed {self.seed}, {self.epochs} epochs"


class League:
    """Find the rows of runs, and compute those that are missing.

    Rows lie in `KDCOURSE_HOME/results`, trained teachers and the state of runs that were stopped in
    `KDCOURSE_HOME/league`. Any number of processes may work on one folder: each takes runs that no
    other one is at, and rows are written under a lock.

    data: from `images`. name: of the file of the rows.
    """

    def __init__(self, data: Dataset, name: str = "league"):
        self.data, self.name = data, name
        self.folder = _files.make_folder(_files.home() / "league")
        self.case = functools.cache(lambda pair: Case(PAIRS[pair], len(data.classes), seed=0))
        self._key_of = Store(name).key_of
        self._data_key = self._key_of(data)  # once: it reads every image
        self._identity = functools.cache(self._identify)

    def runs(self, pairs=tuple(PAIRS), methods=tuple(METHODS), seeds=range(5), epochs: int = 240
             ) -> list[Run]:
        """List the runs, a seed after the other, without methods that do not fit a pair.

        Raises `ValueError` for an unknown pair or method.
        """
        for kind, names, known in (("pair", pairs, PAIRS), ("method", methods, METHODS)):
            if unknown := [name for name in names if name not in known]:
                raise ValueError(f"Expected each {kind} among {list(known)}, got {unknown}.")
        return [Run(pair, method, seed, epochs) for seed, pair, method
                in itertools.product(seeds, pairs, methods)
                if METHODS[method].objective(self.case(pair)) is not None]

    def rows(self, runs: list[Run]) -> dict[Run, dict]:
        """Give the rows that exist."""
        store = Store(self.name)
        found = {run: store.find(*self._identity(run)) for run in runs}
        return {run: row for run, row in found.items() if row is not None}

    def missing(self, runs: list[Run]) -> list[Run]:
        """List the runs without a row."""
        rows = self.rows(runs)
        return [run for run in runs if run not in rows]

    def compute(self, run: Run, label: str = "") -> dict | None:
        """Compute a run, keep its row and return it; None where another process is at it.

        A run that was stopped goes on at its last complete epoch.
        """
        key, texts = self._identity(run)
        paths = [self.folder / f"{key.exact}-{stage}.safetensors" for stage in ("first", "run")]
        store = Store(self.name)
        try:
            with store.claim(key, wait=False):
                row = store.find_again(key, texts)  # another process may have computed it meanwhile
                if row is None:
                    row = store.keep(key, texts | self._measured(run, paths, label or str(run)))
                for path in paths:
                    path.unlink(missing_ok=True)
                return row
        except Timeout:
            return None

    def teacher(self, pair: str, epochs: int) -> nn.Module:
        """Load the pair's teacher, or train it by the same protocol."""
        name, recipe = PAIRS[pair].teacher, protocol(epochs)
        model = cifar(name, len(self.data.classes), seed=TEACHER_SEED)
        own = self._augmented(TEACHER_SEED)
        settings = {"model": name, "recipe": named(recipe), "data": repr(own), "results": RESULTS,
                    "smoke": _files.smoke()}
        path = self.folder / f"{name}-{_files.digest(settings)[:10]}.safetensors"
        stopped = path.with_suffix(".stopped.safetensors")
        trained(model, path, settings, lambda: own, recipe, label=f"teacher {name}",
                seed=TEACHER_SEED, renew="Delete it to train it again.", checkpoint=stopped)
        stopped.unlink(missing_ok=True)
        stamp(model, ["league teacher", settings])
        return model.eval().requires_grad_(False)

    def seconds(self, run: Run) -> float:
        """Estimate how long a run takes on this machine: by rows of it that are alike, else by a
        few steps of `KD` for the pair."""
        return run.epochs * self._per_epoch(run.pair, run.method)

    # --- how it is done ---------------------------------------------------------------------------

    def _augmented(self, seed: int, erase: float = 0.0) -> Dataset:
        return data.augmented(self.data, seed=seed, crop=4, flip=0.5, erase=erase)

    def _identify(self, run: Run):
        """Make the key of a row, of nothing that is trained, and the texts that describe it."""
        method, case = METHODS[run.method], self.case(run.pair)
        objective = method.objective(case)
        first = method.first and method.first(case)
        recipe = protocol(run.epochs, case.pair.lr, method.weight_decay)
        own = [case.pair.teacher, case.pair.student, run.method, objective, first, method.ramp,
               method.erase, recipe, self._data_key.exact, run.seed, RESULTS]
        scheme = f"{case.pair.student}: " + (f"{first!r}, then " if first else "") + repr(objective)
        return self._key_of(own), {
            "scheme": scheme, "recipe": repr(recipe), "data": repr(self.data),
            "teacher": case.pair.teacher, "seed": run.seed, "split": "test", "results": RESULTS}

    def _measured(self, run: Run, paths: list[Path], label: str) -> dict:
        """Train the student of a run, and measure it on the test images."""
        method, teacher = METHODS[run.method], self.teacher(run.pair, run.epochs)
        case = Case(PAIRS[run.pair], len(self.data.classes), run.seed, teacher)
        own = self._augmented(run.seed, method.erase)
        histories = []

        def train(scheme, recipe, path):
            histories.append(fit(scheme, own, recipe, run.seed, label=label, checkpoint=path))
            if histories[-1].interrupted:
                raise KeyboardInterrupt
            return scheme

        first = protocol(run.epochs, case.pair.lr, first=True)
        if method.first:
            train(Distiller(case.student, teacher, method.first(case)), first, paths[0])
        if method.paraphrases:
            with warnings.catch_warnings():  # a paraphraser has no logits
                warnings.filterwarnings("ignore", "The student is trained on inner tensors")
                train(_paraphrasing(case), dataclasses.replace(first, lr=0.01), paths[0])
        scheme = train(_scheme(case, method, run.epochs),
                       protocol(run.epochs, case.pair.lr, method.weight_decay), paths[1])
        network = method.network(scheme, case) if method.network else scheme.judged
        logits, labels = predict_split(functools.partial(predict, network), self.data.test)
        reference, _ = predict_split(functools.partial(predict, teacher), self.data.test)
        found = measure.evaluate(logits, labels, reference)
        return rounded({
            "pair": run.pair, "arm": run.method, "epochs": run.epochs, **found,
            "teacher_accuracy": measure.accuracy(reference, labels),
            "seconds": sum(history.seconds for history in histories),
            **where(histories[-1].device)})

    def _per_epoch(self, pair: str, method: str) -> float:
        hardware = where(default_device().type)["hardware"]
        found = collections.defaultdict(list)
        for row in Store(self.name).rows.values():
            if row.get("pair") == pair and row["hardware"] == hardware:
                found[row["arm"]].append(row["seconds"] / row["epochs"])
        times = found[method] or list(itertools.chain(*found.values()))
        return sum(times) / len(times) if times else self._timed(pair)

    @functools.cache  # noqa: B019 - a league lives as long as the command
    def _timed(self, pair: str) -> float:
        """Time the second epoch of four steps of KD; the third one is validated."""
        case, count = Case(PAIRS[pair], len(self.data.classes), seed=0), 4 * BATCH
        few = dataclasses.replace(self.data, train=self.data.train[:count],
                                  val=self.data.val[:BATCH])
        history = fit(Distiller(case.student, case.teacher), few, protocol(3), label="timing")
        return history["seconds"][-2:][0] * len(self.data.train) / count


def _scheme(case: Case, method: Method, epochs: int) -> Scheme:
    """Make the scheme of the only, or the second, stage."""
    if method.prepare:
        method.prepare(case)
    objective = losses.as_objective(method.objective(case))
    if not objective.needs_teacher:
        return Supervised(case.student, objective)
    if method.ramp:
        return Raised(case.student, case.teacher, objective, round(method.ramp * epochs))
    return Distiller(case.student, case.teacher, objective)


def _paraphrasing(case: Case) -> Scheme:
    """Make the scheme that trains the paraphraser of the teacher's last stage."""
    layer = case.t[-1]
    return Distiller(Early(case.teacher, layer, case.paraphraser), case.teacher,
                     losses.Hint("head", layer, projection=None))
