// config.h - what a model is: facts, not family names; and the table of published models
//
// Neutral values and absence do the work that branches would do elsewhere: attn_scale is a number, window = context is
// full attention, rope.dim = 0 rotates nothing, a bias that a model lacks is a null tensor. `parallel` is the one
// structural bit.
#pragma once
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "kernels/ops.h"

// How weights start. gpt2: N(0, 0.02), and 0.02/√(2L) where a matrix writes into the residual stream (GPT-2
// paper, 2.3). neox: small_init N(0, √(2/5C)) and wang_init N(0, 2/(L√C)) for those matrices (GPT-NeoX-20B
// paper, 3.1.3).
enum class Init : uint8_t { gpt2, neox };

struct Config {
    std::string name;        // of the preset or folder
    std::string model_type;  // which of Hugging Face's forms it is read from and written to; see hf.h
    int64_t layers = 0, width = 0, heads = 0, feed_forward = 0, context = 0;
    int64_t vocab = 0;           // ids that exist; padded_vocab() rows are stored
    int64_t bos = -1, eot = -1;  // ids of the beginning of a text and of <|endoftext|>, -1 when unknown
    bool learned_positions = true;
    bool parallel          = false;  // the MLP reads the block's input instead of attention's output
    bool shared_norm       = false;  // one layernorm feeds both attention and MLP
    bool tied_head         = true;   // the head is the token table
    bool head_bias         = false;
    bool qkv_bias = true, proj_bias = true;
    bool scaled_scores = true;     // q·k / √D; else q·k as it is
    std::vector<int64_t> windows;  // how many positions each layer sees, its own included; empty: all do everything
    Rope rope;
    Gelu gelu              = Gelu::tanh;
    std::string activation = "gelu_new";  // Hugging Face's word for gelu, of which there are several
    float norm_eps         = 1e-5f;
    Init init              = Init::gpt2;

    static constexpr int64_t everything = INT64_C(1) << 40;  // a window wider than any context

    int64_t head_size() const { return width / heads; }
    // Rows of the token table: a multiple of 64, so that the largest product has no ragged edge.
    int64_t padded_vocab() const { return (vocab + 63) / 64 * 64; }
    float attn_scale() const { return scaled_scores ? 1.f / std::sqrt(float(head_size())) : 1.f; }
    int64_t window(int64_t layer) const { return windows.empty() ? everything : windows[layer]; }

    void check() const {
        CHECK(layers <= 10000 && width <= 1 << 20 && heads <= width && feed_forward <= 1 << 22 && vocab <= 1 << 28 &&
                  context <= 1 << 28,
              "{}: sizes out of range: {} layers, width {}, {} heads, feed-forward {}, context {}, vocabulary {}", name,
              layers, width, heads, feed_forward, context, vocab);
        CHECK(
            layers > 0 && width > 0 && heads > 0 && feed_forward > 0 && context > 0 && vocab > 0,
            "{}: sizes must be positive, got {} layers, width {}, {} heads, feed-forward {}, context {}, vocabulary {}",
            name, layers, width, heads, feed_forward, context, vocab);
        CHECK(width % heads == 0, "{}: width {} is not a multiple of {} heads", name, width, heads);
        CHECK(rope.dim >= 0 && rope.dim % 2 == 0 && rope.dim <= head_size(),
              "{}: rotary dimension {} must be even and at most the head size {}", name, rope.dim, head_size());
        CHECK(std::isfinite(rope.base) && rope.base > 0, "{}: rotary base {} must be positive", name, rope.base);
        CHECK(std::isfinite(norm_eps) && norm_eps > 0, "{}: layernorm epsilon {} must be positive", name, norm_eps);
        CHECK(windows.empty() || int64_t(windows.size()) == layers, "{}: windows for {} layers, but it has {}", name,
              windows.size(), layers);
        for (int64_t w : windows) CHECK(w > 0, "{}: an attention window of {}; it must be positive", name, w);
        CHECK(parallel || !shared_norm, "{}: one norm for attention and MLP needs the parallel form", name);
    }
};

// The forms of GELU by Hugging Face's names; quick_gelu and the like are other functions.
inline Gelu gelu_named(const std::string& activation, const std::string& where) {
    if (activation == "gelu_new" || activation == "gelu_fast" || activation == "gelu_pytorch_tanh") return Gelu::tanh;
    if (activation == "gelu" || activation == "gelu_python") return Gelu::erf;
    fail(
        "{}: \"{}\" is not supported; supported are gelu_new, gelu_fast, gelu_pytorch_tanh (tanh form) and gelu, "
        "gelu_python (erf form)",
        where, activation);
}
inline void set_activation(Config& c, const std::string& activation, const std::string& where) {
    c.gelu       = gelu_named(activation, where);
    c.activation = activation;
}

