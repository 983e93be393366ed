"""Distillation on texts that the student writes. B texts, N tokens, V words of the vocabulary."""

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import nn

from kdcourse import losses
from kdcourse._random import generator
from kdcourse.data import Batch, Dataset
from kdcourse.outputs import logits_of
from kdcourse.schemes.offline import Distiller
from kdcourse.taps import evaluating
from kdcourse.tasks import Tokens
from kdcourse.teachers import Cached


@torch.no_grad()
def continued(model: nn.Module, x, prompt_B: torch.Tensor, uniform_BN: torch.Tensor,
              temperature: float = 1.0, ids: str = "input_ids", allowed=None) -> torch.Tensor:
    """Let a causal language model continue texts; return the token ids [B, N].

    The tokens behind the prompt are replaced, one after the other, by draws from softmax(logits /
    temperature); at temperature 0 by the most probable token. The model runs in eval mode, without
    gradients, once for each place: no cache, so that it works for any model.

    model: maps `x` (or the entries of a dict, by name) to logits [B, n, V]. x: ids [B, N], or a
        dict with them as the entry `ids`; other entries [B, N, …] are cut to the same n.
    prompt_B: how many tokens of each text stay, at least 1. uniform_BN: numbers from 0 to 1, one
        for each token, such as `torch.rand(B, N, generator=…)`. allowed: [K], True for the numbers
        that are tokens, which alone are drawn; None: all are.

    Sequence-level distillation (Kim & Rush 2016, arXiv:1606.07947) is training on the teacher's
    texts as data. The paper takes the most probable ones (by beam search); drawn ones are an
    estimate of the KL divergence of whole texts:

    >>> class Next(nn.Module):  # after n comes n + 1
    ...     def forward(self, x):
    ...         return 99.0 * nn.functional.one_hot((x + 1) % 5, 5)
    >>> prompts = torch.tensor([[1, 0, 0, 0], [2, 4, 0, 0]])
    >>> texts = continued(Next(), prompts, torch.tensor([1, 2]), torch.rand(2, 4))
    >>> texts
    tensor([[1, 2, 3, 4],
            [2, 4, 0, 1]])

    and `kd.data.from_arrays(texts[:, :-1], texts[:, 1:], task=kd.tasks.Tokens())` is the data.
    """
    whole = x if isinstance(x, dict) else {ids: x}
    texts = whole[ids].clone()
    with evaluating(model):
        for n in range(1, texts.shape[1]):
            seen = {name: (texts if name == ids else t)[:, :n] for name, t in whole.items()}
            output = model(**seen) if isinstance(x, dict) else model(seen[ids])
            logits_BV = logits_of(output)[:, -1].float()
            if allowed is not None:
                more = F.pad(allowed, (0, logits_BV.shape[1] - len(allowed)))
                logits_BV = logits_BV.masked_fill(~more.to(logits_BV.device), -math.inf)
            if temperature == 0:
                drawn_B = logits_BV.argmax(1)
            else:
                totals_BV = (logits_BV / temperature).softmax(1).cumsum(1)
                # The last sum is 1 but for rounding: a number beyond it would be no token.
                at_B1 = uniform_BN[:, n : n + 1].to(totals_BV) * totals_BV[:, -1:]
                drawn_B = torch.searchsorted(totals_BV, at_B1, right=True)[:, 0]
                drawn_B = drawn_B.clamp(max=logits_BV.shape[1] - 1)
            texts[:, n] = torch.where(n < prompt_B, texts[:, n], drawn_B.to(texts.dtype))
    return texts


