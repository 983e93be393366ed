"""Common wrong answers to the exercises of chapter 2, and what the reader should be told."""

WRONG = [
    ("sureness", """
def sureness(eps, K):
    return 1 - eps
""", "its share of the uniform distribution too"),
    ("sureness", """
def sureness(eps, K):
    return 1 - eps + eps / (K - 1)
""", "differ by a constant"),
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
    ("two_pairs", """
def two_pairs():
    T, lr = choice["teacher"]

    def run(seed):
        return {"0 and 1": judged(pupil(seed, [0, 1], spoken, KD(T=T), lr), list(range(2, 10)))}

    return kd.experiment.record(run, range(5), name="one pair")
""", "two pairs at least"),
]
