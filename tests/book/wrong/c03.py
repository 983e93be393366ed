"""Common wrong answers to the exercises of chapter 3, and what the reader should be told."""

WRONG = [
    ("my_evaluate", """
def my_evaluate(model, x, y):
    model.eval()
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()
""", "the mode of each"),
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
    before = model.training
    model.eval()
    with torch.no_grad():
        right = (model(x).argmax(1) == y).float().mean().item()
    model.train(before)
    return right
""", "the mode of each"),
    ("my_evaluate", """
def my_evaluate(model, x, y):
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()
""", "batch statistics"),
    ("my_evaluate", """
def my_evaluate(model, x, y):
    modes = {part: part.training for part in model.modules()}
    right = (model.eval()(x).argmax(1) == y).float().mean().item()
    for part, mode in modes.items():
        part.training = mode
    return right
""", "torch.no_grad"),
    ("share_that_belong", """
def share_that_belong(told, teacher, x):
    with torch.no_grad():
        now = teacher(x)
    return (torch.cdist(told, now).argmin(1) == torch.arange(len(x))).float().mean()
""", "stay as it was|in eval mode"),
    ("share_that_belong", """
def share_that_belong(told, teacher, x):
    now = kd.models.predict(teacher, x)
    return (told.argmax(1) == now.argmax(1)).float().mean()
""", "compare whole rows"),
    ("share_that_belong", """
def share_that_belong(told, teacher, x):
    now = kd.models.predict(teacher, x)
    return ((told - now).norm(dim=1) < 1e-3).float().mean()
""", "half precision.*find the nearest"),
    ("two_mistakes", """
def two_mistakes():
    return mistakes["other images"]
""", "36 times too small"),
    ("two_mistakes", """
def two_mistakes():
    return mistakes["mean over classes"]
""", "the outputs of other images"),
    ("two_mistakes", """
def two_mistakes():
    return taught(no_T2, told(logits[:, other], "other images"))
""", "got 16.0 times"),
    ("two_mistakes", """
def two_mistakes():
    return taught(mean_over_classes, told(logits.roll(1, 1), "other images"))
""", "the outputs of other images"),
]
