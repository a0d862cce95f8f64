// shard.h - a file of token ids, recognised by what is in it and never by its name
//
//   llm.c     256 int32, then ids: 20240520, version 1, count → uint16 ids; 20240801, version 7, count → uint32 ids
//   Megatron  PREFIX.bin beside PREFIX.idx, as GPT-NeoX writes them too: ids of the type that the index says (megatron.h)
//   llmq      "BIN.TOK\n", int32 version 1 or 2, 4, count, vocabulary, whether there are masks; int32 ids from byte 1024
//   raw       ids and nothing else, as nanoGPT writes them: uint16, or uint32 when the upper halves say so (raw_is_wide)
//
// Everything is little-endian. Files of other programs are refused with their name, so that no model is ever trained on
// somebody's weights, archive or plain text taken for ids.
#pragma once
#include <glob.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "data/files.h"
#include "data/megatron.h"

class Shard {
  public:
    // path: the file, of a pair either half or the prefix. vocab: ids must be smaller; 0 when that is not known.
    Shard(const std::string& path, int64_t vocab) : file_(ids_path(path)), vocab_(vocab) {
        const std::string idx = other_ending(file_.path(), ".bin", ".idx");
        const uint32_t magic  = word(0);
        if (has_magic(idx, megatron_magic))
            read_pair(idx);
        else if (magic == 20240520)
            read_llmc(1, IdType::u16);
        else if (magic == 20240801)
            read_llmc(7, IdType::u32);
        else if (starts_with("BIN.TOK\n"))
            read_llmq();
        else
            read_raw();
    }

    const std::string& path() const { return file_.path(); }
    int64_t tokens() const { return tokens_; }
    int width() const { return width_of(type_); }  // bytes of an id
    const MappedFile& file() const { return file_; }

    // out[0, count) = ids [first, first + count), each checked against the vocabulary.
    void read(int64_t first, int64_t count, int32_t* out) const {
        CHECK(first >= 0 && count >= 0 && first <= tokens_ - count, "{}: tokens {}..{} of {}", path(), first,
              first + count, tokens_);
        switch (type_) {
            case IdType::u8: return read_as<uint8_t>(first, count, out);
            case IdType::i8: return read_as<int8_t>(first, count, out);
            case IdType::i16: return read_as<int16_t>(first, count, out);
            case IdType::u16: return read_as<uint16_t>(first, count, out);
            case IdType::i32: return read_as<int32_t>(first, count, out);
            case IdType::u32: return read_as<uint32_t>(first, count, out);
            case IdType::i64: return read_as<int64_t>(first, count, out);
        }
    }

    // Calls each(i) for the ids first + i, i < count, with which a document begins, as far as the index of a pair says.
    template <class F>
    void each_document(int64_t first, int64_t count, F each) const {
        if (!index_) return;
        for (int64_t d = index_->document_from(first); d < index_->documents; d++) {
            const int64_t i = index_->document_start(d) - first;
            if (i >= count) break;
            each(i);
        }
    }

  private:
    static constexpr int64_t header_bytes = 1024;

    uint32_t word(int64_t i) const {  // 0 past the end
        uint32_t w = 0;
        if (4 * i + 4 <= file_.size()) std::memcpy(&w, file_.data() + 4 * i, 4);
        return w;
    }
    bool starts_with(std::string_view magic) const { return file_.text().substr(0, magic.size()) == magic; }

    void read_llmc(uint32_t version, IdType type) {
        expect_header("an llm.c shard");
        CHECK(word(1) == version, "{}: an llm.c shard of version {}, expected {} for magic {}", path(), word(1),
              version, word(0));
        take("an llm.c shard", int32_t(word(2)), type);
    }

