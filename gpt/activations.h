// activations.h - the residual stream of texts, layer by layer, as one row for each text
#pragma once
#include <string>
#include <vector>

#include "gpt/model.h"
#include "gpt/packing.h"
#include "gpt/safetensors.h"

// Features of texts: (texts, width), row by row.
struct Features {
    int64_t rows = 0, width = 0;
    std::vector<float> values;
    const float* row(int64_t i) const { return values.data() + i * width; }
};

// The two rows that a layer gives for a text: the mean over the tokens of the text, and the last token.
enum class Pooling : uint8_t { mean, last };
constexpr const char* pooling_names[] = {"mean", "last"};

struct LayerFeatures {
    int64_t layer;       // 0: the embedding; l: after block l
    Features pooled[2];  // by Pooling
};

// A text for a model. `front` ids stand before it, such as the end-of-text token, and take no part in its mean.
struct TextIds {
    std::vector<int32_t> ids;
    int64_t front = 0;
};

// Returns the features of texts in the given layers. The model reads the end of a text that is longer than its context.
// The sum of a mean runs over the tokens in order, in double. When go_on() ends it early, the results mean nothing.
inline std::vector<LayerFeatures> features_of(Model& model, const std::vector<TextIds>& texts,
                                              const std::vector<int64_t>& layers, const GoOn& go_on = nullptr) {
    const int64_t n = int64_t(texts.size()), C = model.config.width, T = model.shape.context;
    std::vector<LayerFeatures> all;
    for (const int64_t layer : layers) {
        const Features zeros{n, C, std::vector<float>(size_t(n * C), 0.f)};
        all.push_back({layer, {zeros, zeros}});
    }

    struct Placed {
        int64_t text, row, front, tokens;
    };
    std::vector<Placed> placed;
    PackedTexts packed(model.shape.batch, T);
    const auto before = std::exchange(model.observe, nullptr);
    model.observe     = [&](int64_t layer, Tensor x) {
        const bool changed = before && before(layer, x);
        for (LayerFeatures& f : all) {
            if (f.layer != layer) continue;
            const std::vector<float> rows = floats_of(x, model.stream);
            host::parallel_ranges(int64_t(placed.size()), 1, [&](int64_t begin, int64_t end) {
                for (int64_t i = begin; i < end; i++) {
                    const Placed& p = placed[size_t(i)];
                    for (int64_t c = 0; c < C; c++) {
                        double sum = 0;
                        for (int64_t t = p.front; t < p.tokens; t++) sum += rows[size_t((p.row + t) * C + c)];
                        const auto set = [&](Pooling by, double value) {
                            f.pooled[size_t(by)].values[size_t(p.text * C + c)] = float(value);
                        };
                        set(Pooling::mean, sum / double(p.tokens - p.front));
                        set(Pooling::last, rows[size_t((p.row + p.tokens - 1) * C + c)]);
                    }
                }
            });
        }
        return changed;
    };
    const auto run = [&] {
        if (!placed.empty()) forward(model, model.feed.bring(packed.batch()), Keep::results);
        packed.clear();
        placed.clear();
    };
    for (int64_t i = 0; i < n && (!go_on || go_on(i)); i++) {
        const TextIds& text = texts[size_t(i)];
        const int64_t size = int64_t(text.ids.size()), tokens = std::min(size, T), skip = size - tokens;
        model.config.check_ids(text.ids, fmt::format("text {}", i + 1));
        int64_t row = packed.place(text.ids.data() + skip, tokens);
        if (row < 0) {
            run();
            row = packed.place(text.ids.data() + skip, tokens);
        }
        placed.push_back({i, row, std::max<int64_t>(0, text.front - skip), tokens});
    }
    run();
    model.observe = before;
    for (const LayerFeatures& f : all)
        for (const Features& x : f.pooled)
            for (const float value : x.values)
                CHECK_RUN(std::isfinite(value),
                          "the residual stream of layer {} is not finite: the weights are damaged", f.layer);
    return all;
}

// The texts of one file, with a label of 0 or 1 each.
struct LabelledFeatures {
    std::string name;  // train or test
    std::vector<LayerFeatures> layers;
    std::vector<int32_t> labels;
};
// Writes NAME.label (texts) as I32, and NAME.layer.L.mean and NAME.layer.L.last (texts, width) as F32.
inline void write_features(const std::string& path, const std::vector<const LabelledFeatures*>& sets) {
    std::vector<StoredRow> rows;
    for (const bool write : {false, true}) {
        std::unique_ptr<SafetensorsWriter> file;
        if (write) file = std::make_unique<SafetensorsWriter>(path, rows);
        const auto add = [&](const std::string& name, const char* dtype, const Shape& shape, const void* data) {
            const StoredRow row{name, dtype, shape};
            if (!write) return rows.push_back(row);
            file->write(name, data, row.bytes());
        };
        for (const LabelledFeatures* set : sets) {
            add(set->name + ".label", "I32", {int64_t(set->labels.size())}, set->labels.data());
            for (const LayerFeatures& f : set->layers)
                for (size_t by = 0; by < 2; by++)
                    add(fmt::format("{}.layer.{}.{}", set->name, f.layer, pooling_names[by]), "F32",
                        {f.pooled[by].rows, f.pooled[by].width}, f.pooled[by].values.data());
        }
        if (write) file->close();
    }
}
