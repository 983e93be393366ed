"""The hidden laws of assignment 2. `nox -s grade` reads this file.

The script is handed out whole, with five functions that are mistaken and others that are right.

* Every law fails for the script as it was handed out, so that it gets no points.
* The functions that are right carry no points of their own: they are asked together with a
  mistaken one (`evaluate` with `store_answers`; `train_epoch` and `hint_loss` with `batches`; the
  schedule with the optimiser). Who breaks them loses these points.
* No law needs two repairs.

What is right is computed here in float64 and compared to one part in a thousand: float32 is off by
about one in a million after these few operations, and a mistake by more than one in a hundred. The
networks of the laws have no ReLU, whose slope may differ between the two where its input is near 0.

Shapes: B batch, N images, K classes, D features.
"""

import functools
import math

import torch

from grader import Assignment, Law
from grader.parts import whole


def network(weights, dropout=0.0):
    """A small network that answers with logits and features, as those of the script do."""

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            channels, (classes, width) = len(weights["body.1.weight"]), weights["head.weight"].shape
            self.body = torch.nn.Sequential(
                torch.nn.Conv2d(1, channels, 3, bias=False), torch.nn.BatchNorm2d(channels),
                torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Dropout(dropout))
            self.head = torch.nn.Linear(width, classes)

        def forward(self, x):
            features = self.body(x)
            return self.head(features), features

    made = Network().to(weights["head.weight"].dtype)
    made.load_state_dict(weights)
    return made


with_network = functools.partial(Law, uses=(network,))


def weights(rng, classes):
    """Random weights of a network for images of 6 x 6 pixels: 3 channels, 48 features."""
    def normal(*shape):
        return torch.randn(*shape, generator=rng)

    return {"body.0.weight": 0.5 * normal(3, 1, 3, 3), "body.1.weight": 1 + 0.2 * normal(3),
            "body.1.bias": 0.2 * normal(3), "body.1.running_mean": 0.3 * normal(3),
            "body.1.running_var": 0.3 + torch.rand(3, generator=rng),
            "body.1.num_batches_tracked": torch.tensor(7),
            "head.weight": 0.3 * normal(classes, 48), "head.bias": 0.3 * normal(classes)}


def double(arrays):
    return {name: x.double() if x.is_floating_point() else x for name, x in arrays.items()}


# --- distillation_loss ----------------------------------------------------------------------------


def draw_pair(rng):
    B, K = whole(rng, 4, 9), whole(rng, 6, 20)
    student, teacher = 2 * torch.randn(2, B, K, generator=rng)
    T = 2 + 4 * float(torch.rand((), generator=rng))
    return {"student": student, "teacher": teacher, "T": T}


def draw_unsoftened(rng):
    return draw_pair(rng) | {"T": 1.0}


def probabilities(logits, T):
    """By a loop: softmax of logits / T, a list for each sample."""
    rows = []
    for row in logits.double().tolist():
        terms = [math.exp((z - max(row)) / T) for z in row]
        rows.append([term / sum(terms) for term in terms])
    return rows


def divergence(x):
    """T² Σ p log(p / q), averaged over the samples."""
    p, q = (probabilities(x[side], x["T"]) for side in ("teacher", "student"))
    values = [sum(a * math.log(a / b) for a, b in zip(*pair, strict=True))
              for pair in zip(p, q, strict=True)]
    return x["T"] ** 2 * sum(values) / len(values)


def unsoftened(given, x):
    return given.distillation_loss(x["student"], x["teacher"], x["T"])


def softened(given, x):
    student = x["student"].requires_grad_()
    loss = given.distillation_loss(student, x["teacher"], x["T"])
    loss.backward()
    return {"value": loss, "gradient": student.grad}


def expect_softened(x):
    p, q = (torch.tensor(probabilities(x[side], x["T"]), dtype=torch.double)
            for side in ("teacher", "student"))
    return {"value": divergence(x), "gradient": x["T"] * (q - p) / len(p)}


def more_classes(given, x):
    # Three classes that both sides rule out, though not so firmly that a probability becomes 0.
    extra = torch.full((len(x["student"]), 3), -30 * x["T"])
    wider = [torch.cat([x[side], extra], 1) for side in ("student", "teacher")]
    pairs = (x["student"], x["teacher"]), wider, (x["teacher"], x["teacher"])
    return [given.distillation_loss(*pair, x["T"]) for pair in pairs]


