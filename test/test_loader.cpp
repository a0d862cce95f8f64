// test_loader.cpp - token shards of all forms, and batches that do not depend on batch size, ranks or interruptions
#include <sys/stat.h>

#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <set>

#include "data/loader.h"
#include "kernels/random.h"
#include "test/data.h"
#include "test/scratch.h"
//
#include "test/catch.h"

namespace {

template <class T>
std::string bytes_of(const std::vector<T>& values) {
    return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}
// An llm.c shard. count: what its header says, -1 for the true number.
template <class Id>
std::string llmc(const std::vector<Id>& ids, int magic, int version, int64_t count = -1) {
    std::vector<int32_t> header(256);
    header[0] = magic, header[1] = version, header[2] = int32_t(count < 0 ? int64_t(ids.size()) : count);
    return bytes_of(header) + bytes_of(ids);
}
std::string llmc16(const std::vector<uint16_t>& ids) { return llmc(ids, 20240520, 1); }

std::vector<uint16_t> counting(int n, int first = 0) {
    std::vector<uint16_t> ids(n);
    std::iota(ids.begin(), ids.end(), uint16_t(first));
    return ids;
}
std::vector<int32_t> values(const Tensor& t) { return {t.data<int32_t>(), t.data<int32_t>() + t.numel()}; }
std::vector<int32_t> all_ids(const Shard& s) {
    std::vector<int32_t> ids(s.tokens());
    s.read(0, s.tokens(), ids.data());
    return ids;
}

}  // namespace

TEST_CASE("the form of a shard is known by its content", "[loader]") {
    const Scratch dir;
    const auto read = [&](const std::string& bytes, int64_t vocab, int width) {
        write_text(dir / "x.bin", bytes);
        const Shard s(dir / "x.bin", vocab);
        CHECK(s.width() == width);
        return all_ids(s);
    };
    std::vector<uint32_t> wide, narrow;
    std::vector<int32_t> small_ids, big_ids;
    for (int i = 0; i < 1000; i++) {
        small_ids.push_back(i * 31 % 50257), big_ids.push_back(i * 7919 % 128256);
        narrow.push_back(small_ids.back()), wide.push_back(big_ids.back());
    }
    const std::vector<uint16_t> ids16(small_ids.begin(), small_ids.end());
    CHECK(read(llmc16(ids16), 50257, 2) == small_ids);
    CHECK(read(llmc(wide, 20240801, 7), 128256, 4) == big_ids);
    CHECK(read(bytes_of(ids16), 50257, 2) == small_ids);
    CHECK(read(bytes_of(ids16), 128256, 2) == small_ids);
    CHECK(read(bytes_of(ids16), 0, 2) == small_ids);
    CHECK(read(bytes_of(narrow), 50257, 4) == small_ids);
    CHECK(read(bytes_of(wide), 128256, 4) == big_ids);
    CHECK(read(bytes_of(wide), 200000, 4) == big_ids);
    CHECK(read(bytes_of(std::vector<uint16_t>(8)), 10, 2) ==
          std::vector<int32_t>(8));  // all ids are zero, so nothing shows that they are uint32
    CHECK(read(bytes_of(std::vector<uint16_t>{5, 0, 0}), 10, 2).size() == 3);  // 6 bytes cannot be uint32
    CHECK(read(bytes_of(std::vector<uint16_t>{7, 1, 2, 0, 1, 1}), 10, 2).size() == 6);
    // Ids of single letters, two bytes each, as nanoGPT's character models have them, are not taken for text.
    CHECK(read(bytes_of(counting(65)), 65, 2).size() == 65);
}

