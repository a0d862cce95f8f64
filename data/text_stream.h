// text_stream.h - reads a file as UTF-8 text, and refuses one that is not text
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "data/byte_stream.h"
#include "data/recognize.h"
#include "data/utf8.h"
#include "data/words.h"

class TextStream {
  public:
    // path: a file, or "-" for standard input. Throws InputError for an empty file, and for one that recognize() names.
    // keep_any_bytes: accepts bytes that are not UTF-8 in any number, and NUL bytes.
    // for_tokenize: advice names the options of tokenize; other programs are given a file of text instead.
    TextStream(const std::string& path, bool keep_any_bytes, bool for_tokenize = true)
        : bytes_(path), keep_any_bytes_(keep_any_bytes), for_tokenize_(for_tokenize) {
        next_     = bytes_.next();
        is_whole_ = next_.size() < ByteStream::chunk;
        if (next_.substr(0, 3) == "\xef\xbb\xbf") {
            next_.remove_prefix(3);
            had_mark_ = true;
        }
        const FileKind kind = recognize(next_, keep_any_bytes);
        CHECK(kind.what.empty(), "{} is {}: {}", name(), kind.what, way(kind.advice));
    }

    // The text that comes next, valid until the call of next(). Empty at the end.
    std::string_view peek() {
        if (next_.empty()) next_ = bytes_.next();
        return next_;
    }
    // Takes the text that peek() shows.
    std::string_view next() { return peek(), std::exchange(next_, {}); }

    // Counts what is not UTF-8 in text that next() returned. "" stands for the end of the file. One byte in a thousand
    // may be invalid, as in damaged text; other encodings have more. Throws InputError beyond that.
    void check(std::string_view text) {
        if (text.empty()) checked_.finish();
        checked_.add(text);
        if (keep_any_bytes_) return;
        CHECK(checked_.zeros == 0, "{}: {} of the first {} {} NUL, the first at byte {}, so this is no text{}", name(),
              checked_.zeros, count_of(checked_.bytes, "byte"), checked_.zeros == 1 ? "is" : "are", checked_.first,
              advice());
        CHECK(checked_.invalid * 1000 <= checked_.bytes,
              "{}: {} of the first {} {} not UTF-8, the first at byte {}\n    if this is Latin-1: {}{}", name(),
              checked_.invalid, count_of(checked_.bytes, "byte"), checked_.invalid == 1 ? "is" : "are", checked_.first,
              way("iconv -f WINDOWS-1252 -t UTF-8 FILE | ./tokenize --input - …"), advice());
    }

    const std::string& name() const { return bytes_.name(); }
    int64_t bytes_read() const { return bytes_.bytes_read(); }
    uint32_t crc() const { return bytes_.crc(); }
    bool had_mark() const { return had_mark_; }  // there was a UTF-8 byte-order mark, which next() leaves out
    bool is_whole() const { return is_whole_; }  // the first peek() showed all of the text
    const Utf8Check& checked() const { return checked_; }

  private:
    const char* advice() const {
        return for_tokenize_ ? "\n    --on-error skip leaves the rest of the file out, --on-error keep takes its bytes "
                               "as they are"
                             : "";
    }
    // A way to the text of a file, which leads into tokenize by a pipe and into other programs by a file.
    std::string way(std::string command) const {
        if (const size_t pipe = command.find("| ./tokenize"); !for_tokenize_ && pipe != command.npos)
            command.replace(pipe, command.npos, ">TEXT_FILE");
        return command;
    }

    ByteStream bytes_;
    std::string_view next_;
    Utf8Check checked_;
    bool keep_any_bytes_, for_tokenize_, had_mark_ = false, is_whole_ = false;
};

// All of a file as text, decompressed, for other programs than tokenize. A byte-order mark is left out, and said. An
// empty file is an empty text. Throws InputError for a file that is not text. keep_any_bytes: as for TextStream.
inline std::string read_whole_text(const std::string& path, bool keep_any_bytes = false) {
    std::string text;
    std::error_code unknown;
    if (fs::is_regular_file(path, unknown) && fs::file_size(path, unknown) == 0) return text;
    TextStream stream(path, keep_any_bytes, false);
    if (stream.had_mark())
        fmt::print(stderr, "note: {}: the UTF-8 byte-order mark in front was left out\n", stream.name());
    for (std::string_view bytes = stream.next();; bytes = stream.next()) {
        stream.check(bytes);
        if (bytes.empty()) return text;
        text.append(bytes);
    }
}

// Reads a stream line by line, or a long line in pieces.
class Lines {
  public:
    // checked: whether the bytes must be checked here; those of JSON are checked by its reader.
    Lines(TextStream& stream, bool checked) : stream_(stream), checked_(checked) {}

    // Appends the rest of the current line with its line break, or about `most` bytes of it if it is longer.
    // False at the end of the stream.
    bool next(std::string& line, size_t most) {
        const size_t begin = line.size();
        for (;;) {
            if (bytes_.empty()) {
                bytes_ = stream_.next();
                if (checked_) stream_.check(bytes_);
            }
            if (bytes_.empty()) return line_ended_ = true, line.size() > begin;
            const size_t end = bytes_.find('\n');
            line_ended_      = end != std::string_view::npos;
            const size_t n   = line_ended_ ? end + 1 : bytes_.size();
            line.append(bytes_.data(), n);
            bytes_.remove_prefix(n);
            if (line_ended_ || line.size() - begin >= most) return true;
        }
    }
    // Whether the last call of next() read its line to the end.
    bool line_ended() const { return line_ended_; }

  private:
    TextStream& stream_;
    std::string_view bytes_;
    bool checked_, line_ended_ = true;
};
