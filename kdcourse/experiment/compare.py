"""Train arms on seeds, measure them, and keep the rows."""

import collections
import contextlib
import dataclasses
import functools
import itertools
import operator
import time
import warnings
from collections.abc import Callable, Iterable, Iterator

from filelock import Timeout

from kdcourse import _files, measure
from kdcourse._key import Key, key_of
from kdcourse._machine import RESULTS, default_device, where
from kdcourse.data import Dataset, Split, check_dataset
from kdcourse.data.dataset import shortened
from kdcourse.experiment.comparison import SCORES, Comparison, minutes
from kdcourse.experiment.records import KEYS, Store, rounded
from kdcourse.measure.passes import check_same_order, marked_split
from kdcourse.measure.report import task_of
from kdcourse.schemes import Scheme
from kdcourse.taps import predict, predict_split
from kdcourse.tasks import ONE_LABEL
from kdcourse.teachers import Teacher, as_teacher
from kdcourse.training import History, Recipe, as_recipe, fit


def compare(arms: dict[str, Callable[[int], Scheme]], data: Dataset,
            recipe: Recipe | dict[str, Recipe] | None = None, seeds: Iterable[int] = range(5), *,
            split: str = "val", baseline: str | None = None, teacher=None,
            also: dict[str, Callable[[Scheme, Split], float | list]] | None = None,
            results: str | None = None, rerun: bool = False) -> Comparison:
    """Train every arm on every seed, with the same data order for all arms of one seed.

    arms: by name, a function of the seed that returns a fresh scheme.
    recipe: one for all arms, or one by name of the arm.
    split: what the trained student is measured on: "val" for choices, "test" once, at the end.
    baseline: the arm to compare with; the first one by default.
    teacher: with whom agreement is measured; by default each scheme's own teacher, if any.
    also: more quantities of the trained student, by name: a function of the scheme and the split
        that returns a float, or a list of floats. A recorded row that lacks one, or has that of
        another function, is computed again.
    results: a chapter's number, such as "01". Rows recorded for an arm of the same content (source
        of classes and functions outside this package, arguments, attributes, first weights,
        teacher), recipe, data, seed and `kdcourse.RESULTS` are loaded; the others are computed and
        kept one by one in `KDCOURSE_HOME/results`. The numbers of both are printed. Several
        processes may make the same comparison at a time, on several cores or on one GPU that a
        small network does not fill: each computes runs that no other one is at. The seconds in
        their rows are then those of a shared machine.
    rerun: compute all rows anew, and print first how long that took last time.

    Ctrl-C stops, and returns the rows of the seeds that are complete for all arms.

    Students are compared by the score of the task: accuracy, R², or without labels the agreement.
    A student that has no output for the classes (an embedding model, trained on inner tensors) has
    none of these: give `also`, the first of which the table compares.

    Raises `ValueError` for such a student without `also`, before any training, when there are no
    arms or no seeds, when an arm does not return a fresh scheme each time, when a quantity has the
    name of one that every row has, or when a loader gives the teacher other samples, or another
    order, than the student.
    """
    if not isinstance(arms, dict):
        raise TypeError("Expected arms by name, each a function of the seed that returns a scheme, "
                        f"got {type(arms).__name__}. Write "
                        '{"KD": lambda seed: kd.Distiller(net(seed), teacher)}.')
    check_dataset(data)
    seeds, also = _checked_seeds(seeds, split), also or {}
    if not arms:
        raise ValueError("Expected at least one arm, got none.")
    if isinstance(recipe, dict) and set(recipe) != set(arms):
        raise ValueError(f"Expected a recipe for each of the arms {list(arms)}, got recipes for "
                         f"{list(recipe)}.")
    recipes = {name: as_recipe(recipe[name] if isinstance(recipe, dict) else recipe)
               for name in arms}
    baseline = _checked_baseline(baseline, list(arms))
    part = getattr(data, split)
    part.head(1)  # raises for a test split that was not given
    teacher = as_teacher(teacher) if teacher is not None else None
    teacher_logits = functools.cache(lambda: marked_split(teacher.predict, shortened(part)))
    digests = {name: key_of(function).exact for name, function in also.items()} if results else {}
    store = Store(results, digests)
    shared = store.key_of([data, teacher, split, RESULTS])
    texts = {"data": repr(data), "teacher": repr(teacher), "split": split, "results": RESULTS}
    runs = []
    for seed, (name, arm) in itertools.product(seeds, arms.items()):
        schemes = [_fresh(name, arm, seed) for _ in range(2 if seed == seeds[0] else 1)]
        keys = [_run_key([scheme, recipes[name], seed], shared, store) for scheme in schemes]
        _check_repeatable(name, schemes, keys)
        if seed == seeds[0] and not also:
            _check_score(name, schemes[-1], data)
        run_texts = {"scheme": repr(schemes[0]), "recipe": repr(recipes[name]), "seed": seed}
        runs.append(_Run(name, keys[0], texts | run_texts, store))

    def compute(run: _Run, label: str) -> dict:
        scheme = _fresh(run.name, arms[run.name], run.seed)
        history = fit(scheme, data, recipes[run.name], run.seed, label=label)
        if history.interrupted:
            raise KeyboardInterrupt
        reference = teacher_logits() if teacher is not None else None
        found = run.texts | _measured(scheme, data, split, reference, history)
        if taken := also.keys() & {"arm", "also", *KEYS, *found}:
            raise ValueError(f"Expected names for `also` that a row does not have yet, got "
                             f"{sorted(taken)}. Choose another name.")
        return found | rounded({name: function(scheme, part) for name, function in also.items()})

    done = []
    with contextlib.suppress(KeyboardInterrupt):
        for run in _finish(runs, compute, store, rerun, "compare makes two steps for each arm"):
            done.append(run)
    done.sort(key=runs.index)
    if results:
        _print_counts(done, "runs")
    complete = collections.Counter(run.seed for run in done)
    rows = [{"arm": run.name, **run.row} for run in done if complete[run.seed] == len(arms)]
    if not rows:
        raise KeyboardInterrupt("Stopped before the first seed was complete for all arms.")
    shared_by_all = [name for name in SCORES if all(row.get(name) is not None for row in rows)]
    return Comparison(rows, baseline, next(iter([*shared_by_all, *also]), None))


