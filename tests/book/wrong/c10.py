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
    ("standardised_dkd", """
def standardised_dkd():
    beta, lr, wd = best["DKD"]
    longer = kd.Recipe(epochs=100, lr=lr, weight_decay=wd, validate_every=5)
    arms = {"DKD": taught("DKD", beta), "z-scores": taught("DKD", beta)}
    return kd.compare(arms, augmented, {"DKD": recipe(lr, wd), "z-scores": longer}, range(3),
                      teacher=teacher)
""", "the same budget for 'z-scores'"),
]