TEST_CASE("a file that is no shard is refused as what it is", "[loader]") {
    const Scratch dir;
    const std::string path = dir / "x.bin";
    const auto refused     = [&](const std::string& bytes, std::initializer_list<const char*> words) {
        write_text(path, bytes);
        for (const char* word : words) CHECK_REFUSED((Shard{path, 50257}), "x.bin", word);
    };
    const auto ids = counting(100);
    refused("", {"is empty"});
    refused("x", {"1 byte:"});
    refused("abc", {"3 bytes", "uint16"});
    refused(llmc16(ids).substr(0, 1023), {"1023", "truncated"});
    refused(llmc16(ids).substr(0, 4), {"4 in all", "truncated"});
    refused(llmc16(ids).substr(0, 1224 - 2), {"100 tokens", "1224 bytes", "1222", "truncated"});
    refused(llmc16(ids) + "xx", {"1224 bytes", "1226"});
    refused(llmc(ids, 20240520, 1, 2147483647), {"2147483647 tokens", "4294968318 bytes", "truncated"});
    refused(llmc(ids, 20240520, 1, 0x80000000), {"-2147483648 tokens"});
    refused(llmc(ids, 20240520, 2), {"version 2", "expected 1"});
    refused(llmc(ids, 20240801, 1), {"version 1", "expected 7"});
    refused(llmc(ids, 20240522, 1), {"evaluation", "./tokenize"});
    refused(llmc(ids, 20240326, 3), {"GPT-2 model of llm.c"});
    refused(llmc(ids, 20240327, 2), {"debug state"});
    refused(llmc(ids, 20240328, 2), {"tokenizer"});
    refused(llmc(ids, 20240527, 1), {"training state"});
    refused(llmc(ids, 20240803, 1), {"Llama model"});
    refused("BIN.TOK\n" + bytes_of(ids), {"llmq", "208 in all", "truncated"});
    refused(std::string("MMIDIDX\0\0", 9) + "x", {"Megatron", "must end in .idx"});
    refused(std::string("TNTIDX\0\0", 8), {"old Megatron", "mmap"});
    refused("\x93NUMPY\x01" + bytes_of(ids), {"NumPy"});
    refused(read_text("test/golden/gpt2/model.safetensors"), {"safetensors"});
    refused("GGUF\3" + bytes_of(ids), {"GGUF"});
    refused("\x89PNG\r\n\x1a\n" + bytes_of(ids), {"PNG"});
    refused("\x1f\x8b\x08 compressed", {"archive"});
    refused("\x28\xb5\x2f\xfd compressed", {"archive"});
    refused("It is a truth universally acknowledged, that a single man", {"plain text", "./tokenize"});
    refused("Мой дядя самых честных правил, когда не в шутку занемог", {"plain text"});
    refused(std::string(5000, 'a') + "é", {"plain text"});
    write_text(dir / "x.idx", "MMIDIDX");
    CHECK_REFUSED((Shard{dir / "x.bin", 50257}), "x.idx", "header of 34 bytes", "7 in all", "truncated");
    write_text(dir / "x.idx", "TNTIDX");
    refused(bytes_of(ids), {"old Megatron", "mmap"});

    CHECK_REFUSED((Shard{dir.path, 10}), "a folder");
    CHECK_REFUSED((Shard{dir / "absent.bin", 10}), "absent.bin", "No such file");
    mkfifo((dir / "pipe").c_str(), 0600);
    CHECK_REFUSED((Shard{dir / "pipe", 10}), "pipe");
}

TEST_CASE("llmq's token files", "[loader]") {
    const Scratch dir;
    const auto file = [&](std::vector<int32_t> fields, const std::vector<int32_t>& ids) {
        fields.resize(254);
        write_text(dir / "x.bin", "BIN.TOK\n" + bytes_of(fields) + bytes_of(ids));
        return dir / "x.bin";
    };
    const std::vector<int32_t> ids = {5, 70000, 0, 128255};
    CHECK(all_ids(Shard(file({2, 4, 4, 128256, 0}, ids), 128256)) == ids);
    CHECK(all_ids(Shard(file({1, 4, 4, 99, 99}, ids), 128256)) == ids);  // version 1 had two fields fewer
    CHECK(Shard(file({2, 4, 0, 50257, 0}, {}), 50257).tokens() == 0);
    CHECK_REFUSED(Shard(file({3, 4, 4}, ids), 0), "x.bin", "version 3");
    CHECK_REFUSED(Shard(file({2, 2, 4}, ids), 0), "2 bytes per token");
    CHECK_REFUSED(Shard(file({2, 4, 4, 128256, 1}, ids), 0), "a loss mask");
    CHECK_REFUSED(Shard(file({2, 4, 5}, ids), 0), "5 tokens", "1044 bytes", "1040", "truncated");
    CHECK_REFUSED(Shard(file({2, 4, 3}, ids), 0), "3 tokens", "not an llmq");
    CHECK_REFUSED(Shard(file({2, 4, -1}, ids), 0), "-1 tokens");
    CHECK_REFUSED(all_ids(Shard(file({2, 4, 1}, {-7}), 50257)), "token -7 at position 0");
}

namespace {

// The .idx of a pair; a test sets its fields to wrong values.
struct Idx {
    uint64_t version = 1;
    uint8_t code     = 8;
    std::vector<int32_t> lengths;
    std::vector<int64_t> offsets, documents;
    int64_t s = -1, d = -1;  // the counts that the header states; -1: the true ones
    std::string modes;

