"""Common wrong answers to the exercises of chapter 11, and what the reader should be told."""

WRONG = [
    ("label_probability", """
def label_probability(gap, K, T):
    top = np.exp(gap / T)
    return top / (top + K)
""", "every wrong class counts"),
    ("label_probability", """
def label_probability(gap, K, T):
    top = np.exp(gap) / T
    return top / (top + K - 1)
""", "Divide by T first"),
    ("label_probability", """
def label_probability(gap, K, T):
    top = np.exp(gap / T)
    top / (top + K - 1)
""", "got None"),
    ("keep_three", """
def keep_three(rest):
    top = rest.topk(3, dim=1)
    left = 1 - top.values.sum(1, keepdim=True)
    even = (left / 33).expand(rest.shape)
    return even.scatter(1, top.indices, top.values)
""", "Expected 0 for the label"),
    ("keep_three", """
def keep_three(rest):
    top = rest.topk(3, dim=1)
    return torch.zeros_like(rest).scatter(1, top.indices, top.values)
""", "Expected shares that sum to 1"),
    ("keep_three", """
def keep_three(rest):
    top = rest.topk(3, dim=1)
    kept = torch.zeros_like(rest).scatter(1, top.indices, top.values)
    return kept / kept.sum(1, keepdim=True)
""", "the three largest shares as they are"),
    ("keep_three", """
def keep_three(rest):
    return rest
""", "Expected equal shares for the 32 others"),
    ("three_enough", """
def three_enough():
    longer = kd.Recipe(epochs=100, lr=0.32, weight_decay=0.002, validate_every=5)
    arms = {"all": taught(given), "three": taught(given)}
    return kd.compare(arms, augmented, {"all": recipe(*chosen[whole]), "three": longer},
                      range(5), teacher=teacher)
""", "the same budget for 'three'"),
    ("three_enough", """
def three_enough():
    arms = {"whole output": taught(given), "three": taught(given)}
    return kd.compare(arms, augmented, recipe(*chosen[whole]), range(5), teacher=teacher)
""", "Expected the arms all and three"),
    ("three_enough", """
def three_enough():
    return kd.compare({"all": taught(given), "three": taught(given)}, augmented,
                      recipe(*chosen[whole]), range(5), teacher=teacher, results="11")
""", "Expected another target for three"),
]