def read_more_classes(found, x):
    """The ratio of the wide to the narrow, and whether agreement costs nothing."""
    value, wide, agreed = (float(number) for number in found)
    return {"ratio": wide / value, "zero": abs(agreed) < 1e-4 * value}


# --- store_answers, with evaluate -----------------------------------------------------------------


def draw_teacher(rng):
    N, K = whole(rng, 20, 30), whole(rng, 4, 7)
    return {"weights": weights(rng, K), "x": torch.rand(N, 1, 6, 6, generator=rng),
            "y": torch.randint(K, (N,), generator=rng), "size": whole(rng, 4, 8)}


def answers(given, x):
    teacher = network(x["weights"], dropout=0.5).train()
    logits, features = given.store_answers(teacher, x["x"], x["size"])
    return {"logits": logits, "features": features}


def expect_answers(x):
    with torch.no_grad():
        logits, features = network(double(x["weights"])).eval()(x["x"].double())
    return {"logits": logits, "features": features}


def teacher_stays(given, x):
    teacher = network(x["weights"], dropout=0.5)
    accuracies, modes = [], []
    for awake in (False, True):
        accuracies.append(given.evaluate(teacher.train(awake), x["x"], x["y"]))
        modes.append(teacher.training)
    given.store_answers(teacher, x["x"], x["size"])
    return {"accuracies": accuracies, "modes": modes, "state": teacher.state_dict()}


def expect_teacher_stays(x):
    right = expect_answers(x)["logits"].argmax(1) == x["y"]
    return {"accuracies": 2 * [float(right.double().mean())], "modes": [False, True],
            "state": x["weights"]}


def one_by_one(given, x):
    teacher = network(x["weights"], dropout=0.5).train()
    found = given.store_answers(teacher, x["x"], 1)
    plain = [not part.requires_grad for part in found]
    return {"logits": found[0], "plain": plain}


def expect_one_by_one(x):
    return {"logits": expect_answers(x)["logits"], "plain": [True, True]}


# --- batches, with train_epoch and hint_loss ------------------------------------------------------


def draw_stored(rng, N, size, K=5):
    return {"x": torch.rand(N, 1, 6, 6, generator=rng), "y": torch.randint(K, (N,), generator=rng),
            "logits": 3 * torch.randn(N, K, generator=rng),
            "features": torch.randn(N, 4, generator=rng),
            "size": size, "seed": whole(rng, 0, 10**6)}


def draw_even(rng):
    return draw_stored(rng, 24, 8)


def draw_uneven(rng):
    return draw_stored(rng, 4 * whole(rng, 6, 9) + 1, 4)


def own_answers(given, x):
    rng = torch.Generator().manual_seed(x["seed"])
    loader = given.batches(x["x"], x["y"], (x["logits"], x["features"]), x["size"], rng)
    images, *rest = (torch.cat(parts) for parts in zip(*loader))
    # In the order of the images again, whatever it was: each by its first pixel.
    back = images[:, 0, 0, 0].argsort()
    return [part[back] for part in rest]


def expect_own_answers(x):
    back = x["x"][:, 0, 0, 0].argsort()
    return [x[name][back] for name in ("y", "logits", "features")]


def anew(given, x):
    rng = torch.Generator().manual_seed(x["seed"])
    stored = x["logits"], x["features"]
    orders, said = [], []
    for _ in range(2):
        loader = given.batches(x["x"], x["y"], stored, x["size"], rng)
        images, _, logits, _ = (torch.cat(parts) for parts in zip(*loader))
        orders.append(images[:, 0, 0, 0])
        said.append(logits[orders[-1].argsort()])
    return {"said": said, "orders": orders}


def read_anew(found, x):
    """Whether the same images came in orders that differ from the given one and each other."""
    given = x["x"][:, 0, 0, 0]
    first, second = found["orders"]
    same = [order.sort().values.equal(given.sort().values) for order in (first, second)]
    others = [not a.equal(b) for a, b in ((given, first), (given, second), (first, second))]
    return {"said": found["said"], "same images": same, "another order": others}