    // Each sequence is a document; `tokens` holds their lengths, and an id has `width` bytes.
    Idx(uint8_t code, int64_t width, const std::vector<int32_t>& tokens) : code(code), lengths(tokens) {
        int64_t at = 0;
        for (const int32_t n : tokens) documents.push_back(offsets.size()), offsets.push_back(at), at += n * width;
        documents.push_back(offsets.size());
    }
    std::string bytes() const {
        const uint64_t counts[] = {s < 0 ? lengths.size() : uint64_t(s), d < 0 ? documents.size() : uint64_t(d)};
        return std::string("MMIDIDX\0\0", 9) + bytes_of(std::vector{version}) + char(code) +
               bytes_of(std::vector(counts, counts + 2)) + bytes_of(lengths) + bytes_of(offsets) + bytes_of(documents) +
               modes;
    }
};

template <class Id>
void pair_reads_back(int code, std::vector<Id> ids) {
    const Scratch dir;
    CAPTURE(code);
    write_text(dir / "p_text_document.bin", bytes_of(ids));
    Idx idx(uint8_t(code), sizeof(Id), {3, 0, int32_t(ids.size()) - 3});
    idx.documents = {0, 2, 3};  // a document of two sequences, the second of them empty
    write_text(dir / "p_text_document.idx", idx.bytes());
    const std::vector<int32_t> wanted(ids.begin(), ids.end());
    for (const char* name : {"p_text_document", "p_text_document.bin", "p_text_document.idx"}) {
        const Shard shard(dir / name, 0);
        CHECK(shard.width() == sizeof(Id));
        CHECK(all_ids(shard) == wanted);
        CHECK(files_matching(dir / name) == std::vector<std::string>{dir / "p_text_document.bin"});
    }
    CHECK(files_matching(dir / "p_*") == std::vector<std::string>{dir / "p_text_document.bin"});
    CHECK(files_matching(dir / "{p,q}_text_document") == std::vector<std::string>{dir / "p_text_document.bin"});
    idx.modes = std::string(3, '\1');
    write_text(dir / "p_text_document.idx", idx.bytes());
    CHECK(all_ids(Shard(dir / "p_text_document", 0)) == wanted);
    if (!std::is_signed<Id>::value) return;
    ids[3] = 4, ids[4] = Id(-2);
    write_text(dir / "p_text_document.bin", bytes_of(ids));
    CHECK_REFUSED(all_ids(Shard(dir / "p_text_document", 0)), "token -2 at position 4");
    CHECK_REFUSED(all_ids(Shard(dir / "p_text_document", 50257)), "token -2 at position 4");
}

}  // namespace

TEST_CASE("Megatron pairs of every type of id, by either half or the prefix", "[loader]") {
    pair_reads_back<uint8_t>(1, {1, 2, 3, 200, 255});
    pair_reads_back<int8_t>(2, {1, 2, 3, 100, 127});
    pair_reads_back<int16_t>(3, {1, 2, 3, 32767, 0});
    pair_reads_back<int32_t>(4, {1, 2, 3, 1 << 30, 0});
    pair_reads_back<int64_t>(5, {1, 2, 3, 1 << 30, 0});
    pair_reads_back<uint16_t>(8, {1, 2, 3, 65535, 0});
    const Scratch dir;
    write_text(dir / "x.bin", bytes_of(std::vector<int64_t>{1, int64_t(1) << 32, 3}));
    write_text(dir / "x.idx", Idx(5, 8, {3}).bytes());
    CHECK_REFUSED(all_ids(Shard(dir / "x", 50257)), "token 4294967296 at position 1");
    // Where there is an index, what looks like a header in the .bin is ids.
    write_text(dir / "x.bin", llmc16(counting(100)));
    write_text(dir / "x.idx", Idx(8, 2, {612}).bytes());
    CHECK(Shard(dir / "x", 0).tokens() == 612);
    // An .idx of another program makes no pair.
    write_text(dir / "x.idx", "something else");
    CHECK(Shard(dir / "x.bin", 0).tokens() == 100);
    write_text(dir / "empty.bin", "");
    write_text(dir / "empty.idx", Idx(8, 2, {}).bytes());
    CHECK(Shard(dir / "empty", 0).tokens() == 0);
    write_text(dir / "alone.idx", Idx(8, 2, {3}).bytes());
    CHECK_REFUSED(Shard(dir / "alone.idx", 0), "alone.bin is missing");
    CHECK_REFUSED(files_matching(dir / "alone"), "alone.bin is missing");
}

