// run_folder.h - small runs of train_gpt in a scratch folder, and what they leave there
#pragma once
#include <algorithm>

#include "test/programs.h"

// A small run. Data and folder are named relative to the scratch folder.
inline const std::string tiny =
    " --model nano --train-data train.bin --batch 3 --context 16 --threads 1 --eval-every 0 ";

struct Place : Scratch {
    std::string program = fs::absolute(build_folder() + "/train_gpt").string();
    Place() { write_shard(*this / "train.bin", 3000); }
    // Runs train_gpt in a folder, which is the scratch folder unless another is named.
    Ran train(const std::string& words, const std::string& folder = ".") const {
        return shell(*this, "cd " + quoted(path) + " && cd " + quoted(folder) + " && " + quoted(program) + words);
    }
    nlohmann::ordered_json run_json(const std::string& out) const {
        return nlohmann::ordered_json::parse(read_text(*this / (out + "/run.json")));
    }
    std::vector<std::string> checkpoints(const std::string& out) const {
        std::vector<std::string> names;
        for (const auto& e : fs::directory_iterator(*this / (out + "/checkpoints")))
            if (fs::exists(e.path() / "COMPLETE") && !e.is_symlink()) names.push_back(e.path().filename().string());
        std::sort(names.begin(), names.end());
        return names;
    }
    std::string weights(const std::string& out, const std::string& checkpoint = "latest") const {
        return read_text(*this / (out + "/checkpoints/" + checkpoint + "/model.safetensors"));
    }
    double rate(const std::string& out, int64_t step) const {
        for (const auto& j : records(*this / out, "step"))
            if (j["step"] == step) return j["lr"];
        return -1;
    }
};

// The rest of the line behind the last `words` in `text`.
inline std::string after(const std::string& text, const std::string& words) {
    const size_t at = text.rfind(words);
    return at == text.npos ? "" : text.substr(at + words.size(), text.find('\n', at) - at - words.size());
}
