// documents.h - text files → documents, one at a time
//
//   text     one document per file, or several, separated by lines <|endoftext|>
//   jsonl    one JSON object per line, the text in a field of it
//
// Either may be compressed with zstd, which is seen by its first bytes; "-" is standard input. Empty documents are left
// out.
#pragma once
#include <zstd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "gpt/files.h"

// A file, decompressed if it is zstd, line by line, through buffers of fixed size.
class LineReader {
  public:
    explicit LineReader(const std::string& path) : path_(path), in_(nullptr, close), zstd_(nullptr, ZSTD_freeDStream) {
        CHECK(!fs::is_directory(path), "{} is a folder; name the files in it", path);
        in_.reset(path == "-" ? stdin : std::fopen(path.c_str(), "rb"));
        CHECK(in_, "cannot open {}: {}", path, os_error());
        read_raw();
        CHECK(!raw_.empty(), "{} is empty", path == "-" ? "standard input" : path);
        if (raw_.substr(0, 4) == "\x28\xb5\x2f\xfd") zstd_.reset(ZSTD_createDStream());
    }

    // The next line with its end, or what is left of the file; false at the end of the file.
    bool next(std::string& line) {
        line.clear();
        for (;;) {
            if (text_.empty() && !read_text()) return !line.empty();
            const size_t end = text_.find('\n');
            const size_t n   = end == std::string_view::npos ? text_.size() : end + 1;
            line.append(text_.data(), n);
            text_.remove_prefix(n);
            if (end != std::string_view::npos) return true;
        }
    }

  private:
    static constexpr size_t chunk = 1 << 18;
    static void close(std::FILE* f) {
        if (f && f != stdin) std::fclose(f);
    }

    bool read_raw() {
        raw_buffer_.resize(chunk);
        const size_t n = std::fread(raw_buffer_.data(), 1, chunk, in_.get());
        CHECK_RUN(!std::ferror(in_.get()), "cannot read {}: {}", path_, os_error());
        raw_ = {raw_buffer_.data(), n};
        return n > 0;
    }

    bool read_text() {
        if (!zstd_) {
            if (raw_.empty() && !read_raw()) return false;
            text_ = raw_;
            raw_  = {};
            return true;
        }
        text_buffer_.resize(chunk);
        for (;;) {
            // The decoder may hold more text when its input is used up, so it is asked before the file is.
            ZSTD_outBuffer out{text_buffer_.data(), chunk, 0};
            ZSTD_inBuffer in{raw_.data(), raw_.size(), 0};
            const size_t hint = ZSTD_decompressStream(zstd_.get(), &out, &in);
            CHECK(!ZSTD_isError(hint), "{}: damaged zstd data: {}", path_, ZSTD_getErrorName(hint));
            raw_.remove_prefix(in.pos);
            if (in.pos > 0) frame_is_whole_ = hint == 0;
            text_ = {text_buffer_.data(), out.pos};
            if (out.pos > 0) return true;
            if (!raw_.empty()) continue;
            if (read_raw()) continue;
            CHECK(frame_is_whole_, "{}: ends in the middle of its zstd data; fetch it again", path_);
            return false;
        }
    }

    std::string path_, raw_buffer_, text_buffer_;
    std::string_view raw_, text_;  // read and not yet used
    std::unique_ptr<std::FILE, void (*)(std::FILE*)> in_;
    std::unique_ptr<ZSTD_DStream, size_t (*)(ZSTD_DStream*)> zstd_;
    bool frame_is_whole_ = false;
};

// A document as it stands in the file, and where: for jsonl the line that holds it, which text() reads, so that many
// threads can do so at once.
struct Document {
    std::string raw;
    std::string file;
    int64_t line = 0;
    bool is_json = false;

    std::string text(const std::string& field) && {
        if (!is_json) return std::move(raw);
        nlohmann::json object;
        try {
            object = nlohmann::json::parse(raw);
        } catch (const nlohmann::json::exception& e) { fail("{} line {}: not JSON: {}", file, line, e.what()); }
        const auto found = object.is_object() ? object.find(field) : object.end();
        CHECK(object.is_object() && found != object.end(),
              "{} line {}: no field \"{}\"; --field names the one with the text", file, line, field);
        CHECK(found->is_string(), "{} line {}: field \"{}\" is {}, expected a string", file, line, field,
              found->type_name());
        return std::move(found->get_ref<std::string&>());
    }
};

class Documents {
  public:
    // format: text, jsonl, or auto: jsonl where the name ends in .jsonl or .jsonl.zst.
    Documents(const std::vector<std::string>& files, const std::string& format) : files_(files), format_(format) {
        CHECK(!files.empty(), "no input: --input FILE…, or - for standard input");
        for (const std::string& f : files) CHECK(f == "-" || fs::exists(f), "cannot open {}: no such file", f);
    }

    bool next(Document& d) {
        while (lines_ || file_ < files_.size()) {
            if (!lines_) {
                lines_ = std::make_unique<LineReader>(files_[file_]);
                line_  = 0;
            }
            d = Document{"", files_[file_] == "-" ? "standard input" : files_[file_], line_ + 1, is_json()};
            if (d.is_json ? next_line(d) : next_text(d)) return true;
            lines_.reset();
            file_++;
        }
        return false;
    }

  private:
    bool is_json() const {
        if (format_ != "auto") return format_ == "jsonl";
        const auto ends_in = [name = std::string_view(files_[file_])](std::string_view end) {
            return name.size() >= end.size() && name.substr(name.size() - end.size()) == end;
        };
        return ends_in(".jsonl") || ends_in(".jsonl.zst");
    }

    bool next_line(Document& d) {
        while (lines_->next(d.raw)) {
            d.line = ++line_;
            if (d.raw.find_first_not_of(" \t\r\n") != std::string::npos) return true;
        }
        return false;
    }

    bool next_text(Document& d) {
        std::string line;
        while (lines_->next(line)) {
            line_++;
            const bool separator = line == "<|endoftext|>\n" || line == "<|endoftext|>\r\n" || line == "<|endoftext|>";
            if (!separator)
                d.raw += line;
            else if (!d.raw.empty())
                return true;
        }
        return !d.raw.empty();
    }

    std::vector<std::string> files_;
    std::string format_;
    size_t file_ = 0;
    std::unique_ptr<LineReader> lines_;
    int64_t line_ = 0;
};

// ---- training and validation
// ---------------------------------------------------------------------------------------------

// Whether a document belongs to the validation part: so for `fraction` of all documents, wherever they stand.
inline bool is_validation(std::string_view text, double fraction) {
    uint64_t h = 0xcbf29ce484222325u;  // FNV-1a, then mixed so that its upper bits are good
    for (const char c : text) h = (h ^ uint8_t(c)) * 0x100000001b3u;
    h = (h ^ (h >> 32)) * 0xd6e8feb86659fd93u;
    h ^= h >> 32;
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
