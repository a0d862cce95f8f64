// shard.h - a file of token ids, recognised by what is in it and never by its name
//
//   llm.c    256 int32, then ids: 20240520, version 1, count → uint16 ids; 20240801, version 7, count → uint32 ids
//   raw      ids and nothing else, as nanoGPT writes them: uint16, or uint32 when the upper halves say so (raw_width)
//
// Everything is little-endian. Files of other programs are refused with their name, so that no model is ever trained on
// somebody's weights, archive or plain text taken for ids.
#pragma once
#include <glob.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "gpt/files.h"

class Shard {
  public:
    // vocab: ids must be smaller; 0 when that is not known.
    Shard(const std::string& path, int64_t vocab) : file_(path), vocab_(vocab) {
        CHECK(file_.size() > 0, "{} is empty", path);
        const uint32_t magic = word(0);
        if (magic == 20240520) read_header(1, 2);
        else if (magic == 20240801) read_header(7, 4);
        else read_raw();
    }

    const std::string& path() const { return file_.path(); }
    int64_t            tokens() const { return tokens_; }
    int                width() const { return width_; }  // bytes of an id: 2 or 4
    const MappedFile&  file() const { return file_; }

    // out[0, count) = ids [first, first + count), each checked against the vocabulary.
    void read(int64_t first, int64_t count, int32_t* out) const {
        CHECK(first >= 0 && count >= 0 && first <= tokens_ - count, "{}: tokens {}..{} of {}", path(), first,
              first + count, tokens_);
        if (width_ == 2) read_as<uint16_t>(first, count, out);
        else read_as<uint32_t>(first, count, out);
    }

  private:
    static constexpr int64_t header_bytes = 1024;

    uint32_t word(int64_t i) const {  // 0 past the end
        uint32_t w = 0;
        if (4 * i + 4 <= file_.size()) std::memcpy(&w, file_.data() + 4 * i, 4);
        return w;
    }

    void read_header(uint32_t version, int width) {
        CHECK(file_.size() >= header_bytes,
              "{}: an llm.c shard begins with {} bytes of header, this has {} in all: truncated", path(), header_bytes,
              file_.size());
        CHECK(word(1) == version, "{}: an llm.c shard of version {}, expected {} for magic {}", path(), word(1),
              version, word(0));
        const int64_t count = int32_t(word(2)), bytes = header_bytes + count * width;
        CHECK(count >= 0 && bytes == file_.size(),
              "{}: the header says {} tokens, so {} bytes, and the file has {}: {}", path(), count, bytes, file_.size(),
              bytes > file_.size() ? "truncated" : "not an llm.c shard");
        start_  = header_bytes;
        tokens_ = count;
        width_  = width;
    }

    void read_raw() {
        const std::string other = foreign_format();
        CHECK(other.empty(),
              "{} is {}\n    token shards have llm.c's form, as ./tokenize writes it, or are raw uint16 or uint32 ids, "
              "as nanoGPT writes them; see data/README.md", path(), other);
        CHECK(file_.size() % 2 == 0, "{}: {} bytes: no whole number of uint16 ids, and no header that we know", path(),
              file_.size());
        width_  = raw_width();
        tokens_ = file_.size() / width_;
    }

    // uint32 ids have upper halves of at most vocab >> 16, which is 0 for vocabularies up to 2^16. When 99 % of every
    // second uint16 are so small and the ones between them are not, the file is uint32; the hundredth leaves room for a
    // wrong id, which read() then names. A quarter of a megabyte decides.
    int raw_width() const {
        if (file_.size() % 4) return 2;
        const int64_t  pairs = std::min<int64_t>(file_.size() / 4, 1 << 16);
        const uint32_t limit = vocab_ ? uint32_t(vocab_ - 1) >> 16 : 0;
        int64_t        upper = 0, lower = 0;
        for (int64_t i = 0; i < pairs; i++) {
            upper += (word(i) >> 16) <= limit;
            lower += (word(i) & 0xffff) <= limit;
        }
        return upper * 100 >= pairs * 99 && lower * 100 < pairs * 99 ? 4 : 2;
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
        const std::string_view text     = file_.text();
        const auto             starts   = [&](std::string_view s) { return text.substr(0, s.size()) == s; };
        const std::string      not_yet  = ", which cannot be read yet";
        const std::string      idx_path = std::filesystem::path(path()).replace_extension(".idx").string();
        if (starts("BIN.TOK\n")) return "an llmq token file" + not_yet;
        if (starts(std::string_view("MMIDIDX\0\0", 9))) return "the index of a Megatron / GPT-NeoX pair" + not_yet;
        if (starts(std::string_view("TNTIDX\0\0", 8))) return "an old Megatron index" + not_yet;
        if (idx_path != path() && std::filesystem::is_regular_file(idx_path))
            return "half of a Megatron / GPT-NeoX pair (" + idx_path + " is the other)" + not_yet;
        if (word(1) == 0 && word(2) % 256 == '{' && word(0) < file_.size()) return "a safetensors file";
        if (starts("\x93NUMPY")) return "a NumPy array";
        if (starts("\x1f\x8b\x08") || starts("\x28\xb5\x2f\xfd") || starts("PK\3\4")) return "a compressed archive";
        if (is_prose(text.substr(0, 4096))) return "plain text; turn it into ids with ./tokenize";
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

    template <class Id> void read_as(int64_t first, int64_t count, int32_t* out) const {
        const std::byte* in    = file_.data() + start_ + first * int64_t(sizeof(Id));
        const uint32_t   vocab = vocab_ ? uint32_t(std::min<int64_t>(vocab_, INT32_MAX)) : uint32_t(INT32_MAX);
        uint32_t         most  = 0;
        for (int64_t i = 0; i < count; i++) {
            Id id;
            std::memcpy(&id, in + i * sizeof(Id), sizeof(Id));
            out[i] = int32_t(id);
            most   = std::max<uint32_t>(most, id);
        }
        if (most < vocab) return;
        const int64_t i = std::find_if(out, out + count, [&](int32_t id) { return uint32_t(id) >= vocab; }) - out;
        fail("{}: token {} at position {}, but this model has {} tokens\n    probably written with another tokenizer; "
             "data/README.md lists which script writes which vocabulary", path(), uint32_t(out[i]), first + i, vocab);
    }

    MappedFile file_;
    int64_t    vocab_, start_ = 0, tokens_ = 0;
    int        width_ = 2;
};

// The files that a pattern of glob(3) names, braces and ~ included, in the order of their names.
inline std::vector<std::string> files_matching(const std::string& pattern) {
    CHECK(!pattern.empty(), "no data given: the file pattern is empty");
    glob_t    found;
    const int status = glob(pattern.c_str(), GLOB_BRACE | GLOB_TILDE, nullptr, &found);
    std::vector<std::string> files;
    if (status == 0) files.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
    globfree(&found);
    std::sort(files.begin(), files.end());  // glob's own order depends on the locale
    files.erase(std::unique(files.begin(), files.end()), files.end());
    CHECK(!files.empty(), "no file matches '{}'\n    look at the folder and the spelling, and keep the quotes around a "
          "pattern, or the shell expands it", pattern);
    return files;
}
