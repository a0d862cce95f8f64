// austen.cpp - the program that takes Jane Austen's novels out of the R package janeaustenr
//
//   austen Rdata.rdb > austen.txt
//
// An Rdata.rdb is a sequence of chunks. A chunk is a uint32 and a zlib stream that inflates to so many bytes. Here each
// chunk is one novel, a vector of strings as R serializes it, with a string for each line of the book:
//
//   2 bytes   "X\n"
//   int32[3]  version, version of the writer, version of the oldest reader
//   int32, …  from version 3 on: the length and the name of an encoding
//   int32     16, a vector of strings
//   int32     the number of strings
//   …         for each string int32 flags, int32 length, and its bytes
//
// All numbers are big-endian. The program writes a line <|endoftext|> between novels. It joins the lines of each
// paragraph, because the width of a printed page is not worth learning, and puts an empty line between paragraphs.
#include <zlib.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "data/files.h"

// Takes numbers and bytes from the front of `rest`. Throws InputError at its end.
struct Cursor {
    std::string_view rest;
    const std::string& file;

    std::string_view bytes(uint32_t n) {
        CHECK(n <= rest.size(), "{}: the file ends within a value: it has {} bytes, and {} are left", file, n,
              rest.size());
        const std::string_view taken = rest.substr(0, n);
        rest.remove_prefix(n);
        return taken;
    }
    uint32_t number() {
        uint32_t n = 0;
        for (const char c : bytes(4)) n = n << 8 | uint8_t(c);
        return n;
    }
};

static std::string inflate_chunk(Cursor& in) {
    constexpr uint32_t most = 64 << 20;
    uLongf size             = in.number();
    CHECK(size > 0 && size <= most, "{}: a chunk of {} bytes, expected 1..{}; is this an Rdata.rdb?", in.file, size,
          most);
    std::string out(size, '\0');
    uLong used = uLong(in.rest.size());
    const int status =
        uncompress2(reinterpret_cast<Bytef*>(out.data()), &size, reinterpret_cast<const Bytef*>(in.rest.data()), &used);
    CHECK(status == Z_OK && size == out.size(), "{}: a chunk is damaged (zlib status {})", in.file, status);
    in.rest.remove_prefix(used);
    return out;
}

static std::string read_novel(Cursor in) {
    CHECK(in.bytes(2) == "X\n", "{}: a chunk is not R's binary serialisation", in.file);
    const uint32_t version = in.number();
    in.bytes(8);
    if (version >= 3) in.bytes(in.number());
    const uint32_t type = in.number();
    CHECK(type == 16, "{}: a chunk holds type {:#x}, expected 0x10, a vector of strings", in.file, type);
    std::string text, paragraph;
    for (uint32_t lines = in.number(); lines > 0; lines--) {
        const uint32_t flags = in.number();
        CHECK((flags & 0xff) == 9, "{}: a line of type {:#x}, expected 9, a string", in.file, flags);
        const std::string_view line = in.bytes(in.number());
        if (line.empty() && !paragraph.empty()) text += paragraph + "\n\n", paragraph.clear();
        if (!line.empty()) paragraph.append(paragraph.empty() ? "" : " ").append(line);
    }
    return text + paragraph + "\n";
}

static int run(int argc, char** argv) {
    CHECK(argc == 2, "usage: austen Rdata.rdb > austen.txt");
    const std::string path = argv[1];
    const MappedFile file(path);
    CHECK(file.size() > 0, "{} is empty", path);
    std::string text;
    for (Cursor in{file.text(), path}; !in.rest.empty();) {
        const std::string chunk = inflate_chunk(in);
        if (!text.empty()) text += "<|endoftext|>\n";
        text += read_novel({chunk, path});
    }
    std::fwrite(text.data(), 1, text.size(), stdout);
    expect_printed();
    return 0;
}

int main(int argc, char** argv) {
    return run_main([&] { return run(argc, argv); });
}
