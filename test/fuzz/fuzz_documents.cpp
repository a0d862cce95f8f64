// fuzz_documents.cpp - text, JSON in all layouts, zstd and gzip, as tokenize reads them
#include "data/documents.h"
#include "data/unicode.h"
#include "test/fuzz/fuzz.h"

// The first byte chooses the settings, the rest is the file.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 1) return 0;
    ReadSettings settings;
    const char* formats[]   = {"auto", "auto", "text", "jsonl"};
    settings.format         = formats[data[0] & 3];
    settings.keep_any_bytes = data[0] & 4;
    settings.part_bytes     = data[0] & 8 ? 64 : 1 << 20;
    settings.last_cut       = [](std::string_view text, size_t from) { return unicode::last_split(text, from); };
    const FuzzFile file(text_of(data + 1, size - 1));
    return expecting_errors([&] {
        Documents documents({{1, {file.path()}}}, settings);
        std::string buffer;
        documents.read([&](const TextBlock& block) {
            for (const Part& part : block.parts)
                if (part.kind != Part::fault) expecting_errors([&] { documents.text_of(block, part, buffer); });
        });
    });
}
