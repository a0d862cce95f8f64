// documents.h - text files → documents, in blocks that threads can work on, in memory that does not grow
//
//   text     one document per file, or several, separated by lines such as <|endoftext|>
//   jsonl    one JSON object per line, the text in a field of it
//
// One reader goes through the files and hands out blocks of about a megabyte: whole documents, and parts of those that
// are longer than part_bytes. A part ends where cutting changes no token.
#pragma once
#include <glob.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/byte_stream.h"
#include "data/files.h"
#include "data/json_field.h"
#include "data/tokenizer.h"
#include "kernels/random.h"

// A document or a part of one, as it stands in the file.
struct Part {
    enum Kind : uint8_t { text, json, fault };  // json: a line to be read by text_of; fault: why input is missing here
    size_t begin, end;                          // of Block::bytes
    int64_t line;                               // of the file, where it begins
    int32_t file;                               // of Inputs::files
    Kind kind;
    bool first, last;             // of its document
    bool for_validation = false;  // known here for a document in several parts only
};

struct Block {
    std::string bytes;
    std::vector<Part> parts;
    std::string_view bytes_of(const Part& p) const { return std::string_view(bytes).substr(p.begin, p.end - p.begin); }
};

struct InputFile {
    std::string path;      // - is standard input
    int64_t size     = 0;  // on disk; 0 where that is not known
    int64_t bytes    = 0;  // read so far
    uint32_t crc     = 0;  // CRC-32 of these
    bool read_to_end = false;
    std::string name() const { return path == "-" ? "standard input" : path; }
};

// ---- names --------------------------------------------------------------------------------------------------------

inline bool ends_in(std::string_view name, std::string_view end) {
    return name.size() >= end.size() && name.substr(name.size() - end.size()) == end;
}
inline bool has_jsonl_name(std::string_view name) {
    return ends_in(name, ".jsonl") || ends_in(name, ".jsonl.zst") || ends_in(name, ".jsonl.gz");
}

// A file, the .txt and .jsonl (.zst, .gz) files in a folder and below it, or those that a glob matches, in the order of
// their names.
inline std::vector<std::string> files_of(const std::string& name) {
    if (name == "-") return {name};
    std::vector<std::string> files;
    std::error_code error;
    if (fs::is_directory(name, error)) {
        for (const auto& entry : fs::recursive_directory_iterator(name)) {
            const std::string path = entry.path().string();
            const bool is_text     = ends_in(path, ".txt") || ends_in(path, ".txt.zst") || ends_in(path, ".txt.gz");
            if (entry.is_regular_file() && (is_text || has_jsonl_name(path))) files.push_back(path);
        }
        std::sort(files.begin(), files.end());
        CHECK(!files.empty(), "{}: no .txt or .jsonl file, plain or as .zst or .gz, in this folder", name);
        return files;
    }
    if (fs::exists(name, error)) return {name};
    glob_t found{};
    const int status = glob(name.c_str(), 0, nullptr, &found);
    files.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
    globfree(&found);
    const bool is_pattern = name.find_first_of("*?[") != std::string::npos;
    CHECK(status == 0, "{}", is_pattern ? "no file matches " + name : "cannot open " + name + ": no such file");
    for (const std::string& f : files) CHECK(!fs::is_directory(f), "{}: {} is a folder; name the files in it", name, f);
    return files;
}

// Files that are read one after another, as a share of the whole.
struct Source {
    double weight;
    std::vector<std::string> files;
};

// "0.3:wiki/*.jsonl.zst"
inline Source weighted_source(const std::string& word) {
    const size_t colon = word.find(':');
    double weight      = 0;
    try {
        size_t used = 0;
        weight      = colon == std::string::npos ? 0 : std::stod(word.substr(0, colon), &used);
        if (used != colon) weight = 0;
    } catch (const std::exception&) {}
    CHECK(weight > 0 && weight <= 1e9,
          "--mix {}: expected WEIGHT:FILES with a weight above 0, such as 0.3:'wiki/*.jsonl'", word);
    return {weight, files_of(word.substr(colon + 1))};
}

// ---- training and validation --------------------------------------------------------------------------------------

// Whether a document belongs to the validation part: so for `fraction` of all documents, wherever they stand. Its first
// 64 KiB decide, so that a long one need not be held to know. Hashed by words: by bytes it takes 7 % of encoding.
inline bool is_validation(std::string_view text, double fraction) {
    if (fraction <= 0) return false;
    text       = text.substr(0, 1 << 16);
    uint64_t h = text.size();
    for (size_t at = 0; at < text.size(); at += 8) {
        uint64_t word = 0;
        std::memcpy(&word, text.data() + at, std::min<size_t>(8, text.size() - at));
        h = mix64(h ^ word);
    }
    return double(h >> 11) * 0x1p-53 < fraction;
}

