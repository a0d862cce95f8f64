// attention_mask.h - which keys a query sees: one rule for both halves of attention
#pragma once
#include "tensor.h"

// The query at position t sees the keys s with first_key(t, start, window) <= s <= t, where `start` is the first
// position of its document. Every query sees itself: a start outside [0, t] is moved to the nearer end.
template <class I>
HD I first_key(I t, I start, I window) {
    const I document_start = start < 0 ? 0 : start > t ? t : start;
    const I window_start   = t - window + 1;
    return window_start > document_start ? window_start : document_start;
}
