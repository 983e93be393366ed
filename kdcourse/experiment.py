"""Arms, seeds and recorded rows: the comparison that a claim rests on."""

import collections
import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import math
import operator
import os
import platform
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from filelock import FileLock

import kdcourse
from kdcourse import _files, measure, models, teachers
from kdcourse.data import Dataset, Split
from kdcourse.schemes import Scheme
from kdcourse.training import Recipe, default_device, fit

SHIPPED = Path(__file__).parent / "results"  # the rows that come with the package
LOWER_IS_BETTER = ("nll", "ece", "teacher_kl")


@dataclasses.dataclass
class Comparison:
    """The rows of several arms on the same seeds. Shows itself as a table.

    rows: one dict per run: arm, seed, accuracy, nll, ece, agreement …, and where it was run.
    baseline: the arm that the others are paired with.
    """

    rows: list[dict]
    baseline: str

    @property
    def arms(self) -> list[str]:
        """The names, in the order in which they were given."""
        return list(dict.fromkeys(row["arm"] for row in self.rows))

    def values(self, arm: str, quantity: str = "accuracy") -> list:
        """One quantity of one arm, a value per seed."""
        rows = [row for row in self.rows if row["arm"] == arm]
        if not rows:
            raise KeyError(f"Expected one of the arms {self.arms}, got {arm!r}.")
        if any(quantity not in row for row in rows):
            raise KeyError(f"Expected one of the quantities {sorted(rows[0])}, got {quantity!r}.")
        return [row[quantity] for row in rows]

    def mean(self, arm: str, quantity: str = "accuracy") -> float:
        """The mean over the seeds."""
        return measure.interval(self.values(arm, quantity))[0]

    def interval(self, arm: str, quantity: str = "accuracy"):
        """Mean and 95 % confidence interval over the seeds."""
        return measure.interval(self.values(arm, quantity))

    def difference(self, arm: str, baseline: str | None = None, quantity: str = "accuracy"):
        """Mean and 95 % interval of `arm - baseline`, paired by seed."""
        return measure.paired_difference(
            self.values(arm, quantity), self.values(baseline or self.baseline, quantity))

    def best(self, quantity: str = "accuracy") -> str:
        """The arm with the best mean. Choose on validation rows only."""
        pick = min if quantity in LOWER_IS_BETTER else max
        return pick(self.arms, key=lambda arm: self.mean(arm, quantity))

    @property
    def seconds(self) -> float:
        """What all runs took, also those that were recorded earlier."""
        return sum(row["seconds"] for row in self.rows)

    @property
    def split(self) -> str:
        return self.rows[0]["split"]

    def cells(self):
        """The table as text: header, and a line per arm."""
        header = ["", "runs", f"accuracy ({self.split})", "95 % interval",
                  f"minus {self.baseline}", "95 % interval"]
        more = [(title, name) for title, name in (("ECE", "ece"), ("agreement", "agreement"))
                if all(name in row for row in self.rows)]
        header += [title for title, _ in more]
        lines = []
        for arm in self.arms:
            mean, low, high = self.interval(arm)
            line = [str(arm), str(len(self.values(arm))), f"{mean:.1%}", _range(low, high)]
            if arm == self.baseline:
                line += ["–", "–"]
            else:
                gain, low, high = self.difference(arm)
                line += [f"{100 * gain:+.1f}", _range(low, high, sign="+")]
            for _, name in more:
                if None in self.values(arm, name):
                    line.append("–")
                else:
                    line.append(f"{self.mean(arm, name):.3f}" if name == "ece"
                                else f"{self.mean(arm, name):.1%}")
            lines.append(line)
        return header, lines

    def cost(self) -> str:
        """Where, when and how long the rows were computed, in a sentence."""
        hardware = " and ".join(sorted({row["hardware"] for row in self.rows}))
        days = sorted({row["date"] for row in self.rows})
        span = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
        versions = " and ".join(sorted({f"torch {row['torch']}" for row in self.rows}))
        return (f"{len(self.rows)} runs, {_minutes(self.seconds)} on {hardware}, {versions}, "
                f"{span}")

    def to_dict(self) -> dict:
        """Plain Python, for a results file."""
        return dataclasses.asdict(self)

    def __repr__(self):
        return measure.text_table(*self.cells())

    def _repr_html_(self):
        return measure.html_table(*self.cells(), caption=self.cost())


