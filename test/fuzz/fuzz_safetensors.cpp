// fuzz_safetensors.cpp - .safetensors files, the index of a sharded folder, and the names of weights in them
#include "gpt/hf.h"
#include "test/fuzz/fuzz.h"
#include "test/scratch.h"

static void read_all(const SafetensorsReader& file) {
    std::vector<float> values;
    for (const auto& item : file.tensors()) {
        const StoredTensor& t = item.second;
        if (t.bytes > 1 << 16) continue;
        values.resize(size_t(t.shape.numel()));
        expecting_errors([&] { t.read_into(values.data()); });
    }
    stored_dtype(file);
    static const Config c = [] {
        Config gpt2;
        gpt2.model_type = "gpt2";
        gpt2.layers = gpt2.heads = 1;
        gpt2.width = gpt2.feed_forward = gpt2.context = gpt2.vocab = 2;
        return gpt2;
    }();
    static const auto weights = hf_weights(c);
    const HfNames names(file, family_of(c).prefix, weights.at("lnf.weight").names[0]);
    const TablesInFile tables(names, weights, true);
    if (!tables.table.empty()) extra_tensors(file, {}, tables, c);
}

// The first byte chooses: a file, or a folder whose index and whose shard a.safetensors are separated by a byte 1.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 1) return 0;
    const std::string_view rest = text_of(data + 1, size - 1);
    if (data[0] & 1) {
        static const Scratch folder;
        const size_t end = std::min(rest.find('\1'), rest.size());
        write_text(folder / "model.safetensors.index.json", std::string(rest.substr(0, end)));
        write_text(folder / "a.safetensors", std::string(rest.substr(std::min(end + 1, rest.size()))));
        return expecting_errors([&] { read_all(SafetensorsReader(folder.path)); });
    }
    const FuzzFile file(rest);
    return expecting_errors([&] { read_all(SafetensorsReader(file.path())); });
}