// What its authors trained it with; the defaults of train_gpt's options for that preset. Common to all: β1 0.9, eps
// 1e-8, gradient norm at most 1, and a cosine down to final_share of the peak.
struct Recipe {
    float learning_rate     = 6e-4f;  // peak
    int64_t tokens_per_step = 0;
    int64_t warmup_steps = 0, published_steps = 0;  // of the published run; 0: there is none
    float weight_decay = 0.1f, beta2 = 0.95f, final_share = 0.1f;
    int64_t steps = 0;  // 0: one epoch of whatever data there is

    // Steps of warm-up in a run of so many: as published, but when the run is shorter, no more than the larger of the
    // published share and a fiftieth.
    int64_t warmup_of(int64_t run) const {
        const double share = std::max(0.02, published_steps ? double(warmup_steps) / double(published_steps) : 0);
        const int64_t most = int64_t(share * double(run) + 1e-6);
        return published_steps ? std::min(warmup_steps, most) : most;
    }
};

struct Preset {
    const char* name;
    int64_t layers, width, heads, context, vocab;
    void (*facts)(Config&);
    Recipe recipe;
};

inline void gpt2_facts(Config& c) {
    c.model_type = "gpt2";
    c.bos = c.eot = c.vocab == 50257 ? 50256 : -1;
}
inline void neo_facts(Config& c) {
    gpt2_facts(c);
    c.model_type    = "gpt_neo";
    c.qkv_bias      = false;
    c.scaled_scores = false;
    for (int64_t l = 0; l < c.layers; l++) c.windows.push_back(l % 2 ? 256 : Config::everything);
}
inline void gptj_facts(Config& c) {
    c.model_type = "gptj";
    c.bos = c.eot       = 50256;
    c.learned_positions = false;
    c.parallel = c.shared_norm = true;
    c.tied_head                = false;
    c.head_bias                = true;
    c.qkv_bias = c.proj_bias = false;
    c.rope.dim               = 64;
    // Its residual matrices had this deviation. In mesh-transformer-jax the embedding has 1/√V instead, all other
    // matrices 1/√C, and every normal is cut off at two deviations.
    c.init                   = Init::neox;
}
inline void neox_facts(Config& c) {
    c.model_type = "gpt_neox";
    c.bos = c.eot       = c.vocab > 50000 ? 0 : -1;
    c.learned_positions = false;
    c.parallel          = true;
    c.tied_head         = false;
    c.rope.dim          = c.head_size() / 4;  // rotary_pct 0.25
    c.init              = Init::neox;
    // What Pythia's config.json says. Its trainer ran the tanh form (bias_gelu_fusion): --activation gelu_fast.
    set_activation(c, "gelu", c.name);
}
inline void neox_20b_facts(Config& c) {
    neox_facts(c);
    set_activation(c, "gelu_fast", c.name);
}
// Pythia 6.9B and 12B started from GPT-2's init (EleutherAI/pythia issue 135).
inline void neox_gpt2_init_facts(Config& c) {
    neox_facts(c);
    c.init = Init::gpt2;
}

