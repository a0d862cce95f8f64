// allocate.cpp - register allocation
//
// PTX has a register per value. A frame with all of them would not stay in the L1 cache: 1,000 values are 128 KB per
// warp. Each lane follows its own control flow, and a masked write leaves the other lanes alone, so ordinary liveness
// over the flow graph is right for every lane. A linear scan over one interval per register assigns the places in the
// frame. It uses the place that became free last.
#include <algorithm>

#include "decode.h"
#include "handlers.h"

namespace emu {
namespace {

using Bits = std::vector<uint64_t>;
bool has(const Bits& b, int i) { return b[i >> 6] >> (i & 63) & 1; }
void set(Bits& b, int i) { b[i >> 6] |= 1ull << (i & 63); }

struct FlowBlock {
    int begin, end;
    std::vector<int> next;
    Bits uses, kills, in, out;
};

}  // namespace

// Calls fn(ref, written, read) for every operand that names a virtual register.
template <class F> void Builder::each_ref(Instr& i, F fn) {
    auto visit = [&](Ref& r, bool written, bool read) {
        if (!r.none() && r.pool == 0) fn(r, written, read);
    };
    visit(i.a, false, true);
    visit(i.b, false, true);
    visit(i.guard, false, true);
    visit(i.c, i.flags & kWritesC, !(i.flags & kWritesC));
    for (uint32_t k = i.more_defs; k < i.more_count; k++) visit(f.more[i.more + k], false, true);
    for (uint32_t k = 0; k < i.more_defs; k++) visit(f.more[i.more + k], true, false);
    visit(i.d, true, i.flags & kReadsD);
}

void Builder::allocate() {
    const int n = int(f.code.size()), words = int(bytes_of_virtual.size() + 63) / 64;

    // Basic blocks.
    std::vector<uint8_t> leader(n + 1, 0);
    leader[0]    = 1;
    auto targets = [&](const Instr& i) {
        std::vector<int> list;
        if (i.run == op::branch || i.run == op::branch_guarded) list.push_back(int(i.imm));
        if (i.run == op::branch_table)
            for (uint32_t t : f.tables[size_t(i.imm)]) list.push_back(int(t));
        return list;
    };
    for (int k = 0; k < n; k++) {
        const auto list = targets(f.code[k]);
        for (int t : list) leader[t] = 1;
        if (!list.empty() || f.code[k].flags & kLeaves) leader[k + 1] = 1;
    }
    std::vector<FlowBlock> blocks;
    std::vector<int> block_at(n);
    for (int k = 0; k < n; k++) {
        if (leader[k]) blocks.push_back({k, k, {}, Bits(words), Bits(words), Bits(words), Bits(words)});
        blocks.back().end = k + 1;
        block_at[k]       = int(blocks.size()) - 1;
    }
    for (auto& b : blocks) {
        const Instr& last = f.code[b.end - 1];
        for (int t : targets(last)) b.next.push_back(block_at[t]);
        if (!(last.flags & kLeaves) && b.end < n) b.next.push_back(block_at[b.end]);
        for (int k = b.begin; k < b.end; k++) {
            Instr& i = f.code[k];
            each_ref(i, [&](Ref& r, bool, bool read) {
                if (read && !has(b.kills, r.offset)) set(b.uses, r.offset);
            });
            if (!i.inner)  // a guarded write keeps the values of the other lanes
                each_ref(i, [&](Ref& r, bool written, bool) {
                    if (written) set(b.kills, r.offset);
                });
        }
    }
    for (bool changed = true; changed;) {
        changed = false;
        for (int k = int(blocks.size()) - 1; k >= 0; k--) {
            auto& b = blocks[k];
            for (int next : b.next)
                for (int w = 0; w < words; w++) b.out[w] |= blocks[next].in[w];
            for (int w = 0; w < words; w++) {
                const uint64_t in = b.uses[w] | (b.out[w] & ~b.kills[w]);
                changed |= in != b.in[w];
                b.in[w] = in;
            }
        }
    }
    const int count = int(bytes_of_virtual.size());
    std::vector<int> first(count, n), last(count, -1);
    auto extend = [&](int v, int from, int to) {
        first[v] = std::min(first[v], from);
        last[v]  = std::max(last[v], to);
    };
    for (const auto& b : blocks)
        for (int w = 0; w < words; w++) {
            for (uint64_t m = b.in[w]; m; m &= m - 1) extend(w * 64 + __builtin_ctzll(m), b.begin, b.begin);
            for (uint64_t m = b.out[w]; m; m &= m - 1) extend(w * 64 + __builtin_ctzll(m), b.end, b.end);
        }
    for (int k = 0; k < n; k++) each_ref(f.code[k], [&](Ref& r, bool, bool) { extend(r.offset, k, k); });

    for (int v = 0; v < count; v++) {
        const bool live = n && has(blocks[0].in, v);
        if (live && reg_of_virtual[v] >= 0 && bytes_of_virtual[v]) entry_live.insert(reg_of_virtual[v]);
    }

    // Each width has its own pool of places, so an operand shares its place only with results of its own width.
    std::vector<int> order;
    for (int v = 0; v < count; v++)
        if (last[v] >= 0) order.push_back(v);
    std::sort(order.begin(), order.end(), [&](int x, int y) { return first[x] < first[y]; });
    constexpr int kWidths[] = {0, 2, 4, 8, 16};
    auto class_of = [&](int v) { return int(std::find(kWidths, kWidths + 5, bytes_of_virtual[v]) - kWidths); };
    std::vector<int> place(count, -1), spare[5], used(5, 0);
    std::vector<std::pair<int, int>> ends;  // a heap of (-last, virtual register)
    uint32_t live_words = 0;
    for (int v : order) {
        while (!ends.empty() && -ends.front().first < first[v]) {
            std::pop_heap(ends.begin(), ends.end());
            const int done = ends.back().second;
            ends.pop_back();
            if (!kept.count(done)) spare[class_of(done)].push_back(place[done]);
            live_words -= uint32_t(bytes_of_virtual[done] + 3) / 4;
        }
        auto& free = spare[class_of(v)];
        if (free.empty() || kept.count(v)) place[v] = used[class_of(v)]++;
        else place[v] = free.back(), free.pop_back();
        ends.push_back({-last[v], v});
        std::push_heap(ends.begin(), ends.end());
        live_words += uint32_t(bytes_of_virtual[v] + 3) / 4;
        f.live_regs = std::max(f.live_regs, live_words);
    }

    uint32_t base[5], at = 0;
    for (int c = 0; c < 5; c++) {
        base[c] = at;
        at += uint32_t(used[c]) * uint32_t(c ? kWidths[c] * kLanes : 4);
        at = (at + 63) / 64 * 64;
        if (c == 0) f.pred_bytes = at;
    }
    const uint32_t blob_base = at;
    for (Instr& i : f.code)
        each_ref(i, [&](Ref& r, bool, bool) {
            const int c = class_of(r.offset);
            r.offset    = int32_t(base[c] + uint32_t(place[r.offset]) * (c ? kWidths[c] * kLanes : 4));
        });
    f.blob_base   = blob_base;
    f.frame_bytes = blob_base + blob_bytes;
}

}  // namespace emu
