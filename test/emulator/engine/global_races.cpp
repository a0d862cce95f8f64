// global_races.cpp - races in global memory: between blocks of a launch, between operations of unordered streams
//
// Every 4-byte word of device memory has two records, of its last writer and its last reader. A record holds the
// operation (launch, copy, library call), the block and warp, the block's time and the bytes of the word. Warps mostly
// touch whole lines of 64 bytes, so a line has one pair of records for all its words until a part of it is touched
// alone.
//
// Two warps of a block are ordered as in shared memory: by barriers, or by a fence and a flag. Two blocks of a launch
// are ordered only by their own accesses. If the first has fenced (or released) since its access, and the second has
// used an atomic, volatile or acquiring access, they are taken to be ordered. So a missing fence is found, but a wrong
// flag is not. A cluster is like one block: its warps are ordered as in shared memory, and a fence of one of them
// counts for what it knows of the others. The order of operations comes from their streams and events.
//
// A kernel that was launched with programmatic stream serialization begins before the kernel in front of it has ended.
// Until a thread has executed griddepcontrol.wait, it is not ordered after that kernel, nor after those before which
// that kernel let its dependents begin. A barrier passes on what one thread has waited for. If no thread waits, the
// kernel's end says nothing about the kernels in front of it, so that what follows is not ordered after them either.
#include <sys/mman.h>

#include <algorithm>
#include <deque>

#include "checker.h"
#include "options.h"
#include "races.h"

namespace emu {

// What a block has done that may order it with others.
struct GlobalActor {
    std::atomic<uint32_t> fenced{0};  // the block's time of its last fence
    // The block's time of its last fence, or of its last write that another block could wait for.
    std::atomic<uint32_t> signalled{0};
    std::atomic<uint8_t> listens{0};  // 1 after an acquiring access
};

// The numbers of earlier operations that are not ordered with the one that runs now. There are usually none or few.
struct Unordered {
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
    std::vector<GlobalActor> actors;  // of the blocks, modulo the size of this vector
    uint64_t number = 0;              // of the operation
    Unordered unordered, at_start;    // after griddepcontrol.wait, and before
    explicit GlobalRaces(size_t blocks) : actors(blocks) {}
    GlobalActor& of(uint64_t block) { return actors[block % actors.size()]; }
};

namespace {

// A record: operation (24 bits) | block (24) | turn (8) | many (1) | synchronising (1) | split (1) | warps (1) | bytes
// (4). many: other blocks have read it, too. warps: another warp of this block has read it, too, with no barrier
// between. split: the words of the line have records of their own.
constexpr int kOperation = 40, kBlock = 16, kTurn = 8;
constexpr uint64_t kMany = 1 << 7, kSynchronising = 1 << 6, kWarps = 1 << 4, kBytes = 15, kBlockMask = (1u << 24) - 1;
constexpr uint64_t kWarp = 31ull << kTurn;  // the part of the turn that is the warp's number

struct Operation {
    uint64_t number;
    uint32_t op;
    std::string what;
    // The numbers of earlier operations in its stream that may still run when it begins, after its griddepcontrol.wait,
    // and when it has ended. triggers_late: what it lets begin early begins only after its own wait.
    std::vector<uint64_t> open_at_start = {}, open_inside = {}, open_after = {};
    bool triggers_late = true;
};

struct Record {
    uint64_t writer, reader;
};
// The block's time of the access (28 bits) and the bytes that the last warp touched (4). When a block's time exceeds 28
// bits, races between its warps are missed.
struct When {
    uint32_t writer, reader;
};
constexpr uint32_t kLastTime = (1u << 28) - 1;

constexpr size_t kLineBytes = 64, kLineWords = kLineBytes / 4;
constexpr uint64_t kLineSplit = 1 << 5;  // the value of both records of a line that is split

struct Records {
    const Memory& memory = Memory::get();
    const Address begin  = memory.arena_begin;
    Record *lines = nullptr, *words = nullptr;  // for the whole arena; pages are allocated when they are touched
    When *line_times = nullptr, *word_times = nullptr;
    OrderedBefore before = nullptr;
    FollowedBy followed  = nullptr;
    std::deque<Operation> recent;  // the oldest one comes first
    uint64_t number = 0;
    Unordered unordered, at_start;  // of the last operation

