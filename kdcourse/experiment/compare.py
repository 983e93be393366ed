"""Train arms on seeds, measure them, and keep the rows."""

import collections
import contextlib
import dataclasses
import functools
import operator
import time
import warnings
from collections.abc import Callable, Iterable

from kdcourse import _files, measure
from kdcourse._key import Key, key_of
from kdcourse._machine import RESULTS, default_device, where
from kdcourse.data import Dataset, Split
from kdcourse.experiment.comparison import Comparison, minutes
from kdcourse.experiment.records import KEYS, Store, keyed, rounded
from kdcourse.schemes import Scheme
from kdcourse.taps import answers, predict
from kdcourse.tasks import ONE_LABEL
from kdcourse.teachers import Teacher, as_teacher
from kdcourse.training import Recipe, fit


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
        recorded row that lacks one, or has that of another function, is computed again.
    results: a chapter's number, such as "01". Rows that were computed earlier for an arm of the
        same content (the source of classes and functions that are not this package's, arguments,
        attributes, first weights, the teacher), recipe, data, seed and `kdcourse.RESULTS` are
        loaded; the others are computed and kept in `KDCOURSE_HOME/results`, one by one, so that
        nothing is lost when it stops. A line says how many were loaded and how many computed.
    rerun: compute all rows anew, and say first how long that took last time.

    Ctrl-C stops, and returns the rows that are complete for all arms of a seed.

    Raises `ValueError` when there are no arms or no seeds, when an arm does not return a fresh
    scheme each time, or when a quantity has the name of one that every row has.
    """
    also = also or {}
    seeds = _checked(seeds, split)
    if not arms:
        raise ValueError("Expected at least one arm, got none.")
    if isinstance(recipe, dict) and set(recipe) != set(arms):
        raise ValueError(f"Expected a recipe for each of the arms {list(arms)}, got recipes for "
                         f"{list(recipe)}.")
    baseline = baseline or next(iter(arms))
    if baseline not in arms:
        raise ValueError(f"Expected the baseline among {list(arms)}, got {baseline!r}.")
    measured = getattr(data, split)
    measured.head(1)  # a test split that was not given says so
    store, told = Store(results), _Answers(teacher, measured)
    texts = {"data": repr(data), "teacher": repr(told.teacher), "split": split,
             "results": RESULTS}
    jobs = [_Job(name, arm, (recipe[name] if isinstance(recipe, dict) else recipe) or Recipe(),
                 seed) for seed in seeds for name, arm in arms.items()]
    rest = key_of([data, told.teacher, split, RESULTS], sketched=store.sketched)
    for job in jobs:
        job.prepare(store, rest, texts, also, again=job.seed == seeds[0])
    if _files.smoke():
        print("KDCOURSE_SMOKE=1: compare makes two steps for each arm; nothing is recorded.")
        if not all(job.row for job in jobs):  # two seeds are enough for every interval to exist
            jobs = [job for job in jobs if job.seed in seeds[:2]]
    elif rerun:
        _print_cost([job.row for job in jobs])

    rows, loaded = [], 0
    with contextlib.suppress(KeyboardInterrupt):  # while a student is measured
        for number, job in enumerate(jobs, 1):
            row = None if rerun else job.row
            loaded += row is not None
            if row is None or (_files.smoke() and job.seed == seeds[0]):
                scheme = _fresh(job.name, job.arm, job.seed)
                history = fit(scheme, data, job.recipe, job.seed,
                              label=f"{number}/{len(jobs)} {job.name}")
                if history.interrupted:
                    break
                found = job.texts | _measured(scheme, data, split, told, history)
                if twice := also.keys() & {"arm", "also", *KEYS, *found}:
                    raise ValueError(f"Expected names for `also` that a row does not have yet, "
                                     f"got {sorted(twice)}. Choose another name.")
                found |= rounded({name: ask(scheme, measured) for name, ask in also.items()})
                if row is None:
                    row = job.kept(found)
                    store.add(row)
            rows.append({"arm": job.name, **row})
    if results:
        print(f"{len(rows)} runs: {loaded} loaded, {len(rows) - loaded} computed.")
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

    name: says in a few words what is measured.
    of: what it depends on besides, such as data and recipe: kept with the rows for people.
    split: on which split the function measures; it is only noted down.
    baseline, results, rerun: as in `compare`. A call of `function` is recorded as a whole, and
        found by the function's source and by all that it reads.

    Raises `ValueError` when the function returns anything else, or other arms for another seed.

    >>> import kdcourse as kd
    >>> made = kd.experiment.record(lambda seed: {"coin": {"accuracy": seed % 2}}, name="a coin")
    >>> made.values("coin")  # of the seeds 0 to 4
    [0, 1, 0, 1, 0]
    """
    seeds, store = _checked(seeds, split), Store(results)
    texts = {"scheme": name, "recipe": "", "data": "; ".join(map(repr, of)), "teacher": "",
             "split": split, "results": RESULTS}
    keys = dict.fromkeys(seeds)
    if results:
        shared = key_of([function, name, list(of), split, RESULTS], sketched=store.sketched)
        keys = {seed: dataclasses.replace(shared, exact=_files.digest([shared.exact, seed])[:20])
                for seed in seeds}
    known = {seed: store.find(key, texts | {"seed": seed}) for seed, key in keys.items()}
    if _files.smoke():
        print("KDCOURSE_SMOKE=1: record measures one or two seeds; nothing is recorded.")
        seeds = seeds if all(known.values()) else seeds[:2]
    elif rerun:
        _print_cost(known.values())
    rows, first, loaded = [], None, 0
    for seed in seeds:
        row = None if rerun else known[seed]
        loaded += row is not None
        if row is None or (_files.smoke() and seed == seeds[0]):
            start = time.perf_counter()
            arms = function(seed)
            if not isinstance(arms, dict) or not arms or not all(
                    isinstance(found, dict) for found in arms.values()):
                raise ValueError("Expected the function to return a dict of quantities for each "
                                 f'arm, such as {{"arm": {{"accuracy": 0.9}}}}, got {arms!r}.')
            row = row or (keyed(keys[seed]) if results else {}) | texts | {
                "seed": seed, "arms": rounded(arms), "seconds": time.perf_counter() - start,
                **where(default_device().type)}
            store.add(row)
        first = first or list(row["arms"])
        if list(row["arms"]) != first:
            raise ValueError(f"Expected the arms {first} for every seed, got {list(row['arms'])} "
                             f"for seed {seed}.")
        shared = {field: value for field, value in row.items() if field != "arms"}
        shared["seconds"] /= len(first)  # of the whole: so that their sum is right
        rows += [shared | {"arm": arm} | found for arm, found in row["arms"].items()]
    if results:
        print(f"{len(seeds)} seeds: {loaded} loaded, {len(seeds) - loaded} computed.")
    if baseline is not None and baseline not in first:
        raise ValueError(f"Expected the baseline among {first}, got {baseline!r}.")
    return Comparison(rows, baseline or first[0])