def compare(
    arms: dict[str, Callable[[int], Scheme]],
    data: Dataset,
    recipe: Recipe | dict[str, Recipe] | None = None,
    seeds: Iterable[int] = range(5),
    *,
    split: str = "val",
    baseline: str | None = None,
    teacher=None,
    also: dict[str, Callable[[Scheme, Split], float | list]] | None = None,
    results: str | None = None,
    rerun: bool = False,
) -> Comparison:
    """Train every arm on every seed, with the same data order for all arms of one seed.

    arms: by name, a function of the seed that returns a fresh scheme.
    recipe: one for all arms, or one by name of the arm.
    split: what the trained student is measured on: "val" for choices, "test" once, at the end.
    baseline: the arm to compare with; the first one by default.
    teacher: with whom agreement is measured; by default each scheme's own teacher, if any.
    also: more quantities of the trained student, by name: a function of the scheme and the split
        that returns a float, or a list of floats. They stand in the rows beside the others. A
        recorded row that lacks one is computed again; a changed function needs a new name.
    results: a chapter's number, such as "01". Rows that were computed earlier for the same arm
        (its repr), recipe, data, seed and `kdcourse.RESULTS` are loaded; the others are computed
        and kept in `KDCOURSE_HOME/results`, one by one, so that nothing is lost when it stops.
    rerun: compute all rows anew, and say first how long that took last time.

    Ctrl-C stops, and returns the rows that are complete for all arms of a seed.

    Raises `ValueError` when there are no arms or no seeds, when an arm does not return a fresh
    scheme each time, or when a quantity has the name of one that every row has.
    """
    also = also or {}
    seeds = [operator.index(seed) for seed in seeds]
    if not arms or not seeds:
        raise ValueError(f"Expected at least one arm and one seed, got {len(arms)} and "
                         f"{len(seeds)}.")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"Expected different seeds, got {seeds}.")
    if isinstance(recipe, dict) and set(recipe) != set(arms):
        raise ValueError(f"Expected a recipe for each of the arms {list(arms)}, got recipes for "
                         f"{list(recipe)}.")
    if split not in ("val", "test"):
        raise ValueError(f'Expected split "val" or "test", got {split!r}.')
    baseline = baseline or next(iter(arms))
    if baseline not in arms:
        raise ValueError(f"Expected the baseline among {list(arms)}, got {baseline!r}.")
    if _files.smoke():
        seeds, results = seeds[:2], None  # two seeds: enough for every interval to exist
        print("KDCOURSE_SMOKE=1: compare makes two steps for two seeds; nothing is recorded.")
    store = _Store(results)
    _ = data.train.x, getattr(data, split).x  # a stream says in a sentence what to do instead
    answers = _Answers(teacher, getattr(data, split))

    jobs = []
    for seed in seeds:
        for name, arm in arms.items():
            scheme = _fresh(name, arm, seed)
            if seed == seeds[0]:
                _check_apart(name, scheme, _fresh(name, arm, seed))
            chosen = (recipe[name] if isinstance(recipe, dict) else recipe) or Recipe()
            key = {"scheme": repr(scheme), "recipe": repr(chosen), "data": repr(data),
                   "teacher": answers.name, "seed": seed, "split": split,
                   "results": kdcourse.RESULTS}
            twin = next((other for other, *_, known in jobs if known == key), None)
            if results and twin is not None:
                raise ValueError(f"Expected arms that read differently, got {key['scheme']} for "
                                 f"{twin!r} and {name!r}: their recorded rows could not be told "
                                 "apart. Set student.spec to a text that says what differs.")
            jobs.append((name, arm, chosen, key))
    if rerun:
        known = [row for *_, key in jobs if (row := store.find(key))]
        if known:
            print(f"Computing {len(jobs)} runs; {len(known)} of them took "
                  f"{_minutes(sum(row['seconds'] for row in known))} on {known[0]['hardware']}.")

    rows = []
    with contextlib.suppress(KeyboardInterrupt):  # while a student is measured
        for number, (name, arm, chosen, key) in enumerate(jobs, 1):
            row = None if rerun else store.find(key)
            if row is None or not also.keys() <= row.keys():
                scheme = _fresh(name, arm, key["seed"])
                history = fit(scheme, data, chosen, key["seed"],
                              label=f"{number}/{len(jobs)} {name}")
                if history.interrupted:
                    break
                found = key | _measured(scheme, data, split, answers, history)
                if twice := also.keys() & {"arm", *found}:
                    raise ValueError(f"Expected names for `also` that a row does not have yet, "
                                     f"got {sorted(twice)}. Choose another name.")
                more = {name: ask(scheme, getattr(data, split)) for name, ask in also.items()}
                row = (row or {}) | found | _rounded(more)
                store.add(row)
            rows.append({"arm": name, **row})
    done = collections.Counter(row["seed"] for row in rows)
    whole = [row for row in rows if done[row["seed"]] == len(arms)]
    if not whole:
        raise KeyboardInterrupt("Stopped before the first seed was complete for all arms.")
    return Comparison(whole, baseline)


