"""Common wrong answers to the exercises of chapter 2, and what the reader should be told."""

_HANDWRITING = """
def handwriting(seed):
    whole, shares = kd.data.digits(), {"labels only": [], "teacher": []}
    for digit in range(10):
        rows = whole.train.y != digit
        part = kd.data.from_arrays(whole.train.x[rows], whole.train.y[rows], whole.classes,
                                   (whole.val.x, whole.val.y), (whole.test.x, whole.test.y))
        for name in shares:
            student = kd.models.mlp(hidden=(128, 128), classes=10, size=8, seed=seed)
            scheme = kd.Supervised(student) if name == "labels only" else kd.Distiller(
                student, scan_teacher(), KD(T=8))
            kd.fit(scheme, part, kd.Recipe(epochs=40, batch=64, lr=0.02, validate_every=40), seed)
            z = kd.models.predict(student, part.test.x)
            z[:, digit] += BIAS
            right = (z.argmax(1) == digit)[part.test.y == digit]
            shares[name].append(right.float().mean().item())
    return {name: {"with b": float(np.mean(found))} for name, found in shares.items()}
"""

WRONG = [
    ("push", """
def push(student, teacher, T):
    return T * ((student / T).softmax(1) - (teacher / T).softmax(1))
""", "Expected minus the gradient"),
    ("push", """
def push(student, teacher, T):
    return ((teacher / T).softmax(1) - (student / T).softmax(1)) / T
""", "Which power of T is left"),
    ("bias_without_labels", """
def bias_without_labels(logits, k, share):
    for bias in torch.arange(-20, 20, 0.01):
        logits[:, k] += 0.01
        if logits.softmax(1)[:, k].mean() >= share:
            return bias
""", "work on a copy"),
    ("bias_without_labels", """
def bias_without_labels(logits, k, share):
    others = logits.clone()
    others[:, k] = -torch.inf
    margin = logits[:, k] - others.max(1).values
    return -margin.sort(descending=True).values[round(share * len(logits))]
""", "share of first places"),
    ("bias_without_labels", """
def bias_without_labels(logits, k, share):
    return torch.tensor(share / (1 - share)).log() - logits[:, k].mean()
""", "find it by bisection"),
    ("bias_without_labels", """
def bias_without_labels(logits, k, share):
    return torch.log(share / logits.softmax(1)[:, k].mean())
""", "is one step of the way"),
    ("bias_without_labels", """
def bias_without_labels(logits, k, share):
    logits.softmax(1)[:, k].mean()
""", "is something returned"),
    ("handwriting", """
def handwriting(seed):
    return {"teacher": {"with b": 0.9}}
""", "Expected the arms"),
    ("handwriting", """
def handwriting(seed):
    shares = {}
    for name in ("labels only", "teacher"):
        student = kd.models.mlp(hidden=(128, 128), classes=10, size=8, seed=seed)
        kd.fit(kd.Supervised(student), kd.data.digits(), kd.Recipe(epochs=1, batch=64), seed)
        shares[name] = {"with b": 0.9}
    return shares
""", "Expected 20 trainings, each without the images of one digit, got 2, 0 of them"),
    ("handwriting", _HANDWRITING.replace("BIAS", "0.0"), "is a b found for each digit"),
    ("handwriting", _HANDWRITING.replace("BIAS", "bias(z, digit, 1 / 10)").replace(
        "np.mean(found)", "max(found)"), "and the mean over ten digits"),
]
