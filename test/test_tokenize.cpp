// test_tokenize.cpp - documents read from files, shards written from tokens, and the tokenize program as a whole
#include "test/tokenize.h"

#include <cstring>
#include <random>

#include "test/data.h"

TEST_CASE("documents from text and jsonl, plain, zstd and gzip", "[data]") {
    const Scratch dir;
    write_text(dir / "one.txt", "a\nb");
    write_text(
        dir / "three.txt",
        "<|endoftext|>\na\n<|endoftext|>\n<|endoftext|>\r\n b <|endoftext|>\nc\n<|endoftext|>\nd\n<|endoftext|>");
    CHECK(texts({dir / "one.txt", dir / "three.txt"}) == List{"a\nb", "a\n", " b <|endoftext|>\nc\n", "d\n"});

    const std::string lines =
        "{\"text\": \"x\\n\\u00e9\", \"id\": 1}\n\n  \n{\"text\": \"\"}\r\n{\"id\": [1], \"text\": \"y\"}";
    write_text(dir / "a.jsonl", lines);
    write_text(dir / "a.jsonl.zst", zstd(lines));
    write_text(dir / "a.jsonl.gz", gzip(lines.substr(0, 20)) + gzip(lines.substr(20)));
    CHECK(texts({dir / "a.jsonl"}) == List{"x\n\xc3\xa9", "", "y"});
    CHECK(texts({dir / "a.jsonl.zst"}) == texts({dir / "a.jsonl"}));
    CHECK(texts({dir / "a.jsonl.gz"}) == texts({dir / "a.jsonl"}));
    CHECK(texts({dir / "a.jsonl"}, "text") == List{lines});
    CHECK(texts({dir / "*.jsonl*"}).size() == 9);
    CHECK(texts({dir.path}).size() == 9 + 4);

    // A text in two zstd frames, longer than every buffer, with line breaks at varying distances.
    std::string big;
    while (big.size() < 3000000) big += std::string(size_t(big.size() % 70001), 'x') + "\n";
    write_text(dir / "big.txt.zst", zstd(big.substr(0, 1000001)) + zstd(big.substr(1000001)));
    write_text(dir / "big.txt.gz", gzip(big.substr(0, 1000001)) + gzip(big.substr(1000001)));
    CHECK(texts({dir / "big.txt.zst"}) == List{big});
    CHECK(texts({dir / "big.txt.gz"}) == List{big});

    std::mt19937 rng(1);
    std::string noise(100000, '\0');
    for (char& c : noise) c = char('a' + rng() % 26);
    for (const size_t kept : {size_t(200), size_t(50000), zstd(noise).size() - 1}) {
        write_text(dir / "cut.txt.zst", zstd(noise).substr(0, kept));
        CHECK_REFUSED(texts({dir / "cut.txt.zst"}), "cut.txt.zst", "middle");
        write_text(dir / "cut.txt.gz", gzip(noise).substr(0, kept));
        CHECK_REFUSED(texts({dir / "cut.txt.gz"}), "cut.txt.gz", "middle");
    }
    write_text(dir / "bad.txt.zst", zstd(big).replace(8, 8, "xxxxxxxx"));
    CHECK_REFUSED(texts({dir / "bad.txt.zst"}), "bad.txt.zst", "zstd");
    write_text(dir / "bad.txt.gz", gzip(big).replace(40, 8, "xxxxxxxx"));
    CHECK_REFUSED(texts({dir / "bad.txt.gz"}), "bad.txt.gz", "gzip");
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
    CHECK_REFUSED(texts({dir / "none*.txt"}), "no file matches");
    fs::create_directory(dir / "folder");
    CHECK_REFUSED(texts({dir / "folder"}), "folder");
    CHECK_REFUSED(texts(List{}), "--input");
}

