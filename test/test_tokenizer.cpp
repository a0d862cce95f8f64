// test_tokenizer.cpp - exact to the id, on every input, and nothing slow; vocabularies that we learn; text to shards
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "data/documents.h"
#include "data/shard_writer.h"
#include "gpt/bpe_training.h"
#include "gpt/shard.h"
#include "gpt/tokenizer.h"
#include "test/data.h"
#include "test/scratch.h"
//
#include "test/catch.h"

namespace {

using json = nlohmann::json;
using Ids  = std::vector<int32_t>;

std::vector<std::string> pieces(const std::string& text) {
    std::vector<std::string> all;
    for (size_t at = 0, end = 0; at < text.size(); at = end) {
        end = unicode::next_piece(text, at);
        REQUIRE(end > at);
        REQUIRE(end <= text.size());
        all.push_back(text.substr(at, end - at));
    }
    return all;
}

std::string nfc(const std::string& text) {
    std::string buffer;
    return std::string(unicode::nfc(text, buffer));
}

// A page with enough repetition to learn from.
const char* page =
    "It was a bright cold day, and the clocks were striking; the cat sat on the mat, the cat's hat was on the cat.\n"
    "    for (int i = 0; i < 10; i++) { total += i; }   // the sum of the first ten numbers, 1234 and 1234 and 1234\n\n"
    "The other day the mother of the brother gathered the weather together: na\xc3\xafve caf\xc3\xa9, "
    "\xe4\xb8\x96\xe7\x95\x8c "
    "\xe4\xb8\x96\xe7\x95\x8c, aaaaaaaaaaaaaaaa, \xf0\x9f\x91\x8b\xf0\x9f\x91\x8b\n";

std::string learned_file(int entries = 340) {
    WordCounts words;
    words.add(page);
    words.add(page);
    return BpeTraining(words).learn(entries);
}

// The definition of the encoding, in the plainest words: look for the best pair of the piece again after every merge.
Ids encode_slowly(const json& file, const std::string& text) {
    std::vector<std::pair<std::string, std::string>> merges;
    for (const std::string line : file["model"]["merges"]) {
        const size_t gap = line.find(' ');
        merges.emplace_back(line.substr(0, gap), line.substr(gap + 1));
    }
    Ids ids;
    for (const std::string& piece : pieces(text)) {
        std::vector<std::string> parts;
        for (const char c : piece) parts.push_back(byte_alphabet().write(std::string(1, c)));
        for (bool merged = true; merged;) {
            merged = false;
            for (const auto& [left, right] : merges) {
                for (size_t i = 0; i + 1 < parts.size() && !merged; i++) {
                    if (parts[i] != left || parts[i + 1] != right) continue;
                    parts[i] += parts[i + 1];
                    parts.erase(parts.begin() + int64_t(i) + 1);
                    merged = true;
                }
                if (merged) break;
            }
        }
        for (const std::string& p : parts) ids.push_back(file["model"]["vocab"][p]);
    }
    return ids;
}

// Text of the kinds that tokenizers get wrong: pieces of words, marks, white space, and bytes that are no text.
std::string hostile_text(std::mt19937& rng, int parts) {
    static const std::vector<std::string> kinds = {"the",
                                                   " the",
                                                   "'s",
                                                   "'ll",
                                                   "'LL",
                                                   "'",
                                                   " ",
                                                   "  ",
                                                   "\n",
                                                   "\t",
                                                   "\r\n",
                                                   "1234",
                                                   " 9",
                                                   "!?",
                                                   " --",
                                                   "<|endoftext|>",
                                                   "\xc2\xa0",
                                                   "\xe3\x80\x80",
                                                   "e\xcc\x81",
                                                   "\xcc\xa3\xcc\x81",
                                                   "\xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab",
                                                   "\xea\xb0\x80\xe1\x86\xa7",
                                                   "\xc2\xbd",
                                                   "\xd9\xa3",
                                                   "\xf0\x9f\x91\x8b",
                                                   "\xff",
                                                   "\xc3",
                                                   "\xe4\xb8",
                                                   "\xed\xa0\x80",
                                                   "\xc0\x80",
                                                   "\xf4\x90\x80\x80",
                                                   "\x80",
                                                   std::string(1, '\0'),
                                                   std::string(60, 'a'),
                                                   std::string(70, ' '),
                                                   "\xe4\xb8\x96\xe7\x95\x8c"};
    std::string text;
    for (int i = 0; i < parts; i++) text += kinds[rng() % kinds.size()];
    return text;
}

json with(json file, const char* pointer, const json& value) {
    file[json::json_pointer(pointer)] = value;
    return file;
}

Ids count_up(int n) {
    Ids ids(static_cast<size_t>(n));
    std::iota(ids.begin(), ids.end(), 0);
    return ids;
}

}  // namespace