    Records() {
        auto reserve = [&]<class T>(T*& table, size_t count) {
            void* p = mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (p == MAP_FAILED)
                give_up("--check all needs address space for its records; raise the limit (ulimit -v)");
            table = static_cast<T*>(p);
        };
        reserve(lines, memory.arena_bytes / kLineBytes), reserve(line_times, memory.arena_bytes / kLineBytes);
        reserve(words, memory.arena_bytes / 4), reserve(word_times, memory.arena_bytes / 4);
    }
};
Records& records() {
    static auto* r = new Records;
    return *r;
}

const Operation* find_operation(uint32_t op) {
    const auto& recent = records().recent;
    const auto found   = std::find_if(recent.rbegin(), recent.rend(), [&](const Operation& o) { return o.op == op; });
    return found == recent.rend() ? nullptr : &*found;
}

void append(std::vector<uint64_t>& to, const std::vector<uint64_t>& more) {
    for (const uint64_t n : more)
        if (std::find(to.begin(), to.end(), n) == to.end()) to.push_back(n);
}

// Gives the operation its number, and finds the recent operations that are not ordered before it.
uint64_t start_operation(uint32_t op, const std::string& what) {
    Records& r            = records();
    const uint64_t number = ++r.number & 0xffffff;
    r.unordered           = {};
    if (r.before && op)
        for (const Operation& o : r.recent)
            if (o.op && o.number < number && !r.before(o.op, op)) r.unordered.add(o.number);
    r.at_start = r.unordered;
    Operation me{number, op, what};
    const Follows follows     = r.followed && op ? r.followed(op) : Follows{};
    const Operation* previous = follows.op ? find_operation(follows.op) : nullptr;
    if (previous) {
        me.open_inside = me.open_at_start = previous->open_after;
        if (follows.overlaps) {
            me.open_at_start.push_back(previous->number);
            if (!previous->triggers_late) append(me.open_at_start, previous->open_at_start);
        }
        for (const uint64_t n : me.open_inside) r.unordered.add(n);
        for (const uint64_t n : me.open_at_start) r.at_start.add(n);
    }
    r.recent.push_back(std::move(me));
    if (r.recent.size() > 256) r.recent.pop_front();
    return number;
}

// The access that is being checked.
struct Self {
    uint64_t number, block;
    const Unordered* unordered;
    uint64_t record;               // its record, without bytes
    uint32_t time = 0, since = 0;  // the block's time, and the time of its last barrier with all warps
    bool write, sync;
    GlobalRaces* races       = nullptr;
    const SharedRaces* warps = nullptr;  // null when it is not an access of a kernel
    const Block* in          = nullptr;  // likewise
    uint64_t cluster() const { return in->launch->config.cluster.count(); }  // the number of its blocks
};

// Returns whether the access comes after one that this warp of a block of the cluster made at `time`.
bool ordered(const Self& me, uint64_t records, uint64_t warp, uint32_t time) {
    const uint64_t warps = me.in->warps.size();
    return me.warps->ordered(me.in->records * warps + ((me.record & kWarp) >> kTurn), records * warps + warp,
                             time + me.warps->start);
}

// Decides whether an access to the bytes in `mask` races with an earlier one: `other`, at the time `when`.
enum class Verdict { Fine, Warps, Blocks, Streams };
Verdict judge(const Self& me, uint64_t other, uint32_t when, bool other_wrote, uint64_t mask) {
    const uint64_t number = other >> kOperation, block = other >> kBlock & kBlockMask;
    if (!other || !(other & mask & kBytes)) return Verdict::Fine;
    if (number != me.number) return me.unordered->has(number) ? Verdict::Streams : Verdict::Fine;
    if (!me.warps || (me.sync && other & kSynchronising)) return Verdict::Fine;
    const uint32_t time = when >> 4;
    if (block == me.block) {
        const uint64_t mine = me.record & kWarp, theirs = other & kWarp;
        if (time < me.since || time >= kLastTime || !(when & mask)) return Verdict::Fine;
        if (mine == theirs) return other & kWarps && !me.warps->partial ? Verdict::Warps : Verdict::Fine;
        return ordered(me, me.in->records, theirs >> kTurn, time) ? Verdict::Fine : Verdict::Warps;
    }
    if (const uint64_t size = me.cluster(); block / size == me.block / size) {  // a block of the same cluster
        const bool fine = me.warps->block_since.size() < size || time >= kLastTime ||
                          ordered(me, block % size, (other & kWarp) >> kTurn, time);
        return fine ? Verdict::Fine : Verdict::Blocks;
    }
    const GlobalActor& that = me.races->of(block);
    const auto& fence       = other_wrote ? that.fenced : that.signalled;
    const bool listens      = me.races->of(me.block).listens.load(std::memory_order_relaxed);
    return listens && fence.load(std::memory_order_relaxed) > time ? Verdict::Fine : Verdict::Blocks;
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
    if (v == Verdict::Streams) {
        const auto& open = records().recent.back();
        const auto has   = [&](const std::vector<uint64_t>& numbers) {
            return std::find(numbers.begin(), numbers.end(), other >> kOperation) != numbers.end();
        };
        return text + operation_name(other >> kOperation) +
               (has(open.open_inside)     ? ", which a kernel between them has not waited for (griddepcontrol.wait)"
                : has(open.open_at_start) ? ", which may still run: this is before griddepcontrol.wait"
                                          : ", in a stream that nothing orders with this one");
    }
    if (v == Verdict::Warps) {
        const uint64_t warp = other >> kTurn & 31;
        return text +
               (warp == (me.record >> kTurn & 31) ? std::string("another warp") : "warp " + std::to_string(warp)) +
               " of the same block, with no barrier between";
    }
    uint32_t at[3];
    place_block(me.in->launch->config, other >> kBlock & kBlockMask, at);
    return text + std::string("block (") + std::to_string(at[0]) + "," + std::to_string(at[1]) + "," +
           std::to_string(at[2]) + ") of the same launch" +
           (me.sync                  ? ", there without an atomic"
            : other & kSynchronising ? ", there with an atomic"
                                     : "");
}

// Returns the reader's record after one more read of the bytes in `mask`.
uint64_t read_again(const Self& me, uint64_t reader, uint32_t when, uint64_t mask) {
    const bool now  = reader >> kOperation == me.number;
    const bool same = reader >> kBlock == me.record >> kBlock;
    if (!now) return me.record | mask;
    if (!same) return me.record | mask | (mask & ~reader ? 0 : kMany);
    const bool mine = (reader & kWarp) == (me.record & kWarp), met = when >> 4 < me.since;
    const bool both = !met && (mine ? reader & kWarps : !(mask & ~when));
    return me.record | mask | (reader & (kBytes | kMany)) | (both ? kWarps : 0);
}
uint32_t touch_again(const Self& me, uint64_t before, uint32_t when, uint64_t mask) {
    const bool same = (before ^ me.record) >> kTurn == 0 && when >> 4 == me.time;
    return me.time << 4 | uint32_t(mask) | (same ? when & kBytes : 0);
}

// Checks one access of the bytes in `mask` and updates the records of a word, or of all words of a line. It calls `say`
// for a race, unless `said` is set.
template <class Say>
void touch_record(const Self& me, Record& r, When& when, uint64_t mask, Address at, bool& said, Say& say) {
    if (!said)
        if (const Verdict v = judge(me, r.writer, when.writer, true, mask); v != Verdict::Fine)
            said = true, say(v, r.writer, true, at);
    if (me.write) {
        if (!said) {
            uint64_t seen = r.reader;
            if (seen & kMany && (seen >> kBlock & kBlockMask) == me.block && seen >> kOperation == me.number)
                seen = me.in && me.cluster() > 1
                           ? 0
                           : seen ^ 1ull << kBlock;  // any number that is not a block of this cluster
            if (const Verdict v = judge(me, seen, when.reader, false, mask); v != Verdict::Fine)
                said = true, say(v, seen, false, at);
        }
        const bool same = r.writer >> kBlock == me.record >> kBlock;
        when.writer     = touch_again(me, r.writer, when.writer, mask);
        r.writer        = me.record | mask | (same ? r.writer & kBytes : 0);
    }
    if (!me.write || me.sync) {
        const uint64_t reader = read_again(me, r.reader, when.reader, mask);
        when.reader           = touch_again(me, r.reader, when.reader, mask);
        r.reader              = reader;
    }
}

// Returns whether the last access of this kind was the same. Then nothing has to be checked again, because any access
// in between has been checked against it.
bool repeated(const Self& me, const Record& r) {
    return !me.sync && (me.write ? r.writer : r.reader & ~(kMany | kWarps)) == (me.record | kBytes);
}

void split_line(Records& r, size_t index) {
    Record& line = r.lines[index];
    std::fill_n(r.words + index * kLineWords, kLineWords, line);
    std::fill_n(r.word_times + index * kLineWords, kLineWords, r.line_times[index]);
    line = {kLineSplit, kLineSplit};
}
void join_line(Records& r, size_t index) {
    const Record* words = r.words + index * kLineWords;
    const When* times   = r.word_times + index * kLineWords;
    uint64_t differ     = 0;
    for (size_t k = 1; k < kLineWords; k++)
        differ |= (words[k].writer ^ words[0].writer) | (words[k].reader ^ words[0].reader) |
                  (times[k].writer ^ times[0].writer) | (times[k].reader ^ times[0].reader);
    if (!differ) r.lines[index] = words[0], r.line_times[index] = times[0];
}

// Updates the records of [a, a+bytes) for one access, and calls `say` for the first race.
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
        if (line.writer != kLineSplit) {
            if (repeated(me, line)) {
                at = to;
                continue;
            }
            if (whole) {
                touch_record(me, line, r.line_times[index], kBytes, at, said, say);
                at = to;
                continue;
            }
            split_line(r, index);
        }
        for (; at < to; at = std::min((at & ~Address(3)) + 4, to)) {
            uint64_t mask = kBytes << (at & 3) & kBytes;
            if (to - (at & ~Address(3)) < 4) mask &= kBytes >> (4 - (to & 3));
            const size_t k = (at - from) / 4;
            if (!repeated(me, words[k]))
                touch_record(me, words[k], r.word_times[index * kLineWords + k], mask, at, said, say);
        }
        if (whole) join_line(r, index);
    }
}