    // The loss masks that llmq may put behind the ids say which ids are worth learning. To train on the others would be
    // to train on something else than was prepared.
    void read_llmq() {
        expect_header("an llmq token file");
        CHECK(word(2) == 1 || word(2) == 2, "{}: an llmq token file of version {}, expected 1 or 2", path(), word(2));
        CHECK(word(3) == 4, "{}: {} bytes per token, expected 4 in an llmq token file", path(), word(3));
        CHECK(word(2) == 1 || word(6) == 0,
              "{}: an llmq token file with loss masks, which cannot be used; prepare it without them", path());
        take("an llmq token file", int32_t(word(4)), IdType::i32);
    }

    void expect_header(const char* what) const {
        CHECK(file_.size() >= header_bytes, "{}: {} begins with {} bytes of header, this has {} in all: truncated",
              path(), what, header_bytes, file_.size());
    }
    void take(const char* what, int64_t count, IdType type) {
        const int64_t bytes = header_bytes + count * width_of(type);
        CHECK(count >= 0 && bytes == file_.size(),
              "{}: the header says {} tokens, so {} bytes, and the file has {}: {}{}", path(), count, bytes,
              file_.size(), bytes > file_.size() ? "truncated" : "not ", bytes > file_.size() ? "" : what);
        start_  = header_bytes;
        tokens_ = count;
        type_   = type;
    }

    void read_pair(const std::string& idx_path) {
        index_  = std::make_unique<MegatronIndex>(read_megatron_index(MappedFile(idx_path), path(), file_.size()));
        tokens_ = index_->tokens;
        type_   = index_->type;
    }

    void read_raw() {
        CHECK(file_.size() > 0, "{} is empty", path());
        const std::string other = foreign_format();
        CHECK(
            other.empty(),
            "{} is {}\n    token shards have llm.c's form, as ./tokenize writes it, or are Megatron pairs, llmq's, or "
            "raw uint16 or uint32 ids, as nanoGPT writes them; see data/README.md",
            path(), other);
        CHECK(file_.size() % 2 == 0, "{}: {} bytes: no whole number of uint16 ids, and no header that we know", path(),
              file_.size());
        type_   = raw_is_wide() ? IdType::u32 : IdType::u16;
        tokens_ = file_.size() / width();
    }

    // uint32 ids have upper halves of at most vocab >> 16, which is 0 for vocabularies up to 2^16. When 99 % of every
    // second uint16 are so small and the ones between them are not, the file is uint32; the hundredth leaves room for a
    // wrong id, which read() then names. A quarter of a megabyte decides.
    bool raw_is_wide() const {
        if (file_.size() % 4) return false;
        const int64_t pairs  = std::min<int64_t>(file_.size() / 4, 1 << 16);
        const uint32_t limit = vocab_ ? uint32_t(vocab_ - 1) >> 16 : 0;
        int64_t upper = 0, lower = 0;
        for (int64_t i = 0; i < pairs; i++) {
            upper += (word(i) >> 16) <= limit;
            lower += (word(i) & 0xffff) <= limit;
        }
        return upper * 100 >= pairs * 99 && lower * 100 < pairs * 99;
    }

    // What else this may be; empty when it looks like raw ids.
    std::string foreign_format() const {
        switch (word(0)) {
            case 20240522: return "an llm.c evaluation file (HellaSwag)";
            case 20240326: return "an llm.c GPT-2 model";
            case 20240327: return "an llm.c debug state";
            case 20240328: return "an llm.c tokenizer";
            case 20240527: return "an llm.c training state";
            case 20240803: return "an llm.c Llama model";
        }
        const std::string idx = other_ending(path(), ".bin", ".idx");
        if (starts_with(megatron_magic)) return "the index of a Megatron / GPT-NeoX pair: it belongs in a .idx";
        if (starts_with(old_megatron_magic) || has_magic(idx, old_megatron_magic))
            return "of an old Megatron pair (TNTIDX), which is not supported: write it again with --dataset-impl mmap";
        if (word(1) == 0 && word(2) % 256 == '{' && word(0) < file_.size()) return "a safetensors file";
        if (starts_with("\x93NUMPY")) return "a NumPy array";
        if (starts_with("PAR1")) return "a Parquet file; data/README.md says how its text becomes tokens";
        if (starts_with("\x1f\x8b\x08") || starts_with("\x28\xb5\x2f\xfd") || starts_with("PK\3\4"))
            return "a compressed archive; turn the text in it into ids with ./tokenize";
        if (is_prose(file_.text().substr(0, 4096))) return "plain text; turn it into ids with ./tokenize";
        return "";
    }

