// recognize.h - says what a file is that holds no text, from its first bytes
//
// A byte-level vocabulary can encode any file, so one that is no text would silently become useless tokens.
#pragma once
#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "data/utf8.h"

// What a file is, and what to do to get its text. `what` is empty for a file that may be text.
struct FileKind {
    std::string what, advice;
};

struct Magic {
    size_t at;
    std::string_view bytes;
    const char *what, *advice;
    bool may_look_like_text = false;  // files of this form can hold nothing but characters of text
};

// clang-format off
inline constexpr Magic magics[] = {
    {0, "PAR1", "a Parquet file", "python3 data/parquet_text.py FILE… | ./tokenize --input - --format jsonl …"},
    {0, "ARROW1", "an Arrow file", "pyarrow or Hugging Face datasets (to_json) write it as JSON lines"},
    {0, {"\xff\xff\xff\xff", 4}, "an Arrow stream", "pyarrow or Hugging Face datasets (to_json) write it as JSON lines"},
    {0, {"SQLite format 3\0", 16}, "an SQLite database", "sqlite3 FILE 'select …' prints its text"},
    {0, "\x89HDF\r\n\x1a\n", "an HDF5 file", "h5py reads its text"},
    {0, "\x93NUMPY", "a NumPy array", "./train_gpt reads ids without a header, as ndarray.tofile() writes them"},
    {0, "GGUF", "a GGUF model", "give its text, not its weights"},
    {0, {"Obj\1", 4}, "an Avro file", "avro-tools tojson prints it as JSON lines"},
    {0, "\3757zXZ", "xz data", "xz -dc FILE… | ./tokenize --input - …"},
    {0, "BZh", "bzip2 data", "bzip2 -dc FILE… | ./tokenize --input - …"},
    {0, "\x04\x22\x4d\x18", "lz4 data", "lz4 -dc FILE… | ./tokenize --input - …"},
    {0, "\x02\x21\x4c\x18", "lz4 data", "lz4 -dc FILE… | ./tokenize --input - …"},
    {0, {"\x5d\0\0", 3}, "lzma data", "xz -dc --format=lzma FILE… | ./tokenize --input - …"},
    {0, "LZIP", "lzip data", "lzip -dc FILE… | ./tokenize --input - …"},
    {0, {"\x89LZO\0", 5}, "lzop data", "lzop -dc FILE… | ./tokenize --input - …"},
    {0, "\x1f\x9d", "compress data", "gzip -dc FILE… | ./tokenize --input - …"},
    {0, {"\xff\x06\0\0sNaPpY", 10}, "snappy data", "snzip -dc FILE… | ./tokenize --input - …"},
    {0, "\x78\x9c", "zlib data", "zlib-flate -uncompress <FILE | ./tokenize --input - …"},
    {0, "\x78\xda", "zlib data", "zlib-flate -uncompress <FILE | ./tokenize --input - …"},
    {0, "\x37\xa4\x30\xec", "a zstd dictionary", "give the data that was compressed with it"},
    {0, "\x28\xb5\x2f\xfd", "zstd data inside compressed data", "decompress it once more"},
    {0, "\x1f\x8b", "gzip data inside compressed data", "decompress it once more"},
    {0, "PK\3\4", "an archive (zip)", "unpack it and give its text files"},
    {0, "PK\5\6", "an archive (zip)", "it is empty"},
    {0, "7z\xbc\xaf\x27\x1c", "an archive (7z)", "unpack it and give its text files"},
    {0, "Rar!\x1a\x07", "an archive (rar)", "unpack it and give its text files"},
    {257, "ustar", "an archive (tar)", "unpack it and give its text files"},
    {0, "!<arch>\n", "an archive (ar)", "unpack it and give its text files", true},
    {0, "%PDF-", "a PDF file", "pdftotext takes the text out of it", true},
    {0, "{\\rtf", "a rich-text file (RTF)", "save it as plain text", true},
    {0, "\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Microsoft Office file", "save it as plain text"},
    {0, "\x89PNG\r\n", "an image (PNG)", "give text"},
    {0, "\xff\xd8\xff", "an image (JPEG)", "give text"},
    {0, "GIF87a", "an image (GIF)", "give text"},
    {0, "GIF89a", "an image (GIF)", "give text"},
    {8, "WEBP", "an image (WebP)", "give text"},
    {0, {"II*\0", 4}, "an image (TIFF)", "give text"},
    {0, {"MM\0*", 4}, "an image (TIFF)", "give text"},
    {8, "WAVEfmt", "sound (WAV)", "give text"},
    {0, "OggS", "sound (Ogg)", "give text"},
    {0, "fLaC", "sound (FLAC)", "give text"},
    {4, "ftyp", "a film (MP4)", "give text"},
    {0, "\177ELF", "an executable (ELF)", "give text"},
    {0, {"\0asm", 4}, "an executable (WebAssembly)", "give text"},
    {0, "\xcf\xfa\xed\xfe", "an executable (Mach-O)", "give text"},
    {0, "\xce\xfa\xed\xfe", "an executable (Mach-O)", "give text"},
    {0, "\xca\xfe\xba\xbe", "an executable (Java or Mach-O)", "give text"},
    {0, "version https://git-lfs.github.com/spec/", "a pointer of Git LFS", "git lfs pull downloads the file itself", true},
    {0, "MMIDIDX", "the index of token ids", "./train_gpt reads the pair as it is"},
    {0, "BIN.TOK\n", "a file that holds tokens already", "./train_gpt reads it as it is, and --decode turns it into text"},
};
// clang-format on

