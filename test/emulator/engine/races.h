// races.h - the checks for races between threads, blocks, streams and the host
#pragma once
#include <map>
#include <string>

#include "access.h"
#include "memory.h"

namespace emu {

// The state of a block's race checks: records of its shared memory, and what orders its warps. A record is
// time (32 bits) | how much earlier the other reader was (10) | other reader (10) | flags (2) | thread (10).
struct SharedRaces {
    std::vector<uint64_t> writer, reader;
    uint64_t time = 1, all_since = 1;  // now, and the last barrier of all threads
    uint64_t start = 0;                // of this block; the time goes on from one block to the next
    std::vector<uint64_t> knows;       // [w * stride + v]: the last barrier at which warps w and v met
    size_t stride = 0;                 // the number of warps, or kWide
    // Per warp:
    std::vector<uint64_t> warp_since;  // its last __syncwarp or barrier
    std::vector<uint64_t> fenced;      // its last fence
    std::vector<uint64_t> agreed;      // its last fence that was followed by an atomic or volatile access
    std::vector<uint64_t> exchanged;   // its last exchange (shuffle, vote …) after a read
    std::vector<uint32_t> exchangers;  // the lanes that took part in it
    std::vector<uint8_t> has_read;     // 1 when it has read since then
    std::vector<uint8_t> listens;      // 1 after an atomic or volatile access, or a fence
    std::vector<uint8_t> turn;         // its number, and 3 bits that change when it synchronises
    bool partial = false;              // there was a fence, or a barrier of some of the warps
    int shift    = 2;                  // log2 of the bytes of a granule

    // When a block first uses an mbarrier or the async proxy, its rows of `knows` get kWide entries. Behind the warps
    // are columns of the mbarriers by which bulk copies end: what such a copy has written is recorded as the write of a
    // thread of that column. The last columns are those of the warpgroups: what wgmma reads is recorded as their read.
    // The other half of a row says up to which time a warp's generic writes lie before a fence.proxy.async that the
    // row's warp knows of.
    static constexpr size_t kColumns = 32, kWide = 2 * kColumns;
    struct Clock {
        std::vector<uint64_t> arrived, over;  // rows: what arrivals of this phase know, and those of completed phases
        size_t column;                        // of the copies that end by it; 0: no column is left
        uint64_t init = 0;                    // when it was initialised and not fenced since, and by which thread
        uint32_t by   = 0;
    };
    std::map<uint64_t, Clock> clocks;  // of the mbarriers, by their address
    // By the number of a barrier: what those know who have arrived there without waiting (bar.arrive).
    std::map<int, std::vector<uint64_t>> passed;
    void widen();
    bool wide() const { return stride == kWide; }

    void synchronised(size_t warp) { turn[warp] = uint8_t((warp & 31) | time << 5); }
    void uses_flag(size_t warp) { listens[warp] = 1, agreed[warp] = fenced[warp]; }
    // Returns whether an access by warp v at the time `when` is ordered before one that warp w makes now.
    bool ordered(size_t w, size_t v, uint64_t when) const {
        if (when < all_since) return true;
        if (w == v) return when < warp_since[w] || when < agreed[w];
        return when < knows[w * stride + v] || (v < fenced.size() && fenced[v] > when && listens[w]);
    }
};

// These return true when the last access to each lane's bytes was the same one, so that nothing has to be checked.
bool known_shared(const Warp& w, uint32_t size, Touch touch, const Reach& r);
bool known_global(const Warp& w, uint32_t size, Touch touch, const Reach& r);

// shared_races.cpp
void start_shared_races(Block& b);
void check_shared_races(Warp& w, const Instr* i, uint32_t size, Touch touch, const Reach& r);
// An mbarrier orders those who arrive, and the copies that end by it, before those who wait for the phase.
void clock_arrival(Warp& w, uint64_t barrier);
void clock_copy(Block& b, uint64_t barrier, uint64_t first, uint32_t bytes);  // the copy has written these bytes
void clock_phase(Block& b, uint64_t barrier);                                 // the phase is over
void clock_wait(Warp& w, uint64_t barrier);
void clock_init(Warp& w, int lane, uint64_t barrier);
void proxy_fence(Warp& w, bool of_init);  // of_init: fence.mbarrier_init
// Reports bytes that threads wrote with no fence.proxy.async before the async proxy reads them now.
void check_proxy(Warp& w, const Instr* i, int lane, uint64_t first, uint32_t bytes, const char* reader);
// What wgmma reads: chunks of 16 bytes at these places. When a warp comes to a product, it must be ordered after those
// who wrote them. When the product is made, its reads are recorded with a time, which a wait makes known to its warp.
void check_wgmma_reads(Warp& w, const Instr* i, const uint32_t* at, size_t n);
uint64_t record_wgmma_reads(Warp& w, uint32_t warpgroup, const uint32_t* at, size_t n);
void learn_wgmma_reads(Warp& w, uint32_t warpgroup, uint64_t time);
void check_proxy_of_barrier(Warp& w, const Instr* i, int lane, uint64_t barrier);

// global_races.cpp
void start_global_races(Block& b);
void check_global_races(Warp& w, const Instr* i, uint32_t size, Touch touch, const Reach& r);
void note_api_access(Address a, size_t bytes, bool write, const char* what, uint32_t op);
void forget_races(Address a, size_t bytes);  // called when the memory is freed

// host_guard.cpp: memory that the host must not touch; see Memory::own.
struct HostOwner {
    Address begin;
    size_t bytes;
    Access access;
    std::string what;
};
void install_fault_handler();

// A write that is not ordered with another write to the same place. It is a race unless both store the same value,
// which is known only after the store.
struct Suspect {
    Warp* warp;
    const Instr* at;
    int lane;
    uint64_t address, other;  // `other` identifies the other access
    Finding (*finding)(const Suspect&);
    uint32_t bytes;
    const std::byte* place;
    std::byte before[16];
};
inline void suspect(Suspect s) {
    std::memcpy(s.before, s.place, s.bytes);
    s.warp->worker->suspects.push_back(s);
}
void settle_suspects(Worker& worker);

// Returns true when this store only adds to the count of an info that has been reported for the instruction:
// overlapping stores of the same value.
bool overlaps_again(Warp& w, const Instr* i, uint32_t size, const Reach& r);

}  // namespace emu