TEST_CASE("a damaged Megatron index is refused with the reason", "[loader]") {
    const Scratch dir;
    write_text(dir / "x.bin", bytes_of(counting(10)));
    const auto refused = [&](const std::string& index, std::initializer_list<const char*> words) {
        write_text(dir / "x.idx", index);
        for (const char* word : words) CHECK_REFUSED((Shard{dir / "x", 50257}), "x.idx", word);
    };
    const auto with = [&](auto change) {
        Idx idx(8, 2, {4, 6});
        change(idx);
        return idx.bytes();
    };
    const std::string good = with([](Idx&) {});
    write_text(dir / "x.idx", good);
    REQUIRE(all_ids(Shard(dir / "x", 50257)).size() == 10);
    for (size_t n = 7; n < good.size(); n++) refused(good.substr(0, n), {"truncated"});
    refused(good + "x", {"take 82 bytes, or 84 with modes", "has 83"});
    refused(with([](Idx& i) { i.version = 2; }), {"version 2", "expected 1"});
    refused(with([](Idx& i) { i.code = 6; }), {"type code 6", "floating point"});
    refused(with([](Idx& i) { i.code = 7; }), {"type code 7", "floating point"});
    for (const int code : {0, 9, 100, 255}) refused(with([&](Idx& i) { i.code = uint8_t(code); }), {"type code"});
    // Counts whose lists would overflow, or would not fit into the file.
    for (const int64_t n : {int64_t(3), int64_t(1) << 32, int64_t(1) << 61, INT64_MAX}) {
        refused(with([&](Idx& i) { i.s = n; }), {"too many", "truncated"});
        refused(with([&](Idx& i) { i.d = std::max<int64_t>(n, 4); }), {"too many", "truncated"});
    }
    refused(with([](Idx& i) { i.s = 1; }), {"1 sequences", "the file has 82"});
    refused(with([](Idx& i) { i.lengths[0] = -4; }), {"sequence 0 has -4 tokens"});
    refused(with([](Idx& i) { i.offsets[1] = 6; }), {"sequence 1 begins at byte 6", "ends at 8"});    // overlap
    refused(with([](Idx& i) { i.offsets[1] = 10; }), {"sequence 1 begins at byte 10", "ends at 8"});  // a gap
    refused(with([](Idx& i) { i.offsets[0] = -2; }), {"sequence 0 begins at byte -2"});
    refused(with([](Idx& i) { i.lengths[1] = 7; }), {"sequence 1 of 7 tokens", "x.bin has 20", "truncated"});
    refused(with([](Idx& i) { i.lengths[1] = INT32_MAX; }), {"sequence 1 of 2147483647 tokens"});
    refused(with([](Idx& i) { i.lengths[1] = 5; }), {"end at byte 18", "x.bin has 20"});
    refused(with([](Idx& i) { i.code = 4; }), {"sequence 1 begins at byte 8", "ends at 16"});
    refused(with([](Idx& i) { i.documents = {}; }), {"document index is empty"});
    refused(with([](Idx& i) { i.documents[0] = 1; }), {"document 0 begins at sequence 1, expected 0"});
    refused(with([](Idx& i) { i.documents = {0, 2, 1, 2}; }), {"document 2 begins at sequence 1, expected 2 or more"});
    refused(with([](Idx& i) { i.documents[2] = 1; }), {"end at sequence 1 of 2"});
    refused(with([](Idx& i) { i.documents[2] = -1; }), {"document 2"});
    // With any one byte changed the file is read or refused, without a crash (make check runs this under sanitizers).
    for (size_t at = 0; at < good.size(); at++)
        for (const char flip : {'\1', '\x80', '\xff'}) {
            std::string bad = good;
            bad[at]         = char(bad[at] ^ flip);
            write_text(dir / "x.idx", bad);
            size_t read = 0;
            try {
                read = all_ids(Shard(dir / "x.bin", 0)).size();
            } catch (const InputError&) {}
            CHECK(read <= 20);
        }
}

TEST_CASE("ids outside the vocabulary are found and named", "[loader]") {
    const Scratch dir;
    auto ids  = counting(10000);
    ids[7770] = 50300;
    write_text(dir / "a.bin", llmc16(counting(500)));
    write_text(dir / "b.bin", bytes_of(ids));
    LoaderSettings set;
    set.pattern = dir / "*.bin", set.context = 100, set.vocab = 50257, set.batch = 2;
    Loader loader(set);
    CHECK_REFUSED(for (int i = 0; i < 100; i++) loader.next(), "b.bin: token 50300 at position 7770", "50257 tokens",
                  "data/README.md");
    set.vocab = 50301;
    Loader fits(set);
    for (int i = 0; i < 100; i++) fits.next();
    set.vocab = 1000;  // most ids are wrong, which is found before the first batch
    CHECK_REFUSED(Loader{set}, "b.bin: token 1000 at position 1000");

    write_text(dir / "c.bin", llmc(std::vector<uint32_t>{1, 2, 0xffffffff, 4}, 20240801, 7));
    std::vector<int32_t> out(4);
    CHECK_REFUSED(Shard(dir / "c.bin", 128256).read(0, 4, out.data()), "token 4294967295 at position 2");
    CHECK_REFUSED(Shard(dir / "c.bin", 0).read(0, 4, out.data()), "token 4294967295");
    CHECK_REFUSED(Shard(dir / "c.bin", 0).read(1, 4, out.data()), "1..5 of 4");
    CHECK_REFUSED(Shard(dir / "c.bin", 0).read(-1, 1, out.data()), "of 4");
    // A wrong id among uint32 ids without a header does not make the file uint16.
    std::vector<uint32_t> wide(400, 5);
    wide[200] = 70000;
    write_text(dir / "d.bin", bytes_of(wide));
    out.resize(400);
    CHECK_REFUSED(Shard(dir / "d.bin", 50257).read(0, 400, out.data()), "token 70000 at position 200");
}

TEST_CASE("patterns", "[loader]") {
    const Scratch dir;
    for (const char* name : {"t_10.bin", "t_2.bin", "T_1.bin", "v.bin"}) write_text(dir / name, llmc16(counting(9)));
    CHECK(files_matching(dir / "t_*.bin") == std::vector<std::string>{dir / "t_10.bin", dir / "t_2.bin"});
    CHECK(files_matching(dir / "{v,T_1,v}.bin") == std::vector<std::string>{dir / "T_1.bin", dir / "v.bin"});
    CHECK(files_matching(dir / "v.bin").size() == 1);
    CHECK_REFUSED(files_matching(dir / "x_*.bin"), "x_*.bin", "no file matches", "quote the pattern");
    CHECK_REFUSED(files_matching(""), "empty");
    LoaderSettings set;
    set.context = 4, set.pattern = dir.path;
    CHECK_REFUSED(Loader{set}, "is a folder");
}

