// collective.cu - see collective.h
#include "collective.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <set>

#include "host.h"
#ifdef GPT_MPI
#include "open_mpi.h"
#endif
#ifdef GPT_NCCL
#include "open_nccl.h"
#include "queue.cuh"
#endif

Cut Cut::even(int64_t elements, int world) {
    Cut cut;
    for (int r = 0; r < world; r++) {
        cut.first.push_back(elements * r / world);
        cut.count.push_back(elements * (r + 1) / world - cut.first[r]);
    }
    return cut;
}
bool Cut::is_even() const {
    for (size_t r = 0; r < count.size(); r++)
        if (count[r] != count[0] || first[r] != int64_t(r) * count[0]) return false;
    return true;
}

constexpr int64_t scratch_floats = 4 << 20;  // of a reduce_scatter() by MPI, at most: 16 MiB
int64_t Collective::scratch_bytes(Machine where, int64_t most, DType wire) {
    if (where == Machine::cpu) return 4 * std::min(scratch_floats, most);
    return wire == DType::BF16 ? 2 * most : 0;
}

// What each of the two libraries does for a Collective.
class CollectiveHalf {
  public:
    int64_t reserved = 0;  // elements
    std::set<int> marks;   // the numbers that were marked
    virtual ~CollectiveHalf() = default;
    virtual void reserve(int64_t) {}
    virtual void sum(std::initializer_list<Tensor> tensors, DType wire)                           = 0;
    virtual void reduce_scatter(Tensor slice, Tensor whole, const Cut& cut, Sum into, DType wire) = 0;
    virtual void all_gather(Tensor whole, Tensor slice, const Cut& cut)                           = 0;
    virtual void gather(Tensor whole, Tensor slice, const Cut& cut, int root)                     = 0;
    virtual void follow(Stream) {}
    virtual void follow(Event) {}
    virtual void mark(int) {}
    virtual void wait(int, Stream) {}
    virtual void finish() = 0;
};

// ---- MPI ------------------------------------------------------------------------------------------------------------

#ifdef GPT_MPI
namespace cpu {

class MpiHalf : public CollectiveHalf {
  public:
    MpiHalf(int rank, int world) : rank_(rank), world_(world) { mpi::start(rank, world); }

    // Small tensors travel together, each process's to all, because a message costs as much time as 10,000 numbers.
    void sum(std::initializer_list<Tensor> tensors, DType wire) override {
        std::vector<float> mine;
        for (const Tensor& t : tensors)
            if (travels_small(t, wire)) mine.insert(mine.end(), t.data<float>(), t.data<float>() + t.numel());
        const size_t small = mine.size();
        std::vector<float> all(small * size_t(world_));
        MPI_CALL(MPI_Allgather, mine.data(), int(small), type(4), all.data(), int(small), type(4), mpi::everybody());
        const float* terms = all.data();
        for (const Tensor& t : tensors) {
            if (!travels_small(t, wire)) {
                const Cut cut      = Cut::even(t.numel(), world_);
                const Tensor whole = t.view({t.numel()}), slice = whole.rows(cut.first[rank_], cut.count[rank_]);
                reduce_scatter(slice, whole, cut, Sum::set, wire);
                all_gather(whole, slice, cut);
                continue;
            }
            add_in_order(t.data<float>(), t.numel(), Sum::set, [&](int r) { return terms + size_t(r) * small; });
            terms += t.numel();
        }
    }

