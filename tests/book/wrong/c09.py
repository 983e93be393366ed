"""Common wrong answers to the exercises of chapter 9, and what the reader should be told."""

WRONG = [
    ("judge", """
def judge(low, high):
    middle = (low + high) / 2
    return "helped" if middle > 0 else "hurt"
""", "both ends of the interval"),
    ("judge", """
def judge(low, high):
    if low > 0:
        return "helped"
    if high < 0:
        return "hurt"
    return "too small to matter" if high - low < 1 else "cannot tell"
""", "Expected 'too small to matter' for 0.1 to 0.4, got 'helped'"),
    ("judge", """
def judge(low, high):
    if high - low <= 1:
        return "too small to matter"
    return "helped" if low > 0 else "hurt" if high < 0 else "cannot tell"
""", "Expected 'helped' for 0.2 to 0.9, got 'too small to matter'"),
    ("equal_epochs", """
def equal_epochs(count, batch=128):
    return 60
""", "Expected 620 epochs for 500 images, got 60"),
    ("equal_epochs", """
def equal_epochs(count, batch=128):
    return round(60 * 4000 / count)
""", "epoch has 3 full batches"),
    ("equal_epochs", """
def equal_epochs(count, batch=128):
    return round(60 * (4000 // 128) / (count // 128))
""", "Expected 260 epochs for 1000 images, got 266.* 3 full batches of 300, 60 of 4,000 have 780"),
    ("without_labels", """
def without_labels():
    both = {"labels": labels(), "outputs": taught("ResNet", loss=KD(T=4), seed=5)}
    budget = {"labels": recipe((0.08, 0.025), 30), "outputs": recipe((0.08, 0.025), 60)}
    return kd.compare(both, images(seed=5), budget, range(5))
""", "the same budget for 'outputs'"),
    ("without_labels", """
def without_labels():
    both = {"labels": labels(), "outputs": taught("ResNet", loss=KD(T=4))}
    return kd.compare(both, images(), recipe((0.08, 0.025), 60), range(5))
""", "images.seed=5., which the ResNet has not seen"),
    ("without_labels", """
def without_labels():
    both = {"labels": labels(), "outputs": taught("ResNet", seed=5)}
    return kd.compare(both, images(seed=5), recipe((0.08, 0.025), 60), range(5))
""", "no labels in outputs"),
    ("without_labels", """
def without_labels():
    both = {"labels": labels(), "outputs": taught("ResNet", loss=KD(T=4))}
    return kd.compare(both, images(seed=5), recipe((0.08, 0.025), 60), range(5))
""", "outputs for images.seed=5."),
]