TEST_CASE("shards that ./tokenize has not finished are not taken for all there are", "[loader]") {
    const Scratch dir;
    write_text(dir / "x_train_000000.bin", llmc16(counting(10)));
    write_text(dir / "x_train_000001.bin.tmp", llmc16(counting(10)));
    CHECK_REFUSED(files_matching(dir / "x_train_*.bin"), "x_train_000001.bin.tmp", "run it again");
    CHECK_REFUSED(files_matching(dir / "x_train_000001.bin"), "x_train_000001.bin.tmp");
    CHECK(files_matching(dir / "x_train_000000.bin").size() == 1);
    fs::remove(dir / "x_train_000001.bin.tmp");
    CHECK(files_matching(dir / "x_train_*.bin").size() == 1);
}

TEST_CASE("a .bin that is cut into parts is read like the whole, without its index", "[loader]") {
    const Scratch dir;  // Pythia's Pile is published like this; the cut is within a sequence of 2049 ids
    std::vector<uint16_t> ids(3 * 2049);
    for (size_t i = 0; i < ids.size(); i++) ids[i] = uint16_t(i * 7919 % 50277);
    const std::string bytes = bytes_of(ids);
    write_text(dir / "document-00000-of-00001.bin", bytes.substr(0, 5000));
    write_text(dir / "document-00001-of-00001.bin", bytes.substr(5000));
    std::vector<int32_t> joined;
    for (const std::string& file : files_matching(dir / "*.bin"))
        for (const int32_t id : all_ids(Shard(file, 50304))) joined.push_back(id);
    CHECK(joined == std::vector<int32_t>(ids.begin(), ids.end()));
}

TEST_CASE("no sequence crosses shards, the last partial one is left out, and each is used once in an epoch",
          "[loader]") {
    const Scratch dir;
    // With sequences of 4 + 1 tokens, 25 tokens have 6 sequences, 24 have 5, and 4, 1 or none have none.
    write_text(dir / "a.bin", llmc16(counting(25, 100)));
    write_text(dir / "b.bin", bytes_of(counting(4, 200)));
    write_text(dir / "c.bin", llmc16({}));
    write_text(dir / "d.bin", llmc16(counting(24, 300)));
    write_text(dir / "e.bin", llmc16({400}));
    LoaderSettings set;
    set.pattern = dir / "*.bin", set.context = 4, set.vocab = 1000, set.shuffle = false;
    Loader in_order(set);
    CHECK(in_order.sequences() == 11);
    CHECK(in_order.tokens() == 25 + 4 + 24 + 1);
    for (int turn = 0; turn < 2; turn++)
        for (int first : {100, 104, 108, 112, 116, 120, 300, 304, 308, 312, 316}) {
            const Batch& b = in_order.next();
            CHECK(b.tokens.shape == Shape{1, 4});
            CHECK(values(b.tokens) == std::vector<int32_t>{first, first + 1, first + 2, first + 3});
            CHECK(values(b.targets) == std::vector<int32_t>{first + 1, first + 2, first + 3, first + 4});
        }
    CHECK(in_order.position() == LoaderPosition{2, 0});

    set.shuffle = true;
    std::set<std::vector<int32_t>> orders;
    for (uint64_t seed : {1, 2}) {
        set.seed = seed;
        Loader shuffled(set);
        for (int epoch = 0; epoch < 3; epoch++) {
            std::vector<int32_t> firsts;
            for (int i = 0; i < 11; i++) firsts.push_back(values(shuffled.next().tokens)[0]);
            orders.insert(firsts);
            std::sort(firsts.begin(), firsts.end());
            CHECK(firsts == std::vector<int32_t>{100, 104, 108, 112, 116, 120, 300, 304, 308, 312, 316});
        }
    }
    CHECK(orders.size() == 6);

    set.context = 24;
    CHECK(Loader{set}.sequences() == 1);
    set.context = 25;
    CHECK_REFUSED(Loader{set}, "context + 1 = 26", "a.bin", "has 25", "--context 24", "54 tokens in 5 shards");
    set.context = 0;
    CHECK_REFUSED(Loader{set}, "context 0");
    set.context = int64_t(1) << 40;
    CHECK_REFUSED(Loader{set}, "context 1099511627776");
}

