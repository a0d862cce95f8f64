// test_loss_mask.cpp - shards that say which tokens count in the loss, and the sequences that the loader packs from
// them
#include "data/loader.h"
#include "test/chat.h"

static Ids row(const Tensor& t, int64_t b) {
    const int32_t* from = t.data<int32_t>() + b * t.shape[1];
    return Ids(from, from + t.shape[1]);
}

TEST_CASE("llmq's loss masks are read and written", "[chat][data]") {
    const Scratch dir;
    const std::string path = masked_shard(dir, {{1, -2, 3, -4, -5, 6, -7}, {8, -9}});
    const Shard shard(path, 100);
    REQUIRE(shard.tokens() == 11);
    CHECK(shard.has_mask());
    CHECK(ids_in(path) == Ids{0, 1, 2, 3, 4, 5, 6, 7, 0, 8, 9});
    std::string bits;
    for (int i = 0; i < 11; i++) bits += shard.counts(i) ? '1' : '0';
    CHECK(bits == "00101101001");
    const std::string bytes = read_text(path);
    CHECK(bytes.substr(0, 8) == "BIN.TOK\n");
    CHECK(bytes.size() == 1024 + 44 + 2);
    CHECK(uint8_t(bytes[1024 + 44]) == 0b10110100);  // the lowest bit first, as numpy's packbits(bitorder="little")
    CHECK(uint8_t(bytes[1024 + 45]) == 0b100);
    write_text(dir / "cut.bin", bytes.substr(0, bytes.size() - 1));
    CHECK_REFUSED(Shard(dir / "cut.bin", 100), "cut.bin", "11 tokens and a loss mask", "truncated");
    write_text(dir / "long.bin", bytes + "x");
    CHECK_REFUSED(Shard(dir / "long.bin", 100), "long.bin", "not an llmq token file");

    // An example is not split between shards, even one that is longer than a shard.
    ShardWriter writer(dir / "s", 100, 4, true);
    for (const int n : {3, 2, 7, 1})
        writer.add(count_up(n).data(), std::vector<uint8_t>(size_t(n), 1).data(), size_t(n));
    writer.commit();
    List sizes;
    for (const std::string& name : writer.names()) sizes.push_back(std::to_string(Shard(name, 100).tokens()));
    CHECK(sizes == List{"3", "2", "7", "1"});
    CHECK(writer.counted() == 13);
}

static LoaderSettings sequences_of_8(const std::string& pattern) {
    LoaderSettings set;
    set.pattern = pattern;
    set.context = 8, set.vocab = 100, set.document_token = 0, set.shuffle = false;
    return set;
}

TEST_CASE("conversations are packed into sequences, and none sees another", "[chat][data]") {
    const Scratch dir;
    Loader loader(sequences_of_8(masked_shard(dir, {{1, -2, -3},
                                                    {-4, -5},
                                                    {6, 7, -8, 9, -10},
                                                    {11, 12},
                                                    {13, 14, 15, 16, 17, 18, 19, -20, -21, -22},
                                                    {23, -24}})));
    const Packing& p = loader.packing();
    CHECK(p.sequences == 4);  // the third document does not fit behind the first two, the fifth is cut
    CHECK(p.documents == 5 + 1);
    CHECK(p.cut == 1);
    CHECK(p.cut_tokens == 1);
    CHECK(p.left_out == 0);
    CHECK(p.counted == 3 + 2 + 2 + 1);
    CHECK(loader.counted(2) == 5);
    CHECK(loader.counted(5) == 8 + 3);
    const Batch& first = loader.next();
    CHECK(row(first.tokens, 0) == Ids{1, 2, 3, 0, 4, 0, 0, 0});
    CHECK(row(first.targets, 0) == Ids{2, 3, -1, -1, 5, -1, -1, -1});  // nothing predicts the first id of a document
    CHECK(row(first.starts, 0) == Ids{0, 0, 0, 0, 4, 5, 6, 7});
    CHECK(row(first.positions, 0) == Ids{0, 1, 2, 3, 0, 0, 0, 0});
    CHECK(loader.first_documents() == std::vector<int64_t>{0});
    const Batch& second = loader.next();
    CHECK(row(second.tokens, 0) == Ids{6, 7, 8, 9, 10, 0, 11, 0});
    CHECK(row(second.targets, 0) == Ids{-1, 8, -1, 10, -1, -1, -1, -1});
    CHECK(loader.first_documents() == std::vector<int64_t>{2});
    const Batch& cut = loader.next();
    CHECK(row(cut.targets, 0) == Ids{-1, -1, -1, -1, -1, -1, 20, 21});
    CHECK(row(loader.next().targets, 0) == Ids{24, -1, -1, -1, -1, -1, -1, -1});
}

TEST_CASE("a window in which nothing counts is left out, and a shard without any other is refused", "[chat][data]") {
    const Scratch dir;
    // The answer of the first document begins behind the cut, and the second has none.
    const Loader loader(sequences_of_8(
        masked_shard(dir, {{1, 2, 3, 4, 5, 6, 7, 8, 9, -10}, {11, 12, 13, 14, 15, 16, 17, 18}, {19, -20}})));
    CHECK(loader.packing().sequences == 1);
    CHECK(loader.packing().left_out == 2);
    CHECK_REFUSED(Loader(sequences_of_8(masked_shard(dir, {{1, 2}}, "none"))), "none_000000.bin",
                  "no document has a token that counts");
}

