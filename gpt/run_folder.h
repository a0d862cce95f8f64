// run_folder.h - the folder of a run: which one it is, and run.json
#pragma once
#include <optional>
#include <string>
#include <utility>

#include "gpt/comm.h"
#include "gpt/folder_lock.h"
#include "gpt/run.h"

inline bool holds_run(const std::string& folder) {
    return fs::exists(folder + "/run.json") || fs::exists(folder + "/checkpoints");
}

// Locks the folder of the run. A new run without --out takes the first free name, and one with --out is refused when
// the folder holds a run already.
inline FolderLock lock_folder(Options& o) {
    const std::string base = "runs/" + run_name(o.model);
    std::string free       = base;
    for (int n = 2; o.out.is_auto() && holds_run(free); n++) free = fmt::format("{}-{}", base, n);
    o.out.decide(free);
    const auto refuse_run = [&] {
        CHECK(o.resume || !holds_run(o.out),
              "--out {} already holds a run: --resume continues it, another --out starts a new one", o.out);
    };
    refuse_run();
    FolderLock lock(o.out);
    refuse_run();  // another process may have begun one a moment ago
    for (const char* name : {"run.json", "log.jsonl", "loss.png"}) try_file("--out", std::string(o.out) + "/" + name);
    return lock;
}

// Rank 0 chooses the folder for all processes, and locks it. `checkpoint` is where a resumed run goes on.
inline FolderLock choose_folder(Options& o, const Comm& comm, const std::string& checkpoint = "") {
    std::optional<FolderLock> lock;
    comm.attempt([&] {
        if (!comm.first()) return;
        lock.emplace(lock_folder(o));
        remove_unfinished_saves(o.out.value_or("") + "/checkpoints");
        const auto steps         = checkpoints_of(o.out);
        const std::string newest = steps.empty() ? "" : checkpoint_path(o.out, steps.back());
        CHECK(!o.resume || newest == checkpoint,
              "--out {}: another process has just saved a checkpoint here; try again", o.out);
    });
    o.out = comm.share(o.out.value_or(""));
    return lock ? std::move(*lock) : FolderLock();
}

// Writes run.json. It says how to run the same again, and gets a record of each start.
inline void write_run_json(const Run& run) {
    if (run.ranks.rank > 0) return;
    const Options& o = run.options;
    nlohmann::ordered_json options;
    for (const Setting& s : run.flags.list())
        if (!s.is_default && s.name != "--resume") options[s.name] = json_of(s.value);
    const std::string folder       = fs::current_path().string();
    nlohmann::ordered_json history = o.earlier.history;
    history.push_back({{"step", run.saved.step},
                       {"date", date_and_time()},
                       {"commit", GPT_COMMIT},
                       {"folder", json_of(folder)},
                       {"command", run.flags.command()},
                       {"schedule", json_of(o.schedule)}});
    const nlohmann::ordered_json j = {
        {"command", run.flags.command("--resume")},
        {"folder", json_of(folder)},
        {"options", options},
        {"version", GPT_VERSION},
        {"commit", GPT_COMMIT},
        {"dtype", name_of(run.dtype)},
        {"world", run.ranks.world},
        {"tokens_per_step", run.tokens_per_step()},
        {"parameters", count_params(run.config)},
        {"data", {{"train", run.train->fingerprint()}, {"val", run.val ? run.val->fingerprint() : ""}}},
        {"history", history}};
    write_file(run.folder() + "/run.json", j.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}
