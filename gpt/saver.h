// saver.h - writes the checkpoints of a run, all processes together: at once, or in the background
//
// In the background (--save-async) a save first copies what a checkpoint holds in the host's memory. Then a thread
// writes the copies while training goes on. It runs the same code on the copies as a save at once runs on the tensors,
// so the files have the same bytes. Its messages to the other processes take connections of their own.
//
// When a process cannot write its part, all of them end the save with that process's words. The hidden folder is
// removed, and the checkpoints before it stay as they were.
#pragma once
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <queue>
#include <string>
#include <vector>

#include "gpt/busy.h"
#include "gpt/checkpoint.h"
#include "gpt/comm.h"
#include "gpt/optimizers.h"

// Which process writes which tensors of a checkpoint. Each next tensor goes to the one that has the fewest elements.
struct Writers {
    std::vector<std::vector<size_t>> of;  // the tensors of each process, by number

    Writers(const std::vector<Optimizer::Stored>& all, int count) : of(size_t(count)) {
        using Load = std::pair<int64_t, size_t>;  // elements, and whose
        std::priority_queue<Load, std::vector<Load>, std::greater<Load>> least;
        for (size_t w = 0; w < of.size(); w++) least.emplace(0, w);
        for (size_t i = 0; i < all.size(); i++) {
            const auto [elements, w] = least.top();
            of[w].push_back(i);
            least.pop();
            least.emplace(elements + all[i].shape.numel(), w);
        }
    }
    // Calls write(tensor number, tensor) in the process that writes it, as many processes at a time as there are.
    // get(stored, process) returns a tensor in that process. All of them must call this, because a tensor may lie in
    // parts in all of them.
    template <class Get, class Write>
    void each(const std::vector<Optimizer::Stored>& all, Get get, Write write) const {
        size_t rounds = 0;
        for (const auto& own : of) rounds = std::max(rounds, own.size());
        for (size_t k = 0; k < rounds; k++) {
            std::pair<size_t, Tensor> mine;
            for (size_t w = 0; w < of.size(); w++)
                if (k < of[w].size())
                    if (const Tensor t = get(all[of[w][k]], int(w)); t) mine = {of[w][k], t};
            if (mine.second) write(mine.first, mine.second);
        }
    }
};

// The tensors that a checkpoint holds, each of them whole: those of a model and its optimizer, or copies of them.
class CheckpointTensors {
  public:
    using Stored = Optimizer::Stored;

    CheckpointTensors(Model& model, Optimizer& optimizer, DType weights_dtype)
        : weights(optimizer.stored(true)),
          state(stored_state(optimizer.stored(false), weights_dtype)),
          model_(model),
          optimizer_(optimizer) {}

    const std::vector<Stored> weights, state;  // in model.safetensors and in state.safetensors

    const Config& config() const { return model_.config; }
    DType dtype() const { return model_.dtype; }
    Stream stream() const { return copied_ ? Stream{} : model_.stream; }
    // Whether a process has all of them without the others.
    bool whole() const { return !model_.layout.sharding.cuts(ShardLevel::optimizer); }
    // Returns a tensor in process `root`, and null in the others. Unless they are copied, all processes must call it,
    // and the tensor stays until the next call.
    Tensor get(const Stored& stored, int root) const {
        if (!copied_) return optimizer_.gather(stored, root);
        return model_.layout.sharding.rank == root ? copies_.at(stored.name) : Tensor{};
    }
    // Copies what process `rank` of `count` writes into the host's memory. From then on get() returns the copies.
    void copy_own(int rank, int count) {
        const Writers of_weights(weights, count), of_state(state, count);
        if (copies_.empty() && rank < count) {
            const auto own = written_by(size_t(rank), weights, of_weights, state, of_state);
            for (const auto& [name, shape] : own) memory_.plan(shape, DType::F32);
            memory_.allocate(*model_.device, Memory::host);
            for (const auto& [name, shape] : own) copies_[name] = memory_.take(shape, DType::F32);
        }
        const auto copy_all = [&](const std::vector<Stored>& all, const Writers& writers) {
            writers.each(
                all, [&](const Stored& stored, int root) { return optimizer_.gather(stored, root); },
                [&](size_t i, Tensor t) { copy(copies_.at(all[i].name), t, model_.stream); });
        };
        copy_all(weights, of_weights);
        copy_all(state, of_state);
        sync(model_.stream);
        copied_ = true;
    }
    // Returns the bytes of the copies in the process that has most of them.
    static int64_t copied_bytes(const std::vector<StateKind>& kinds, const Config& c, DType weights_dtype, int count) {
        const auto weights = Optimizer::stored(kinds, c, true),
                   state   = stored_state(Optimizer::stored(kinds, c, false), weights_dtype);
        const Writers of_weights(weights, count), of_state(state, count);
        int64_t most = 0;
        for (size_t rank = 0; rank < size_t(count); rank++) {
            Arena memory;
            for (const auto& [name, shape] : written_by(rank, weights, of_weights, state, of_state))
                memory.plan(shape, DType::F32);
            most = std::max(most, memory.bytes());
        }
        return most;
    }