class OnPolicy(Distiller):
    """Distil on texts of which the student has written a share: GKD.

    With probability `share` the student continues the beginnings of a batch's texts, and learns
    from the teacher what it would have said at each place of its *own* continuation; else from the
    data's texts, as in `Distiller`. No gradient flows through the draws.

    Agarwal et al. 2024 (GKD, arXiv:2306.13649), algorithm 1, with `share` as λ, and `JS(beta, T,
    variant="paper")`, `KD(T=1)` or `ReverseKL(T=1)` as divergence. MiniLLM (Gu et al. 2024,
    arXiv:2306.08543) minimises the reverse KL of whole texts by policy gradient; `ReverseKL` here
    is its single-step part, the divergence of the next token.

    student, teacher: causal language models for `kd.tasks.Tokens()` data; y[:, n] is the token that
        x[:, n] is followed by.
    objective: of terms that compare with the teacher; those that read labels are refused unless
        share is 0, as the labels of an own text would be the student's own tokens. To learn from
        both, train on the labels first, which GKD presumes.
    share: λ, from 0 to 1. (GKD: 0, 0.5 and 1.)
    prompt: how many tokens of a text stay, at least; those before the first label always do.
    temperature: of the draws, above 0; it does not soften what is compared, which T of a term does.
    end: the token with which a text ends; what follows it is not counted. None: texts have no end.
    ids: the entry of the inputs with the token ids, where these are a dict; its entry of the task's
        `mask` becomes 1 for what was written.
    seed: of coins and draws. Each step draws anew; a checkpoint keeps how many there were. Every
        process draws for itself.

    A written place counts once, whatever the data had there: padding, or a shorter answer. So a
    batch is not cut into parts (`accumulate`, several processes), whose numbers of written tokens
    are not known to each other: that is refused. So are stored answers, which are those to the
    data's texts, unless share is 0.

    >>> from kdcourse.data import Batch
    >>> pairs = [nn.Embedding(7, 7) for _ in range(2)]  # the next token follows from one alone
    >>> batch = Batch(torch.zeros(2, 5).long(), torch.ones(2, 5).long(), task=Tokens())
    >>> written = OnPolicy(*pairs, share=1.0, prompt=3).with_inputs(batch)
    >>> written.x[:, :3].tolist(), written.y[0].ne(-100).tolist()
    ([[0, 0, 0], [0, 0, 0]], [False, False, True, True, True])
    """

    def __init__(self, student: nn.Module, teacher, objective=None, share: float = 0.5, *,
                 prompt: int = 1, temperature: float = 1.0, end: int | None = None,
                 ids: str = "input_ids", seed: int = 0):
        super().__init__(student, teacher, losses.KD(T=1) if objective is None else objective)
        if not 0 <= share <= 1:
            raise ValueError(f"Expected a share between 0 and 1, got {share}.")
        if not 0 < temperature < float("inf"):
            raise ValueError(f"Expected a temperature of the draws above 0, got {temperature}.")
        if isinstance(prompt, bool) or not isinstance(prompt, int) or prompt < 1:
            raise ValueError(f"Expected a prompt of at least 1 token, got {prompt!r}.")
        for term in self.objective.terms.values():
            if share and (term.needs_labels or not term.needs_teacher):
                raise ValueError(f"Expected terms that compare with the teacher alone, as texts by "
                                 f"the student have no labels, got {term!r}. Train on the labels "
                                 "first.")
        if share and isinstance(self.teacher, Cached):
            raise ValueError("Expected a teacher that runs on any text, got stored answers to "
                             "those of the data. Use the network itself.")
        self.share, self.prompt, self.temperature = float(share), prompt, temperature
        self.end, self.ids, self.seed, self.calls = end, ids, seed, 0

    def check(self, data: Dataset) -> None:
        super().check(data)
        if self.share and not isinstance(data.task, Tokens):
            raise ValueError(f"Expected a label for each token, kd.tasks.Tokens(), got "
                             f"{data.task!r}.")

    def inputs(self, batch: Batch):
        return self.with_inputs(batch).x

    def with_inputs(self, batch: Batch) -> Batch:
        """Give the batch, or one of texts that the student has continued."""
        if not self.share:
            return batch
        random = self._random()
        if torch.rand(1, generator=random) >= self.share:
            return batch
        if batch.total is not None:
            raise ValueError("Expected whole batches for texts by the student, as the tokens that "
                             "count are known only when they are written, got parts of one. Use "
                             "Recipe(accumulate=1) and one process.")
        return self._written(batch, random)

    def _random(self) -> torch.Generator:
        """Make the generator of a step; always the same one outside of training."""
        trains = self.training and torch.is_grad_enabled()
        rank = torch.distributed.get_rank() if (
            torch.distributed.is_available() and torch.distributed.is_initialized()) else 0
        random = generator(self.seed, "on policy", self.calls if trains else -1, rank)
        self.calls += trains
        return random

    def _written(self, batch: Batch, random: torch.Generator) -> Batch:
        x, task = batch.x, batch.task
        texts_BN = x[self.ids] if isinstance(x, dict) else x
        B, N = texts_BN.shape
        place_N = torch.arange(N, device=texts_BN.device)
        prompt_B = torch.full((B,), self.prompt, device=texts_BN.device)
        if batch.y is not None:
            known_BN = batch.y != task.ignore
            first_B = known_BN.int().argmax(1)  # of the first label: the token behind it is free
            # A text without a label stays as it is.
            prompt_B = torch.where(known_BN.any(1), prompt_B.maximum(first_B + 1), N + 1)
        uniform_BN = torch.rand(B, N, generator=random).to(texts_BN.device)
        if isinstance(x, dict) and task.mask in x:  # what is written is no padding
            real_BN = x[task.mask].masked_fill(place_N >= prompt_B[:, None], 1)
            x = x | {task.mask: real_BN}
        texts_BN = continued(self.student, x, prompt_B, uniform_BN, self.temperature, self.ids,
                             getattr(self.teacher, "common", None))
        # Place n is counted for the token n + 1, so from the last token of the prompt on.
        counts_BN = place_N + 1 >= prompt_B[:, None]
        if self.end is not None:
            ends_BN = ((texts_BN == self.end) & (place_N >= prompt_B[:, None])).int()
            so_far_BN = ends_BN.cumsum(1)
            counts_BN = counts_BN & (so_far_BN == 0)
            if isinstance(x, dict) and task.mask in x:  # the first end is read, what follows is not
                x = x | {task.mask: x[task.mask].masked_fill(so_far_BN > ends_BN, 0)}
        x = x | {self.ids: texts_BN} if isinstance(x, dict) else texts_BN
        # Only where there is a label is read of it. The last place has no next token, any will do.
        y_BN = texts_BN.long().roll(-1, 1).masked_fill(~counts_BN, task.ignore)
        return dataclasses.replace(batch, x=x, y=y_BN)

    def get_extra_state(self):
        return torch.tensor(self.calls)

    def set_extra_state(self, state):
        self.calls = int(state)

    def identity(self):
        """Give what a distillation has, and how texts are written."""
        written = [self.share, self.prompt, self.temperature, self.end, self.ids, self.seed]
        return [*super().identity(), written if self.share else 0]

    def __repr__(self):
        text = super().__repr__()
        end = text.rfind(").averaged(") if self._average is not None else len(text) - 1
        return f"{text[:end]}, share={self.share:g}{text[end:]}"
