"""Small language models of transformers, made from a config, and ours with their weights."""

import pytest
import torch

from kdcourse import models

V, LENGTH = 20, 16


def random(make, seed=0, scale=20.0):
    """Make a model whose attention is far from uniform, in float64 and in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make().eval().double()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:  # biases and norms, which start at 0 and 1
                    parameter.add_(torch.randn_like(parameter) / 5)
                else:
                    parameter.mul_(scale)
    return model


def gpt2(dim=16, depth=2, heads=2, attention="eager", **settings):
    transformers = pytest.importorskip("transformers")
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=V, n_embd=dim, n_layer=depth, n_head=heads, n_positions=LENGTH, eos_token_id=0,
        bos_token_id=0, attn_implementation=attention, **settings))


def bert(kind="MaskedLM", dim=16, depth=2, heads=2, attention="eager", **settings):
    transformers = pytest.importorskip("transformers")
    return getattr(transformers, f"BertFor{kind}")(transformers.BertConfig(
        vocab_size=V, hidden_size=dim, num_hidden_layers=depth, num_attention_heads=heads,
        intermediate_size=4 * dim, max_position_embeddings=LENGTH, pad_token_id=None,
        attn_implementation=attention, **settings))


def ours(theirs):
    """Copy the weights of a GPT-2 or BERT of transformers into our model of these sizes."""
    c, decoder = theirs.config, hasattr(theirs, "transformer")
    model = (models.gpt if decoder else models.bert)(
        V, c.hidden_size, c.num_hidden_layers, c.num_attention_heads, LENGTH).double().eval()
    theirs = {name: tensor.detach() for name, tensor in theirs.state_dict().items()}
    found = _of_gpt2(theirs, c) if decoder else _of_bert(theirs, c)
    model.load_state_dict({**found, "head.weight": found["tokens.weight"]})
    return model


def _of_gpt2(w, c):
    found = {"tokens.weight": w["transformer.wte.weight"],
             "positions.weight": w["transformer.wpe.weight"],
             "last.weight": w["transformer.ln_f.weight"], "last.bias": w["transformer.ln_f.bias"]}
    for i in range(c.num_hidden_layers):
        old, new = f"transformer.h.{i}.", f"blocks.{i}."
        for end in ("weight", "bias"):
            for ours, theirs in (("norm1", "ln_1"), ("norm2", "ln_2"), ("attn.proj", "attn.c_proj"),
                                 ("mlp.0", "mlp.c_fc"), ("mlp.2", "mlp.c_proj")):
                found[f"{new}{ours}.{end}"] = w[f"{old}{theirs}.{end}"].t()
            parts = w[f"{old}attn.c_attn.{end}"].t().chunk(3)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                found[f"{new}attn.{name}.{end}"] = part
    return found


def _of_bert(w, c):
    place = w["bert.embeddings.position_embeddings.weight"]
    head = "cls.predictions."
    found = {"tokens.weight": w["bert.embeddings.word_embeddings.weight"],
             "positions.weight": place + w["bert.embeddings.token_type_embeddings.weight"][0],
             "head.bias": w[f"{head}bias"]}
    names = {"embed.0": "bert.embeddings.LayerNorm", "last.0": f"{head}transform.dense",
             "last.2": f"{head}transform.LayerNorm"}
    for i in range(c.num_hidden_layers):
        old, new = f"bert.encoder.layer.{i}.", f"blocks.{i}."
        names |= {f"{new}attn.{name}": f"{old}attention.self.{name}"
                  for name in ("query", "key", "value")}
        names |= {f"{new}attn.proj": f"{old}attention.output.dense",
                  f"{new}norm1": f"{old}attention.output.LayerNorm",
                  f"{new}mlp.0": f"{old}intermediate.dense", f"{new}mlp.2": f"{old}output.dense",
                  f"{new}norm2": f"{old}output.LayerNorm"}
    return found | {f"{ours}.{end}": w[f"{theirs}.{end}"] for ours, theirs in names.items()
                    for end in ("weight", "bias")}


def ids(count=5, length=9, seed=0):
    return torch.randint(1, V, (count, length), generator=torch.Generator().manual_seed(seed))


def mask(count=5, length=9, seed=1):
    """Texts of 2 and more tokens, with padding behind them."""
    lengths = torch.randint(2, length + 1, (count, 1),
                            generator=torch.Generator().manual_seed(seed))
    return (torch.arange(length) < lengths).long()
