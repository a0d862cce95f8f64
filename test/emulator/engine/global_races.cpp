// global_races.cpp - races in global memory: between blocks of a launch, between operations of unordered streams
//
// Every 4-byte word of device memory has two records, its last writer and its last reader: which operation (launch,
// copy, library call), which block, which of the four bytes. Most of memory is touched whole warps at a time, so a line
// of 64 bytes has one pair of records for all its words until somebody touches a part of it. Within a launch two blocks
// are ordered only by what they do themselves: if the first has fenced (or released) since, and the second has used an
// atomic, volatile or acquiring access, we take it that they agreed on it; so a missing fence is found, a wrong flag is
// not. Between operations the runtime knows the order of streams and events.
#include <sys/mman.h>

#include <algorithm>
#include <deque>

#include "checker.h"
#include "options.h"
#include "races.h"

namespace emu {

// What a block has done that orders it with others.
struct GlobalActor {
    std::atomic<uint8_t> fences{0};
    std::atomic<uint8_t> signals{0};  // fences and anything another block could see: "I have read"
    std::atomic<uint8_t> listens{0};  // it has acquired something
};

// The numbers of earlier operations that nothing orders with the one that runs now: usually none or few.
struct Apart {
    static constexpr int kFew = 4;
    uint64_t few[kFew]        = {~0ull, ~0ull, ~0ull, ~0ull};
    std::vector<uint64_t> rest;
    void add(uint64_t number) {
        for (uint64_t& slot : few)
            if (slot == ~0ull) return void(slot = number);
        rest.push_back(number);
    }
    bool has(uint64_t number) const {
        uint64_t hit = 0;
        for (const uint64_t n : few) hit |= n == number;
        return hit || std::find(rest.begin(), rest.end(), number) != rest.end();
    }
};

struct GlobalRaces {
    std::vector<GlobalActor> actors;  // of the blocks, modulo their number
    uint64_t number = 0;              // of the operation
    Apart apart;
    explicit GlobalRaces(size_t blocks) : actors(blocks) {}
    GlobalActor& of(uint64_t block) { return actors[block % actors.size()]; }
};

namespace {

// operation (24 bits) | block (24) | count of fences, in a reader of signals (8) | many (1) | synchronising (1) |
// parted (1) | unused (1) | bytes (4)
constexpr int kOperation = 40, kBlock = 16, kFence = 8;
constexpr uint64_t kMany = 1 << 7, kSynchronising = 1 << 6, kBytes = 15, kBlockMask = (1u << 24) - 1;

struct Operation {
    uint64_t number;
    uint32_t op;
    std::string what;
};

struct Record {
    uint64_t writer, reader;
};

constexpr size_t kLineBytes = 64, kLineWords = kLineBytes / 4;
constexpr uint64_t kParted = 1 << 5;  // both records of a line whose words have records of their own

struct Records {
    const Memory& memory = Memory::get();
    const Address begin  = memory.arena_begin;
    Record *lines = nullptr, *words = nullptr;  // of the whole arena; pages come when touched
    OrderedBefore before = nullptr;
    std::deque<Operation> recent;  // the last ones, oldest first
    uint64_t number = 0;
    Apart apart;  // from the last operation

