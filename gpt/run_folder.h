// run_folder.h - the folder of a run: which one it is, and run.json
#pragma once
#include <memory>
#include <string>

#include "gpt/comm.h"
#include "gpt/folder_lock.h"
#include "gpt/run.h"

// Says why a new run cannot have this folder, or "".
inline std::string taken(const std::string& folder) {
    if (holds_run(folder)) return "already holds a run: --resume continues it, another --out starts a new one";
    for (const char* name : {"log.jsonl", "loss.png"})
        if (const std::string path = folder + "/" + name; fs::exists(path) && !fs::is_directory(path))
            return fmt::format("has a {} but no run; a new run would overwrite it, so choose another --out", name);
    return "";
}

// Locks the folder of the run. A new run without --out takes the first free name, and one with --out is refused when
// the folder holds a run already.
inline std::unique_ptr<FolderLock> lock_folder(Options& o) {
    const bool given       = !o.out.is_auto();
    const std::string base = given ? std::string(o.out) : "runs/" + run_name(o.model);
    for (int n = 1;; n++) {
        const std::string folder = n == 1 ? base : fmt::format("{}-{}", base, n);
        const auto is_taken      = [&] {
            const std::string why = o.resume ? "" : taken(folder);
            CHECK(!given || why.empty(), "--out {} {}", folder, why);
            return !why.empty();
        };
        if (is_taken()) continue;
        try {
            auto lock = std::make_unique<FolderLock>(folder);
            if (is_taken()) continue;  // another process may have begun a run a moment ago
            o.out.decide(folder);
            for (const char* name : {"run.json", "log.jsonl", "loss.png"}) try_file("--out", folder + "/" + name);
            return lock;
        } catch (const InUse&) {
            if (given) throw;
        }
    }
}

// Rank 0 chooses the folder for all processes, and locks it; the others get null. `checkpoint` is where a resumed run
// goes on.
inline std::unique_ptr<FolderLock> choose_folder(Options& o, const Comm& comm, const std::string& checkpoint = "") {
    std::unique_ptr<FolderLock> lock;
    comm.attempt([&] {
        if (!comm.first()) return;
        lock = lock_folder(o);
        remove_unfinished_saves(o.out.value_or("") + "/checkpoints");
        const auto steps         = checkpoints_of(o.out);
        const std::string newest = steps.empty() ? "" : checkpoint_path(o.out, steps.back());
        CHECK(!o.resume || newest == checkpoint,
              "--out {}: another process has just saved a checkpoint here; try again", o.out);
    });
    o.out = comm.share(o.out.value_or(""));
    return lock;
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
