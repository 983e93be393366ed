"""Common wrong answers to the exercises of chapter 12, and what the reader should be told."""

WRONG = [
    ("adapted", """
def adapted(x, mean, std, mean_to, std_to):
    return (x - mean_to) / std_to
""", "normalised twice"),
    ("adapted", """
def adapted(x, mean, std, mean_to, std_to):
    return std * x + mean
""", "not normalised for the teacher"),
    ("adapted", """
def adapted(x, mean, std, mean_to, std_to):
    return (std_to * x + mean_to - mean) / std
""", "the way back"),
    ("adapted", """
def adapted(x, mean, std, mean_to, std_to):
    return ((x + mean) * std - mean_to) / std_to
""", "with r = std x"),
    ("mixed_label", """
def mixed_label(y, y2, mask, classes):
    share = mask.mean()
    return (share * F.one_hot(y, classes).float()
            + (1 - share) * F.one_hot(y2, classes).float())
""", "the mean of each image's own mask"),
    ("mixed_label", """
def mixed_label(y, y2, mask, classes):
    share = mask.mean((1, 2, 3))[:, None]
    return (share * F.one_hot(y2, classes).float()
            + (1 - share) * F.one_hot(y, classes).float())
""", "changed places"),
    ("mixed_label", """
def mixed_label(y, y2, mask, classes):
    share, label = mask.mean((1, 2, 3)), torch.zeros(len(y), classes)
    rows = torch.arange(len(y))
    label[rows, y] = share
    label[rows, y2] = 1 - share
    return label
""", "Each row must sum to 1"),
    ("mixed_label", """
def mixed_label(y, y2, mask, classes):
    share = mask.mean((1, 2, 3))
    return share * F.one_hot(y, classes).T + (1 - share) * F.one_hot(y2, classes).T
""", r"Expected labels \[3, 9\]"),
    ("both_first", """
def both_first(v, y, y2):
    return (v.topk(2, dim=1).indices == torch.stack([y, y2], 1)).all(1)
""", "in any order"),
    ("both_first", """
def both_first(v, y, y2):
    two = v.topk(2, dim=1).indices
    return (two == y[:, None]).any(1) | (two == y2[:, None]).any(1)
""", "only one of the labels"),
    ("both_first", """
def both_first(v, y, y2):
    two = v.topk(2, dim=1).indices
    return (two == y[:, None]).any(1) & (two == y2[:, None]).any(1)
""", "is it the largest"),
    ("both_first", """
def both_first(v, y, y2):
    two = v.topk(2, dim=1).indices.sort(1).values
    return (two == torch.stack([y, y2], 1).sort(1).values).all()
""", "Expected booleans"),
    ("mixed_label", """
def mixed_label(y, y2, mask, classes):
    share = mask.mean((1, 2, 3))[:, None]
    rest = (1 - share) / (classes - 1)
    return rest + (share - rest) * F.one_hot(y, classes)
""", "the mean of each image's own mask"),
    ("both_first", """
def both_first(v, y, y2):
    return v.topk(2, dim=1).indices.sum(1) == y + y2
""", "Row 5: 0 and 3"),
    ("both_first", """
def both_first(v, y, y2):
    p, rows = v.softmax(1), torch.arange(len(v))
    return (p[rows, y].minimum(p[rows, y2]) > 0.2)
""", "the order counts"),
]