// The usual case: in this launch no other warp has touched the records since the last barrier of all warps, and no
// unordered operation has. Then this updates the records and returns true. Otherwise it changes nothing.
inline bool undisturbed(const Self& me, Record* r, When* when, size_t n) {
    const uint64_t mine = me.record >> kBlock;
    if (!me.unordered->rest.empty()) return false;
    // 1 when the record is from this launch or from an unordered operation.
    auto counts = [&](uint64_t record) {
        const uint64_t number = record >> kOperation;
        uint64_t hit          = number == me.number;
        for (const uint64_t n : me.unordered->few) hit |= n == number;
        return hit;
    };
    // 1 when the record is from another block, or from another warp after the last barrier of all warps.
    auto foreign = [&](uint64_t record, uint32_t time, uint64_t many) {
        return uint64_t(record >> kBlock != mine) | uint64_t((record & many) != 0) |
               (uint64_t(time >> 4 >= me.since) & uint64_t((record ^ me.record) & kWarp || record & kWarps));
    };
    uint64_t bad = 0;
    for (size_t k = 0; k < n; k++) bad |= counts(r[k].writer) & foreign(r[k].writer, when[k].writer, 0);
    if (me.write)
        for (size_t k = 0; k < n; k++) bad |= counts(r[k].reader) & foreign(r[k].reader, when[k].reader, kMany);
    if (bad) return false;
    const uint32_t time = me.time << 4 | uint32_t(kBytes);
    for (size_t k = 0; k < n; k++)
        if (me.write) r[k].writer = me.record | kBytes, when[k].writer = time;
        else r[k].reader = read_again(me, r[k].reader, when[k].reader, kBytes), when[k].reader = time;
    return true;
}