def record(function: Callable[[int], dict[str, dict]], seeds: Iterable[int] = range(5), *,
           name: str, of: Iterable = (), split: str = "val", baseline: str | None = None,
           results: str | None = None, rerun: bool = False) -> Comparison:
    """Measure over seeds what is not one scheme per arm, such as an ensemble, and keep the rows.

    function: of the seed; it computes all arms and returns the quantities (float, list or None) of
        each: `{"generation 1": {"accuracy": 0.81}, "generation 2": {"accuracy": 0.83}}`.
        `kd.measure.evaluate` makes such a dict from logits.
    name: a few words on what is measured.
    of: what it depends on besides, such as data and recipe.
    split: on which split the function measures; it is only noted in the row.
    baseline, results, rerun: as in `compare`. A call of `function` is recorded as a whole, and
        found by the function's source and by all that it reads.

    Raises `ValueError` when the function returns anything else, or other arms for another seed.

    >>> import kdcourse as kd
    >>> made = kd.experiment.record(lambda seed: {"coin": {"accuracy": seed % 2}}, name="a coin")
    >>> made.values("coin")  # of the seeds 0 to 4
    [0, 1, 0, 1, 0]
    """
    seeds, of, store = _checked_seeds(seeds, split), list(of), Store(results)
    texts = {"scheme": name, "recipe": "", "data": "; ".join(map(repr, of)), "teacher": "",
             "split": split, "results": RESULTS}
    shared = store.key_of([function, name, of, split, RESULTS])
    keys = [shared and dataclasses.replace(shared, exact=_files.digest([shared.exact, seed])[:20])
            for seed in seeds]

    def compute(run: _Run, label: str) -> dict:
        start = time.perf_counter()
        arms = function(run.seed)
        if not isinstance(arms, dict) or not arms or not all(
                isinstance(quantities, dict) for quantities in arms.values()):
            raise ValueError("Expected the function to return a dict of quantities for each arm, "
                             f'such as {{"arm": {{"accuracy": 0.9}}}}, got {arms!r}.')
        return run.texts | {"arms": rounded(arms), "seconds": time.perf_counter() - start,
                            **where(default_device().type)}

    runs = [_Run(name, key, texts | {"seed": seed}, store) for seed, key in zip(seeds, keys)]
    done, rows = [], []
    for run in _finish(runs, compute, store, rerun, "record measures one or two seeds"):
        done.append(run)
        arms, first = list(run.row["arms"]), list(done[0].row["arms"])
        if arms != first:
            raise ValueError(f"Expected the arms {first} for every seed, got {arms} for seed "
                             f"{run.seed}.")
        common = {field: value for field, value in run.row.items() if field != "arms"}
        common["seconds"] /= len(arms)  # the arms' seconds add up to those of the call
        rows += [common | {"arm": arm} | found for arm, found in run.row["arms"].items()]
    if results:
        _print_counts(done, "seeds")
    rows.sort(key=lambda row: seeds.index(row["seed"]))
    return Comparison(rows, _checked_baseline(baseline, first))


