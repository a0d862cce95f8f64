// test_tokenizer.cpp - token ids against definitions and published vectors, time on bad inputs, and learned
// vocabularies
#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "data/bpe_training.h"
#include "data/tokenizer.h"
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
    return std::string(unicode::normalize<unicode::nfc_form>(text, buffer));
}

// A text with enough repetition to learn from.
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

// Texts that tokenizers tend to get wrong: parts of words, marks, white space, and bytes that are not UTF-8.
const std::vector<std::string>& hostile_kinds() {
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
    return kinds;
}
std::string hostile_text(std::mt19937& rng, int parts) {
    std::string text;
    for (int i = 0; i < parts; i++) text += hostile_kinds()[rng() % hostile_kinds().size()];
    return text;
}
std::string short_hostile(std::mt19937& rng) {
    const std::string& kind = hostile_kinds()[rng() % hostile_kinds().size()];
    return kind.size() <= 16 ? kind : kind.substr(0, 3);
}

json with(json file, const char* pointer, const json& value) {
    file[json::json_pointer(pointer)] = value;
    return file;
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
                 "b") == List{"a", "\xff\xfe", "b"});  // bytes that are not UTF-8 are "other"
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

    // A pass that moves marks one place at a time would need seconds for a hundred thousand of them.
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

    SECTION("does not depend on how the text arrives") {
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
        // Counts at first: ab 4, xy 4, ba 2, yx 2, " x" 2, " a" 1. Then " "+xy, ab+ab and xy+xy have 2 each, and the
        // space is id 220.
        words.add("abab abab xyxy xyxy");
        const json m = json::parse(BpeTraining(words).learn(256 + 4 + 1))["model"]["merges"];
        CHECK(m == json({"a b", "x y", "\xc4\xa0 xy", "ab ab"}));
    }
    SECTION("merges runs from the left") {
        WordCounts words;
        words.add("aaaaa aaaaa");  // becomes aa aa a, where aa+a and aa+aa have equal counts and a is id 64
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

// ---- a million texts ----------------------------------------------------------------------------------------------

namespace {

// The split pattern, applied literally: at every character its alternatives are tried in order.
class SplitByDefinition {
  public:
    explicit SplitByDefinition(const std::string& text) {
        for (size_t at = 0; at < text.size();) {
            const unicode::Char c = unicode::char_at(text, at);
            chars_.push_back({text.substr(at, size_t(c.bytes)), unicode::table().kind(c.code)});
            at += size_t(c.bytes);
        }
    }
    std::vector<std::string> pieces() const {
        std::vector<std::string> all;
        for (size_t at = 0, n; at < chars_.size(); at += n) {
            n = length(at);
            all.emplace_back();
            for (size_t i = at; i < at + n; i++) all.back() += chars_[i].first;
        }
        return all;
    }

  private:
    size_t length(size_t at) const {
        for (const char* suffix : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"})
            if (is(at, suffix)) return std::strlen(suffix);
        for (const auto kind : {unicode::letter, unicode::number, unicode::other}) {
            const size_t blank = chars_[at].first == " ", n = run(at + blank, kind);
            if (n > 0) return blank + n;
        }
        const size_t n = run(at, unicode::space);
        return at + n == chars_.size() || n == 1 ? n : n - 1;  // \s+(?!\S), then \s+
    }
    bool is(size_t at, const char* word) const {
        for (; *word; word++, at++)
            if (at >= chars_.size() || chars_[at].first != std::string(1, *word)) return false;
        return true;
    }
    size_t run(size_t at, unicode::Kind kind) const {
        size_t n = 0;
        while (at + n < chars_.size() && chars_[at + n].second == kind) n++;
        return n;
    }
    std::vector<std::pair<std::string, unicode::Kind>> chars_;
};

// Encoding by its definition: in each piece, the pair that comes first in the list of merges is merged, leftmost first,
// until no pair is in the list.
class EncodeByDefinition {
  public:
    explicit EncodeByDefinition(const json& file) {
        for (const auto& item : file["model"]["vocab"].items()) {
            std::string bytes;
            if (byte_alphabet().read(item.key(), bytes)) ids_[bytes] = item.value();
        }
        for (const std::string line : file["model"]["merges"]) {
            const size_t gap = line.find(' ');
            ranks_.emplace(std::make_pair(id(line.substr(0, gap)), id(line.substr(gap + 1))), int(ranks_.size()));
            results_.push_back(id(line.substr(0, gap) + line.substr(gap + 1)));
        }
    }
    Ids encode(const std::string& text) const {
        Ids all;
        for (const std::string& piece : SplitByDefinition(text).pieces()) {
            Ids ids;
            for (const char c : piece) ids.push_back(ids_.at(std::string(1, c)));
            for (;;) {
                size_t best = 0, best_rank = results_.size();
                for (size_t i = 0; i + 1 < ids.size(); i++) {
                    const auto found = ranks_.find({ids[i], ids[i + 1]});
                    if (found != ranks_.end() && size_t(found->second) < best_rank)
                        best = i, best_rank = size_t(found->second);
                }
                if (best_rank == results_.size()) break;
                ids[best] = results_[best_rank];
                ids.erase(ids.begin() + int64_t(best) + 1);
            }
            all.insert(all.end(), ids.begin(), ids.end());
        }
        return all;
    }

  private:
    int32_t id(const std::string& word) const {
        std::string bytes;
        REQUIRE(byte_alphabet().read(word, bytes));
        return ids_.at(bytes);
    }
    std::map<std::string, int32_t> ids_;
    std::map<std::pair<int32_t, int32_t>, int> ranks_;
    std::vector<int32_t> results_;
};

}  // namespace

// Short texts reach as many kinds of neighbours as long ones in the same time, and a failing one is easy to read.
TEST_CASE("a million texts are encoded by the definition, and decoded back to the input", "[tokenizer][fuzz]") {
#ifdef __SANITIZE_ADDRESS__
    const int cases = 50000;
#else
    const int cases = 1000000;
#endif
    const json form = json::parse(learned_file());
    const Tokenizer plain(form.dump()), normal(with(form, "/normalizer", {{"type", "NFC"}}).dump());
    const EncodeByDefinition reference(form);
    std::mt19937 rng(20240520);
    Tokenizer::Scratch scratch, normal_scratch;
    Ids ids;
    const std::string words = page;
    for (int i = 0; i < cases; i++) {
        std::string text;
        for (uint32_t parts = 1 + rng() % 4; parts > 0; parts--) {
            const uint32_t kind = rng() % 8;
            if (kind < 3)
                text += words.substr(rng() % words.size(), rng() % 12);
            else if (kind < 7)
                text += short_hostile(rng);
            else
                text += char(rng());
        }
        ids.clear();
        plain.encode(text, false, ids, scratch);
        if (plain.decode(ids) != text || ids != reference.encode(text)) {
            CAPTURE(i, text);
            REQUIRE(plain.decode(ids) == text);
            REQUIRE(ids == reference.encode(text));
        }
        if (i % 4 != 0) continue;
        const std::string normalized = nfc(text);
        ids.clear();
        normal.encode(text, false, ids, normal_scratch);
        if (normal.decode(ids) != normalized || ids != reference.encode(normalized)) {
            CAPTURE(i, text);
            REQUIRE(normal.decode(ids) == normalized);
            REQUIRE(ids == reference.encode(normalized));
        }
    }
    CHECK(cases > 0);
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
        REQUIRE(ids == EncodeByDefinition(form).encode(text));
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
    // In quadratic time, a megabyte without a place to split would take minutes.
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
    CHECK(t.vocab_size() == 347);  // 343 and 344 are unused
    CHECK(t.bytes_of(343).empty());
    CHECK(t.decode({341, 343, 344, 340}) == "   <|pad|>");
    CHECK_REFUSED(t.bytes_of(347), "347");
    CHECK(t.encode("<|pad|><|endoftext|>") == Ids{340, 339});
    CHECK(t.encode("<|pad|>", false).size() > 1);
    CHECK(t.encode("          ") == Ids{341, 341, 341, t.encode(" ")[0]});  // 3 + 3 + 3 + 1
    CHECK(t.encode("        ") == Ids{341, 341, 342});
    CHECK(t.encode("        ", false) == Ids{341, 341, 342});  // always found, because it is not special
    CHECK(t.encode("caf\xc3\xa9") == Ids{345});                // found in the normal form
    CHECK(t.encode("e\xcc\x81") == Ids{346});                  // found before normalizing
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

    // Merges may be pairs, and some fields change no token.
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
    CHECK_REFUSED(load(with(ok, "/pre_tokenizer/use_regex", false)), "pre_tokenizer/use_regex");
    CHECK_REFUSED(load(with(ok, "/pre_tokenizer", nullptr)), "pre_tokenizer");
    CHECK_REFUSED(load(with(ok, "/pre_tokenizer", "ByteLevel")), "pre_tokenizer");
    CHECK_REFUSED(load(with(ok, "/normalizer", {{"type", "Lowercase"}})), "normalizer/type", "Lowercase");
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
    json no_bytes               = ok;
    no_bytes["model"]["vocab"]  = {{"the", 0}, {"\xe2\x96\x81sea", 1}};
    no_bytes["model"]["merges"] = json::array();
    no_bytes["added_tokens"]    = json::array();
    CHECK_REFUSED(load(no_bytes), "no token for any byte");
    CHECK_REFUSED(Tokenizer::load("/no/such/tokenizer.json"), "/no/such/tokenizer.json");

    // GPT-NeoX has no token for bytes that UTF-8 never uses. They become U+FFFD.
    json neox = ok;
    neox["model"]["vocab"].erase(byte_alphabet().write("\xff"));
    CHECK(load(neox).decode(load(neox).encode("a\xff"
                                              "b\xc3")) ==
          "a\xef\xbf\xbd"
          "b\xc3");
}

// Writes vocabulary and merges of a tokenizer.json as the pair of files that GPT-2 was published with.
static void write_pair(const Scratch& s, const json& file) {
    write_text(s / "vocab.json", file["model"]["vocab"].dump());
    std::string lines = "#version: 0.2\n";
    for (const std::string merge : file["model"]["merges"]) lines += merge + "\n";
    write_text(s / "merges.txt", lines);
}

TEST_CASE("vocab.json and merges.txt are the tokenizer.json with the same words", "[tokenizer]") {
    const json form = json::parse(learned_file());
    const Tokenizer ours(form.dump());
    const Scratch s;
    CHECK(tokenizer_in(s.path) == "");
    write_pair(s, form);
    CHECK(tokenizer_in(s.path) == s / "vocab.json");
    const auto load = [&] { return Tokenizer::load(tokenizer_in(s.path)); };
    const Ids ids   = ours.encode(page);

    SECTION("the pair alone") {
        CHECK(load().encode(page) == ids);
        CHECK(load().encode("a<|endoftext|>") == ours.encode("a<|endoftext|>"));
        CHECK(load().encode("a<|endoftext|>", false) == ours.encode("a<|endoftext|>", false));
        CHECK(load().fingerprint() == ours.fingerprint());
        CHECK(load().eot() == 339);
        // The pair can be saved as a tokenizer.json, which is read first when all three files exist.
        write_text(s / "tokenizer.json", read_tokenizer_json(s / "vocab.json"));
        CHECK(tokenizer_in(s.path) == s / "tokenizer.json");
        CHECK(load().fingerprint() == ours.fingerprint());
    }
    SECTION("lines that end as on Windows, no version, no last line break") {
        std::string lines;
        for (const std::string merge : form["model"]["merges"]) lines += (lines.empty() ? "" : "\r\n") + merge;
        write_text(s / "merges.txt", lines);
        CHECK(load().encode(page) == ids);
    }
    SECTION("tokens that other files add") {
        write_text(s / "added_tokens.json", R"({"<|pad|>": 340, "  ": 341, "<|late|>": 350})");
        write_text(s / "special_tokens_map.json", R"({"eos_token": "<|endoftext|>", "pad_token": {"content": "<|pad|>",
                   "lstrip": false, "rstrip": false, "single_word": false, "normalized": true},
                   "additional_special_tokens": ["<|late|>"], "sep_token": null})");
        write_text(s / "tokenizer_config.json", R"({"add_prefix_space": false, "model_max_length": 1024,
                   "added_tokens_decoder": {"339": {"content": "<|endoftext|>", "special": true, "normalized": false},
                                            "342": {"content": "<|mask|>", "special": true}}})");
        CHECK(load().vocab_size() == 351);
        CHECK(load().encode("<|pad|>  <|late|><|mask|><|endoftext|>") == Ids{340, 341, 350, 342, 339});
        CHECK(load().encode("<|pad|>  <|late|><|mask|>", false) == [&] {
            Ids all = ours.encode("<|pad|>"), rest = ours.encode("<|late|><|mask|>");
            all.push_back(341);  // always found, because it is not special
            all.insert(all.end(), rest.begin(), rest.end());
            return all;
        }());
    }
    SECTION("what is refused, by file and place") {
        const std::string merges = read_text(s / "merges.txt");
        const auto refused_with  = [&](const char* file, const std::string& text) {
            const std::string before = exists(s / file) ? read_text(s / file) : "{}";
            write_text(s / file, text);
            std::string said = "nothing was refused";
            try {
                load();
            } catch (const InputError& e) { said = e.what(); }
            write_text(s / file, before);
            return said;
        };
        const auto says = [](const std::string& said, const std::string& word) {
            CAPTURE(said, word);
            CHECK(said.find(word) != said.npos);
        };
        says(refused_with("merges.txt", merges + "zzz a\n"), fmt::format("merges.txt:{}:", 340 - 257 + 2));
        says(refused_with("merges.txt", "#version: 0.2\nth\n"), "merges.txt:2:");
        says(refused_with("merges.txt", "\xff\xfe\x00"), "merges.txt:1:");
        says(refused_with("vocab.json", "[1]"), "vocab.json: expected a JSON object");
        says(refused_with("vocab.json", "{"), "vocab.json: not valid JSON");
        says(refused_with("vocab.json", R"({"a": 1, "a": 2})"), "appears twice");
        says(refused_with("vocab.json", with(form, "/model/vocab/a", "7")["model"]["vocab"].dump()), "the id of \"a\"");
        says(refused_with("added_tokens.json", R"({"<|pad|>": "340"})"), "added_tokens.json: the id of <|pad|>");
        says(refused_with("added_tokens.json", R"({"<|pad|>": 340, "<|bos|>": 340})"), "both added with id 340");
        says(refused_with("added_tokens.json", R"({"<|pad|>": 7})"), "id 7");
        says(refused_with("special_tokens_map.json", R"({"pad_token": "<|pad|>"})"), "pad_token is <|pad|>");
        says(refused_with("special_tokens_map.json", R"({"pad_token": 3})"), "pad_token is 3");
        says(refused_with("special_tokens_map.json", R"({"eos_token": {"content": "<|endoftext|>", "lstrip": true}})"),
             "lstrip");
        says(refused_with("tokenizer_config.json", R"({"add_prefix_space": 1})"), "add_prefix_space");
        says(refused_with("tokenizer_config.json", R"({"added_tokens_decoder": {"x": {"content": "y"}}})"),
             "added_tokens_decoder: x");
        CHECK(load().encode(page) == ids);
    }
}

TEST_CASE("the published vectors, exact to the id", "[tokenizer][shared]") {
    const std::string folder = shared_data("tokenizers/vectors");
    if (folder.empty()) return;
    const Tokenizer gpt2 = Tokenizer::load(shared_data("tokenizers/gpt2/tokenizer.json"));
    const Tokenizer neox = Tokenizer::load(shared_data("tokenizers/gpt-neox-20b/tokenizer.json"));
    const Tokenizer pair = Tokenizer::load(shared_data("tokenizers/gpt2/vocab.json"));
    CHECK(pair.fingerprint() == gpt2.fingerprint());
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
            CHECK(pair.encode(text) == v["gpt2"].get<Ids>());
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
