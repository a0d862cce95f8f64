// config.h - the facts of a model
//
// A Config states facts and never asks which family a model belongs to. Neutral values make branches unnecessary. A
// window as wide as any context is full attention, rope.dim = 0 rotates nothing, and a bias that a model lacks is a
// null tensor. `parallel` is the only fact that changes the structure of a block.
#pragma once
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "gpt/auto.h"
#include "kernels/check.h"
#include "kernels/ops.h"

// The standard deviations from which random weights are drawn; param_rows() in params.h holds the formulas.
//   gpt2: 0.02 for every matrix, 0.02/√(2L) for those that write into the residual stream (GPT-2 paper, section 2.3).
//   neox: √(2/5C), called small_init, and 2/(L√C), called wang_init, for those matrices (GPT-NeoX-20B paper, 3.1.3).
enum class InitialWeights : uint8_t { gpt2, neox };

// Sizes that replace those of a preset or of a config.json; auto: they stay.
struct Sizes {
    Auto<int64_t> layers, width, heads, vocab;
    bool are_given() const { return !(layers.is_auto() && width.is_auto() && heads.is_auto() && vocab.is_auto()); }
};

// The rates at which training drops elements of the embedding, probabilities of attention, and elements of what each
// branch of a block adds to the residual stream.
struct DropoutRates {
    float embedding = 0, attention = 0, residual = 0;
    bool any() const { return embedding > 0 || attention > 0 || residual > 0; }
};

struct Config {
    std::string name;        // the preset or folder that these facts come from
    std::string model_type;  // the family, as config.json spells it; a row of families.h reads and writes its folders
    int64_t layers = 0, width = 0, heads = 0, feed_forward = 0, context = 0;
    int64_t vocab = 0;           // token ids that exist; the tables have padded_vocab() rows
    int64_t bos = -1, eot = -1;  // ids of the beginning of a text and between documents; -1 when unknown
    std::vector<int64_t> ends;   // each of these ids ends a text that the model writes
    bool learned_positions = true;
    bool parallel          = false;  // the MLP reads the block's input instead of attention's output
    bool shared_norm       = false;  // one layernorm feeds both attention and MLP
    bool tied_head         = true;   // the head is the token table
    bool head_bias         = false;
    bool qkv_bias = true, proj_bias = true;
    bool scaled_scores   = true;   // attention scores are q·k/√D; otherwise they are q·k
    bool scores_by_layer = false;  // the scores of layer l are divided by l + 1 too
    // How many positions each layer sees, its own included; empty when all see everything.
    std::vector<int64_t> windows;
    Rope rope;
    Gelu gelu              = Gelu::tanh;
    std::string activation = "gelu_new";  // the word of config.json for gelu, which has several words for each form
    float norm_eps         = 1e-5f;
    InitialWeights initial_weights = InitialWeights::gpt2;
    DropoutRates dropout;  // config.json states them, and only --dropout auto uses them
    // The texts of files that came with the model. Folders that we write keep all their fields.
    struct Given {
        std::string config, generation_config;  // config.json, generation_config.json
    } given;

    // The feed-forward width keeps its ratio to the width.
    void replace(const Sizes& sizes) {
        if (!sizes.width.is_auto() && width > 0)
            feed_forward = std::llround(double(feed_forward) * double(sizes.width) / double(width));
        layers = sizes.layers.value_or(layers);
        width  = sizes.width.value_or(width);
        heads  = sizes.heads.value_or(heads);
        vocab  = sizes.vocab.value_or(vocab);
    }

    static constexpr int64_t everything = INT64_C(1) << 40;  // a window wider than any context

    int64_t head_size() const { return width / heads; }
    // Rows of the token table: a multiple of 64, so that the largest product has no ragged edge.
    int64_t padded_vocab() const { return round_up(vocab, 64); }
    float attn_scale(int64_t layer) const {
        const float scale = scaled_scores ? 1.f / std::sqrt(float(head_size())) : 1.f;
        return scores_by_layer ? scale / float(layer + 1) : scale;
    }
    int64_t window(int64_t layer) const { return windows.empty() ? everything : windows[layer]; }

    bool is_end(int32_t id) const { return std::find(ends.begin(), ends.end(), id) != ends.end(); }

    // Throws an InputError that begins with `where` when a text has a token id that the model lacks. The ops cannot
    // tell, because the token table also has rows of padding.
    void check_ids(const std::vector<int32_t>& ids, const std::string& where) const {
        for (const int32_t id : ids)
            CHECK(id >= 0 && id < vocab, "{}: the token id {} is outside the vocabulary of {} of {}", where, id, vocab,
                  name);
    }

    // check_sizes() and check() throw an InputError that names the model and the fact. Call check_sizes() before
    // anything is computed from the sizes.
    void check_sizes() const {
        const std::string sizes =
            fmt::format("{} layers, width {}, {} heads, feed-forward width {}, context {} and a vocabulary of {}",
                        layers, width, heads, feed_forward, context, vocab);
        CHECK(layers <= 10000 && width <= 1 << 20 && heads <= width && feed_forward <= 1 << 22 && vocab <= 1 << 28 &&
                  context <= 1 << 28,
              "{}: the sizes are out of range: the model is said to have {}", name, sizes);
        CHECK(layers > 0 && width > 0 && heads > 0 && feed_forward > 0 && context > 0 && vocab > 0,
              "{}: every size must be positive, but the model is said to have {}", name, sizes);
        CHECK(width % heads == 0, "{}: the width {} is not a multiple of the {} heads{}", name, width, heads,
              width % 64 ? "" : fmt::format("; {} heads are 64 wide each", width / 64));
    }
    void check() const {
        check_sizes();
        CHECK(rope.dim >= 0 && rope.dim % 2 == 0 && rope.dim <= head_size(),
              "{}: the rotary dimension is {}, but it must be even and at most the head size {}", name, rope.dim,
              head_size());
        CHECK(std::isfinite(rope.base) && rope.base > 0, "{}: the rotary base is {}, but it must be positive", name,
              rope.base);
        CHECK(std::isfinite(norm_eps) && norm_eps > 0, "{}: the layernorm epsilon is {}, but it must be positive", name,
              norm_eps);
        CHECK(windows.empty() || int64_t(windows.size()) == layers,
              "{}: there are attention windows for {} layers, but the model has {}", name, windows.size(), layers);
        for (int64_t w : windows)
            CHECK(w > 0, "{}: an attention window is {} positions wide, but it must be 1 or more", name, w);
        CHECK(parallel || !shared_norm,
              "{}: attention and MLP share one layernorm, which is possible in the parallel form of a block only",
              name);
    }
};
