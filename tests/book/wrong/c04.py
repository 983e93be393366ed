"""Common wrong answers to the exercises of chapter 4, and what the reader should be told."""

WRONG = [
    ("my_attention_transfer", """
def my_attention_transfer(student, teacher):
    def direction(maps):
        return maps.square().sum(1).flatten(1)
    return (direction(student) - direction(teacher.detach())).norm(dim=1).mean()
""", "not by a constant factor"),
    ("my_attention_transfer", """
def my_attention_transfer(student, teacher):
    def direction(maps):
        Q = maps.square().sum(1).flatten(1)
        return Q / Q.norm(dim=1, keepdim=True)
    return (direction(student) - direction(teacher)).norm(dim=1).mean()
""", "no gradient for the teacher"),
    ("my_attention_transfer", """
def my_attention_transfer(student, teacher):
    def direction(maps):
        Q = maps.square().sum(1).flatten(1)
        return Q / Q.norm(dim=1, keepdim=True)
    return (direction(student) - direction(teacher.detach())).norm(dim=1)
""", "average over the samples"),
    ("my_comparison", """
def my_comparison(student, teacher):
    error = student - teacher.detach()
    errors = [error, *(F.adaptive_avg_pool2d(error, grid) for grid in (4, 2, 1))]
    weights = [1, 1 / 2, 1 / 4, 1 / 8]
    return sum(w * e.square().mean() for w, e in zip(weights, errors))
""", "1.875 times"),
    ("my_comparison", """
def my_comparison(student, teacher):
    error = (student - teacher.detach()).square()  # squared before it is averaged
    errors = [error, *(F.adaptive_avg_pool2d(error, grid) for grid in (4, 2, 1))]
    weights = [1, 1 / 2, 1 / 4, 1 / 8]
    return sum(w * e.mean() for w, e in zip(weights, errors)) / sum(weights)
""", "not by a constant factor"),
    ("more_time", """
def more_time():
    times = {f"{n} epochs": dataclasses.replace(budget["KD"], epochs=n) for n in (36, 108)}
    arms = dict.fromkeys(times, arm_of("KD", best["KD"][2]))
    return kd.compare(arms, seen, times, range(5), split="test", teacher=teacher)
""", "Expected validation images, got test images"),
    ("more_time", """
def more_time():
    times = dict.fromkeys(("36 epochs", "108 epochs"), budget["KD"])
    arms = dict.fromkeys(times, arm_of("KD", best["KD"][2]))
    return kd.compare(arms, seen, times, range(5), teacher=teacher)
""", "Expected KD with epochs=108"),
    ("more_time", """
def more_time():
    times = {f"{n} epochs": dataclasses.replace(budget["KD"], epochs=n) for n in (36, 108)}
    return kd.compare(dict.fromkeys(times, lambda seed: kd.Supervised(net(seed))), seen, times,
                      range(5), teacher=teacher)
""", "Expected KD with epochs=36"),
]