TEST_CASE("the order of the data does not depend on batch, ranks or where a run was interrupted", "[loader]") {
    const Scratch dir;
    write_text(dir / "a.bin", llmc16(counting(70)));
    write_text(dir / "b.bin", llmc16(counting(45, 1000)));
    LoaderSettings set;
    set.pattern = dir / "*.bin", set.context = 3, set.vocab = 2000, set.seed = 9;
    std::vector<int32_t> one_by_one;
    Loader single(set);
    REQUIRE(single.sequences() == 23 + 14);
    for (int i = 0; i < 240; i++) {
        const auto t = values(single.next().tokens);
        one_by_one.insert(one_by_one.end(), t.begin(), t.end());
    }
    struct Case {
        int batch, world;
    };
    for (const Case c : {Case{240, 1}, {5, 1}, {2, 3}, {1, 4}, {40, 2}, {24, 5}, {5, 8}, {30, 8}}) {
        CAPTURE(c.batch, c.world);
        std::vector<Loader> ranks;
        for (int r = 0; r < c.world; r++) {
            LoaderSettings s = set;
            s.batch = c.batch, s.rank = r, s.world = c.world;
            ranks.emplace_back(s);
        }
        std::vector<int32_t> together;
        for (int step = 0; step < 240 / (c.batch * c.world); step++)
            for (Loader& rank : ranks) {
                const auto t = values(rank.next().tokens);
                together.insert(together.end(), t.begin(), t.end());
            }
        CHECK(together == one_by_one);
        for (Loader& rank : ranks) CHECK(rank.position() == LoaderPosition{240 / 37, 240 % 37});
    }
    // A run that saved its position after 100 sequences resumes at the 101st, whatever its batch size is.
    Loader before(set);
    for (int i = 0; i < 100; i++) before.next();
    set.batch = 7;
    Loader after(set);
    after.seek(before.position());
    CHECK(values(after.next().tokens) == std::vector<int32_t>(one_by_one.begin() + 300, one_by_one.begin() + 321));
    after.rewind();
    CHECK(values(after.next().tokens) == std::vector<int32_t>(one_by_one.begin(), one_by_one.begin() + 21));
    // Of sequences of 4 tokens, 5 have as many as 6 of ours and two thirds of the next, which is not left out.
    after.seek({0, 5}, 4);
    CHECK(after.position() == LoaderPosition{0, 6});
    after.seek({1, 30}, 4);
    CHECK(after.position() == LoaderPosition{2, 120 / 3 - 37});
    after.seek({0, 36}, 3);
    CHECK(after.position() == LoaderPosition{0, 36});
    CHECK_REFUSED((after.seek({0, 37})), "sequence 37", "37 sequences");
    CHECK_REFUSED((after.seek({0, -1})), "sequence -1");
    CHECK_REFUSED((after.seek({-1, 0})), "epoch -1");
    set.rank = 2, set.world = 2;
    CHECK_REFUSED(Loader{set}, "rank 2 of 2");
}

TEST_CASE("sequences are read in their order, wherever the series is cut into shards", "[loader]") {
    const Scratch dir;
    const auto ids = counting(103);  // 12 sequences of 8 + 1 ids, of which the last is not complete
    const auto cut = [&](int from, int to) {
        return bytes_of(std::vector<uint16_t>(ids.begin() + from, ids.begin() + to));
    };
    write_text(dir / "whole.bin", cut(0, 103));
    const std::vector<int> ends = {0, 5, 6, 40, 45, 103};
    for (size_t i = 0; i + 1 < ends.size(); i++)
        write_text(dir / fmt::format("part-{}.bin", i), cut(ends[i], ends[i + 1]));
    for (const char* name : {"whole.bin", "part-*.bin"}) {
        LoaderSettings set{dir / name, 2, 8, 200, 7};
        set.series = true;
        Loader loader(set);
        CAPTURE(name);
        REQUIRE(loader.sequences() == 11);
        for (int i = 0; i < 24; i += 2) {  // more than two epochs
            const Batch& batch = loader.next();
            const auto inputs = values(batch.tokens), targets = values(batch.targets);
            for (int b = 0; b < 2; b++)
                for (int t = 0; t < 8; t++) {
                    CHECK(inputs[b * 8 + t] == (i + b) % 11 * 9 + t);
                    CHECK(targets[b * 8 + t] == (i + b) % 11 * 9 + t + 1);
                }
        }
        const std::string as_sequences = loader.fingerprint();
        set.series                     = false;
        CHECK(Loader(set).fingerprint() != as_sequences);  // so that --resume refuses to change the order
    }
}

TEST_CASE("rows have the starts of their documents", "[loader]") {
    const Scratch dir;
    write_text(dir / "a.bin", bytes_of(std::vector<uint16_t>{7, 0, 1, 2, 0, 0, 3, 4, 5, 6, 7, 0, 9}));
    LoaderSettings set;
    set.pattern = dir / "a.bin", set.context = 6, set.batch = 2, set.shuffle = false;
    CHECK_FALSE(Loader(set).next().starts);
    set.document_token = 0;
    Loader loader(set);
    const Batch& batch = loader.next();
    CHECK(values(batch.tokens) == std::vector<int32_t>{7, 0, 1, 2, 0, 0, /**/ 3, 4, 5, 6, 7, 0});
    CHECK(values(batch.starts) == std::vector<int32_t>{0, 1, 1, 1, 4, 5, /**/ 0, 0, 0, 0, 0, 5});
    CHECK(values(batch.positions) == std::vector<int32_t>{0, 0, 1, 2, 0, 0, /**/ 0, 1, 2, 3, 4, 0});
}

