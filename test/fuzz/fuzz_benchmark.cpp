// fuzz_benchmark.cpp - the .jsonl files of HellaSwag and LAMBADA
#include "gpt/evaluation.h"
#include "test/fuzz/fuzz.h"
#include "test/fuzz/tokenizer.h"

// The first byte chooses the benchmark, the rest is the file.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 1) return 0;
    const FuzzFile file(text_of(data + 1, size - 1));
    return expecting_errors([&] {
        if (data[0] & 1)
            read_hellaswag(file.path(), fuzz_tokenizer());
        else
            read_lambada(file.path(), fuzz_tokenizer());
    });
}