// The first form of at least `least` bytes of magic that a file has, or null. A text that merely begins with the word
// of a form, such as "GGUF is a format", is text.
inline const Magic* magic_of(std::string_view begin, size_t least = 0) {
    for (const Magic& m : magics)
        if (m.bytes.size() >= least && begin.size() > m.at && begin.substr(m.at, m.bytes.size()) == m.bytes &&
            (m.may_look_like_text || !looks_like_text(m.bytes) || !looks_like_text(begin)))
            return &m;
    return nullptr;
}

// Whether the bytes decode as UTF-16 (width 2) or UTF-32 (width 4) into characters that occur in text.
// Without a NUL byte there is no space and no line break, so the text must be Chinese or Japanese: three quarters are
// ideographs, kana or wide punctuation, and a quarter is below U+8100. GBK, Big5 and EUC-KR decode to Hangul and
// private characters, and Shift-JIS, whose lead bytes begin at 0x81, to ideographs from U+8100 on.
inline bool decodes_as(std::string_view bytes, size_t width, bool big_endian) {
    const auto unit = [&](size_t i) {
        uint32_t u = 0;
        for (size_t b = 0; b < width; b++)
            u |= uint32_t(uint8_t(bytes[i * width + b])) << 8 * (big_endian ? width - 1 - b : b);
        return u;
    };
    const size_t units = bytes.size() / width;
    size_t east_asian = 0, common = 0;
    for (size_t i = 0; i < units; i++) {
        uint32_t code = unit(i);
        if (width == 2 && code >= 0xd800 && code < 0xdc00 && i + 1 < units) {
            const uint32_t low = unit(++i);
            if (low < 0xdc00 || low > 0xdfff) return false;
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        } else if (width == 2 && code >= 0xd800 && code < 0xdc00)
            continue;  // the sample ends here
        const auto category = code <= 0x10ffff ? utf8proc_category(int32_t(code)) : UTF8PROC_CATEGORY_CN;
        const bool is_break = code == '\n' || code == '\r' || code == '\t' || code == '\f';
        if (category == UTF8PROC_CATEGORY_CN || category == UTF8PROC_CATEGORY_CO || category == UTF8PROC_CATEGORY_CS)
            return false;
        if (category == UTF8PROC_CATEGORY_CC && !is_break) return false;
        east_asian += (code >= 0x3000 && code < 0xa000) || (code >= 0xff00 && code < 0xfff0);
        common += code >= 0x3000 && code < 0x8100;
    }
    return units > 0 && (bytes.find('\0') != bytes.npos || (common * 4 >= units && east_asian * 4 >= units * 3));
}

