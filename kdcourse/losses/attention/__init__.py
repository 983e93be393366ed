"""Losses on transformers: hidden states, attention, and relations between values.

What to tap (`kdcourse.taps` has the grammar):

* timm: "blocks.3" is a hidden state [B, N, D]; "blocks.3.attn.qkv" has queries, keys and values
  [B, N, 3 D], in the order that `kdcourse.losses.attention.fused` tells; with
  `block.attn.fused_attn = False`, "blocks.3.attn.attn_drop:input" is attention [B, A, N, N] after
  the softmax.
* transformers (BERT): "bert.encoder.layer.3" is a hidden state; in it "attention.self.value" are
  values [B, N, D], and, with `attn_implementation="eager"`, "attention.self[1]" is attention after
  the softmax and after dropout (so give the student `attention_probs_dropout_prob=0`).

Padding does not count where a mask [B, N] says which tokens are real: in a scheme the entry
"attention_mask" of the inputs (`kd.tasks.Tokens(mask=…)` names another), in a loop `mask_BN`. The
mean is then over the real tokens of each sample. Without a mask every token counts.

DistilBERT's and TinyBERT's objectives are sums of terms that are here, with the weights of their
code:

* DistilBERT: `5 * KD(T=2) + 2 * CE() + HiddenCosine(last, last)`, on masked words, with the task
  `kd.tasks.Tokens(partly=True)`: then `CE` is for the masked words, which have labels, `KD` and
  `HiddenCosine` are for all real ones.
* TinyBERT, first stage: `HiddenMSE` of the embeddings and of each layer, `AttentionMSE` of each
  layer before the softmax; second stage: `KD(T=1)`, whose gradient is that of the soft
  cross-entropy.
* MiniLM: `AttentionKL` and `ValueRelation` of the last layers; MiniLMv2: `SelfRelation`.
"""
