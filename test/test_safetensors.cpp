// test_safetensors.cpp - good files, files with a false header, shards, and writing until the disk is full
#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <fstream>
#include <functional>

#include "gpt/safetensors.h"
#include "test/scratch.h"
// Catch2 comes last, because its CHECK replaces ours.
#include "test/catch.h"

namespace {

std::string with_header(const std::string& header, const std::string& data, int64_t length = -1) {
    const uint64_t n = length < 0 ? header.size() : uint64_t(length);
    return std::string(reinterpret_cast<const char*>(&n), 8) + header + data;
}
std::string entry(const char* name, const char* dtype, const std::string& shape, const std::string& offsets) {
    return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":{}}})", name, dtype, shape, offsets);
}
template <class T>
std::string bytes_of(std::initializer_list<T> values) {
    return std::string(reinterpret_cast<const char*>(values.begin()), values.size() * sizeof(T));
}
std::string golden(const std::string& name) { return "test/golden/" + name + "/model.safetensors"; }

}  // namespace

TEST_CASE("safetensors reads what a file holds", "[safetensors]") {
    const Scratch dir;
    const std::string path   = dir / "ok.safetensors";
    // The header has metadata and padding, and its order is not that of the offsets. The file has an empty tensor, a
    // scalar, and a tensor at an odd address.
    const std::string header = "{" + entry("b", "F32", "[2,1]", "[3,11]") + "," + entry("a", "U8", "[3]", "[0,3]") +
                               "," + entry("none", "F32", "[0,7]", "[3,3]") + "," +
                               entry("one", "BF16", "[]", "[11,13]") + R"(,"__metadata__":{"format":"pt"}}   )";
    write_text(path, with_header(header, "xyz" + bytes_of<float>({1.5f, -2.f}) + bytes_of<uint16_t>({0x3f80})));
    const SafetensorsReader file(path);
    CHECK(file.tensors().size() == 4);
    CHECK(file.at("a").dtype == "U8");
    CHECK(std::memcmp(file.at("a").data, "xyz", 3) == 0);
    float b[2], one;
    file.at("b", {2, 1}).read_into(b);
    file.at("one", {}).read_into(&one);
    CHECK(b[0] == 1.5f);
    CHECK(b[1] == -2.f);
    CHECK(one == 1.f);
    CHECK(file.at("none").bytes == 0);
    CHECK(file.find("c") == nullptr);
    CHECK_REFUSED(file.at("c"), "ok.safetensors", "\"c\"");
    CHECK_REFUSED(file.at("b", {1, 2}), "\"b\"", "(2, 1)", "(1, 2)");
    CHECK_REFUSED(file.at("a").read_into(b), "\"a\"", "U8", "F16");
}

TEST_CASE("the metadata of a safetensors file names tensors that share memory", "[safetensors]") {
    const Scratch dir;
    const auto tensors = [&](const std::string& metadata) {
        write_text(dir / "shared.safetensors",
                   with_header("{" + entry("a", "F32", "[2]", "[0,8]") + R"(,"__metadata__":)" + metadata + "}",
                               bytes_of<float>({1.5f, -2.f})));
        return SafetensorsReader(dir / "shared.safetensors").tensors().size();
    };
    CHECK(tensors(R"({"format":"pt","b":"a","c":"a"})") == 3);
    const SafetensorsReader file(dir / "shared.safetensors");
    float b[2];
    file.at("b", {2}).read_into(b);
    CHECK(b[1] == -2.f);
    CHECK(file.at("c").name == "c");
    CHECK(file.at("c").data == file.at("a").data);
    CHECK(tensors(R"({"a":"a"})") == 1);             // a tensor is itself already
    CHECK(tensors(R"({"b":"absent","c":7})") == 1);  // these name no tensor
    CHECK(tensors("[]") == 1);
    CHECK(tensors("null") == 1);
}

