// emulated.h - runs of train_gpt on the emulated GPU (test/emulator) beside runs on the CPU, and how they are compared
#pragma once
#include <algorithm>
#include <cmath>

#include "data/files.h"
#include "test/programs.h"

// Every access is checked, and streams are as late as they may be.
inline const std::string checked = "scripts/emulate --check all --streams late ";

// Returns the words of a run in a folder of the scratch folder, which holds train.bin.
inline std::string training(const Scratch& s, const std::string& out, const std::string& more) {
    return "--train-data " + quoted(s / "train.bin") + " --val-data " + quoted(s / "train.bin") + " --out " +
           quoted(s / out) + " --batch 2 --context 16 --eval-batches 2 --keep 0 " + more + " ";
}
// Trains on the emulated GPU when `under` names the emulator, and on the CPU when it is empty.
inline void train(const Scratch& s, const std::string& out, const std::string& more, const std::string& under) {
    const Ran r =
        run(s, "train_gpt", training(s, out, more) + (under.empty() ? "--device cpu" : "--device cuda"), "", under);
    CAPTURE(out, more, r.out, r.err);
    REQUIRE(r.code == 0);
}
// Removes the checkpoints of later steps, as if the run had been stopped after this one.
inline void cut_after(const Scratch& s, const std::string& out, int64_t step) {
    const fs::path all = s / (out + "/checkpoints");
    for (const auto& e : fs::directory_iterator(all))
        if (!e.is_symlink() && std::stoll(e.path().filename().string()) > step) fs::remove_all(e.path());
}
inline void resume(const Scratch& s, const std::string& out, const std::string& under) {
    const Ran r =
        run(s, "train_gpt", "--resume --out " + quoted(s / out) + (under.empty() ? " --device cpu" : " --device cuda"),
            "", under);
    CAPTURE(out, r.out, r.err);
    REQUIRE(r.code == 0);
}
// Returns the names of a run's checkpoints, and the MD5 sums of those of their files that match a pattern of the shell.
inline std::string checkpoint_sums(const Scratch& s, const std::string& out, const std::string& pattern = "*") {
    return shell(s, "cd " + quoted(s / (out + "/checkpoints")) + " && ls -A && md5sum */" + pattern).out;
}
// The largest relative difference between the losses of two runs.
inline double loss_difference(const Scratch& s, const std::string& a, const std::string& b) {
    const auto x = records(s / a, "step"), y = records(s / b, "step");
    REQUIRE(x.size() == y.size());
    REQUIRE(x.size() > 0);
    double most = 0;
    for (size_t i = 0; i < x.size(); i++) {
        const double l = x[i]["loss"], m = y[i]["loss"];
        most = std::max(most, std::fabs(l - m) / l);
    }
    return most;
}
// Returns all losses and norms of a run, and the fingerprint of its weights.
inline std::string bits(const Scratch& s, const std::string& out) {
    return losses(s / out) + records(s / out, "end").back()["fingerprint"].get<std::string>();
}
// Resumes a run on the emulated GPU as if it had been stopped after a step, and returns its bits.
inline std::string resumed_bits(const Scratch& s, const std::string& out, int64_t step) {
    cut_after(s, out, step);
    resume(s, out, checked);
    return bits(s, out);
}
