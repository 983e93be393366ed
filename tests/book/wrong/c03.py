"""Common wrong answers to the exercises of chapter 3, and what the reader should be told."""

WRONG = [
    ("my_evaluate", """
def my_evaluate(model, x, y):
    model.eval()
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()
""", "wake it again"),
    ("my_evaluate", """
def my_evaluate(model, x, y):
    model.eval()
    with torch.no_grad():
        right = (model(x).argmax(1) == y).float().mean().item()
    model.train()
    return right
""", "the mode of each"),
    ("my_evaluate", """
def my_evaluate(model, x, y):
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()
""", "batch statistics"),
    ("share_that_belong", """
def share_that_belong(stored, teacher, x):
    with torch.no_grad():
        now = teacher(x)
    return (torch.cdist(stored, now).argmin(1) == torch.arange(len(x))).float().mean()
""", "stay as it was|in eval mode"),
    ("share_that_belong", """
def share_that_belong(stored, teacher, x):
    now = kd.models.predict(teacher, x)
    return (stored.argmax(1) == now.argmax(1)).float().mean()
""", "not its largest entry only"),
    ("chance_of_wrong_winner", """
def chance_of_wrong_winner(ours, theirs, n):
    rng = np.random.default_rng(0)
    differences = np.asarray(ours) - np.asarray(theirs)
    return (rng.choice(differences, size=(4000, n)).mean(1) < 0).mean()
""", "not always the first"),
    ("chance_of_wrong_winner", """
def chance_of_wrong_winner(ours, theirs, n):
    rng = np.random.default_rng(0)
    differences = np.asarray(ours) - np.asarray(theirs)
    drawn = rng.choice(differences, size=(4000, n)).ravel()
    return (drawn * differences.mean() < 0).mean()
""", "taken over n draws"),
]