TEST_CASE("safetensors refuses files whose header is false, and says what is false", "[safetensors]") {
    struct Lie {
        std::string name, text;
        std::vector<std::string> words;
    };
    const std::string ok = entry("a", "F32", "[2]", "[0,8]"), eight(8, 'x'), big = "9223372036854775807";
    const auto one = [&](const char* dtype, const std::string& shape, const std::string& offsets) {
        return with_header("{" + entry("a", dtype, shape, offsets) + "}", eight);
    };
    const Lie lies[] = {
        {"empty", "", {"0 bytes"}},
        {"seven bytes", "1234567", {"7 bytes"}},
        {"header longer than the file", with_header("{}", "", 3), {"header of 3 bytes", "truncated"}},
        {"header of 2^64 - 1", std::string(8, '\xff') + "{}", {"18446744073709551615", "truncated"}},
        {"header over the limit", with_header("{}", "", 100'000'001), {"100000001"}},
        {"no header", with_header("", ""), {"not JSON"}},
        {"text", "GPT-2 is a language model, and this is not its weights.", {"truncated, or not a safetensors file"}},
        {"an array", with_header("[]", ""), {"not JSON"}},
        {"unfinished JSON", with_header("{\"a\":", ""), {"not valid JSON"}},
        {"something after the JSON", with_header("{}{", ""), {"not valid JSON"}},
        {"not UTF-8", with_header("{\"\xff\":1}", ""), {"not valid JSON"}},
        {"deep", with_header("{\"a\":" + std::string(10000, '['), ""), {"levels"}},
        {"a tensor twice", with_header("{" + ok + "," + ok + "}", eight), {"\"a\"", "twice"}},
        {"a key twice", with_header(R"({"a":{"dtype":"F32","dtype":"F32"}})", ""), {"\"dtype\"", "twice"}},
        {"a tensor that is a number", with_header("{\"a\":1}", ""), {"\"a\"", "needs dtype"}},
        {"no offsets", with_header(R"({"a":{"dtype":"F32","shape":[]}})", ""), {"\"a\"", "data_offsets"}},
        {"unknown dtype", one("F33", "[2]", "[0,8]"), {"\"a\"", "F33"}},
        {"empty dtype", one("", "[2]", "[0,8]"), {"\"a\"", "dtype"}},
        {"shape that is a number", one("F32", "2", "[0,8]"), {"\"a\"", "shape 2"}},
        {"negative size", one("F32", "[-2]", "[0,8]"), {"\"a\"", "-2 is no size"}},
        {"size with a fraction", one("F32", "[2.0]", "[0,8]"), {"\"a\"", "2.0 is no size"}},
        {"size over 2^63", one("F32", "[9223372036854775808]", "[0,8]"), {"is no size"}},
        {"size over 2^64", one("F32", "[18446744073709551616]", "[0,8]"), {"is no size"}},
        {"six dimensions", one("F32", "[1,1,1,1,1,2]", "[0,8]"), {"at most 5"}},
        {"product wraps to 8", one("F32", "[4294967296,4294967296,2]", "[0,8]"), {"overflows"}},
        {"product wraps to 2", one("F32", "[2,9223372036854775807,9223372036854775807]", "[0,8]"), {"overflows"}},
        {"bytes overflow", one("F32", "[" + big + "]", "[0,8]"), {"overflows"}},
        {"offsets backwards", one("F32", "[2]", "[8,0]"), {"[8,0]", "do not lie"}},
        {"offsets past the end", one("F32", "[4]", "[0,16]"), {"[0,16]", "8 bytes of data", "truncated"}},
        {"offsets at 2^63", one("F32", "[2]", "[" + big + "," + big + "]"), {"do not lie"}},
        {"negative offset", one("F32", "[2]", "[-8,0]"), {"two sizes"}},
        {"one offset", one("F32", "[2]", "[8]"), {"two sizes"}},
        {"offsets that are words", one("F32", "[2]", "[\"0\",\"8\"]"), {"two sizes"}},
        {"shape and offsets differ", one("F32", "[3]", "[0,8]"), {"(3)", "12 bytes", "span 8"}},
        {"two tensors overlap",
         with_header("{" + ok + "," + entry("b", "F32", "[1]", "[4,8]") + "}", eight),
         {"\"b\"", "overlaps", "\"a\""}},
        {"two tensors share bytes",
         with_header("{" + ok + "," + entry("b", "F32", "[2]", "[0,8]") + "}", eight),
         {"\"b\"", "overlaps", "\"a\""}},
        {"hole in front", one("F32", "[1]", "[4,8]"), {"4 bytes between the header", "\"a\""}},
        {"hole between",
         with_header("{" + entry("a", "U8", "[2]", "[0,2]") + "," + entry("b", "U8", "[2]", "[6,8]") + "}", eight),
         {"4 bytes between", "\"a\"", "\"b\""}},
        {"bytes left over", with_header("{" + ok + "}", eight + "y"), {"9 bytes of data", "end at 8"}},
        {"control characters in a name",
         with_header("{" + entry("\\u001b[2J", "F0", "[]", "[0,0]") + "}", ""),
         {"\"\\u001b[2J\""}},
    };
    const Scratch dir;
    for (const Lie& lie : lies) {
        INFO(lie.name);
        const std::string path = dir / "lie.safetensors";
        write_text(path, lie.text);
        CHECK_REFUSED(SafetensorsReader{path}, "lie.safetensors");
        for (const std::string& word : lie.words) CHECK_REFUSED(SafetensorsReader{path}, word.c_str());
    }
    CHECK_REFUSED(SafetensorsReader{dir / "absent.safetensors"}, "absent.safetensors", "No such file");
    CHECK_REFUSED(SafetensorsReader{"/dev/null"}, "/dev/null", "not a file");
}