  private:
    // The tensors of state.safetensors. When model.safetensors is fp32, it holds the masters, which come last.
    static std::vector<Stored> stored_state(std::vector<Stored> all, DType weights_dtype) {
        if (weights_dtype == DType::F32)
            while (!all.empty() && all.back().kind < 0) all.pop_back();
        return all;
    }
    // What a process writes. A master that goes into both of its files is there once.
    static std::map<std::string, Shape> written_by(size_t rank, const std::vector<Stored>& weights,
                                                   const Writers& of_weights, const std::vector<Stored>& state,
                                                   const Writers& of_state) {
        std::map<std::string, Shape> own;
        for (const size_t i : of_weights.of[rank]) own[weights[i].name] = weights[i].shape;
        for (const size_t i : of_state.of[rank]) own[state[i].name] = state[i].shape;
        return own;
    }

    Model& model_;
    Optimizer& optimizer_;
    bool copied_ = false;
    Arena memory_{"copies for saving"};
    std::map<std::string, Tensor> copies_;
};

// Does one thing after another until one fails, and keeps the words of that failure. So a process that cannot write
// goes on giving its parts of tensors to the others.
struct Attempts {
    std::string failure;
    template <class Work>
    void operator()(Work work) {
        if (!failure.empty()) return;
        try {
            work();
        } catch (const std::exception& e) { failure = e.what(); }
    }
};

// Writes this process's tensors of a checkpoint, its file of the weights or of the state. Returns the rows of all
// files, for the index.
template <class Rows, class Write>
std::vector<std::vector<StoredRow>> write_files(const fs::path& folder, const std::string& stem,
                                                const std::vector<Optimizer::Stored>& all,
                                                const CheckpointTensors& tensors, int rank, int count, Rows rows_of,
                                                Write write, Attempts& attempt) {
    const Writers writers(all, count);
    std::vector<std::vector<StoredRow>> files;
    for (const auto& own : writers.of) {
        files.emplace_back();
        for (const size_t i : own)
            for (StoredRow& row : rows_of(all[i])) files.back().push_back(std::move(row));
    }
    std::unique_ptr<SafetensorsWriter> file;
    attempt([&] {
        if (rank < count)
            file = std::make_unique<SafetensorsWriter>(
                (folder / ModelWriter::file_name(stem, size_t(rank), size_t(count))).string(), files[size_t(rank)]);
    });
    const auto get = [&](const Optimizer::Stored& stored, int root) { return tensors.get(stored, root); };
    writers.each(all, get, [&](size_t i, Tensor t) { attempt([&] { write(*file, all[i], t); }); });
    attempt([&] {
        if (file) file->close();
    });
    return files;
}

// Writes config.json and the weights, in files by `count` processes. A process that has all weights by itself writes
// them sorted, and in files of at most 5 GB.
inline void write_weights(const fs::path& folder, DType dtype, const CheckpointTensors& tensors, int rank, int count,
                          Attempts& attempt) {
    const Config& c = tensors.config();
    if (count == 1 && tensors.whole()) {
        if (rank > 0) return;
        Params params;
        const auto rows = param_rows(params, c);
        for (const auto& stored : tensors.weights) *rows[stored.row].tensor = tensors.get(stored, 0);
        return attempt([&] { save_model(folder.string(), params, c, dtype, tensors.stream()); });
    }
    const auto weights = hf_weights(c);
    const auto hf      = [&](const Optimizer::Stored& t) { return weights.at(t.name.substr(t.name.find('.') + 1)); };
    const auto rows    = [&](const Optimizer::Stored& t) {
        const HfWeight w = hf(t);
        std::vector<StoredRow> all;
        for (const std::string& name : w.names) all.push_back({name, row_of(dtype).stored, w.theirs});
        return all;
    };
    const auto write = [&](SafetensorsWriter& to, const Optimizer::Stored& stored, Tensor t) {
        store_weight(t, hf(stored), c, dtype, tensors.stream(), [&](const std::string& name, const std::string& bytes) {
            to.write(name, bytes.data(), int64_t(bytes.size()));
        });
    };
    const auto files = write_files(folder, "model", tensors.weights, tensors, rank, count, rows, write, attempt);
    if (rank > 0) return;
    attempt([&] {
        ModelWriter::write_index(folder.string(), "model", files);
        save_config(folder.string(), c, dtype);
    });
}