// Returns the record of a plain access by this warp, without bytes.
uint64_t base_record(const Warp& w) {
    const Block& b = *w.block;
    return b.launch->races->number << kOperation | (b.index & kBlockMask) << kBlock |
           uint64_t(b.races->turn[w.actor]) << kTurn;
}

uint32_t time_of(const SharedRaces& s) { return uint32_t(std::min<uint64_t>(s.time - s.start, kLastTime)); }

Self self_of(const Warp& w, Touch how) {
    const Block& b = *w.block;
    Self me;
    me.races = b.launch->races.get(), me.warps = b.races.get(), me.in = &b;
    me.number = me.races->number, me.unordered = w.mask & ~w.waited ? &me.races->at_start : &me.races->unordered;
    me.block = b.index & kBlockMask;
    me.write = writes(how);
    me.sync = how == Touch::Atomic || how == Touch::Reduce || how == Touch::VolatileLoad || how == Touch::VolatileStore;
    me.record = base_record(w) | (me.sync ? kSynchronising : 0);
    me.time   = time_of(*me.warps);
    me.since  = uint32_t(std::min<uint64_t>(me.warps->block_since[b.records] - me.warps->start, kLastTime));
    return me;
}

// Does the same as undisturbed() for the words of one lane, in a plain access of whole words.
bool watch_words(const Self& me, Records& r, Address a, uint32_t words) {
    const size_t line = (a - r.begin) / kLineBytes, word = (a - r.begin) / 4;
    if (r.lines[line].writer != kLineSplit) {
        if (repeated(me, r.lines[line])) return true;
        split_line(r, line);
    }
    for (size_t k = word; k < word + words; k++)
        if (!repeated(me, r.words[k]) && !undisturbed(me, r.words + k, r.word_times + k, 1)) return false;
    return true;
}

}  // namespace

