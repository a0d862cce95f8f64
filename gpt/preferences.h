// preferences.h - tuning on preferences by DPO (Rafailov et al. 2023, arXiv 2305.18290)
//
//   margin = β ((log π(chosen) - log ref(chosen)) - (log π(rejected) - log ref(rejected)))
//   loss   = -log σ(margin), the mean over the pairs of a step
//
// π is the model, and ref the model that it was when the run began, of which only the log-probability of each answer is
// kept: so one model is in memory. The loss of a row of the head is -log π of one token. Its gradient is therefore that
// row's own gradient times βσ(-margin) / pairs in a chosen answer, and times minus that in a rejected one. These
// factors are the scales of a batch (cross_entropy). They are known only when all rows have their losses, so the head
// computes its logits twice.
#pragma once
#include <array>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "data/loader.h"
#include "gpt/model.h"
#include "gpt/safetensors.h"

// Sums over pairs of preferences.
struct PreferenceSums {
    double loss = 0, margin = 0, right = 0;  // right: pairs whose margin is above 0
    void add(const PreferenceSums& o) { loss += o.loss, margin += o.margin, right += o.right; }
};

// The document of each row of a batch in host memory, or -1 where nothing counts. Document d and d + 1, for an even d,
// are the chosen and the rejected answer of a pair.
inline std::vector<int64_t> documents_of_rows(const Batch& batch, const std::vector<int64_t>& first_documents) {
    const int64_t B = batch.tokens.shape[0], T = batch.tokens.shape[1];
    const int32_t *starts = batch.starts.data<int32_t>(), *targets = batch.targets.data<int32_t>();
    std::vector<int64_t> documents(size_t(B * T), -1);
    for (int64_t b = 0; b < B; b++) {
        int64_t document = first_documents[b];
        for (int64_t t = 0; t < T; t++) {
            const int64_t row = b * T + t;
            document += t > 0 && starts[row] == t;
            if (targets[row] >= 0) documents[row] = document;
        }
    }
    return documents;
}

// The sums over the pairs of a batch, which has `context` rows for each sequence. A sequence may be in a batch twice,
// where an epoch ends. losses: -log π of each row's target. reference: log ref of every document. scales: receives
// the factor of each row's gradient, for the mean over `pairs` pairs; it may be null.
inline PreferenceSums weigh_pairs(const std::vector<int64_t>& documents, int64_t context,
                                  const std::vector<float>& losses, const std::vector<float>& reference, double beta,
                                  double pairs, std::vector<float>* scales) {
    using Place        = std::pair<int64_t, int64_t>;  // a sequence of the batch, and a pair in it
    const auto pair_of = [&](size_t row) { return Place(int64_t(row) / context, documents[row] / 2); };
    std::map<Place, std::array<double, 2>> log_probs;  // those of the chosen and of the rejected answer
    for (size_t row = 0; row < documents.size(); row++)
        if (documents[row] >= 0) log_probs[pair_of(row)][documents[row] % 2] -= losses[row];
    PreferenceSums sums;
    std::map<Place, double> slopes;
    for (const auto& [place, p] : log_probs) {
        const int64_t pair  = place.second;
        const double chosen = p[0] - double(reference[2 * pair]), rejected = p[1] - double(reference[2 * pair + 1]),
                     margin = beta * (chosen - rejected);
        sums.add({std::log1p(std::exp(-std::fabs(margin))) + std::max(-margin, 0.), margin, margin > 0 ? 1. : 0.});
        if (!std::isfinite(margin)) sums.loss = NAN;
        slopes[place] = beta / (1 + std::exp(margin)) / pairs;
    }
    for (size_t row = 0; scales && row < documents.size(); row++) {
        const double slope = documents[row] < 0 ? 0 : slopes[pair_of(row)];
        (*scales)[row]     = float(documents[row] % 2 == 1 ? -slope : slope);
    }
    return sums;
}

// Runs the head on a batch whose forward pass has been done, and returns the loss of each row. All passes of this file
// keep what a backward pass needs, although only training has one. In bf16 a pass that keeps less may round elsewhere.
// The margin, a small difference of large numbers, would show it.
inline std::vector<float> losses_of_rows(Model& m, const Batch& batch) {
    Batch plain  = batch;
    plain.scales = {};
    head(m, plain, m.acts.loss, 1.f);
    std::vector<float> losses(size_t(m.shape.rows()));
    to_host(losses.data(), m.acts.losses, m.stream);
    return losses;
}

