// test_foreign_text.cpp - text files that other programs wrote: compressed files with unusual frames, other encodings,
// JSON of all layouts, and files that are not text
#include "test/tokenize.h"

#include <random>

#include "test/data.h"

namespace {

std::string lines_of_text() {
    std::string text;
    for (int i = 0; i < 3000; i++) text += fmt::format("line {} of the sea\n", i);
    return text;
}

// A skippable frame of zstd: a magic number, of which there are 16, the number of bytes, and those.
std::string skippable(int which, const std::string& bytes) {
    const uint32_t header[2] = {0x184d2a50u + uint32_t(which), uint32_t(bytes.size())};
    return std::string(reinterpret_cast<const char*>(header), 8) + bytes;
}
// A frame that needs a window of 2^log bytes and holds one uncompressed block.
std::string zstd_frame(int log, const std::string& text) {
    const uint32_t block = 1u | uint32_t(text.size()) << 3;
    return "\x28\xb5\x2f\xfd" + std::string(1, '\0') + char((log - 10) << 3) +
           std::string(reinterpret_cast<const char*>(&block), 3) + text;
}

std::string utf16(const std::string& ascii, bool big_endian, bool mark, int width = 2) {
    std::string out;
    const auto put = [&](int32_t unit) {
        for (int b = 0; b < width; b++) out += char(unit >> 8 * (big_endian ? width - 1 - b : b));
    };
    if (mark) put(0xfeff);
    for (const char c : ascii) put(uint8_t(c));
    return out;
}

struct Program {
    const Scratch s;
    Program() { write_text(s / "tokenizer.json", small_tokenizer()); }
    Ran run_on(const std::string& name, const std::string& bytes, const std::string& options = "") const {
        write_text(s / name, bytes);
        return tokenize(s, "--overwrite --input " + quoted(s / name) + " --output " + quoted(s / "x") + " " + options);
    }
    Ids ids() const { return ids_in(s / "x_train_000000.bin"); }
};

}  // namespace

TEST_CASE("zstd with skippable frames and long windows, gzip with zeros behind it", "[data][foreign]") {
    const Scratch dir;
    const std::string text = lines_of_text(), first = text.substr(0, 1000), rest = text.substr(1000);
    const auto read = [&](const char* name, const std::string& bytes) {
        write_text(dir / name, bytes);
        return texts({dir / name});
    };
    // Python's zstandard and gzip read these bytes as the same text.
    CHECK(read("a.txt.zst", skippable(0, "abcd") + zstd(first) + skippable(15, "") + zstd(rest)) == List{text});
    CHECK(read("b.txt", skippable(3, std::string(300000, 'x')) + zstd(text) + skippable(7, "x")) == List{text});
    CHECK(read("c.jsonl.zst", skippable(9, "1") + zstd("{\"text\": \"a\"}\n")) == List{"a"});
    for (const int log : {17, 27, 28, 30, 31}) CHECK(read("d.txt.zst", zstd_frame(log, text)) == List{text});
    CHECK_REFUSED(read("e.txt.zst", zstd_frame(32, text)), "e.txt.zst", "window of more than 2 GiB");
    CHECK_REFUSED(read("f.txt.zst", skippable(0, "abcd").substr(0, 10)), "f.txt.zst", "middle");
    CHECK_REFUSED(read("g.txt.zst", zstd(text) + "more"), "g.txt.zst", "damaged zstd");

    const std::string zeros(100000, '\0');
    CHECK(read("a.txt.gz", gzip(text) + zeros) == List{text});
    CHECK(read("b.txt.gz", gzip(first) + zeros.substr(0, 513) + gzip(rest) + zeros.substr(0, 1)) == List{text});
    CHECK_REFUSED(read("c.txt.gz", gzip(text) + zeros + "x"), "c.txt.gz", "other data follows");
    CHECK_REFUSED(read("d.txt.gz", gzip(text) + "\x1f"), "d.txt.gz", "middle");
    // Text in front of damaged data is kept when the rest is left out.
    Program p;
    std::string documents;
    for (int i = 0; i < 40000; i++) documents += story(i) + "\n<|endoftext|>\n";
    const std::string packed = zstd(documents);
    const Ran r              = p.run_on("cut.txt.zst", packed.substr(0, packed.size() - 100), "--on-error skip");
    CHECK(says(r, {"middle of its zstd data", "skipped 1 bad document"}));
    CHECK(p.ids().size() > 100000);
}

