// shared_races.cpp - races in shared memory, between warps and between the lanes of a warp
//
// A granule has the size of the kernel's smallest access, 1 to 4 bytes. Each granule has a record of its last writer
// and of its last two readers, with the block's time, which advances at every barrier and every __syncwarp. Two
// accesses of a thread are ordered. Those of two lanes of a warp are ordered by a __syncwarp or barrier between them,
// and others by a barrier in which both threads took part. A fence with a volatile or atomic flag orders, too: when
// both sides have used one, they are taken to be ordered.
//
// The blocks of a cluster have their records and clocks together, so that a race between them is found like one between
// warps of a block. The end of a block counts as a write to all its shared memory.
#include <algorithm>

#include "checker.h"
#include "options.h"
#include "races.h"

namespace emu {

namespace {

constexpr uint64_t kThread = SharedRaces::kMostColumns * kLanes - 1, kLongest = 1023;
constexpr int kManyBit = 13, kOther = 14, kEarlier = 26, kTime = 36;
constexpr uint64_t kSynchronising = 1 << 12, kMany = 1 << kManyBit;

// The bits of a record that identify the last access. The other reader in a reader's record does not count.
uint64_t compared_bits(bool write) { return write ? ~0ull : ~(kMany | kThread << kOther | kLongest << kEarlier); }

// The time of the other reader in a record. One that read so long before the last one that ten bits cannot tell is
// forgotten: it counts as ordered before everything.
uint64_t other_time(uint64_t reader) {
    const uint64_t earlier = reader >> kEarlier & kLongest;
    return earlier == kLongest ? 0 : (reader >> kTime) - earlier;
}
// The record of a read at `mine`, which keeps one of the earlier readers unless both are ordered before it.
uint64_t read_after(uint64_t mine, uint64_t reader, bool last_done, bool other_done) {
    const uint64_t kept    = last_done ? reader >> kOther & kThread : reader & kThread,
                   when    = last_done ? other_time(reader) : reader >> kTime;
    const uint64_t earlier = std::min((mine >> kTime) - when, kLongest);
    return mine | ((last_done & other_done) ? 0 : kMany | kept << kOther | earlier << kEarlier);
}

bool ordered(const SharedRaces& s, uint32_t me, uint32_t other, uint64_t when) {
    return me == other || s.ordered(me / kLanes, other / kLanes, when);
}

// Returns whether the instruction stores at once, and then calls settle(). Copies and st.async write later, and an
// atomic operation is no store of one value.
bool settles(const ptx::Instruction& i) {
    return (i.mods[0] == "st" && i.mods[1] != "async") || i.mods[0] == "stmatrix" || i.mods[0] == "wmma";
}

const char* verb(bool write) { return write ? "written" : "read"; }

// Returns whether two lanes store the same value to the same place with one instruction, which is no race.
bool stored_together(Warp& w, const Instr* i, int a, int b) {
    const auto& f  = *w.frame->function;
    const auto& st = *f.origin[i->index];
    if (st.mods[0] != "st" || st.mods[1] == "async" || st.ops.size() < 2 || !(w.mask >> b & 1)) return false;
    auto same = [&](Ref r, int bytes) {
        const std::byte* lanes = w.reg<std::byte>(r);
        return std::memcmp(lanes + a * bytes, lanes + b * bytes, size_t(bytes)) == 0;
    };
    if (!i->a.none() && !same(i->a, i->flags & kAddress32 ? 4 : 8)) return false;
    const auto& parts = st.ops[1].parts;
    for (size_t k = 0; k < std::max<size_t>(1, parts.size()); k++) {
        const ptx::Operand& o = parts.empty() ? st.ops[1] : parts[k];
        if (o.kind != ptx::Operand::Reg) continue;
        if (!same(parts.empty() ? i->b : f.more[i->more + k], ptx::bytes_of(f.source->regs[size_t(o.reg)].type)))
            return false;
    }
    return true;
}

// Returns the warp of a thread in the records that `any` warp uses.
const Warp& warp_of(const Warp& any, uint64_t thread) {
    const Block& b = *any.block;
    return *b.cluster->warps[thread / kLanes + (b.rank - b.records) * b.warps.size()];
}

std::string thread_name(const Warp& w, uint64_t thread) {
    const Warp& that = warp_of(w, thread);
    char text[64];
    std::snprintf(text, sizeof text, "(%u,%u,%u)", that.tid[0][thread % kLanes], that.tid[1][thread % kLanes],
                  that.tid[2][thread % kLanes]);
    return "thread " + std::string(text) + of_block(w, *that.block);
}

Finding race(Warp& w, const Instr* i, int lane, const Block& of, uint64_t offset, bool write, uint32_t other,
             bool other_wrote) {
    const std::string place = "shared " + hex(offset) + of_block(w, of) + " is " + verb(write) + " here and was ";
    Finding f;
    if (other / kLanes >= w.block->races->warps()) {
        f = finding_at(
            w, i, Kind::AsyncCopyRace, lane,
            place + (other_wrote
                         ? "written by a bulk copy whose mbarrier this thread has not waited for"
                         : "read by a wgmma, and this thread has waited neither for it nor for a thread that has"));
    } else {
        const Warp& that = warp_of(w, other);
        f                = finding_at(w, i, Kind::SharedRace, lane,
                                      place + verb(other_wrote) + " by " + thread_name(w, other) +
                                          (&that == &w             ? " of the same warp, with no __syncwarp between"
                                           : that.block == w.block ? ", with no barrier between"
                                                                   : ", with no barrier of the cluster between"));
    }
    f.address = offset;
    return f;
}

void conflict(Warp& w, const Instr* i, int lane, Block& of, uint64_t offset, uint32_t size, bool write, uint32_t other,
              bool other_wrote, uint64_t when) {
    const SharedRaces& s  = *w.block->races;
    const bool same_warp  = other / kLanes == w.actor;
    const uint32_t lanes  = 1u << lane | 1u << other % kLanes;
    const auto write_race = [](const Suspect& x) {
        return race(*x.warp, x.at, x.lane, *x.of, x.address, true, uint32_t(x.other), true);
    };
    if (write && other_wrote) {
        if (same_warp && stored_together(w, i, lane, int(other % kLanes))) return;
        if (size <= 16 && settles(*w.frame->function->origin[i->index]))
            return suspect({&w, i, lane, offset, other, write_race, size, of.shared.data.get() + offset, {}, &of});
    }
    const bool exchanged = write && same_warp && when < s.exchanged[w.actor] && !(lanes & ~s.exchangers[w.actor]);
    if (const auto known = w.worker->reported_infos.find(i); exchanged && known != w.worker->reported_infos.end()) {
        ++*known->second;
        return;
    }
    Finding f = race(w, i, lane, of, offset, write, other, other_wrote);
    if (exchanged) {
        f.kind = Kind::WarpExchange;
        f.what += ", but the warp has exchanged values since, and so the read came first";
    }
    uint64_t& times = report(f);
    if (exchanged) w.worker->reported_infos[i] = &times;
}

// Checks one lane's access, granule by granule.
void touch_lane(Warp& w, const Instr* i, SharedRaces& s, int lane, Block& of, uint64_t offset, uint32_t size,
                bool write, bool sync) {
    const auto me       = uint32_t(actor_thread(w, lane));
    const uint64_t mine = s.time << kTime | (sync ? kSynchronising : 0) | me, first = s.place(of, offset);
    bool said = false;
    for (uint64_t g = first >> s.shift; g <= (first + size - 1) >> s.shift; g++) {
        uint64_t &writer = s.writer[g], &reader = s.reader[g];
        const uint32_t by = uint32_t(writer & kThread);
        const bool both   = sync && writer & kSynchronising;
        if (!said && writer && !both && !ordered(s, me, by, writer >> kTime)) {
            conflict(w, i, lane, of, offset, size, write, by, true, writer >> kTime);
            said = true;
        }
        if (write) {
            const bool both_sync = sync && reader & kSynchronising;
            if (!said && reader && !both_sync) {
                const uint32_t last = uint32_t(reader & kThread), other = uint32_t(reader >> kOther & kThread);
                const uint64_t when = reader >> kTime;
                const bool clash    = !ordered(s, me, last, when);
                if (clash || (reader & kMany && !ordered(s, me, other, other_time(reader)))) {
                    conflict(w, i, lane, of, offset, size, true, clash ? last : other, false,
                             clash ? when : other_time(reader));
                    said = true;
                }
            }
            // An atomic operation right after a plain write of the same thread leaves that record, because the other
            // threads' atomic operations race with the plain write.
            const bool after_plain = sync && by == me && !(writer & kSynchronising) && writer >> kTime == s.time;
            if (!after_plain) writer = mine;
        }
        if (!write || sync) {
            // Earlier reads that are ordered before this one need no record, because a write that must wait for them
            // must wait for this one, too. One of the other reads is kept.
            const uint64_t last = reader & kThread, other = reader >> kOther & kThread, when = reader >> kTime;
            const bool last_done  = ordered(s, me, uint32_t(last), when),
                       other_done = !(reader & kMany) || ordered(s, me, uint32_t(other), other_time(reader));
            reader                = read_after(mine, reader, last_done, other_done);
        }
    }
}

// Returns whether the last access of this kind was the same, at the same time. Then nothing has to be checked: any
// access in between has been checked, and the bytes have been written.
template <int PerLane> bool repeated(const SharedRaces& s, uint64_t first, uint64_t me, bool write) {
    return in_order<PerLane>((write ? s.writer : s.reader).data() + first, s.time << kTime | me, compared_bits(write));
}

// A faster check than ordered() for the usual accesses that do not synchronise, to `count` adjacent granules from
// `first` on. All that was before `since` is ordered before them. Each lane from thread `me` on has 1 << PerLane of
// them; with kOneLane all belong to thread `me`. Returns true when there is no race, after it has updated the records.
constexpr int kOneLane = -1;
template <int PerLane>
bool quick(SharedRaces& s, uint64_t since, uint64_t first, uint64_t count, uint64_t me, bool write) {
    uint64_t *writer = s.writer.data() + first, *reader = s.reader.data() + first;
    const uint64_t n    = PerLane == kOneLane ? count : uint64_t(kLanes) << PerLane;
    auto lane           = [](uint64_t k) { return PerLane == kOneLane ? 0 : k >> PerLane; };
    const uint64_t mine = s.time << kTime | me;
    const uint64_t warp = me / kLanes, warp_since = s.warp_since[warp];
    auto after = [=](uint64_t record, uint64_t k) {  // 1 when that access may not be ordered before this one
        const uint64_t when = record >> kTime, who = record & kThread;
        return uint64_t(when >= since) & uint64_t(who != me + lane(k)) &
               (uint64_t(who / kLanes != warp) | uint64_t(when >= warp_since));
    };
    uint64_t bad = 0;
    for (uint64_t k = 0; k < n; k++) bad |= after(writer[k], k);
    if (!write && s.partial)  // then only ordered() can tell which readers are ordered before this access
        for (uint64_t k = 0; k < n; k++) bad |= after(reader[k], k);
    if (write)
        for (uint64_t k = 0; k < n; k++)
            bad |= after(reader[k], k) | (uint64_t(reader[k] >> kTime >= since) & (reader[k] >> kManyBit & 1));
    if (bad) return false;
    if (write)
        for (uint64_t k = 0; k < n; k++) writer[k] = mine + lane(k);
    else
        for (uint64_t k = 0; k < n; k++) {
            const uint64_t when = reader[k] >> kTime, last = reader[k] & kThread, other = reader[k] >> kOther & kThread;
            const auto done = [&](uint64_t who, uint64_t at) {
                return at < since || who == me + lane(k) || (who / kLanes == warp && at < warp_since);
            };
            const bool last_done  = done(last, when),
                       other_done = !(reader[k] & kMany) || done(other, other_time(reader[k]));
            reader[k]             = read_after(mine + lane(k), reader[k], last_done, other_done);
        }
    return true;
}

}  // namespace

template <int PerLane> static bool watch(Warp& w, uint32_t first, size_t bytes, bool write) {
    Block& b               = *w.block;
    SharedRaces& s         = *b.races;
    const uint64_t granule = s.place(b, first) >> s.shift, me = w.actor * kLanes;
    if (!b.pending_copies && !b.holds_unset && repeated<PerLane>(s, granule, me, write)) return true;
    uint8_t* shadow = b.shared_shadow.data() + first;
    const bool ones = all_ones(shadow, bytes);
    if (!ones && (!write || b.pending_copies)) return false;
    if (!quick<PerLane>(s, s.since(w, b), granule, bytes >> s.shift, me, write)) return false;
    if (!ones) std::memset(shadow, 1, bytes);
    return true;
}

bool watch_shared(Warp& w, uint32_t first, uint32_t size, bool write) {
    Block& b = *w.block;
    if (!write) b.races->has_read[w.actor] = 1;
    const auto bytes = size_t(size) * kLanes;
    switch (__builtin_ctz(size) - b.races->shift) {
        case 0: return watch<0>(w, first, bytes, write);
        case 1: return watch<1>(w, first, bytes, write);
        case 2: return watch<2>(w, first, bytes, write);
        case 3: return watch<3>(w, first, bytes, write);
        case 4: return watch<4>(w, first, bytes, write);
        default: return false;
    }
}

template <int Granules> static bool known_lanes(const SharedRaces& s, const Reach& r, uint64_t mine, bool write) {
    const uint64_t* records = (write ? s.writer : s.reader).data() + (s.place(*r.of, 0) >> s.shift);
    const int shift         = s.shift;
    uint64_t news           = 0;
    auto lane               = [&](int l) {
#pragma GCC unroll 4
        for (int k = 0; k < Granules; k++) news |= records[(r.addr[l] >> shift) + uint64_t(k)] ^ (mine + uint64_t(l));
    };
    if (r.mask == kAll)
        for (int l = 0; l < kLanes; l++) lane(l);
    else each_lane(r.mask, lane);
    return !(news & compared_bits(write));
}

bool known_shared(const Warp& w, uint32_t size, Touch touch, const Reach& r) {
    const Block& b       = *r.of;
    const SharedRaces& s = *w.block->races;
    if (&b != w.block || b.pending_copies || b.holds_unset || r.shape != Reach::Scattered ||
        (touch != Touch::Load && touch != Touch::Store))
        return false;
    const uint64_t mine = s.time << kTime | w.actor * kLanes;
    const bool write    = touch == Touch::Store;
    switch (size >> s.shift) {
        case 1: return known_lanes<1>(s, r, mine, write);
        case 2: return known_lanes<2>(s, r, mine, write);
        case 4: return known_lanes<4>(s, r, mine, write);
        default: return false;
    }
}

// Makes the records and clocks of these blocks, which have the same kernel.
static void start_together(const std::unique_ptr<Block>* blocks, size_t n) {
    const Block& b                  = *blocks[0];
    static thread_local auto& spare = *new std::shared_ptr<SharedRaces>;  // the records of this thread's last cluster
    auto s                          = spare && spare.use_count() == 1 ? spare : std::make_shared<SharedRaces>();
    spare                           = s;
    // The time goes on from the last cluster's, so its records are in the past and need not be cleared.
    s->time                         = s->time + 2;
    s->all_since                    = s->time;
    s->start                        = s->time - 1;
    if (s->time >> 27) s->writer.clear(), s->reader.clear(), s->time = s->all_since = 2, s->start = 1;
    const int shift = b.launch->function->calls ? 0 : b.launch->function->shared_granule;
    if (shift != s->shift) {
        s->writer.clear(), s->reader.clear();
        s->shift = shift;
    }
    s->pitch              = (uint64_t(b.shared_bytes) + 63) / 64 * 64 + 256;
    const size_t granules = (n * s->pitch) >> shift, warps = n * b.warps.size();
    if (s->writer.size() < granules) s->writer.resize(granules), s->reader.resize(granules);
    s->block_since.assign(n, s->time);
    s->visited.assign(n, 0);
    s->visits.assign(n > 1 ? n * warps : 0, {});
    s->warp_since.assign(warps, s->time);
    s->columns = n > 1 ? SharedRaces::kMostColumns : 32;
    s->stride  = warps;
    s->knows.assign(warps * warps, s->time);
    s->clocks.clear();
    s->barrier = {}, s->relaxed = false;
    s->passed.clear();
    s->fenced.assign(warps, 0);
    s->released.assign(warps, 0);
    s->agreed.assign(warps, 0);
    s->listens.assign(warps, 0);
    s->exchanged.assign(warps, 0);
    s->exchangers.assign(warps, 0);
    s->has_read.assign(warps, 0);
    s->turn.resize(warps);
    s->partial = false;
    for (size_t k = 0; k < n; k++) {
        blocks[k]->races   = s;
        blocks[k]->records = uint32_t(k);
        for (Warp& w : blocks[k]->warps) {
            w.actor = uint32_t(k * b.warps.size() + w.index);
            s->synchronised(w);
        }
    }
    if (n > 1) s->widen();
}

// When a cluster has more warps than records can tell apart, its blocks have records of their own, and races between
// them are not found.
void start_shared_races(Cluster& c) {
    const auto* blocks = c.blocks.data();
    if (c.warps.size() < SharedRaces::kMostColumns) return start_together(blocks, c.blocks.size());
    for (size_t k = 0; k < c.blocks.size(); k++) start_together(blocks + k, 1);
}

// Remembers that the warp has touched the shared memory of another block. An arrival at an mbarrier does not touch the
// granules of anything else, so the block's own accesses to these still need not be told from those of other blocks.
static void visit(Warp& w, const Instr* i, Block& of, int lane, uint64_t address) {
    SharedRaces& s        = *w.block->races;
    const Function& f     = *w.frame->function;
    const bool at_barrier = f.origin[i->index] && f.origin[i->index]->mods[0] == "mbarrier";
    if (!at_barrier) s.visited[of.records] = s.time;
    s.visits[of.records * s.warps() + w.actor] = {s.time, i, w.frame->function, lane, address};
}

void end_shared_races(Block& b) {
    SharedRaces& s = *b.races;
    for (size_t v = 0; v < s.warps() && !s.visits.empty(); v++) {
        const SharedRaces::Visit& last = s.visits[b.records * s.warps() + v];
        const auto knows               = [&](const Warp& w) { return s.ordered(w.actor, v, last.time); };
        if (!last.time || std::any_of(b.warps.begin(), b.warps.end(), knows)) continue;
        Warp& that = *b.cluster->warps[v];
        Finding f  = finding_at(that, last.at, Kind::UseAfterFree, last.lane,
                                "shared " + hex(last.address) + of_block(that, b) +
                                    " is touched here, but that block ends without waiting for this thread");
        f.source   = place_of(*last.in, last.at);
        f.address  = last.address;
        return void(report(f));
    }
}

void check_shared_races(Warp& w, const Instr* i, uint32_t size, Touch touch, const Reach& r) {
    SharedRaces& s   = *w.block->races;
    Block& of        = *r.of;
    const bool write = writes(touch);
    const bool sync  = touch == Touch::Atomic || touch == Touch::VolatileLoad || touch == Touch::VolatileStore;
    if (of.races != w.block->races) return;
    if (&of != w.block && touch != Touch::AsyncCopy)
        visit(w, i, of, __builtin_ctz(r.mask), r.addr[__builtin_ctz(r.mask)]);
    if (sync) s.uses_flag(w.actor);
    if (!write) s.has_read[w.actor] = 1;
    const uint64_t since = s.since(w, of);
    auto lane            = [&](int l) {
        const uint64_t at = s.place(of, r.addr[l]), first = at >> s.shift, last = (at + size - 1) >> s.shift;
        if (sync || !quick<kOneLane>(s, since, first, last - first + 1, actor_thread(w, l), write))
            touch_lane(w, i, s, l, of, r.addr[l], size, write, sync);
    };
    if (r.shape == Reach::Uniform && !write) {  // all lanes read one place: the first and the last stand for all
        lane(__builtin_ctz(r.mask));
        if (r.mask & (r.mask - 1)) lane(31 - __builtin_clz(r.mask));
    } else each_lane(r.mask, lane);
}

void settle_suspects(Worker& worker) {
    for (const Suspect& s : worker.suspects) {
        const bool same  = std::memcmp(s.before, s.place, s.bytes) == 0;
        const auto known = same ? worker.reported_infos.find(s.at) : worker.reported_infos.end();
        if (known != worker.reported_infos.end()) {
            ++*known->second;
            continue;
        }
        Finding f = s.finding(s);
        if (same) f.kind = Kind::SameValueOverlap, f.what += "; both wrote the same value";
        uint64_t& times = report(f);
        if (same) worker.reported_infos[s.at] = &times;
    }
    worker.suspects.clear();
}

bool overlaps_again(Warp& w, const Instr* i, uint32_t size, const Reach& r) {
    const auto known = w.worker->reported_infos.find(i);
    Block& b         = *w.block;
    SharedRaces& s   = *b.races;
    const auto& st   = *w.frame->function->origin[i->index];
    if (known == w.worker->reported_infos.end() || b.pending_copies || b.holds_unset || size != 4 || s.shift != 2 ||
        s.partial || st.ops.size() < 2 || st.ops[1].kind != ptx::Operand::Reg || r.of != &b)
        return false;
    const uint32_t* value = w.reg<uint32_t>(i->b);
    const uint64_t mine = s.time << kTime | w.actor * kLanes, since = s.since(w, b), base = s.place(b, 0) >> 2;
    const auto* at     = reinterpret_cast<const uint32_t*>(b.shared.data.get());
    const auto* shadow = reinterpret_cast<const uint32_t*>(b.shared_shadow.data());
    uint64_t news = 0, others = 0;
    each_lane(r.mask, [&](int l) {
        const uint64_t g = r.addr[l] >> 2, reader = s.reader[base + g], writer = s.writer[base + g];
        news |= uint64_t(at[g] ^ value[l]) | uint64_t(shadow[g] ^ 0x01010101) | uint64_t(reader >> kTime >= since);
        others += writer >> kTime >= since && (writer & kThread) != actor_thread(w, l);
    });
    if (news) return false;
    each_lane(r.mask, [&](int l) { s.writer[base + (r.addr[l] >> 2)] = mine + uint64_t(l); });
    *known->second += others;
    return true;
}

// --- the async proxy -------------------------------------------------------------------------------------------------

// Returns whether a fence.proxy.async lies between what a thread wrote and this warp.
static bool fenced(const Warp& w, uint64_t when, uint64_t who) {
    const SharedRaces& s = *w.block->races;
    return when <= s.start || when < s.knows[w.actor * s.stride + s.columns + who / kLanes];
}
static void report_proxy(Warp& w, const Instr* i, Kind kind, int lane, uint64_t at, uint64_t who,
                         const std::string& what, const char* did) {
    Finding f = finding_at(w, i, kind, lane,
                           what + " shared " + hex(at) + ", which " + thread_name(w, who) + " " + did +
                               " with no fence.proxy.async between");
    f.address = at;
    report(f);
}

void check_proxy(Warp& w, const Instr* i, int lane, uint64_t first, uint32_t bytes, const char* reader) {
    SharedRaces& s = *w.block->races;
    s.widen();
    const uint64_t base = s.place(*w.block, 0) >> s.shift;
    for (uint64_t g = first >> s.shift; g <= (first + bytes - 1) >> s.shift; g++) {
        const uint64_t when = s.writer[base + g] >> kTime, who = s.writer[base + g] & kThread;
        if (who / kLanes >= s.warps() || fenced(w, when, who)) continue;
        return report_proxy(w, i, Kind::ProxyFence, lane, g << s.shift, who, std::string(reader) + " reads", "wrote");
    }
}

void check_proxy_of_barrier(Warp& w, const Instr* i, int lane, Block& b, uint64_t barrier) {
    SharedRaces::Clock& c = clock_of(b, barrier);
    if (c.init && b.races == w.block->races && !fenced(w, c.init, c.by))
        report_proxy(w, i, Kind::BarrierFence, lane, barrier, c.by, "a bulk copy uses the mbarrier at", "initialised");
    c.init = 0;
}

void record_copy(const BulkCopy& copy, size_t column) {
    SharedRaces& s        = *copy.block->races;
    const uint64_t record = column ? s.time << kTime | column * kLanes : 0;
    const uint64_t at     = s.place(*copy.block, copy.to);
    std::fill(s.writer.begin() + long(at >> s.shift), s.writer.begin() + long((at + copy.bytes - 1) >> s.shift) + 1,
              record);
}

void check_wgmma_reads(Warp& w, const Instr* i, const uint32_t* at, size_t n) {
    Block& b       = *w.block;
    SharedRaces& s = *b.races;
    s.widen();
    // The time before which a write of each warp, or by a bulk copy of each column, is known here and fenced.
    uint64_t ordered[SharedRaces::kMostColumns], fenced[SharedRaces::kMostColumns];
    for (size_t v = 0; v < s.columns; v++) {
        ordered[v] = v == w.actor ? ~0ull : std::max(s.all_since, s.knows[w.actor * s.stride + v]);
        if (v < s.fenced.size() && s.listens[w.actor]) ordered[v] = std::max(ordered[v], s.fenced[v]);
        fenced[v] = v < s.warps() ? std::max(s.start + 1, s.knows[w.actor * s.stride + s.columns + v]) : ~0ull;
    }
    uint64_t known[SharedRaces::kMostColumns];
    for (size_t v = 0; v < s.columns; v++) known[v] = std::min(ordered[v], fenced[v]);
    uint64_t good      = 0;  // a record that was
    const size_t count = size_t(16) >> s.shift;
    for (size_t k = 0; k < n; k++) {
        const uint64_t* writer = &s.writer[s.place(b, at[k]) >> s.shift];
        uint64_t other = 0, bad = 0;
        for (size_t g = 0; g < count; g++) other |= writer[g] ^ good;
        if (!other) continue;  // the usual case: a bulk copy wrote the whole tile
        for (size_t g = 0; g < count; g++) bad |= writer[g] >> kTime >= known[(writer[g] & kThread) / kLanes];
        good = bad ? good : writer[0];
        for (size_t g = 0; bad && g < count; g++) {
            const uint64_t when = writer[g] >> kTime, who = writer[g] & kThread, place = at[k] + (g << s.shift);
            if (writer[g] && when >= ordered[who / kLanes]) {
                Finding f = race(w, i, 0, b, place, false, uint32_t(who), true);
                f.what += "; a wgmma reads it";
                return void(report(f));
            }
            if (when >= fenced[who / kLanes])
                return report_proxy(w, i, Kind::ProxyFence, 0, place, who, "a wgmma reads", "wrote");
        }
    }
}

uint64_t record_wgmma_reads(Warp& w, uint32_t warpgroup, const uint32_t* at, size_t n) {
    SharedRaces& s = *w.block->races;
    s.widen();
    const uint64_t time = s.time++;
    if (!s.warpgroup_columns()) return time;
    const uint64_t me = s.column_of(*w.block, warpgroup) * kLanes, mine = time << kTime | me;
    // Earlier reads of which a wait of this warpgroup tells need no record of their own.
    const auto done = [&](uint64_t who, uint64_t when) { return who == me || s.ordered(w.actor, who / kLanes, when); };
    uint64_t before = 0, after = read_after(mine, 0, true, true);
    const size_t count = size_t(16) >> s.shift;
    for (size_t k = 0; k < n; k++) {
        uint64_t* reader = &s.reader[s.place(*w.block, at[k]) >> s.shift];
        for (size_t g = 0; g < count; g++) {
            if (reader[g] != before) {
                before               = reader[g];
                const uint64_t other = before >> kOther & kThread;
                after                = read_after(mine, before, done(before & kThread, before >> kTime),
                                                  !(before & kMany) || done(other, other_time(before)));
            }
            reader[g] = after;
        }
    }
    return time;
}

}  // namespace emu