// Writes the optimizer's state likewise.
inline void write_state(const fs::path& folder, const CheckpointTensors& tensors, int rank, int count,
                        Attempts& attempt) {
    std::vector<float> host;
    const auto rows  = [](const Optimizer::Stored& t) { return std::vector<StoredRow>{{t.name, "F32", t.shape}}; };
    const auto write = [&](SafetensorsWriter& to, const Optimizer::Stored& stored, Tensor t) {
        const Tensor flat = t.view({t.numel()});
        for (int64_t at = 0, count; at < flat.numel(); at += count) {
            count = std::min<int64_t>(1 << 18, flat.numel() - at);
            host.resize(size_t(count));
            to_host(host.data(), flat.rows(at, count), tensors.stream());
            check_finite(host, stored.name);
            to.write(stored.name, host.data(), count * int64_t(sizeof(float)));
        }
    };
    const auto files = write_files(folder, "state", tensors.state, tensors, rank, count, rows, write, attempt);
    if (rank == 0) attempt([&] { ModelWriter::write_index(folder.string(), "state", files); });
}

// Writes all files of a checkpoint into `folder`: all processes, or rank 0 alone when `count` is 1. Ends all of them
// with an error when one cannot write, or finds a number that is not finite.
inline void write_checkpoint(const fs::path& folder, const TrainState& state, const CheckpointTensors& tensors,
                             const TokenizerFiles& tokenizer, const Comm& comm, int count) {
    Attempts attempt;
    write_weights(folder, state.weights_dtype, tensors, comm.rank(), count, attempt);
    write_state(folder, tensors, comm.rank(), count, attempt);
    comm.fail_together(attempt.failure);  // after it, every process has flushed its files
    if (!comm.first()) return;
    for (const auto& [name, text] : tokenizer) write_file((folder / name).string(), text);
    const nlohmann::ordered_json j = {{"step", state.step},
                                      {"tokens", state.tokens},
                                      {"position", {{"epoch", state.position.epoch}, {"index", state.position.index}}},
                                      {"seed", state.seed},
                                      {"dtype", name_of(tensors.dtype())},
                                      {"rounded_at", state.rounded_at},
                                      {"world", state.world},
                                      {"context", state.context},
                                      {"evaluated", state.evaluated},
                                      {"data", state.data_fingerprint}};
    write_file((folder / "state.json").string(), j.dump(2) + "\n");
    write_file((folder / "COMPLETE").string(), "");  // also flushes the folder's list of names
}

// The settings of a Saver.
struct SaveSettings {
    std::string run;            // the run's folder
    bool background = false;    // a thread writes while training goes on
    int64_t keep    = 0;        // how many checkpoints stay, counted from the newest; 0: all
    std::vector<int64_t> kept;  // the steps of those that stay all the same, in order
    int64_t newest = -1;        // the step of the newest checkpoint; -1: there is none
    std::function<void(int64_t step, const std::string& folder)> done;  // rank 0 calls it for each complete checkpoint
};

// Saves the checkpoints of a run. All processes make the same calls.
class Saver {
  public:
    // weights_dtype: that of the weights in the checkpoints.
    Saver(const SaveSettings& settings, Model& model, Optimizer& optimizer, DType weights_dtype,
          const TokenizerFiles& tokenizer, const Comm& comm)
        : settings_(settings),
          newest_(settings.newest),
          home_(settings.run + "/checkpoints"),
          tensors_(model, optimizer, weights_dtype),
          tokenizer_(tokenizer),
          comm_(comm),
          beside_(settings.background ? comm.beside() : nullptr) {}
    Saver(const Saver&)            = delete;
    Saver& operator=(const Saver&) = delete;
    // When a run ends by an error, a checkpoint that is being written is completed first.
    ~Saver() {
        try {
            finish();
        } catch (const std::exception& e) { complain(e); }
    }

