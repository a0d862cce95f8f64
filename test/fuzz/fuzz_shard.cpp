// fuzz_shard.cpp - files of token ids, and the index of a Megatron pair
#include "data/shard.h"
#include "test/fuzz/fuzz.h"

// The first byte chooses: a shard, or an index whose .bin has as many bytes as the second byte says.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 2) return 0;
    const FuzzFile file(text_of(data + 2, size - 2));
    return expecting_errors([&] {
        if (data[0] & 1) {
            const MegatronIndex index = read_megatron_index(MappedFile(file.path()), "x.bin", data[1]);
            for (int64_t d = 0; d <= index.documents; d++) index.document_start(d);
            index.document_from(data[1] / 2);
            return;
        }
        const Shard shard(file.path(), data[1] & 1 ? 0 : 50257);
        std::vector<int32_t> ids(size_t(shard.tokens()));
        shard.read(0, shard.tokens(), ids.data());
        for (int64_t i = 0; i < shard.tokens(); i++) shard.counts(i);
    });
}