TEST_CASE("a UTF-8 byte-order mark is left out and reported", "[data][foreign][programs]") {
    const std::string mark = "\xef\xbb\xbf";
    Program p;
    const Tokenizer t = Tokenizer::load(p.s / "tokenizer.json");
    for (const char* name : {"m.txt", "m.jsonl", "m.json", "m"}) {
        const bool is_text     = name[1] == '\0' || name[2] == 't';
        const std::string text = is_text ? "the sea" : "{\"text\": \"the sea\"}\n";
        for (const std::string& bytes : {mark + text, gzip(mark + text), zstd(mark + text)}) {
            const Ran r = p.run_on(name, bytes);
            CHECK(says(r, {name, "byte-order mark", "left out"}));
            REQUIRE(r.code == 0);
            Ids expected = t.encode("the sea");
            expected.insert(expected.begin(), t.eot());
            CHECK(p.ids() == expected);
        }
    }
    // Inside a text the same character is kept.
    REQUIRE(p.run_on("n.txt", "the " + mark + "sea").code == 0);
    CHECK(t.decode(p.ids()) == "<|endoftext|>the " + mark + "sea");
    CHECK(says(p.run_on("only.txt", mark), {"no text"}));
}

TEST_CASE("JSON is recognized by its content", "[data][foreign]") {
    const Scratch dir;
    const auto read = [&](const std::string& bytes, const char* name = "x.txt", const char* format = "auto") {
        write_text(dir / name, bytes);
        return texts({dir / name}, format);
    };
    const List two = {"To be", "or not"};
    const json a = {{"text", "To be"}, {"n", {1, {{"text", "no"}}}}}, b = {{"id", nullptr}, {"text", "or not"}};
    const json list    = json::array({a, b});
    const auto layouts = {a.dump() + "\n" + b.dump() + "\n",
                          list.dump(),
                          list.dump(2),
                          "\n \t\r\n" + list.dump(1) + "\n\n",
                          a.dump(4) + b.dump(4),
                          a.dump(4) + "\n" + b.dump(4) + "\n",
                          a.dump() + " " + b.dump(),
                          "\n\n" + a.dump() + "\r\n\r\n" + b.dump(),
                          "\xef\xbb\xbf\n" + list.dump()};
    for (const std::string& layout : layouts)
        for (const char* name : {"x.txt", "x.json", "x", "x.jsonl"}) {
            CAPTURE(layout, name);
            CHECK(read(layout, name) == two);
            CHECK(read(layout, name, "jsonl") == two);
            CHECK(read(zstd(layout), name) == two);
        }
    CHECK(read(list.dump(), "x.txt", "text") == List{list.dump()});

    // Text that begins with a bracket is not JSON.
    for (const std::string text : {"[Scene 1] Enter Hamlet.", "{{Infobox book}}\n", "[1] Smith, J.\n",
                                   "[1, 2] show that\n", "[\"Hello\", she said]", "{ x | x > 0 }", "[]()", "{a: 1}"})
        CHECK(read(text) == List{text});
    // JSON without documents is refused, not taken for text.
    CHECK_REFUSED(read("[1, 2, 3]"), "x.txt line 1", "a number", "expected an object");
    CHECK_REFUSED(read("[\"a\",\n \"b\"]"), "x.txt line 1", "a string");
    CHECK_REFUSED(read("{\n  \"body\": \"a\"\n}"), "x.txt line 1", "no field \"text\"", "--field", "body");
    CHECK_REFUSED(read("{\"text\": \"a\""), "x.txt", "--format text");
    CHECK_REFUSED(read(list.dump(1) + "x"), "x.txt");
    CHECK_REFUSED(read("[" + a.dump() + ",\n" + b.dump() + "\n", "x.json"), "x.json");
    CHECK_REFUSED(read("[" + a.dump() + "\n" + b.dump() + "]\n", "x.jsonl"), "x.jsonl line 2", "','");
    CHECK_REFUSED(read(a.dump(1) + "{\"text\": 1}"), "x.txt line 9", "a number");

    // Objects longer than every buffer, in a list.
    json long_list = json::array();
    List long_texts;
    for (int i = 0; i < 5; i++) {
        std::string text;
        for (int k = 0; k < 30000; k++) text += fmt::format("{} \u00e9 ", k * (i + 1));
        long_texts.push_back(text);
        long_list.push_back({{"text", text}, {"more", text}});
    }
    CHECK(read(long_list.dump(1)) == long_texts);
    CHECK(read(long_list.dump()) == long_texts);
}

