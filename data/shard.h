// shard.h - reads files of token ids, in the forms of four programs
//
//   llm.c     a header of 256 int32, then uint16 or uint32 ids (LlmcForm below); shard_writer.h writes this form
//   Megatron  PREFIX.bin holds the ids and PREFIX.idx describes them (megatron.h); GPT-NeoX writes the same pair
//   llmq      a header of 1024 bytes, then int32 ids: "BIN.TOK\n", int32 version 1 or 2, int32 4, int32 count,
//             and in version 2 int32 vocabulary, int32 1 if a loss mask follows the ids: one bit per id, the lowest
//             bit of a byte first, 1 where the loss counts the prediction of that id. Shards of ours go on with int32
//             1 + the id between documents, and int32 2 where each two documents are a preference. An id between
//             documents has the bit 0 and the bit 1 behind it, which an end-of-text id within a document has not
//   raw       ids without a header, as nanoGPT writes them: uint16, or uint32 where raw_is_wide() says so
//
// All numbers are little-endian. The content of a file decides its form, never the name. A file of another program
// is refused and called what it is, so that weights, archives or plain text are never taken for ids.
#pragma once
#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "data/files.h"
#include "data/megatron.h"
#include "data/recognize.h"
#include "data/words.h"

// The header of an llm.c shard: int32 magic, version and count of ids, then zeros up to shard_header_bytes.
struct LlmcForm {
    uint32_t magic, version;
    IdType ids;
};
constexpr LlmcForm llmc_narrow{20240520, 1, IdType::u16};
constexpr LlmcForm llmc_wide{20240801, 7, IdType::u32};
constexpr char llmq_magic[]          = "BIN.TOK\n";
constexpr int64_t shard_header_bytes = 1024;

class Shard {
  public:
    // path: a shard; for a Megatron pair the .bin, the .idx or the prefix of both.
    // vocab: the size of the vocabulary. read() refuses larger ids; 0 skips that check.
    // Throws InputError for a file that is damaged or of another program.
    Shard(const std::string& path, int64_t vocab) : file_(ids_path(path)), vocab_(vocab) {
        const std::string idx = other_ending(file_.path(), ".bin", ".idx");
        const uint32_t magic  = word(0);
        if (has_magic(idx, megatron_magic))
            read_pair(idx);
        else if (magic == llmc_narrow.magic)
            read_llmc(llmc_narrow);
        else if (magic == llmc_wide.magic)
            read_llmc(llmc_wide);
        else if (starts_with(llmq_magic))
            read_llmq();
        else
            read_raw();
    }

    const std::string& path() const { return file_.path(); }
    int64_t tokens() const { return tokens_; }
    int width() const { return width_of(type_); }  // bytes per id
    const MappedFile& file() const { return file_; }
    bool has_mask() const { return mask_ > 0; }
    // Whether the loss counts the prediction of id i. All ids of a shard without a mask count.
    bool counts(int64_t i) const { return mask_ == 0 || (bit(i) && !(i > 0 && separates(i - 1))); }
    // The id that stands between documents, or -1 if the shard does not say it.
    int32_t separator() const { return separator_; }
    // Whether id i stands between documents, where the shard says which id does.
    bool separates(int64_t i) const {
        return separator_ >= 0 && int32_t(word(start_ / 4 + i)) == separator_ && !bit(i) &&
               (i + 1 == tokens_ || bit(i + 1));
    }
    bool holds_pairs() const { return pairs_; }  // each two documents are the answers of a preference

