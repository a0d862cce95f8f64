// byte_stream.h - reads a file or standard input, decompressed, through buffers of fixed size
//
// zstd and gzip are recognized by their first bytes, whatever the name is. Several zstd frames or gzip members one
// after another are read as one stream. Skippable zstd frames (pzstd writes them) are skipped, and a window may have up
// to 2 GiB (zstd --long=31). Zeros behind a gzip member are ignored, because tapes pad with them.
#pragma once
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "data/files.h"

class ByteStream {
  public:
    static constexpr size_t chunk = 1 << 18;  // next() returns this many bytes of text, and fewer only at the end

    // path: a file, or "-" for standard input. Throws InputError if it cannot be opened or is empty.
    explicit ByteStream(const std::string& path)
        : path_(path == "-" ? "standard input" : path),
          in_(path == "-" ? stdin : std::fopen(path.c_str(), "rb"), close) {
        CHECK(in_, "cannot open {}: {}", path_, os_error());
        CHECK(path == "-" || !fs::is_directory(path), "{} is a folder, not a file", path_);
        read_raw();
        CHECK(!raw_.empty(), "{} is empty", path_);
        if (begins_zstd(raw_)) {
            zstd_.reset(ZSTD_createDStream());
            CHECK_RUN(zstd_ && !ZSTD_isError(ZSTD_DCtx_setParameter(zstd_.get(), ZSTD_d_windowLogMax, longest_window)),
                      "zstd cannot start: out of memory");
        }
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

    const std::string& name() const { return path_; }
    int64_t bytes_read() const { return bytes_read_; }  // bytes of the file, before decompression
    uint32_t crc() const { return crc_; }               // CRC-32 of these bytes

  private:
    static constexpr int longest_window = 31;  // log2 of bytes, the limit of zstd itself on 64-bit machines

    // Whether a zstd frame begins here, or a skippable frame.
    static bool begins_zstd(std::string_view bytes) {
        const bool skippable =
            bytes.size() >= 4 && (uint8_t(bytes[0]) & 0xf0) == 0x50 && bytes.substr(1, 3) == "\x2a\x4d\x18";
        return skippable || bytes.substr(0, 4) == "\x28\xb5\x2f\xfd";
    }
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

    bool read_raw() {
        raw_buffer_.resize(chunk);
        // At a terminal, a read after the end would wait for more.
        const size_t n = std::feof(in_.get()) ? 0 : std::fread(raw_buffer_.data(), 1, chunk, in_.get());
        CHECK_RUN(!std::ferror(in_.get()), "cannot read {}: {}", path_, os_error());
        raw_ = {raw_buffer_.data(), n};
        crc_ = uint32_t(crc32(crc_, reinterpret_cast<const Bytef*>(raw_.data()), uInt(n)));
        bytes_read_ += int64_t(n);
        return n > 0;
    }

    // Fills the buffer, so that the caller gets the same chunks of text in whatever form the file is.
    // Text in front of damaged data is returned before the error is thrown.
    std::string_view decompressed() {
        if (error_) std::rethrow_exception(error_);
        text_buffer_.resize(chunk);
        size_t filled = 0;
        try {
            while (filled < chunk) {
                // The decoder may still hold text when its input is used up, so it is asked before the file is read.
                const size_t n = zstd_ ? step_zstd(filled) : step_gzip(filled);
                filled += n;
                if (n > 0 || !raw_.empty() || read_raw()) continue;
                CHECK(is_whole_, "{}: the file ends in the middle of its {} data; download it again", path_,
                      zstd_ ? "zstd" : "gzip");
                break;
            }
        } catch (const InputError&) {
            if (filled == 0) throw;
            error_ = std::current_exception();
        }
        return {text_buffer_.data(), filled};
    }

    // Each step decompresses from raw_ into the free part of the buffer, returns the number of bytes that it wrote, and
    // sets is_whole_.
    size_t step_zstd(size_t filled) {
        ZSTD_outBuffer out{text_buffer_.data() + filled, chunk - filled, 0};
        ZSTD_inBuffer in{raw_.data(), raw_.size(), 0};
        const size_t hint = ZSTD_decompressStream(zstd_.get(), &out, &in);
        if (ZSTD_isError(hint)) {
            CHECK(ZSTD_getErrorCode(hint) != ZSTD_error_frameParameter_windowTooLarge,
                  "{}: this zstd data needs a window of more than 2 GiB, which is not supported", path_);
            fail("{}: damaged zstd data: {}", path_, ZSTD_getErrorName(hint));
        }
        raw_.remove_prefix(in.pos);
        if (in.pos > 0) is_whole_ = hint == 0;
        return out.pos;
    }
    size_t step_gzip(size_t filled) {
        if (is_whole_ && !raw_.empty() && !begin_member()) return 0;
        gzip_->next_in   = reinterpret_cast<Bytef*>(const_cast<char*>(raw_.data()));
        gzip_->avail_in  = uInt(raw_.size());
        gzip_->next_out  = reinterpret_cast<Bytef*>(text_buffer_.data() + filled);
        gzip_->avail_out = uInt(chunk - filled);
        const int status = is_whole_ && raw_.empty() ? Z_BUF_ERROR : inflate(gzip_.get(), Z_NO_FLUSH);
        CHECK(status == Z_OK || status == Z_STREAM_END || status == Z_BUF_ERROR, "{}: damaged gzip data: {}", path_,
              gzip_->msg ? gzip_->msg : zError(status));
        if (status != Z_BUF_ERROR) is_whole_ = status == Z_STREAM_END;
        raw_.remove_prefix(raw_.size() - gzip_->avail_in);
        return chunk - filled - gzip_->avail_out;
    }
    // Skips zeros behind a gzip member. Returns whether another member may begin.
    bool begin_member() {
        raw_.remove_prefix(std::min(raw_.find_first_not_of('\0'), raw_.size()));
        if (raw_.empty()) return false;
        CHECK(raw_[0] == '\x1f', "{}: other data follows the gzip data", path_);
        inflateReset(gzip_.get());
        is_whole_ = false;
        return true;
    }

    std::string path_, raw_buffer_, text_buffer_;
    std::string_view raw_;  // bytes of the file that have been read and not used
    std::unique_ptr<std::FILE, void (*)(std::FILE*)> in_;
    std::unique_ptr<ZSTD_DStream, End> zstd_;
    std::unique_ptr<z_stream, End> gzip_;
    std::exception_ptr error_;    // thrown by the next call
    bool is_whole_      = false;  // a frame or member has just ended, so the file may end here
    int64_t bytes_read_ = 0;
    uint32_t crc_       = 0;
};
