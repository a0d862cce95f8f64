// tokenizer.h - a small tokenizer for fuzz targets whose readers need one
#pragma once
#include "data/bpe_training.h"
#include "data/tokenizer.h"

inline const Tokenizer& fuzz_tokenizer() {
    static const Tokenizer tokenizer([] {
        WordCounts words;
        words.add("the sea was calm, the wind was high; the other day the ship's bell rang\n");
        return BpeTraining(words).learn(260);
    }());
    return tokenizer;
}