// The log-probability that a model gives each answer of a loader's preferences. data: in file order, on one rank.
inline std::vector<float> answer_log_probs(Model& m, Loader& data, const GoOn& go_on = nullptr) {
    std::vector<double> sums(size_t(data.documents()));
    data.rewind();
    const int64_t B = data.sequences_per_batch(), sequences = data.sequences();
    for (int64_t done = 0; done < sequences && (!go_on || go_on(done / B)); done += B) {
        const Batch& host    = data.next();
        const auto documents = documents_of_rows(host, data.first_documents());
        const Batch& batch   = m.feed.bring(host);
        forward(m, batch, Keep::for_backward);
        const std::vector<float> losses = losses_of_rows(m, batch);
        // The last batch goes on with the first sequences again.
        const size_t rows               = size_t(std::min(B, sequences - done) * m.shape.context);
        for (size_t row = 0; row < rows; row++)
            if (documents[row] >= 0) sums[size_t(documents[row])] -= losses[row];
    }
    return {sums.begin(), sums.end()};
}

// The sums over the pairs of the first `batches` batches of a loader, on this rank.
inline PreferenceSums preference_sums(Model& m, Loader& data, int64_t batches, const std::vector<float>& reference,
                                      double beta, const GoOn& go_on = nullptr) {
    PreferenceSums sums;
    data.rewind();
    for (int64_t i = 0; i < batches && (!go_on || go_on(i)); i++) {
        const Batch& host    = data.next();
        const auto documents = documents_of_rows(host, data.first_documents());
        const Batch& batch   = m.feed.bring(host);
        forward(m, batch, Keep::for_backward);
        sums.add(weigh_pairs(documents, m.shape.context, losses_of_rows(m, batch), reference, beta, 1, nullptr));
    }
    return sums;
}

// What a training step needs of the preferences beside the batches. Batches are put in the order of the micro-steps.
class Preferences {
  public:
    // reference: log ref of every document of the training data.
    Preferences(double beta, std::vector<float> reference) : beta(beta), reference_(std::move(reference)) {}

    const double beta;
    std::vector<float> val_reference;  // log ref of every document of the validation data, if there is any

    // Begins a step of `pairs` pairs, those of all ranks together.
    void begin(int64_t pairs) {
        pairs_ = double(pairs);
        documents_.clear();
        sums_ = {};
    }
    void put(const Batch& host, const std::vector<int64_t>& first_documents) {
        documents_.push_back(documents_of_rows(host, first_documents));
    }
    // Writes the scales of a batch whose forward pass has been done: batch.scales (B,T) fp32. It waits for the device.
    void weigh(Model& m, const Batch& batch, size_t micro_step) {
        std::vector<float> scales(size_t(m.shape.rows()));
        sums_.add(weigh_pairs(documents_.at(micro_step), m.shape.context, losses_of_rows(m, batch), reference_, beta,
                              pairs_, &scales));
        from_host(batch.scales, scales, m.stream);
    }
    // This rank's share of the step's mean loss, margin and accuracy, whose sums over the ranks they are.
    std::vector<float> shares() const {
        return {float(sums_.loss / pairs_), float(sums_.margin / pairs_), float(sums_.right / pairs_)};
    }

  private:
    double pairs_ = 1;
    std::vector<float> reference_;
    std::vector<std::vector<int64_t>> documents_;  // of the rows of each micro-step
    PreferenceSums sums_;
};

// ---- the reference's file ---------------------------------------------------------------------------------------

// The name of the one tensor in such a file: it says which data and which sizes the numbers belong to.
inline std::string reference_name(const Loader& data, const Model& m) {
    return fmt::format("log_probs.{}.{}.{}", data.content_fingerprint(), m.shape.context, name_of(m.dtype));
}
inline void write_reference(const std::string& path, const std::string& name, const std::vector<float>& log_probs) {
    SafetensorsWriter writer(path, {{name, "F32", Shape({int64_t(log_probs.size())})}});
    writer.write(name, log_probs.data(), int64_t(log_probs.size() * sizeof(float)));
    writer.close();
}
// Returns nothing if the file is not there or belongs to something else.
inline std::vector<float> read_reference(const std::string& path, const std::string& name, int64_t documents) {
    if (!fs::exists(path)) return {};
    const SafetensorsReader file(path);
    if (!file.find(name)) return {};
    std::vector<float> log_probs(static_cast<size_t>(documents));
    file.at(name, Shape({documents})).read_into(log_probs.data());
    return log_probs;
}
