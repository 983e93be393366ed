"""How assignment 4 is graded: train the submission's network here and now, on images that nobody
has seen, and count what it learned.

What was learned has to pass through 40,000 bytes: one process trains and hands its numbers over,
another one, which has only the code and these numbers, answers on the test images.
"""

import functools
import inspect
import os
import time

import torch

import kdcourse as kd
from grader import Assignment, Lost, Worker
from kdcourse.measure import interval

RUNS = 5  # trainings, each with images of its own
SECONDS = 60  # for one training
NUMBERS = 10_000  # of 4 bytes each: weights, biases, running statistics
LETTERS = 10_000  # of code: no weights hidden in the text
IMAGES = {"train": 4000, "val": 1000, "test": 4000}
CORES = 2
EPOCHS = 40  # of the two networks to beat
MARGIN = 0.01  # so much better than plain KD


def run_training(given, x):
    """Runs in the first worker."""
    import warnings

    import kdcourse as kd

    warnings.simplefilter("ignore")
    torch.manual_seed(x["seed"])
    val = (x["val_x"], x["val_y"])
    data = kd.data.from_arrays(x["x"], x["y"], classes=x["classes"], val=val, test=val)
    network = given.student(x["seed"])
    given.train(network, data, x["answers"], x["seed"])
    return dict(network.state_dict())


def run_test(given, x):
    """Runs in the second worker."""
    network = given.student(x["seed"])
    network.load_state_dict(x["state"])
    network.eval()
    with torch.no_grad():
        return torch.cat([network(part) for part in x["x"].split(500)])


@functools.cache
def task(seed: int):
    """Fresh images, and the teacher's answers on them."""
    data = kd.data.glyphs(**IMAGES, seed=seed)
    return data, kd.models.predict(kd.teacher("glyphs"), data.train.x)


@functools.cache
def baselines(seed: int) -> dict[str, float]:
    """What the notebook's first network reaches on the same images, taught in both ways."""
    data, answers = task(seed)
    recipe = kd.Recipe(epochs=EPOCHS, lr=0.08, validate_every=EPOCHS)
    found = {}
    for name, objective in (("labels only", None), ("plain KD", kd.losses.hinton(T=4, alpha=0.9))):
        student = kd.models.convnet(width=8, seed=seed)
        scheme = kd.Supervised(student) if objective is None else kd.Distiller(
            student, kd.Cached.of(answers, data, "teacher"), objective)
        kd.fit(scheme, data, recipe, seed=seed)
        found[name] = accuracy(kd.models.predict(student, data.test.x), data.test.y)
    return found


def accuracy(logits, labels) -> float:
    return float((logits.argmax(1) == labels).double().mean())


def one_run(code: str, seed: int) -> dict:
    """Train once and test once. Raises `Lost` with a sentence."""
    data, answers = task(seed)
    inputs = {"x": data.train.x, "y": data.train.y, "val_x": data.val.x, "val_y": data.val.y,
              "answers": answers, "classes": list(data.classes), "seed": seed}
    limits = {"package": True, "memory": 4 * 2**30, "threads": min(CORES, os.cpu_count() or 1)}
    with Worker(**limits) as worker:
        worker.start()
        begun = time.perf_counter()
        state = worker.ask(code, LAW, inputs, "run_training", SECONDS + 5)  # 5 for handing over
        seconds = time.perf_counter() - begun
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise Lost("gave no network with a state_dict of tensors")
    size = sum(value.numel() * value.element_size() for value in state.values())
    if size > 4 * NUMBERS:
        raise Lost(f"has a network of {size:,} bytes; {4 * NUMBERS:,} are allowed, which is "
                   f"{NUMBERS:,} numbers, running statistics included")
    with Worker(**limits) as worker:
        asked = {"state": state, "x": data.test.x, "seed": seed}
        logits = worker.ask(code, LAW, asked, "run_test", SECONDS)
    if not isinstance(logits, torch.Tensor) or list(logits.shape) != [len(data.test), 36]:
        raise Lost("does not give a row of 36 logits for each test image")
    return {"accuracy": accuracy(logits, data.test.y), "seconds": seconds, "bytes": size}


def measure(code: str, seed: int, result) -> None:
    """Fill in the points, the sentences and the score of one submission."""
    if len(code) > LETTERS:
        result.sentences.append(f"The code of student and train has {len(code):,} letters; "
                                f"{LETTERS:,} are allowed.")
        return
    runs, ours = [], []
    for number in range(RUNS):
        runs.append(one_run(code, seed + number))
        ours.append(baselines(seed + number))
    result.points["runs"] = result.of["runs"]
    scores = [one["accuracy"] for one in runs]
    mean = sum(scores) / RUNS
    for question, ahead in (("labels only", 0), ("plain KD", MARGIN)):
        other = sum(one[question] for one in ours) / RUNS
        if mean > other + ahead:
            result.points[question] = result.of[question]
        else:
            result.sentences.append(
                f"{question}: {mean:.1%} of the test images are right. The notebook's first "
                f"network has {other:.1%}{f', and {ahead:.0%} more is asked' if ahead else ''}.")
    result.details = {"score": round(100 * mean, 2), "numbers": runs[0]["bytes"] // 4,
                      "seconds": round(max(one["seconds"] for one in runs), 1)}
    if RUNS > 1:
        _, low, high = interval(scores)
        result.details["interval"] = f"{100 * low:.1f} to {100 * high:.1f}"


LAW = "\n\n".join(map(inspect.getsource, (run_training, run_test)))
ASSIGNMENT = Assignment(
    "4_contest", "The best student under 10,000 numbers", measure=measure,
    measured={"runs": 2.0, "labels only": 4.0, "plain KD": 4.0}, names=("student", "train"))
