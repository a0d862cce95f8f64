// new_tokens.h - gives a model the tokens that a tokenizer has beyond the model's own (--add-tokens)
#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "gpt/config.h"
#include "gpt/params.h"

// The ids that a tokenizer has beyond those of a model, as [first, end), and the vocabulary of the model's files.
struct NewTokens {
    int64_t first = 0, end = 0, stored_vocab = 0;
};

// Gives a model the ids of a tokenizer that has more tokens than its own, of which it must have all. own: the model's
// tokenizer, or null if it has none. where: the new one, for errors.
inline NewTokens add_tokens(Config& c, const Tokenizer* own, const Tokenizer& tokenizer, const std::string& where) {
    NewTokens added{own ? std::min<int64_t>(own->vocab_size(), c.vocab) : c.vocab, tokenizer.vocab_size(), c.vocab};
    for (int32_t id = 0; own && id < own->vocab_size(); id++)
        CHECK(id < tokenizer.vocab_size() && tokenizer.bytes_of(id) == own->bytes_of(id),
              "--add-tokens: token {} of {} is not that of the model's tokenizer; tokenize --add-tokens makes one that "
              "adds to it",
              id, where);
    CHECK(own || tokenizer.vocab_size() >= c.vocab,
          "--add-tokens: {} has {} tokens, fewer than the {} of the model, whose own tokenizer is not in its folder",
          where, tokenizer.vocab_size(), c.vocab);
    c.vocab = std::max(c.vocab, added.end);
    return added;
}

// Sets the rows of new tokens, in the token table or the head, to the mean of the rows before them. A token that has
// never been seen is then neither likely nor unlikely, where a random row would disturb every logit. Other weights
// stay.
inline void set_new_rows(const ParamRow& r, const Config& c, const NewTokens& added, Stream s) {
    if (!r.per_id || added.first >= added.end) return;
    std::vector<float> rows = floats_of(*r.tensor, s);
    const int64_t width     = int64_t(rows.size()) / c.padded_vocab();
    for (int64_t i = 0; i < width; i++) {
        double sum = 0;
        for (int64_t id = 0; id < added.first; id++) sum += rows[id * width + i];
        for (int64_t id = added.first; id < added.end; id++) rows[id * width + i] = float(sum / double(added.first));
    }
    from_host(*r.tensor, rows, s);
}