def _checked(seeds: Iterable[int], split: str) -> list[int]:
    seeds = [operator.index(seed) for seed in seeds]
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"Expected at least one seed, each once, got {seeds}.")
    if split not in ("val", "test"):
        raise ValueError(f'Expected split "val" or "test", got {split!r}.')
    return seeds


def _print_cost(rows) -> None:
    """What the recorded ones of the rows took, before they are computed anew."""
    known = [row for row in rows if row]
    if known:
        print(f"Computing {len(rows)} runs; {len(known)} of them took "
              f"{minutes(sum(row['seconds'] for row in known))} on {known[0]['hardware']}.")


class _Job:
    """One run: an arm, its recipe, a seed, and the row that was recorded for it, if any."""

    def __init__(self, name, arm, recipe: Recipe, seed: int):
        self.name, self.arm, self.recipe, self.seed = name, arm, recipe, seed
        self.key = self.row = self.old = None

    def prepare(self, store: Store, rest, texts: dict, also: dict, again: bool) -> None:
        """Make the key and look for the row. again: make the scheme twice and compare the two."""
        scheme = _fresh(self.name, self.arm, self.seed)
        self.texts = texts | {"scheme": repr(scheme), "recipe": repr(self.recipe),
                              "seed": self.seed}
        other = _fresh(self.name, self.arm, self.seed) if again else None
        if other is not None:
            _check_distinct(self.name, scheme, other)
        if store.path is None:
            return
        self.key = self._key(scheme, rest, store.sketched)
        if other is not None and self._key(other, rest, store.sketched) != self.key:
            warnings.warn(
                f"The schemes of arm {self.name!r} differ from call to call with the same seed, so "
                "recorded rows cannot be found again. Let the first weights follow from the seed: "
                "torch.manual_seed(seed) in the arm, before the network is made.", stacklevel=3)
        self.also = {name: key_of(ask).exact for name, ask in also.items()}
        self.old = store.find(self.key, self.texts)
        known = self.old or {}
        if store.mode == "moved" and self.old:
            self.old["also"] = known.get("also", {}) | {
                name: digest for name, digest in self.also.items() if name in known}
            store.add(self.old)
        if self.old and all(known.get("also", {}).get(name) == digest
                            for name, digest in self.also.items()):
            self.row = self.old

    def kept(self, found: dict) -> dict:
        """The row with what was found, and what an earlier row of this run has besides."""
        if self.key is None:
            return found
        row = keyed(self.key) | (self.old or {}) | found
        return row | {"also": row.get("also", {}) | self.also}

    def _key(self, scheme: Scheme, rest: Key, sketched: bool) -> Key:
        own = key_of([scheme, self.recipe, self.seed, rest.exact], sketched=sketched)
        return Key(own.exact, own.bits + rest.bits, own.sketch | {
            f"shared.{name}": numbers for name, numbers in rest.sketch.items()})