    // Copies ids [first, first + count) to `out`. Throws InputError for an id outside the vocabulary.
    void read(int64_t first, int64_t count, int32_t* out) const {
        CHECK_CALL(first >= 0 && count >= 0 && first <= tokens_ - count, "{}: tokens {}..{} of {}", path(), first,
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

    // Calls each(i), 0 <= i < count, where a document begins at id first + i according to the index of a Megatron pair.
    // The other forms have no index, so nothing is called for them.
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
    bool bit(int64_t i) const { return (uint8_t(file_.data()[mask_ + i / 8]) >> (i % 8) & 1) != 0; }
    // The i-th uint32 of the file, or 0 past its end.
    uint32_t word(int64_t i) const {
        uint32_t w = 0;
        if (4 * i + 4 <= file_.size()) std::memcpy(&w, file_.data() + 4 * i, 4);
        return w;
    }
    bool starts_with(std::string_view magic) const { return file_.text().substr(0, magic.size()) == magic; }

    void read_llmc(const LlmcForm& form) {
        expect_header("an llm.c shard");
        CHECK(word(1) == form.version, "{}: an llm.c shard of version {}, expected {} for magic {}", path(), word(1),
              form.version, word(0));
        take("an llm.c shard", int32_t(word(2)), form.ids);
    }

    void read_llmq() {
        expect_header("an llmq token file");
        CHECK(word(2) == 1 || word(2) == 2, "{}: an llmq token file of version {}, expected 1 or 2", path(), word(2));
        CHECK(word(3) == 4, "{}: {} per token, expected 4 in an llmq token file", path(), count_of(word(3), "byte"));
        const bool masked = word(2) == 2 && word(6) != 0;
        take("an llmq token file", int32_t(word(4)), IdType::i32, masked);
        if (!masked) return;
        separator_ = int32_t(word(7) - 1);
        pairs_     = word(8) == 2;
    }

    void expect_header(const char* what) const {
        CHECK(file_.size() >= shard_header_bytes,
              "{}: {} has a header of {} bytes, but this file has {} in all: it is truncated", path(), what,
              shard_header_bytes, file_.size());
    }
    // The ids are the `count` numbers behind the header. They and their mask must fill the file.
    void take(const char* what, int64_t count, IdType type, bool masked = false) {
        const int64_t ids = shard_header_bytes + count * width_of(type), bytes = ids + (masked ? (count + 7) / 8 : 0);
        CHECK(count >= 0 && bytes == file_.size(),
              "{}: the header says {}{}, so {} bytes, but the file has {}: it is {}{}", path(),
              count_of(count, "token"), masked ? " and a loss mask" : "", bytes, file_.size(),
              bytes > file_.size() ? "truncated" : "not ", bytes > file_.size() ? "" : what);
        start_  = shard_header_bytes;
        mask_   = masked ? ids : 0;
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
        CHECK(other.empty(),
              "{} is {}\n    expected token ids: a shard of ./tokenize or llm.c, a Megatron pair, an llmq file, or raw "
              "uint16 or uint32 ids, as nanoGPT writes them; see data/README.md",
              path(), other);
        CHECK(file_.size() % 2 == 0, "{}: {}: no whole number of uint16 ids, and there is no known header", path(),
              count_of(file_.size(), "byte"));
        type_   = raw_is_wide() ? IdType::u32 : IdType::u16;
        tokens_ = file_.size() / width();
    }

    // Decides from the first 256 KiB whether headerless ids are uint32. The upper half of a uint32 id is at most
    // (vocab - 1) >> 16, which is 0 for vocabularies up to 2^16. The file is uint32 if 99 % of the odd uint16 are so
    // small and fewer of the even ones are. The last percent leaves room for wrong ids, which read() then names.
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

    // What the file is if it is of another kind, or "" if it may hold raw ids.
    std::string foreign_format() const {
        switch (word(0)) {
            case 20240522: return "an evaluation file of llm.c (HellaSwag)";
            case 20240326: return "a GPT-2 model of llm.c";
            case 20240327: return "a debug state of llm.c";
            case 20240328: return "a tokenizer of llm.c";
            case 20240527: return "a training state of llm.c";
            case 20240803: return "a Llama model of llm.c";
        }
        const std::string idx = other_ending(path(), ".bin", ".idx");
        if (starts_with(megatron_magic)) return "the index of a Megatron / GPT-NeoX pair, whose name must end in .idx";
        if (starts_with(old_megatron_magic) || has_magic(idx, old_megatron_magic))
            return "part of an old Megatron pair (TNTIDX), which is not supported; write it with --dataset-impl mmap";
        if (word(1) == 0 && word(2) % 256 == '{' && word(0) < file_.size()) return "a safetensors file";
        if (starts_with("\x1f\x8b\x08") || starts_with("\x28\xb5\x2f\xfd"))
            return "a compressed archive; turn the text in it into ids with ./tokenize";
        const std::string_view begin = file_.text().substr(0, 4096);
        // Fewer than four bytes of magic may be ids.
        if (const Magic* m = magic_of(begin, 4)) return m->what;
        // 32 bytes of ids look like text about once in 10^9 files.
        if (begin.size() >= 32 && looks_like_text(begin)) return "plain text; turn it into ids with ./tokenize";
        return "";
    }

    template <class Id>
    void read_as(int64_t first, int64_t count, int32_t* out) const {
        using Wide          = std::conditional_t<sizeof(Id) == 8, uint64_t,
                                        uint32_t>;  // unsigned, so that a negative id compares as a large one
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
            "{}: token {} at position {}, but this model has {} tokens\n    the file was probably written with another "
            "tokenizer; data/README.md lists which script writes which vocabulary",
            path(), int64_t(at(i)), first + i, vocab);
    }

    MappedFile file_;
    int64_t vocab_, start_ = 0, mask_ = 0, tokens_ = 0;  // mask_: the byte where the loss mask begins; 0: none
    IdType type_       = IdType::u16;
    int32_t separator_ = -1;
    bool pairs_        = false;
    std::unique_ptr<MegatronIndex> index_;  // null unless the file belongs to a Megatron pair
};

// The shards that a pattern of glob(3) names, sorted by path. A Megatron pair is listed once, as its .bin, whether the
// pattern matches one half, both or the prefix. Throws InputError if nothing matches or a shard is unfinished.
inline std::vector<std::string> files_matching(const std::string& pattern) {
    CHECK(!pattern.empty(), "no data given: the file pattern is empty");
    // What stands there by the very name of a pattern is meant by it, be it the file or its folder.
    const auto matches = [](const fs::path& name) {
        std::error_code none;
        const fs::path folder = name.parent_path();
        if (fs::exists(name, none)) return std::vector<std::string>{name.string()};
        std::vector<std::string> found = glob_files(name.string());
        if (found.empty() && fs::is_directory(folder, none))
            found = glob_files(without_wildcards(folder.string()) + "/" + name.filename().string());
        return found;
    };
    std::vector<std::string> files = matches(pattern);
    if (files.empty()) files = matches(pattern + ".idx");
    for (const std::string& unfinished : matches(pattern + ".tmp"))
        fail(
            "{}: ./tokenize is still writing these shards, or was stopped before it wrote all of them\n    wait until "
            "it ends, or run it again; to train on what is there, delete the .tmp files",
            unfinished);
    for (std::string& file : files) file = ids_path(file);
    for (const std::string& file : files)
        CHECK(!fs::is_directory(file), "{} is a folder: name the shards in it, such as '{}'", file,
              (fs::path(file) / "*_train_*.bin").string());
    std::sort(files.begin(), files.end());
    files.erase(std::unique(files.begin(), files.end()), files.end());
    CHECK(!files.empty(),
          "no file matches '{}'\n    check the folder and the spelling; quote the pattern, so that the shell does not "
          "expand it",
          pattern);
    return files;
}