class _Run:
    """One row to load or to compute. row: the recorded one, if any."""

    def __init__(self, name: str, key: Key | None, texts: dict, store: Store):
        self.name, self.key, self.texts, self.seed = name, key, texts, texts["seed"]
        self.row, self.loaded = store.find(key, texts), False


def _finish(runs: list[_Run], compute, store: Store, rerun: bool, note: str) -> Iterator[_Run]:
    """Yield the runs with their rows: recorded ones, or else what `compute` returns, kept at once.

    Smoke mode computes the first seed in any case, once for all recipes of a scheme, and stops
    after two where a row is missing.
    """
    seeds = list(dict.fromkeys(run.seed for run in runs))
    recorded = [run.row for run in runs if run.row]
    if _files.smoke():
        print(f"KDCOURSE_SMOKE=1: {note}; nothing is recorded.")
        if len(recorded) < len(runs):  # two seeds are enough for every interval to exist
            runs = [run for run in runs if run.seed in seeds[:2]]
    elif rerun and recorded:
        print(f"Computing {len(runs)} runs; {len(recorded)} of them took "
              f"{minutes(sum(row['seconds'] for row in recorded))} on {recorded[0]['hardware']}.")
    busy = []  # runs that another process is at
    for number, run in enumerate(runs, 1):
        run.label, run.loaded = f"{number}/{len(runs)} {run.name}", bool(run.row) and not rerun
        done = run.loaded and not (_files.smoke() and run.seed == seeds[0] and _first_try(run))
        if done or _computed(run, compute, store, rerun, wait=False):
            yield run
        else:
            busy.append(run)
    for run in busy:  # its row, or, where that process was stopped, the run itself
        _computed(run, compute, store, rerun, wait=True)
        yield run


_tried = set()  # in smoke mode: what this process has computed, whatever the recipe


def _first_try(run: _Run) -> bool:
    """Return whether no run of this scheme on these data, by their `repr`, was computed before."""
    what = repr(sorted((name, run.texts[name]) for name in run.texts.keys() - {"recipe", "seed"}))
    if what in _tried:
        return False
    _tried.add(what)
    return True


def _computed(run: _Run, compute, store: Store, rerun: bool, wait: bool) -> bool:
    """Compute a run and keep its row; load it where another process has computed it by now. False
    where one is at it and this one shall not wait."""
    if _files.smoke() or run.loaded:
        found = compute(run, run.label)
        run.row = run.row if run.loaded else store.keep(run.key, found)
        return True
    try:
        with store.claim(run.key, wait):
            row = None if rerun else store.find_again(run.key, run.texts)
            run.row, run.loaded = row, row is not None
            if not run.loaded:
                run.row = store.keep(run.key, compute(run, run.label))
    except Timeout:
        return False
    return True


def _print_counts(done: list[_Run], unit: str) -> None:
    loaded = sum(run.loaded for run in done)
    print(f"{len(done)} {unit}: {loaded} loaded, {len(done) - loaded} computed.")


def _checked_seeds(seeds: Iterable[int], split: str) -> list[int]:
    if isinstance(seeds, int):
        raise TypeError(f"Expected several seeds, such as range({seeds}), got the number {seeds}.")
    seeds = [operator.index(seed) for seed in seeds]
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"Expected at least one seed, each once, got {seeds}.")
    if split not in ("val", "test"):
        raise ValueError(f'Expected split "val" or "test", got {split!r}.')
    return seeds