    // UTF-8 without control characters. 32 bytes of ids look like that about once in 10^9 files, more bytes less often.
    static bool is_prose(std::string_view sample) {
        int more = 0;  // bytes that the character still lacks
        for (unsigned char c : sample) {
            const bool inside = c >= 0x80 && c < 0xc0;
            if (inside != (more > 0)) return false;
            if (c < 0x80 && (c < '\t' || (c > '\r' && c < ' ') || c == 127)) return false;
            if (c == 0xc0 || c == 0xc1 || c > 0xf4) return false;
            more = inside ? more - 1 : c < 0x80 ? 0 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
        }
        return sample.size() >= 32;
    }

    template <class Id>
    void read_as(int64_t first, int64_t count, int32_t* out) const {
        using Wide = std::conditional_t<sizeof(Id) == 8, uint64_t, uint32_t>;  // makes a negative id a large one
        const std::byte* in = file_.data() + start_ + first * int64_t(sizeof(Id));
        const Wide vocab    = Wide(vocab_ ? std::min<int64_t>(vocab_, INT32_MAX) : INT32_MAX);
        Wide most           = 0;
        const auto at       = [in](int64_t i) {
            Id id;
            std::memcpy(&id, in + i * int64_t(sizeof(Id)), sizeof(Id));
            return id;
        };
        for (int64_t i = 0; i < count; i++) {
            out[i] = int32_t(at(i));
            most   = std::max(most, Wide(at(i)));
        }
        if (most < vocab) return;
        int64_t i = 0;
        while (Wide(at(i)) < vocab) i++;
        fail(
            "{}: token {} at position {}, but this model has {} tokens\n    probably written with another tokenizer; "
            "data/README.md lists which script writes which vocabulary",
            path(), int64_t(at(i)), first + i, vocab);
    }

    MappedFile file_;
    int64_t vocab_, start_ = 0, tokens_ = 0;
    IdType type_ = IdType::u16;
    std::unique_ptr<MegatronIndex> index_;  // of a pair
};

// The files that a pattern of glob(3) names, braces and ~ included, in the order of their names. Of a Megatron pair the
// .bin, whether the pattern names one half, both, or the prefix.
inline std::vector<std::string> files_matching(const std::string& pattern) {
    CHECK(!pattern.empty(), "no data given: the file pattern is empty");
    const auto matching = [](const std::string& wanted) {
        std::vector<std::string> files;
        glob_t found;
        if (glob(wanted.c_str(), GLOB_BRACE | GLOB_TILDE, nullptr, &found) == 0)
            files.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
        globfree(&found);
        return files;
    };
    std::vector<std::string> files = matching(pattern);
    if (files.empty()) files = matching(pattern + ".idx");
    for (const std::string& unfinished : matching(pattern + ".tmp"))
        fail(
            "{}: ./tokenize is still writing these shards, or was stopped before it had all of them\n    wait for it, "
            "or run it again; whoever means to train on what is there deletes the .tmp files",
            unfinished);
    for (std::string& file : files) file = ids_path(file);
    for (const std::string& file : files)
        CHECK(!fs::is_directory(file), "{} is a folder: name the shards in it, such as '{}'", file,
              (fs::path(file) / "*_train_*.bin").string());
    std::sort(files.begin(), files.end());  // glob's own order depends on the locale
    files.erase(std::unique(files.begin(), files.end()), files.end());
    CHECK(!files.empty(),
          "no file matches '{}'\n    look at the folder and the spelling, and keep the quotes around a "
          "pattern, or the shell expands it",
          pattern);
    return files;
}
