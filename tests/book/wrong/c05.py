"""Common wrong answers to the exercises of chapter 5: (exercise, its code, what it gets told)."""

WRONG = [
    ("my_sp", """
def my_sp(student, teacher):
    def rows(x):
        A = x.flatten(1)
        return F.normalize(A @ A.T, 1)
    return (rows(student) - rows(teacher.detach())).square().mean()
""", "not by a constant factor"),
    ("my_sp", """
def my_sp(student, teacher):
    def rows(x):
        A = x.flatten(1)
        return F.normalize(A @ A.T, dim=1)
    return (rows(student) - rows(teacher)).square().mean()
""", "Expected no gradient for the teacher, got one"),
    ("my_sp", """
def my_sp(student, teacher):
    def rows(x):
        A = x.flatten(1)
        return F.normalize(A @ A.T, dim=1)
    return (rows(student) - rows(teacher.detach())).square().sum()
""", "it is 36 times that, whatever the input"),
    ("my_sp", """
def my_sp(student, teacher):
    def rows(x):
        A = F.normalize(x.flatten(1), dim=1)
        return A @ A.T
    return (rows(student) - rows(teacher.detach())).square().mean()
""", "not by a constant factor"),
    ("my_recall", """
def my_recall(features, labels):
    x = F.normalize(features, dim=1)
    near = (x @ x.T).argmax(1)
    return float((labels[near] == labels).float().mean())
""", "every sample found itself"),
    ("my_recall", """
def my_recall(features, labels):
    near = torch.cdist(features, features).fill_diagonal_(torch.inf).argmin(1)
    return float((labels[near] == labels).float().mean())
""", "products of vectors of length 1"),
    ("my_recall", """
def my_recall(features, labels):
    near = (features @ features.T).fill_diagonal_(-torch.inf).argmax(1)
    return float((labels[near] == labels).float().mean())
""", "Take the largest cosine of each row"),
    ("projected", """
def projected(features, width, seed):
    rng = torch.Generator().manual_seed(seed)
    return features @ torch.randn(features.shape[1], width, generator=rng)
""", "Divide the matrix by the root of the width"),
    ("projected", """
def projected(features, width, seed):
    rng = torch.Generator().manual_seed(0)
    matrix = torch.randn(features.shape[1], width, generator=rng)
    return features @ matrix / width**0.5
""", "another matrix for another seed"),
    ("projected", """
def projected(features, width, seed):
    rng = torch.Generator().manual_seed(seed)
    matrix = torch.randn(width, features.shape[1], generator=rng)
    return matrix @ features.T / width**0.5
""", r"Expected shape \[20, 4000\], got"),
]
