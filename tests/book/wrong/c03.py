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
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()
""", "batch statistics"),
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
    ("two_mistakes", """
def two_mistakes():
    arms = {"labels only": known["labels only"], "other images": mistakes["other images"]}
    return kd.compare(arms, augmented, best, range(5), teacher=teacher)
""", "other images and both"),
    ("two_mistakes", """
def two_mistakes():
    mixed = told(logits[:, other], "other images")
    arms = {"labels only": known["labels only"], "other images": mistakes["other images"],
            "both": taught(mean_over_classes, mixed)}
    return kd.compare(arms, augmented, best, range(1), teacher=teacher)
""", "seed"),
]