    // A slice goes in parts, so that the other ranks' terms of a part fit into the scratch memory. In bf16 the terms
    // that are sent lie in front of those that are received.
    void reduce_scatter(Tensor slice, Tensor whole, const Cut& cut, Sum into, DType wire) override {
        const bool narrow  = wire == DType::BF16;
        const int64_t most = std::max<int64_t>(scratch_floats / world_, 1024);
        for (int64_t at = 0; at < longest(cut); at += most) {
            Parts sent(cut, at, most, narrow ? -1 : rank_);
            const int64_t n = std::clamp<int64_t>(cut.count[rank_] - at, 0, most);
            std::vector<int> counts, places;
            for (int r = 0; r < world_; r++) {
                counts.push_back(r == rank_ && !narrow ? 0 : int(n));
                places.push_back(int(r * n));
            }
            const float* own = whole.data<float>() + cut.first[rank_] + at;
            if (narrow) {
                const int64_t all = std::accumulate(sent.counts.begin(), sent.counts.end(), int64_t(0));
                scratch_.resize(std::max(scratch_.size(), size_t((all + n * world_ + 1) / 2)));
                bf16* const mine = reinterpret_cast<bf16*>(scratch_.data());
                int64_t packed   = 0;
                for (int r = 0; r < world_; packed += sent.counts[r++]) {
                    const int64_t count = sent.counts[r];
                    if (count)
                        copy(Tensor{mine + packed, DType::BF16, {count}}, whole.rows(sent.places[r], count), Stream{});
                    sent.places[r] = int(packed);
                }
                const bf16* const theirs = mine + all;
                MPI_CALL(MPI_Alltoallv, mine, sent.counts.data(), sent.places.data(), type(2), mine + all,
                         counts.data(), places.data(), type(2), mpi::everybody());
                if (n) add_in_order(slice.data<float>() + at, n, into, [&](int r) { return theirs + r * n; });
                continue;
            }
            scratch_.resize(std::max(scratch_.size(), size_t(n * world_)));
            MPI_CALL(MPI_Alltoallv, whole.ptr, sent.counts.data(), sent.places.data(), type(4), scratch_.data(),
                     counts.data(), places.data(), type(4), mpi::everybody());
            if (n == 0) continue;
            add_in_order(slice.data<float>() + at, n, into,
                         [&](int r) { return r == rank_ ? own : scratch_.data() + r * n; });
        }
    }

    void all_gather(Tensor whole, Tensor slice, const Cut& cut) override {
        place_own(whole, slice, cut);
        for (int64_t at = 0; at < longest(cut); at += most_at_once) {
            const Parts parts(cut, at, most_at_once);
            const MPI_Datatype element = type(size_of(whole.dtype));
            MPI_CALL(MPI_Allgatherv, MPI_IN_PLACE, 0, element, whole.ptr, parts.counts.data(), parts.places.data(),
                     element, mpi::everybody());
        }
    }

    void gather(Tensor whole, Tensor slice, const Cut& cut, int root) override {
        const bool here = rank_ == root;
        if (here) place_own(whole, slice, cut);
        const int64_t bytes = size_of(slice.dtype);
        for (int64_t at = 0; at < longest(cut); at += most_at_once) {
            const Parts parts(cut, at, most_at_once);
            MPI_CALL(MPI_Gatherv, here ? MPI_IN_PLACE : static_cast<const char*>(slice.ptr) + at * bytes,
                     parts.counts[rank_], type(bytes), whole.ptr, parts.counts.data(), parts.places.data(), type(bytes),
                     root, mpi::everybody());
        }
    }

    void finish() override { MPI_CALL(MPI_Finalize); }

  private:
    static bool travels_small(const Tensor& t, DType wire) { return t.numel() <= 4096 && wire == DType::F32; }
    static constexpr int64_t most_at_once = int64_t(1) << 28;  // elements of a slice; MPI counts in int

    // Of each slice, the part of at most `most` elements that begins `at` elements behind its beginning.
    struct Parts {
        std::vector<int> counts, places;
        Parts(const Cut& cut, int64_t at, int64_t most, int without = -1) {
            for (size_t r = 0; r < cut.first.size(); r++) {
                const int64_t place = cut.first[r] + std::min(at, cut.count[r]);
                CHECK_CALL(place <= INT32_MAX, "MPI numbers the elements of a tensor up to 2^31, not to {}", place);
                places.push_back(int(place));
                counts.push_back(int(r) == without ? 0 : int(std::clamp<int64_t>(cut.count[r] - at, 0, most)));
            }
        }
    };
    static int64_t longest(const Cut& cut) { return *std::max_element(cut.count.begin(), cut.count.end()); }
    static MPI_Datatype type(int64_t bytes) { return mpi::type_of(bytes); }

