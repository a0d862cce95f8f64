// run_weights.h - where a run's first weights come from, and the fingerprint of all weights
#pragma once
#include <cstring>
#include <string>
#include <vector>

#include "gpt/busy.h"
#include "gpt/run.h"

// A hash of all weights: 32 bits, as 8 hexadecimal digits.
inline std::string fingerprint(Model& m) {
    constexpr int64_t most = 1 << 18;  // elements that are copied to the host at a time
    const Busy busy("computing the fingerprint of the weights");
    uint64_t h = 0;
    std::vector<char> host;
    m.shards->forget();
    for (const ParamRow& r : param_rows(m.params, m.config)) {
        m.shards->arrive(r.bucket);
        const Tensor flat = r.tensor->view({r.tensor->numel()});
        for (int64_t first = 0, count; first < flat.numel(); first += count) {
            count             = std::min(most, flat.numel() - first);
            const Tensor part = flat.rows(first, count);
            const size_t at   = size_t(first * size_of(part.dtype));
            host.resize(size_t(part.bytes()));
            to_host(host.data(), part, m.stream);
            for (size_t i = 0; i < host.size(); i += 8) {
                uint64_t word = 0;
                std::memcpy(&word, host.data() + i, std::min<size_t>(8, host.size() - i));
                h = mix64(h ^ word) + at + i;
            }
        }
    }
    return fmt::format("{:08x}", uint32_t(h ^ (h >> 32)));
}

struct FirstWeights {
    TrainState state;    // the place of the run that belongs to them
    std::string origin;  // says where they come from
};

// Gives the model its first weights. They come from the run's newest checkpoint or from a model folder, or are random.
inline FirstWeights set_first_weights(const Run& run, Model& model, Optimizer& optimizer) {
    const Options& o = run.options;
    FirstWeights first{{0, 0, {}, o.seed, run.train->fingerprint()}, ""};
    first.state.weights_dtype = model.dtype;
    first.state.evaluated     = false;
    if (!run.checkpoint.empty()) {
        first.state = load_checkpoint(run.checkpoint, model, optimizer);
        run.train->seek(first.state.position, first.state.context);
        first.state.position = run.train->position();
        first.origin         = "continues " + run.checkpoint;
    } else if (run.trained_weights) {
        const SafetensorsReader weights(o.model);
        const NewTokens& added = run.new_tokens;
        const auto warnings =
            load_masters(model, optimizer, weights, o.ignore_extra_tensors, added.stored_vocab,
                         [&](const ParamRow& r) { set_new_rows(r, model.config, added, model.stream); });
        if (run.ranks.rank == 0) print_warnings(warnings);
        optimizer.round_into_weights(0);
        first.state.weights_dtype = stored_dtype(weights);
        first.origin              = fmt::format("fine-tunes the weights of {} ({}: {})", o.model, weights.description(),
                                                row_of(first.state.weights_dtype).stored);
    } else {
        initialise_weights(model, o.seed);
        optimizer.start_from_weights();
        first.origin = run.preset ? "random weights" : "random weights, because there are none in " + o.model;
        if (run.preset && fs::exists(o.model + "/config.json"))
            first.origin += fmt::format("; --model ./{} would begin with the folder of that name", o.model);
    }
    if (!o.save_dtype.is_auto()) first.state.weights_dtype = o.save_dtype;
    first.state.world   = run.ranks.world;
    first.state.context = o.context;
    return first;
}
