// test_lock_file.cpp - one process at a time writes an output, and a lock takes no other file's place
#include <sys/stat.h>

#include "test/data.h"
#include "test/tokenize.h"

TEST_CASE("a second tokenize to the same output is refused while the first works", "[programs][data]") {
    const Scratch s;
    write_text(s / "tokenizer.json", small_tokenizer());
    std::string text;
    for (int i = 0; i < 200; i++) text += story(i) + "\n<|endoftext|>\n";
    write_text(s / "book.txt", text);
    REQUIRE(mkfifo((s / "slow").c_str(), 0600) == 0);
    const std::string of_book = "--overwrite --input " + quoted(s / "book.txt") + " ";
    struct Way {
        std::string words, output, lock;
    };
    const Way ways[] = {{"", "out/x", "out/x.lock"}, {"--train-bpe 270", "out/t.json", "out/t.json.lock"}};
    for (const Way& way : ways) {
        CAPTURE(way.output);
        fs::remove_all(s / "out");
        const std::string tokenizer = way.words.empty() ? "--tokenizer " + quoted(s / "tokenizer.json") + " " : "",
                          output    = way.words + " --output " + quoted(s / way.output);
        // The first reads from a pipe, into which something comes only when the second has ended.
        const Ran r =
            shell(s, build_folder() + "/tokenize " + tokenizer + "--input " + quoted(s / "slow") + " " + output +
                         " & first=$!; exec 3>" + quoted(s / "slow") + "; n=0; until [ -e " + quoted(s / way.lock) +
                         " ] || [ $((n += 1)) -gt 200 ]; do sleep 0.02; done; sleep 0.2; " + build_folder() +
                         "/tokenize " + tokenizer + of_book + output + "; echo second $?; cat " +
                         quoted(s / "book.txt") + " >&3; exec 3>&-; wait $first; echo first $?");
        CHECK(says(r, {"second 2", "first 0", way.output + " is in use by process", " on "}));
        CHECK(!exists(s / way.lock));
    }
    CHECK(fs::exists(s / "out/t.json"));

    // A file in the place of a lock that is none, or a link, stays as it is.
    const auto refused = [&](const std::string& output) {
        const Ran r =
            run(s, "tokenize",
                "--tokenizer " + quoted(s / "tokenizer.json") + " " + of_book + "--output " + quoted(s / output));
        CAPTURE(r.err);
        CHECK(r.code == 2);
        return r.err;
    };
    write_text(s / "out/poetry.lock", "versions");
    CHECK(missing_words(refused("out/poetry"), {"poetry.lock is the place of a lock", "made by something else"}) == "");
    CHECK(read_text(s / "out/poetry.lock") == "versions");
    write_text(s / "out/target", "text");
    fs::create_symlink("target", s / "out/linked.lock");
    CHECK(missing_words(refused("out/linked"), {"linked.lock: there is a link of this name"}) == "");
    CHECK(read_text(s / "out/target") == "text");
    CHECK(fs::is_symlink(s / "out/linked.lock"));

    // Of several that start at the same moment one wins, and no shard is lost. Later ones find what it has written.
    fs::remove_all(s / "out");
    const std::string one = build_folder() + "/tokenize --tokenizer " + quoted(s / "tokenizer.json") + " --input " +
                            quoted(s / "book.txt") + " --shard-tokens 1000 --output " + quoted(s / "out/x");
    const Ran r = shell(s, "for i in 1 2 3 4; do (" + one + "; echo code $?) & done; wait");
    CAPTURE(r.out, r.err);
    CHECK(r.out.find("code 0") != r.out.npos);
    CHECK(r.out.find("code 0") == r.out.rfind("code 0"));
    CHECK(r.out.find("code 1") == r.out.npos);
    const auto summary = json::parse(read_text(s / "out/x_summary.json"));
    for (const std::string name : summary["shards"]) CHECK(exists(s / ("out/" + name)));
    CHECK(size_t(std::distance(fs::directory_iterator(s / "out"), {})) == summary["shards"].size() + 1);

    // Nobody works on these any more, and what fails leaves no folder.
    CHECK(tokenize(s, of_book + "--output " + quoted(s / "out/x")).code == 0);
    write_text(s / "empty.txt", "");
    CHECK(tokenize(s, "--input " + quoted(s / "empty.txt") + " --output " + quoted(s / "new/deep/x")).code == 2);
    CHECK(!exists(s / "new"));
}
