// lens.h - what each layer would say next: the final norm and the head, applied to the residual stream of every layer
//
// This is the logit lens (nostalgebraist 2020). The row of the last layer is what the model says.
#pragma once
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "data/json.h"
#include "data/tokenizer.h"
#include "gpt/generate.h"

struct LensRow {
    int64_t layer;                                      // 0: the embedding; l: after block l
    std::vector<std::pair<int32_t, double>> likeliest;  // ids with their probabilities, the likeliest first
};

// Returns what layers 0 to L would say after the last of `ids`: the `most` likeliest tokens of each.
inline std::vector<LensRow> lens(Model& model, const std::vector<int32_t>& ids, int64_t most) {
    const Config& c = model.config;
    const int64_t R = c.layers + 1, C = c.width;
    Arena memory("lens");
    for (int i = 0; i < 2; i++) memory.plan({R, C}, model.dtype);
    for (int i = 0; i < 2; i++) memory.plan({R}, DType::F32);
    memory.allocate(*model.device);
    const Tensor stream = memory.take({R, C}, model.dtype), normed = memory.take({R, C}, model.dtype);
    const Tensor mean = memory.take({R}, DType::F32), rstd = memory.take({R}, DType::F32);

    // A long prompt goes through the model in several parts. Each overwrites the rows of the part before.
    const auto before = std::exchange(model.observe, nullptr);
    model.observe     = [&](int64_t layer, Tensor x) {
        const bool changed = before && before(layer, x);
        copy(stream.rows(layer, 1), x.rows(x.shape[0] - 1, 1), model.stream);
        return changed;
    };
    Generator generator(model, 1, int64_t(ids.size()));
    generator.feed({ids});
    model.observe = before;

    layernorm_forward(normed, mean, rstd, stream, model.params.lnf_w, model.params.lnf_b, c.norm_eps, model.stream);
    std::vector<LensRow> rows;
    each_row_of_logits(model, model.acts, normed, [&](int64_t layer, const float* logits) {
        expect_finite_logits(logits, c.vocab, int64_t(ids.size()));
        const double top = *std::max_element(logits, logits + c.vocab);
        double sum       = 0;
        for (int64_t v = 0; v < c.vocab; v++) sum += std::exp(logits[v] - top);
        std::vector<int32_t> order(size_t(c.vocab), 0);
        std::iota(order.begin(), order.end(), 0);
        const size_t n = size_t(std::min(most, c.vocab));
        std::partial_sort(order.begin(), order.begin() + long(n), order.end(),
                          [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
        rows.push_back({layer, {}});
        for (size_t i = 0; i < n; i++)
            rows.back().likeliest.emplace_back(order[i], std::exp(logits[order[i]] - top) / sum);
    });
    return rows;
}

// One line for each layer. Without a tokenizer, tokens are shown by their ids.
inline std::string lens_table(const std::vector<LensRow>& rows, const Tokenizer* tokenizer) {
    std::string table = "layer  next token, the likeliest first\n";
    for (const LensRow& row : rows) {
        table += fmt::format("{:>5}", row.layer);
        for (const auto& [id, probability] : row.likeliest) {
            std::string cell = tokenizer ? json_text(nlohmann::json(tokenizer->text_of(id))) : std::to_string(id);
            cell += fmt::format(" {:.1f}%", 100 * probability);
            const int64_t columns =
                std::count_if(cell.begin(), cell.end(), [](char c) { return !continues_character(c); });
            table += "  " + cell + std::string(size_t(std::max<int64_t>(0, 18 - columns)), ' ');
        }
        table.erase(table.find_last_not_of(' ') + 1);
        table += '\n';
    }
    return table;
}
inline nlohmann::ordered_json lens_json(const std::vector<LensRow>& rows, const Tokenizer* tokenizer) {
    auto all = nlohmann::ordered_json::array();
    for (const LensRow& row : rows) {
        auto next = nlohmann::ordered_json::array();
        for (const auto& [id, probability] : row.likeliest) {
            next.push_back({{"id", id}, {"probability", probability}});
            if (tokenizer) next.back()["token"] = tokenizer->text_of(id);
        }
        all.push_back({{"layer", row.layer}, {"next", next}});
    }
    return all;
}