    Records() {
        auto reserve = [&](size_t count) {
            void* p = mmap(nullptr, count * sizeof(Record), PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (p == MAP_FAILED)
                give_up("--check all needs address space for its records; raise the limit (ulimit -v)");
            return static_cast<Record*>(p);
        };
        lines = reserve(memory.arena_bytes / kLineBytes);
        words = reserve(memory.arena_bytes / 4);
    }
};
Records& records() {
    static auto* r = new Records;
    return *r;
}

// Gives the operation its number, and finds the recent ones that it is not ordered after.
uint64_t start_operation(uint32_t op, const std::string& what) {
    Records& r            = records();
    const uint64_t number = ++r.number & 0xffffff;
    r.apart               = {};
    if (r.before && op)
        for (const Operation& o : r.recent)
            if (o.op && o.number < number && !r.before(o.op, op)) r.apart.add(o.number);
    r.recent.push_back({number, op, what});
    if (r.recent.size() > 256) r.recent.pop_front();
    return number;
}

struct Self {
    uint64_t number, block;
    const Apart* apart;
    uint64_t record, read_record;  // as they are stored, without bytes
    bool write, sync, in_kernel;
    GlobalRaces* races;
};

enum class Verdict { Fine, Blocks, Streams };
Verdict judge(const Self& me, uint64_t other, bool other_wrote, uint64_t bytes) {
    const uint64_t number = other >> kOperation, block = other >> kBlock & kBlockMask;
    if (!other || !(other & bytes & kBytes)) return Verdict::Fine;
    if (number != me.number) return me.apart->has(number) ? Verdict::Streams : Verdict::Fine;
    if (!me.in_kernel || block == me.block) return Verdict::Fine;
    if (me.sync && other & kSynchronising) return Verdict::Fine;
    const GlobalActor& that = me.races->of(block);
    const auto& fences      = other_wrote ? that.fences : that.signals;
    const bool fenced       = fences.load(std::memory_order_relaxed) != (other >> kFence & 255);
    const bool listens      = me.races->of(me.block).listens.load(std::memory_order_relaxed);
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

// What one access of the bytes in `mask` means for the records of a word, or of all words of a line. `say` gets a
// conflict, unless there has been one already.
template <class Say> void touch_record(const Self& me, Record& r, uint64_t mask, Address at, bool& said, Say& say) {
    if (!said)
        if (const Verdict v = judge(me, r.writer, true, mask); v != Verdict::Fine)
            said = true, say(v, r.writer, true, at);
    if (me.write) {
        if (!said && (r.reader & kMany || r.reader >> kBlock != me.record >> kBlock)) {
            uint64_t seen = r.reader;
            if (seen & kMany && (seen >> kBlock & kBlockMask) == me.block && seen >> kOperation == me.number)
                seen ^= 1ull << kBlock;  // some other block
            if (const Verdict v = judge(me, seen, false, mask); v != Verdict::Fine)
                said = true, say(v, seen, false, at);
        }
        const bool same = r.writer >> kBlock == me.record >> kBlock;
        r.writer        = me.record | mask | (same ? r.writer & kBytes : 0);
    }
    if (!me.write || me.sync) {
        const bool now  = r.reader >> kOperation == me.number;
        const bool same = r.reader >> kBlock == me.record >> kBlock;
        r.reader        = me.read_record | mask | (now ? r.reader & kBytes : 0) |
                   (now && !same ? kMany
                    : now        ? r.reader & kMany
                                 : 0);
    }
}

// The same access of the whole record was the last one: who came between has been judged when it came.
bool repeated(const Self& me, const Record& r) {
    return !me.sync && (me.write ? r.writer == (me.record | kBytes) : r.reader == (me.read_record | kBytes));
}

void part(Record& line, Record* words) {
    for (size_t k = 0; k < kLineWords; k++) words[k] = line;
    line = {kParted, kParted};
}
void join(Record& line, const Record* words) {
    uint64_t differ = 0;
    for (size_t k = 1; k < kLineWords; k++)
        differ |= (words[k].writer ^ words[0].writer) | (words[k].reader ^ words[0].reader);
    if (!differ) line = words[0];
}

// [a, a+bytes) of one accessor: the records are brought up to date, `say` gets the first conflict.
template <class Say> void touch(const Self& me, Address a, size_t bytes, Say say) {
    Records& r        = records();
    bool said         = false;
    const Address end = a + bytes;
    for (Address at = a; at < end;) {
        const size_t index = (at - r.begin) / kLineBytes;
        const Address from = r.begin + index * kLineBytes, to = std::min(from + kLineBytes, end);
        Record& line     = r.lines[index];
        Record* words    = r.words + index * kLineWords;
        const bool whole = at == from && to - from == kLineBytes;
        if (line.writer != kParted) {
            if (repeated(me, line)) {
                at = to;
                continue;
            }
            if (whole) {
                touch_record(me, line, kBytes, at, said, say);
                at = to;
                continue;
            }
            part(line, words);
        }
        for (; at < to; at = std::min((at & ~Address(3)) + 4, to)) {
            uint64_t mask = kBytes << (at & 3) & kBytes;
            if (to - (at & ~Address(3)) < 4) mask &= kBytes >> (4 - (to & 3));
            Record& word = words[(at - from) / 4];
            if (!repeated(me, word)) touch_record(me, word, mask, at, said, say);
        }
        if (whole) join(line, words);
    }
}

// The usual case: records that nobody else touched in this launch, and no unordered operation since. Brings them up to
// date and says true, or leaves them alone.
inline bool undisturbed(const Self& me, Record* r, size_t n) {
    const uint64_t mine = me.record >> kBlock;
    if (!me.apart->rest.empty()) return false;
    auto counts = [&](uint64_t record) {  // 1: the order within this launch, or between streams, matters
        const uint64_t number = record >> kOperation;
        uint64_t hit          = number == me.number;
        for (const uint64_t n : me.apart->few) hit |= n == number;
        return hit;
    };
    uint64_t bad = 0;
    for (size_t k = 0; k < n; k++) bad |= counts(r[k].writer) & uint64_t(r[k].writer >> kBlock != mine);
    if (me.write)
        for (size_t k = 0; k < n; k++)
            bad |= counts(r[k].reader) & (uint64_t(r[k].reader >> kBlock != mine) | (r[k].reader >> 7 & 1));
    if (bad) return false;
    if (me.write)
        for (size_t k = 0; k < n; k++) r[k].writer = me.record | kBytes;
    else
        for (size_t k = 0; k < n; k++) {
            const bool now  = r[k].reader >> kOperation == me.number;
            const bool same = r[k].reader >> kBlock == mine;
            r[k].reader     = me.read_record | kBytes | (now && !same ? kMany : now ? r[k].reader & kMany : 0);
        }
    return true;
}

uint64_t base_record(const Block& b) {
    return b.launch->races->number << kOperation | (b.index & kBlockMask) << kBlock;
}

Self self_of(const Block& b, Touch how) {
    Self me;
    me.races  = b.launch->races.get();
    me.number = me.races->number, me.apart = &me.races->apart, me.block = b.index & kBlockMask;
    me.write = writes(how), me.in_kernel = true;
    me.sync             = how == Touch::Atomic || how == Touch::VolatileLoad || how == Touch::VolatileStore;
    const uint64_t base = base_record(b) | (me.sync ? kSynchronising : 0);
    me.record           = base | uint64_t(b.actor->fences.load(std::memory_order_relaxed)) << kFence;
    me.read_record      = base | uint64_t(b.actor->signals.load(std::memory_order_relaxed)) << kFence;
    return me;
}

// One lane's words, each touched whole and not to synchronise.
bool watch_words(const Self& me, Records& r, Address a, uint32_t words) {
    Record& line = r.lines[(a - r.begin) / kLineBytes];
    if (line.writer != kParted) {
        if (repeated(me, line)) return true;
        part(line, r.words + (a - r.begin) / kLineBytes * kLineWords);
    }
    Record* word = r.words + (a - r.begin) / 4;
    for (uint32_t k = 0; k < words; k++)
        if (!repeated(me, word[k]) && !undisturbed(me, word + k, 1)) return false;
    return true;
}

}  // namespace

void checker_launch(Launch& l) {
    l.races         = std::make_shared<GlobalRaces>(std::min<uint64_t>(l.config.grid.count(), 1 << 20));
    l.races->number = start_operation(
        l.config.op, l.kernel->pretty + (l.config.where.empty() ? "" : " launched from " + l.config.where));
    l.races->apart = records().apart;
}

// The record of a plain access of this block.
static uint64_t own_record(const Block& b, bool write) {
    const auto& count = write ? b.actor->fences : b.actor->signals;
    return base_record(b) | uint64_t(count.load(std::memory_order_relaxed)) << kFence | kBytes;
}

bool watch_global(Warp& w, Address first, uint32_t size, bool write) {
    const size_t bytes = size_t(size) * kLanes;
    static Records& r  = records();
    const Block& b     = *w.block;
    Record* line       = r.lines + (first - r.begin) / kLineBytes;
    if (first % kLineBytes == 0 &&
        bytes >= kLineBytes) {  // the same as last time: then the bytes have been written, too
        const uint64_t mine = own_record(b, write);
        uint64_t news       = 0;
        for (size_t k = 0; k < bytes / kLineBytes; k++) news |= (write ? line[k].writer : line[k].reader) ^ mine;
        if (!news) return true;
    }
    uint8_t* shadow = r.memory.shadow(first);
    if (!write && !all_ones(shadow, bytes)) return false;
    const Self me = self_of(b, write ? Touch::Store : Touch::Load);
    for (Address at = first; at < first + bytes; line++) {
        const Address from = (at - r.begin) / kLineBytes * kLineBytes + r.begin;
        const Address to   = std::min(from + kLineBytes, first + bytes);
        const bool whole   = to - at == kLineBytes;
        if (line->writer == kParted || !whole) {
            Record* words = r.words + (from - r.begin) / 4;
            if (line->writer != kParted && repeated(me, *line)) {
                at = to;
                continue;
            }
            if (line->writer != kParted) part(*line, words);
            if (at & 3 || to & 3) return false;
            if (!undisturbed(me, words + (at - from) / 4, (to - at) / 4)) return false;
            if (whole) join(*line, words);
        } else if (!repeated(me, *line) && !undisturbed(me, line, 1)) return false;
        at = to;
    }
    if (write) std::memset(shadow, 1, bytes);
    return true;
}

template <int Words> static bool known_lanes(const Records& r, uint64_t mine, const Reach& reach, bool write) {
    uint64_t news = 0;
    auto lane     = [&](int l) {
        const size_t word  = (reach.addr[l] - r.begin) / 4;
        const Record* line = r.lines + word / kLineWords;
        const bool parted  = line->writer == kParted;
        const Record* own  = parted ? r.words + word : line;
        for (int k = 0; k < Words; k++)
            news |= (write ? own[parted ? k : 0].writer : own[parted ? k : 0].reader) ^ mine;
    };
    if (reach.mask == kAll)
        for (int l = 0; l < kLanes; l++) lane(l);
    else each_lane(reach.mask, lane);
    return !news;
}

bool known_global(const Warp& w, uint32_t size, Touch touch, const Reach& reach) {
    if (reach.shape != Reach::Scattered || (touch != Touch::Load && touch != Touch::Store)) return false;
    const bool write    = touch == Touch::Store;
    const uint64_t mine = own_record(*w.block, write);
    switch (size) {
        case 4: return known_lanes<1>(records(), mine, reach, write);
        case 8: return known_lanes<2>(records(), mine, reach, write);
        case 16: return known_lanes<4>(records(), mine, reach, write);
        default: return false;
    }
}

void start_global_races(Block& b) { b.actor = &b.launch->races->of(b.index); }

void check_global_races(Warp& w, const Instr* i, uint32_t size, Touch how, const Reach& reach) {
    const Self me = self_of(*w.block, how);
    if (me.sync) w.block->actor->listens.store(1, std::memory_order_relaxed);
    if (me.sync && me.write) w.block->actor->signals.fetch_add(1, std::memory_order_relaxed);
    auto piece = [&](int lane, Address a, size_t bytes) {
        touch(me, a, bytes, [&](Verdict v, uint64_t other, bool other_wrote, Address at) {
            if (reach.shape == Reach::Contiguous) lane = int((at - reach.addr[0]) / size);
            Suspect s{finding_at(w, i, v == Verdict::Streams ? Kind::StreamRace : Kind::GlobalRace, lane,
                                 sentence(v, me, other, other_wrote, at)),
                      nullptr,
                      size,
                      {}};
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
    const uint32_t words = me.sync ? 0 : size / 4;
    Records& r           = records();
    each_lane(reach.mask, [&](int lane) {
        if (!words || !watch_words(me, r, reach.addr[lane], words)) piece(lane, reach.addr[lane], size);
    });
}

void shared_fence(Warp& w);

void checker_fence(Warp& w, bool device_wide) {
    if (!w.block->launch->check_all) return;
    shared_fence(w);
    if (!device_wide) return;
    GlobalActor& actor = *w.block->actor;
    actor.fences.fetch_add(1, std::memory_order_relaxed);
    actor.signals.fetch_add(1, std::memory_order_relaxed);
    actor.listens.store(1, std::memory_order_relaxed);
}

void note_api_access(Address a, size_t bytes, bool write, const char* what, uint32_t op) {
    Records& r       = records();
    // One call touches several ranges: it stays one operation.
    const bool again = op && !r.recent.empty() && r.recent.back().op == op;
    if (!again) start_operation(op, what);
    const uint64_t number = r.recent.back().number, record = number << kOperation;
    const Self me{number, 0, &r.apart, record, record, write, false, false, nullptr};
    touch(me, a, bytes, [&](Verdict v, uint64_t other, bool other_wrote, Address at) {
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
    madvise(r.words + (a - r.begin) / 4, bytes / 4 * sizeof(Record), MADV_DONTNEED);
    // Of the lines only whole pages; the address is not used again, so what is left does no harm.
    constexpr uintptr_t page = 4096;
    const auto from          = (uintptr_t(r.lines + (a - r.begin) / kLineBytes) + page - 1) / page * page;
    const auto to            = uintptr_t(r.lines + (a + bytes - r.begin) / kLineBytes) / page * page;
    if (from < to) madvise(reinterpret_cast<void*>(from), to - from, MADV_DONTNEED);
}

void Memory::set_order(OrderedBefore ordered) {
    if (options().check == Check::All) records().before = ordered;
}

}  // namespace emu
