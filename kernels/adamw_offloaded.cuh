// adamw_offloaded.cuh - AdamW for weights on a GPU whose state is in host memory: the CPU half updates it
//
// The rows are cut into chunks, which three streams take in turn. In its stream, a chunk's weights and gradients go to
// the host, the CPU updates them with masters and state, and the weights go back. So while one chunk is updated, the
// next is on its way here and the last on its way back. In bf16 a weight takes 6 bytes one way and 2 the other, and the
// CPU moves 30. A kernel that reached over PCIe for the state would take 12 bytes each way. Weights go both ways
// because an update may be skipped: then they come back as they were.
//
// A chunk holds rows of one group. When the last chunk of a group is back, the group has its event, so that the GPU can
// go on with what needs these rows alone. A stream without work of its own brings the three streams together for it.
//
// The bits are those of the GPU half, because no multiplication of AdamW is fused with an addition on either side.
#pragma once
#include <omp.h>

#include <algorithm>
#include <list>
#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "gpu.cuh"
#include "update.h"

namespace gpu {

class OffloadedAdamW {
  public:
    explicit OffloadedAdamW(const AdamWTable& table) : dtype_(table.dtype), threads_(omp_get_max_threads()) {
        CUDA_RUN(cudaMallocHost(&numbers_, sizeof(Numbers)));
        CUDA_RUN(cudaEventCreateWithFlags(&ready_, cudaEventDisableTiming));
        CUDA_RUN(cudaStreamCreateWithFlags(&joined_, cudaStreamNonBlocking));
        for (Slot& s : slots_) {
            CUDA_RUN(cudaMallocHost(&s.memory, Staging::slot_bytes));
            CUDA_RUN(cudaStreamCreateWithFlags(&s.stream, cudaStreamNonBlocking));
            CUDA_RUN(cudaEventCreateWithFlags(&s.done, cudaEventDisableTiming));
        }
        for (const AdamWRow& row : table.rows)
            for (int64_t first = 0, count; first < row.w.numel(); first += count) {
                count = std::min(Staging::weights, row.w.numel() - first);
                add(row, first, count);
            }
        for (const auto& chunk : chunks_) {
            cudaEvent_t& updated = updated_[chunk->group];
            if (!updated) CUDA_RUN(cudaEventCreateWithFlags(&updated, cudaEventDisableTiming));
        }
    }
    // Statuses are not looked at: at the end of a program that failed, nothing here can succeed.
    ~OffloadedAdamW() {
        for (Slot& s : slots_) {
            cudaStreamSynchronize(s.stream);
            cudaStreamDestroy(s.stream);
            cudaEventDestroy(s.done);
            cudaFreeHost(s.memory);
        }
        cudaStreamDestroy(joined_);
        for (const auto& [group, event] : updated_) cudaEventDestroy(event);
        cudaEventDestroy(ready_);
        cudaFreeHost(numbers_);
    }
    OffloadedAdamW(const OffloadedAdamW&)            = delete;
    OffloadedAdamW& operator=(const OffloadedAdamW&) = delete;

    // Queues one update. The stream of q goes on at once, and must have waited for the groups of the update before.
    void run(Tensor norm2, Tensor loss, Tensor update, const AdamWRule& rule, Queue& q) {
        Settings& settings = keep({rule, bool(loss), {}});
        const auto down    = [&](void* to, const void* from, size_t bytes, cudaStream_t stream) {
            CUDA_RUN(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream));
        };
        down(&numbers_->norm2, norm2.ptr, sizeof(float), q.stream);
        if (loss) down(&numbers_->loss, loss.ptr, sizeof(float), q.stream);
        down(&numbers_->update, update.ptr, sizeof(AdamWUpdate), q.stream);
        CUDA_RUN(cudaEventRecord(ready_, q.stream));
        for (Slot& s : slots_) CUDA_RUN(cudaStreamWaitEvent(s.stream, ready_, 0));
        for (size_t i = 0; i < chunks_.size(); i++) {
            const Chunk& chunk      = *chunks_[i];
            const Slot& slot        = slots_[i % Staging::slots];
            const cudaStream_t here = slot.stream;
            for (const Piece& p : chunk.pieces) {
                down(p.row.w.ptr, p.w, size_t(p.row.w.bytes()), here);
                down(p.row.grad.ptr, p.grad, size_t(p.row.grad.bytes()), here);
            }
            CUDA_RUN(cudaLaunchHostFunc(here, update_chunk, &settings.jobs[i]));
            for (const Piece& p : chunk.pieces)
                CUDA_RUN(cudaMemcpyAsync(p.w, p.row.w.ptr, size_t(p.row.w.bytes()), cudaMemcpyHostToDevice, here));
            CUDA_RUN(cudaEventRecord(slot.done, here));
            CUDA_RUN(cudaStreamWaitEvent(joined_, slot.done, 0));
            if (i + 1 == chunks_.size() || chunks_[i + 1]->group != chunk.group)
                CUDA_RUN(cudaEventRecord(updated_.at(chunk.group), joined_));
        }
    }