def _checked_baseline(baseline, arms: list):
    if baseline is not None and baseline not in arms:
        raise ValueError(f"Expected the baseline among {arms}, got {baseline!r}.")
    return arms[0] if baseline is None else baseline


def _fresh(name: str, arm, seed: int) -> Scheme:
    function = callable(arm) and not isinstance(arm, Scheme)
    scheme = arm(seed) if function else None
    if not isinstance(scheme, Scheme):
        got = f"one that returns {type(scheme).__name__}" if function else type(arm).__name__
        raise ValueError(f"Expected arm {name!r} to be a function of the seed that returns a "
                         f"scheme, got {got}. Write lambda seed: Supervised(net(seed)).")
    return scheme


def _check_repeatable(name: str, schemes: list[Scheme], keys: list[Key]) -> None:
    if len(schemes) == 2 and schemes[0].student is schemes[1].student:
        raise ValueError(f"Expected a fresh student from every call of arm {name!r}, got the same "
                         "object twice: the second run would go on where the first ended. "
                         "Make the student inside the function.")
    if keys[0] != keys[-1]:
        warnings.warn(
            f"The schemes of arm {name!r} differ from call to call with the same seed, so recorded "
            "rows cannot be found again. Let the first weights follow from the seed: "
            "torch.manual_seed(seed) in the arm, before the network is made.", stacklevel=3)


def _check_score(name: str, scheme: Scheme, data: Dataset) -> None:
    """Raise `ValueError` for a student without a score, before hours are spent on it."""
    if scheme.reads_logits:
        return  # `fit` checks that there are some
    with warnings.catch_warnings(action="ignore"):
        scheme.check(data)
    if not scheme.scored:
        raise ValueError(
            f"Expected something to compare arm {name!r} by, got a student that is trained on "
            f"inner tensors and has no output for {data.task!r}. Give a quantity of it: also="
            '{"recall": lambda scheme, split: kd.measure.recall_at_1(…)}.')


def _run_key(own: list, shared: Key | None, store: Store) -> Key | None:
    """The key of what belongs to one run, joined with the key of what all runs share."""
    if shared is None:
        return None
    key = store.key_of([*own, shared.exact])
    return Key(key.exact, key.bits + shared.bits, key.sketch | {
        f"shared.{name}": numbers for name, numbers in shared.sketch.items()})


def _measured(scheme: Scheme, data: Dataset, split: str, answers, history: History) -> dict:
    """What every row has. answers: a teacher's pass over the split, to agree with; None: that of
    the scheme's own teacher."""
    student, own = functools.partial(predict, scheme.judged), getattr(scheme, "teacher", None)
    part, reference = shortened(getattr(data, split)), None
    logits, labels, marks = marked_split(student, part) if scheme.scored else (None, None, None)
    if logits is not None:
        if answers is None and isinstance(own, Teacher):
            with contextlib.suppress(TypeError):  # a teacher without logits
                answers = marked_split(own.predict, part)
        if answers is not None and answers[0] is not None:
            reference = answers[0]
            check_same_order([answers[2], marks], split)
    if reference is not None and reference.shape != logits.shape:
        reference = None  # of other classes
    found = {"agreement": None, "teacher_kl": None}
    if logits is not None:
        task = task_of(scheme, data)
        found |= measure.evaluate(logits, labels, reference,
                                  ONE_LABEL if task.has_classes else task)  # they are rows already
    if data.task.has_classes and labels is not None:
        seen = shortened(data.train)
        found |= {"train_accuracy": measure.accuracy(*predict_split(student, seen))
                  if isinstance(seen, Split) and seen.y is not None
                  else None,  # of a stream it is another pass
                  "per_class": measure.per_class(logits, labels, len(data.classes)),
                  "reliability": [[row["count"], row["confidence"], row["accuracy"]]
                                  for row in measure.reliability(logits, labels)]}
    curve = [[epoch, history["loss"][epoch - 1], score]
             for epoch, score in history.validated.items()]
    return rounded(found | {"curve": curve, "seconds": history.seconds, **where(history.device)})