TEST_CASE("safetensors refuses every truncation of a good file", "[safetensors]") {
    const Scratch dir;
    const std::string whole = read_text(golden("gpt2"));
    REQUIRE(SafetensorsReader(golden("gpt2")).tensors().size() == 28);
    for (size_t n = 0; n < whole.size(); n = n < 600 ? n + 1 : n + 1 + n / 7) {
        INFO(n << " of " << whole.size() << " bytes");
        write_text(dir / "cut.safetensors", whole.substr(0, n));
        CHECK_REFUSED(SafetensorsReader{dir / "cut.safetensors"}, "cut.safetensors");
    }
    // With one byte of the header changed, the file is read or refused, but never read out of bounds (make check runs
    // this under the sanitizers).
    uint64_t header;
    std::memcpy(&header, whole.data(), 8);
    for (size_t n = 0; n < 8 + header; n += 3) {
        std::string changed = whole;
        changed[n]          = char(changed[n] ^ (n % 2 ? 0x10 : 0x01));
        write_text(dir / "cut.safetensors", changed);
        try {
            const SafetensorsReader file(dir / "cut.safetensors");
            int64_t total = 0;
            for (const auto& [name, t] : file.tensors()) total += t.bytes;
            CHECK(total + 8 + int64_t(header) == int64_t(whole.size()));
        } catch (const InputError&) {}
    }
}

TEST_CASE("every half-precision number is read exactly", "[safetensors]") {
    std::string data;
    for (int i = 0; i < 65536; i++) data += bytes_of<uint16_t>({uint16_t(i)});
    const Scratch dir;
    write_text(dir / "h.safetensors", with_header("{" + entry("h", "F16", "[65536]", "[0,131072]") + "}", data));
    write_text(dir / "b.safetensors", with_header("{" + entry("b", "BF16", "[65536]", "[0,131072]") + "} ", data));
    std::vector<float> h(65536), b(65536);
    SafetensorsReader(dir / "h.safetensors").at("h", {65536}).read_into(h.data());
    SafetensorsReader(dir / "b.safetensors").at("b", {65536}).read_into(b.data());
    int wrong = 0;
    for (int i = 0; i < 65536; i++) {
        const int exponent = i >> 10 & 31, fraction = i & 1023;
        const double size = exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
        const float value = float(i >> 15 ? -size : size);
        uint32_t bits;
        std::memcpy(&bits, &b[i], 4);
        wrong += bits != uint32_t(i) << 16;
        wrong += std::signbit(h[i]) != (i >> 15 != 0);
        if (exponent == 31)
            wrong += fraction ? !std::isnan(h[i]) : !std::isinf(h[i]);
        else
            wrong += h[i] != value;
    }
    CHECK(wrong == 0);

    std::vector<bf16> rounded(65536);
    SafetensorsReader(dir / "h.safetensors").at("h").read_into(rounded.data());
    for (int i = 0; i < 65536; i++) wrong += rounded[i].bits != bf16(h[i]).bits;
    CHECK(wrong == 0);
}