    std::vector<Event> updated() const {
        std::vector<Event> events;
        for (const auto& [group, event] : updated_) {
            events.resize(size_t(group) + 1);
            events.back() = {event};
        }
        return events;
    }

  private:
    struct Numbers {
        float norm2, loss;
        AdamWUpdate update;
    };
    struct Slot {
        char* memory        = nullptr;
        cudaStream_t stream = nullptr;
        cudaEvent_t done    = nullptr;
    };
    // Part of a row: as the CPU updates it, with weights and gradients in a slot, and where these are on the GPU.
    struct Piece {
        AdamWRow row;
        void *w, *grad;
    };
    struct Chunk {
        OffloadedAdamW* owner;
        int64_t group;
        std::vector<Piece> pieces;
        int64_t weights = 0;
    };
    // The settings of updates. While the next update is queued, the host functions of the last one may still read its
    // settings, and a CUDA graph keeps those of the update that it holds. So settings are kept and never changed;
    // updates with equal settings share them.
    struct Settings;
    struct Job {
        const Chunk* chunk;
        const Settings* settings;
    };
    struct Settings {
        AdamWRule rule;
        bool has_loss;
        std::vector<Job> jobs;  // one for each chunk
    };
    Settings& keep(Settings now) {
        const auto key = [](const Settings& s) {
            return std::tie(s.rule.beta1, s.rule.beta2, s.rule.eps, s.rule.clip, s.has_loss);
        };
        for (Settings& s : settings_)
            if (key(s) == key(now)) return s;
        Settings& kept = settings_.emplace_back(std::move(now));
        for (const auto& chunk : chunks_) kept.jobs.push_back({chunk.get(), &kept});
        return kept;
    }

    void add(const AdamWRow& row, int64_t first, int64_t count) {
        if (chunks_.empty() || chunks_.back()->group != row.group ||
            chunks_.back()->weights + round_up(count, 16) > Staging::weights)
            chunks_.push_back(std::make_unique<Chunk>(Chunk{this, row.group, {}, 0}));
        Chunk& chunk     = *chunks_.back();
        char* const slot = slots_[(chunks_.size() - 1) % Staging::slots].memory;
        const auto part  = [&](Tensor t) {  // elements [first, first + count)
            return Tensor{static_cast<char*>(t.ptr) + first * size_of(t.dtype), t.dtype, {count}};
        };
        const auto staged = [&](DType t, int64_t area) {
            return Tensor{slot + (area * Staging::weights + chunk.weights) * int64_t(sizeof(float)), t, {count}};
        };
        const Tensor w = part(row.w), grad = part(row.grad);
        AdamWRow here = row;
        here.w        = staged(row.w.dtype, 0);
        here.grad     = staged(DType::F32, 1);
        here.m        = part(row.m);
        here.v        = part(row.v);
        here.master   = row.master.ptr == row.w.ptr ? here.w : part(row.master);
        here.rounding.first += first;
        chunk.pieces.push_back({here, w.ptr, grad.ptr});
        chunk.weights += round_up(count, 16);
    }

    // Called by a thread of the CUDA runtime, which may make no CUDA call.
    static void CUDART_CB update_chunk(void* job) {
        const Chunk& chunk       = *static_cast<const Job*>(job)->chunk;
        const Settings& settings = *static_cast<const Job*>(job)->settings;
        const OffloadedAdamW& us = *chunk.owner;
        omp_set_num_threads(us.threads_);
        AdamWTable table;
        table.dtype = us.dtype_;
        for (const Piece& p : chunk.pieces) table.rows.push_back(p.row);
        Numbers& n = *us.numbers_;
        adamw(table, Tensor{&n.norm2, DType::F32, {1}}, settings.has_loss ? Tensor{&n.loss, DType::F32, {1}} : Tensor{},
              Tensor{&n.update, DType::I32, {4}}, settings.rule, Stream{});
    }

    DType dtype_;
    int threads_;
    std::list<Settings> settings_;
    Numbers* numbers_  = nullptr;
    cudaEvent_t ready_ = nullptr;
    Slot slots_[Staging::slots];
    cudaStream_t joined_ = nullptr;
    std::map<int64_t, cudaEvent_t> updated_;  // the event of each group
    std::vector<std::unique_ptr<Chunk>> chunks_;
};

}  // namespace gpu
