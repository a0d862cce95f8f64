// segment.h - the shared memory in which the ranks of one communicator meet
//
// A collective moves its data in rounds of one chunk. Each rank copies its share of the round into its staging area and
// publishes the round. When all have done that, each takes what it needs and marks the round as consumed. The next
// round overwrites the staging areas. Point-to-point messages have a channel for each ordered pair of ranks. Ranks may
// be processes, threads, or several communicators of one thread, so nothing blocks here: a rank that must wait tries
// again later.
#pragma once
#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace emu {

// The call of a rank, which the other ranks compare with their own before a byte is moved.
struct CallRecord {
    char function[24];
    uint64_t count, sequence;
    int32_t type, op, root;
};

struct Slot {
    std::atomic<uint64_t> published, consumed;  // rounds, counted over the communicator's life
    std::atomic<int32_t> pid;                   // 0 before the rank has joined
    std::atomic<int32_t> left;                  // not 0 when the rank has aborted its communicator
    CallRecord call;
    std::atomic<uint64_t> split_step;
    int32_t split_color, split_key;
};

struct Channel {
    std::atomic<uint64_t> written, taken;  // the numbers of chunks
    CallRecord call;                       // that sends the chunk
    uint64_t chunk_bytes;
};

constexpr int max_ranks = 64;

struct Header {
    std::atomic<uint32_t> attached;
    std::atomic<int32_t> aborted;  // 1 + the rank that aborted, else 0
    int32_t ranks;
    Slot slots[max_ranks];
};

class Segment {
  public:
    // Creates the segment or joins it. Throws std::runtime_error with a sentence for the user.
    Segment(const std::string& name, int ranks, int rank);
    ~Segment();
    bool complete() const { return header->attached == uint32_t(header->ranks); }
    void unlink();  // removes the name; the memory lives as long as a process maps it

    Header* header;
    size_t chunk_bytes, channel_bytes;
    std::byte* staging(int rank) const { return base + staging_at + size_t(rank) * chunk_bytes; }
    Channel& channel(int from, int to) const;
    std::byte* channel_data(int from, int to) const {
        return reinterpret_cast<std::byte*>(&channel(from, to)) + (sizeof(Channel) + 63) / 64 * 64;
    }

  private:
    std::string name;
    int ranks;
    std::byte* base;
    size_t total, staging_at, channels_at;
};

}  // namespace emu