TEST_CASE("GPT-2's split pattern", "[tokenizer]") {
    using List = std::vector<std::string>;
    CHECK(pieces("Hello world") == List{"Hello", " world"});
    CHECK(pieces("I'm you'll we've they're he'd it's don't") ==
          List{"I", "'m", " you", "'ll", " we", "'ve", " they", "'re", " he", "'d", " it", "'s", " don", "'t"});
    CHECK(pieces("I'M 'sx''s") == List{"I", "'", "M", " '", "sx", "''", "s"});
    CHECK(pieces("a  b   \n\nc ") == List{"a", " ", " b", "   \n", "\n", "c", " "});
    CHECK(pieces(" \t x") == List{" \t", " x"});
    CHECK(pieces("\n") == List{"\n"});
    CHECK(pieces("abc123 456!? ...'") == List{"abc", "123", " 456", "!?", " ...'"});
    CHECK(pieces("\xc3\xa9t\xc3\xa9 \xd9\xa3\xc2\xbd\xe2\x85\xa7!") ==
          List{"\xc3\xa9t\xc3\xa9", " \xd9\xa3\xc2\xbd\xe2\x85\xa7", "!"});
    CHECK(pieces("e\xcc\x81x") == List{"e", "\xcc\x81", "x"});  // a mark is no letter
    CHECK(pieces("a\xc2\xa0"
                 "b\xe3\x80\x80\xe2\x80\xa8"
                 "c") == List{"a", "\xc2\xa0", "b", "\xe3\x80\x80", "\xe2\x80\xa8", "c"});
    CHECK(pieces("a\xff\xfe"
                 "b") == List{"a", "\xff\xfe", "b"});  // bytes that are no text are "other"
    CHECK(pieces(" \xc3") == List{" \xc3"});
    CHECK(pieces("\xed\xa0\x80!") == List{"\xed\xa0\x80!"});  // a surrogate is no character
    CHECK(pieces("\xf0\xb3\x8d\x89") == List{"\xf0\xb3\x8d\x89"});
}

TEST_CASE("normal form C", "[tokenizer]") {
    CHECK(nfc("plain, caf\xc3\xa9") == "plain, caf\xc3\xa9");
    CHECK(nfc("cafe\xcc\x81s") == "caf\xc3\xa9s");
    CHECK(nfc("\xcc\x81"
              "a") ==
          "\xcc\x81"
          "a");                                                            // a mark with nothing to join
    CHECK(nfc("a\xcc\x81\xcc\xa3") == "\xe1\xba\xa1\xcc\x81");             // reordered, then the lower one joins
    CHECK(nfc("\xe2\x84\xab \xef\xa4\x80") == "\xc3\x85 \xe8\xb1\x88");    // singletons
    CHECK(nfc("\xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab") == "\xed\x95\x9c");  // Hangul, by rule
    CHECK(nfc("\xed\x95\x98\xe1\x86\xab") == "\xed\x95\x9c");
    CHECK(nfc("\xea\xb0\x80\xe1\x86\xa7") == "\xea\xb0\x80\xe1\x86\xa7");  // U+11A7 joins nothing
    CHECK(nfc("\xe0\xa5\x98") == "\xe0\xa4\x95\xe0\xa4\xbc");              // excluded from composition
    CHECK(nfc("e\xff\xcc\x81"
              "e\xcc\x81") == "e\xff\xcc\x81\xc3\xa9");  // nothing joins across a bad byte
    CHECK(nfc("\xc3\xcc\x81") == "\xc3\xcc\x81");
    CHECK(nfc("\xc3\xa9\x81\xcc\x81") == "\xc3\xa9\x81\xcc\x81");
    CHECK(nfc("a\xe0\xa2\x98\xcc\xa3") == "a\xe0\xa2\x98\xcc\xa3");  // U+0898 was no mark in Unicode 9
    CHECK(nfc("") == "");

    // A hundred thousand marks out of order: a second or more for a pass that moves them one place at a time.
    std::string long_run = "a", sorted = "\xe1\xba\xa1";
    for (int i = 0; i < 100000; i++) long_run += "\xcc\x88\xcc\xa3";
    for (int i = 1; i < 100000; i++) sorted += "\xcc\xa3";
    for (int i = 0; i < 100000; i++) sorted += "\xcc\x88";
    CHECK(nfc(long_run) == sorted);
}

