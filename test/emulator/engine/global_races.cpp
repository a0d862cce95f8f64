// global_races.cpp - races in global memory: between blocks of a launch, between operations of unordered streams
//
// Every 4-byte word of device memory has two records, its last writer and its last reader: which operation (launch,
// copy, library call), which block, which of the four bytes. Within a launch two blocks are ordered only by what they
// do themselves: if the first has fenced (or released) since, and the second has used an atomic, volatile or acquiring
// access, we take it that they agreed on it; so a missing fence is found, a wrong flag is not. Between operations the
// runtime knows the order of streams and events.
#include <sys/mman.h>

#include <algorithm>
#include <deque>

#include "checker.h"
#include "options.h"
#include "races.h"

namespace emu {

struct GlobalRaces {
    std::vector<std::atomic<uint8_t>> fences;    // per block, modulo 256
    std::vector<std::atomic<uint8_t>>
        signals;  // fences and anything another block could see: enough to say "I have read"
    std::vector<std::atomic<uint8_t>> listens;   // per block: has it acquired anything?
    uint64_t floor = 0;                          // operations before this one are all over
    explicit GlobalRaces(size_t blocks) : fences(blocks), signals(blocks), listens(blocks) {}
};

namespace {

// operation (24 bits) | block (24) | count of fences, in a reader of signals (8) | many (1) | synchronising (1) |
// unused (2) | bytes (4)
constexpr int kOperation = 40, kBlock = 16, kFence = 8;
constexpr uint64_t kMany = 1 << 7, kSynchronising = 1 << 6, kBytes = 15, kBlockMask = (1u << 24) - 1;

struct Operation {
    uint64_t number;
    uint32_t op;
    std::string what;
};

struct Records {
    uint64_t writer_delta = 0, reader_delta = 0;  // from a word's address, halved: two bytes of record per byte
    uint64_t *writers = nullptr, *readers = nullptr;
    Address begin = 0;
    OrderedBefore before = nullptr;
    std::deque<Operation> recent;                 // the last ones, oldest first
    uint64_t number = 0;

