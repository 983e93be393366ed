"""Common wrong answers to the exercises of chapter 4, and what the reader should be told."""

WRONG = [
    ("my_attention_transfer", """
def my_attention_transfer(student, teacher):
    def direction(maps):
        return maps.square().sum(1).flatten(1)
    return (direction(student) - direction(teacher.detach())).square().mean()
""", "not by a constant factor"),
    ("my_attention_transfer", """
def my_attention_transfer(student, teacher):
    def direction(maps):
        Q = maps.square().sum(1).flatten(1)
        return Q / Q.norm(dim=1, keepdim=True)
    difference = direction(student) - direction(teacher.detach())
    return difference.norm(dim=1).mean()  # not squared
""", "not by a constant factor"),
    ("my_attention_transfer", """
def my_attention_transfer(student, teacher):
    def direction(maps):
        Q = maps.square().sum(1).flatten(1)
        return Q / Q.norm(dim=1, keepdim=True)
    return (direction(student) - direction(teacher)).square().mean()
""", "no gradient for the teacher"),
    ("my_attention_transfer", """
def my_attention_transfer(student, teacher):
    def direction(maps):
        Q = maps.square().sum(1).flatten(1)
        return Q / Q.norm(dim=1, keepdim=True)
    return (direction(student) - direction(teacher.detach())).square().mean(1)
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
    ("my_shares", """
def my_shares(logits, y):
    return {1: 0.1, 4: 0.2}
""", "Expected the temperatures 1, 2, 4, 8, 16"),
    ("my_shares", """
def my_shares(logits, y):
    found = {}
    for T in (1, 2, 4, 8, 16):
        p = (logits * T).softmax(1)  # not divided
        means = torch.stack([p[y == k].mean(0) for k in range(p.shape[1])])
        found[T] = float((p - means[y]).square().sum() / (p - p.mean(0)).square().sum())
    return found
""", "before the softmax"),
    ("my_shares", """
def my_shares(logits, y):
    found = {}
    for T in (1, 2, 4, 8, 16):
        p = logits.softmax(1) / T  # divided behind the softmax
        means = torch.stack([p[y == k].mean(0) for k in range(p.shape[1])])
        found[T] = float((p - means[y]).square().sum() / (p - p.mean(0)).square().sum())
    return found
""", "before the softmax"),
    ("my_shares", """
def my_shares(logits, y):
    found = {}
    for T in (1, 2, 4, 8, 16):
        p = (logits / T).softmax(1)
        means = torch.stack([p[y == k].mean(0) for k in range(p.shape[1])])
        found[T] = float((p - means[y]).square().sum())  # not divided by all the variance
    return found
""", "by the whole variance"),
]