TEST_CASE("NaN and Infinity in other fields of JSON, as Python writes them", "[data][foreign]") {
    const Scratch dir;
    write_text(dir / "x.jsonl",
               "{\"score\": NaN, \"text\": \"a\", \"x\": [Infinity, -Infinity, {\"y\": NaN}]}\n"
               "{\"text\": \"b\", \"score\": -Infinity}\n");
    CHECK(texts({dir / "x.jsonl"}) == List{"a", "b"});
    for (const char* bad : {"Nan", "nan", "-NaN", "Inf", "+Infinity", "NaNs", "Infinity1"}) {
        write_text(dir / "y.jsonl", fmt::format("{{\"text\": \"a\", \"x\": {}}}\n", bad));
        CHECK_REFUSED(texts({dir / "y.jsonl"}), "y.jsonl line 1", "not JSON");
    }
    write_text(dir / "z.jsonl", "{\"text\": NaN}\n");
    CHECK_REFUSED(texts({dir / "z.jsonl"}), "z.jsonl line 1", "a number");
}

TEST_CASE("what is not text is refused with its kind and the way to convert it", "[data][foreign][programs]") {
    Program p;
    const auto refused = [&](const std::string& bytes, const List& words) {
        for (const char* name : {"x.txt", "x.jsonl"}) {
            const Ran r = p.run_on(name, bytes);
            CAPTURE(name);
            CHECK(r.code == 2);
            CHECK(says(r, {name}));
            CHECK(says(r, words));
            CHECK(left_in(p.s, "x_").empty());
        }
    };
    const std::string text = "To be, or not to be, that is the question.\r\n";
    for (const bool big : {false, true}) {
        const std::string end = big ? "BE" : "LE";
        refused(utf16(text, big, true), {"UTF-16 text", "iconv -f UTF-16 -t UTF-8"});
        refused(utf16(text, big, false), {"UTF-16" + end + " text", "iconv -f UTF-16" + end});
        refused(utf16(text, big, true, 4), {"UTF-32 text", "iconv -f UTF-32 -t UTF-8"});
        refused(utf16(text, big, false, 4), {"UTF-32" + end + " text", "iconv -f UTF-32" + end});
        refused(gzip(utf16(text, big, false)), {"UTF-16" + end});
    }
    std::string chinese;  // characters of 0x4e00.., in which no byte is zero
    for (int i = 0; i < 40; i++) chinese += char(i * 7 + 1), chinese += char(0x4e + i % 16);
    refused(chinese, {"UTF-16LE"});

    const std::string zeros(600, '\0'), junk = std::string("\1\2\3\0\xff", 5) + zeros;
    struct Case {
        std::string bytes;
        List words;
    };
    for (const Case& c :
         std::initializer_list<Case>{{"PAR1" + junk, {"Parquet", "parquet_text.py"}},
                                     {"ARROW1" + junk, {"Arrow"}},
                                     {"\xff\xff\xff\xff\x10" + junk, {"Arrow"}},
                                     {std::string("SQLite format 3\0", 16) + junk, {"SQLite"}},
                                     {"\x80\x04\x95" + junk, {"pickle"}},
                                     {"%PDF-1.7\n", {"PDF", "pdftotext"}},
                                     {"\x89PNG\r\n\x1a\n" + junk, {"PNG"}},
                                     {"\xff\xd8\xff\xe0" + junk, {"JPEG"}},
                                     {"GIF89a" + junk, {"GIF"}},
                                     {"\x7f"
                                      "ELF" +
                                          junk,
                                      {"ELF"}},
                                     {"MZ\x90" + junk, {"Windows"}},
                                     {"\3757zXZ" + junk, {"xz -dc"}},
                                     {"BZh91AY&SY" + junk, {"bzip2 -dc"}},
                                     {"\x04\x22\x4d\x18" + junk, {"lz4 -dc"}},
                                     {"LZIP\1" + junk, {"lzip -dc"}},
                                     {"7z\xbc\xaf\x27\x1c" + junk, {"7z", "unpack"}},
                                     {"PK\3\4" + junk, {"zip", "unpack"}},
                                     {"a.txt" + std::string(252, '\0') + "ustar" + junk, {"tar", "unpack"}},
                                     {gzip("a.txt" + std::string(252, '\0') + "ustar" + junk), {"tar"}},
                                     {gzip(gzip(text)), {"inside"}},
                                     {"GGUF" + junk, {"GGUF"}},
                                     {read_text("test/golden/gpt2/model.safetensors"), {"safetensors"}},
                                     {"version https://git-lfs.github.com/spec/v1\n", {"Git LFS"}}})
        refused(c.bytes, c.words);

    // Every word of the table that is text by itself may begin a text, or stand where the table looks for it.
    for (const std::string text : {"BZh is not enough", "MZ is a pair of letters", "II* is not a picture", "ID3 tags",
                                   "GGUF is a format", "LZIP is another", "OggS, too", "fLaC and GIF89a", "GIF87a",
                                   "PAR1 and PAR2", "ARROW1 is the magic word\n", "MMIDIDX\n", "BIN.TOK\n",
                                   "The ftyp box", "I think WEBP is small", "A WAV: (WAVEfmt chunk)", "Rar! said Rar."})
        CHECK(p.run_on("x.txt", text).code == 0);
    for (const Magic& m : magics) {
        const std::string text = std::string(m.at, 'm') + std::string(m.bytes);
        CAPTURE(text);
        if (!m.may_look_like_text && looks_like_text(text + " and so on"))
            CHECK(recognize(text + " and so on").what.empty());
    }
    CHECK(p.run_on("x.txt", std::string(256, 'a') + "mustard").code == 0);

    // Double-byte encodings are no UTF-16: GBK, Big5, EUC-KR and Shift-JIS, each without and with line breaks.
    for (const std::string two_bytes :
         {"\xd5\xe2\xca\xc7\xd2\xbb\xb8\xf6\xb2\xe2\xca\xd4\xa3\xac", "\xa4\xd1\xa6\x61\xa5\xc8\xb6\xc0\xa1\x41",
          "\xc0\xcc\xb0\xcd\xc0\xba\xbd\xc3\xc7\xe8", "\x82\xb1\x82\xea\x82\xcd\x83\x65"})
        for (const char* end : {"", "\r\n"}) {
            std::string lines;
            for (int i = 0; i < 8; i++) lines += two_bytes + two_bytes + end;
            CHECK(recognize(lines).what.empty());
            CHECK(says(p.run_on("x.txt", lines), {"x.txt", "are not UTF-8"}));
        }

    // --train-bpe reads its input in the same way.
    write_text(p.s / "wide.txt", utf16(text, false, false));
    const Ran trained =
        run(p.s, "tokenize",
            "--train-bpe 300 --input " + quoted(p.s / "wide.txt") + " --output " + quoted(p.s / "learned.json"));
    CHECK(trained.code == 2);
    CHECK(says(trained, {"UTF-16LE"}));
}