    // to[0, n) = or += term(0) + term(1) + …: pointers to n numbers of each rank, in fp32 or bf16.
    template <class Term>
    void add_in_order(float* to, int64_t n, Sum into, Term term) const {
        host::parallel_ranges(n, 1 << 14, [&](int64_t begin, int64_t end) {
            float sums[1024];  // stay in the cache while one rank's terms after another's are added
            for (int64_t i = begin, k; i < end; i += k) {
                k = std::min<int64_t>(1024, end - i);
                std::copy(term(0) + i, term(0) + i + k, sums);
                for (int r = 1; r < world_; r++) {
                    const auto* x = term(r) + i;
                    for (int64_t j = 0; j < k; j++) sums[j] += float(x[j]);
                }
                for (int64_t j = 0; j < k; j++) to[i + j] = into == Sum::set ? sums[j] : to[i + j] + sums[j];
            }
        });
    }
    void place_own(Tensor whole, Tensor slice, const Cut& cut) const {
        if (cut.count[rank_] == 0) return;
        const Tensor own = whole.rows(cut.first[rank_], cut.count[rank_]);
        if (own.ptr != slice.ptr) copy(own, slice, Stream{});
    }

    int rank_, world_;
    std::vector<float> scratch_;
};

}  // namespace cpu
#endif

// ---- NCCL -----------------------------------------------------------------------------------------------------------

