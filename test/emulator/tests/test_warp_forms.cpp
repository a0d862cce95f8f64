// test_warp_forms.cpp - shfl, vote, match, redux
#include "warp_forms.h"

using namespace emu;
using namespace emu::test;

TEST_CASE("shfl", "[warp]") {
    const size_t warps = 64, n = warps * 32;
    Planes in(3, std::vector<uint64_t>(n));
    for (size_t t = 0; t < n; t++) {
        in[0][t] = uint32_t(random_bits()());
        in[1][t] = random_bits()() & 63;
        in[2][t] = random_bits()() & 0x1f1f;
    }
    for (const std::string mode : {"up", "down", "bfly", "idx"}) {
        const Planes out = run_lanes("shfl.sync." + mode +
                                         ".b32 %y0|%p, %x0, %x1, %x2, -1;\nselp.u32 %y1, 1, 0, %p;\n"
                                         "shfl.sync." +
                                         mode + ".b32 %y2, %x0, %x1, %x2, -1;\n",
                                     in, 3);
        for (size_t t = 0; t < n; t++) {
            const int lane = int(t % 32), b = int(in[1][t] & 31), clamp = int(in[2][t] & 31), mask = int(in[2][t] >> 8);
            const int top = (lane & mask) | (clamp & ~mask), bottom = lane & mask;
            const int j  = mode == "up"     ? lane - b
                           : mode == "down" ? lane + b
                           : mode == "bfly" ? lane ^ b
                                            : bottom | (b & ~mask);
            const bool p = mode == "up" ? j >= top : j <= top;
            same_or_fail("shfl." + mode, t, out[0][t], in[0][t - size_t(lane) + size_t(p ? j : lane)]);
            same_or_fail("shfl." + mode + "'s predicate", t, out[1][t], p);
            same_or_fail("shfl." + mode + " without predicate", t, out[2][t], out[0][t]);
        }
    }
    // The functions of CUDA C work in segments of a width. A lane without a source in its segment reads itself.
    for (int width : {1, 2, 4, 8, 16, 32})
        for (int by : {0, 1, 3, 8, 31}) {
            const std::string c = number(size_t((32 - width) << 8)), down = number(size_t((32 - width) << 8 | 31)),
                              d = number(size_t(by));
            const Planes out =
                run_lanes("shfl.sync.up.b32 %y0, %x0, " + d + ", " + c + ", -1;\nshfl.sync.down.b32 %y1, %x0, " + d +
                              ", " + down + ", -1;\nshfl.sync.bfly.b32 %y2, %x0, " + d + ", " + down +
                              ", -1;\nshfl.sync.idx.b32 %y3, %x0, " + d + ", " + down + ", -1;\n",
                          in, 4);
            for (size_t t = 0; t < n; t++) {
                const int lane = int(t % 32), start = lane / width * width, end = start + width;
                auto at = [&](int from) { return in[0][t - size_t(lane) + size_t(from)]; };
                same_or_fail("__shfl_up_sync", t, out[0][t], at(lane - by >= start ? lane - by : lane));
                same_or_fail("__shfl_down_sync", t, out[1][t], at(lane + by < end ? lane + by : lane));
                same_or_fail("__shfl_xor_sync", t, out[2][t], at((lane ^ by) < end ? lane ^ by : lane));
                same_or_fail("__shfl_sync", t, out[3][t], at(start + by % width));
            }
        }
}

TEST_CASE("shfl, vote and activemask in a branch", "[warp]") {
    const size_t warps = 64, n = warps * 32;
    Planes in(4, std::vector<uint64_t>(n));  // value, source lane, whether the lane takes the branch, the lanes that do
    for (size_t w = 0; w < warps; w++) {
        const uint32_t set = uint32_t(random_bits()()) | 1u << (w % 32);
        for (size_t l = 0; l < 32; l++) {
            const size_t t = w * 32 + l;
            uint64_t from  = random_bits()() % 32;
            while (!(set >> from & 1)) from = (from + 1) % 32;
            in[0][t] = uint32_t(random_bits()()), in[1][t] = from, in[2][t] = set >> l & 1, in[3][t] = set;
        }
    }
    const Planes out = run_lanes(
        "@!%q2 bra OUT;\nactivemask.b32 %y0;\nshfl.sync.idx.b32 %y1, %x0, %x1, 0x1f, %x3;\n"
        "and.b32 %t0, %x0, 1;\nsetp.ne.u32 %p, %t0, 0;\nvote.sync.ballot.b32 %y2, %p, %x3;\n"
        "vote.sync.ballot.b32 %y3, !%p, %x3;\nOUT:\n",
        in, 4);
    for (size_t t = 0; t < n; t++) {
        const bool inside = in[2][t];
        const size_t warp = t / 32 * 32;
        uint32_t odd      = 0;
        for (size_t l = 0; l < 32; l++) odd |= uint32_t(in[0][warp + l] & 1) << l;
        same_or_fail("activemask", t, out[0][t], inside ? in[3][t] : kUntouched);
        same_or_fail("shfl.idx of some lanes", t, out[1][t], inside ? in[0][warp + in[1][t]] : kUntouched);
        same_or_fail("ballot of some lanes", t, out[2][t], inside ? odd & in[3][t] : kUntouched);
        same_or_fail("ballot of a negation", t, out[3][t], inside ? ~odd & in[3][t] : kUntouched);
    }
}

