// model_folder.h - finds and reads what --model and --tokenizer name, for both programs
#pragma once
#include <algorithm>
#include <cctype>
#include <memory>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "gpt/auto.h"
#include "gpt/checkpoint.h"
#include "gpt/hf.h"
#include "gpt/presets.h"
#include "gpt/values.h"

// Returns the folder that --model names. The folder of a run, or of its checkpoints, stands for the newest complete
// checkpoint, and a config.json for its folder. The name of a preset is returned as it is. Throws an InputError for a
// name that is none of these.
inline std::string model_folder(const std::string& name) {
    const fs::path path(name);
    if (find_preset(name)) return name;
    if (path.filename() == "config.json" && fs::is_regular_file(path))
        return path.has_parent_path() ? path.parent_path().string() : ".";
    if (fs::is_directory(path)) {
        if (fs::exists(path / "config.json")) return name;
        const fs::path own     = path.filename().empty() ? path.parent_path() : path;
        const fs::path run     = own.filename() == "checkpoints" ? own.parent_path() : own;
        const std::string home = run.empty() ? "." : run.string();
        if (const auto steps = checkpoints_of(home); !steps.empty()) return checkpoint_path(home, steps.back());
        CHECK(!fs::exists(own / "run.json"), "{}: this run has no complete checkpoint yet", name);
        refuse_adapter(name);
        refuse_dangling(name + "/config.json");
        refuse_gguf(path);
        fail("{}: there is no config.json in this folder, and no checkpoint of a run", name);
    }
    refuse_gguf(path);
    CHECK(!fs::exists(path), "{} is a file; --model takes the folder of a model or of a run", name);
    std::vector<std::string> names;
    for (const Preset& p : presets()) names.push_back(p.name);
    std::string last = path.filename().string();
    std::transform(last.begin(), last.end(), last.begin(), [](unsigned char c) { return char(std::tolower(c)); });
    const std::string near = nearest_name(last, names);
    const bool of_the_hub  = path.is_relative() && !path.filename().empty() && !path.parent_path().empty() &&
                            !path.parent_path().has_parent_path() && !fs::exists(path.parent_path());
    fail("{} is neither a preset nor a model folder{} train_gpt --list-models prints the presets{}", name,
         near.empty() ? ";" : "; did you mean " + near + "?",
         of_the_hub ? fmt::format("\n    If it is a model on the Hugging Face hub, this command fetches its folder: hf "
                                  "download {} --local-dir models/{}",
                                  name, path.filename().string())
                    : "");
}

// Uses the tokenizer that lies in `folder`, unless another was given.
inline void find_tokenizer(Auto<std::string>& file, const fs::path& folder) {
    if (!file.is_auto()) file = tokenizer_at(file);
    if (const std::string found = folder.empty() ? "" : tokenizer_in(folder); !found.empty()) file.decide(found);
}
// Returns null when there is no tokenizer.
inline std::unique_ptr<Tokenizer> load_tokenizer(const Auto<std::string>& file) {
    return file.is_auto() ? nullptr : std::make_unique<Tokenizer>(Tokenizer::load(file));
}
// Makes the end-of-text token that a file beside the tokenizer names one of the model's. Where no file says how a text
// ends, it ends with <|endoftext|>. Warns when the tokenizer has ids that the model lacks, such as that of a padding
// token. remedy: advice at the end of this warning, such as "; --x does y".
inline void use_end_token(Config& c, const Tokenizer& tokenizer, const std::string& file,
                          const std::string& remedy = "") {
    if (tokenizer.vocab_size() > c.vocab)
        fmt::print(
            stderr,
            "warning: {} has ids up to {}, but {} has a vocabulary of {}; a text that uses the others is refused{}\n",
            file, tokenizer.vocab_size() - 1, c.name, c.vocab, remedy);
    const int32_t end = tokenizer.eos() >= 0 || !c.ends.empty() ? tokenizer.eos() : tokenizer.eot();
    if (end >= 0 && !c.is_end(end)) c.ends.push_back(end);
}

inline void print_warnings(const std::vector<std::string>& warnings) {
    for (const std::string& warning : warnings) fmt::print(stderr, "warning: {}\n", warning);
}
// Reads the weights of a model folder, and prints the warnings about them.
inline void read_weights(Model& model, const SafetensorsReader& file, bool ignore_extra_tensors) {
    print_warnings(load_weights(model.params, model.config, file, model.stream, nullptr, ignore_extra_tensors));
}
