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
    int64_t vocab          = 0;   // ids that exist; padded_vocab() rows are stored
    int64_t eot            = -1;  // the id of <|endoftext|>, -1 when unknown
    bool learned_positions = true;
    bool parallel          = false;  // the MLP reads the block's input instead of attention's output
    bool tied_head         = true;   // the head is the token table
    bool attention_bias    = true;
    Rope rope;
    Gelu gelu      = Gelu::tanh;
    float norm_eps = 1e-5f;
    Init init      = Init::gpt2;

    int64_t head_size() const { return width / heads; }
    // Rows of the token table: a multiple of 64, so that the largest product has no ragged edge.
    int64_t padded_vocab() const { return (vocab + 63) / 64 * 64; }
    float attn_scale() const { return 1.f / std::sqrt(float(head_size())); }
    int64_t window(int64_t /*layer*/) const { return INT64_C(1) << 40; }  // full attention: wider than any context

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
    }
};

// What its authors trained it with, where they said so; the defaults of train_gpt's options for that preset.
struct Recipe {
    float learning_rate     = 6e-4f;
    int64_t tokens_per_step = 0;  // as published; 0: not published
    float weight_decay      = 0.1f;
    int64_t batch           = 4;  // sequences per micro-step, which is ours to choose
    int64_t steps           = 0;  // 0: one epoch
};

struct Preset {
    const char* name;
    int64_t layers, width, heads, context, vocab;
    void (*facts)(Config&);
    Recipe recipe;
};

inline void gpt2_facts(Config& c) { c.model_type = "gpt2"; }
inline void neox_facts(Config& c) {
    c.model_type        = "gpt_neox";
    c.learned_positions = false;
    c.parallel          = true;
    c.tied_head         = false;
    c.rope.dim          = c.head_size() / 4;  // rotary_pct 0.25
    c.gelu              = Gelu::erf;          // what Pythia's config.json says
    c.init              = Init::neox;
}
// The 20B and the small Pythias differ in the form of GELU that their config.json names: gelu_fast is the tanh form.
inline void neox_20b_facts(Config& c) {
    neox_facts(c);
    c.gelu = Gelu::tanh;
}
// Pythia 6.9B and 12B started from GPT-2's init (EleutherAI/pythia issue 135).
inline void neox_gpt2_init_facts(Config& c) {
    neox_facts(c);
    c.init = Init::gpt2;
}

// clang-format off
// Sources: GPT-2 (Radford et al. 2019); GPT-3 (Brown et al. 2020, table 2.1; the 1.3B row's 24 heads do not divide 2048, and 13B's width
// 5140 is no multiple of its heads, so 16 and 5120 as everyone uses); Pythia (Biderman et al. 2023); GPT-NeoX-20B (Black et al. 2022).
inline const std::vector<Preset>& presets() {
    static const std::vector<Preset> table = {
        // name            layers  width  heads  context   vocab  facts                  lr     tokens/step  decay
        {"quickstart",          4,   256,     4,     256,   4096, gpt2_facts,          {3e-3f,     1024,  0.1f, 4, 1900}},
        {"nano",                2,    48,     3,      64,    257, gpt2_facts,          {1e-3f,     2048,  0.1f}},
        {"nano-neox",           2,    48,     3,      64,    257, neox_facts,          {1e-3f,     2048,  0.1f}},
        {"gpt2",               12,   768,    12,    1024,  50257, gpt2_facts,          {6e-4f,   524288,  0.1f}},
        {"gpt2-medium",        24,  1024,    16,    1024,  50257, gpt2_facts,          {3e-4f,   524288,  0.1f}},
        {"gpt2-large",         36,  1280,    20,    1024,  50257, gpt2_facts,          {2.5e-4f, 524288,  0.1f}},
        {"gpt2-xl",            48,  1600,    25,    1024,  50257, gpt2_facts,          {6e-4f,  1048576,  0.1f}},
        {"gpt3-125m",          12,   768,    12,    2048,  50257, gpt2_facts,          {6e-4f,   524288,  0.1f}},
        {"gpt3-350m",          24,  1024,    16,    2048,  50257, gpt2_facts,          {3e-4f,   524288,  0.1f}},
        {"gpt3-760m",          24,  1536,    16,    2048,  50257, gpt2_facts,          {2.5e-4f, 524288,  0.1f}},
        {"gpt3-1.3b",          24,  2048,    16,    2048,  50257, gpt2_facts,          {2e-4f,  1048576,  0.1f}},
        {"gpt3-2.7b",          32,  2560,    32,    2048,  50257, gpt2_facts,          {1.6e-4f,1048576,  0.1f}},
        {"gpt3-6.7b",          32,  4096,    32,    2048,  50257, gpt2_facts,          {1.2e-4f,2097152,  0.1f}},
        {"gpt3-13b",           40,  5120,    40,    2048,  50257, gpt2_facts,          {1e-4f,  2097152,  0.1f}},
        {"gpt3-175b",          96, 12288,    96,    2048,  50257, gpt2_facts,          {0.6e-4f,3145728,  0.1f}},
        {"pythia-14m",          6,   128,     4,    2048,  50304, neox_facts,          {1e-3f,  2097152,  0.1f}},
        {"pythia-31m",          6,   256,     8,    2048,  50304, neox_facts,          {1e-3f,  2097152,  0.1f}},
        {"pythia-70m",          6,   512,     8,    2048,  50304, neox_facts,          {1e-3f,  2097152,  0.1f}},
        {"pythia-160m",        12,   768,    12,    2048,  50304, neox_facts,          {6e-4f,  2097152,  0.1f}},
        {"pythia-410m",        24,  1024,    16,    2048,  50304, neox_facts,          {3e-4f,  2097152,  0.1f}},
        {"pythia-1b",          16,  2048,     8,    2048,  50304, neox_facts,          {3e-4f,  2097152,  0.1f}},
        {"pythia-1.4b",        24,  2048,    16,    2048,  50304, neox_facts,          {2e-4f,  2097152,  0.1f}},
        {"pythia-2.8b",        32,  2560,    32,    2048,  50304, neox_facts,          {1.6e-4f,2097152,  0.1f}},
        {"pythia-6.9b",        32,  4096,    32,    2048,  50432, neox_gpt2_init_facts,{1.2e-4f,2097152,  0.1f}},
        {"pythia-12b",         36,  5120,    40,    2048,  50688, neox_gpt2_init_facts,{1.2e-4f,2097152,  0.1f}},
        {"gpt-neox-20b",       44,  6144,    64,    2048,  50432, neox_20b_facts,      {0.97e-4f,3145728, 0.01f}},
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