def expect_anew(x):
    return {"said": 2 * [expect_own_answers(x)[1]], "same images": 2 * [True],
            "another order": 3 * [True]}


def draw_epochs(rng):
    return draw_stored(rng, 20, 20) | {
        "weights": weights(rng, 5), "projection": 0.2 * torch.randn(4, 48, generator=rng),
        "shift": 0.2 * torch.randn(4, generator=rng)}


def two_epochs(given, x):
    # All images in one batch, so that their order does not matter; no weight on the soft term, so
    # that distillation_loss does not.
    student = network(x["weights"])
    student.projection = torch.nn.Linear(48, 4)
    student.projection.load_state_dict({"weight": x["projection"], "bias": x["shift"]})
    student.eval()  # as after an evaluation
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    rng = torch.Generator().manual_seed(x["seed"])
    for _ in range(2):
        loader = given.batches(x["x"], x["y"], (x["logits"], x["features"]), x["size"], rng)
        given.train_epoch(student, optimizer, schedule, loader, alpha=0.0, beta=1.0)
    return student.state_dict()


def expect_two_epochs(x):
    """Two steps of gradient descent, written out."""
    student = network(double(x["weights"])).train()
    x = double({name: value for name, value in x.items() if isinstance(value, torch.Tensor)})
    projection = [x["projection"].clone().requires_grad_(), x["shift"].clone().requires_grad_()]
    trained = [*student.parameters(), *projection]
    for _ in range(2):
        logits, features = student(x["x"])
        likelihood = logits.log_softmax(1)[torch.arange(len(x["y"])), x["y"]]
        gap = features @ projection[0].T + projection[1] - x["features"]
        loss = -likelihood.sum() / len(gap) + (gap**2).sum() / gap.numel()
        gradients = torch.autograd.grad(loss, trained)
        with torch.no_grad():
            for p, gradient in zip(trained, gradients, strict=True):
                p -= 0.05 * gradient
    return {name: value.detach() for name, value in student.state_dict().items()} | {
        "projection.weight": projection[0].detach(), "projection.bias": projection[1].detach()}


# --- set_up ---------------------------------------------------------------------------------------


def draw_student(rng):
    N, K = 12, whole(rng, 4, 7)
    return {"weights": weights(rng, K), "x": torch.rand(N, 1, 6, 6, generator=rng),
            "y": torch.arange(N) % K, "features": torch.randn(N, 9, generator=rng),
            "lr": 0.01 + 0.05 * float(torch.rand((), generator=rng)),
            "steps": 10 * whole(rng, 2, 5)}


def projection_held(given, x):
    student = network(x["weights"])
    optimizer, _ = given.set_up(student, x["features"].shape[1], x["lr"], x["steps"])
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    return {"shape": list(student.projection.weight.shape),
            "held": [id(p) in held for p in student.projection.parameters()]}


def expect_projection_held(x):
    return {"shape": [x["features"].shape[1], 48], "held": [True, True]}


def all_move(given, x):
    student = network(x["weights"])
    optimizer, schedule = given.set_up(student, x["features"].shape[1], x["lr"], x["steps"])
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    logits, features = student(x["x"])
    gap = student.projection(features) - x["features"]
    (torch.nn.functional.cross_entropy(logits, x["y"]) + gap.square().mean()).backward()
    optimizer.step()
    moved = {name: not p.equal(before[name]) for name, p in student.named_parameters()}
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(x["steps"] - 1):
        schedule.step()
        rates += [max(group["lr"] for group in optimizer.param_groups)]
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    return {"moved": moved, "once": len(held) == len(set(held)) == len(before),
            "highest": max(rates), "rises and falls": rates[0] < max(rates) > 10 * rates[-1]}


def expect_all_move(x):
    trained = [name for name, _ in network(x["weights"]).named_parameters()]
    return {"moved": dict.fromkeys([*trained, "projection.weight", "projection.bias"], True),
            "once": True, "highest": x["lr"], "rises and falls": True}


# --- best_epoch -----------------------------------------------------------------------------------


def draw_curve(rng):
    """Rows (epoch, loss, validation, test): the best in each is somewhere else, and never last."""
    while True:
        rows = torch.rand(10, 4, generator=rng)
        rows[:, 0] = torch.arange(1, 11)
        other = torch.rand(10, generator=rng)
        places = [int(rows[:, 1].argmin()), *rows[:, 1:].argmax(0).tolist(), int(other.argmax()), 9]
        if len(set(places)) == len(places):
            return {"rows": rows.double(), "other": other.double()}