void checker_launch(Launch& l) {
    l.races         = std::make_shared<GlobalRaces>(std::min<uint64_t>(l.config.grid.count(), 1 << 20));
    l.races->number = start_operation(
        l.config.op, l.kernel->pretty + (l.config.where.empty() ? "" : " launched from " + l.config.where));
    l.races->unordered = records().unordered;
    l.races->at_start  = records().at_start;
    const Operation& o = records().recent.back();
    l.overlaps         = o.open_at_start.size() > o.open_inside.size();
}

void checker_launch_end(Launch& l) {
    Operation& o    = records().recent.back();
    o.triggers_late = l.triggers_late;
    if (l.overlaps) o.open_after = l.waited ? o.open_inside : o.open_at_start;
}

bool watch_global(Warp& w, Address first, uint32_t size, bool write) {
    const size_t bytes = size_t(size) * kLanes;
    static Records& r  = records();
    size_t index       = (first - r.begin) / kLineBytes;
    if (first % kLineBytes == 0 && bytes >= kLineBytes) {
        // When the last access was the same, the bytes have been written, so the shadow need not be checked.
        const uint64_t mine = base_record(w) | kBytes;
        const Record* line  = r.lines + index;
        uint64_t news       = 0;
        for (size_t k = 0; k < bytes / kLineBytes; k++) news |= (write ? line[k].writer : line[k].reader) ^ mine;
        if (!(news & ~(write ? 0 : kMany | kWarps))) return true;
    }
    uint8_t* shadow = r.memory.shadow(first);
    if (!write && !all_ones(shadow, bytes)) return false;
    const Self me = self_of(w, write ? Touch::Store : Touch::Load);
    for (Address at = first; at < first + bytes; index++) {
        const Address from = index * kLineBytes + r.begin, to = std::min(from + kLineBytes, first + bytes);
        const bool whole = to - at == kLineBytes;
        Record& line     = r.lines[index];
        if (line.writer == kLineSplit || !whole) {
            if (line.writer != kLineSplit && repeated(me, line)) {
                at = to;
                continue;
            }
            if (line.writer != kLineSplit) split_line(r, index);
            if (at & 3 || to & 3) return false;
            const size_t word = (at - r.begin) / 4;
            if (!undisturbed(me, r.words + word, r.word_times + word, (to - at) / 4)) return false;
            if (whole) join_line(r, index);
        } else if (!repeated(me, line) && !undisturbed(me, &line, r.line_times + index, 1)) return false;
        at = to;
    }
    if (write) std::memset(shadow, 1, bytes);
    return true;
}

template <int Words> static bool known_lanes(const Records& r, uint64_t mine, const Reach& reach, bool write) {
    uint64_t news = 0;
    auto lane     = [&](int l) {
        const size_t word   = (reach.addr[l] - r.begin) / 4;
        const Record* line  = r.lines + word / kLineWords;
        const bool is_split = line->writer == kLineSplit;
        const Record* own   = is_split ? r.words + word : line;
        for (int k = 0; k < Words; k++)
            news |= (write ? own[is_split ? k : 0].writer : own[is_split ? k : 0].reader) ^ mine;
    };
    if (reach.mask == kAll)
        for (int l = 0; l < kLanes; l++) lane(l);
    else each_lane(reach.mask, lane);
    return !(news & ~(write ? 0 : kMany | kWarps));
}

bool known_global(const Warp& w, uint32_t size, Touch touch, const Reach& reach) {
    if (reach.shape != Reach::Scattered || (touch != Touch::Load && touch != Touch::Store)) return false;
    const bool write    = touch == Touch::Store;
    const uint64_t mine = base_record(w) | kBytes;
    switch (size) {
        case 4: return known_lanes<1>(records(), mine, reach, write);
        case 8: return known_lanes<2>(records(), mine, reach, write);
        case 16: return known_lanes<4>(records(), mine, reach, write);
        default: return false;
    }
}

void start_global_races(Block& b) { b.actor = &b.launch->races->of(b.index); }