TEST_CASE("the text of a JSON line equals what a general parser reads", "[data]") {
    const auto ours = [](const std::string& line, size_t step) -> std::string {
        size_t at = 0;
        std::string out, chunk;
        const std::string file = "f";
        JsonReader object("", file, 1, [&]() -> std::string_view {
            chunk = line.substr(std::min(at, line.size()), step);
            at += step;
            return chunk;
        });
        try {
            object.read_only_object("text", out);
        } catch (const InputError&) { return "refused"; }
        return out;
    };
    const auto theirs = [](const std::string& line) -> std::string {
        try {
            const json object = json::parse(line);
            return object.is_object() && object.contains("text") && object["text"].is_string()
                       ? object["text"].get<std::string>()
                       : "refused";
        } catch (const json::exception&) { return "refused"; }
    };
    const List good = {R"({"text": "a\n\t\r\b\f\"\\\/ \u00e9\u4e16\ud83d\udc4b\u0000"})",
                       R"({"a": [1, -0.5e+3, {"text": "no", "b": [[], {}]}, true, false, null], "text": "yes"})",
                       "{\"text\":\"caf\xc3\xa9 \xe4\xb8\x96 \xf0\x9f\x91\x8b\"}", R"({ "text" : "" , "z" : 0 } )",
                       R"({"t\u0065xt": "escaped key"})"};
    for (const std::string& line : good) {
        CAPTURE(line);
        REQUIRE(theirs(line) != "refused");
        for (const size_t step : {1, 2, 7, 1000}) CHECK(ours(line, step) == theirs(line));
    }
    // Both readers accept, or both refuse, every prefix and every line with one byte changed.
    std::mt19937 rng(2);
    const std::string bytes = "\"\\{}[],:0e-+.tfnu \x01\x80\xc3\xff";
    for (const std::string& line : good) {
        for (size_t n = 0; n < line.size(); n++) REQUIRE(ours(line.substr(0, n), 5) == theirs(line.substr(0, n)));
        for (int i = 0; i < 3000; i++) {
            std::string changed             = line;
            changed[rng() % changed.size()] = bytes[rng() % bytes.size()];
            CAPTURE(changed);
            REQUIRE(ours(changed, 64) == theirs(changed));
        }
    }
    CHECK(ours(R"({"text": "a", "text": "b"})", 9) == "refused");  // it is not clear which is meant
    CHECK(ours("{\"x\": " + std::string(100000, '['), 1000) == "refused");
}

TEST_CASE("a long document comes in parts that change no token", "[data]") {
    const Scratch dir;
    json file               = json::parse(small_tokenizer());
    file["normalizer"]      = {{"type", "NFC"}};
    file["added_tokens"][1] = {{"id", 295},          {"content", "a,\nb"},   {"special", false},
                               {"normalized", true}, {"single_word", false}, {"lstrip", false},
                               {"rstrip", false}};
    const List units        = {"the",       " the",         " ",
                               "  ",        "\n",           "'s",
                               "'",         "'ll",          "12",
                               ".",         "a,\nb",        "a",
                               ",",         "\xc3\xa9",     "\xcc\x81",
                               "e\xcc\x81", "\xe3\x80\x80", "\xff",
                               "\xe4\xb8",  "\xe4\xb8\x96", "\xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab",
                               "\t"};
    std::mt19937 rng(3);
    int cuts = 0;
    for (const Tokenizer& t : {Tokenizer(small_tokenizer()), Tokenizer(file.dump())})
        for (int i = 0; i < 400; i++) {
            std::string text;
            while (text.size() < 1500) text += units[rng() % units.size()];
            write_text(dir / "x.txt", text);
            ReadSettings settings;
            settings.keep_any_bytes = true;
            settings.part_bytes     = 100 + i % 100;  // twice as many bytes always have a place to cut
            settings.last_cut       = [&](std::string_view s, size_t from) { return t.last_cut(s, from); };
            List parts;
            CAPTURE(i, text);
            REQUIRE(texts({{1, {dir / "x.txt"}}}, settings, &parts) == List{text});
            Tokenizer::Scratch scratch;
            Ids ids;
            for (const std::string& p : parts) t.encode(p, false, ids, scratch);
            REQUIRE(ids == t.encode(text, false));
            cuts += int(parts.size()) - 1;
        }
    CHECK(cuts > 1000);

    // A JSON line of the same length, and text where nothing splits.
    std::string text;
    for (int i = 0; i < 20000; i++) text += story(i);
    write_text(dir / "x.jsonl", json({{"a", text}, {"text", text}}).dump() + "\n{\"text\": \"next\"}\n");
    ReadSettings settings;
    settings.part_bytes = 1000;
    List parts;
    CHECK(texts({{1, {dir / "x.jsonl"}}}, settings, &parts) == List{text, "next"});
    CHECK(parts.size() > 4);

    // Where parts end does not depend on how many bytes arrive at a time, which a decompressor changes.
    std::string words;
    for (int i = 0; words.size() < 3000000; i++) words += fmt::format("{:x}", mix64(uint64_t(i))) + (i % 9 ? "" : " ");
    settings.part_bytes = 300001;
    List first;
    for (const std::string& packed : {words, zstd(words), gzip(words)}) {
        write_text(dir / "w.txt", packed);
        parts.clear();
        CHECK(texts({{1, {dir / "w.txt"}}}, settings, &parts) == List{words});
        if (first.empty()) first = parts;
        CHECK(parts == first);
    }
    CHECK(first.size() > 9);
    settings.part_bytes = 1000;

    std::string unbroken;
    for (int i = 0; i < 5000; i++) unbroken += "\xc3\xa9";
    write_text(dir / "y.txt", unbroken);
    parts.clear();
    CHECK(texts({{1, {dir / "y.txt"}}}, settings, &parts) == List{unbroken});
    for (const std::string& p : parts) CHECK(p.size() <= 300000);
}