TEST_CASE("a learned vocabulary", "[tokenizer][bpe]") {
    const std::string file = learned_file();
    const json form        = json::parse(file);
    const Tokenizer t(file);
    CHECK(t.vocab_size() == 340);
    CHECK(t.eot() == 339);
    CHECK(t.bytes_of(339) == "<|endoftext|>");
    CHECK(form["model"]["vocab"].size() == 340);
    CHECK(form["model"]["merges"].size() == 340 - 257);
    CHECK(form["model"]["vocab"]["!"] == 0);  // GPT-2's order of the bytes
    CHECK(form["model"]["vocab"]["\xc4\xa0"] == 220);
    CHECK(form["added_tokens"][0]["id"] == 339);
    CHECK(form["pre_tokenizer"]["type"] == "ByteLevel");
    CHECK(form["pre_tokenizer"]["add_prefix_space"] == false);
    CHECK(t.encode(page).size() < std::strlen(page) / 2);

    SECTION("does not depend on how the text came") {
        std::string text = page;
        WordCounts parts, whole, first;
        const size_t middle = text.find("The other day");
        first.add(text.substr(middle));
        parts.add(text.substr(0, middle));
        parts.add(first);
        whole.add(text);
        CHECK(BpeTraining(parts).learn(300) == BpeTraining(whole).learn(300));
    }
    SECTION("joins the most frequent pair, the smaller ids among equals, as counted by hand") {
        WordCounts words;
        // ab 4, xy 4, ba 2, yx 2, " x" 2, " a" 1; then " "+xy, ab+ab and xy+xy with 2 each, and the space is id 220.
        words.add("abab abab xyxy xyxy");
        const json m = json::parse(BpeTraining(words).learn(256 + 4 + 1))["model"]["merges"];
        CHECK(m == json({"a b", "x y", "\xc4\xa0 xy", "ab ab"}));
    }
    SECTION("merges runs from the left") {
        WordCounts words;
        words.add("aaaaa aaaaa");  // aa aa a, where aa+a and aa+aa are equal and a is id 64
        const json m = json::parse(BpeTraining(words).learn(256 + 3 + 1))["model"]["merges"];
        CHECK(m == json({"a a", "aa a", "aa aaa"}));
    }
    SECTION("refuses what the text cannot give") {
        WordCounts words;
        words.add("abab");
        CHECK_REFUSED(BpeTraining(words).learn(300), "occurs twice", "258");
        CHECK_REFUSED(BpeTraining(words).learn(256), "257");
    }
}

TEST_CASE("encoding agrees with its definition and decodes to the input", "[tokenizer]") {
    const std::string file = learned_file();
    const json form        = json::parse(file);
    const Tokenizer t(file);
    std::mt19937 rng(1);
    for (int i = 0; i < 300; i++) {
        const std::string text = hostile_text(rng, 1 + i % 12);
        const Ids ids          = t.encode(text, false);
        CAPTURE(i);
        REQUIRE(t.decode(ids) == text);
        REQUIRE(ids == encode_slowly(form, text));
    }
    std::string bytes;
    for (int i = 0; i < 100000; i++) bytes += char(rng());
    CHECK(t.decode(t.encode(bytes, false)) == bytes);
    CHECK(t.encode("").empty());
    CHECK_REFUSED(t.bytes_of(340), "340");
    CHECK_REFUSED(t.decode({0, -1}), "-1");
}

TEST_CASE("no input is slow", "[tokenizer]") {
    const Tokenizer t(learned_file());
    const json neox = with(json::parse(learned_file()), "/normalizer", {{"type", "NFC"}});
    const Tokenizer n(neox.dump());
    // Quadratic time on a megabyte without a break would be minutes.
    for (const std::string unit :
         {"a", " ", "\n", "\xcc\x81", "\xcc\x88\xcc\xa3", "'", "\xff", "\xe1\x84\x92", "<|endoftext|"}) {
        std::string text;
        while (text.size() < 1000000) text += unit;
        CAPTURE(unit);
        CHECK(t.decode(t.encode(text)) == text);
        CHECK(n.decode(n.encode(text)) == nfc(text));
    }
}

