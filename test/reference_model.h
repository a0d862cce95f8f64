// reference_model.h - the loss of the whole model in double, in the plainest form. Tests of gradients take its finite
// differences.
#pragma once
#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "gpt/model.h"

using Weights = std::map<std::string, std::vector<double>>;

inline Weights weights_in_double(Params& p, const Config& c, Stream s) {
    Weights w;
    for (const ParamRow& r : param_rows(p, c)) {
        std::vector<float> host(r.shape.numel());
        to_host(host.data(), *r.tensor, s);
        w[r.name].assign(host.begin(), host.end());
    }
    return w;
}

// The mean loss over B sequences. ids is (B, T + 1): token t + 1 of a sequence is the target of token t. With rates,
// elements are dropped as in this step.
inline double reference_loss(const Weights& w, const Config& c, const std::vector<int32_t>& ids, int64_t B, int64_t T,
                             ModelDropout drop = {}, int32_t step = 0) {
    drop.step       = {&step, DType::I32, {1}};  // in the memory of the host
    const int64_t C = c.width, H = c.heads, D = c.head_size(), F = c.feed_forward;
    using Rows        = std::vector<std::vector<double>>;  // (T, …)
    const auto has    = [&](const std::string& name) { return w.count(name) > 0; };
    const auto linear = [&](const Rows& x, const std::string& name, int64_t out) {
        Rows y(x.size(), std::vector<double>(out));
        for (size_t t = 0; t < x.size(); t++)
            for (int64_t o = 0; o < out; o++) {
                double sum = has(name + ".bias") ? w.at(name + ".bias")[o] : 0;
                for (size_t i = 0; i < x[t].size(); i++) sum += x[t][i] * w.at(name + ".weight")[o * x[t].size() + i];
                y[t][o] = sum;
            }
        return y;
    };
    const auto norm = [&](const Rows& x, const std::string& name) {
        Rows y = x;
        for (auto& row : y) {
            double mean = 0, var = 0;
            for (double v : row) mean += v / C;
            for (double v : row) var += (v - mean) * (v - mean) / C;
            for (int64_t i = 0; i < C; i++)
                row[i] =
                    (row[i] - mean) / std::sqrt(var + c.norm_eps) * w.at(name + ".weight")[i] + w.at(name + ".bias")[i];
        }
        return y;
    };
    const auto gelu = [&](double x) {
        if (c.gelu == Gelu::erf) return x / 2 * (1 + std::erf(x / std::sqrt(2.0)));
        return x / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    };
    const auto add = [](Rows a, const Rows& b) {
        for (size_t t = 0; t < a.size(); t++)
            for (size_t i = 0; i < a[t].size(); i++) a[t][i] += b[t][i];
        return a;
    };
    double loss = 0;
    for (int64_t b = 0; b < B; b++) {
        const auto dropped = [&](Rows x, const Dropout& at) {
            for (int64_t t = 0; t < T; t++)
                for (int64_t i = 0; i < C; i++) {
                    const uint64_t e   = uint64_t((at.first + b * T + t) * C + i);
                    const Philox block = dropout_block(at.key, uint32_t(step), at.place, e / 8);
                    x[t][i] *= dropout_keeps(block, e, at.threshold()) ? 65536. / (65536 - at.threshold()) : 0;
                }
            return x;
        };
        Rows x(T, std::vector<double>(C));
        for (int64_t t = 0; t < T; t++)
            for (int64_t i = 0; i < C; i++)
                x[t][i] = w.at("wte.weight")[ids[b * (T + 1) + t] * C + i] +
                          (c.learned_positions ? w.at("wpe.weight")[t * C + i] : 0);
        x = dropped(x, drop.embedding());
        for (int64_t l = 0; l < c.layers; l++) {
            const BlockDropout places = drop.block(l);
            const auto in             = [&](const char* leaf) { return fmt::format("h.{}.{}", l, leaf); };
            Rows qkv                  = linear(norm(x, in("ln1")), in("qkv"), 3 * C);
            for (int64_t t = 0; t < T; t++)
                for (int64_t part = 0; part < 2; part++)
                    for (int64_t h = 0; h < H; h++)
                        for (int64_t i = 0, half = c.rope.dim / 2; i < half; i++) {
                            const double angle = t * std::pow(double(c.rope.base), -2.0 * i / c.rope.dim);
                            double &lo = qkv[t][part * C + h * D + i], &hi = qkv[t][part * C + h * D + i + half];
                            const double a = lo, d = hi;
                            lo = a * std::cos(angle) - d * std::sin(angle);
                            hi = d * std::cos(angle) + a * std::sin(angle);
                        }
            Rows att(T, std::vector<double>(C));
            for (int64_t h = 0; h < H; h++)
                for (int64_t t = 0; t < T; t++) {
                    const Dropout& at = places.probabilities;
                    std::vector<double> p(t + 1);
                    double most = -1e300, total = 0;
                    for (int64_t u = 0; u <= t; u++) {
                        for (int64_t i = 0; i < D; i++)
                            p[u] += qkv[t][h * D + i] * qkv[u][C + h * D + i] * c.attn_scale(l);
                        most = std::max(most, p[u]);
                    }
                    for (double& v : p) total += v = std::exp(v - most);
                    for (int64_t u = 0; at.rate > 0 && u <= t; u++) {
                        const HeadDropout mask = HeadDropouts(at, T, H).head(b * H + h);
                        p[u] *= mask.keeps(uint32_t(t), uint32_t(u)) ? 65536. / (65536 - at.threshold()) : 0;
                    }
                    for (int64_t u = 0; u <= t; u++)
                        for (int64_t i = 0; i < D; i++) att[t][h * D + i] += p[u] / total * qkv[u][2 * C + h * D + i];
                }
            const Rows mid = add(x, dropped(linear(att, in("proj"), C), places.attention));
            Rows up        = linear(norm(c.parallel ? x : mid, in("ln2")), in("up"), F);
            for (auto& row : up)
                for (double& v : row) v = gelu(v);
            x = add(mid, dropped(linear(up, in("down"), C), places.mlp));
        }
        const Rows last  = norm(x, "lnf");
        const auto& head = w.at(c.tied_head ? "wte.weight" : "head.weight");
        for (int64_t t = 0; t < T; t++) {
            std::vector<double> logits(c.vocab);
            double most = -1e300, total = 0;
            for (int64_t v = 0; v < c.vocab; v++) {
                for (int64_t i = 0; i < C; i++) logits[v] += last[t][i] * head[v * C + i];
                most = std::max(most, logits[v]);
            }
            for (double v : logits) total += std::exp(v - most);
            loss += (std::log(total) + most - logits[ids[b * (T + 1) + t + 1]]) / double(B * T);
        }
    }
    return loss;
}