    Records() {
        Memory& m          = Memory::get();
        const size_t bytes = m.arena_bytes / 4 * sizeof(uint64_t);
        begin              = m.arena_begin;
        auto reserve       = [&] {
            void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            return p == MAP_FAILED ? nullptr : static_cast<uint64_t*>(p);
        };
        writers = reserve(), readers = reserve();
        if (!readers || !writers)
            give_up("--check all needs address space for its records; raise the limit (ulimit -v)");
    }
    size_t word(Address a) const { return (a - begin) / 4; }
};
Records& records() {
    static auto* r = new Records;
    return *r;
}

// Gives the operation its number, and finds the oldest recent one that it is not ordered after.
uint64_t start_operation(uint32_t op, const std::string& what, uint64_t& floor) {
    Records& r           = records();
    const uint64_t number = ++r.number & 0xffffff;
    floor                 = number;
    if (r.before && op)
        for (const Operation& o : r.recent)
            if (o.op && o.number < number && !r.before(o.op, op)) {
                floor = o.number;
                break;
            }
    r.recent.push_back({number, op, what});
    if (r.recent.size() > 256) r.recent.pop_front();
    return number;
}

struct Self {
    uint64_t number, floor, block;
    uint64_t record, read_record;           // as they are stored, without bytes
    bool write, sync, in_kernel;
    const GlobalRaces* races;
};

enum class Verdict { Fine, Blocks, Streams };
Verdict judge(const Self& me, uint64_t other, bool other_wrote, uint64_t bytes, uint32_t op) {
    const uint64_t number = other >> kOperation, block = other >> kBlock & kBlockMask;
    if (!other || !(other & bytes & kBytes)) return Verdict::Fine;
    if (number != me.number) {
        if (number < me.floor || number > me.number) return Verdict::Fine;
        Records& r = records();
        if (!r.before || !op) return Verdict::Fine;
        for (const Operation& o : r.recent)
            if (o.number == number) return o.op && !r.before(o.op, op) ? Verdict::Streams : Verdict::Fine;
        return Verdict::Fine;
    }
    if (!me.in_kernel || block == me.block) return Verdict::Fine;
    if (me.sync && other & kSynchronising) return Verdict::Fine;
    const auto& fences = other_wrote ? me.races->fences : me.races->signals;
    const bool fenced  = fences[block % fences.size()].load(std::memory_order_relaxed) != (other >> kFence & 255);
    const bool listens = me.races->listens[me.block % fences.size()].load(std::memory_order_relaxed);
    return fenced && listens ? Verdict::Fine : Verdict::Blocks;
}

std::string operation_name(uint64_t number) {
    for (const Operation& o : records().recent)
        if (o.number == number) return o.what;
    return "an earlier operation";
}

std::string sentence(Verdict v, const Self& me, uint64_t other, bool other_wrote, Address a) {
    char text[128];
    std::snprintf(text, sizeof text, "0x%llx is %s here and was %s by ", (unsigned long long)a,
                  me.write ? "written" : "read", other_wrote ? "written" : "read");
    if (v == Verdict::Streams)
        return text + operation_name(other >> kOperation) + ", in a stream that nothing orders with this one";
    return text + std::string("block ") + std::to_string(other >> kBlock & kBlockMask) +
           " of the same launch (counted x first)" +
           (me.sync                  ? ", there without an atomic"
            : other & kSynchronising ? ", there with an atomic"
                                     : "");
}

// [a, a+bytes) of one accessor. `say` gets the first conflict. Returns after updating the records.
template <class Say> void touch(const Self& me, Address a, size_t bytes, uint32_t op, Say say) {
    Records& r  = records();
    bool said   = false;
    const size_t first = r.word(a), last = r.word(a + bytes - 1);
    for (size_t k = first; k <= last; k++) {
        uint64_t mask = kBytes;
        if (k == first) mask &= kBytes << (a & 3);
        if (k == last) mask &= kBytes >> (3 - ((a + bytes - 1) & 3));
        uint64_t &writer = r.writers[k], &reader = r.readers[k];
        const Address at = r.begin + k * 4;
        if (!said)
            if (const Verdict v = judge(me, writer, true, mask, op); v != Verdict::Fine)
                said = true, say(v, writer, true, std::max(at, a));
        if (me.write) {
            if (!said && (reader & kMany || reader >> kBlock != me.record >> kBlock)) {
                uint64_t seen = reader;
                if (reader & kMany && (reader >> kBlock & kBlockMask) == me.block && reader >> kOperation == me.number)
                    seen = reader ^ 1ull << kBlock;  // some other block
                if (const Verdict v = judge(me, seen, false, mask, op); v != Verdict::Fine)
                    said = true, say(v, seen, false, std::max(at, a));
            }
            const bool same = writer >> kBlock == me.record >> kBlock;
            writer          = me.record | mask | (same ? writer & kBytes : 0);
        }
        if (!me.write || me.sync) {
            const bool now  = reader >> kOperation == me.number;
            const bool same = reader >> kBlock == me.record >> kBlock;
            reader          = me.read_record | mask | (now ? reader & kBytes : 0) |
                     (now && !same ? kMany
                      : now        ? reader & kMany
                                   : 0);
        }
    }
}

// The usual case: whole words in a row that nobody else touched in this launch, and no unordered operation since.
// Updates the records and says true, or leaves them alone.
template <int Words> bool undisturbed(const Self& me, uint64_t* writer, uint64_t* reader) {
    const uint64_t mine = me.record >> kBlock, floor = me.floor;
    const uint64_t record = (me.write ? me.record : me.read_record) | kBytes;
    // Touched by us in the same way before: who came between has been judged when it came.
    uint64_t news = 0;
    for (int k = 0; k < Words; k++) news |= (me.write ? writer : reader)[k] ^ record;
    if (!news) return true;
    uint64_t bad = 0;
    for (int k = 0; k < Words; k++)
        bad |= uint64_t(writer[k] >> kOperation >= floor) & uint64_t(writer[k] >> kBlock != mine);
    if (me.write)
        for (int k = 0; k < Words; k++)
            bad |= uint64_t(reader[k] >> kOperation >= floor) &
                   (uint64_t(reader[k] >> kBlock != mine) | (reader[k] >> 7 & 1));
    if (bad) return false;
    if (me.write)
        for (int k = 0; k < Words; k++) writer[k] = record;
    else
        for (int k = 0; k < Words; k++) {
            const bool now  = reader[k] >> kOperation == me.number;
            const bool same = reader[k] >> kBlock == mine;
            reader[k]       = record | (now && !same ? kMany : now ? reader[k] & kMany : 0);
        }
    return true;
}

}  // namespace

void checker_launch(Launch& l) {
    l.races        = std::make_shared<GlobalRaces>(std::min<uint64_t>(l.config.grid.count(), 1 << 20));
    uint64_t floor = 0;
    l.operation    = start_operation(
           l.config.op, l.kernel->pretty + (l.config.where.empty() ? "" : " launched from " + l.config.where), floor);
    l.races->floor = floor;
}

void check_global_races(Warp& w, const Instr* i, uint32_t size, Touch how, const Reach& reach) {
    Launch& l         = *w.block->launch;
    GlobalRaces& g    = *l.races;
    const size_t slot = w.block->index % g.fences.size();
    const bool sync   = how == Touch::Atomic || how == Touch::VolatileLoad || how == Touch::VolatileStore;
    if (sync) g.listens[slot].store(1, std::memory_order_relaxed);
    Self me;
    me.number = l.operation, me.floor = g.floor, me.block = w.block->index & kBlockMask, me.races = &g;
    me.write = writes(how), me.sync = sync, me.in_kernel = true;
    me.record = me.number << kOperation | me.block << kBlock |
                uint64_t(g.fences[slot].load(std::memory_order_relaxed)) << kFence | (sync ? kSynchronising : 0);
    me.read_record = (me.record & ~(255ull << kFence)) | uint64_t(g.signals[slot].load(std::memory_order_relaxed))
                                                             << kFence;
    if (sync && me.write) g.signals[slot].fetch_add(1, std::memory_order_relaxed);
    Records& r = records();

    if (reach.shape == Reach::Contiguous && !sync) {
        uint64_t* writer = r.writers + r.word(reach.addr[0]);
        uint64_t* reader = r.readers + r.word(reach.addr[0]);
        if (size == 4 ? undisturbed<32>(me, writer, reader)
            : size == 8 ? undisturbed<64>(me, writer, reader)
                        : size == 16 && undisturbed<128>(me, writer, reader))
            return;
    }
    auto piece = [&](int lane, Address a, size_t bytes) {
        touch(me, a, bytes, l.config.op, [&](Verdict v, uint64_t other, bool other_wrote, Address at) {
            if (reach.shape == Reach::Contiguous) lane = int((at - reach.addr[0]) / size);
            Suspect s{finding_at(w, i, v == Verdict::Streams ? Kind::StreamRace : Kind::GlobalRace, lane,
                                 sentence(v, me, other, other_wrote, at)), nullptr, size, {}};
            s.finding.address    = at;
            s.finding.allocation = Memory::get().describe(at);
            if (v == Verdict::Blocks && me.write && other_wrote && how != Touch::Atomic && size <= 16) {
                s.at = Memory::get().host(reach.addr[lane]);
                std::memcpy(s.before, s.at, size);
                w.worker->suspects.push_back(s);
            } else report(s.finding);
        });
    };
    if (reach.shape == Reach::Contiguous) return piece(0, reach.addr[0], size_t(size) * kLanes);
    if (reach.shape == Reach::Uniform)
        return piece(__builtin_ctz(reach.mask), reach.addr[__builtin_ctz(reach.mask)], size);
    each_lane(reach.mask, [&](int lane) { piece(lane, reach.addr[lane], size); });
}

void shared_fence(Warp& w);

void checker_fence(Warp& w, bool device_wide) {
    if (!w.block->launch->check_all) return;
    shared_fence(w);
    if (!device_wide) return;
    GlobalRaces& g    = *w.block->launch->races;
    const size_t slot = w.block->index % g.fences.size();
    g.fences[slot].fetch_add(1, std::memory_order_relaxed);
    g.signals[slot].fetch_add(1, std::memory_order_relaxed);
    g.listens[slot].store(1, std::memory_order_relaxed);
}

void note_api_access(Address a, size_t bytes, bool write, const char* what, uint32_t op) {
    Records& r        = records();
    uint64_t floor    = 0;
    // One call touches several ranges: it stays one operation.
    const bool again  = op && !r.recent.empty() && r.recent.back().op == op;
    uint64_t number   = again ? r.recent.back().number : start_operation(op, what, floor);
    if (again) floor  = 0;
    Self me{number, floor, 0, number << kOperation, number << kOperation, write, false, false, nullptr};
    touch(me, a, bytes, op, [&](Verdict v, uint64_t other, bool other_wrote, Address at) {
        Finding f;
        f.kind       = Kind::StreamRace;
        f.what       = sentence(v, me, other, other_wrote, at);
        f.kernel     = what;
        f.address    = at;
        f.allocation = Memory::get().describe(at);
        report(f);
    });
}

void forget_races(Address a, size_t bytes) {
    if (options().check != Check::All) return;
    Records& r = records();
    madvise(r.writers + r.word(a), bytes / 4 * 8, MADV_DONTNEED);
    madvise(r.readers + r.word(a), bytes / 4 * 8, MADV_DONTNEED);
}

void Memory::set_order(OrderedBefore ordered) {
    if (options().check == Check::All) records().before = ordered;
}

}  // namespace emu
