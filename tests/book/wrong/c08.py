"""Common wrong answers to the exercises of chapter 8, and what the reader should be told."""

WRONG = [
    ("move", """
def move(average, student, decay):
    with torch.no_grad():
        for old, new in zip(average.state_dict().values(), student.state_dict().values()):
            if old.is_floating_point():
                old.lerp_(new, decay)
            else:
                old.copy_(new)
""", "inverted"),
    ("move", """
def move(average, student, decay):
    with torch.no_grad():
        for old, new in zip(average.parameters(), student.parameters()):
            old.lerp_(new, 1 - decay)
""", "leaves out the batch statistics"),
    ("move", """
def move(average, student, decay):
    for old, new in zip(average.state_dict().values(), student.state_dict().values()):
        old = decay * old + (1 - decay) * new
""", "Write into the tensor"),
    ("move", """
def move(average, student, decay):
    with torch.no_grad():
        for old, new in zip(average.state_dict().values(), student.state_dict().values()):
            if old.is_floating_point():
                old.lerp_(new, 1 - decay)
""", "copy whole numbers"),
    ("ensemble_kd", """
def ensemble_kd(student, teachers, T):
    return kd.losses.kd(student, torch.stack(teachers).mean(0).detach(), T)
""", "not by a constant factor"),
    ("ensemble_kd", """
def ensemble_kd(student, teachers, T):
    p = torch.stack([(teacher.detach() / T).softmax(1) for teacher in teachers]).mean(0)
    log_q = (student / T).log_softmax(1)
    return (p * (p.log() - log_q)).sum(1).mean()
""", "a factor forgotten"),
    ("ensemble_kd", """
def ensemble_kd(student, teachers, T):
    p = torch.stack([(teacher.detach() / T).softmax(1) for teacher in teachers]).mean(0)
    log_q = (student / T).log_softmax(1)
    return T**2 * (p * (p.log() - log_q)).sum(1).mean()
""", "finite loss for logits of ±100, got nan"),
    ("stop_when_sure", """
def stop_when_sure(logits, threshold):
    sure = torch.stack([z.softmax(1).amax(1) >= threshold for z in logits])
    return sure.int().argmax(0)
""", "the end .2. where nobody is sure"),
    ("stop_when_sure", """
def stop_when_sure(logits, threshold):
    confidence = torch.stack([z.softmax(1).amax(1) for z in logits])
    best = confidence.argmax(0)
    best[(confidence < threshold).all(0)] = len(logits) - 1
    return best
""", "the first that is sure enough"),
    ("stop_when_sure", """
def stop_when_sure(logits, threshold):
    sure = torch.stack([z.amax(1) >= threshold for z in logits])
    sure[-1] = True
    return sure.int().argmax(0)
""", "The softmax gives probabilities"),
    ("stop_when_sure", """
def stop_when_sure(logits, threshold):
    sure = torch.stack([z.softmax(1).amax(1) >= 0.5 for z in logits])
    sure[-1] = True
    return sure.int().argmax(0)
""", "At the threshold 0.85"),
]