TEST_CASE("added tokens", "[tokenizer]") {
    json file          = json::parse(learned_file());
    file["normalizer"] = {{"type", "NFC"}};
    const auto token   = [](int id, const char* content, bool special, bool normalized) {
        return json{{"id", id},
                    {"content", content},
                    {"special", special},
                    {"normalized", normalized},
                    {"single_word", false},
                    {"lstrip", false},
                    {"rstrip", false}};
    };
    for (const json& t :
         {token(340, "<|pad|>", true, false), token(341, "   ", false, true), token(342, "  ", false, true),
          token(345, "cafe\xcc\x81", false, true), token(346, "e\xcc\x81", false, false)})
        file["added_tokens"].push_back(t);
    const Tokenizer t(file.dump());
    CHECK(t.vocab_size() == 347);  // 343 and 344 are gaps
    CHECK_REFUSED(t.bytes_of(343), "343");
    CHECK(t.encode("<|pad|><|endoftext|>") == Ids{340, 339});
    CHECK(t.encode("<|pad|>", false).size() > 1);
    CHECK(t.encode("          ") == Ids{341, 341, 341, t.encode(" ")[0]});  // 3 + 3 + 3 + 1
    CHECK(t.encode("        ") == Ids{341, 341, 342});
    CHECK(t.encode("        ", false) == Ids{341, 341, 342});  // not special, so always found
    CHECK(t.encode("caf\xc3\xa9") == Ids{345});                // found in the normal form
    CHECK(t.encode("e\xcc\x81") == Ids{346});                  // found before normalising
    CHECK(t.encode("<|<|pad|>|>") == [&] {
        Ids ids = t.encode("<|");
        ids.push_back(340);
        for (const int32_t id : t.encode("|>")) ids.push_back(id);
        return ids;
    }());
    CHECK(t.decode({341, 340, 345}) == "   <|pad|>cafe\xcc\x81");
}