TEST_CASE("safetensors that transformers wrote are written again byte for byte", "[safetensors]") {
    const std::string name = GENERATE("gpt2", "gpt_neox", "gpt_neox_sequential");
    const Scratch dir;
    const SafetensorsReader file(golden(name));
    std::vector<StoredRow> rows;
    for (const auto& [key, t] : file.tensors()) rows.push_back({key, t.dtype, t.shape});
    ModelWriter writer(dir.path, rows);
    for (const auto& [key, t] : file.tensors()) {  // each tensor is written in two parts
        writer.write(key, t.data, t.bytes / 8);
        writer.write(key, t.data + t.bytes / 8, t.bytes - t.bytes / 8);
    }
    CHECK_FALSE(exists(dir / "model.safetensors"));
    writer.close();
    CHECK(read_text(dir / "model.safetensors") == read_text(golden(name)));
    CHECK(SafetensorsReader(dir.path).tensors().size() == rows.size());
    CHECK_FALSE(exists(dir / "model.safetensors.tmp"));
}

TEST_CASE("shards and their index", "[safetensors]") {
    const Scratch dir;
    const std::vector<StoredRow> rows = {
        {"a", "F32", {3}}, {"big", "F32", {100}}, {"c", "BF16", {2, 2}}, {"d", "I32", {1}}};
    const std::string data(400, '\1');
    const auto write = [&] {
        ModelWriter writer(dir.path, rows, 20);
        for (const StoredRow& r : rows) writer.write(r.name, data.data(), r.bytes());
        writer.close();
    };
    write();
    const std::string index = dir / "model.safetensors.index.json";
    const auto root         = read_json(index);
    CHECK(root["metadata"]["total_size"] == 12 + 400 + 8 + 4);
    CHECK(root["weight_map"]["a"] == "model-00001-of-00003.safetensors");
    CHECK(root["weight_map"]["big"] == "model-00002-of-00003.safetensors");
    CHECK(root["weight_map"]["c"] == "model-00003-of-00003.safetensors");
    CHECK(root["weight_map"]["d"] == "model-00003-of-00003.safetensors");
    const SafetensorsReader all(dir.path);
    CHECK(all.tensors().size() == 4);
    CHECK(std::memcmp(all.at("big", {100}).data, data.data(), 400) == 0);

    const auto refused = [&](const std::string& map, std::initializer_list<const char*> words) {
        write_text(index, map);
        for (const char* word : words) CHECK_REFUSED(SafetensorsReader{dir.path}, "model.safetensors.index.json", word);
    };
    const std::string rest = R"(,"c":"model-00003-of-00003.safetensors"}})";
    refused("", {"not valid JSON"});
    refused("[]", {"weight_map"});
    refused(R"({"weight_map":[]})", {"weight_map"});
    refused(R"({"weight_map":{"a":7}})", {"\"a\"", "7"});
    refused(R"({"weight_map":{"a":"../x/model-00001-of-00003.safetensors")" + rest, {"\"a\"", "../x/"});
    refused(R"({"weight_map":{"a":"/etc/passwd")" + rest, {"/etc/passwd"});
    refused(R"({"weight_map":{"a":"..")" + rest, {"\"..\""});
    refused(R"({"weight_map":{"a":".safetensors")" + rest, {"\"a\""});
    refused(R"({"weight_map":{"a":"pytorch_model.bin")" + rest, {"pytorch_model.bin"});
    refused(R"({"weight_map":{"a":"x.safetensors","a":"x.safetensors"}})", {"twice"});

    // Of an outdated index, only the names of the files are used, until a tensor is missing.
    write_text(index,
               R"({"weight_map":{"d":"model-00001-of-00003.safetensors","e":"model-00003-of-00003.safetensors"}})");
    const SafetensorsReader stale(dir.path);
    CHECK(stale.tensors().size() == 3);  // a, and c and d
    CHECK(stale.at("d").file == dir / "model-00003-of-00003.safetensors");
    CHECK_REFUSED(stale.at("e"), "\"e\"", "index.json says", "model-00003-of-00003.safetensors");

    write_text(index, R"({"weight_map":{"a":"x.safetensors"}})");
    CHECK_REFUSED(SafetensorsReader{dir.path}, "x.safetensors", "x.safetensors, which is not in this folder");
    write_text(dir / "x.safetensors", read_text(dir / "model-00001-of-00003.safetensors"));
    write_text(index, R"({"weight_map":{"a":"x.safetensors","b":"model-00001-of-00003.safetensors"}})");
    CHECK_REFUSED(SafetensorsReader{dir.path}, "\"a\" is in both");
}

