// collective.h - what processes compute together: sums, scattered sums and gathered tensors, by NCCL or MPI
//
// NCCL moves tensors between GPUs. MPI moves those of the CPU, and adds nothing itself: each process receives the other
// processes' terms of its own slice, and adds them in the order of the ranks. So the bits depend neither on the MPI
// library nor on which message arrives first, and a sum has the same bits however it is cut.
//
// On a GPU all calls are queued on a stream of their own, beside the ops. follow() and wait() say what waits for what.
// On the CPU a call returns when it is done, and those two do nothing.
#pragma once
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "device.h"

// How a flat tensor is cut: rank r has elements [first[r], first[r] + count[r]). The slices may differ in length.
struct Cut {
    std::vector<int64_t> first, count;
    // Slices in the order of the ranks, whose lengths differ by at most one element.
    static Cut even(int64_t elements, int world);
    bool is_even() const;
};

// Whether a scattered sum replaces what is there, or is added to it.
enum class Sum : uint8_t { set, add };

class CollectiveHalf;

// One process's membership in a group of `world` processes, which are numbered by rank. All of them make the same calls
// in the same order.
class Collective {
  public:
    // The library for the tensors of a machine, such as "NCCL 2.28.3" or "Open MPI 4.1.4". It is "" when the binary was
    // built without it, or when Open MPI is not installed here.
    static std::string library(Machine where);
    // Says why several processes cannot work together on such a machine, and what would help, or "" when they can.
    static std::string obstacle(Machine where);
    // What the binary was built with, for --version: "NCCL 2.28, Open MPI 4.1.4".
    static std::string backends();
    // The memory beside the tensors that a member takes. `most` is the largest number of elements that are summed at
    // once, and `wire` the dtype in which they travel. NCCL's own buffers are not known here, and not counted.
    static int64_t scratch_bytes(Machine where, int64_t most, DType wire);
    // The id of a new group. One process makes it, sends it to the others, and all build their Collective with it.
    static std::string new_id(Machine where);

    // Returns when every process of the group has called it. RunError when MPI numbers the processes differently.
    Collective(const std::string& id, int rank, int world, Stream s);
    // Unless finish() was called, NCCL aborts what is under way: after an error the other processes may never answer.
    ~Collective();
    Collective(const Collective&)            = delete;
    Collective& operator=(const Collective&) = delete;

    // Takes the memory for sums of up to `most` elements that travel in bf16. Call it before the first of them.
    void reserve(int64_t most) const;
    // Replaces every tensor (fp32) by its sum over the processes, with the same bits in each of them. wire: F32, or
    // BF16 for half the bytes. In bf16 every process's terms are rounded to it first. MPI adds them up in fp32 in the
    // order of the ranks. NCCL rounds to bf16 after each addition, in an order that it chooses.
    void sum(std::initializer_list<Tensor> tensors, DType wire = DType::F32) const;
    // slice = or += this rank's part of the sum of `whole` (both flat fp32). With Sum::set, `slice` may lie where it is
    // cut from `whole`. What `whole` holds afterwards is not defined outside of such a slice. wire: as above.
    void reduce_scatter(Tensor slice, Tensor whole, const Cut& cut, Sum into, DType wire = DType::F32) const;
    // whole = the slices of all ranks (fp32 or bf16). `slice` may lie where it belongs in `whole`.
    void all_gather(Tensor whole, Tensor slice, const Cut& cut) const;
    // The same, but only in rank `root`; whole is null elsewhere.
    void gather(Tensor whole, Tensor slice, const Cut& cut, int root) const;

    // What is called from here on waits for all work that was queued on s so far.
    void follow(Stream s) const;
    void follow(Event e) const;  // the same for what an event stands for
    // Marks what was called so far by a number from 0 on.
    void mark(int number) const;
    // What is queued on s from here on waits for what the last mark() of this number stands for. There must be one.
    void wait(int number, Stream s) const;

    void finish();  // returns when all queued work is done in every process; no other call may follow

  private:
    void expect_slices(const Tensor& slice, const Tensor& whole, const Cut& cut) const;
    int rank_, world_;
    std::shared_ptr<CollectiveHalf> half_;
};