TEST_CASE("the index of a pair says where documents without a mark begin", "[loader]") {
    const Scratch dir;
    LoaderSettings set;
    set.pattern = dir / "p", set.context = 6, set.batch = 2, set.shuffle = false, set.document_token = 0;
    Idx idx(8, 2, {3, 0, 2, 4, 4});
    idx.documents = {0, 1, 3, 4, 5};  // they begin at ids 0, 3, 5, 9; the second has an empty sequence in front
    write_text(dir / "p.idx", idx.bytes());
    write_text(dir / "p.bin", bytes_of(std::vector<uint16_t>{7, 8, 9, 1, 2, 3, 4, 5, 6, 1, 2, 3, 4}));
    Loader pair(set);
    const Batch& bare = pair.next();
    CHECK(values(bare.starts) == std::vector<int32_t>{0, 0, 0, 3, 3, 5, /**/ 0, 0, 0, 3, 3, 3});
    CHECK(values(bare.positions) == std::vector<int32_t>{0, 1, 2, 0, 1, 0, /**/ 0, 1, 2, 0, 1, 2});
    // Where documents end with the mark, the next begins at that mark, with or without an index.
    write_text(dir / "p.bin", bytes_of(std::vector<uint16_t>{7, 8, 0, 1, 0, 3, 4, 5, 0, 1, 2, 3, 0}));
    const std::vector<int32_t> marked = values(Loader(set).next().starts);
    CHECK(marked == std::vector<int32_t>{0, 0, 2, 2, 4, 4, /**/ 0, 0, 2, 2, 2, 2});
    fs::remove(dir / "p.idx");
    set.pattern = dir / "p.bin";
    CHECK(values(Loader(set).next().starts) == marked);
}

TEST_CASE("a step may have more sequences than the data", "[loader]") {
    const Scratch dir;
    write_text(dir / "a.bin", llmc16(counting(9)));  // two sequences
    LoaderSettings set;
    set.pattern = dir / "a.bin", set.context = 4, set.batch = 3, set.world = 8;
    std::map<int32_t, int> times;
    for (set.rank = 0; set.rank < set.world; set.rank++) {
        Loader loader(set);
        for (int step = 0; step < 5; step++) {
            const auto ids = values(loader.next().tokens);
            for (int b = 0; b < 3; b++) times[ids[4 * b]]++;
        }
        CHECK(loader.position() == LoaderPosition{5 * 24 / 2, 0});
    }
    CHECK(times == std::map<int32_t, int>{{0, 60}, {4, 60}});  // both are used equally often
}

TEST_CASE("the fingerprint changes with the data", "[loader]") {
    const Scratch dir, moved;
    LoaderSettings set;
    set.pattern = dir / "*.bin", set.context = 3, set.vocab = 50000;
    auto ids         = counting(9000);
    const auto print = [&] { return Loader(set).fingerprint(); };
    write_text(dir / "a.bin", llmc16(ids));
    const std::string first = print();
    CHECK(first.size() == 16);
    CHECK(print() == first);
    ids[8999] = 1;
    write_text(dir / "a.bin", llmc16(ids));
    CHECK(print() != first);
    ids[8999] = 8999;
    write_text(dir / "a.bin", llmc16(ids));
    CHECK(print() == first);
    write_text(dir / "b.bin", llmc16(ids));
    CHECK(print() != first);
    write_text(moved / "a.bin", llmc16(ids));
    set.pattern = moved / "a.bin";
    CHECK(print() == first);  // the folder does not matter
    write_text(moved / "c.bin", llmc16(ids));
    set.pattern = moved / "c.bin";
    CHECK(print() != first);
}

TEST_CASE("shards beyond 2^31 tokens", "[loader]") {
    const Scratch dir;
    const std::string path = dir / "big.bin";
    const int64_t tokens   = (int64_t(1) << 31) + 5000;
    write_text(path, bytes_of(counting(4096, 1)));
    if (truncate(path.c_str(), 2 * tokens) != 0) {  // a hole in the file, where the file system supports that
        WARN("skipped: no room for a sparse file of 4 GB");
        return;
    }
    const auto end = counting(1000, 30000);
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(2 * (tokens - 1000));
    file.write(reinterpret_cast<const char*>(end.data()), 2000);
    file.close();
    LoaderSettings set;
    set.pattern = path, set.context = 1000, set.vocab = 50257, set.shuffle = false;
    Loader loader(set);
    CHECK(loader.tokens() == tokens);
    CHECK(loader.sequences() == (tokens - 1) / 1000);
    loader.seek({0, loader.sequences() - 1});
    const Batch& last = loader.next();
    const int64_t at  = (loader.sequences() - 1) * 1000;
    std::vector<int32_t> expected(1000);
    for (int i = 0; i < 1000; i++) expected[i] = at + i < tokens - 1000 ? 0 : int32_t(30000 + at + i - (tokens - 1000));
    CHECK(values(last.tokens) == expected);
    CHECK(expected[999] > 30000);
}