def record(
    function: Callable[[int], dict[str, dict]],
    seeds: Iterable[int] = range(5),
    *,
    name: str,
    of: Iterable = (),
    split: str = "val",
    baseline: str | None = None,
    results: str | None = None,
    rerun: bool = False,
) -> Comparison:
    """What `compare` is for schemes, for anything else that is measured over seeds.

    Generations that teach each other, an ensemble, a student that is repaired after training: one
    function of the seed computes it all, and returns its quantities (float, list or None) by arm:
    `{"generation 1": {"accuracy": 0.81}, "generation 2": {"accuracy": 0.83}}`.
    `kd.measure.evaluate` makes such a dict from logits.

    name: says in a few words what is measured; change it when the function changes.
    of: what it depends on, such as data and recipe: each one's repr is kept with the rows.
    split: on which split the function measures; it is only noted down.
    baseline, results, rerun: as in `compare`. A call of `function` is recorded as a whole.

    Raises `ValueError` when the function returns anything else, or other arms for another seed.

    >>> import kdcourse as kd
    >>> made = kd.experiment.record(lambda seed: {"coin": {"accuracy": seed % 2}}, name="a coin")
    >>> made.values("coin")  # of the seeds 0 to 4
    [0, 1, 0, 1, 0]
    """
    seeds = [operator.index(seed) for seed in seeds]
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"Expected at least one seed, each once, got {seeds}.")
    if split not in ("val", "test"):
        raise ValueError(f'Expected split "val" or "test", got {split!r}.')
    if _files.smoke():
        seeds, results = seeds[:2], None
        print("KDCOURSE_SMOKE=1: record measures two seeds; nothing is recorded.")
    store = _Store(results)
    keys = [{"scheme": name, "recipe": "", "data": "; ".join(map(repr, of)), "teacher": "",
             "seed": seed, "split": split, "results": kdcourse.RESULTS} for seed in seeds]
    known = [row for key in keys if (row := store.find(key))]
    if rerun and known:
        print(f"Measuring {len(keys)} seeds; {len(known)} of them took "
              f"{_minutes(sum(row['seconds'] for row in known))} on {known[0]['hardware']}.")
    rows, first = [], None
    for key in keys:
        row = None if rerun else store.find(key)
        if row is None:
            start = time.perf_counter()
            arms = function(key["seed"])
            if not isinstance(arms, dict) or not arms or not all(
                    isinstance(found, dict) for found in arms.values()):
                raise ValueError("Expected the function to return a dict of quantities for each "
                                 f'arm, such as {{"arm": {{"accuracy": 0.9}}}}, got {arms!r}.')
            row = key | {"arms": _rounded(arms), "seconds": time.perf_counter() - start,
                         **where(default_device().type)}
            store.add(row)
        first = first or list(row["arms"])
        if list(row["arms"]) != first:
            raise ValueError(f"Expected the arms {first} for every seed, got {list(row['arms'])} "
                             f"for seed {key['seed']}.")
        shared = {field: value for field, value in row.items() if field != "arms"}
        shared["seconds"] /= len(first)  # of the whole: so that their sum is right
        rows += [shared | {"arm": arm} | found for arm, found in row["arms"].items()]
    if baseline is not None and baseline not in first:
        raise ValueError(f"Expected the baseline among {first}, got {baseline!r}.")
    return Comparison(rows, baseline or first[0])


