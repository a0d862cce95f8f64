// test_random.cpp - random numbers and the shuffle
#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <vector>

#include "kernels/random.h"
#include "test/catch.h"

TEST_CASE("philox gives the numbers that its authors publish", "[random]") {  // kat_vectors of Random123
    const auto is = [](Philox p, std::initializer_list<uint32_t> words) {
        return std::equal(words.begin(), words.end(), p.word);
    };
    const uint32_t ones = 0xffffffff;
    CHECK(is(philox({{0, 0, 0, 0}}, 0, 0), {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
    CHECK(is(philox({{ones, ones, ones, ones}}, ones, ones), {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
    CHECK(is(philox({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0),
             {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST_CASE("random numbers have the right distributions", "[random]") {
    const Random random(1337, "test");
    const int n = 1 << 20;
    double sum = 0, sum2 = 0, tail = 0, uniform = 0, largest = 0;
    float low = 1, high = 0;
    std::map<uint64_t, int> faces;
    for (int i = 0; i < n; i++) {
        const double z = random.normal(i), u = random.uniform(i);
        sum += z;
        sum2 += z * z;
        tail += std::abs(z) > 2;
        largest = std::max(largest, std::abs(z));
        uniform += u;
        low  = std::min(low, float(u));
        high = std::max(high, float(u));
        faces[random.below(i, 6)]++;
    }
    // Each estimate may be off by five of its standard deviations.
    CHECK(std::abs(sum / n) < 5 / std::sqrt(n));
    CHECK(std::abs(sum2 / n - 1) < 5 * std::sqrt(2. / n));
    CHECK(std::abs(tail / n - 0.0455003) < 5 * std::sqrt(0.0455 / n));
    CHECK(std::abs(uniform / n - 0.5) < 5 * std::sqrt(1 / 12. / n));
    CHECK((largest > 4 && largest < 6.8));
    CHECK((low >= 0 && low < 1e-4f && high < 1 && high > 1 - 1e-4f));
    CHECK(faces.size() == 6);
    for (const auto& [face, times] : faces) CHECK(std::abs(times - n / 6.) < 5 * std::sqrt(n * 5 / 36.));
    CHECK(random.below(3, 1) == 0);
}

TEST_CASE("a random number depends on its key and index alone", "[random]") {
    const Random random(1, "weights", 7);
    // fill_normal() in chunks that begin anywhere in a block of Philox, at indices far beyond 2^32.
    const uint64_t far = (uint64_t(1) << 40) + 2;
    std::vector<float> at_once(41), in_chunks(41);
    random.fill_normal(at_once.data(), far, at_once.size(), 0.02f);
    for (size_t i = 0; i < at_once.size(); i++) CHECK(at_once[i] == 0.02f * random.normal(far + i));
    for (size_t at = 0, step = 1; at < in_chunks.size(); at += step, step = step % 7 + 1)
        random.fill_normal(&in_chunks[at], far + at, std::min(step, in_chunks.size() - at), 0.02f);
    CHECK(in_chunks == at_once);
    // At 3141120 begin numbers of which one is so near to the middle between two floats that fill_normal() asks
    // normal().
    for (uint64_t first : {0, 3141120}) {
        std::vector<float> many(100'000);
        random.fill_normal(many.data(), first, many.size(), 1.f);
        size_t different = 0;
        for (size_t i = 0; i < many.size(); i++) different += many[i] != random.normal(first + i);
        CHECK(different == 0);
    }

    std::set<uint64_t> seen;
    for (uint64_t seed : {0, 1, 2})
        for (const char* purpose : {"", "weights", "data order"})
            for (uint64_t step : {uint64_t(0), uint64_t(1), uint64_t(1) << 32})
                for (uint64_t i : {uint64_t(0), uint64_t(1), uint64_t(1) << 33})
                    seen.insert(Random(seed, purpose, step).word64(i));
    CHECK(seen.size() == 3 * 3 * 3 * 3);
    // These values must never change, because a run is repeated from its seed.
    CHECK(Random(1337, "weights").word64(0) == 0x16dd1d44336ff7a3u);
    CHECK(permutation(0, 1000003, 42) == 719284);
}

TEST_CASE("permutation visits every index once, in a different order for each key", "[random]") {
    for (uint64_t n : {1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 1000, 4097}) {
        std::set<std::vector<uint64_t>> orders;
        for (uint64_t key : {0, 1, 2, 3}) {
            std::vector<uint64_t> order(n), sorted;
            for (uint64_t i = 0; i < n; i++) order[i] = permutation(i, n, key);
            sorted = order;
            std::sort(sorted.begin(), sorted.end());
            for (uint64_t i = 0; i < n; i++) REQUIRE(sorted[i] == i);
            orders.insert(order);
        }
        CHECK(orders.size() >= (n < 4 ? 1 : n < 5 ? 2 : 4));
    }
    // Over many keys, 0 goes to all places equally often. (Chi-squared with 9 degrees of freedom is above 33.7 once in
    // 10^4 times.)
    std::vector<int> home(10);
    int still_neighbours = 0;
    for (uint64_t key = 0; key < 10000; key++) home[permutation(0, 10, key)]++;
    double chi2 = 0;
    for (int count : home) chi2 += (count - 1000.) * (count - 1000.) / 1000.;
    CHECK(chi2 < 33.7);
    for (uint64_t i = 0; i + 1 < 100000; i++) {
        const int64_t distance = int64_t(permutation(i + 1, 100000, 5)) - int64_t(permutation(i, 100000, 5));
        still_neighbours += std::abs(distance) == 1;
    }
    CHECK(still_neighbours < 20);  // 2 are expected
    const uint64_t huge = uint64_t(1) << 62;
    CHECK(permutation(huge - 1, huge, 1) < huge);
    CHECK(permutation(~uint64_t(0) - 1, ~uint64_t(0), 1) < ~uint64_t(0));
}
