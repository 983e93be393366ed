"""Common wrong answers to the exercises of chapter 1, and what the reader should be told."""

WRONG = [
    ("my_kd", """
def my_kd(student, teacher, T):
    log_q = F.log_softmax(student / T, dim=1)
    log_p = F.log_softmax(teacher.detach() / T, dim=1)
    return T**2 * F.kl_div(log_q, log_p, reduction="mean", log_target=True)
""", "divided by the number of classes"),
    ("my_kd", """
def my_kd(student, teacher, T):
    log_q = F.log_softmax(student / T, dim=1)
    log_p = F.log_softmax(teacher.detach() / T, dim=1)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
""", "T² is missing"),
    ("my_kd", """
def my_kd(student, teacher, T):
    log_q = F.log_softmax(student / T, dim=1)
    log_p = F.log_softmax(teacher / T, dim=1)
    return T**2 * F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
""", "swapped"),
    ("my_kd", """
def my_kd(student, teacher, T):
    log_q = F.log_softmax(student / T, dim=1)
    log_p = F.log_softmax(teacher / T, dim=1)
    return T**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
""", "no gradient for the teacher"),
    ("my_step", """
def my_step(student, teacher, x, y, optimizer):
    with torch.no_grad():
        answers = teacher(x)
    loss = kd.losses.kd(student(x), answers, T=4)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""", r"Call teacher.eval\(\) first"),
    ("my_step", """
def my_step(student, teacher, x, y, optimizer):
    teacher.eval()
    logits, answers = student(x), teacher(x)
    loss = (logits - answers).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""", "no gradient in the teacher"),
    ("my_step", """
def my_step(student, teacher, x, y, optimizer):
    teacher.eval()
    with torch.no_grad():
        answers = teacher(x)
    loss = kd.losses.kd(student(x), answers, T=4)
    optimizer.zero_grad()
    optimizer.step()
    loss.backward()
    optimizer.zero_grad()
""", "none of its weights moved"),
    ("my_step", """
def my_step(student, teacher, x, y, optimizer):
    teacher.eval()
    with torch.no_grad():
        teacher(x)
    loss = 0.1 * F.cross_entropy(student(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""", "its term is not in the loss"),
    ("fewer_images", """
def fewer_images():
    few = kd.augmented(kd.data.glyphs(train=1000, seed=0), views=20, shift=0.1)
    outputs = kd.Cached(teacher, few)
    arms = {
        "CE": lambda seed: kd.Supervised(net(seed)),
        "KD": lambda seed: kd.Distiller(net(seed), outputs, objective),
    }
    recipe = budget["teacher"]
    longer = kd.Recipe(epochs=100, lr=recipe.lr, validate_every=5)
    return kd.compare(arms, few, {"CE": recipe, "KD": longer}, seeds=range(5), teacher=teacher)
""", "the same budget for 'KD'"),
]