TEST_CASE("what a tokenizer.json may say, and what is refused by name", "[tokenizer]") {
    const json ok   = json::parse(learned_file());
    const auto load = [](const json& file) { return Tokenizer(file.dump(), "here.json"); };
    const Ids ids   = load(ok).encode(page);

    // Merges as pairs; fields that change nothing.
    json pairs = ok;
    for (json& m : pairs["model"]["merges"]) {
        const std::string line = m;
        m                      = {line.substr(0, line.find(' ')), line.substr(line.find(' ') + 1)};
    }
    CHECK(load(pairs).encode(page) == ids);
    CHECK(load(pairs).fingerprint() == load(ok).fingerprint());
    CHECK(load(json::parse(learned_file(339))).fingerprint() != load(ok).fingerprint());
    CHECK(load(with(ok, "/truncation", {{"max_length", 7}})).encode(page) == ids);
    CHECK(load(with(ok, "/model/unk_token", "<|endoftext|>")).encode(page) == ids);
    CHECK(load(with(ok, "/post_processor",
                    json::parse(R"({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}]})")))
              .encode(page) == ids);

    CHECK_REFUSED(Tokenizer("{", "here.json"), "here.json", "parse error");
    CHECK_REFUSED(Tokenizer("[1]", "here.json"), "here.json");
    CHECK_REFUSED(Tokenizer("{}", "here.json"), "here.json");
    CHECK_REFUSED(load(with(ok, "/model/ignore_merges", true)), "here.json", "model/ignore_merges");
    CHECK_REFUSED(load(with(ok, "/model/byte_fallback", true)), "model/byte_fallback");
    CHECK_REFUSED(load(with(ok, "/model/dropout", 0.1)), "model/dropout");
    CHECK_REFUSED(load(with(ok, "/model/type", "Unigram")), "model/type", "Unigram");
    CHECK_REFUSED(load(with(ok, "/model/end_of_word_suffix", "</w>")), "end_of_word_suffix");
    CHECK_REFUSED(load(with(ok, "/pre_tokenizer/add_prefix_space", true)), "pre_tokenizer/add_prefix_space");
    CHECK_REFUSED(load(with(ok, "/pre_tokenizer/use_regex", false)), "pre_tokenizer/use_regex");
    CHECK_REFUSED(load(with(ok, "/pre_tokenizer", nullptr)), "pre_tokenizer");
    CHECK_REFUSED(load(with(ok, "/pre_tokenizer", "ByteLevel")), "pre_tokenizer");
    CHECK_REFUSED(load(with(ok, "/normalizer", {{"type", "NFKC"}})), "normalizer/type", "NFKC");
    CHECK_REFUSED(load(with(ok, "/something_new", 1)), "something_new");
    CHECK_REFUSED(load(with(ok, "/post_processor", json::parse(R"({"type": "TemplateProcessing",
                  "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]})"))),
                  "post_processor/single");
    CHECK_REFUSED(load(with(ok, "/added_tokens/0/lstrip", true)), "lstrip", "<|endoftext|>");
    CHECK_REFUSED(load(with(ok, "/added_tokens/0/id", 5)), "339", "5");
    CHECK_REFUSED(load(with(ok, "/model/vocab/new", 1 << 30)), "new");
    CHECK_REFUSED(load(with(ok, "/model/vocab/new", -1)), "new");
    CHECK_REFUSED(load(with(ok, "/model/vocab/new", "1")), "new");
    CHECK_REFUSED(load(with(ok, "/model/vocab/new", 7)), "id 7");
    CHECK_REFUSED(load(with(ok, "/model/merges/3", "a")), "merge 3");
    CHECK_REFUSED(load(with(ok, "/model/merges/3", "a zzz")), "merge 3");
    CHECK_REFUSED(load(with(ok, "/model/merges/3", 3)), "here.json");
    json lacking = ok;
    lacking["model"]["vocab"].erase("a");
    lacking["model"]["merges"] = json::array();
    CHECK_REFUSED(load(lacking), "byte 97");
    CHECK_REFUSED(Tokenizer::load("/no/such/tokenizer.json"), "/no/such/tokenizer.json");

    // GPT-NeoX has no token for bytes that UTF-8 never uses: they become U+FFFD.
    json neox = ok;
    neox["model"]["vocab"].erase(byte_alphabet().write("\xff"));
    CHECK(load(neox).decode(load(neox).encode("a\xff"
                                              "b\xc3")) ==
          "a\xef\xbf\xbd"
          "b\xc3");
}

TEST_CASE("the published vectors, exact to the id", "[tokenizer][shared]") {
    const std::string folder = shared_data("tokenizers/vectors");
    if (folder.empty()) return;
    const Tokenizer gpt2 = Tokenizer::load(shared_data("tokenizers/gpt2/tokenizer.json"));
    const Tokenizer neox = Tokenizer::load(shared_data("tokenizers/gpt-neox-20b/tokenizer.json"));
    CHECK(gpt2.vocab_size() == 50257);
    CHECK(gpt2.eot() == 50256);
    CHECK(neox.vocab_size() == 50277);
    CHECK(neox.eot() == 0);
    int compared = 0;
    for (const char* name : {"published", "tricky", "special"}) {
        std::ifstream in(folder + "/" + name + ".jsonl");
        for (std::string line; std::getline(in, line);) {
            const json v           = json::parse(line);
            const std::string text = v["text"];
            CAPTURE(name, text);
            CHECK(gpt2.encode(text) == v["gpt2"].get<Ids>());
            CHECK(neox.encode(text) == v["neox"].get<Ids>());
            if (v.contains("gpt2_ordinary")) CHECK(gpt2.encode(text, false) == v["gpt2_ordinary"].get<Ids>());
            CHECK(gpt2.decode(gpt2.encode(text)) == text);
            CHECK(neox.decode(neox.encode(text)) == nfc(text));
            compared++;
        }
    }
    CHECK(compared == 589);
}