// Calls f for each block of the cluster, with the time up to which this warp, which is at `now`, knows what a warp of
// it has done. As in its own block, this counts for all of them.
template <class F> static void each_known(const Warp& w, uint32_t now, F f) {
    const SharedRaces& s = *w.block->races;
    for (const auto& b : w.block->cluster->blocks) {
        uint64_t known = s.all_since;
        if (b.get() == w.block) known = s.start + now;
        else if (b->races == w.block->races)
            for (const Warp& v : b->warps) known = std::max(known, s.knows[w.actor * s.stride + v.actor]);
        else known = s.start + time_of(*b->races);
        f(*b->actor, uint32_t(std::min<uint64_t>(known - s.start, kLastTime)));
    }
}
static void raise(std::atomic<uint32_t>& time, uint32_t to) {
    time.store(std::max(to, time.load(std::memory_order_relaxed)), std::memory_order_relaxed);
}

static Finding race(Warp& w, const Instr* i, Touch how, int lane, uint64_t other, bool other_wrote, Address at) {
    const Self me    = self_of(w, how);
    const Verdict v  = other >> kOperation != me.number             ? Verdict::Streams
                       : (other >> kBlock & kBlockMask) == me.block ? Verdict::Warps
                                                                    : Verdict::Blocks;
    const auto& open = records().recent.back().open_at_start;
    const bool early = std::find(open.begin(), open.end(), other >> kOperation) != open.end();
    const Kind kind  = v == Verdict::Streams ? early ? Kind::EarlyRace : Kind::StreamRace
                       : v == Verdict::Warps ? Kind::WarpRace
                                             : Kind::GlobalRace;
    Finding f        = finding_at(w, i, kind, lane, sentence(v, me, other, other_wrote, at));
    f.address        = at;
    f.allocation     = Memory::get().describe(at);
    return f;
}

void check_global_races(Warp& w, const Instr* i, uint32_t size, Touch how, const Reach& reach) {
    const Self me = self_of(w, how);
    if (me.sync && how != Touch::Reduce) {
        w.block->races->uses_flag(w.actor);
        each_known(w, me.time + 1, [&](GlobalActor& actor, uint32_t known) {
            actor.listens.store(1, std::memory_order_relaxed);
            if (me.write) raise(actor.signalled, known);
        });
        if (me.write) w.block->races->time++;
    }
    auto piece = [&](int lane, Address a, size_t bytes) {
        touch(me, a, bytes, [&](Verdict v, uint64_t other, bool other_wrote, Address at) {
            if (reach.shape == Reach::Contiguous) lane = int((at - reach.addr[0]) / size);
            if (v != Verdict::Streams && how == Touch::Store && other_wrote && size <= 16) {
                const auto write_race = [](const Suspect& s) {
                    return race(*s.warp, s.at, Touch::Store, s.lane, s.other, true, s.address);
                };
                suspect({&w, i, lane, at, other, write_race, size, Memory::get().host(reach.addr[lane]), {}});
            } else report(race(w, i, how, lane, other, other_wrote, at));
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
    each_known(w, time_of(*w.block->races), [](GlobalActor& actor, uint32_t known) {
        raise(actor.fenced, known);
        raise(actor.signalled, known);
        actor.listens.store(1, std::memory_order_relaxed);
    });
}

void note_api_access(Address a, size_t bytes, bool write, const char* what, uint32_t op) {
    Records& r       = records();
    // A call that touches several ranges stays one operation.
    const bool again = op && !r.recent.empty() && r.recent.back().op == op;
    if (!again) start_operation(op, what);
    const uint64_t number = r.recent.back().number;
    const Self me{number, 0, &r.unordered, number << kOperation, 0, 0, write, false};
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
    madvise(r.word_times + (a - r.begin) / 4, bytes / 4 * sizeof(When), MADV_DONTNEED);
    // Only whole pages of line records are freed. The addresses are not used again, so the other records do not matter.
    constexpr uintptr_t page = 4096;
    const auto from          = (uintptr_t(r.lines + (a - r.begin) / kLineBytes) + page - 1) / page * page;
    const auto to            = uintptr_t(r.lines + (a + bytes - r.begin) / kLineBytes) / page * page;
    if (from < to) madvise(reinterpret_cast<void*>(from), to - from, MADV_DONTNEED);
}

void Memory::set_order(OrderedBefore ordered, FollowedBy followed) {
    if (options().check == Check::All) records().before = ordered, records().followed = followed;
}

}  // namespace emu
