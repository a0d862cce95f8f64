// byte_stream.h - reads a file or standard input, decompressed, through buffers of fixed size
//
// zstd and gzip are recognized by their first bytes, whatever the name is. Several zstd frames or gzip members one
// after another are read as one stream.
#pragma once
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "data/files.h"

class ByteStream {
  public:
    // path: a file, or "-" for standard input. Throws InputError for an empty file and for one that holds no text.
    explicit ByteStream(const std::string& path)
        : path_(path == "-" ? "standard input" : path),
          in_(path == "-" ? stdin : std::fopen(path.c_str(), "rb"), close) {
        CHECK(in_, "cannot open {}: {}", path_, os_error());
        read_raw();
        CHECK(!raw_.empty(), "{} is empty", path_);
        refuse_other_files();
        if (raw_.substr(0, 4) == "\x28\xb5\x2f\xfd") zstd_.reset(ZSTD_createDStream());
        if (raw_.substr(0, 2) == "\x1f\x8b") {
            gzip_.reset(new z_stream{});
            CHECK_RUN(inflateInit2(gzip_.get(), 16 + MAX_WBITS) == Z_OK, "zlib cannot start: out of memory");
        }
    }

    // The next bytes, which are valid until the next call. Empty at the end. Throws InputError for damaged data.
    std::string_view next() {
        if (zstd_ || gzip_) return decompressed();
        if (raw_.empty() && !read_raw()) return {};
        return std::exchange(raw_, {});
    }

    int64_t bytes_read() const { return bytes_read_; }  // bytes of the file, before decompression
    uint32_t crc() const { return crc_; }               // CRC-32 of these bytes

  private:
    static constexpr size_t chunk = 1 << 18;
    static void close(std::FILE* f) {
        if (f && f != stdin) std::fclose(f);
    }
    struct End {
        void operator()(ZSTD_DStream* s) const { ZSTD_freeDStream(s); }
        void operator()(z_stream* s) const {
            inflateEnd(s);
            delete s;
        }
    };

    // A byte-level vocabulary can encode any file, so one that is no text would silently become useless tokens.
    void refuse_other_files() const {
        const auto begins = [&](std::string_view magic) { return raw_.substr(0, magic.size()) == magic; };
        CHECK(!begins("PAR1"),
              "{} is a Parquet file: python3 data/parquet_text.py FILE… | ./tokenize --input - --format jsonl …",
              path_);
        CHECK(!begins("\3757zXZ"), "{} is xz data: xz -dc FILE… | ./tokenize --input - …", path_);
        CHECK(!begins("BZh91AY&SY"), "{} is bzip2 data: bzip2 -dc FILE… | ./tokenize --input - …", path_);
        CHECK(!begins("PK\3\4") && (raw_.size() < 512 || raw_.substr(256, 6) != std::string_view("\0ustar", 6)),
              "{} is an archive; unpack it and give its text files", path_);
        CHECK(!begins("%PDF-"), "{} is a PDF file; tools such as pdftotext take the text out of it", path_);
        uint32_t word = 0;
        std::memcpy(&word, raw_.data(), std::min<size_t>(4, raw_.size()));
        CHECK(word != 20240520 && word != 20240801 && !begins("MMIDIDX") && !begins("BIN.TOK\n"),
              "{} holds tokens already; ./train_gpt reads them as they are, and --decode turns them into text", path_);
    }

    bool read_raw() {
        raw_buffer_.resize(chunk);
        const size_t n = std::fread(raw_buffer_.data(), 1, chunk, in_.get());
        CHECK_RUN(!std::ferror(in_.get()), "cannot read {}: {}", path_, os_error());
        raw_ = {raw_buffer_.data(), n};
        crc_ = uint32_t(crc32(crc_, reinterpret_cast<const Bytef*>(raw_.data()), uInt(n)));
        bytes_read_ += int64_t(n);
        return n > 0;
    }

    std::string_view decompressed() {
        text_buffer_.resize(chunk);
        for (;;) {
            // The decoder may still hold text when its input is used up, so it is asked before the file is read.
            const size_t n = zstd_ ? step_zstd() : step_gzip();
            if (n > 0) return {text_buffer_.data(), n};
            if (!raw_.empty() || read_raw()) continue;
            CHECK(is_whole_, "{}: ends in the middle of its {} data; fetch it again", path_, zstd_ ? "zstd" : "gzip");
            return {};
        }
    }

    // Each step decompresses from raw_ to text_buffer_, returns the number of bytes of text, and sets is_whole_.
    size_t step_zstd() {
        ZSTD_outBuffer out{text_buffer_.data(), chunk, 0};
        ZSTD_inBuffer in{raw_.data(), raw_.size(), 0};
        const size_t hint = ZSTD_decompressStream(zstd_.get(), &out, &in);
        CHECK(!ZSTD_isError(hint), "{}: damaged zstd data: {}", path_, ZSTD_getErrorName(hint));
        raw_.remove_prefix(in.pos);
        if (in.pos > 0) is_whole_ = hint == 0;
        return out.pos;
    }
    size_t step_gzip() {
        if (is_whole_ && !raw_.empty()) inflateReset(gzip_.get());
        gzip_->next_in   = reinterpret_cast<Bytef*>(const_cast<char*>(raw_.data()));
        gzip_->avail_in  = uInt(raw_.size());
        gzip_->next_out  = reinterpret_cast<Bytef*>(text_buffer_.data());
        gzip_->avail_out = uInt(chunk);
        const int status = is_whole_ && raw_.empty() ? Z_BUF_ERROR : inflate(gzip_.get(), Z_NO_FLUSH);
        CHECK(status == Z_OK || status == Z_STREAM_END || status == Z_BUF_ERROR, "{}: damaged gzip data: {}", path_,
              gzip_->msg ? gzip_->msg : zError(status));
        if (status != Z_BUF_ERROR) is_whole_ = status == Z_STREAM_END;
        raw_.remove_prefix(raw_.size() - gzip_->avail_in);
        return chunk - gzip_->avail_out;
    }

    std::string path_, raw_buffer_, text_buffer_;
    std::string_view raw_;  // bytes of the file that have been read and not used
    std::unique_ptr<std::FILE, void (*)(std::FILE*)> in_;
    std::unique_ptr<ZSTD_DStream, End> zstd_;
    std::unique_ptr<z_stream, End> gzip_;
    bool is_whole_      = false;  // a frame or member has just ended, so the file may end here
    int64_t bytes_read_ = 0;
    uint32_t crc_       = 0;
};

// Reads a stream line by line, or a long line in pieces.
class Lines {
  public:
    explicit Lines(ByteStream& stream) : stream_(stream) {}

    // Appends the rest of the current line with its line break, or about `most` bytes of it if it is longer.
    // False at the end of the stream.
    bool next(std::string& line, size_t most) {
        const size_t begin = line.size();
        for (;;) {
            if (peek().empty()) return line_ended_ = true, line.size() > begin;
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

    // The bytes that come next, at least one unless the stream has ended.
    std::string_view peek() {
        if (bytes_.empty()) bytes_ = stream_.next();
        return bytes_;
    }

  private:
    ByteStream& stream_;
    std::string_view bytes_;
    bool line_ended_ = true;
};