TEST_CASE("a vocabulary's ids match whole files", "[tokenizer][shared]") {
    const std::string list = shared_data("tokenizers/vectors/corpus.jsonl");
    if (list.empty()) return;
    const Tokenizer gpt2 = Tokenizer::load(shared_data("tokenizers/gpt2/tokenizer.json"));
    const Tokenizer neox = Tokenizer::load(shared_data("tokenizers/gpt-neox-20b/tokenizer.json"));
    std::ifstream in(list);
    int compared = 0;
    for (std::string line; std::getline(in, line); compared++) {
        const json v           = json::parse(line);
        const std::string text = read_text(shared_data("data/" + v["file"].get<std::string>()));
        CAPTURE(v.dump());
        REQUIRE(text.size() == v["bytes"]);
        const auto same = [&](const Ids& ids, const std::string& which) {
            const Ids first = v[which + "_first"], last = v[which + "_last"];
            REQUIRE(ids.size() == v[which + "_tokens"]);
            CHECK(std::equal(first.begin(), first.end(), ids.begin()));
            CHECK(std::equal(last.begin(), last.end(), ids.end() - int64_t(last.size())));
        };
        same(gpt2.encode(text), "gpt2");
        same(neox.encode(text), "neox");
        CHECK(gpt2.decode(gpt2.encode(text)) == text);
    }
    CHECK(compared == 6);
}

// ---- documents and shards
// --------------------------------------------------------------------------------------------------

namespace {

std::vector<std::string> texts(const std::vector<std::string>& files, const std::string& format = "auto",
                               const std::string& field = "text") {
    Documents documents(files, format);
    std::vector<std::string> all;
    for (Document d; documents.next(d);) all.push_back(std::move(d).text(field));
    return all;
}

std::string compressed(const std::string& text) {
    std::string out(ZSTD_compressBound(text.size()), '\0');
    out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 1));
    return out;
}

}  // namespace

TEST_CASE("documents from text and jsonl, plain and zstd", "[data]") {
    using List = std::vector<std::string>;
    const Scratch dir;
    write_text(dir / "one.txt", "a\nb");
    write_text(
        dir / "three.txt",
        "<|endoftext|>\na\n<|endoftext|>\n<|endoftext|>\r\n b <|endoftext|>\nc\n<|endoftext|>\nd\n<|endoftext|>");
    CHECK(texts({dir / "one.txt", dir / "three.txt"}) == List{"a\nb", "a\n", " b <|endoftext|>\nc\n", "d\n"});

    const std::string lines =
        "{\"text\": \"x\\n\\u00e9\", \"id\": 1}\n\n  \n{\"text\": \"\"}\r\n{\"id\": [1], \"text\": \"y\"}";
    write_text(dir / "a.jsonl", lines);
    write_text(dir / "a.jsonl.zst", compressed(lines));
    CHECK(texts({dir / "a.jsonl"}) == List{"x\n\xc3\xa9", "", "y"});
    CHECK(texts({dir / "a.jsonl.zst"}) == texts({dir / "a.jsonl"}));
    CHECK(texts({dir / "a.jsonl"}, "text") == List{lines});

    // Longer than every buffer, in two frames, and in an unkind order of line ends.
    std::string big;
    while (big.size() < 3000000) big += std::string(size_t(big.size() % 70001), 'x') + "\n";
    write_text(dir / "big.txt.zst", compressed(big.substr(0, 1000001)) + compressed(big.substr(1000001)));
    CHECK(texts({dir / "big.txt.zst"}) == List{big});

    write_text(dir / "cut.txt.zst", compressed(big).substr(0, 200));
    CHECK_REFUSED(texts({dir / "cut.txt.zst"}), "cut.txt.zst", "middle");
    write_text(dir / "bad.txt.zst", compressed(big).replace(8, 8, "xxxxxxxx"));
    CHECK_REFUSED(texts({dir / "bad.txt.zst"}), "bad.txt.zst", "zstd");
    write_text(dir / "bad.jsonl", "{\"text\": \"x\"}\n{\"text\": \"x\"\n");
    CHECK_REFUSED(texts({dir / "bad.jsonl"}), "bad.jsonl line 2");
    write_text(dir / "field.jsonl", "{\"content\": \"x\", \"n\": 3}\n");
    CHECK(texts({dir / "field.jsonl"}, "auto", "content") == List{"x"});
    CHECK_REFUSED(texts({dir / "field.jsonl"}), "field.jsonl line 1", "\"text\"", "--field");
    CHECK_REFUSED(texts({dir / "field.jsonl"}, "auto", "n"), "line 1", "\"n\"", "number");
    write_text(dir / "list.jsonl", "[1]\n");
    CHECK_REFUSED(texts({dir / "list.jsonl"}), "list.jsonl line 1");
    write_text(dir / "empty.txt", "");
    CHECK_REFUSED(texts({dir / "empty.txt"}), "empty.txt is empty");
    CHECK_REFUSED(texts({dir / "none.txt"}), "none.txt");
    CHECK_REFUSED(texts({dir.path}), "folder");
    CHECK_REFUSED(texts({}), "--input");
}

