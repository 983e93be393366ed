"""Losses on transformers: hidden states, attention, and relations between values.

What to tap (`kdcourse.taps` has the grammar):

* timm: "blocks.3" is a hidden state [B, N, D]; "blocks.3.attn.qkv" has queries, keys and values
  [B, N, 3 D], in the order that `kdcourse.losses.attention.fused` tells; with
  `block.attn.fused_attn = False`, "blocks.3.attn.attn_drop:input" is attention [B, A, N, N] after
  the softmax.
* transformers (BERT): "bert.encoder.layer.3" is a hidden state; in it "attention.self.value" are
  values [B, N, D], and, with `attn_implementation="eager"`, "attention.self[1]" is attention after
  the softmax and after dropout (so give the student `attention_probs_dropout_prob=0`).

Every token counts, padding too: where sequences are padded, pick the real tokens first.
"""