// Recognizes UTF-16 and UTF-32, by their byte-order mark, or by their characters where a fifth of the bytes is no part
// of any text in UTF-8. Latin-1 has fewer such bytes, and pairs of its letters would pass for Chinese characters.
inline std::string wide_encoding(std::string_view sample) {
    const auto begins = [&](std::string_view mark) { return sample.substr(0, mark.size()) == mark; };
    if (begins({"\xff\xfe\0\0", 4}) || begins({"\0\0\xfe\xff", 4})) return "UTF-32";
    if (begins("\xff\xfe") || begins("\xfe\xff")) return "UTF-16";
    Utf8Check check;
    check.add(sample);
    if (sample.size() < (check.zeros ? 8 : 32)) return "";  // too little to tell
    int64_t controls = 0;
    for (const char c : sample)
        controls += uint8_t(c) < ' ' && c != 0 && c != '\n' && c != '\r' && c != '\t' && c != '\f';
    if ((check.zeros + check.invalid + controls) * 5 < int64_t(sample.size())) return "";
    if (decodes_as(sample, 4, false)) return "UTF-32LE";
    if (decodes_as(sample, 4, true)) return "UTF-32BE";
    // Either byte order may decode. The upper bytes, of which most of the zeros are, tell which is meant.
    int64_t even_zeros = 0;
    for (size_t i = 0; i < sample.size(); i += 2) even_zeros += sample[i] == '\0';
    const bool big_first = 2 * even_zeros > check.zeros;
    if (decodes_as(sample, 2, big_first)) return big_first ? "UTF-16BE" : "UTF-16LE";
    if (decodes_as(sample, 2, !big_first)) return big_first ? "UTF-16LE" : "UTF-16BE";
    return "";
}

// Whether a file with NUL bytes is text in UTF-16 or UTF-32 and not token ids: it has a mark, or spaces between words.
inline bool is_wide_text(std::string_view sample) {
    const std::string encoding = wide_encoding(sample);
    if (encoding.empty() || encoding.size() == 6) return !encoding.empty();
    const size_t width = encoding[4] == '3' ? 4 : 2;
    size_t spaces      = 0;
    for (size_t at = 0; at + width <= sample.size(); at += width) {
        std::string_view unit = sample.substr(at, width);
        const char c          = encoding[6] == 'L' ? unit.front() : unit.back();
        spaces += (c == ' ' || c == '\n') && std::count(unit.begin(), unit.end(), '\0') == int64_t(width) - 1;
    }
    return spaces * width * 20 >= sample.size();
}

// begin: the first bytes of the file, decompressed; 4 KiB are enough. any_bytes: the encoding is not guessed.
inline FileKind recognize(std::string_view begin, bool any_bytes = false) {
    begin = begin.substr(0, 4096);
    if (const Magic* m = magic_of(begin)) return {m->what, m->advice};
    uint32_t word = 0;
    std::memcpy(&word, begin.data(), std::min<size_t>(4, begin.size()));
    if (word == 20240520 || word == 20240801)
        return {"a file that holds tokens already", "./train_gpt reads it as it is, and --decode turns it into text"};
    const bool is_pickle = begin.size() > 2 && begin[0] == '\x80' && begin[1] >= 2 && begin[1] <= 5;
    if (is_pickle) return {"a pickle of Python", "write its text to a file from Python"};
    uint64_t header = 0;
    std::memcpy(&header, begin.data(), std::min<size_t>(8, begin.size()));
    if (header > 0 && header < (1 << 27) && begin.size() > 8 && begin[8] == '{' && begin.find('\0') < 8)
        return {"a safetensors file", "give its text, not its weights"};
    if (begin.substr(0, 2) == "MZ" && begin.find('\0') != begin.npos) return {"an executable (Windows)", "give text"};
    const std::string wide = wide_encoding(begin);
    const bool is_guess    = wide.size() > 6;  // UTF-16 and UTF-32 without LE or BE have a mark
    if (!wide.empty() && !(any_bytes && is_guess))
        return {wide + " text", "iconv -f " + wide + " -t UTF-8 FILE | ./tokenize --input - …"};
    return {};
}