// Where the last `fraction` of a text begins: behind an empty line if one comes soon, else behind a line, else at a
// character.
inline size_t tail_begin(std::string_view text, double fraction) {
    const size_t target = text.size() - std::min(text.size(), size_t(double(text.size()) * fraction));
    const size_t soon   = target + (text.size() - target) / 2;
    for (const std::string_view end : {"\n\n", "\n"}) {
        const size_t at = text.find(end, target);
        if (at != std::string_view::npos && at + end.size() <= soon) return at + end.size();
    }
    size_t at = target;
    while (at < text.size() && (uint8_t(text[at]) & 0xc0) == 0x80) at++;
    return at;
}

// ---- reading ------------------------------------------------------------------------------------------------------

struct ReadSettings {
    std::string format = "auto", field = "text", separator = "<|endoftext|>";
    size_t block_bytes  = 1 << 20;
    size_t part_bytes   = 1 << 20;  // longer documents come in parts
    double val_fraction = 0;        // of the documents, by their hash
    // The last place behind `from` where the text may be cut, or 0 for none.
    std::function<size_t(std::string_view text, size_t from)> last_cut;
};

class Documents {
  public:
    using Hand = std::function<void(Block)>;

    Documents(std::vector<Source> sources, ReadSettings settings) : settings_(std::move(settings)) {
        CHECK(!sources.empty(), "no input: --input FILE…, or - for standard input");
        for (const Source& s : sources) {
            sources_.emplace_back();
            sources_.back().weight = s.weight;
            for (const std::string& path : s.files) {
                sources_.back().files.push_back(int32_t(files_.size()));
                std::error_code unknown;
                const auto size = path == "-" || !fs::is_regular_file(path) ? 0 : fs::file_size(path, unknown);
                files_.push_back({path, unknown ? 0 : int64_t(size)});
                total_ += files_.back().size;
            }
        }
    }

    // Reads everything, and hands it over block by block. With several sources the next document is from the one that
    // is furthest behind its weight, in bytes; the first to run out ends the whole, so that the weights hold
    // throughout.
    void read(const Hand& hand) {
        hand_ = hand;
        for (;;) {
            Reading& next = *std::min_element(sources_.begin(), sources_.end(), [](const Reading& a, const Reading& b) {
                return double(a.bytes) / a.weight < double(b.bytes) / b.weight;
            });
            if (!read_document(next)) break;
        }
        if (!block_.parts.empty()) hand_over();
    }

    const std::vector<InputFile>& files() const { return files_; }
    // The part of the input that has been read, 0..1, or -1 where its size is not known.
    double progress() const { return total_ == 0 ? -1 : double(bytes_read_) / double(total_); }

    // The text of a whole document, in the block or in `buffer`.
    std::string_view text_of(const Block& block, const Part& part, std::string& buffer) const {
        if (part.kind == Part::text) return block.bytes_of(part);
        buffer.clear();
        JsonField(block.bytes_of(part), files_[size_t(part.file)].name(), part.line).read(settings_.field, buffer);
        return buffer;
    }

  private:
    struct Reading {
        double weight = 1;
        std::vector<int32_t> files;
        size_t next_file = 0;
        std::unique_ptr<ByteStream> stream;
        std::unique_ptr<Lines> lines;
        int64_t line = 0, bytes = 0;  // bytes: of documents so far

        int32_t file() const { return files[next_file]; }
    };

    // One document, or a fault that is skipped; false at the end of the source.
    bool read_document(Reading& from) {
        while (from.next_file < from.files.size()) {
            InputFile& file = files_[size_t(from.file())];
            try {
                if (!from.stream) {
                    from.stream = std::make_unique<ByteStream>(file.path);
                    from.lines  = std::make_unique<Lines>(*from.stream);
                    from.line   = 0;
                }
                const bool is_json =
                    settings_.format == "jsonl" || (settings_.format == "auto" && has_jsonl_name(file.path));
                const bool found = is_json ? read_line(from) : read_text(from);
                note_read(from);
                if (found) return true;
                file.read_to_end = true;
            } catch (const InputError& e) {
                note_read(from);
                add_fault(from, e.what());
            }
            from.lines.reset();
            from.stream.reset();
            from.next_file++;
        }
        return false;
    }

    void note_read(Reading& from) {
        InputFile& file = files_[size_t(from.file())];
        if (!from.stream) return;
        bytes_read_ += from.stream->bytes_read() - file.bytes;
        file.bytes = from.stream->bytes_read();
        file.crc   = from.stream->crc();
    }

