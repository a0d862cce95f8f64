// shared_races.cpp - races in shared memory, between warps and between the lanes of one
//
// Each granule (the smallest access the kernel makes, 1 to 4 bytes) has a record of its last writer and its last two
// readers with the block's time. Time moves at every barrier and every __syncwarp. An access of thread a is ordered
// before one of b when it is the same thread; in the same warp, when a __syncwarp or barrier lies between; else when a
// barrier both took part in does. Fences with volatile or atomic flags order too; that is taken on trust as soon as
// both sides used them.
#include <algorithm>

#include "checker.h"
#include "options.h"
#include "races.h"

namespace emu {

// time (40 bits) | other reader (10) | flags (2) | thread (10)
struct SharedRaces {
    std::vector<uint64_t> writer, reader;
    uint64_t time = 1, all_since = 1;        // all_since: when every thread met at a barrier last
    std::vector<uint64_t> warp_since;        // per warp: its last __syncwarp or barrier
    std::vector<uint64_t> knows;             // [w * warps + v]: w has met v at a barrier at this time
    std::vector<uint64_t> fenced;            // per warp: its last fence
    std::vector<uint8_t> listens;            // per warp: it has used atomics or volatile loads
    int shift = 2;
};

namespace {

constexpr uint64_t kThread = 1023, kSynchronising = 1 << 10, kMany = 1 << 11;
constexpr int kOther = 12, kTime = 22;

std::shared_ptr<SharedRaces>& spare_of(Worker& worker) {
    static thread_local std::shared_ptr<SharedRaces> spare;
    (void)worker;
    return spare;
}

bool ordered(const Block& b, const SharedRaces& s, uint32_t me, uint32_t other, uint64_t when) {
    if (me == other || when < s.all_since) return true;
    const uint32_t warps = uint32_t(b.warps.size()), w = me / kLanes, v = other / kLanes;
    if (w == v) return when < s.warp_since[w];
    if (when < s.knows[w * warps + v]) return true;
    return s.fenced[v] > when && s.listens[w];
}

const char* verb(bool write) { return write ? "written" : "read"; }

// Two lanes that store the same value to the same place with one instruction: all of them say what one would.
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

void conflict(Warp& w, const Instr* i, int lane, uint64_t offset, uint32_t size, bool write, uint32_t other,
              bool other_wrote) {
    Block& b         = *w.block;
    const Warp& that = b.warps[other / kLanes];
    if (write && other_wrote && other / kLanes == w.index && stored_together(w, i, lane, int(other % kLanes))) return;
    char text[256];
    std::snprintf(text, sizeof text, "shared 0x%llx is %s here and was %s by thread (%u,%u,%u)%s, with no %s between",
                  (unsigned long long)offset, verb(write), verb(other_wrote), that.tid[0][other % kLanes],
                  that.tid[1][other % kLanes], that.tid[2][other % kLanes],
                  other / kLanes == w.index ? " of the same warp" : "",
                  other / kLanes == w.index ? "__syncwarp" : "barrier");
    Suspect s{finding_at(w, i, Kind::SharedRace, lane, text), b.shared.data.get() + offset, size, {}};
    s.finding.address = offset;
    if (write && other_wrote && size <= 16) {
        std::memcpy(s.before, s.at, size);
        w.worker->suspects.push_back(s);
    } else report(s.finding);
}

// One lane's access, granule by granule.
void touch_lane(Warp& w, const Instr* i, SharedRaces& s, int lane, uint64_t offset, uint32_t size, bool write,
                bool sync) {
    Block& b            = *w.block;
    const uint32_t me   = thread_of(w, lane);
    const uint64_t mine = s.time << kTime | (sync ? kSynchronising : 0) | me;
    bool said           = false;
    for (uint64_t g = offset >> s.shift; g <= (offset + size - 1) >> s.shift; g++) {
        uint64_t &writer = s.writer[g], &reader = s.reader[g];
        const uint32_t by = uint32_t(writer & kThread);
        const bool both   = sync && writer & kSynchronising;
        if (!said && writer && !both && !ordered(b, s, me, by, writer >> kTime)) {
            conflict(w, i, lane, offset, size, write, by, true);
            said = true;
        }
        if (write) {
            const bool both_sync = sync && reader & kSynchronising;
            if (!said && reader && !both_sync) {
                const uint32_t last = uint32_t(reader & kThread), other = uint32_t(reader >> kOther & kThread);
                const uint64_t when = reader >> kTime;
                const bool clash    = !ordered(b, s, me, last, when);
                if (clash || (reader & kMany && !ordered(b, s, me, other, when))) {
                    conflict(w, i, lane, offset, size, true, clash ? last : other, false);
                    said = true;
                }
            }
            writer = mine;
        }
        if (!write || sync) {
            // Earlier reads that are ordered before this one need no record: who must wait for them must wait for this
            // one too.
            const uint64_t when = reader >> kTime;
            const bool fresh    = (reader & kThread) == me ||
                               (ordered(b, s, me, uint32_t(reader & kThread), when) &&
                                (!(reader & kMany) || ordered(b, s, me, uint32_t(reader >> kOther & kThread), when)));
            reader           = fresh ? mine : mine | kMany | (reader & kThread) << kOther;
        }
    }
}

}  // namespace

void start_shared_races(Block& b) {
    auto& spare = spare_of(*b.warps[0].worker);
    auto s      = spare && spare.use_count() == 1 ? spare : std::make_shared<SharedRaces>();
    spare       = s;
    // Times go on from the last block's: its records are all in the past, so nothing has to be cleared.
    s->time      = s->time + 2;
    s->all_since = s->time;
    const int shift = b.launch->function->calls ? 0 : b.launch->function->shared_granule;
    if (shift != s->shift) {
        s->writer.clear(), s->reader.clear();
        s->shift = shift;
    }
    const size_t granules = (size_t(b.shared_bytes) >> shift) + 40, warps = b.warps.size();
    if (s->writer.size() < granules) s->writer.resize(granules), s->reader.resize(granules);
    s->warp_since.assign(warps, s->time);
    s->knows.assign(warps * warps, s->time);
    s->fenced.assign(warps, 0);
    s->listens.assign(warps, 0);
    b.races = s;
}

void check_shared_races(Warp& w, const Instr* i, uint32_t size, Touch touch, const Reach& r) {
    SharedRaces& s   = *w.block->races;
    const bool write = writes(touch);
    const bool sync  = touch == Touch::Atomic || touch == Touch::VolatileLoad || touch == Touch::VolatileStore;
    if (sync) s.listens[w.index] = 1;
    // The usual case, without a branch per lane: a granule per lane, and nobody else since the last barrier.
    if (r.shape == Reach::Contiguous && size == 1u << s.shift && !sync) {
        uint64_t* writer    = s.writer.data() + (r.addr[0] >> s.shift);
        uint64_t* reader    = s.reader.data() + (r.addr[0] >> s.shift);
        const uint64_t me   = w.index * kLanes, since = s.all_since, warp_since = s.warp_since[w.index];
        const uint64_t mine = s.time << kTime | me;
        uint64_t bad        = 0;
        for (uint64_t l = 0; l < kLanes; l++)
            bad |= uint64_t(writer[l] >> kTime >= since) & uint64_t((writer[l] & kThread) != me + l);
        if (write)
            for (uint64_t l = 0; l < kLanes; l++)
                bad |= uint64_t(reader[l] >> kTime >= since) &
                       (uint64_t((reader[l] & kThread) != me + l) | (reader[l] >> 11 & 1));
        if (!bad) {
            if (write)
                for (uint64_t l = 0; l < kLanes; l++) writer[l] = mine + l;
            else
                for (uint64_t l = 0; l < kLanes; l++) {
                    const uint64_t when = reader[l] >> kTime, last = reader[l] & kThread;
                    const bool synced   = last / kLanes == w.index && when < warp_since && !(reader[l] & kMany);
                    const bool fresh    = when < since || last == me + l || synced;
                    reader[l]        = fresh ? mine + l : (mine + l) | kMany | (reader[l] & kThread) << kOther;
                }
            return;
        }
    }
    if (r.shape == Reach::Uniform && !write &&
        (r.mask & (r.mask - 1))) {  // a broadcast: first and last lane stand for all
        touch_lane(w, i, s, __builtin_ctz(r.mask), r.addr[__builtin_ctz(r.mask)], size, false, sync);
        const int last = 31 - __builtin_clz(r.mask);
        return touch_lane(w, i, s, last, r.addr[last], size, false, sync);
    }
    each_lane(r.mask, [&](int l) { touch_lane(w, i, s, l, r.addr[l], size, write, sync); });
}

void settle_suspects(Worker& worker) {
    auto list = std::move(worker.suspects);
    worker.suspects.clear();
    for (Suspect& s : list) {
        if (std::memcmp(s.before, s.at, s.bytes) == 0) {
            s.finding.kind = Kind::SameValueOverlap;
            s.finding.what += "; both wrote the same value";
        }
        report(s.finding);
    }
}

void checker_warp_sync(Warp& w) {
    if (!w.block->races) return;
    SharedRaces& s        = *w.block->races;
    s.warp_since[w.index] = ++s.time;
}

void checker_barrier(Block& b, int id) {
    if (!b.races) return;
    report_unwritten_shared(b);
    SharedRaces& s       = *b.races;
    const uint64_t now   = ++s.time;
    const size_t warps   = b.warps.size();
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
        return;
    }
    for (size_t x = 0; x < warps; x++) {  // what any of them knew, all of them know now
        uint64_t best = 0;
        for (size_t k : here) best = std::max(best, s.knows[k * warps + x]);
        for (size_t k : here) s.knows[k * warps + x] = best;
    }
    for (size_t k : here) {
        s.warp_since[k] = now;
        for (size_t v : here) s.knows[k * warps + v] = now;
    }
}

void shared_fence(Warp& w) {
    if (!w.block->races) return;
    SharedRaces& s    = *w.block->races;
    s.fenced[w.index] = ++s.time;
    s.listens[w.index] = 1;
}

}  // namespace emu
