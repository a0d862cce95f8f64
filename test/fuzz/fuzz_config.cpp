// fuzz_config.cpp - config.json and generation_config.json of a model folder
#include "gpt/hf.h"
#include "test/fuzz/fuzz.h"
#include "test/scratch.h"

// The input is config.json, and behind a byte 1 generation_config.json.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const Scratch folder;
    const std::string_view all = text_of(data, size);
    const size_t end           = std::min(all.find('\1'), all.size());
    write_text(folder / "config.json", std::string(all.substr(0, end)));
    write_text(folder / "generation_config.json", std::string(all.substr(std::min(end + 1, all.size()))));
    return expecting_errors([&] {
        const Config c = read_config(folder.path);
        config_json(c, DType::BF16).dump();
        if (c.layers <= 16) hf_weights(c);
    });
}
