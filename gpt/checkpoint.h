// checkpoint.h - everything that a run needs to go on as if it had never stopped: what it is, where it lies, and
// reading it. saver.h writes it.
//
//   RUN/checkpoints/0001000/    config.json model.safetensors tokenizer.json    a model folder like any other
//                               state.safetensors    the optimizer's state as KIND.WEIGHT, such as m.wte.weight, and
//                                                    master.WEIGHT unless model.safetensors is fp32; all of it in fp32,
//                                                    in our names and layout
//                               state.json           step, tokens, position in the data, what the run was started with
//                               COMPLETE             written last; a folder without it is not a checkpoint
//   RUN/checkpoints/latest      link to the newest complete one
//
// Where several processes train, each writes some of the weights and of the state: model-0000k-of-0000n.safetensors and
// state-0000k-of-0000n.safetensors, with an index of each. The tensors in them are whole, so any number of processes,
// with any --shard, can read them again.
//
// A reader sees a complete checkpoint or none: it is written to a hidden folder, flushed to disk file by file, and
// renamed. When that fails half way (a full disk), the hidden folder is removed and the checkpoints before it are
// untouched.
#pragma once
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "data/json.h"
#include "data/loader.h"
#include "data/tokenizer_json.h"
#include "gpt/hf.h"
#include "gpt/optimizer.h"

// The state of a run beside its weights and its optimizer.
struct TrainState {
    int64_t step = 0, tokens = 0;  // done so far
    LoaderPosition position;       // the next step begins here in the training data
    uint64_t seed = 0;
    std::string data_fingerprint;
    int64_t rounded_at  = 0;           // the update that rounded bf16 weights at random; 0: they are rounded to nearest
    DType weights_dtype = DType::F32;  // the dtype in model.safetensors: F32, BF16 or F16
    int world           = 1;           // processes of the run that saved it; another number may continue it
    int64_t context     = 0;           // tokens of the sequences that `position` counts; 0: not known
    bool evaluated      = true;        // the evaluation and the sample that were due at this step are done
};

// The texts of the files that belong to a tokenizer, by name. They are read when a run starts, so that a save does not
// depend on a folder that may be gone by then.
using TokenizerFiles = std::vector<std::pair<std::string, std::string>>;
inline TokenizerFiles read_tokenizer_files(const std::string& tokenizer) {
    TokenizerFiles files = {{"tokenizer.json", read_tokenizer_json(tokenizer)}};
    for (const char* name : {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                             "chat_template.jinja", "chat_template.json"})
        if (const fs::path beside = fs::path(tokenizer).parent_path() / name; fs::exists(beside))
            files.emplace_back(name, MappedFile(beside.string()).text());
    return files;
}

inline std::string checkpoint_name(int64_t step) { return fmt::format("{:07}", step); }
inline bool is_complete(const fs::path& folder) { return fs::exists(folder / "COMPLETE"); }

// The steps of a run's complete checkpoints, in order.
inline std::vector<int64_t> checkpoints_of(const std::string& run) {
    std::vector<int64_t> steps;
    std::error_code none;
    for (const auto& e : fs::directory_iterator(run + "/checkpoints", none)) {
        const std::string name = e.path().filename().string();
        const bool digits = name.size() >= 7 && name.size() <= 18 && name.find_first_not_of("0123456789") == name.npos;
        if (digits && !e.is_symlink() && is_complete(e.path())) steps.push_back(std::stoll(name));
    }
    std::sort(steps.begin(), steps.end());
    return steps;
}
inline std::string checkpoint_path(const std::string& run, int64_t step) {
    return run + "/checkpoints/" + checkpoint_name(step);
}
// Names a new run: the preset or folder; for a checkpoint, the run it came from.
inline std::string run_name(const std::string& model) {
    fs::path path = fs::path(model + "/").lexically_normal().parent_path();
    if (path.parent_path().filename() == "checkpoints") path = path.parent_path().parent_path();
    const std::string name = path.filename().string();
    return name.empty() || name == "." || name == ".." ? "model" : name;
}

// Makes checkpoints/latest a link to a checkpoint.
inline void point_latest_to(const fs::path& home, int64_t step) {
    const fs::path link = home / ".latest.tmp";
    fs::remove(link);
    fs::create_symlink(checkpoint_name(step), link);
    fs::rename(link, home / "latest");
    OutputFile::sync_folder(home.string());
}

// Removes the hidden folders of saves that a kill ended.
inline void remove_unfinished_saves(const fs::path& home) {
    std::error_code none;
    for (const auto& e : fs::directory_iterator(home, none))
        if (const std::string name = e.path().filename().string(); name[0] == '.' && e.path().extension() == ".tmp")
            fs::remove_all(e.path());
}

// Removes all checkpoints but the newest `keep` (0: none is removed) and those of the steps in `kept`, which is sorted.
inline void remove_old_checkpoints(const std::string& run, int64_t keep, const std::vector<int64_t>& kept) {
    auto steps       = checkpoints_of(run);
    const auto stays = [&](int64_t step) { return std::binary_search(kept.begin(), kept.end(), step); };
    steps.erase(std::remove_if(steps.begin(), steps.end(), stays), steps.end());
    for (size_t i = 0; keep > 0 && i + keep < steps.size(); i++) {
        std::error_code ignored;
        const fs::path old = checkpoint_path(run, steps[i]);
        fs::remove(old / "COMPLETE", ignored);  // first, so that a folder half removed is no checkpoint
        fs::remove_all(old, ignored);
    }
}

