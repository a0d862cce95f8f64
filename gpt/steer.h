// steer.h - steers a model while it runs: sets units of the residual stream to a value, and adds directions to it
//
//   LAYER:UNIT=VALUE   after block LAYER (0: after the embedding), unit UNIT is VALUE at every position
//   LAYER:FILE*A       there, A times a direction is added at every position: a tensor of a .safetensors file
//
// Radford et al. (arXiv 1704.01444) wrote good and bad reviews by setting one unit. A direction comes from --probe
// --out, or from any file with one tensor.
#pragma once
#include <cstdlib>
#include <string>
#include <vector>

#include "data/words.h"
#include "gpt/model.h"
#include "gpt/safetensors.h"

namespace steering {

inline double number(const std::string& word, const std::string& where) {
    char* end          = nullptr;
    const double value = std::strtod(word.c_str(), &end);
    CHECK(!word.empty() && *end == '\0' && std::isfinite(value), "{}: '{}' is not a number", where, word);
    return value;
}
inline int64_t index(const std::string& word, int64_t below, const char* what, const std::string& where) {
    const bool digits   = !word.empty() && word.size() < 9 && word.find_first_not_of("0123456789") == word.npos;
    const int64_t value = digits ? std::atoll(word.c_str()) : -1;
    CHECK(value >= 0 && value < below, "{}: {} '{}' is not a number from 0 to {}", where, what, word, below - 1);
    return value;
}

// Returns a direction: of a file that --probe wrote, the one of this layer's mean; of another file, its only tensor.
inline std::vector<float> direction(const std::string& file, int64_t layer, int64_t width, const std::string& where) {
    CHECK(!fs::is_directory(file), "{}: {} is a folder; give a .safetensors file in it, such as {}", where, file,
          (fs::path(file) / "directions.safetensors").string());
    const SafetensorsReader reader(file);
    const std::string of_layer = fmt::format("layer.{}.mean", layer);
    const StoredTensor* t      = reader.find(of_layer);
    if (!t && reader.tensors().size() == 1) t = &reader.tensors().begin()->second;
    CHECK(t, "{}: {} has {}, and none of them is called {}", where, file,
          count_of(int64_t(reader.tensors().size()), "tensor"), of_layer);
    CHECK(t->shape.numel() == width, "{}: {} of {} has the shape {}, but the model is {} wide", where, t->label(), file,
          t->shape.str(), width);
    std::vector<float> values(size_t(width), 0.f);
    t->read_into(values.data());
    return values;
}

}  // namespace steering

// Steers a model as long as both live.
class Steering {
  public:
    // words: as above. They act in this order, so that a direction moves a unit that was set before.
    Steering(Model& model, const std::vector<std::string>& words) {
        const int64_t C = model.config.width;
        for (const std::string& word : words) {
            const std::string where = "--steer " + word;
            const size_t colon = word.find(':'), star = word.rfind('*'), equals = word.find('=');
            CHECK(colon != word.npos && (star != word.npos ? star > colon : equals != word.npos && equals > colon),
                  "{}: expected LAYER:UNIT=VALUE or LAYER:FILE*A, such as 2:63=-5 or 3:probe/directions.safetensors*4",
                  where);
            const int64_t layer = steering::index(word.substr(0, colon), model.config.layers + 1, "the layer", where);
            Change& change      = change_of(layer, C);
            if (star != word.npos) {
                const double a = steering::number(word.substr(star + 1), where);
                const auto d   = steering::direction(word.substr(colon + 1, star - colon - 1), layer, C, where);
                for (int64_t c = 0; c < C; c++) change.shift[size_t(c)] += float(a * double(d[size_t(c)]));
            } else {
                const size_t unit =
                    size_t(steering::index(word.substr(colon + 1, equals - colon - 1), C, "the unit", where));
                change.scale[unit] = 0;
                change.shift[unit] = float(steering::number(word.substr(equals + 1), where));
            }
        }
        for (size_t i = 0; i < 2 * changes_.size(); i++) memory_.plan({C}, DType::F32);
        memory_.allocate(*model.device);
        for (Change& change : changes_) {
            change.on_device = {memory_.take({C}, DType::F32), memory_.take({C}, DType::F32)};
            from_host(change.on_device.first, change.scale, model.stream);
            from_host(change.on_device.second, change.shift, model.stream);
        }
        if (changes_.empty()) return;
        model.observe = [this, &model](int64_t layer, Tensor x) {
            for (const Change& change : changes_)
                if (change.layer == layer) {
                    scale_shift(x, change.on_device.first, change.on_device.second, model.stream);
                    return true;
                }
            return false;
        };
    }
    Steering(const Steering&)            = delete;
    Steering& operator=(const Steering&) = delete;

  private:
    struct Change {
        int64_t layer;
        std::vector<float> scale, shift;  // (C)
        std::pair<Tensor, Tensor> on_device;
    };
    Change& change_of(int64_t layer, int64_t C) {
        for (Change& change : changes_)
            if (change.layer == layer) return change;
        changes_.push_back({layer, std::vector<float>(size_t(C), 1.f), std::vector<float>(size_t(C), 0.f), {}});
        return changes_.back();
    }

    std::vector<Change> changes_;
    Arena memory_{"steering"};
};
