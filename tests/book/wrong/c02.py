"""Common wrong answers to the exercises of chapter 2, and what the reader should be told."""

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
""", "with your bias of"),
    ("handwriting", """
def handwriting(seed):
    return {"teacher": {"with b": 0.9}}
""", "Expected the arms"),
]
