"""Common wrong answers to the exercises of chapter 10, and what the reader should be told."""

WRONG = [
    ("matched_temperature", """
def matched_temperature(v, T):
    return T * v.std(0)
""", "Expected one per image"),
    ("matched_temperature", """
def matched_temperature(v, T):
    return T / v.std(1)
""", "3 times as much for 3 v, got 0.33"),
    ("matched_temperature", """
def matched_temperature(v, T):
    return v.std(1) / T
""", "twice the value of T = 1, got 0.50"),
    ("matched_temperature", """
def matched_temperature(v, T):
    return T * v.std(1, unbiased=False)
""", "torch.std divides by K − 1"),
    ("matched_temperature", """
def matched_temperature(v, T):
    return T * v.std().expand(len(v))
""", "σ of each image"),
    ("my_dkd", """
def my_dkd(student, teacher, labels, beta, T):
    return L.dkd(student, teacher, labels, 1, beta, T) / T**2
""", "Is T² there"),
    ("my_dkd", """
def my_dkd(student, teacher, labels, beta, T):
    return len(student) * L.dkd(student, teacher, labels, 1, beta, T)
""", "the mean, not the sum"),
    ("my_dkd", """
def my_dkd(student, teacher, labels, beta, T):
    return L.dkd(teacher, student, labels, 1, beta, T)
""", "teacher first"),
    ("my_dkd", """
def my_dkd(student, teacher, labels, beta, T):
    return (1 + beta) * L.kd(student, teacher, T=T)
""", "leaves label and no label"),
    ("my_dkd", """
def my_dkd(student, teacher, labels, beta, T):
    own = F.one_hot(labels, student.shape[1]).bool()
    both = []
    for logits in (student / T, teacher / T):
        p = logits.softmax(1)[own]
        rest = logits[~own].view(len(logits), -1).log_softmax(1)
        both.append((torch.stack([p, 1 - p], 1).log(), rest))
    (b_q, r_q), (b_p, r_p) = both
    parts = ((b_p.exp() * (b_p - b_q)).sum(1), (r_p.exp() * (r_p - r_q)).sum(1))
    return T**2 * (parts[0] + beta * parts[1]).mean()
""", "may be log 0"),
    ("my_dkd", """
def my_dkd(student, teacher, labels, beta, T):
    target = L.dkd(student, teacher, labels, 1, 0, T)
    return target + beta * L.kd(student, teacher, T=T)
""", "Take the label out"),
    ("sizes_by_rate", """
def sizes_by_rate():
    term, quick = KD(T=4), kd.Recipe(epochs=9)
    return kd.compare({"KD": lambda seed: kd.Distiller(net(seed), outputs, term)}, data, quick,
                      range(2))
""", "Expected the arms"),
    ("sizes_by_rate", """
def sizes_by_rate():
    arms = {f"{name}, {lr:g}": lambda seed: kd.Distiller(net(seed), outputs, KD(T=4))
            for name in ("KD", "standardised") for lr in (0.02, 0.08, 0.32)}
    recipes = {name: kd.Recipe(epochs=8 if "0.08" in name else 9) for name in arms}
    return kd.compare(arms, data, recipes, range(2), also={"σ": lambda scheme, split: 1.0})
""", "the same budget for 'KD, 0.08'"),
]
