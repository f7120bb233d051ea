"""The contract of an architecture: one file here, named as `arch` in a study; torch only.

An architecture gives
- `Family`, a frozen dataclass of what makes rungs comparable, `FAMILIES` by name, `Shape` (frozen), and `NAMED` shapes;
- `solve(target_params, vocab_size, seq_len, **family) -> Shape`: within 2 % of the target, or ValueError with the nearest count;
- `explicit(sizes, **family) -> Shape`: a shape given outright, what is left out by the family's rule;
- `parameters(shape, vocab_size, seq_len) -> dict[str, int]`: counts by group, of which `embedding`, `positions` and `head` are read by
  name; together they are `n_params(shape, vocab_size, seq_len) -> int`, which equals the module's own count;
- `forward_flops(shape, vocab_size, lengths) -> int`: matrix products of one forward pass over texts of these lengths;
- `activations(shape, vocab_size, n_tokens) -> int`: how many values a training step keeps for its backward pass, roughly;
- `Model(shape, vocab_size, seq_len, dropout=0.0)` with `forward(ids_BT) -> logits_BTV` and `forward_packed(packed) -> logits_NV`, the same
  on real tokens only (`models._layers.Packed`), both causal, with dropout by `models._layers.TokenDropout`; and, so that decoding need
  not repeat the whole text at every step, `init_cache(batch_size, length) -> cache`, `step(ids_B, cache) -> logits_BV` and
  `cache.keep(rows)`; for a GPU also `step_at(ids_B, cache, position_1)`, the same in shapes that don't grow;
- where it knows muP, `Base` (frozen, `Base.of(shape)`: the widths to scale from), which `Model` takes as `base` and keeps as `mup`, a
  `models._mup.Scaling`.
Everything found here is tested by tests/test_contract_models.py.
"""