TEST_CASE("model folders without safetensors", "[safetensors]") {
    const Scratch dir;
    CHECK_REFUSED(SafetensorsReader{dir.path}, dir.path.c_str(), "neither model.safetensors nor");
    write_text(dir / "pytorch_model.bin", "pickle");
    CHECK_REFUSED(SafetensorsReader{dir.path}, "pytorch_model.bin", "can run code", "save_pretrained(");
}

TEST_CASE("the safetensors writer refuses a wrong order", "[safetensors]") {
    const Scratch dir;
    const std::string path = dir / "w.safetensors";
    const float x[3]       = {};
    CHECK_REFUSED((SafetensorsWriter{path, {{"a", "F32", {1}}, {"a", "F32", {1}}}}), "two tensors", "\"a\"");
    CHECK_REFUSED((SafetensorsWriter{path, {{"a", "float", {1}}}}), "unknown dtype float");
    {
        SafetensorsWriter writer(path, {{"a", "F32", {2}}, {"b", "F32", {1}}});
        CHECK_REFUSED(writer.write("b", x, 4), "4 bytes of \"b\"", "8 of \"a\"");
        CHECK_REFUSED(writer.write("a", x, 12), "12 bytes of \"a\"", "8 of \"a\"");
        writer.write("a", x, 4);
        CHECK_REFUSED(writer.close(), "\"a\"");
        writer.write("a", x, 4);
        CHECK_REFUSED(writer.close(), "\"b\"");
        CHECK(exists(path + ".tmp"));
    }
    CHECK_FALSE(exists(path));
    CHECK_FALSE(exists(path + ".tmp"));
    SafetensorsWriter writer(path, {{"a", "F32", {1}}});
    writer.write("a", x, 4);
    CHECK_REFUSED(writer.write("b", x, 4), "\"b\"");
    writer.close();
    CHECK(SafetensorsReader(path).tensors().size() == 1);
}

TEST_CASE("a failed write leaves the file that was there", "[safetensors]") {
    const Scratch dir;
    const std::string path = dir / "w.safetensors", data(100000, 'x');
    const auto write       = [&] {
        SafetensorsWriter writer(path, {{"a", "U8", {100000}}});
        writer.write("a", data.data(), 100000);
        writer.close();
    };
    write_text(path, "precious");
    // A limit on the size of files stands in for a full disk: write() takes a part and then fails.
    struct rlimit old;
    getrlimit(RLIMIT_FSIZE, &old);
    const auto handler        = std::signal(SIGXFSZ, SIG_IGN);
    const struct rlimit small = {50000, old.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    std::string error;
    try {
        write();
    } catch (const RunError& e) { error = e.what(); }
    setrlimit(RLIMIT_FSIZE, &old);
    std::signal(SIGXFSZ, handler);
    CHECK(missing_words(error, {"w.safetensors", "File too large", "50000 bytes"}) == "");
    CHECK(read_text(path) == "precious");
    CHECK_FALSE(exists(path + ".tmp"));

    write();
    CHECK(SafetensorsReader(path).at("a").bytes == 100000);
    CHECK_THROWS_AS(SafetensorsWriter(dir / "no/such/folder/x", {}), RunError);
}
