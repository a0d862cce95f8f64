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
constexpr int kOther = 12, kTime = 22;

// The bits of a record that identify the last access. The other reader in a reader's record does not count.
uint64_t compared_bits(bool write) { return write ? ~0ull : ~(kMany | kThread << kOther); }

bool ordered(const SharedRaces& s, uint32_t me, uint32_t other, uint64_t when) {
    return me == other || s.ordered(me / kLanes, other / kLanes, when);
}

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
    const Warp& that = w.block->warps[other / kLanes];
    const bool same  = &that == &w;
    char text[256];
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
        if (size <= 16)
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
                if (clash || (reader & kMany && !ordered(s, me, other, when))) {
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
                       other_done = !(reader & kMany) || ordered(s, me, uint32_t(other), when);
            reader = last_done && other_done ? mine : mine | kMany | (last_done ? other : last) << kOther;
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
            const auto done = [&](uint64_t who) {
                return when < since || who == me + lane(k) || (who / kLanes == warp && when < warp_since);
            };
            const bool last_done = done(last), other_done = !(reader[k] & kMany) || done(other);
            reader[k] = (mine + lane(k)) | (last_done && other_done ? 0 : kMany | (last_done ? other : last) << kOther);
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
    const int shift                 = b.launch->function->calls ? 0 : b.launch->function->shared_granule;
    if (shift != s->shift) {
        s->writer.clear(), s->reader.clear();
        s->shift = shift;
    }
    const size_t granules = (size_t(b.shared_bytes) >> shift) + 40, warps = b.warps.size();
    if (s->writer.size() < granules) s->writer.resize(granules), s->reader.resize(granules);
    s->warp_since.assign(warps, s->time);
    s->knows.assign(warps * warps, s->time);
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
    SharedRaces& s        = *w.block->races;
    s.warp_since[w.index] = ++s.time;
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
    if (lanes == b.live) {
        s.all_since = now;
        for (size_t k = 0; k < warps; k++) s.synchronised(k);
        return;
    }
    s.partial = true;
    for (size_t x = 0; x < warps; x++) {  // each of these warps is now ordered after all that any of them was
        uint64_t best = 0;
        for (size_t k : here) best = std::max(best, s.knows[k * warps + x]);
        for (size_t k : here) s.knows[k * warps + x] = best;
    }
    for (size_t k : here) {
        s.warp_since[k] = now;
        s.synchronised(k);
        for (size_t v : here) s.knows[k * warps + v] = now;
    }
}

void shared_fence(Warp& w) {
    if (!w.block->races) return;
    SharedRaces& s     = *w.block->races;
    s.fenced[w.index]  = ++s.time;
    s.listens[w.index] = 1;
    s.partial          = true;
    s.synchronised(w.index);
}

}  // namespace emu