def _fresh(name: str, arm, seed: int) -> Scheme:
    function = callable(arm) and not isinstance(arm, Scheme)
    scheme = arm(seed) if function else None
    if not isinstance(scheme, Scheme):
        got = f"one that returns {type(scheme).__name__}" if function else type(arm).__name__
        raise ValueError(f"Expected arm {name!r} to be a function of the seed that returns a "
                         f"scheme, got {got}. Write lambda seed: Supervised(net(seed)).")
    return scheme


def _check_apart(name: str, first: Scheme, second: Scheme) -> None:
    if first.student is second.student:
        raise ValueError(f"Expected a fresh student from every call of arm {name!r}, got the same "
                         "object twice: the second run would go on where the first ended. "
                         "Make the student inside the function.")


class _Answers:
    """A teacher's logits on a split, computed at the first use."""

    def __init__(self, teacher, split):
        self.teacher = teachers.as_teacher(teacher) if teacher is not None else None
        self.split, self.name = split, repr(self.teacher)
        self._logits = None

    def for_scheme(self, scheme):
        if self.teacher is None:
            own = getattr(scheme, "teacher", None)
            return own.predict(self.split.x) if own is not None else None
        if self._logits is None:
            self._logits = self.teacher.predict(self.split.x)
        return self._logits


def _measured(scheme, data, split, answers, history) -> dict:
    part = getattr(data, split)
    logits = models.predict(scheme.student, part.x)
    found = {"agreement": None, "teacher_kl": None}
    found |= measure.evaluate(logits, part.y, answers.for_scheme(scheme))
    bins = [[row["count"], row["confidence"], row["accuracy"]]
            for row in measure.reliability(logits, part.y)]
    curve = [[row["epoch"], row["loss"], row["val_accuracy"]] for row in history.rows
             if row["val_accuracy"] is not None]
    fitted = measure.accuracy(models.predict(scheme.student, data.train.x), data.train.y)
    return _rounded({
        **found,
        "train_accuracy": fitted,
        "per_class": measure.per_class(logits, part.y, len(data.classes)),
        "reliability": bins,
        "curve": curve,
        "seconds": history.seconds,
        **where(history.device),
    })


@dataclasses.dataclass
class Cost:
    """What a chapter's recorded rows took to compute, and how long it takes to open with them."""

    chapter: str
    rows: list[dict]
    opened: dict | None

    @property
    def recompute(self) -> str:
        """How long the rows took, in words."""
        return _minutes(sum(row["seconds"] for row in self.rows)) if self.rows else "not recorded"

    @property
    def open(self) -> str:
        """How long the notebook ran from top to bottom with all rows recorded, in words."""
        return _minutes(self.opened["seconds"]) if self.opened else "not measured yet"

    def _repr_markdown_(self):
        groups: dict[tuple, list[dict]] = {}
        for row in self.rows:
            key = tuple(row[name] for name in ("hardware", "torch", "python", "date"))
            groups.setdefault(key, []).append(row)
        lines = ["| runs | seeds | time | hardware | torch | Python | date |",
                 "|---|---|---|---|---|---|---|"]
        for (hardware, version, python, date), rows in sorted(groups.items()):
            seconds = _minutes(sum(row["seconds"] for row in rows))
            seeds = len({row["seed"] for row in rows})
            lines.append(f"| {len(rows)} | {seeds} | {seconds} | {hardware} | {version} | "
                         f"{python} | {date} |")
        return "\n".join(lines)

    def __repr__(self):
        return (f"Chapter {self.chapter}: {len(self.rows)} recorded runs took {self.recompute}; "
                f"with them the notebook opens in {self.open}.")


