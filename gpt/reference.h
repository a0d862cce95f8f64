// reference.h - the log-probabilities that DPO's reference model gives the answers: computed once, kept beside the data
//
// The reference is the model with which the run begins. The file beside the data is named after its weights, so that
// another run from the same weights finds it. The run's folder has a copy, from which a resumed run goes on.
#pragma once
#include <string>
#include <vector>

#include "gpt/busy.h"
#include "gpt/preferences.h"
#include "gpt/run.h"
#include "gpt/run_weights.h"

// The means over the pairs of the first `batches` batches of a loader in every process, the same in all of them.
inline PreferenceSums mean_preferences(Model& model, Loader& data, int64_t batches, const Preferences& preferences,
                                       const Comm& comm, const GoOn& go_on) {
    data.rewind();
    const double share  = comm.world() / (double(data.documents_in(batches * data.sequences_per_batch())) / 2);
    PreferenceSums sums = preference_sums(model, data, batches, preferences.val_reference, preferences.beta, go_on);
    for (double* sum : {&sums.loss, &sums.margin, &sums.right}) *sum = comm.mean(*sum * share);
    return sums;
}

// Returns the log-probability of each document of the preferences that match a pattern, the same in all processes.
// what: "train" or "val". Call it before the first step of a run, when the model is the reference.
inline std::vector<float> reference_log_probs(const Run& run, Model& model, const Comm& comm,
                                              const std::string& pattern, const std::string& what) {
    const std::unique_ptr<Loader> data = run.load_in_order(pattern);
    const std::string name = reference_name(*data, model), shard = files_matching(pattern)[0];
    const std::string own = fmt::format("{}/reference_{}.safetensors", run.folder(), what);
    // It is hidden, so that a pattern that matches the shards does not match it.
    const std::string beside =
        (fs::path(shard).parent_path() /
         fmt::format(".{}.reference_{}.safetensors", fs::path(shard).stem().string(), fingerprint(model)))
            .string();
    std::vector<float> log_probs;
    if (comm.first()) {
        try {
            log_probs = read_reference(run.checkpoint.empty() ? beside : own, name, data->documents());
        } catch (const InputError& e) {
            if (!run.checkpoint.empty()) throw;
            fmt::print(stderr, "note: the reference is computed again, because {}\n", e.what());
        }
        CHECK(!log_probs.empty() || run.checkpoint.empty(),
              "{}: the log-probabilities of the reference are not there, or are those of other data, --context or "
              "--dtype; a run cannot compute them again once its model has changed",
              own);
    }
    // Rank 0 computes alone, unless its weights travel between all processes.
    const bool known = comm.share(log_probs.empty() ? "" : "known") == "known";
    if (!known && (comm.first() || model.shards->travel())) {
        Busy busy("computing the reference, batch", ceil_div(data->sequences(), data->sequences_per_batch()));
        log_probs = answer_log_probs(model, *data, [&](int64_t done) { return busy.done(done), true; });
        busy.end();
    }
    if (comm.first()) {
        try {
            if (!known) write_reference(beside, name, log_probs);
        } catch (const RunError& e) {
            fmt::print(stderr, "warning: {}\n    Another run will compute the reference again.\n", e.what());
        }
        if (run.checkpoint.empty()) write_reference(own, name, log_probs);
    }
    log_probs.resize(size_t(data->documents()));
    comm.share(log_probs.data(), log_probs.size() * sizeof(float));
    return log_probs;
}

// What the steps of a run need of its preferences; null unless its objective is dpo.
inline std::unique_ptr<Preferences> make_preferences(const Run& run, Model& model, const Comm& comm) {
    const Options& o = run.options;
    if (!run.is_dpo()) return nullptr;
    auto preferences =
        std::make_unique<Preferences>(o.dpo_beta, reference_log_probs(run, model, comm, o.train_data, "train"));
    if (run.val) preferences->val_reference = reference_log_probs(run, model, comm, o.val_data, "val");
    return preferences;
}