// Takes back the checkpoints from `step` on, because their weights give a loss that is not finite. Their files stay,
// but without COMPLETE they are no checkpoints, and --resume goes on from the one before. Returns its path, or "".
inline std::string retract_checkpoints(const std::string& run, int64_t step) {
    std::string good;
    for (const int64_t saved : checkpoints_of(run)) {
        if (saved < step) good = checkpoint_path(run, saved);
        if (saved >= step) fs::remove(checkpoint_path(run, saved) + "/COMPLETE");
    }
    const auto left = checkpoints_of(run);
    if (left.empty())
        fs::remove(run + "/checkpoints/latest");  // the link, which would lead to such weights
    else
        point_latest_to(run + "/checkpoints", left.back());
    return good;
}

// The newest complete checkpoint of a run folder, or "" when the run ended before its first one.
inline std::string newest_checkpoint(const std::string& run) {
    CHECK(fs::is_directory(run), "--resume: there is no run in {}", run);
    const auto steps = checkpoints_of(run);
    if (!steps.empty()) return checkpoint_path(run, steps.back());
    const std::string log = run + "/log.jsonl";
    const bool saved = fs::exists(log) && MappedFile(log).text().find("\"event\":\"save\"") != std::string_view::npos;
    CHECK(!saved && fs::exists(run + "/run.json"),
          "--resume: there is no complete checkpoint in {}/checkpoints; start again without --resume and with another "
          "--out",
          run);
    return "";
}

// Reads the state of a run that a checkpoint holds beside its weights. Errors name the field.
inline TrainState read_state(const std::string& folder) {
    const Fields f(folder + "/state.json");
    TrainState state;
    state.step             = f.integer("step");
    state.tokens           = f.integer("tokens");
    state.seed             = f.unsigned_integer("seed");
    state.rounded_at       = f.integer("rounded_at", 0);
    state.data_fingerprint = f.text("data", "");
    state.evaluated        = f.flag("evaluated", true);
    CHECK(f.has("position") && f.raw("position").is_object(), "{}: the field \"position\" is missing", f.path());
    const auto part = [&](const char* key) {
        const auto& p = f.raw("position");
        CHECK(p.contains(key) && p[key].is_number_integer() && p[key].get<int64_t>() >= 0,
              "{}: \"position\": \"{}\" must be an integer, 0 or more", f.path(), key);
        return p[key].get<int64_t>();
    };
    state.position.epoch = part("epoch");
    state.position.index = part("index");
    CHECK(state.step >= 0 && state.tokens >= 0, "{}: negative step or tokens", f.path());
    CHECK(state.rounded_at >= 0 && state.rounded_at <= std::min<int64_t>(state.step, UINT32_MAX),
          "{}: \"rounded_at\" is {}, expected 0 to the step, {}", f.path(), state.rounded_at, state.step);
    // Versions that did not write the context had counted tokens and sequences alike, so it follows in the first epoch.
    const bool first_epoch = state.position.epoch == 0 && state.position.index > 0;
    state.context          = f.integer("context", first_epoch ? state.tokens / state.position.index : 0);
    CHECK(state.context >= 0, "{}: \"context\" is {}, expected 0 or more", f.path(), state.context);
    return state;
}

// Fills the masters from a model folder. round_into_weights() then gives the weights. Where a process keeps parts of
// them, each weight lands in the memory of its gradient first. Returns what the user should be warned of.
// stored_vocab: the vocabulary of the folder, if the model's is larger; 0: they are the same. filled(row) is called
// when the tensor of a row holds its weight.
inline std::vector<std::string> load_masters(Model& model, Optimizer& optimizer, const SafetensorsReader& file,
                                             bool ignore_extra = false, int64_t stored_vocab = 0,
                                             const std::function<void(const ParamRow&)>& filled = nullptr) {
    Config c = model.config;
    if (stored_vocab) c.vocab = stored_vocab;
    if (!model.layout.sharding.cuts(ShardLevel::optimizer)) {
        const auto rows = param_rows(optimizer.master(), model.config);
        return load_weights(optimizer.master(), c, file, model.stream, nullptr, ignore_extra, [&](size_t i) {
            if (filled) filled(rows[i]);
        });
    }
    const auto rows = param_rows(model.grads, model.config);
    return load_weights(model.grads, c, file, model.stream, nullptr, ignore_extra, [&](size_t i) {
        if (filled) filled(rows[i]);
        optimizer.set_master(i, *rows[i].tensor);
    });
}

// Restores weights and optimizer, and returns the rest of the run's state. With the same dtype, data and options the
// run continues bit for bit.
inline TrainState load_checkpoint(const std::string& folder, Model& model, Optimizer& optimizer) {
    TrainState state        = read_state(folder);
    const std::string dtype = Fields(folder + "/state.json").text("dtype", "");
    CHECK(dtype == name_of(model.dtype), "{}/state.json: saved with --dtype {}, this run has --dtype {}", folder, dtype,
          name_of(model.dtype));

    const SafetensorsReader weights(folder), saved(folder, "state");
    state.weights_dtype = stored_dtype(weights);
    if (state.weights_dtype == DType::F32) load_masters(model, optimizer, weights);
    auto parts = optimizer.state();
    if (state.weights_dtype != DType::F32)
        for (StatePart& master : optimizer.masters()) parts.push_back(std::move(master));
    for (const StatePart& t : parts) {
        CHECK(
            saved.find(t.name),
            "{}: it has no {}, which this optimizer needs; a run goes on with the --optimizer that it was started with",
            saved.path(), t.name);
        const StoredTensor& stored = saved.at(t.name, t.shape);
        const Fill fill            = [&](void* out, int64_t first, int64_t count) {
            stored.read_into(static_cast<float*>(out), t.part.first + first, count);
        };
        from_host(t.tensor, fill, model.stream);
    }
    optimizer.round_into_weights(state.rounded_at);
    return state;
}
