"""Common wrong answers to the exercises of chapter 10, and what the reader should be told."""

WRONG = [
    ("matched_temperature", """
def matched_temperature(v, T):
    return T * v.std(0)
""", "Expected one per image"),
    ("matched_temperature", """
def matched_temperature(v, T):
    return T / v.std(1)
""", "dividing by their product"),
    ("my_dkd", """
def my_dkd(student, teacher, labels, beta, T):
    return L.dkd(student, teacher, labels, 1, beta, T) / T**2
""", "Is T² there"),
    ("my_dkd", """
def my_dkd(student, teacher, labels, beta, T):
    return (1 + beta) * L.kd(student, teacher, T=T)
""", "two outcomes"),
    ("my_dkd", """
def my_dkd(student, teacher, labels, beta, T):
    target = L.dkd(student, teacher, labels, 1, 0, T)
    return target + beta * L.kd(student, teacher, T=T)
""", "Take the label out"),
    ("standardised_dkd", """
def standardised_dkd():
    beta, lr, wd = best["DKD"]
    longer = kd.Recipe(epochs=100, lr=lr, weight_decay=wd, validate_every=5)
    arms = {"DKD": taught("DKD", beta), "z-scores": taught("DKD", beta)}
    return kd.compare(arms, augmented, {"DKD": recipe(lr, wd), "z-scores": longer}, range(3),
                      teacher=teacher)
""", "the same budget for 'z-scores'"),
]
