"""All rules on one token, in NumPy and loops, as they are described."""

import numpy as np

from coopgen_jax.decoding.rules.stop import StopStrings


def softmax(logits):
    p = np.exp(logits - logits.max())
    return p / p.sum()


def only(logits, kept):
    return np.where(np.isin(np.arange(len(logits)), list(kept)), logits, -np.inf)


def best_until(order, p, mass):
    """Returns the tokens in this order up to the first at which their probability is enough."""
    kept, total = [], 0.0
    for token in order:
        kept.append(token)
        total += p[token]
        if total >= mass:
            break
    return kept


def slow_constraints(rules, logits, text, length, state, given, ends):
    """Rules out what a text of `length` new tokens may not go on with."""
    out = logits.copy()
    for word in rules.bad_words:
        if tuple(text[len(text) - len(word) + 1 :]) == word[:-1] and len(text) >= len(word) - 1:
            out[word[-1]] = -np.inf
    if length < rules.min_tokens:
        for token in range(len(logits)):
            stops = isinstance(rules.stop, StopStrings) and rules.stop.table[state, token] == -1
            if token in ends or stops:
                out[token] = -np.inf
    if length < len(rules.forced):
        out = only(given, [rules.forced[length]])
    return out


def slow_truncations(rules, out):
    """Keeps what may be drawn of tempered logits."""
    vocab = len(out)
    if rules.top_k:
        out = only(out, sorted(range(vocab), key=lambda v: (-out[v], v))[: rules.top_k])
    if rules.top_p < 1:
        p = softmax(out)
        out = only(out, best_until(np.argsort(-p, kind="stable"), p, rules.top_p))
    if rules.min_p:
        p = softmax(out)
        out = only(out, np.flatnonzero(p >= rules.min_p * p.max()))
    if rules.typical_p < 1:
        p = softmax(out)
        surprise = -np.log(np.where(p > 0, p, 1e-300))
        away = np.where(p > 0, np.abs(surprise - (p * surprise).sum()), np.inf)
        out = only(out, best_until(np.argsort(away, kind="stable"), p, rules.typical_p))
    if rules.eta:
        p = softmax(out)
        entropy = -sum(x * np.log(x) for x in p if x > 0)
        cut = min(rules.eta, np.sqrt(rules.eta) * np.exp(-entropy))
        out = only(out, [v for v in range(vocab) if p[v] >= cut or p[v] == p.max()])
    return out


def slow_shape(rules, logits, text, length, state, ends, *, green=None):
    """Applies all rules to the logits of one token.

    Args:
      rules: the rules; a watermark of theirs is a greenlist.
      logits: `[V]` of the language model.
      text: the tokens in front, the prompt's among them.
      length: how many of them are new.
      state: of the stop strings.
      ends: ids that end a text.
      green: `[V]` bool the green tokens of the next place.
    """
    out = logits.copy()
    for token in set(text):
        out[token] *= 1 / rules.repetition_penalty if out[token] > 0 else rules.repetition_penalty
    n = rules.no_repeat_ngram
    if n:
        grams = {tuple(text[at : at + n]) for at in range(len(text) - n + 1)}
        for token in range(len(logits)):
            if (*text[len(text) - n + 1 :], token) in grams:
                out[token] = -np.inf
    for token, bias in rules.token_bias:
        out[token] += bias
    out = slow_constraints(rules, out, text, length, state, logits, ends)
    if rules.watermark is not None:
        out = out + green * rules.watermark.delta
    if rules.temperature == 0:
        return out
    return slow_truncations(rules, out / rules.temperature)