TEST_CASE("a few bytes that are not UTF-8 are kept and counted, more are refused", "[data][foreign][programs]") {
    Program p;
    std::string text;
    for (int i = 0; i < 400; i++) text += story(i) + "\n";
    const auto with = [&](const std::string& bytes, int times) {
        std::string out = text;
        for (int i = 0; i < times; i++) out.insert(size_t(i + 1) * out.size() / 200, bytes);
        return out;
    };
    const Ran few = p.run_on("few.txt", with("\xff", 2));
    CHECK(few.code == 0);
    CHECK(says(few, {"few.txt", "2 bytes are not UTF-8", "kept"}));
    CHECK(says(p.run_on("cut.txt", with("\xe4\xb8", 3)), {"6 bytes are not UTF-8"}));
    for (const char* latin1 : {"\xe9", "\xe4", "\xf6\xdf"}) {
        const Ran many = p.run_on("many.txt", with(latin1, 60));
        CHECK(many.code == 2);
        CHECK(says(many, {"many.txt", fmt::format("{} of the first", 60 * std::strlen(latin1)), "not UTF-8",
                          "WINDOWS-1252", "--on-error"}));
    }
    CHECK(p.run_on("short.txt",
                   "Gr\xfc\xdf"
                   "e aus M\xfcnchen\n")
              .code == 2);
    CHECK(p.run_on("good.txt", "Gr\u00fc\u00dfe \u4e16\u754c \U0001f600\n").code == 0);
    const Ran zero = p.run_on("zero.txt", with(std::string(1, '\0'), 1));
    CHECK(zero.code == 2);
    CHECK(says(zero, {"zero.txt", "1 of the first", "NUL"}));

    const Tokenizer t = Tokenizer::load(p.s / "tokenizer.json");
    CHECK(p.run_on("kept.txt",
                   "Gr\xfc\xdf"
                   "e\n",
                   "--on-error keep")
              .code == 0);
    CHECK(t.decode(p.ids()) ==
          "<|endoftext|>Gr\xfc\xdf"
          "e\n");
    CHECK(p.run_on("kept.txt", std::string("a\0b", 3), "--on-error keep").code == 0);
    CHECK(t.decode(p.ids()) == "<|endoftext|>" + std::string("a\0b", 3));
    write_text(p.s / "latin1.txt", with("\xe9", 60));
    const Ran both = tokenize(p.s, "--overwrite --on-error skip --input " + quoted(p.s / "latin1.txt") + " " +
                                       quoted(p.s / "good.txt") + " --output " + quoted(p.s / "x"));
    CHECK(both.code == 0);
    CHECK(says(both, {"latin1.txt", "skipped 1 bad document", "1 document,"}));

    // A character that begins in one chunk and ends in the next is not counted as cut off.
    std::string wide;
    while (wide.size() < 1000000) wide += "\u4e16\u754c\U0001f600a";
    for (int shift = 0; shift < 4; shift++) {
        const Ran r = p.run_on("wide.txt", std::string(size_t(shift), 'a') + wide);
        CHECK(r.code == 0);
        CHECK(r.err.find("UTF-8") == std::string::npos);
    }
    Utf8Check by_byte, at_once;
    std::mt19937 rng(4);
    std::string random;
    for (int i = 0; i < 20000; i++) random += char(rng() % 5 ? 0x80 + rng() % 128 : rng());
    for (const char c : random) by_byte.add(std::string_view(&c, 1));
    at_once.add(random);
    by_byte.finish(), at_once.finish();
    CHECK(by_byte.invalid == at_once.invalid);
    CHECK(by_byte.zeros == at_once.zeros);
    CHECK(by_byte.first == at_once.first);
    int64_t invalid = 0;  // the bytes that the splitter of text finds invalid
    for (size_t at = 0; at < random.size();) {
        const unicode::Char c = unicode::char_at(random, at);
        invalid += c.code < 0;
        at += size_t(c.bytes);
    }
    CHECK(at_once.invalid == invalid);
}

