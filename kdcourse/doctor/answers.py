"""A teacher's answers: are they logits, the same every time, and those to the right samples?

Shapes: B batch, K classes.
"""

import torch

from kdcourse._trees import each, first
from kdcourse.doctor.setup import report_probabilities
from kdcourse.teachers import Cached

VIEWS = 8  # for which stored answers are compared, spread over all


@torch.no_grad()
def examine(teacher) -> None:
    """Report answers that are no logits, vary for one image, or belong to other samples."""
    batch, task = teacher.setup.batch, teacher.setup.data.task
    predicted_BK, logits_BK = teacher.predict(batch.x), teacher.answer(batch)
    logits_BK = predicted_BK if logits_BK is None else logits_BK
    if logits_BK is None:
        return
    teacher.look("the teacher answers with logits")
    if not torch.isfinite(logits_BK).all() and not (logits_BK == -torch.inf).any():
        teacher.report("The teacher answers with NaN or inf.", "So does the loss.",
                       "Look at its weights and at its inputs.")
        return
    report_probabilities(teacher, "teacher", logits_BK, task)
    if predicted_BK is None or _same_for_same_image(teacher, batch.x, predicted_BK):
        _of_right_samples(teacher)


def _same_for_same_image(teacher, x, predicted_BK) -> bool:
    teacher.look("the teacher gives the same answer to the same image")
    if _differs(teacher.predict(x), predicted_BK, 1e-3).any():
        teacher.report(
            "The teacher changes its mind: the same batch twice, two answers, in eval mode.",
            "The student learns noise.",
            "Look for chance in its forward, such as F.dropout(x) without training=self.training.")
        return False
    teacher.look("the teacher's answer does not depend on the rest of the batch")
    half = (len(first(x)) - 1) // 2  # the first image, together with either half of the others
    one, other = (teacher.predict(each(lambda t, i=i: torch.cat([t[:1], t[i::2][:half]]), x))
                  for i in (1, 2))
    if one is None or other is None or _differs(one, other, 1e-2)[0]:
        teacher.report(
            "The teacher's answer to an image depends on the other images of the batch.",
            "The same image teaches something else in every epoch.",
            "Look for batch normalisation with track_running_stats=False.")
        return False
    return True


def _of_right_samples(teacher) -> None:
    """Compare answers to training samples with predictions for their inputs."""
    setup, compared, stale = teacher.setup, False, ""
    views = getattr(setup.train, "views", None) or 1
    for one in teacher.with_members():
        if getattr(one.module, "top", None) is not None:
            continue  # the smaller logits are not stored; its check compared inputs
        for view in torch.linspace(1, views, min(VIEWS, views)).round().long().tolist():
            batch = next(setup.batches(len(setup.batch), view - 1))
            logits_BK, predicted_BK = one.answer(batch), one.predict(batch.x, batch.y)
            if logits_BK is None or predicted_BK is None:
                break
            compared = True
            differs_B = _differs(logits_BK, predicted_BK, 0.1)
            nearest_B = torch.cdist(_finite(logits_BK).flatten(1),
                                    _finite(predicted_BK).flatten(1)).argmin(1)
            swapped = int((differs_B & (nearest_B != torch.arange(len(batch)))).sum())
            if 2 * swapped > len(batch):
                shown = f" (view {batch.view})" if batch.view else ""
                teacher.report(
                    f"{one.name}'s answers belong to other samples or views{shown}: {swapped} of "
                    f"{len(batch)} are what it says of another image.",
                    "Such an answer says nothing about the student's own sample.",
                    "Look answers up by batch.index, or make kd.Cached(teacher, data) again.")
                return
            if not stale and differs_B.any() and isinstance(one.module, Cached):
                stale = (f"{int(differs_B.sum())} of {len(batch)} stored answers are not what the "
                         "teacher says of these samples now.")
    if compared:
        teacher.look("the teacher's answers belong to their samples")
    if stale:
        teacher.report(stale, "Either the teacher or the stored answers were changed since.",
                       "Make kd.Cached(teacher, data) again.")


def _differs(logits_BK, others_BK, share: float) -> torch.Tensor:
    """Which rows differ by more than a share of the standard deviation of the others."""
    close = share * (_finite(others_BK).std(correction=0) + 1e-6)
    return (_finite(logits_BK) - _finite(others_BK)).abs().flatten(1).amax(1) > close


def _finite(logits) -> torch.Tensor:
    return logits.masked_fill(~logits.isfinite(), 0)  # the difference of two -inf is NaN