#ifdef GPT_NCCL
namespace gpu {

// NCCL's last error of the communicator, or of any when it is null, says more than the status.
static void check(ncclResult_t status, ncclComm_t communicator, const char* call, const char* file, int line) {
    if (status == ncclSuccess) return;
    throw_at<RunError>(file, line, "NCCL: {} from {}: {}", NCCL_CALL(ncclGetErrorString, status), call,
                       NCCL_CALL(ncclGetLastError, communicator));
}
// Makes a call, and throws a RunError that names it when it fails.
#define NCCL_RUN(communicator, function, ...) \
    gpu::check(nccl::find<decltype(function)>(#function)(__VA_ARGS__), communicator, #function "()", __FILE__, __LINE__)

static ncclDataType_t nccl_type(const Tensor& t) {
    CHECK_CALL(t.dtype == DType::F32 || t.dtype == DType::BF16, "NCCL moves fp32 and bf16, not {}", t.str());
    return t.dtype == DType::F32 ? ncclFloat : ncclBfloat16;
}
static char* element_of(const Tensor& t, int64_t i) { return static_cast<char*>(t.ptr) + i * size_of(t.dtype); }

// to = or += from. To bf16 it rounds to nearest.
template <bool adds, class To, class From>
__global__ void move_kernel(To* to, const From* from, int64_t n) {
    const int64_t threads = int64_t(gridDim.x) * blockDim.x;
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += threads)
        to[i] = To(float(from[i]) + (adds ? float(to[i]) : 0.f));
}

class NcclHalf : public CollectiveHalf {
  public:
    NcclHalf(const std::string& id, int rank, int world) : rank_(rank), world_(world) {
        ncclUniqueId unique;
        CHECK_CALL(id.size() == sizeof unique, "an id of NCCL has {} bytes, this one has {}", sizeof unique, id.size());
        std::memcpy(&unique, id.data(), sizeof unique);
        CUDA_RUN(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
        CUDA_RUN(cudaEventCreateWithFlags(&followed_, cudaEventDisableTiming));
        NCCL_RUN(nullptr, ncclCommInitRank, &nccl_, world, unique, rank);
    }
    // Statuses are not looked at: at the end of a program that failed, nothing here can succeed.
    ~NcclHalf() override {
        if (nccl_) NCCL_CALL(ncclCommAbort, nccl_);
        for (cudaEvent_t e : marks_) cudaEventDestroy(e);
        if (narrow_) cudaFree(narrow_);
        cudaEventDestroy(followed_);
        cudaStreamDestroy(stream_);
    }

    void reserve(int64_t most) override {
        CHECK_CALL(!narrow_, "reserve() was called before, for fewer elements than {}", most);
        CUDA_RUN(cudaMalloc(&narrow_, size_t(most) * sizeof(bf16)));
    }

    void sum(std::initializer_list<Tensor> tensors, DType wire) override {
        if (wire == DType::BF16) {
            for (const Tensor& t : tensors) {
                const Tensor narrow = narrowed(t);
                NCCL_RUN(nccl_, ncclAllReduce, narrow.ptr, narrow.ptr, size_t(t.numel()), ncclBfloat16, ncclSum, nccl_,
                         stream_);
                move<false>(t.data<float>(), narrow.data<bf16>(), t.numel());
            }
            return;
        }
        NCCL_RUN(nccl_, ncclGroupStart);
        for (const Tensor& t : tensors)
            NCCL_RUN(nccl_, ncclAllReduce, t.ptr, t.ptr, size_t(t.numel()), ncclFloat, ncclSum, nccl_, stream_);
        NCCL_RUN(nccl_, ncclGroupEnd);
    }
    // In fp32 NCCL writes the sum of the own slice into `whole`, so that no other memory is needed.
    void reduce_scatter(Tensor slice, Tensor whole, const Cut& cut, Sum into, DType wire) override {
        const bool narrow         = wire == DType::BF16;
        const Tensor sent         = narrow ? narrowed(whole) : whole;
        const ncclDataType_t type = nccl_type(sent);
        const int64_t n           = cut.count[rank_];
        char* const own           = element_of(sent, cut.first[rank_]);
        if (cut.is_even()) {
            NCCL_RUN(nccl_, ncclReduceScatter, sent.ptr, own, size_t(n), type, ncclSum, nccl_, stream_);
        } else {
            NCCL_RUN(nccl_, ncclGroupStart);
            for (int r = 0; r < world_; r++) {
                char* part = element_of(sent, cut.first[r]);
                if (cut.count[r])
                    NCCL_RUN(nccl_, ncclReduce, part, part, size_t(cut.count[r]), type, ncclSum, r, nccl_, stream_);
            }
            NCCL_RUN(nccl_, ncclGroupEnd);
        }
        if (n == 0 || own == slice.ptr) return;
        const bool adds = into == Sum::add;
        float* const to = slice.data<float>();
        if (narrow) {
            const bf16* from = reinterpret_cast<const bf16*>(own);
            return adds ? move<true>(to, from, n) : move<false>(to, from, n);
        }
        if (adds) return move<true>(to, reinterpret_cast<const float*>(own), n);
        CUDA_RUN(cudaMemcpyAsync(to, own, size_t(n) * 4, cudaMemcpyDeviceToDevice, stream_));
    }
    void all_gather(Tensor whole, Tensor slice, const Cut& cut) override {
        const ncclDataType_t type = nccl_type(whole);
        if (cut.is_even())
            return NCCL_RUN(nccl_, ncclAllGather, slice.ptr, whole.ptr, size_t(cut.count[0]), type, nccl_, stream_);
        NCCL_RUN(nccl_, ncclGroupStart);
        for (int r = 0; r < world_; r++) {
            char* part = element_of(whole, cut.first[r]);
            if (cut.count[r])
                NCCL_RUN(nccl_, ncclBroadcast, r == rank_ ? slice.ptr : part, part, size_t(cut.count[r]), type, r,
                         nccl_, stream_);
        }
        NCCL_RUN(nccl_, ncclGroupEnd);
    }
    void gather(Tensor whole, Tensor slice, const Cut& cut, int root) override {
        const int64_t mine = cut.count[rank_];
        NCCL_RUN(nccl_, ncclGroupStart);
        for (int r = 0; r < world_ && rank_ == root; r++)
            if (r != rank_ && cut.count[r])
                NCCL_RUN(nccl_, ncclRecv, element_of(whole, cut.first[r]), size_t(cut.count[r]), nccl_type(whole), r,
                         nccl_, stream_);
        if (mine && rank_ != root)
            NCCL_RUN(nccl_, ncclSend, slice.ptr, size_t(mine), nccl_type(slice), root, nccl_, stream_);
        NCCL_RUN(nccl_, ncclGroupEnd);
        if (mine && rank_ == root && element_of(whole, cut.first[rank_]) != slice.ptr)
            CUDA_RUN(cudaMemcpyAsync(element_of(whole, cut.first[rank_]), slice.ptr, size_t(slice.bytes()),
                                     cudaMemcpyDeviceToDevice, stream_));
    }

    void follow(Stream s) override {
        CUDA_RUN(cudaEventRecord(followed_, queue_of(s).stream));
        CUDA_RUN(cudaStreamWaitEvent(stream_, followed_, 0));
    }
    void follow(Event e) override {
        if (e) CUDA_RUN(cudaStreamWaitEvent(stream_, static_cast<cudaEvent_t>(e.handle), 0));
    }
    void mark(int number) override {
        while (int(marks_.size()) <= number) {
            marks_.push_back(nullptr);
            CUDA_RUN(cudaEventCreateWithFlags(&marks_.back(), cudaEventDisableTiming));
        }
        CUDA_RUN(cudaEventRecord(marks_[size_t(number)], stream_));
    }
    void wait(int number, Stream s) override {
        CUDA_RUN(cudaStreamWaitEvent(queue_of(s).stream, marks_[size_t(number)], 0));
    }
    void finish() override { NCCL_RUN(nullptr, ncclCommDestroy, std::exchange(nccl_, nullptr)); }

  private:
    template <bool adds, class To, class From>
    void move(To* to, const From* from, int64_t n) {
        const auto blocks = unsigned(std::min<int64_t>(ceil_div(n, int64_t(256)), 1024));
        move_kernel<adds><<<blocks, 256, 0, stream_>>>(to, from, n);
        CUDA_RUN(cudaGetLastError());
    }
    // Returns a copy in bf16, which lasts until the next one.
    Tensor narrowed(Tensor t) {
        move<false>(narrow_, t.data<float>(), t.numel());
        return {narrow_, DType::BF16, {t.numel()}};
    }

    int rank_, world_;
    bf16* narrow_         = nullptr;
    ncclComm_t nccl_      = nullptr;
    cudaStream_t stream_  = nullptr;
    cudaEvent_t followed_ = nullptr;
    std::vector<cudaEvent_t> marks_;
};

}  // namespace gpu
#endif

// ---- both -----------------------------------------------------------------------------------------------------------

std::string Collective::library(Machine where) {
#ifdef GPT_MPI
    if (where == Machine::cpu) return mpi::version();
#endif
#ifdef GPT_NCCL
    int version = 0;
    if (where == Machine::cuda && nccl::library()) {
        NCCL_RUN(nullptr, ncclGetVersion, &version);
        return fmt::format("NCCL {}.{}.{}", version / 10000, version / 100 % 100, version % 100);
    }
#endif
    (void)where;
    return "";
}

std::string Collective::obstacle(Machine where) {
    const bool cpu = where == Machine::cpu;
    if (library(where).empty())
        return cpu ? "this binary was built without Open MPI, or it is not installed here; install it (apt-get install "
                     "openmpi-bin libopenmpi-dev) and run make again"
                   : "this binary was built without NCCL, or its libnccl.so.2 is not found here; install it "
                     "(apt-get install libnccl2 libnccl-dev) and run make again";
#ifdef GPT_MPI
    if (cpu && !mpi::launched())
        return "on CPUs they must be started by mpirun, or under Slurm by srun --mpi=pmix, which Open MPI knows";
#endif
    return "";
}

std::string Collective::backends() {
    std::string nccl, mpi = "no MPI";
#ifdef GPT_NCCL
    nccl = fmt::format("NCCL {}.{}, ", NCCL_MAJOR, NCCL_MINOR);
#endif
#ifdef GPT_MPI
    mpi = fmt::format("Open MPI {}.{}.{}", OMPI_MAJOR_VERSION, OMPI_MINOR_VERSION, OMPI_RELEASE_VERSION);
#endif
    return nccl + mpi;
}

// MPI needs none, because the launcher has put the processes into a group.
std::string Collective::new_id(Machine where) {
#ifdef GPT_NCCL
    ncclUniqueId id;
    if (where == Machine::cuda) {
        NCCL_RUN(nullptr, ncclGetUniqueId, &id);
        return std::string(reinterpret_cast<const char*>(&id), sizeof id);
    }
#endif
    (void)where;
    return "";
}

Collective::Collective(const std::string& id, int rank, int world, Stream s) : rank_(rank), world_(world) {
#ifdef GPT_NCCL
    if (s.where == Machine::cuda) half_ = std::make_shared<gpu::NcclHalf>(id, rank, world);
#endif
#ifdef GPT_MPI
    if (s.where == Machine::cpu) half_ = std::make_shared<cpu::MpiHalf>(rank, world);
#endif
    (void)id;
    CHECK(half_, "rank {} of {}: this binary was built without {}", rank, world,
          s.where == Machine::cpu ? "MPI" : "NCCL");
}
Collective::~Collective() = default;

void Collective::reserve(int64_t most) const {
    if (most <= half_->reserved) return;
    half_->reserve(most);
    half_->reserved = most;
}
// Every tensor that is summed has this dtype, and in bf16 there is room for it.
static void expect_sum(const Tensor& t, DType wire, int64_t reserved) {
    expect_dtype(t, DType::F32);
    CHECK_CALL(wire == DType::F32 || t.numel() <= reserved, "a sum of {} in bf16, but reserve() was for {} elements",
               t.str(), reserved);
}
void Collective::sum(std::initializer_list<Tensor> tensors, DType wire) const {
    for (const Tensor& t : tensors) expect_sum(t, wire, half_->reserved);
    half_->sum(tensors, wire);
}

// Each rank has a slice within `whole`, which is null where only another process has it, and `slice` is this rank's.
void Collective::expect_slices(const Tensor& slice, const Tensor& whole, const Cut& cut) const {
    CHECK_CALL(int(cut.first.size()) == world_ && int(cut.count.size()) == world_, "a cut for {} ranks, expected {}",
               cut.first.size(), world_);
    for (int r = 0; r < world_; r++)
        CHECK_CALL(cut.first[r] >= 0 && cut.count[r] >= 0 && (!whole || cut.first[r] + cut.count[r] <= whole.numel()),
                   "rank {} has elements {} to {} of {}", r, cut.first[r], cut.first[r] + cut.count[r], whole.str());
    CHECK_CALL(cut.count[rank_] == 0 || (slice && slice.numel() == cut.count[rank_]),
               "the slice of rank {} is {}, expected {} elements", rank_, slice.str(), cut.count[rank_]);
}
void Collective::reduce_scatter(Tensor slice, Tensor whole, const Cut& cut, Sum into, DType wire) const {
    expect_sum(whole, wire, half_->reserved);
    expect_slices(slice, whole, cut);
    half_->reduce_scatter(slice, whole, cut, into, wire);
}
void Collective::all_gather(Tensor whole, Tensor slice, const Cut& cut) const {
    expect_there(whole);
    expect_slices(slice, whole, cut);
    half_->all_gather(whole, slice, cut);
}
void Collective::gather(Tensor whole, Tensor slice, const Cut& cut, int root) const {
    if (rank_ == root) expect_there(whole);
    expect_slices(slice, whole, cut);
    half_->gather(whole, slice, cut, root);
}
void Collective::follow(Stream s) const { half_->follow(s); }
void Collective::follow(Event e) const { half_->follow(e); }
void Collective::mark(int number) const {
    half_->mark(number);
    half_->marks.insert(number);
}
void Collective::wait(int number, Stream s) const {
    CHECK_CALL(half_->marks.count(number), "a wait for mark {}, which was never set", number);
    half_->wait(number, s);
}
void Collective::finish() { half_->finish(); }