TEST_CASE("--score and --prompt-file take text alone, and ids for --score", "[data][foreign][shared][programs]") {
    const std::string home = shared_data("bugreports");
    if (home.empty()) return;
    const Scratch s;
    const auto infer = [&](const std::string& option, const std::string& bytes, const std::string& more = "") {
        write_text(s / "t.txt", bytes);
        return run(s, "infer_gpt",
                   "--model " + quoted(home + "/eos-not-stopping/model") + " --context 16 " + option + " " +
                       quoted(s / "t.txt") + " " + more);
    };
    const std::string text = "To be, or not to be.";
    for (const bool big : {false, true})
        for (const bool mark : {false, true}) {
            CHECK(says(infer("--score", utf16(text, big, mark)), {"t.txt", "UTF-16", "iconv"}));
            CHECK(says(infer("--prompt-file", utf16(text, big, mark), "--tokens 1"), {"t.txt", "UTF-16", "iconv"}));
        }
    CHECK(says(infer("--score", "%PDF-1.7 and so on"), {"t.txt", "PDF"}));
    CHECK(says(infer("--prompt-file", "Gr\xfc\xdf dich", "--tokens 1"),
               {"t.txt", "not UTF-8", "iconv -f WINDOWS-1252 -t UTF-8 FILE >TEXT_FILE"}));
    CHECK(says(infer("--prompt-file", std::string("a\0b", 3), "--tokens 1"), {"1 of the first 3 bytes is NUL"}));
    for (const char* bytes : {"Gr\xfc\xdf dich", "BZh91AY&SY\x80\x90", "\xff\xfe\1\1"}) {
        const Ran r = infer("--prompt-file", bytes, "--tokens 1");
        CAPTURE(r.err);
        CHECK(r.code == 2);
        for (const char* of_tokenize : {"tokenize", "--on-error"}) CHECK(r.err.find(of_tokenize) == std::string::npos);
    }
    const Ran plain = infer("--score", text), marked = infer("--score", "\xef\xbb\xbf" + text),
              packed = infer("--score", gzip(text));
    CHECK(plain.code == 0);
    CHECK(marked.out == plain.out);
    CHECK(packed.out == plain.out);
    const Tokenizer t = Tokenizer::load(home + "/eos-not-stopping/model/tokenizer.json");
    std::string ids;
    for (const int32_t id : t.encode(text)) ids += char(id & 255), ids += char(id >> 8);
    const Ran as_ids = infer("--score", ids);
    CHECK(as_ids.code == 0);
    CHECK(plain.out.find(as_ids.out.substr(0, as_ids.out.find(" nats"))) == 0);
}

