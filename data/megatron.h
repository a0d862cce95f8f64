// megatron.h - reads PREFIX.idx of a Megatron or GPT-NeoX pair, which describes the ids in PREFIX.bin
//
//   9 bytes   "MMIDIDX\0\0"
//   u64       version, 1
//   u8        type of an id (IdType)
//   u64       S, the number of sequences
//   u64       D, the entries of the document index: one per document and one at the end
//   int32[S]  tokens in each sequence
//   int64[S]  where each sequence begins, in bytes of the .bin
//   int64[D]  the first sequence of each document, and S at the end
//   int8[S]   the mode of each sequence, which we ignore; some files do not have this list
//
// The lists follow each other without padding, so they are not aligned.
#pragma once
#include <cstring>
#include <string>
#include <string_view>

#include "data/files.h"

enum class IdType : uint8_t { u8 = 1, i8, i16, i32, i64, u16 = 8, u32 = 100 };  // Megatron's codes; 100 is ours
inline int width_of(IdType t) {
    return t == IdType::i64 ? 8 : t == IdType::i32 || t == IdType::u32 ? 4 : t == IdType::i8 || t == IdType::u8 ? 1 : 2;
}

struct MegatronIndex {
    static constexpr int64_t header = 34;

    MappedFile file;
    IdType type;
    int64_t sequences, documents, tokens;

    template <class Number>
    Number number(int64_t at) const {
        Number value;
        std::memcpy(&value, file.data() + at, sizeof value);
        return value;
    }
    int64_t length_of(int64_t sequence) const { return number<int32_t>(header + 4 * sequence); }  // counts tokens
    int64_t offset_of(int64_t sequence) const { return number<int64_t>(header + 4 * sequences + 8 * sequence); }
    int64_t first_sequence(int64_t d) const { return number<int64_t>(header + 12 * sequences + 8 * d); }
    // The position of the first id of document d. For d = documents, the position where the last document ends.
    int64_t document_start(int64_t d) const {
        const int64_t sequence = first_sequence(d);
        return sequence == sequences ? tokens : offset_of(sequence) / width_of(type);
    }
    // The first document that begins at position `id` or later.
    int64_t document_from(int64_t id) const {
        int64_t low = 0, high = documents;
        while (low < high) {
            const int64_t middle = low + (high - low) / 2;
            if (document_start(middle) < id)
                low = middle + 1;
            else
                high = middle;
        }
        return low;
    }
};

constexpr std::string_view megatron_magic = "MMIDIDX", old_megatron_magic = "TNTIDX";

// Checks the index against itself and against the size of the .bin. Sequences must lie back to back from byte 0 to the
// end, as both programs write them, so that the .bin is one run of ids. Throws InputError if anything is off.
inline MegatronIndex read_megatron_index(MappedFile idx, const std::string& bin, int64_t bin_bytes) {
    MegatronIndex m{std::move(idx), IdType(), 0, 0, 0};
    const std::string path   = m.file.path();
    constexpr int64_t header = MegatronIndex::header;
    CHECK(m.file.size() >= header,
          "{}: a Megatron index has a header of {} bytes, but this file has {} in all: it is truncated", path, header,
          m.file.size());
    const uint64_t version = m.number<uint64_t>(9);
    CHECK(version == 1, "{}: a Megatron index of version {}, expected 1", path, version);
    const int code = m.number<uint8_t>(17);
    CHECK(code != 6 && code != 7, "{}: type code {} is floating point, but token ids are integers", path, code);
    CHECK((code >= 1 && code <= 5) || code == 8,
          "{}: type code {}, expected 1 (uint8), 2 (int8), 3 (int16), 4 (int32), 5 (int64) or 8 (uint16)", path, code);
    const uint64_t all = uint64_t(m.file.size()), s = m.number<uint64_t>(18), d = m.number<uint64_t>(26);
    CHECK(s <= all / 12 && d <= all / 8 && header + 12 * s + 8 * d <= all,
          "{}: the header says {} sequences and {} entries of the document index, too many for the {} bytes of the "
          "file: it is truncated",
          path, s, d, all);
    const uint64_t listed = header + 12 * s + 8 * d;
    CHECK(all == listed || all == listed + s,
          "{}: {} sequences and {} entries of the document index take {} bytes, or {} with modes; the file has {}",
          path, s, d, listed, listed + s, all);
    m.type              = IdType(code);
    m.sequences         = int64_t(s);
    m.documents         = int64_t(d) - 1;
    const int64_t width = width_of(m.type);
    int64_t end         = 0;
    for (int64_t i = 0; i < m.sequences; i++) {
        const int64_t length = m.length_of(i), offset = m.offset_of(i);
        CHECK(length >= 0, "{}: sequence {} has {} tokens", path, i, length);
        CHECK(offset == end, "{}: sequence {} begins at byte {} of {}, but the one before it ends at {}", path, i,
              offset, bin, end);
        CHECK(
            length <= (bin_bytes - end) / width,
            "{}: sequence {} of {} tokens of {} bytes begins at byte {}, but {} has {}: it is truncated or belongs to "
            "another pair",
            path, i, length, width, offset, bin, bin_bytes);
        end += length * width;
    }
    CHECK(end == bin_bytes, "{}: the sequences end at byte {}, but {} has {}; does it belong to another pair?", path,
          end, bin, bin_bytes);
    CHECK(m.documents >= 0, "{}: the document index is empty, expected at least the entry 0", path);
    int64_t before = 0;
    for (int64_t i = 0; i <= m.documents; i++) {
        const int64_t start = m.first_sequence(i);
        CHECK(i == 0 ? start == 0 : start >= before, "{}: document {} begins at sequence {}, expected {}{}", path, i,
              start, before, i ? " or more" : "");
        before = start;
    }
    CHECK(before == m.sequences, "{}: the documents end at sequence {} of {}", path, before, m.sequences);
    m.tokens = end / width;
    forget_pages(m.file.data(), m.file.size());  // 20 bytes per document are gigabytes for the Pile
    return m;
}

// Whether a regular file begins with these bytes.
inline bool has_magic(const std::string& path, std::string_view magic) {
    if (!fs::is_regular_file(path)) return false;
    const MappedFile file(path);
    return file.text().substr(0, magic.size()) == magic;
}
// The path with the ending `from` replaced by `to`, or "" if it does not end in `from`.
inline std::string other_ending(const std::string& path, std::string_view from, std::string_view to) {
    if (path.size() <= from.size() || path.compare(path.size() - from.size(), from.size(), from)) return "";
    return path.substr(0, path.size() - from.size()).append(to);
}
// The file that holds the ids: the .bin for either half or the prefix of a Megatron pair, else the path itself.
inline std::string ids_path(const std::string& path) {
    const std::string bin = other_ending(path, ".idx", ".bin");
    if (!bin.empty() && has_magic(path, megatron_magic)) {
        CHECK(fs::exists(bin), "{} is the index of a Megatron / GPT-NeoX pair, and {} is missing", path, bin);
        return bin;
    }
    return !fs::exists(path) && has_magic(path + ".idx", megatron_magic) ? ids_path(path + ".idx") : path;
}