TEST_CASE("vote, match and redux in sets of lanes", "[warp]") {
    const size_t warps = 96, n = warps * 32;
    Planes in(3, std::vector<uint64_t>(n));  // value, members, predicate
    in[1] = random_sets(warps);
    for (size_t t = 0; t < n; t++) {
        const uint64_t r = random_bits()();
        in[0][t]         = t / 32 % 3 == 0 ? r : t / 32 % 3 == 1 ? (r % 3) << 32 | (r >> 8) % 3 : 0x0700000007;
        in[2][t]         = t / 32 % 4 == 0 ? 1 : t / 32 % 4 == 1 ? 0 : r >> 20 & 1;
    }
    auto check_sets = [&](const std::string& body,
                          const std::vector<std::function<uint64_t(const std::vector<size_t>&, size_t)>>& want) {
        const Planes out = run_lanes(body, in, want.size());
        for (size_t t = 0; t < n; t++) {
            std::vector<size_t> set;
            for (size_t l = 0; l < 32; l++)
                if (in[1][t] >> l & 1) set.push_back(t / 32 * 32 + l);
            for (size_t k = 0; k < want.size(); k++)
                same_or_fail(body + "result " + number(k), t, out[k][t], uint32_t(want[k](set, t)));
        }
    };
    using Set = const std::vector<size_t>&;
    auto yes  = [&](Set s) { return std::count_if(s.begin(), s.end(), [&](size_t t) { return in[2][t] != 0; }); };
    check_sets(
        "vote.sync.all.pred %pr0, %q2, %x1;\nvote.sync.any.pred %pr1, %q2, %x1;\nvote.sync.uni.pred %pr2, %q2, %x1;\n"
        "vote.sync.all.pred %pr3, !%q2, %x1;\nselp.u32 %y0, 1, 0, %pr0;\nselp.u32 %y1, 1, 0, %pr1;\n"
        "selp.u32 %y2, 1, 0, %pr2;\nselp.u32 %y3, 1, 0, %pr3;\nvote.sync.ballot.b32 %y4, %q2, %x1;\n",
        {[&](Set s, size_t) { return yes(s) == long(s.size()); }, [&](Set s, size_t) { return yes(s) > 0; },
         [&](Set s, size_t) { return yes(s) == 0 || yes(s) == long(s.size()); },
         [&](Set s, size_t) { return yes(s) == 0; },
         [&](Set s, size_t) {
             uint64_t m = 0;
             for (size_t t : s) m |= in[2][t] << t % 32;
             return m;
         }});
    for (const bool wide : {false, true}) {
        auto value = [&in, wide](size_t t) { return wide ? in[0][t] : uint32_t(in[0][t]); };
        auto same  = [=](Set s, size_t t) {
            uint64_t m = 0;
            for (size_t o : s) m |= uint64_t(value(o) == value(t)) << o % 32;
            return m;
        };
        const std::string type = wide ? "b64" : "b32", x = wide ? "%w0" : "%x0";
        check_sets("match.any.sync." + type + " %y0, " + x + ", %x1;\nmatch.all.sync." + type + " %y1|%p, " + x +
                       ", %x1;\nselp.u32 %y2, 1, 0, %p;\n",
                   {same, [&](Set s, size_t t) { return same(s, t) == in[1][t] ? in[1][t] : 0; },
                    [&](Set s, size_t t) { return same(s, t) == in[1][t]; }});
    }
    auto folded = [&](auto zero, auto f) {
        return [&in, zero, f](Set s, size_t) {
            auto v = decltype(zero)(in[0][s[0]]);
            for (size_t k = 1; k < s.size(); k++) v = f(v, decltype(zero)(in[0][s[k]]));
            return uint64_t(uint32_t(v));
        };
    };
    auto low = [](auto a, auto b) { return a < b ? a : b; };
    auto top = [](auto a, auto b) { return a < b ? b : a; };
    check_sets(
        "redux.sync.add.u32 %y0, %x0, %x1;\nredux.sync.add.s32 %y1, %x0, %x1;\nredux.sync.min.u32 %y2, %x0, %x1;\n"
        "redux.sync.min.s32 %y3, %x0, %x1;\nredux.sync.max.u32 %y4, %x0, %x1;\nredux.sync.max.s32 %y5, %x0, %x1;\n"
        "redux.sync.and.b32 %y6, %x0, %x1;\nredux.sync.or.b32 %y7, %x0, %x1;\nredux.sync.xor.b32 %y8, %x0, %x1;\n",
        {folded(0u, std::plus<>()), folded(0u, std::plus<>()), folded(0u, low), folded(0, low), folded(0u, top),
         folded(0, top), folded(0u, std::bit_and<>()), folded(0u, std::bit_or<>()), folded(0u, std::bit_xor<>())});
}