TEST_CASE("without a token between documents sequences are stretches of a shard, and without a mask every token counts",
          "[chat][data]") {
    const Scratch dir;
    LoaderSettings set = sequences_of_8(masked_shard(dir, {{1, -2, -3, 4, 5, 6, 7, 8, -9, -10}}));
    set.document_token = -1;
    CHECK(row(Loader(set).next().targets, 0) == Ids{-1, 2, 3, -1, -1, -1, -1, -1});
    write_shard(dir / "m_000001.bin", 20, -1, 90);
    set.pattern = dir / "m_*.bin";
    const Loader both(set);
    CHECK(both.packing().sequences == 2 + 3);
    CHECK(both.packing().counted == 3 + 8 + 8 + 1);
}

TEST_CASE("an end-of-text token within a document does not separate, where a shard marks what does", "[chat][data]") {
    const Scratch dir;
    ShardWriter writer(dir / "own", 100, 1000, true, 0);
    const Ids ids                     = {0, 1, 0, 2, 3, 0, 0, 4, 0, 9, 5, 0, 0, 6};
    const std::vector<uint8_t> counts = {0, 2, 0, 0, 1, 1, 0, 2, 0, 0, 1, 1, 0, 2};
    writer.add(ids.data(), counts.data(), ids.size());
    writer.commit();
    CHECK(writer.counted() == 4);
    const Shard own(dir / "own_000000.bin", 100);
    CHECK(own.separator() == 0);
    CHECK(!own.holds_pairs());
    std::string kinds;
    for (int64_t i = 0; i < own.tokens(); i++) kinds += own.separates(i) ? '|' : own.counts(i) ? '1' : '.';
    CHECK(kinds == "|...11|...11|.");
    Loader loader(sequences_of_8(own.path()));
    CHECK(loader.packing().sequences == 2);
    CHECK(loader.packing().counted == 4);
    CHECK(row(loader.next().targets, 0) == Ids{-1, -1, 3, 0, -1, -1, -1, -1});
    CHECK(row(loader.next().targets, 0) == Ids{-1, -1, 5, 0, -1, -1, -1, -1});
}

TEST_CASE("documents are found in a shard of any length", "[chat][data]") {
    const Scratch dir;
    ShardWriter writer(dir / "long", 100, 1 << 20, true, 0);
    const Ids ids                     = {0, 1, 0, 2, 3, 4, 5};  // the second 0 is part of the document
    const std::vector<uint8_t> counts = {0, 2, 0, 0, 1, 1, 1};
    const int documents               = 20'000;  // 140,000 ids, which are searched 65,536 at a time
    for (int d = 0; d < documents; d++) writer.add(ids.data(), counts.data(), ids.size());
    writer.commit();
    Loader loader(sequences_of_8(dir / "long_000000.bin"));
    CHECK(loader.packing().documents == documents);
    CHECK(loader.sequences() == documents);        // two do not fit into a sequence
    for (const int64_t at : {0, 9'362, 19'999}) {  // the second is where the search goes on
        loader.seek({0, at});
        CAPTURE(at);
        CHECK(row(loader.next().tokens, 0) == Ids{1, 0, 2, 3, 4, 0, 0, 0});
    }
}

TEST_CASE("the two answers of a preference stay in one window, and a pair that does not fit is left out",
          "[chat][data]") {
    const Scratch dir;
    LoaderSettings set =
        sequences_of_8(masked_shard(dir, {{1, -2}, {1, -3}, {4, 5, 6, -7}, {4, 5, 6, -8, -9}, {10, -11}, {10, -12}}));
    set.pairs = true;
    Loader pairs(set);
    CHECK(pairs.packing().documents == 4);
    CHECK(pairs.packing().left_out == 0);
    CHECK(pairs.packing().too_long == 1);
    CHECK(pairs.packing().longest == 10);
    CHECK(pairs.packing().sequences == 2);
    pairs.next();
    pairs.next();
    CHECK(pairs.first_documents() == std::vector<int64_t>{4});
    set.pattern = masked_shard(dir, {{1, -2}, {1, -3}, {1, -3}}, "odd");
    CHECK_REFUSED(Loader{set}, "odd_000000.bin", "not pairs");
}

TEST_CASE("what counts does not depend on batch size and ranks", "[chat][data]") {
    const Scratch dir;
    std::vector<Ids> documents;
    for (int d = 0; d < 57; d++) {
        documents.emplace_back();
        for (int i = 0; i < 2 + d * 7 % 23; i++)
            documents.back().push_back((1 + (d + i) % 90) * (i * d % 3 == 1 || i == 1 ? -1 : 1));
    }
    LoaderSettings one;
    one.pattern = masked_shard(dir, documents);
    one.context = 16, one.vocab = 100, one.document_token = 0, one.seed = 5;
    Loader alone(one);
    LoaderSettings set = one;
    set.batch = 2, set.world = 3;
    std::vector<Loader> ranks;
    for (set.rank = 0; set.rank < 3; set.rank++) ranks.emplace_back(set);
    for (int step = 0; step < 12; step++) {  // over the end of an epoch
        const int64_t expected = alone.counted(6);
        int64_t found          = 0;
        for (Loader& rank : ranks) {
            CHECK(rank.counted(6) == expected);
            const Batch& batch = rank.next();
            for (int64_t b = 0; b < 2; b++) {
                const Ids theirs = row(batch.targets, b);
                CHECK(theirs == row(alone.next().targets, 0));
                found += std::count_if(theirs.begin(), theirs.end(), [](int32_t id) { return id >= 0; });
            }
        }
        CHECK(found == expected);
    }
}