// clang-format off
// Shapes and recipes. GPT-2: Radford et al. 2019, who published no learning rate; the recipe is llm.c's reproduction. GPT-3: Brown et al.
// 2020, table 2.1 and appendix B (warm-up over 375M of 300B tokens); the 1.3B row's 24 heads do not divide 2048, and 13B's width 5140 is no
// multiple of its heads, so 16 and 5120 as everyone uses; its alternating banded layers were never published in detail. GPT-Neo: the
// configs of EleutherAI/gpt-neo and the model cards. GPT-J: 6B_roto_256.json of mesh-transformer-jax (Adam with optax's β2). Pythia:
// Biderman et al. 2023, table 1. GPT-NeoX-20B: 20B.yml of EleutherAI/gpt-neox.
inline const std::vector<Preset>& presets() {
    static const std::vector<Preset> table = {
        // name            layers  width  heads  context   vocab  facts                   rate     tokens/step  warm-up  of steps  decay  β2      final share of rate, steps
        {"quickstart",          4,   256,     4,     256,   4096, gpt2_facts,           {3e-3f,       1024,      0,        0,  0.1f,  0.95f,  0.1f, 1900}},
        {"nano",                2,    48,     3,      64,    257, gpt2_facts,           {1e-3f,       2048,      0,        0,  0.1f,  0.95f}},
        {"nano-neox",           2,    48,     3,      64,    257, neox_facts,           {1e-3f,       2048,      0,        0,  0.1f,  0.95f}},
        {"gpt2",               12,   768,    12,    1024,  50257, gpt2_facts,           {6e-4f,     524288,    700,    18865,  0.1f,  0.95f,  0.0f}},
        {"gpt2-medium",        24,  1024,    16,    1024,  50257, gpt2_facts,           {3e-4f,     524288,    700,    60000,  0.1f,  0.95f,  0.0f}},
        {"gpt2-large",         36,  1280,    20,    1024,  50257, gpt2_facts,           {2.5e-4f,   524288,    700,   286102,  0.1f,  0.95f,  0.0f}},
        {"gpt2-xl",            48,  1600,    25,    1024,  50257, gpt2_facts,           {6e-4f,    1048576,    700,    32000,  0.1f,  0.95f}},
        {"gpt3-125m",          12,   768,    12,    2048,  50257, gpt2_facts,           {6e-4f,     524288,    715,   572205,  0.1f,  0.95f}},
        {"gpt3-350m",          24,  1024,    16,    2048,  50257, gpt2_facts,           {3e-4f,     524288,    715,   572205,  0.1f,  0.95f}},
        {"gpt3-760m",          24,  1536,    16,    2048,  50257, gpt2_facts,           {2.5e-4f,   524288,    715,   572205,  0.1f,  0.95f}},
        {"gpt3-1.3b",          24,  2048,    16,    2048,  50257, gpt2_facts,           {2e-4f,    1048576,    358,   286102,  0.1f,  0.95f}},
        {"gpt3-2.7b",          32,  2560,    32,    2048,  50257, gpt2_facts,           {1.6e-4f,  1048576,    358,   286102,  0.1f,  0.95f}},
        {"gpt3-6.7b",          32,  4096,    32,    2048,  50257, gpt2_facts,           {1.2e-4f,  2097152,    179,   143051,  0.1f,  0.95f}},
        {"gpt3-13b",           40,  5120,    40,    2048,  50257, gpt2_facts,           {1e-4f,    2097152,    179,   143051,  0.1f,  0.95f}},
        {"gpt3-175b",          96, 12288,    96,    2048,  50257, gpt2_facts,           {0.6e-4f,  3145728,    119,    95367,  0.1f,  0.95f}},
        {"gpt-neo-125m",       12,   768,    12,    2048,  50257, neo_facts,            {6e-4f,     524288,   3000,   572300,  0.0f,  0.95f}},
        {"gpt-neo-1.3b",       24,  2048,    16,    2048,  50257, neo_facts,            {2e-4f,    1048576,   3000,   400000,  0.0f,  0.95f}},
        {"gpt-neo-2.7b",       32,  2560,    20,    2048,  50257, neo_facts,            {1.6e-4f,  1048576,   3000,   400000,  0.0f,  0.95f}},
        {"gpt-j-6b",           28,  4096,    16,    2048,  50400, gptj_facts,           {1.2e-4f,  1048576,   3000,   383500,  0.1f,  0.999f}},
        {"pythia-14m",          6,   128,     4,    2048,  50304, neox_facts,           {1e-3f,    2097152,   1430,   143000,  0.1f,  0.95f}},
        {"pythia-31m",          6,   256,     8,    2048,  50304, neox_facts,           {1e-3f,    2097152,   1430,   143000,  0.1f,  0.95f}},
        {"pythia-70m",          6,   512,     8,    2048,  50304, neox_facts,           {1e-3f,    2097152,   1430,   143000,  0.1f,  0.95f}},
        {"pythia-160m",        12,   768,    12,    2048,  50304, neox_facts,           {6e-4f,    2097152,   1430,   143000,  0.1f,  0.95f}},
        {"pythia-410m",        24,  1024,    16,    2048,  50304, neox_facts,           {3e-4f,    2097152,   1430,   143000,  0.1f,  0.95f}},
        {"pythia-1b",          16,  2048,     8,    2048,  50304, neox_facts,           {3e-4f,    2097152,   1430,   143000,  0.1f,  0.95f}},
        {"pythia-1.4b",        24,  2048,    16,    2048,  50304, neox_facts,           {2e-4f,    2097152,   1430,   143000,  0.1f,  0.95f}},
        {"pythia-2.8b",        32,  2560,    32,    2048,  50304, neox_facts,           {1.6e-4f,  2097152,   1430,   143000,  0.1f,  0.95f}},
        {"pythia-6.9b",        32,  4096,    32,    2048,  50432, neox_gpt2_init_facts, {1.2e-4f,  2097152,   1430,   143000,  0.1f,  0.95f}},
        {"pythia-12b",         36,  5120,    40,    2048,  50688, neox_gpt2_init_facts, {1.2e-4f,  2097152,   1430,   143000,  0.1f,  0.95f}},
        {"gpt-neox-20b",       44,  6144,    64,    2048,  50432, neox_20b_facts,       {0.97e-4f, 3145728,   1500,   150000,  0.01f, 0.95f}},
    };
    return table;
}
// clang-format on

inline const Preset* find_preset(const std::string& name) {
    for (const Preset& p : presets())
        if (name == p.name) return &p;
    return nullptr;
}

inline Config config_of(const Preset& p) {
    Config c;
    c.name         = p.name;
    c.layers       = p.layers;
    c.width        = p.width;
    c.heads        = p.heads;
    c.feed_forward = 4 * p.width;
    c.context      = p.context;
    c.vocab        = p.vocab;
    p.facts(c);
    c.check();
    return c;
}
