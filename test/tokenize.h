// tokenize.h - what tests of the tokenize program share: compressed files, documents read back, small vocabularies
#pragma once
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "data/bpe_training.h"
#include "data/documents.h"
#include "data/shard.h"
#include "data/shard_writer.h"
#include "data/tokenizer.h"
#include "test/programs.h"
#include "test/scratch.h"
//
#include "test/catch.h"

using json = nlohmann::json;
using Ids  = std::vector<int32_t>;
using List = std::vector<std::string>;

inline std::string zstd(const std::string& text) {
    std::string out(ZSTD_compressBound(text.size()), '\0');
    out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 1));
    return out;
}

inline std::string gzip(const std::string& text) {
    z_stream s{};
    REQUIRE(deflateInit2(&s, 1, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) == Z_OK);
    std::string out(deflateBound(&s, text.size()), '\0');
    s.next_in   = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
    s.avail_in  = uInt(text.size());
    s.next_out  = reinterpret_cast<Bytef*>(out.data());
    s.avail_out = uInt(out.size());
    REQUIRE(deflate(&s, Z_FINISH) == Z_STREAM_END);
    out.resize(s.total_out);
    deflateEnd(&s);
    return out;
}

// The documents of some files, joined again from their parts. A fault throws.
inline List texts(const std::vector<Source>& sources, ReadSettings settings = {}, List* parts = nullptr) {
    if (!settings.last_cut) settings.last_cut = unicode::last_split;
    Documents documents(sources, settings);
    List all;
    std::string buffer;
    documents.read([&](const TextBlock& block) {
        for (const Part& p : block.parts) {
            if (p.kind == Part::fault) throw InputError(std::string(block.bytes_of(p)));
            const std::string text(documents.text_of(block, p, buffer));
            if (parts) parts->push_back(text);
            if (p.first)
                all.push_back(text);
            else
                all.back() += text;
        }
    });
    return all;
}
inline List texts(const List& files, const std::string& format = "auto", const std::string& field = "text") {
    ReadSettings settings;
    settings.format = format;
    settings.field  = field;
    Source all{1, {}};
    for (const std::string& name : files)
        for (const std::string& f : files_of(name)) all.files.push_back(f);
    return texts(files.empty() ? std::vector<Source>() : std::vector<Source>{all}, settings);
}

inline Ids ids_in(const std::string& path) {
    const Shard shard(path, 0);
    Ids ids(size_t(shard.tokens()));
    shard.read(0, shard.tokens(), ids.data());
    return ids;
}

inline Ids count_up(int n) {
    Ids ids(static_cast<size_t>(n));
    std::iota(ids.begin(), ids.end(), 0);
    return ids;
}

// A tokenizer.json that knows some words, and texts made of these words.
inline std::string small_tokenizer() {
    WordCounts words;
    for (int i = 0; i < 3; i++)
        words.add("the sea was calm, the wind was 7 knots, the ship's bell rang; the other day\n");
    return BpeTraining(words).learn(290);
}
inline std::string story(int number) {
    return fmt::format("Document {}: the sea was calm, the wind was {} knots.\n\nThe end.", number, number * 7 % 31);
}

inline Ran tokenize(const Scratch& s, const std::string& words, const std::string& in = "",
                    const std::string& under = "") {
    return run(s, "tokenize", "--tokenizer " + quoted(s / "tokenizer.json") + " " + words, in, under);
}
inline bool says(const Ran& r, const List& words) {
    UNSCOPED_INFO(r.out + r.err);
    return std::all_of(words.begin(), words.end(),
                       [&](const std::string& w) { return (r.out + r.err).find(w) != std::string::npos; });
}
inline List left_in(const Scratch& s, const std::string& begin) {
    List names;
    for (const auto& e : fs::directory_iterator(s.path))
        if (e.path().filename().string().rfind(begin, 0) == 0) names.push_back(e.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
}