def _fresh(name: str, arm, seed: int) -> Scheme:
    function = callable(arm) and not isinstance(arm, Scheme)
    scheme = arm(seed) if function else None
    if not isinstance(scheme, Scheme):
        got = f"one that returns {type(scheme).__name__}" if function else type(arm).__name__
        raise ValueError(f"Expected arm {name!r} to be a function of the seed that returns a "
                         f"scheme, got {got}. Write lambda seed: Supervised(net(seed)).")
    return scheme


def _check_distinct(name: str, first: Scheme, second: Scheme) -> None:
    if first.student is second.student:
        raise ValueError(f"Expected a fresh student from every call of arm {name!r}, got the same "
                         "object twice: the second run would go on where the first ended. "
                         "Make the student inside the function.")


class _Answers:
    """A teacher's logits on a split, computed at the first use."""

    def __init__(self, teacher, split):
        self.teacher = as_teacher(teacher) if teacher is not None else None
        self.split, self.name = split, repr(self.teacher)
        self._logits = None

    def for_scheme(self, scheme):
        if self.teacher is None:
            own = getattr(scheme, "teacher", None)
            return answers(own.predict, self.split)[0] if isinstance(own, Teacher) else None
        if self._logits is None:
            self._logits = answers(self.teacher.predict, self.split)[0]
        return self._logits


def _measured(scheme, data, split, teacher, history) -> dict:
    part = getattr(data, split)
    ask = functools.partial(predict, scheme.student)
    logits, labels = answers(ask, part)
    told = teacher.for_scheme(scheme)
    if told is not None and told.shape != logits.shape:
        told = None  # for other classes: no term compared the two
    found = {"agreement": None, "teacher_kl": None}
    found |= measure.evaluate(logits, labels, told,
                              ONE_LABEL if data.task.has_classes else data.task)
    if data.task.has_classes and labels is not None:
        found |= {
            # Of a stream it would take another pass over all training samples.
            "train_accuracy": measure.accuracy(*answers(ask, data.train)) if isinstance(
                data.train, Split) else None,
            "per_class": measure.per_class(logits, labels, len(data.classes)),
            "reliability": [[row["count"], row["confidence"], row["accuracy"]]
                            for row in measure.reliability(logits, labels)]}
    return rounded({
        **found,
        "curve": [[epoch, history["loss"][epoch - 1], score]
                  for epoch, score in history.validated.items()],
        "seconds": history.seconds,
        **where(history.device),
    })


