"""Small language models, a decoder like GPT-2 and an encoder like BERT, and texts that a model
writes.

Shapes: B batch, N tokens, V vocabulary, D features, A heads, d features of a head.
"""

import torch
from torch import nn

from kdcourse._feed import fed
from kdcourse.models.reference import by_seed
from kdcourse.outputs import logits_of
from kdcourse.taps import device_of, evaluating


class Attention(nn.Module):
    """Mix for each token the values of those that it sees (Vaswani et al. 2017, arXiv:1706.03762,
    section 3.2). Written out, as a fused kernel has neither scores nor attention to tap."""

    def __init__(self, dim, heads, dropout):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.proj = (nn.Linear(dim, dim) for _ in range(4))
        self.softmax, self.drop = nn.Softmax(-1), nn.Dropout(dropout)

    def forward(self, x_BND, seen_BNN):
        q_BANd, k_BANd, v_BANd = (part(x_BND).unflatten(2, (self.heads, -1)).transpose(1, 2)
                                  for part in (self.query, self.key, self.value))
        scores_BANN = q_BANd @ k_BANd.transpose(2, 3) * q_BANd.shape[3] ** -0.5
        scores_BANN = scores_BANN.masked_fill(~seen_BNN[:, None], -torch.inf)
        mixed_BANd = self.drop(self.softmax(scores_BANN)) @ v_BANd
        return self.proj(mixed_BANd.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Add attention, then a perceptron, to the tokens. Layer normalisation comes before each of
    the two in a decoder (GPT-2), and behind each sum in an encoder (BERT)."""

    def __init__(self, dim, heads, causal, dropout):
        super().__init__()
        self.causal = causal
        eps, gelu = (1e-5, "tanh") if causal else (1e-12, "none")  # as published
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        self.attn, self.drop = Attention(dim, heads, dropout), nn.Dropout(dropout)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(gelu), nn.Linear(4 * dim, dim))

    def forward(self, x, seen):
        if self.causal:
            x = x + self.drop(self.attn(self.norm1(x), seen))
            return x + self.drop(self.mlp(self.norm2(x)))
        x = self.norm1(x + self.drop(self.attn(x, seen)))
        return self.norm2(x + self.drop(self.mlp(x)))


class LanguageModel(nn.Module):
    """Compute logits [B, N, V] of token ids [B, N]. Make one by `gpt` or `bert`."""

    def __init__(self, vocabulary, dim, depth, heads, length, tied, dropout, std, causal):
        super().__init__()
        if dim % heads:
            raise ValueError(f"Expected heads that divide dim {dim}, got {heads}.")
        self.length, self.causal = length, causal
        self.tokens, self.positions = nn.Embedding(vocabulary, dim), nn.Embedding(length, dim)
        self.embed = nn.Sequential(nn.Identity() if causal else nn.LayerNorm(dim, 1e-12),
                                   nn.Dropout(dropout))
        self.blocks = nn.ModuleList(Block(dim, heads, causal, dropout) for _ in range(depth))
        self.last = nn.LayerNorm(dim) if causal else nn.Sequential(
            nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim, 1e-12))
        self.head = nn.Linear(dim, vocabulary, bias=not causal)
        for name, layer in self.named_modules():
            if isinstance(layer, (nn.Embedding, nn.Linear)):
                into_residual = causal and name.endswith(("attn.proj", "mlp.2"))
                nn.init.normal_(layer.weight, std=std / (2 * depth)**0.5 if into_residual else std)
            if isinstance(layer, nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, input_ids, attention_mask=None):
        if input_ids.shape[1] > self.length:
            raise ValueError(f"Expected at most {self.length} tokens, got {input_ids.shape[1]}. "
                             "Cut the texts, or make a model of a larger `length`.")
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        own = places[:, None] == places
        seen_BNN = (places[:, None] >= places if self.causal else torch.ones_like(own))[None]
        if attention_mask is not None:
            if attention_mask.shape != input_ids.shape:
                raise ValueError(f"Expected an attention_mask of the shape of the ids, "
                                 f"{list(input_ids.shape)}, got {list(attention_mask.shape)}.")
            # Each token sees itself, as a softmax over nothing is NaN, also for those that see it.
            seen_BNN = seen_BNN & (attention_mask != 0)[:, None] | own
        x_BND = self.embed(self.tokens(input_ids) + self.positions(places))
        for block in self.blocks:
            x_BND = block(x_BND, seen_BNN)
        return self.head(self.last(x_BND))


@by_seed
def gpt(vocabulary, dim=96, depth=3, heads=4, length=64, seed=0, tied=True, dropout=0.0,
        std=0.02) -> nn.Module:
    """Make a small decoder, GPT-2 in the small (Radford et al. 2019, "Language Models are
    Unsupervised Multitask Learners", section 2.3): the logits at a token depend on it and on those
    before it.

    vocabulary: the number of tokens V. dim: the width D of a token. length: the most tokens, each
        place with a vector of its own.
    tied: whether the last matrix is that of the embeddings, as in GPT-2.
    dropout: of embeddings, attention and what a block adds; 0.1 as published.
    std: of the initial weights, 0.02 as published; with 1/√(2 depth) of it where a block adds to
        the tokens. Biases start at 0.

    Inputs are ids [B, N], or a dict {"input_ids": …, "attention_mask": …}; the mask [B, N] is 0 for
    padding, which belongs behind the text, as places are counted from its start. Output [B, N, V],
    for `kd.tasks.Tokens()`; labels are the next tokens.

    To tap (`kd.taps`): "embed", "blocks.0" …, "last" are hidden states [B, N, D]; in a block,
    "attn.query", "attn.key" and "attn.value" are those of all heads, one after the other [B, N, D];
    "attn.softmax" is attention [B, A, N, N], before dropout; "attn.softmax:input" are the scores,
    -inf where a token is not seen.

    V D + length D + depth (12 D² + 13 D) + 2 D parameters, and V D more if not tied. Raises
    `ValueError` where `heads` does not divide `dim`; when called, for more than `length` tokens and
    a mask of another shape.

    >>> model = gpt(vocabulary=50, dim=16, depth=2, heads=2, length=8)
    >>> model(torch.tensor([[3, 14, 15]])).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([1, 3, 50]), 7520)
    """
    return LanguageModel(vocabulary, dim, depth, heads, length, tied, dropout, std, causal=True)


@by_seed
def bert(vocabulary, dim=96, depth=3, heads=4, length=64, seed=0, tied=True, dropout=0.0,
         std=0.02) -> nn.Module:
    """Make a small encoder, BERT in the small with its masked language model (Devlin et al. 2018,
    arXiv:1810.04805): each token sees all that are no padding.

    Arguments, inputs, outputs, what can be tapped and what it raises are those of `gpt`. Unlike
    BERT, it has no embeddings of a first and a second sentence; add those of the first to
    `positions` where weights of another model are copied. "last" is behind the layer of the masked
    language model; "blocks.2" is the last hidden state of three blocks. Initial weights are normal
    (the authors' code draws again beyond two standard deviations).

    V D + V + length D + depth (12 D² + 13 D) + D² + 5 D parameters, and V D more if not tied.

    >>> model = bert(vocabulary=50, dim=16, depth=2, heads=2, length=8)
    >>> ids, mask = torch.tensor([[3, 14, 0]]), torch.tensor([[1, 1, 0]])
    >>> model(input_ids=ids, attention_mask=mask).shape
    torch.Size([1, 3, 50])
    """
    return LanguageModel(vocabulary, dim, depth, heads, length, tied, dropout, std, causal=False)


@torch.no_grad()
def generate(model, ids, steps: int, temperature: float = 1.0, top_k: int | None = None,
             generator: torch.Generator | None = None) -> torch.Tensor:
    r"""Continue texts by `steps` tokens, each drawn from :math:`\mathrm{softmax}(z / T)` of the
    model's logits z at the last token.

    model: a decoder, ours or of transformers, run in eval mode; its modes stay as they are.
    ids: [B, N], prompts of one length without padding. Returns [B, N + steps], prompts included.
    temperature: T; 0 takes the most probable token.
    top_k: draw among so many of the largest logits only; None among all.
    generator: what is drawn by; needed unless `temperature` is 0.

    Every step reads the whole text again, as the model keeps no keys and values: for long texts of
    a model of transformers its own `generate` is faster. Raises `ValueError` for settings that
    cannot be, and a `TypeError` for a model without logits.

    >>> model = gpt(vocabulary=9, dim=8, depth=1, heads=2, length=8)
    >>> generate(model, torch.tensor([[3, 1]]), 4, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([1, 6])
    """
    if temperature < 0 or (top_k is not None and top_k < 1) or (temperature and generator is None):
        raise ValueError("Expected a temperature of at least 0, top_k None or at least 1, and, "
                         "unless the temperature is 0, generator=torch.Generator().manual_seed(…), "
                         f"got {temperature}, {top_k} and {generator}.")
    texts = ids.to(device_of(model))
    with evaluating(model):
        for _ in range(steps):
            logits = logits_of(model(texts))[:, -1].float()
            if top_k is not None:
                least = logits.topk(min(top_k, logits.shape[1])).values[:, -1:]
                logits = logits.masked_fill(logits < least, -torch.inf)
            if temperature:  # dividing by exponential numbers draws by probability (Gumbel's trick)
                logits = (logits / temperature).softmax(1) / fed(
                    lambda like=logits: torch.empty(like.shape, device=generator.device)
                    .exponential_(generator=generator), logits.device)
            texts = torch.cat([texts, logits.argmax(1, keepdim=True)], 1)
    return texts.to(ids.device)
