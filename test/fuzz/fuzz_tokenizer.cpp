// fuzz_tokenizer.cpp - tokenizer.json, and encoding with what it says
#include "data/tokenizer.h"
#include "test/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    return expecting_errors([&] {
        const Tokenizer tokenizer(text_of(data, size));
        Tokenizer::Scratch scratch;
        std::vector<int32_t> ids;
        for (const std::string_view text :
             {"the cat's 12 hats\n\n  x <|endoftext|>", "e\xcc\x81 \xef\xac\x81 \xff\xc3 \xed\x95\x9c"})
            for (const bool specials : {false, true}) tokenizer.encode(text, specials, ids, scratch);
        tokenizer.decode(ids);
        tokenizer.fingerprint();
    });
}
