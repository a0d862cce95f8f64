// race_clocks.cpp - what orders the accesses to shared memory: barriers, fences, mbarriers and the clusters' barriers
//
// These keep SharedRaces::knows, by which shared_races.cpp tells whether one access is ordered before another. A
// barrier of all threads only advances `all_since`, or `block_since`. One of some warps gives each of them what any of
// them knew. An mbarrier and the barrier of a cluster keep what those know who arrive, and pass it on to those who wait
// for the phase.
#include <algorithm>
#include <utility>

#include "checker.h"
#include "races.h"

namespace emu {

// The lanes in w.mask have exchanged values. The time advances, so that earlier reads can be told from later ones.
void checker_exchange(Warp& w) {
    if (!w.block->races) return;
    SharedRaces& s = *w.block->races;
    if (s.has_read[w.actor]) s.exchanged[w.actor] = ++s.time, s.exchangers[w.actor] = w.mask;
    else s.exchangers[w.actor] |= w.mask;
    s.has_read[w.actor] = 0;
}

void checker_warp_sync(Warp& w) {
    if (!w.block->races) return;
    if (w.waited) w.waited = kAll;  // what one lane has waited for, it passes on
    SharedRaces& s        = *w.block->races;
    s.warp_since[w.actor] = ++s.time;
    s.synchronised(w);
}

// Gives all these warps the latest time that any of them has in the columns from `first` on.
static void meet(SharedRaces& s, const std::vector<size_t>& warps, size_t first) {
    for (size_t x = first; x < s.stride; x++) {
        uint64_t best = 0;
        for (size_t k : warps) best = std::max(best, s.knows[k * s.stride + x]);
        for (size_t k : warps) s.knows[k * s.stride + x] = best;
    }
}

static void learn(uint64_t* row, const uint64_t* from, size_t n) {
    for (size_t x = 0; x < n; x++) row[x] = std::max(row[x], from[x]);
}

void checker_arrival(Warp& w, int id) {
    if (!w.block->races) return;
    SharedRaces& s                        = *w.block->races;
    std::vector<uint64_t>& row            = s.passed[w.block->records * 16 + uint64_t(id)];
    s.knows[w.actor * s.stride + w.actor] = ++s.time;
    s.partial                             = true;
    row.resize(2 * s.columns);
    learn(row.data(), &s.knows[w.actor * s.stride], s.stride);
    s.synchronised(w);
}

void checker_barrier(Block& b, int id) {
    if (!b.races) return;
    report_unwritten(b);
    SharedRaces& s     = *b.races;
    const uint64_t now = ++s.time;
    std::vector<size_t> here;  // their actors
    std::vector<Warp*> warps;
    uint32_t lanes = 0;
    for (Warp& w : b.warps) {
        uint32_t mask = 0;
        for (const Group& g : w.groups)
            if (g.at(uint16_t(id))) mask |= g.mask;
        if (mask) here.push_back(w.actor), warps.push_back(&w);
        lanes += uint32_t(__builtin_popcount(mask));
    }
    if (std::any_of(warps.begin(), warps.end(), [&](const Warp* w) { return w->waited; }))
        for (Warp* w : warps) w->waited = kAll;
    const auto arrived = s.passed.extract(b.records * 16 + uint64_t(id));
    // Ended threads count as if they had arrived at a barrier of all threads, but not at one for a number of threads.
    const bool some_ended =
        std::any_of(b.warps.begin(), b.warps.end(), [](const Warp& w) { return w.live != w.started; });
    if (lanes == b.live && !(some_ended && b.barriers[id].expected)) {
        s.block_since[b.records] = now;
        for (Warp& w : b.warps) s.synchronised(w);
        if (s.block_since.size() == 1) {
            s.all_since = now;
            if (s.wide()) meet(s, here, s.columns);
            // Those who arrived without waiting may have ended since.
            for (size_t k : here)
                if (arrived) learn(&s.knows[k * s.stride], arrived.mapped().data(), s.stride);
            return;
        }
    } else s.partial = true;
    meet(s, here, 0);  // each of these warps is now ordered after all that any of them was
    for (Warp* w : warps) {
        s.warp_since[w->actor] = now;
        s.synchronised(*w);
        for (size_t v : here) s.knows[w->actor * s.stride + v] = now;
        if (arrived) learn(&s.knows[w->actor * s.stride], arrived.mapped().data(), s.stride);
    }
}

void shared_fence(Warp& w) {
    if (!w.block->races) return;
    SharedRaces& s    = *w.block->races;
    s.fenced[w.actor] = s.released[w.actor] = ++s.time;
    s.listens[w.actor]                      = 1;
    s.partial                               = true;
    s.synchronised(w);
}

// --- mbarriers, and the barrier of a cluster -------------------------------------------------------------------------

void SharedRaces::widen() {
    if (wide()) return;
    const size_t n = warps(), wide = 2 * columns;
    std::vector<uint64_t> rows(n * wide, 0);
    for (size_t w = 0; w < n; w++) std::copy_n(&knows[w * stride], n, &rows[w * wide]);
    knows   = std::move(rows);
    stride  = wide;
    partial = true;
    barrier = {std::vector<uint64_t>(stride), std::vector<uint64_t>(stride), 0};
}

SharedRaces::Clock& clock_of(Block& b, uint64_t barrier) {
    SharedRaces& s = *b.races;
    s.widen();
    auto [row, fresh] = s.clocks.try_emplace(s.place(b, barrier));
    if (fresh) {
        const size_t warps = s.warps(), free = s.columns - warps - s.warpgroup_columns();
        row->second = {std::vector<uint64_t>(s.stride), std::vector<uint64_t>(s.stride),
                       free ? warps + (s.clocks.size() - 1) % free : 0};
    }
    return row->second;
}
// The warp arrives, and tells by that all that it has done before `done`, and all that it knows of.
static void arrive_at(Warp& w, SharedRaces::Clock& c, uint64_t done) {
    SharedRaces& s = *w.block->races;
    uint64_t* row  = &s.knows[w.actor * s.stride];
    row[w.actor]   = done;
    learn(c.arrived.data(), row, s.stride);
    s.synchronised(w);
}
void clock_arrival(Warp& w, Block& b, uint64_t barrier) {
    SharedRaces& s        = *b.races;
    SharedRaces::Clock& c = clock_of(b, barrier);
    if (b.races == w.block->races) return arrive_at(w, c, ++s.time);
    std::fill(c.arrived.begin(), c.arrived.end(), ++s.time);  // of a cluster whose blocks have records of their own
}

// What its thread did before it started the copy comes before what another block does after it has waited for the copy.
void clock_start_copy(Warp& w, BulkCopy& c) {
    SharedRaces& s = *w.block->races;
    if (c.block->races != w.block->races) return;
    uint64_t* row = &s.knows[w.actor * s.stride];
    row[w.actor]  = ++s.time;
    c.knows.assign(row, row + s.stride);
    s.synchronised(w);
}

void clock_copy(const BulkCopy& copy) {
    SharedRaces& s        = *copy.block->races;
    SharedRaces::Clock& c = clock_of(*copy.block, copy.barrier);
    learn(c.arrived.data(), copy.knows.data(), copy.knows.size());
    record_copy(copy, c.column);
    s.time++;
    if (c.column) c.arrived[c.column] = s.time;
}

void clock_phase(Block& b, uint64_t barrier) {
    SharedRaces::Clock& c = clock_of(b, barrier);
    learn(c.over.data(), c.arrived.data(), c.over.size());
}

static void wait_at(Warp& w, const SharedRaces::Clock& c) {
    SharedRaces& s = *w.block->races;
    learn(&s.knows[w.actor * s.stride], c.over.data(), s.stride);
    for (const Warp* other : w.block->cluster->warps)  // one of these may have arrived
        w.waited |= other->waited ? kAll : 0;
    checker_warp_sync(w);
}
void clock_wait(Warp& w, uint64_t barrier) { wait_at(w, clock_of(*w.block, barrier)); }

void clock_init(Warp& w, int lane, uint64_t barrier) {
    SharedRaces::Clock& c = clock_of(*w.block, barrier);
    c.init = ++w.block->races->time, c.by = uint32_t(actor_thread(w, lane));
}

void clock_cluster_arrival(Warp& w, bool relaxed) {
    SharedRaces& s = *w.block->races;
    s.widen();
    const uint64_t before = s.knows[w.actor * s.stride + w.actor];
    s.relaxed |= relaxed;
    arrive_at(w, s.barrier, relaxed ? std::max(before, s.released[w.actor]) : ++s.time);
}

void clock_cluster_wait(Warp& w) { wait_at(w, w.block->races->barrier); }

void clock_cluster_barrier(Cluster& c) {
    // When all wait right after they have arrived, and none has arrived relaxed, this is like a barrier of a block.
    const bool together = std::all_of(c.warps.begin(), c.warps.end(), [](const Warp* w) {
        uint32_t lanes = 0;
        for (const Group& g : w->groups)
            if (g.at(Group::kCluster) && g.pc - 2 == w->arrived_at) lanes |= g.mask;
        return lanes == w->live;
    });
    for (const auto& b : c.blocks) {
        report_unwritten(*b);
        SharedRaces& s = *b->races;
        if (b->records || !s.wide()) continue;  // it is wide once a thread of it has arrived
        const bool all = together && !std::exchange(s.relaxed, false);
        learn(s.barrier.over.data(), s.barrier.arrived.data(), s.stride);
        if (all) s.all_since = ++s.time, std::fill(s.block_since.begin(), s.block_since.end(), s.time);
    }
    for (Warp* w : c.warps)
        if (std::any_of(w->groups.begin(), w->groups.end(), [](const Group& g) { return g.at(Group::kCluster); }))
            clock_cluster_wait(*w);
}

void proxy_fence(Warp& w, bool of_init) {
    SharedRaces& s = *w.block->races;
    s.widen();
    uint64_t* row = &s.knows[w.actor * s.stride];
    row[w.actor]  = ++s.time;
    s.synchronised(w);
    if (of_init) {
        s.released[w.actor] = s.time;
        for (auto& [address, c] : s.clocks)
            if (c.by / kLanes == w.actor) c.init = 0;
        return;
    }
    for (size_t v = 0; v < s.columns; v++)
        row[s.columns + v] = std::max(row[s.columns + v], std::max(row[v], s.all_since));
}

void learn_wgmma_reads(Warp& w, uint32_t warpgroup, uint64_t time) {
    SharedRaces& s = *w.block->races;
    if (!s.warpgroup_columns()) return;
    uint64_t& known = s.knows[w.actor * s.stride + s.column_of(*w.block, warpgroup)];
    known           = std::max(known, time + 1);
    s.synchronised(w);
}

}  // namespace emu