def chosen(given, x):
    return list(given.best_epoch([(int(row[0]), *row[1:]) for row in x["rows"].tolist()]))


def expect_chosen(x):
    return max(x["rows"].tolist(), key=lambda row: row[2])


def without_test(given, x):
    found = []
    for test in (x["rows"][:, 3], x["other"]):
        rows = torch.cat([x["rows"][:, :3], test[:, None]], 1)
        found.append(given.best_epoch([(int(row[0]), *row[1:]) for row in rows.tolist()])[0])
    return found


def read_without_test(found, x):
    """Whether the choice is the same, and one that can be made."""
    return {"same": found[0] == found[1], "an epoch": found[0] in range(1, 11)}


ASSIGNMENT = Assignment("2_five_mistakes", "Five mistakes in a distillation script", (
    Law("distillation_loss", 1, ("distillation_loss",), draw_unsoftened, unsoftened, divergence,
        "At T = 1 the loss is expected to be the divergence of the student from the teacher, "
        "averaged over the samples. It is another number, so the teacher has another weight than "
        "the one that is written down."),
    Law("distillation_loss", 2, ("distillation_loss",), draw_pair, softened, expect_softened,
        "At other temperatures the loss and its gradient for the student are expected to be those "
        "of Hinton's formula. Else a change of T also changes the weight of the teacher."),
    Law("distillation_loss", 1, ("distillation_loss",), draw_pair, more_classes,
        lambda x: {"ratio": 1.0, "zero": True},
        "The loss is expected to be 0 where both sides agree, and classes that both rule out to "
        "change nothing. Else it depends on how many classes there are.",
        read=read_more_classes),
    with_network("store_answers", 2, ("store_answers",), draw_teacher, answers, expect_answers,
        "The stored answers are expected to be those of the teacher as it would be used, in "
        "whatever mode it is handed over. These depend on chance or on the rest of the batch."),
    with_network("store_answers", 1, ("store_answers", "evaluate"), draw_teacher, teacher_stays,
        expect_teacher_stays,
        "After it was evaluated and asked for its answers the teacher is expected to be what it "
        "was, batch statistics included, and its accuracy to be right."),
    with_network("store_answers", 1, ("store_answers",), draw_teacher, one_by_one,
        expect_one_by_one,
        "Asked for one image at a time, the teacher is expected to say the same, in plain numbers "
        "that no gradient flows through."),
    Law("batches", 2, ("batches",), draw_even, own_answers, expect_own_answers,
        "Every image is expected once in an epoch, with its own label and with what the teacher "
        "said of this image. Else the student is taught the wrong thing about it."),
    Law("batches", 1, ("batches",), draw_uneven, anew, expect_anew,
        "Each epoch is expected in a new order, every image still with what the teacher said of "
        "it, also in the last and smaller batch.", read=read_anew),
    with_network("batches", 1, ("batches", "train_epoch"), draw_epochs, two_epochs,
        expect_two_epochs,
        "After two epochs of labels and hints the student is expected to have the weights and the "
        "batch statistics that two right steps lead to. This asks `batches`, `train_epoch` and "
        "`hint_loss` together."),
    with_network("set_up", 2, ("set_up",), draw_student, projection_held, expect_projection_held,
        "The optimiser is expected to hold the student's projection. Else the projection stays as "
        "it was drawn."),
    with_network("set_up", 2, ("set_up",), draw_student, all_move, expect_all_move,
        "The optimiser is expected to hold all that is trained, once, and a step to move all of "
        "it; the schedule to rise to `lr` and to fall again."),
    Law("best_epoch", 2, ("best_epoch",), draw_curve, chosen, expect_chosen,
        "The best epoch is expected to be chosen on images that are neither trained on nor "
        "reported."),
    Law("best_epoch", 2, ("best_epoch",), draw_curve, without_test,
        lambda x: {"same": True, "an epoch": True},
        "Other accuracies on the test images are expected to change nothing in the choice. What is "
        "reported must take no part in it, or it is too good.", read=read_without_test),
))