TEST_CASE("pairs that Megatron and GPT-NeoX wrote", "[loader]") {
    struct Known {
        const char* prefix;
        int64_t sequences, tokens, end;  // end: the id that every document ends with
    };
    for (const Known& k : {Known{"data/megatron/meg-gpt2-openwebtext_text_document", 1000, 1361845, 4999},
                           {"data/megatron/neox_sample_text_document", 7, 160, 0}}) {
        const std::string bin = shared_data(std::string(k.prefix) + ".bin");
        if (bin.empty()) continue;
        const std::string prefix = bin.substr(0, bin.size() - 4), ids = read_text(bin),
                          idx = read_text(prefix + ".idx");
        CAPTURE(prefix);
        const auto number = [&](size_t at, int bytes) {
            uint64_t n = 0;
            for (int i = 0; i < bytes; i++) n |= uint64_t(uint8_t(idx.at(at + i))) << 8 * i;
            return int64_t(n);
        };
        REQUIRE(number(18, 8) == k.sequences);
        std::vector<int32_t> decoded;
        for (int64_t s = 0; s < k.sequences; s++) {
            const int64_t length = number(34 + 4 * s, 4), offset = number(34 + 4 * k.sequences + 8 * s, 8);
            for (int64_t i = 0; i < length; i++)
                decoded.push_back(uint8_t(ids.at(offset + 2 * i)) + 256 * uint8_t(ids.at(offset + 2 * i + 1)));
            REQUIRE(decoded.back() == k.end);
        }
        REQUIRE(int64_t(decoded.size()) == k.tokens);
        CHECK(all_ids(Shard(prefix, 50304)) == decoded);
        LoaderSettings set;
        set.pattern = prefix, set.vocab = 50304, set.context = 64, set.shuffle = false;
        Loader loader(set);
        for (int64_t i = 0; i < loader.sequences(); i++) {
            const auto x = values(loader.next().tokens);
            REQUIRE(std::equal(x.begin(), x.end(), decoded.begin() + i * 64));
        }
    }
}

TEST_CASE("a Megatron pair beyond 2 GB and 2^31 tokens", "[loader]") {
    const Scratch dir;
    const std::string path = dir / "big.bin";
    const int64_t each = 1 << 30, tokens = 2 * each + 7;
    write_text(path, "");
    if (truncate(path.c_str(), 2 * tokens) != 0) {  // a hole in the file, where the file system supports that
        WARN("skipped: no room for a sparse file of 4 GB");
        return;
    }
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(2 * (tokens - 7));
    file << bytes_of(counting(7, 500));
    file.close();
    write_text(dir / "big.idx", Idx(8, 2, {int32_t(each), int32_t(each), 7}).bytes());
    const Shard shard(dir / "big", 50257);
    CHECK(shard.tokens() == tokens);
    std::vector<int32_t> end(9);
    shard.read(tokens - 9, 9, end.data());
    CHECK(end == std::vector<int32_t>{0, 0, 500, 501, 502, 503, 504, 505, 506});
}

TEST_CASE("shards that llm.c and nanoGPT wrote", "[loader]") {
    struct Known {
        const char* file;
        int64_t skip, tokens, ends;  // bytes of header, ids, and how many of them are 50256
    };
    const Known known[] = {{"data/llmc/tiny_shakespeare_val.bin", 1024, 32768, -1},
                           {"data/nanogpt/shakespeare_train.bin", 0, 301966, 0},
                           {"data/nanogpt/shakespeare_val.bin", 0, 36059, 0},
                           {"data/nanogpt/tinystories_small.bin", 0, 19839, 106}};
    for (const Known& k : known) {
        const std::string path = shared_data(k.file);
        if (path.empty()) continue;
        CAPTURE(path);
        const std::string bytes = read_text(path);
        std::vector<int32_t> decoded;
        for (size_t i = k.skip; i + 1 < bytes.size(); i += 2)
            decoded.push_back(uint8_t(bytes[i]) + 256 * uint8_t(bytes[i + 1]));
        REQUIRE(int64_t(decoded.size()) == k.tokens);

        LoaderSettings set;
        set.pattern = path, set.vocab = 50257, set.context = 64, set.batch = 3, set.shuffle = false;
        Loader loader(set);
        CHECK(loader.tokens() == k.tokens);
        std::vector<int32_t> tokens, targets;
        for (int64_t i = 0; i < loader.sequences() / 3; i++) {
            const Batch& b = loader.next();
            const auto x = values(b.tokens), y = values(b.targets);
            tokens.insert(tokens.end(), x.begin(), x.end());
            targets.insert(targets.end(), y.begin(), y.end());
        }
        CHECK(std::equal(tokens.begin(), tokens.end(), decoded.begin()));
        CHECK(std::equal(targets.begin(), targets.end(), decoded.begin() + 1));
        const auto whole = all_ids(Shard(path, 50257));
        CHECK(whole == decoded);
        if (k.ends >= 0)
            CHECK(std::count(whole.begin(), whole.end(), 50256) == k.ends);
        else
            CHECK(whole[0] == 50256);
        CHECK_REFUSED(Shard(path, 1000).read(0, k.tokens, decoded.data()), "1000 tokens");
    }
}