def cost(chapter: str) -> Cost:
    """The price of a chapter, from `kdcourse/results`: nothing here is typed by hand."""
    path = SHIPPED / f"{chapter}.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": []}
    return Cost(chapter, content["rows"], content.get("opened"))


def record_opening(chapter: str, seconds: float) -> None:
    """Note how long the notebook ran with all of its rows recorded. New rows erase the note."""
    _write(SHIPPED / f"{chapter}.json", cost(chapter).rows, {"seconds": seconds} | where())


def where(device: str = "cpu") -> dict:
    """Hardware, versions and day, as every recorded row has them."""
    if device.startswith("cuda"):
        hardware = torch.cuda.get_device_name()
    else:
        capability = torch.backends.cpu.get_cpu_capability()
        threads = torch.get_num_threads()
        hardware = (f"{threads} CPU thread{'s' * (threads > 1)} "
                    f"({platform.machine()}, {capability}, {platform.system()})")
    return {"hardware": hardware, "torch": torch.__version__.split("+")[0],
            "python": platform.python_version(),
            "kdcourse": importlib.metadata.version("kdcourse"),
            "date": datetime.date.today().isoformat()}


class _Store:
    """Recorded rows: those that ship with the package, and those that were computed here."""

    KEY = ("scheme", "recipe", "data", "teacher", "seed", "split", "results")

    def __init__(self, chapter: str | None):
        self.rows: dict[tuple, dict] = {}
        self.path = None
        if chapter is None:
            return
        shipped = SHIPPED / f"{chapter}.json"
        own = _files.home() / "results" / f"{chapter}.json"
        # KDCOURSE_RECORD=1 is set where a chapter's rows are made for the package itself.
        self.path = shipped if os.environ.get("KDCOURSE_RECORD") == "1" else own
        for path in dict.fromkeys((shipped, own, self.path)):
            for row in self._read(path):
                self.rows[self._key(row)] = row

    def _read(self, path: Path) -> list[dict]:
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
            for row in rows:
                self._key(row)
            return rows
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"Expected recorded results in {path}, got a file that cannot be read ({error!r}). "
                "Delete it to compute its rows again."
            ) from None

    def _key(self, row: dict) -> tuple:
        return tuple(row[name] for name in self.KEY)

    def find(self, key: dict) -> dict | None:
        return self.rows.get(self._key(key))

    def add(self, row: dict) -> None:
        if self.path is None:
            return
        self.rows[self._key(row)] = row
        with _files.warn_if_not_kept("A row was computed but not recorded."):
            self._keep(row)

    def _keep(self, row: dict) -> None:
        _files.make_folder(self.path.parent)
        with FileLock(f"{self.path}.lock"):  # another process may add rows of its own
            kept = {self._key(row): row for row in [*self._read(self.path), row]}
            _write(self.path, list(kept.values()))


def _write(path: Path, rows: list[dict], opened: dict | None = None) -> None:
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    tail = f', "opened": {json.dumps(opened)}' if opened else ""
    _files.write(path, f'{{"rows": [\n{lines}\n]{tail}}}\n'.encode())


def _rounded(value, digits: int = 5):
    """Five digits are more than any seed agrees on, and keep the file small."""
    if hasattr(value, "tolist"):
        value = value.tolist()  # of NumPy or PyTorch: a number, or lists of them
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return value


def _range(low: float, high: float, sign: str = "") -> str:
    if math.isnan(low):
        return "needs 2 seeds"
    return f"{100 * low:{sign}.1f} to {100 * high:{sign}.1f}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
