"""Common wrong answers to the exercises of chapter 5: (exercise, its code, what it gets told)."""

WRONG = [
    ("my_rkd", """
def my_rkd(student, teacher):
    def relative(x):
        far = torch.cdist(x, x)
        return far / (far.sum() / (len(x) * (len(x) - 1)))

    return F.smooth_l1_loss(relative(student), relative(teacher.detach()))
""", r"0\.01562 times that, whatever the input.*averaged where the sum does"),
    ("my_rkd", """
def my_rkd(student, teacher):
    def relative(x):
        far = torch.cdist(x, x)
        return far / (far.sum() / (len(x) * (len(x) - 1)))

    return F.smooth_l1_loss(relative(student), relative(teacher), reduction="sum")
""", "Expected no gradient for the teacher, got one"),
    ("my_rkd", """
def my_rkd(student, teacher):
    ours, theirs = torch.cdist(student, student), torch.cdist(teacher, teacher).detach()
    return F.smooth_l1_loss(ours, theirs, reduction="sum")
""", "not by a constant factor"),
    ("my_rkd", """
def my_rkd(student, teacher):
    def relative(x):
        far = torch.cdist(x, x)
        return far / far.detach().sum() * (len(x) * (len(x) - 1))

    return F.smooth_l1_loss(relative(student), relative(teacher.detach()), reduction="sum")
""", "Expected the gradient of the formula, got another"),
    ("my_recall", """
def my_recall(features, labels):
    x = F.normalize(features, dim=1)
    near = (x @ x.T).argmax(1)
    return float((labels[near] == labels).float().mean())
""", "every one of them found itself"),
    ("my_recall", """
def my_recall(features, labels):
    near = torch.cdist(features, features).fill_diagonal_(torch.inf).argmin(1)
    return float((labels[near] == labels).float().mean())
""", "these are Euclidean distances"),
    ("my_recall", """
def my_recall(features, labels):
    near = (features @ features.T).fill_diagonal_(-torch.inf).argmax(1)
    return float((labels[near] == labels).float().mean())
""", "the largest cosine in each row"),
    ("projected", """
def projected(features, width, seed):
    rng = torch.Generator().manual_seed(seed)
    return features @ torch.randn(features.shape[1], width, generator=rng)
""", "divide the matrix by its square root"),
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