TEST_CASE("validation parts", "[data]") {
    int chosen = 0;
    for (int i = 0; i < 10000; i++) chosen += is_validation("document " + std::to_string(i), 0.1);
    CHECK(chosen > 900);  // 1000 ± 30 at one standard deviation
    CHECK(chosen < 1100);
    CHECK_FALSE(is_validation("x", 0));

    std::string book;
    for (int i = 0; i < 1000; i++) book += "line " + std::to_string(i) + (i % 7 ? "\n" : ".\n\n");
    for (const double fraction : {0.01, 0.05, 0.5}) {
        const size_t at = tail_begin(book, fraction);
        CHECK(book[at - 1] == '\n');
        if (fraction > 0.01) CHECK(book[at - 2] == '\n');  // a hundredth is one line or two, and may have no empty one
        CHECK(double(book.size() - at) <= fraction * double(book.size()));
        CHECK(double(book.size() - at) >= fraction * double(book.size()) / 2);
    }
    const std::string accents = "\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9";
    CHECK(tail_begin(accents, 0.5) % 2 == 0);
    CHECK(tail_begin(accents, 0.5) > 0);
    CHECK(tail_begin("", 0.5) == 0);
}

TEST_CASE("shards in llm.c's form", "[data]") {
    const Scratch dir;
    const std::string prefix = dir / "x_train";
    const auto ids_in        = [&](const std::string& path) {
        const Shard shard(path, 0);
        Ids ids(size_t(shard.tokens()));
        shard.read(0, shard.tokens(), ids.data());
        return ids;
    };
    {
        ShardWriter abandoned(prefix, 50257, 100);
        abandoned.add(count_up(250));
    }
    CHECK(ShardWriter::existing(prefix).empty());
    CHECK(fs::is_empty(dir.path));

    ShardWriter w(prefix, 50257, 100);
    w.add(count_up(70));
    w.add({});
    w.add(count_up(180));
    CHECK(ShardWriter::existing(prefix).empty());  // not before commit
    w.commit();
    CHECK(w.tokens() == 250);
    CHECK(w.shards() == 3);
    CHECK(ShardWriter::existing(prefix) ==
          std::vector<std::string>{prefix + "_000000.bin", prefix + "_000001.bin", prefix + "_000002.bin"});
    Ids all;
    for (const std::string& path : ShardWriter::existing(prefix))
        for (const int32_t id : ids_in(path)) all.push_back(id);
    Ids expected = count_up(70);
    for (const int32_t id : count_up(180)) expected.push_back(id);
    CHECK(all == expected);
    const std::string bytes = read_text(prefix + "_000002.bin");
    REQUIRE(bytes.size() == 1024 + 2 * 50);
    int32_t header[256];
    std::memcpy(header, bytes.data(), 1024);
    CHECK(header[0] == 20240520);
    CHECK(header[1] == 1);
    CHECK(header[2] == 50);
    CHECK(std::all_of(header + 3, header + 256, [](int32_t h) { return h == 0; }));

    // Replaced by fewer: nothing of the old set stays.
    ShardWriter wide(prefix, 65537, 100);
    wide.add({65536, 1});
    wide.commit();
    CHECK(ShardWriter::existing(prefix).size() == 1);
    CHECK(ids_in(prefix + "_000000.bin") == Ids{65536, 1});
    CHECK(read_text(prefix + "_000000.bin").size() == 1024 + 2 * 4);
    ShardWriter narrow(dir / "y", 65536, 100);
    narrow.add({65535, 1});
    narrow.commit();
    CHECK(ids_in(dir / "y_000000.bin") == Ids{65535, 1});
    CHECK(read_text(dir / "y_000000.bin").size() == 1024 + 2 * 2);
    CHECK_REFUSED(ShardWriter(prefix, 50257, 0), "tokens per shard");
    CHECK_REFUSED(ShardWriter(prefix, 50257, int64_t(1) << 31), "tokens per shard");
}
