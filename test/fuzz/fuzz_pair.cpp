// fuzz_pair.cpp - vocab.json, merges.txt and the files beside them
#include <filesystem>
#include <fstream>

#include "data/tokenizer.h"
#include "test/fuzz/fuzz.h"
#include "test/scratch.h"

// The input is the files one after another, each behind a byte 1 except the first.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const Scratch folder;
    std::string_view rest = text_of(data, size);
    for (const char* name :
         {"vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json", "special_tokens_map.json"}) {
        const size_t end = std::min(rest.find('\1'), rest.size());
        if (rest.empty())
            std::filesystem::remove(folder / name);
        else
            write_text(folder / name, std::string(rest.substr(0, end)));
        rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    return expecting_errors([&] { Tokenizer::load(folder / "vocab.json").encode("the cat's hat"); });
}