TEST_CASE("a mix holds its weights until the first source ends", "[data]") {
    const Scratch dir;
    for (const char name : {'a', 'b'}) {
        std::string lines;
        for (int i = 0; i < 1000; i++) lines += fmt::format("{{\"text\": \"{}{:03}\"}}\n", name, i);
        write_text(dir / fmt::format("{}.jsonl", name), lines);
    }
    const std::vector<Source> mix = {weighted_source("0.3:" + (dir / "a*.jsonl")),
                                     weighted_source("0.7:" + (dir / "b.jsonl"))};
    const List all                = texts(mix);
    int a = 0, b = 0;
    for (const std::string& t : all) {
        (t[0] == 'a' ? a : b)++;
        REQUIRE(std::abs(0.7 * a - 0.3 * b) <= 1);
    }
    CHECK(b == 1000);
    CHECK(texts(mix) == all);
    for (const char* bad : {"wiki.jsonl", "0:x", "-1:x", "x:y", "0.3x:y"})
        CHECK_REFUSED(weighted_source(bad), "WEIGHT");
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
        if (fraction > 0.01) CHECK(book[at - 2] == '\n');  // a hundredth may be one line, with no empty line behind it
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
    CHECK(ShardWriter::existing(prefix).empty());  // they appear only at commit()
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

    // Three shards are replaced by one, and nothing of the old set stays.
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

// ---- the program --------------------------------------------------------------------------------------------------

TEST_CASE("tokenize: the same shards for any number of threads, from any form of the same documents",
          "[programs][data]") {
    const Scratch s;
    write_text(s / "tokenizer.json", small_tokenizer());
    std::string lines, separated;
    List documents;
    for (int i = 0; i < 3000; i++) {
        documents.push_back(story(i) + (i % 500 == 0 ? std::string(size_t(i) * 100, 'a') + " the end" : ""));
        lines += json({{"text", documents.back()}, {"meta", i}}).dump() + "\n";
        separated += documents.back() + "\n<|endoftext|>\n";
    }
    write_text(s / "d.jsonl", lines);
    write_text(s / "d.jsonl.zst", zstd(lines));
    write_text(s / "d.jsonl.gz", gzip(lines));
    REQUIRE(tokenize(s, "--input " + quoted(s / "d.jsonl") +
                            " --threads 1 --val-fraction 0.1 --shard-tokens 20000 --output " + quoted(s / "one"))
                .code == 0);
    const List train = ShardWriter::existing(s / "one_train"), val = ShardWriter::existing(s / "one_val");
    REQUIRE(train.size() > 3);
    REQUIRE(val.size() >= 1);
    for (const char* other : {"d.jsonl --threads 3", "d.jsonl.zst", "d.jsonl.gz --threads 2", "-"}) {
        const std::string name = std::string(other).substr(0, std::string(other).find(' '));
        const std::string rest = std::string(other).substr(name.size());
        const bool piped       = name == "-";
        const Ran r            = tokenize(s,
                                          "--input " + (piped ? "- --format jsonl" : quoted(s / name)) + rest +
                                              " --val-fraction 0.1 --shard-tokens 20000 --overwrite --output " + quoted(s / "two"),
                               piped ? lines : "");
        CAPTURE(other, r.err);
        REQUIRE(r.code == 0);
        REQUIRE(ShardWriter::existing(s / "two_train").size() == train.size());
        for (size_t i = 0; i < train.size(); i++)
            REQUIRE(read_text(train[i]) == read_text(ShardWriter::existing(s / "two_train")[i]));
        for (size_t i = 0; i < val.size(); i++)
            REQUIRE(read_text(val[i]) == read_text(ShardWriter::existing(s / "two_val")[i]));
    }
    const json summary = json::parse(read_text(s / "two_summary.json"));
    CHECK(summary["documents"] == 3000);
    CHECK(summary["skipped"] == 0);
    CHECK(summary["inputs"][0]["file"] == "standard input");
    CHECK(summary["inputs"][0]["bytes"] == lines.size());
    CHECK(summary["train_tokens"].get<int64_t>() + summary["val_tokens"].get<int64_t>() == summary["tokens"]);
    CHECK(summary["tokenizer_fingerprint"] == Tokenizer::load(s / "tokenizer.json").fingerprint());
    CHECK(summary["shards"].size() == train.size() + val.size());

    // The same documents are held out in any order of the input.
    std::string backwards;
    for (size_t i = documents.size(); i-- > 0;) backwards += json({{"text", documents[i]}}).dump() + "\n";
    write_text(s / "b.jsonl", backwards);
    REQUIRE(
        tokenize(s, "--input " + quoted(s / "b.jsonl") + " --val-fraction 0.1 --output " + quoted(s / "back")).code ==
        0);
    const Tokenizer t       = Tokenizer::load(s / "tokenizer.json");
    const auto documents_of = [&](const std::string& prefix) {
        List all;
        for (const std::string& path : ShardWriter::existing(prefix))
            for (const int32_t id : ids_in(path))
                if (id == t.eot())
                    all.emplace_back();
                else
                    all.back() += t.bytes_of(id);
        std::sort(all.begin(), all.end());
        return all;
    };
    CHECK(documents_of(s / "back_val") == documents_of(s / "one_val"));
    CHECK(documents_of(s / "back_val").size() > 200);

    // --eot decides where the mark of a document is.
    const std::string text = "the sea\n<|endoftext|>\nthe wind\n";
    for (const char* eot : {"before", "after", "none"}) {
        REQUIRE(tokenize(s, std::string("--input - --overwrite --eot ") + eot + " --output " + quoted(s / "eot"), text)
                    .code == 0);
        Ids expected;
        for (const char* document : {"the sea\n", "the wind\n"}) {
            if (eot[0] == 'b') expected.push_back(t.eot());
            for (const int32_t id : t.encode(document)) expected.push_back(id);
            if (eot[0] == 'a') expected.push_back(t.eot());
        }
        CHECK(ids_in(s / "eot_train_000000.bin") == expected);
    }
}

TEST_CASE("of few documents the tails are held out, of many whole ones, and of a long one all parts or none",
          "[programs][data]") {
    const Scratch s;
    write_text(s / "tokenizer.json", small_tokenizer());
    const Tokenizer t    = Tokenizer::load(s / "tokenizer.json");
    // The documents of a part of the shards.
    const auto documents = [&](const std::string& part) {
        List all;
        for (const std::string& path : ShardWriter::existing(s / ("x_" + part)))
            for (const int32_t id : ids_in(path))
                if (id == t.eot())
                    all.emplace_back();
                else
                    all.at(all.size() - 1) += t.bytes_of(id);  // throws where no document has begun
        return all;
    };
    const auto split = [&](const List& texts, const std::string& by) {
        std::string lines;
        for (const std::string& text : texts) lines += json({{"text", text}}).dump() + "\n";
        write_text(s / "d.jsonl", lines);
        const Ran r = tokenize(
            s, "--overwrite --val-fraction 0.5 --input " + quoted(s / "d.jsonl") + by + " --output " + quoted(s / "x"));
        CAPTURE(by, r.err);
        REQUIRE(r.code == 0);
    };
    List few, many, long_ones;
    for (int i = 0; i < 99; i++) few.push_back(story(i));
    many = few;
    many.push_back(story(99));
    const auto by_tail = [&](const List& texts) {
        const List train = documents("train"), val = documents("val");
        REQUIRE((train.size() == texts.size() && val.size() == texts.size()));
        for (size_t i = 0; i < texts.size(); i++) CHECK(train[i] + val[i] == texts[i]);
    };
    const auto by_document = [&](const List& texts) {
        List both = documents("train"), all = texts;
        const List val = documents("val");
        CHECK((!both.empty() && !val.empty()));
        both.insert(both.end(), val.begin(), val.end());
        std::sort(both.begin(), both.end());
        std::sort(all.begin(), all.end());
        CHECK((both == all));
    };
    split(few, "");
    by_tail(few);
    split(few, " --val-by document");
    by_document(few);
    split(many, "");
    by_document(many);
    split(many, " --val-by tail");
    by_tail(many);
    for (int i = 0; i < 6; i++) {  // each comes in two parts
        long_ones.emplace_back();
        while (long_ones.back().size() < 1'500'000)
            long_ones.back() += few[mix64(long_ones.back().size() + uint64_t(i)) % few.size()];
    }
    split(long_ones, " --val-by document");
    by_document(long_ones);
}

TEST_CASE("tokenize stops at bad documents, or leaves them out and counts them", "[programs][data]") {
    const Scratch s;
    write_text(s / "tokenizer.json", small_tokenizer());
    std::string lines;
    for (int i = 0; i < 1000002; i++) lines += "{\"text\":\"a\"}\n";
    write_text(s / "late.jsonl", lines + "{\"text\":\"a\n{\"text\":\"b\"}\n{\"body\":\"c\"}\n");
    const std::string late = "--input " + quoted(s / "late.jsonl") + " --output " + quoted(s / "x");
    CHECK(says(tokenize(s, late), {"late.jsonl line 1000003", "not JSON"}));
    CHECK(tokenize(s, late).code == 2);
    CHECK(left_in(s, "x").empty());
    const Ran skipped = tokenize(s, late + " --on-error skip");
    CHECK(skipped.code == 0);
    CHECK(says(skipped, {"line 1000003", "line 1000005", "no field", "skipped 2 bad documents"}));
    CHECK(json::parse(read_text(s / "x_summary.json"))["skipped"] == 2);
    CHECK(json::parse(read_text(s / "x_summary.json"))["documents"] == 1000003);

    write_text(s / "cut.jsonl.zst", zstd(lines).substr(0, 100));
    write_text(s / "good.jsonl", "{\"text\":\"the sea\"}\n");
    const std::string cut =
        "--input " + quoted(s / "cut.jsonl.zst") + " " + quoted(s / "good.jsonl") + " --output " + quoted(s / "y");
    CHECK(says(tokenize(s, cut), {"cut.jsonl.zst", "middle"}));
    CHECK(left_in(s, "y").empty());
    CHECK(says(tokenize(s, cut + " --on-error skip"), {"cut.jsonl.zst", "middle", "skipped 1 bad document"}));

    for (const char* in : {"", "<|endoftext|>\n"}) {
        const Ran nothing = tokenize(s, "--input - --output " + quoted(s / "z"), in);
        CAPTURE(in, nothing.err);
        CHECK(nothing.code == 2);
    }
    CHECK(left_in(s, "z").empty());
    CHECK(says(tokenize(s, "--input '/none/*.txt' --output " + quoted(s / "v")), {"no file matches", "/none/*.txt"}));
    const std::string good = "--input " + quoted(s / "good.jsonl") + " --output " + quoted(s / "v");
    CHECK(says(tokenize(s, good + " --field body"), {"good.jsonl line 1", "no field \"body\"", "text: text"}));
    write_text(s / "v.bin", std::string("\x88\xd8\x34\x01", 4) + std::string(2000, '\0'));  // llm.c's 20240520
    for (const auto& [begin, hint] :
         {std::pair{"PAR1\x15\4\x15", "parquet_text.py"}, {"\3757zXZ", "xz -dc"}, {"PK\3\4", "unpack"}}) {
        write_text(s / "v.txt", begin + std::string(2000, 'x'));
        CHECK(says(tokenize(s, "--input " + quoted(s / "v.txt") + " --output " + quoted(s / "v")), {hint}));
    }
    CHECK(says(tokenize(s, "--input " + quoted(s / "v.bin") + " --output " + quoted(s / "v")), {"tokens already"}));
    fs::remove(s / "v.bin"), fs::remove(s / "v.txt");
    CHECK(says(tokenize(s, "--mix 2 --output " + quoted(s / "v")), {"--mix 2", "WEIGHT"}));
    CHECK(left_in(s, "v").empty());
}

TEST_CASE("tokenize leaves nothing that looks complete when it is killed or the disk is full", "[programs][data]") {
    const Scratch s;
    write_text(s / "tokenizer.json", small_tokenizer());
    std::string text;
    for (int i = 0; text.size() < 4000000; i++) text += story(i) + "\n<|endoftext|>\n";
    write_text(s / "book.txt", text);
    const std::string words =
        "--tokenizer " + quoted(s / "tokenizer.json") + " --shard-tokens 100000 --output " + quoted(s / "x");

    // Standard input stays open, so the program is killed while it waits for more, after some shards were written.
    REQUIRE(std::system(
                ("bash -c " +
                 quoted("exec 3< <(cat " + quoted(s / "book.txt") + "; exec sleep 600); feeder=$!; " + build_folder() +
                        "/tokenize " + words + " --input - <&3 & p=$!; until [ -e " +
                        quoted(s / "x_train_000001.bin.tmp") + " ]; do sleep 0.02; done; kill -9 $p $feeder; wait $p") +
                 " 2>/dev/null; true")
                    .c_str()) == 0);
    CHECK(!left_in(s, "x").empty());
    for (const std::string& name : left_in(s, "x")) CHECK((name == "x.lock" || name.find(".tmp") != std::string::npos));
    REQUIRE(tokenize(s, "--input " + quoted(s / "book.txt") + " --output " + quoted(s / "x")).code == 0);
    CHECK(left_in(s, "x") == List{"x_summary.json", "x_train_000000.bin"});

    // A limit on the size of files has the effect of a full disk.
    const std::string before = read_text(s / "x_train_000000.bin");
    const Ran full = tokenize(s, "--overwrite --input " + quoted(s / "book.txt") + " --output " + quoted(s / "x"), "",
                              "bash -c 'ulimit -f 256; exec \"$0\" \"$@\"' ");
    CHECK(full.code == 1);
    CHECK(says(full, {"x_train_000000.bin", "cannot write"}));
    CHECK(read_text(s / "x_train_000000.bin") == before);
    CHECK(left_in(s, "x") == List{"x_summary.json", "x_train_000000.bin"});

    // A kill between the renames leaves some final names and no summary. Neither program takes that for complete.
    const std::string again =
        "--input " + quoted(s / "book.txt") + " --shard-tokens 100000 --output " + quoted(s / "x");
    REQUIRE(tokenize(s, again + " --overwrite").code == 0);
    const List whole = left_in(s, "x");
    REQUIRE(whole.size() > 4);
    fs::remove(s / "x_summary.json");
    fs::rename(s / "x_train_000002.bin", s / "x_train_000002.bin.tmp");
    const Ran taken = tokenize(s, again);
    CHECK(taken.code == 2);
    CHECK(says(taken, {"x_train_000000.bin exists", "did not end", "x_summary.json"}));
    CHECK_REFUSED(files_matching(s / "x_train_*.bin"), "x_train_000002.bin.tmp");
    REQUIRE(tokenize(s, again + " --overwrite").code == 0);
    CHECK(left_in(s, "x") == whole);
}

TEST_CASE("data/fetch.sh prints the size, resumes where it stopped, and refuses a file that is not the right one",
          "[programs][data]") {
    if (std::system("command -v curl >/dev/null") != 0)
        return void(std::fprintf(stderr, "skipped: there is no curl\n"));
    const Scratch s;
    const std::string pile = s / "datasets/monology/pile-uncopyrighted/resolve/main/train";
    fs::create_directories(pile);
    write_text(pile + "/03.jsonl.zst", zstd("{\"text\": \"the sea\"}\n"));
    const auto fetch = [&](const std::string& words) {
        const int status = std::system(("data/fetch.sh " + words + " --mirror " + quoted("file://" + s.path) +
                                        " --out " + quoted(s / "out") + " >" + quoted(s / "said") + " 2>&1")
                                           .c_str());
        return Ran{WEXITSTATUS(status), read_text(s / "said"), ""};
    };
    const std::string file = read_text(pile + "/03.jsonl.zst");
    fs::create_directories(s / "out");
    write_text(s / "out/03.jsonl.zst.part", file.substr(0, 10));
    const Ran r = fetch("pile --parts 3-3");
    CHECK(r.code == 0);
    CHECK(says(r, {"pile: 1 files", "03.jsonl.zst", std::to_string(file.size()) + " bytes"}));
    CHECK(read_text(s / "out/03.jsonl.zst") == file);
    // A file that is there is compared, and so is a download that was complete when it was stopped.
    CHECK(fetch("pile --parts 3-3").code == 0);
    fs::rename(s / "out/03.jsonl.zst", s / "out/03.jsonl.zst.part");
    CHECK(fetch("pile --parts 3-3").code == 0);
    write_text(s / "out/03.jsonl.zst", "something else");
    const Ran other = fetch("pile --parts 3-3");
    CHECK(other.code == 1);
    CHECK(says(other, {"is there already", "has 14 bytes, where " + std::to_string(file.size()) + " are expected"}));
    CHECK(read_text(s / "out/03.jsonl.zst") == "something else");
    CHECK(fetch("pile --parts 29-30").code == 2);
    CHECK(fetch("pile --parts 4-4").code == 1);
    const Ran ready = fetch("pile-pythia --parts 0-0 --tokenizer x");
    CHECK(ready.code == 2);
    CHECK(says(ready, {"pile-pythia is used as it is"}));
    fs::create_directories(s / "karpathy/char-rnn/master/data/tinyshakespeare");
    write_text(s / "karpathy/char-rnn/master/data/tinyshakespeare/input.txt", "To be");
    CHECK(says(fetch("tinyshakespeare"), {"another SHA-256"}));
    CHECK(!exists(s / "out/input.txt"));
    write_text(s / "out/input.txt", "To ba");
    const Ran damaged = fetch("tinyshakespeare");
    CHECK(damaged.code == 1);
    CHECK(says(damaged, {"is there already", "another SHA-256"}));
}

TEST_CASE("Parquet files give the same shards as JSON lines, and one that is cut off gives none", "[programs][data]") {
    const char* named        = std::getenv("PYTHON");
    const std::string python = named ? named : "python3";
    if (std::system((quoted(python) + " -c 'import pyarrow' 2>/dev/null").c_str()) != 0)
        return void(std::fprintf(stderr, "skipped: %s has no pyarrow (PYTHON names one that has)\n", python.c_str()));
    const Scratch s;
    write_text(s / "tokenizer.json", small_tokenizer());
    std::string lines;
    for (int i = 0; i < 5000; i++) lines += json({{"text", story(i) + "\u00e9\u2028\"\n"}}).dump() + "\n";
    write_text(s / "d.jsonl", lines);
    const std::string files = s / "datasets/HuggingFaceFW/fineweb-edu/resolve/main/sample/10BT";
    fs::create_directories(files);
    write_text(s / "make.py",
               "import json, sys, pyarrow as pa, pyarrow.parquet as pq\n"
               "texts = [json.loads(line)['text'] for line in open(sys.argv[1], encoding='utf-8')]\n"
               "for i, part in enumerate([texts[:3000] + [None], texts[3000:]]):\n"
               "    table = pa.table({'id': list(range(len(part))), 'text': part})\n"
               "    pq.write_table(table, f'{sys.argv[2]}/{i:03d}_00000.parquet', row_group_size=700)\n");
    REQUIRE(
        std::system((quoted(python) + " " + quoted(s / "make.py") + " " + quoted(s / "d.jsonl") + " " + quoted(files))
                        .c_str()) == 0);
    const auto fetch = [&](const std::string& out) {
        const std::string line = "BUILD=" + build_folder() + " PYTHON=" + quoted(python) +
                                 " data/fetch.sh fineweb-edu --parts 0-1 --mirror " + quoted("file://" + s.path) +
                                 " --tokenizer " + quoted(s / "tokenizer.json") + " --out " + quoted(s / out) + " >" +
                                 quoted(s / "said") + " 2>&1";
        const int status = std::system(line.c_str());
        return Ran{WEXITSTATUS(status), read_text(s / "said"), ""};
    };
    const Ran r = fetch("out");
    REQUIRE(says(r, {"fineweb-edu: 2 files", "1 rows without text", "5000 documents"}));
    CHECK(r.code == 0);
    REQUIRE(
        tokenize(s, "--input " + quoted(s / "d.jsonl") + " --val-fraction 0.005 --output " + quoted(s / "x")).code ==
        0);
    for (const char* part : {"_train_000000.bin", "_val_000000.bin"})
        CHECK(read_text(s / "out/fineweb-edu" + part) == read_text(s / "x" + part));

    CHECK(says(tokenize(s, "--input " + quoted(files + "/000_00000.parquet") + " --output " + quoted(s / "p")),
               {"Parquet", "parquet_text.py"}));
    const std::string second =
        read_text(files + "/001_00000.parquet");  // a truncated second file, which is found after the first was read
    write_text(files + "/001_00000.parquet", second.substr(0, second.size() / 2));
    const Ran bad = fetch("bad");
    CHECK(bad.code != 0);
    CHECK(says(bad, {"001_00000.parquet", "standard input line 3001"}));
    CHECK(!exists(s / "bad/fineweb-edu_train_000000.bin"));
}

TEST_CASE("of a folder, text files of several names are read, and the others are named", "[data][programs]") {
    const Scratch s;
    write_text(s / "tokenizer.json", small_tokenizer());
    fs::create_directories(s / "notes/more");
    fs::create_directories(s / "notes/.git");
    for (const char* name : {"a.txt", "b.md", "more/c.rst", "d.markdown"}) write_text(s / "notes/" + name, "the sea\n");
    for (const char* name : {"page.html", "more/book.pdf", ".git/HEAD"}) write_text(s / "notes/" + name, "the sea\n");
    const Ran r = tokenize(s, "--input " + quoted(s / "notes") + " --output " + quoted(s / "x"));
    CAPTURE(r.out, r.err);
    CHECK(r.code == 0);
    CHECK(says(r, {"4 documents", "left out:", "notes/page.html", "book.pdf", "/*.html'"}));
    CHECK(r.err.find("HEAD") == std::string::npos);
    fs::create_directories(s / "pages");
    write_text(s / "pages/page.html", "the sea\n");
    const Ran none = tokenize(s, "--input " + quoted(s / "pages") + " --output " + quoted(s / "y"));
    CHECK(none.code == 2);
    CHECK(says(none, {"only .txt, .md, .rst and .jsonl", "pages/page.html"}));
    // Hidden are the files that the folder hides, not those of a folder that is hidden itself.
    fs::create_directories(s / ".cache");
    fs::rename(s / "pages", s / ".cache/pages");
    const Ran hidden = tokenize(s, "--input " + quoted(s / ".cache/pages") + " --output " + quoted(s / "y"));
    CHECK(hidden.code == 2);
    CHECK(says(hidden, {"only .txt, .md, .rst and .jsonl", "pages/page.html"}));
}

TEST_CASE("tokenize takes a tokenizer's folder and paths that are not UTF-8, and refuses options without effect",
          "[data][programs]") {
    const Scratch s;
    write_text(s / "tokenizer.json", small_tokenizer());
    write_text(s / "t.txt", "the sea was calm\n");
    const std::string input = "--input " + quoted(s / "t.txt") + " ";
    REQUIRE(run(s, "tokenize", input + "--tokenizer " + quoted(s.path) + " --output " + quoted(s / "x")).code == 0);
    fs::create_directories(s / "empty");
    const Ran no = run(s, "tokenize", input + "--tokenizer " + quoted(s / "empty") + " --output " + quoted(s / "y"));
    CHECK(no.code == 2);
    CHECK(says(no, {"empty", "no tokenizer.json"}));

    const std::string odd = s / "caf\xe9";
    fs::create_directories(odd);
    fs::copy_file(s / "t.txt", odd + "/t.txt");
    fs::copy_file(s / "tokenizer.json", odd + "/tokenizer.json");
    const Ran path = run(s, "tokenize",
                         "--input " + quoted(odd + "/t.txt") + " --tokenizer " + quoted(odd + "/tokenizer.json") +
                             " --output " + quoted(odd + "/x"));
    CAPTURE(path.err);
    CHECK(path.code == 0);
    const json summary = json::parse(read_text(odd + "/x_summary.json"));
    CHECK(summary["inputs"][0]["file"].get<std::string>().find("caf\xef\xbf\xbd/t.txt") != std::string::npos);

    const auto refused = [&](const std::string& words, const List& expected) {
        const Ran r = run(s, "tokenize", words);
        CAPTURE(words, r.err);
        CHECK(r.code == 2);
        CHECK(says(r, expected));
    };
    refused(input + "--mix 1:" + quoted(s / "t.txt"), {"--input and --mix"});
    refused(input + "--train-bpe 300 --tokenizer x", {"--tokenizer and --train-bpe"});
    refused(input + "--train-bpe 300 --decode", {"--decode and --train-bpe"});
    refused(input + "--decode --tokenizer x --val-fraction 0.1", {"--decode and --val-fraction"});
    refused(input + "--tokenizer ''", {"--tokenizer '': expected"});
    refused(input + "--eot-token ''", {"--eot-token '': expected"});
    refused(input + "--threads 5000", {"--threads 5000: expected auto, or 1 or more, at most 4096"});
    refused(input + "--train-bpe 300 --output " + quoted(s / "tok"), {"ends in .json", "with / behind"});
    refused("--input - - --train-bpe 300 --output x.json", {"--input names standard input 2 times", "only once"});
    refused("--mix 1:- 2:- --train-bpe 300 --output x.json", {"--mix names standard input 2 times", "only once"});
    refused("--input nosuch --train-bpe 256 --output x.json", {"257 entries or more, not 256"});  // before it reads

    // An output that cannot be written is found before the input is read, which is no UTF-8 here.
    write_text(s / "bad.txt", "\xff\n");
    fs::create_directories(s / "w_summary.json/in");
    fs::create_directories(s / "v_val_000000.bin/in");
    const std::string bad  = "--input " + quoted(s / "bad.txt") + " ",
                      with = bad + "--tokenizer " + quoted(s / "tokenizer.json") + " --overwrite --output ";
    refused(bad + "--train-bpe 300 --output " + quoted(s / "bad.txt/new.json"),
            {"--output", "bad.txt/new.json", "Not a directory"});
    refused(with + quoted(s / "bad.txt/x"), {"--output", "bad.txt/x", "Not a directory"});
    refused(with + quoted(s / "w"), {"--output", "w_summary.json: this is a folder"});
    refused(with + quoted(s / "v"), {"--output", "v_val_000000.bin: this is a folder"});
    for (const char* prefix : {"w_train", "v_train"}) CHECK(left_in(s, prefix).empty());
    refused(bad + "--train-bpe 300 --output " + quoted(s / "new/t.json"), {"bad.txt", "UTF-8"});
    CHECK(!fs::exists(s / "new"));
}