    bool read_line(Reading& from) {
        do {
            line_.clear();
            if (!from.lines->next(line_, settings_.part_bytes)) return false;
            from.line++;
        } while (from.lines->whole() && line_.find_first_not_of(" \t\r\n") == std::string::npos);
        if (from.lines->whole()) {
            add(from, line_, Part::json, from.line, true, true);
            return true;
        }
        // A long line is read here and now, and its text handed on in parts. What it gave before a fault stays.
        LongText text(*this, from, from.line);
        std::string rest;
        JsonField object(line_, files_[size_t(from.file())].name(), from.line, [&] {
            text.hand_parts(false);
            rest.clear();
            if (!from.lines->whole()) from.lines->next(rest, 1 << 18);
            return std::string_view(rest);
        });
        try {
            object.read(settings_.field, text.bytes);
            text.hand_parts(true);
        } catch (const InputError& e) {
            text.hand_parts(true);
            add_fault(from, e.what());
            while (!from.lines->whole()) rest.clear(), from.lines->next(rest, 1 << 18);
        }
        return true;
    }

    bool read_text(Reading& from) {
        LongText text(*this, from, from.line + 1);
        for (bool at_begin = true;;) {
            const size_t begin = text.bytes.size();
            try {
                if (!from.lines->next(text.bytes, 1 << 18)) break;
            } catch (const InputError&) {
                text.hand_parts(true);
                throw;
            }
            const bool whole = from.lines->whole();
            CHECK(settings_.format != "auto" || from.line > 0 || begin > 0 || text.bytes.rfind("{\"", 0) != 0,
                  "{} begins like JSON lines: say --format jsonl, or --format text to take it as it stands",
                  files_[size_t(from.file())].name());
            if (at_begin && whole && is_separator(std::string_view(text.bytes).substr(begin))) {
                text.bytes.resize(begin);
                from.line++;
                if (begin > 0 || text.parts > 0) return text.hand_parts(true), true;
                text.line = from.line + 1;
                continue;
            }
            at_begin = whole;
            from.line += whole;
            if (text.bytes.size() >= settings_.part_bytes) text.hand_parts(false);
        }
        const bool found = !text.bytes.empty() || text.parts > 0;
        text.hand_parts(true);
        return found;
    }

    bool is_separator(std::string_view line) const {
        if (!line.empty() && line.back() == '\n') line.remove_suffix(1);
        if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
        return !settings_.separator.empty() && line == settings_.separator;
    }

    // A document of unknown length, handed on in parts as it grows.
    struct LongText {
        Documents& to;
        Reading& from;
        int64_t line;
        std::string bytes;
        int parts           = 0;
        bool for_validation = false;

        LongText(Documents& to, Reading& from, int64_t line) : to(to), from(from), line(line) {}

        // Where a part ends depends on its bytes alone, not on how many of the next ones have been read already.
        void hand_parts(bool is_end) {
            const size_t most  = to.settings_.part_bytes;
            const auto last_in = [&](size_t size, size_t from) {
                return to.settings_.last_cut(std::string_view(bytes).substr(0, size), from);
            };
            while (bytes.size() >= most) {
                size_t cut = searched_ > 0 ? 0 : last_in(most, 0);
                if (cut == 0) {
                    searched_ = most - std::min<size_t>(most, 8);
                    if (bytes.size() < 2 * most) break;
                    cut = last_in(2 * most, searched_);
                }
                if (cut == 0) cut = character_begin(2 * most - 4);
                hand_part(cut, false);
            }
            if (is_end && (parts > 0 || !bytes.empty())) hand_part(bytes.size(), true);
        }

      private:
        // Where nothing splits for two parts, such as in two megabytes of one letter, a part ends at a character.
        size_t character_begin(size_t at) const {
            size_t begin = at;
            while (begin > at - 4 && (uint8_t(bytes[begin]) & 0xc0) == 0x80) begin--;
            return begin;
        }
        void hand_part(size_t size, bool last) {
            const std::string_view part = std::string_view(bytes).substr(0, size);
            if (parts++ == 0 && !last) for_validation = is_validation(part, to.settings_.val_fraction);
            to.add(from, part, Part::text, line, parts == 1, last, for_validation);
            bytes.erase(0, size);
            searched_ = 0;
        }
        size_t searched_ = 0;  // bytes in which there is no place to cut, once those of a part were searched
    };

    void add(Reading& from, std::string_view bytes, Part::Kind kind, int64_t line, bool first, bool last,
             bool for_validation = false) {
        const size_t begin = block_.bytes.size();
        block_.bytes.append(bytes.data(), bytes.size());
        block_.parts.push_back({begin, block_.bytes.size(), line, from.file(), kind, first, last, for_validation});
        from.bytes += kind == Part::fault ? 0 : int64_t(bytes.size());
        if (block_.bytes.size() >= settings_.block_bytes) hand_over();
    }
    void add_fault(Reading& from, const std::string& why) { add(from, why, Part::fault, from.line, true, true); }
    void hand_over() {
        hand_(std::move(block_));
        block_ = Block();
    }

    ReadSettings settings_;
    std::vector<Reading> sources_;
    std::vector<InputFile> files_;
    int64_t total_ = 0;
    std::atomic<int64_t> bytes_read_{0};
    Hand hand_;
    Block block_;
    std::string line_;
};
