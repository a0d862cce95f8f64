// fuzz_benchmark.cpp - the .jsonl files of HellaSwag and LAMBADA
#include "data/bpe_training.h"
#include "gpt/evaluation.h"
#include "test/fuzz/fuzz.h"

// The first byte chooses the benchmark, the rest is the file.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 1) return 0;
    static const Tokenizer tokenizer([] {
        WordCounts words;
        words.add("the sea was calm, the wind was high; the other day the ship's bell rang\n");
        return BpeTraining(words).learn(260);
    }());
    const FuzzFile file(text_of(data + 1, size - 1));
    return expecting_errors([&] {
        if (data[0] & 1)
            read_hellaswag(file.path(), tokenizer);
        else
            read_lambada(file.path(), tokenizer);
    });
}
