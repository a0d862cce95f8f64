// shared_races.cpp - races in shared memory, between warps and between the lanes of a warp
//
// A granule has the size of the kernel's smallest access, 1 to 4 bytes. Each granule has a record of its last writer
// and of its last two readers, with the block's time, which advances at every barrier and every __syncwarp. Two
// accesses of a thread are ordered. Those of two lanes of a warp are ordered by a __syncwarp or barrier between them,
// and others by a barrier in which both threads took part. A fence with a volatile or atomic flag orders, too: when
// both sides have used one, they are taken to be ordered.
#include <algorithm>

#include "checker.h"
#include "options.h"
#include "races.h"

namespace emu {

namespace {

constexpr uint64_t kThread = 1023, kSynchronising = 1 << 10, kMany = 1 << 11;
constexpr int kOther = 12, kEarlier = 22, kTime = 32;

// The bits of a record that identify the last access. The other reader in a reader's record does not count.
uint64_t compared_bits(bool write) { return write ? ~0ull : ~(kMany | kThread << kOther | kThread << kEarlier); }

// The time of the other reader in a record.
uint64_t other_time(uint64_t reader) { return (reader >> kTime) - (reader >> kEarlier & kThread); }
// The record of a read at `mine`, which keeps one of the earlier readers unless both are ordered before it.
uint64_t read_after(uint64_t mine, uint64_t reader, bool last_done, bool other_done) {
    const uint64_t kept    = last_done ? reader >> kOther & kThread : reader & kThread,
                   when    = last_done ? other_time(reader) : reader >> kTime;
    const uint64_t earlier = std::min((mine >> kTime) - when, kThread);
    return mine | ((last_done & other_done) ? 0 : kMany | kept << kOther | earlier << kEarlier);
}

bool ordered(const SharedRaces& s, uint32_t me, uint32_t other, uint64_t when) {
    return me == other || s.ordered(me / kLanes, other / kLanes, when);
}

bool is_bulk(const ptx::Instruction& i) { return i.mods.size() > 2 && i.mods[2] == "bulk"; }

const char* verb(bool write) { return write ? "written" : "read"; }

// Returns whether two lanes store the same value to the same place with one instruction, which is no race.
bool stored_together(Warp& w, const Instr* i, int a, int b) {
    const auto& f  = *w.frame->function;
    const auto& st = *f.origin[i->index];
    if (st.mods[0] != "st" || st.ops.size() < 2 || !(w.mask >> b & 1)) return false;
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

Finding race(Warp& w, const Instr* i, int lane, uint64_t offset, bool write, uint32_t other, bool other_wrote) {
    char text[256];
    if (other / kLanes >= w.block->warps.size()) {
        std::snprintf(text, sizeof text, "shared 0x%llx is %s here and was %s", (unsigned long long)offset, verb(write),
                      other_wrote
                          ? "written by a bulk copy whose mbarrier this thread has not waited for"
                          : "read by a wgmma, and this thread has waited neither for it nor for a thread that has");
        Finding f = finding_at(w, i, Kind::AsyncCopyRace, lane, text);
        f.address = offset;
        return f;
    }
    const Warp& that = w.block->warps[other / kLanes];
    const bool same  = &that == &w;
    std::snprintf(text, sizeof text, "shared 0x%llx is %s here and was %s by thread (%u,%u,%u)%s, with no %s between",
                  (unsigned long long)offset, verb(write), verb(other_wrote), that.tid[0][other % kLanes],
                  that.tid[1][other % kLanes], that.tid[2][other % kLanes], same ? " of the same warp" : "",
                  same ? "__syncwarp" : "barrier");
    Finding f = finding_at(w, i, Kind::SharedRace, lane, text);
    f.address = offset;
    return f;
}

void conflict(Warp& w, const Instr* i, int lane, uint64_t offset, uint32_t size, bool write, uint32_t other,
              bool other_wrote, uint64_t when) {
    const SharedRaces& s  = *w.block->races;
    const bool same_warp  = other / kLanes == w.index;
    const uint32_t lanes  = 1u << lane | 1u << other % kLanes;
    const auto write_race = [](const Suspect& x) {
        return race(*x.warp, x.at, x.lane, x.address, true, uint32_t(x.other), true);
    };
    if (write && other_wrote) {
        if (same_warp && stored_together(w, i, lane, int(other % kLanes))) return;
        if (size <= 16 && !is_bulk(*w.frame->function->origin[i->index]))
            return suspect({&w, i, lane, offset, other, write_race, size, w.block->shared.data.get() + offset, {}});
    }
    const bool exchanged = write && same_warp && when < s.exchanged[w.index] && !(lanes & ~s.exchangers[w.index]);
    if (const auto known = w.worker->reported_infos.find(i); exchanged && known != w.worker->reported_infos.end()) {
        ++*known->second;
        return;
    }
    Finding f = race(w, i, lane, offset, write, other, other_wrote);
    if (exchanged) {
        f.kind = Kind::WarpExchange;
        f.what += ", but the warp has exchanged values since, and so the read came first";
    }
    uint64_t& times = report(f);
    if (exchanged) w.worker->reported_infos[i] = &times;
}

// Checks one lane's access, granule by granule.
void touch_lane(Warp& w, const Instr* i, SharedRaces& s, int lane, uint64_t offset, uint32_t size, bool write,
                bool sync) {
    const uint32_t me   = thread_of(w, lane);
    const uint64_t mine = s.time << kTime | (sync ? kSynchronising : 0) | me;
    bool said           = false;
    for (uint64_t g = offset >> s.shift; g <= (offset + size - 1) >> s.shift; g++) {
        uint64_t &writer = s.writer[g], &reader = s.reader[g];
        const uint32_t by = uint32_t(writer & kThread);
        const bool both   = sync && writer & kSynchronising;
        if (!said && writer && !both && !ordered(s, me, by, writer >> kTime)) {
            conflict(w, i, lane, offset, size, write, by, true, writer >> kTime);
            said = true;
        }
        if (write) {
            const bool both_sync = sync && reader & kSynchronising;
            if (!said && reader && !both_sync) {
                const uint32_t last = uint32_t(reader & kThread), other = uint32_t(reader >> kOther & kThread);
                const uint64_t when = reader >> kTime;
                const bool clash    = !ordered(s, me, last, when);
                if (clash || (reader & kMany && !ordered(s, me, other, other_time(reader)))) {
                    conflict(w, i, lane, offset, size, true, clash ? last : other, false, when);
                    said = true;
                }
            }
            writer = mine;
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
// `first` on. Each lane from thread `me` on has 1 << PerLane of them; with kOneLane all belong to thread `me`. Returns
// true when there is no race, after it has updated the records.
constexpr int kOneLane = -1;
template <int PerLane> bool quick(SharedRaces& s, uint64_t first, uint64_t count, uint64_t me, bool write) {
    uint64_t *writer = s.writer.data() + first, *reader = s.reader.data() + first;
    const uint64_t n     = PerLane == kOneLane ? count : uint64_t(kLanes) << PerLane;
    auto lane            = [](uint64_t k) { return PerLane == kOneLane ? 0 : k >> PerLane; };
    const uint64_t mine  = s.time << kTime | me;
    const uint64_t since = s.all_since, warp = me / kLanes, warp_since = s.warp_since[warp];
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
            bad |= after(reader[k], k) | (uint64_t(reader[k] >> kTime >= since) & (reader[k] >> 11 & 1));
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

template <int PerLane> static bool watch(Block& b, uint32_t first, size_t bytes, uint64_t me, bool write) {
    SharedRaces& s         = *b.races;
    const uint64_t granule = first >> s.shift;
    if (!b.pending_copies && !b.holds_unset && repeated<PerLane>(s, granule, me, write)) return true;
    uint8_t* shadow = b.shared_shadow.data() + first;
    const bool ones = all_ones(shadow, bytes);
    if (!ones && (!write || b.pending_copies)) return false;
    if (!quick<PerLane>(s, granule, bytes >> s.shift, me, write)) return false;
    if (!ones) std::memset(shadow, 1, bytes);
    return true;
}

bool watch_shared(Warp& w, uint32_t first, uint32_t size, bool write) {
    Block& b = *w.block;
    if (!write) b.races->has_read[w.index] = 1;
    const auto bytes  = size_t(size) * kLanes;
    const uint64_t me = w.index * kLanes;
    switch (__builtin_ctz(size) - b.races->shift) {
        case 0: return watch<0>(b, first, bytes, me, write);
        case 1: return watch<1>(b, first, bytes, me, write);
        case 2: return watch<2>(b, first, bytes, me, write);
        case 3: return watch<3>(b, first, bytes, me, write);
        case 4: return watch<4>(b, first, bytes, me, write);
        default: return false;
    }
}

template <int Granules> static bool known_lanes(const SharedRaces& s, const Reach& r, uint64_t mine, bool write) {
    const uint64_t* records = (write ? s.writer : s.reader).data();
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
    const Block& b       = *w.block;
    const SharedRaces& s = *b.races;
    if (b.pending_copies || b.holds_unset || r.shape != Reach::Scattered ||
        (touch != Touch::Load && touch != Touch::Store))
        return false;
    const uint64_t mine = s.time << kTime | w.index * kLanes;
    const bool write    = touch == Touch::Store;
    switch (size >> s.shift) {
        case 1: return known_lanes<1>(s, r, mine, write);
        case 2: return known_lanes<2>(s, r, mine, write);
        case 4: return known_lanes<4>(s, r, mine, write);
        default: return false;
    }
}

void start_shared_races(Block& b) {
    static thread_local auto& spare = *new std::shared_ptr<SharedRaces>;  // the records of this thread's last block
    auto s                          = spare && spare.use_count() == 1 ? spare : std::make_shared<SharedRaces>();
    spare                           = s;
    // The time goes on from the last block's, so its records are in the past and need not be cleared.
    s->time                         = s->time + 2;
    s->all_since                    = s->time;
    s->start                        = s->time - 1;
    if (s->time >> 31) s->writer.clear(), s->reader.clear(), s->time = s->all_since = 2, s->start = 1;
    const int shift = b.launch->function->calls ? 0 : b.launch->function->shared_granule;
    if (shift != s->shift) {
        s->writer.clear(), s->reader.clear();
        s->shift = shift;
    }
    const size_t granules = (size_t(b.shared_bytes) >> shift) + 40, warps = b.warps.size();
    if (s->writer.size() < granules) s->writer.resize(granules), s->reader.resize(granules);
    s->warp_since.assign(warps, s->time);
    s->stride = warps;
    s->knows.assign(warps * warps, s->time);
    s->clocks.clear();
    s->passed.clear();
    s->fenced.assign(warps, 0);
    s->agreed.assign(warps, 0);
    s->listens.assign(warps, 0);
    s->exchanged.assign(warps, 0);
    s->exchangers.assign(warps, 0);
    s->has_read.assign(warps, 0);
    s->turn.resize(warps);
    for (size_t k = 0; k < warps; k++) s->synchronised(k);
    s->partial = false;
    b.races    = s;
}

void check_shared_races(Warp& w, const Instr* i, uint32_t size, Touch touch, const Reach& r) {
    SharedRaces& s   = *w.block->races;
    const bool write = writes(touch);
    const bool sync  = touch == Touch::Atomic || touch == Touch::VolatileLoad || touch == Touch::VolatileStore;
    if (sync) s.uses_flag(w.index);
    if (!write) s.has_read[w.index] = 1;
    auto lane = [&](int l) {
        const uint64_t first = r.addr[l] >> s.shift, last = (r.addr[l] + size - 1) >> s.shift;
        if (sync || !quick<kOneLane>(s, first, last - first + 1, thread_of(w, l), write))
            touch_lane(w, i, s, l, r.addr[l], size, write, sync);
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
        s.partial || st.ops.size() < 2 || st.ops[1].kind != ptx::Operand::Reg)
        return false;
    const uint32_t* value = w.reg<uint32_t>(i->b);
    const uint64_t mine   = s.time << kTime | w.index * kLanes;
    const auto* at        = reinterpret_cast<const uint32_t*>(b.shared.data.get());
    const auto* shadow    = reinterpret_cast<const uint32_t*>(b.shared_shadow.data());
    uint64_t news = 0, others = 0;
    each_lane(r.mask, [&](int l) {
        const uint64_t g = r.addr[l] >> 2, reader = s.reader[g], writer = s.writer[g];
        news |=
            uint64_t(at[g] ^ value[l]) | uint64_t(shadow[g] ^ 0x01010101) | uint64_t(reader >> kTime >= s.all_since);
        others += writer >> kTime >= s.all_since && (writer & kThread) != w.index * kLanes + uint32_t(l);
    });
    if (news) return false;
    each_lane(r.mask, [&](int l) { s.writer[r.addr[l] >> 2] = mine + uint64_t(l); });
    *known->second += others;
    return true;
}

// The lanes in w.mask have exchanged values. The time advances, so that earlier reads can be told from later ones.
void checker_exchange(Warp& w) {
    if (!w.block->races) return;
    SharedRaces& s = *w.block->races;
    if (s.has_read[w.index]) s.exchanged[w.index] = ++s.time, s.exchangers[w.index] = w.mask;
    else s.exchangers[w.index] |= w.mask;
    s.has_read[w.index] = 0;
}

void checker_warp_sync(Warp& w) {
    if (!w.block->races) return;
    if (w.waited) w.waited = kAll;  // what one lane has waited for, it passes on
    SharedRaces& s        = *w.block->races;
    s.warp_since[w.index] = ++s.time;
    s.synchronised(w.index);
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
    std::vector<uint64_t>& row            = s.passed[id];
    s.knows[w.index * s.stride + w.index] = ++s.time;
    s.partial                             = true;
    row.resize(SharedRaces::kWide);
    learn(row.data(), &s.knows[w.index * s.stride], s.stride);
    s.synchronised(w.index);
}

void checker_barrier(Block& b, int id) {
    if (!b.races) return;
    report_unwritten(b);
    SharedRaces& s     = *b.races;
    const uint64_t now = ++s.time;
    const size_t warps = b.warps.size();
    std::vector<size_t> here;
    uint32_t lanes = 0;
    for (size_t k = 0; k < warps; k++) {
        uint32_t mask = 0;
        for (const Group& g : b.warps[k].groups)
            if (g.state == State::Barrier && g.barrier == id) mask |= g.mask;
        if (mask) here.push_back(k);
        lanes += uint32_t(__builtin_popcount(mask));
    }
    if (std::any_of(here.begin(), here.end(), [&](size_t k) { return b.warps[k].waited; }))
        for (size_t k : here) b.warps[k].waited = kAll;
    if (lanes == b.live) {
        s.all_since = now;
        for (size_t k = 0; k < warps; k++) s.synchronised(k);
        if (s.wide()) meet(s, here, SharedRaces::kColumns);
        return;
    }
    s.partial = true;
    meet(s, here, 0);  // each of these warps is now ordered after all that any of them was
    for (size_t k : here) {
        s.warp_since[k] = now;
        s.synchronised(k);
        for (size_t v : here) s.knows[k * s.stride + v] = now;
        if (const auto row = s.passed.find(id); row != s.passed.end())
            learn(&s.knows[k * s.stride], row->second.data(), s.stride);
    }
    s.passed.erase(id);
}

void shared_fence(Warp& w) {
    if (!w.block->races) return;
    SharedRaces& s     = *w.block->races;
    s.fenced[w.index]  = ++s.time;
    s.listens[w.index] = 1;
    s.partial          = true;
    s.synchronised(w.index);
}

// --- mbarriers and the async proxy -----------------------------------------------------------------------------------

void SharedRaces::widen() {
    if (wide()) return;
    const size_t warps = warp_since.size();
    std::vector<uint64_t> rows(warps * kWide, 0);
    for (size_t w = 0; w < warps; w++) std::copy_n(&knows[w * stride], warps, &rows[w * kWide]);
    knows   = std::move(rows);
    stride  = kWide;
    partial = true;
}

// The number of columns for warpgroups, or 0 when they would leave none for mbarriers.
static size_t warpgroup_columns(const Block& b) {
    const size_t warps = b.warps.size(), groups = warps / 4;
    return warps + groups < SharedRaces::kColumns ? groups : 0;
}

static SharedRaces::Clock& clock_of(Block& b, uint64_t barrier) {
    SharedRaces& s = *b.races;
    s.widen();
    auto [row, fresh] = s.clocks.try_emplace(barrier);
    if (fresh) {
        const size_t warps = b.warps.size(), free = SharedRaces::kColumns - warps - warpgroup_columns(b);
        row->second = {std::vector<uint64_t>(s.stride), std::vector<uint64_t>(s.stride),
                       free ? warps + (s.clocks.size() - 1) % free : 0};
    }
    return row->second;
}
void clock_arrival(Warp& w, uint64_t barrier) {
    SharedRaces& s                        = *w.block->races;
    SharedRaces::Clock& c                 = clock_of(*w.block, barrier);
    s.knows[w.index * s.stride + w.index] = ++s.time;
    learn(c.arrived.data(), &s.knows[w.index * s.stride], s.stride);
    s.synchronised(w.index);
}

void clock_copy(Block& b, uint64_t barrier, uint64_t first, uint32_t bytes) {
    SharedRaces& s        = *b.races;
    SharedRaces::Clock& c = clock_of(b, barrier);
    const uint64_t record = c.column ? s.time << kTime | c.column * kLanes : 0;
    std::fill(s.writer.begin() + long(first >> s.shift), s.writer.begin() + long((first + bytes - 1) >> s.shift) + 1,
              record);
    s.time++;
    if (c.column) c.arrived[c.column] = s.time;
}

void clock_phase(Block& b, uint64_t barrier) {
    SharedRaces::Clock& c = clock_of(b, barrier);
    learn(c.over.data(), c.arrived.data(), c.over.size());
}

void clock_wait(Warp& w, uint64_t barrier) {
    SharedRaces& s = *w.block->races;
    learn(&s.knows[w.index * s.stride], clock_of(*w.block, barrier).over.data(), s.stride);
    for (const Warp& other : w.block->warps) w.waited |= other.waited ? kAll : 0;  // one of them may have arrived
    checker_warp_sync(w);
}

void clock_init(Warp& w, int lane, uint64_t barrier) {
    SharedRaces::Clock& c = clock_of(*w.block, barrier);
    c.init = ++w.block->races->time, c.by = thread_of(w, lane);
}

void proxy_fence(Warp& w, bool of_init) {
    SharedRaces& s = *w.block->races;
    s.widen();
    uint64_t* row = &s.knows[w.index * s.stride];
    row[w.index]  = ++s.time;
    s.synchronised(w.index);
    if (of_init) {
        for (auto& [address, c] : s.clocks)
            if (c.by / kLanes == w.index) c.init = 0;
        return;
    }
    for (size_t v = 0; v < SharedRaces::kColumns; v++)
        row[SharedRaces::kColumns + v] = std::max(row[SharedRaces::kColumns + v], std::max(row[v], s.all_since));
}

// Returns whether a fence.proxy.async lies between what a thread wrote and this warp.
static bool fenced(const Warp& w, uint64_t when, uint64_t who) {
    const SharedRaces& s = *w.block->races;
    return when <= s.start || when < s.knows[w.index * s.stride + SharedRaces::kColumns + who / kLanes];
}
static void report_proxy(Warp& w, const Instr* i, Kind kind, int lane, uint64_t at, uint64_t who,
                         const std::string& what, const char* did) {
    const Warp& that = w.block->warps[who / kLanes];
    char thread[64];
    std::snprintf(thread, sizeof thread, "(%u,%u,%u)", that.tid[0][who % kLanes], that.tid[1][who % kLanes],
                  that.tid[2][who % kLanes]);
    Finding f = finding_at(
        w, i, kind, lane,
        what + " shared " + hex(at) + ", which thread " + thread + " " + did + " with no fence.proxy.async between");
    f.address = at;
    report(f);
}

void check_proxy(Warp& w, const Instr* i, int lane, uint64_t first, uint32_t bytes, const char* reader) {
    SharedRaces& s = *w.block->races;
    s.widen();
    for (uint64_t g = first >> s.shift; g <= (first + bytes - 1) >> s.shift; g++) {
        const uint64_t when = s.writer[g] >> kTime, who = s.writer[g] & kThread;
        if (who / kLanes >= w.block->warps.size() || fenced(w, when, who)) continue;
        return report_proxy(w, i, Kind::ProxyFence, lane, g << s.shift, who, std::string(reader) + " reads", "wrote");
    }
}

void check_proxy_of_barrier(Warp& w, const Instr* i, int lane, uint64_t barrier) {
    SharedRaces::Clock& c = clock_of(*w.block, barrier);
    if (c.init && !fenced(w, c.init, c.by))
        report_proxy(w, i, Kind::BarrierFence, lane, barrier, c.by, "a bulk copy uses the mbarrier at", "initialised");
    c.init = 0;
}

void check_wgmma_reads(Warp& w, const Instr* i, const uint32_t* at, size_t n) {
    Block& b       = *w.block;
    SharedRaces& s = *b.races;
    s.widen();
    // The time before which a write of each warp, or by a bulk copy of each column, is known here and fenced.
    uint64_t ordered[SharedRaces::kColumns], fenced[SharedRaces::kColumns];
    for (size_t v = 0; v < SharedRaces::kColumns; v++) {
        ordered[v] = v == w.index ? ~0ull : std::max(s.all_since, s.knows[w.index * s.stride + v]);
        if (v < s.fenced.size() && s.listens[w.index]) ordered[v] = std::max(ordered[v], s.fenced[v]);
        fenced[v] =
            v < b.warps.size() ? std::max(s.start + 1, s.knows[w.index * s.stride + SharedRaces::kColumns + v]) : ~0ull;
    }
    uint64_t known[SharedRaces::kColumns];
    for (size_t v = 0; v < SharedRaces::kColumns; v++) known[v] = std::min(ordered[v], fenced[v]);
    uint64_t good      = 0;  // a record that was
    const size_t count = size_t(16) >> s.shift;
    for (size_t k = 0; k < n; k++) {
        const uint64_t* writer = &s.writer[at[k] >> s.shift];
        uint64_t other = 0, bad = 0;
        for (size_t g = 0; g < count; g++) other |= writer[g] ^ good;
        if (!other) continue;  // as the tile of a bulk copy, which has one writer
        for (size_t g = 0; g < count; g++) bad |= writer[g] >> kTime >= known[(writer[g] & kThread) / kLanes];
        good = bad ? good : writer[0];
        for (size_t g = 0; bad && g < count; g++) {
            const uint64_t when = writer[g] >> kTime, who = writer[g] & kThread, place = at[k] + (g << s.shift);
            if (writer[g] && when >= ordered[who / kLanes]) {
                Finding f = race(w, i, 0, place, false, uint32_t(who), true);
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
    if (warpgroup >= warpgroup_columns(*w.block)) return time;
    const uint64_t me = (SharedRaces::kColumns - 1 - warpgroup) * kLanes, mine = time << kTime | me;
    // Earlier reads of which a wait of this warpgroup tells need no record of their own.
    const auto done = [&](uint64_t who, uint64_t when) { return who == me || s.ordered(w.index, who / kLanes, when); };
    uint64_t before = 0, after = read_after(mine, 0, true, true);
    const size_t count = size_t(16) >> s.shift;
    for (size_t k = 0; k < n; k++) {
        uint64_t* reader = &s.reader[at[k] >> s.shift];
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

void learn_wgmma_reads(Warp& w, uint32_t warpgroup, uint64_t time) {
    SharedRaces& s = *w.block->races;
    if (warpgroup >= warpgroup_columns(*w.block)) return;
    uint64_t& known = s.knows[w.index * s.stride + SharedRaces::kColumns - 1 - warpgroup];
    known           = std::max(known, time + 1);
    s.synchronised(w.index);
}

}  // namespace emu