    // The step of the newest save; -1 before the first one.
    int64_t newest() const { return newest_; }
    // Saves a checkpoint. In the background it returns when the copies are made. It waits for the save before.
    void save(const TrainState& state) {
        finish();
        const std::string folder = checkpoint_path(settings_.run, state.step);
        const fs::path hidden    = home_ / ("." + checkpoint_name(state.step) + ".tmp");
        explain(state.step, hidden, [&] {
            comm_.attempt([&] {
                if (comm_.first()) make_folder(hidden);
            });
            // All processes write when all of them see the folder, else rank 0 alone.
            if (writers_ == 0) writers_ = comm_.mean(fs::is_directory(hidden) ? 1 : 0) == 1 ? comm_.world() : 1;
            if (beside_) tensors_.copy_own(comm_.rank(), writers_);
        });
        const auto write = [this, state, hidden, folder](const Comm& comm) {
            explain(state.step, hidden, [&] {
                write_checkpoint(hidden, state, tensors_, tokenizer_, comm, writers_);
                if (!comm.first()) return;
                fs::remove_all(folder);  // a folder of that name without COMPLETE
                fs::rename(hidden, folder);
                OutputFile::sync_folder(home_.string());
                point_latest_to(home_, state.step);
            });
        };
        newest_ = state.step;
        if (beside_)
            writing_ = std::async(std::launch::async, [this, write] {
                yield_to_training();
                write(*beside_);
            });
        else
            write(comm_), complete();
    }
    // Waits until nothing is being written any more. It throws nothing.
    void wait() const {
        if (writing_.valid()) writing_.wait();
    }
    // Looks whether the checkpoint that is being written is complete. Throws what has kept it from that.
    void poll() {
        if (!writing_.valid() || writing_.wait_for(std::chrono::seconds(0)) != std::future_status::ready) return;
        std::exchange(writing_, {}).get();
        complete();
    }
    void finish() {
        const Busy busy("saving");
        wait();
        poll();
    }
    // Removes older checkpoints when the newest one is complete. Call it when that has given a finite loss.
    void remove_old() {
        if (!newer_ || writing_.valid()) return;
        newer_ = false;
        if (comm_.first()) remove_old_checkpoints(settings_.run, settings_.keep, settings_.kept);
    }

  private:
    void complete() {
        newer_ = true;
        if (comm_.first()) settings_.done(newest_, checkpoint_path(settings_.run, newest_));
    }
    void make_folder(const fs::path& hidden) const {
        fs::create_directories(home_);
        remove_unfinished_saves(home_);
        fs::create_directory(hidden);
    }
    // Runs work(). When that fails, nobody writes any more; the error says which checkpoints there are.
    template <class Work>
    void explain(int64_t step, const fs::path& hidden, Work work) const {
        try {
            work();
        } catch (const ToldError& e) {
            throw ToldError(1, e.what());  // Rank 0 throws the RunError below, which has this exit code.
        } catch (const std::exception& e) {
            std::error_code ignored;
            if (comm_.first()) fs::remove_all(hidden, ignored);
            const auto left = checkpoints_of(settings_.run);
            throw RunError(fmt::format("checkpoint at step {} could not be saved: {}\n    {}", step, e.what(),
                                       left.empty()
                                           ? "there is no earlier checkpoint of this run"
                                           : "the last complete one is " + checkpoint_path(settings_.run, left.back()) +
                                                 "; --resume continues from there"));
        }
    }
    // Called in the thread that writes: it uses one core, and only while the threads that train leave it.
    static void yield_to_training() {
        omp_set_num_threads(1);
        setpriority(PRIO_PROCESS, id_t(syscall(SYS_gettid)), 10);
    }

    const SaveSettings settings_;
    int64_t newest_;
    const fs::path home_;
    CheckpointTensors tensors_;
    const TokenizerFiles& tokenizer_;
    const Comm& comm_;
    const std::unique_ptr<Comm> beside_;  // for the thread that writes; null unless one does
    int writers_ = 0;                     // how many processes write; 0: not known yet
    bool newer_  = true;                  // there is a checkpoint since remove_old()
    std::future<void> writing_;
};