TEST_CASE("files made after reports about other programs: text", "[data][foreign][shared][programs]") {
    const std::string home = shared_data("bugreports");
    const std::string gpt2 = shared_data("tokenizers/gpt2/tokenizer.json");
    if (home.empty() || gpt2.empty()) return;
    const Scratch s;
    const Tokenizer t = Tokenizer::load(gpt2);
    const auto run_on = [&](const std::string& file) {
        return run(s, "tokenize",
                   "--overwrite --tokenizer " + quoted(gpt2) + " --input " + quoted(home + "/" + file) + " --output " +
                       quoted(s / "x"));
    };
    const auto ids_of = [&](const std::string& file) {
        const Ran r = run_on(file);
        CAPTURE(file, r.err);
        REQUIRE(r.code == 0);
        return ids_in(s / "x_train_000000.bin");
    };
    const auto documents = [&](const List& all) {
        Ids ids;
        for (const std::string& text : all) {
            ids.push_back(t.eot());
            for (const int32_t id : t.encode(text)) ids.push_back(id);
        }
        return ids;
    };
    CHECK(ids_of("bom-jsonl/bom.jsonl") == documents({"To be", "or not to be"}));
    CHECK(ids_of("bom-jsonl/bom.txt") == documents({"To be, or not to be.\n"}));
    const List two = {"To be, or not to be", "that is the question"};
    CHECK(ids_of("json-array-as-text/array.json") == documents(two));
    CHECK(ids_of("json-array-as-text/array_indent.json") == documents(two));
    CHECK(ids_of("json-array-as-text/bom.json") == documents({"To be", "or not"}));
    CHECK(ids_of("json-array-as-text/leading_newline.json") == documents({"To be"}));
    CHECK(ids_of("json-array-as-text/object_indent.json") == documents({"To be, or not to be"}));
    CHECK(ids_of("json-array-as-text/spaced.json") == documents({"To be", "or not"}));
    CHECK(ids_of("pzstd-skippable-first/pzstd.txt.zst") ==
          documents({read_text(home + "/pzstd-skippable-first/plain.txt")}));
    for (const char* file : {"pzstd-skippable-first/pzstd.jsonl.zst", "zst-long-window/long28.jsonl.zst",
                             "zst-long-window/long31.jsonl.zst"})
        CHECK(says(run_on(file), {"20 documents"}));
    CHECK(says(run_on("utf16-text/notepad.txt"), {"UTF-16 text", "iconv -f UTF-16 -t UTF-8"}));
    CHECK(says(run_on("utf16-text/powershell_be.txt"), {"UTF-16 text", "iconv -f UTF-16 -t UTF-8"}));
    CHECK(says(run_on("utf16-text/no_bom.txt"), {"UTF-16LE text", "iconv -f UTF-16LE -t UTF-8"}));
}
