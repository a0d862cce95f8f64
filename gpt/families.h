// families.h - the families of models on the Hugging Face hub, one row for each
//
// A row says what is true of every model of a family, the names of these facts in its config.json, and the name and
// layout of each weight in its files. The presets, the reader and the writer of model folders (hf.h) all start
// from the row. A family whose blocks are ours needs one function here and its line in families().
#pragma once
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/json.h"
#include "data/words.h"
#include "gpt/config.h"

// How a weight lies in a family's files. Ours is (out, in), with the rows of q, k and v as (3, H, D).
enum class Layout : uint8_t {
    as_is,
    transposed,   // (in, out), as GPT-2's Conv1D stores it
    per_head,     // the rows of q, k and v head by head: (H, 3, D)
    split,        // q, k and v are three tensors
    split_pairs,  // three tensors, in which coordinates 2i and 2i + 1 rotate together instead of i and i + dim/2
};

struct WeightName {
    const char* ours;    // the name in params.h; {} stands for the layer in both names
    const char* theirs;  // ? stands for q, k and v in the split layouts
    Layout layout = Layout::as_is;
};
// A field of config.json that states one yes-or-no fact.
struct Flag {
    const char* field;
    bool Config::*fact;
};

// A field of config.json that states a rate of dropout.
struct DropoutField {
    const char* field;
    float DropoutRates::*rate;
};

struct Family {
    const char* model_type   = "";  // names the family in config.json
    const char* architecture = "";  // the class of transformers that opens a folder

    // Sets what is true of each model unless its config.json says otherwise. It is called when the sizes are set.
    void (*facts)(Config&) = [](Config&) {};

    // The fields of config.json for the sizes and numbers that every family has.
    const char *layers = "", *width = "", *heads = "", *feed_forward = "", *context = "";
    const char *activation = "", *norm_eps = "";
    // The fields for facts that only some families can change.
    std::vector<Flag> flags;
    // read() and write() handle the fields for which a name alone is not enough. read() leaves a fact alone when its
    // field is absent, and refuses by name what we do not support.
    void (*read)(Config&, const Fields&)                  = [](Config&, const Fields&) {};
    void (*write)(nlohmann::ordered_json&, const Config&) = [](nlohmann::ordered_json&, const Config&) {};
    std::vector<DropoutField> dropouts;

    const char* prefix = "";  // may be missing from all names in a file: some of the hub's files have it, some do not
    std::vector<WeightName> weights;
};

// ---- activations ----------------------------------------------------------------------------------------------------
// Sets the form of GELU by a word of config.json. `where` begins the error: the file and field, or the option.
inline void set_activation(Config& c, const std::string& word, const std::string& where) {
    static const struct {
        const char* word;
        Gelu form;
    } known[] = {{"gelu_new", Gelu::tanh},         {"gelu_fast", Gelu::tanh},     {"gelu_pytorch_tanh", Gelu::tanh},
                 {"gelu_python_tanh", Gelu::tanh}, {"gelu_accurate", Gelu::tanh}, {"gelu", Gelu::erf},
                 {"gelu_python", Gelu::erf}};
    for (const auto& row : known) {
        if (word != row.word) continue;
        c.gelu       = row.form;
        c.activation = word;
        return;
    }
    fail(
        "{}: the activation \"{}\" is not supported\n    The supported ones are gelu_new, gelu_fast, "
        "gelu_pytorch_tanh, gelu_python_tanh and gelu_accurate, which are the tanh form of GELU, and gelu and "
        "gelu_python, which are the erf form.",
        where, word);
}

// ---- GPT-2 and GPT-3 ------------------------------------------------------------------------------------------------
inline Family gpt2_family() {
    Family f;
    f.model_type   = "gpt2";
    f.architecture = "GPT2LMHeadModel";  // its facts are the defaults of a Config
    f.layers       = "n_layer";
    f.width        = "n_embd";
    f.heads        = "n_head";
    f.feed_forward = "n_inner";
    f.context      = "n_positions";
    f.activation   = "activation_function";
    f.norm_eps     = "layer_norm_epsilon";
    f.dropouts     = {{"attn_pdrop", &DropoutRates::attention},
                      {"embd_pdrop", &DropoutRates::embedding},
                      {"resid_pdrop", &DropoutRates::residual}};
    f.flags        = {{"scale_attn_weights", &Config::scaled_scores},
                      {"scale_attn_by_inverse_layer_idx", &Config::scores_by_layer}};
    f.write        = [](nlohmann::ordered_json& json, const Config& c) { json["n_ctx"] = c.context; };
    f.prefix       = "transformer.";
    // clang-format off
    f.weights = {
        {"wte.weight",       "transformer.wte.weight"},
        {"wpe.weight",       "transformer.wpe.weight"},
        {"h.{}.ln1.weight",  "transformer.h.{}.ln_1.weight"},
        {"h.{}.ln1.bias",    "transformer.h.{}.ln_1.bias"},
        {"h.{}.qkv.weight",  "transformer.h.{}.attn.c_attn.weight", Layout::transposed},
        {"h.{}.qkv.bias",    "transformer.h.{}.attn.c_attn.bias"},
        {"h.{}.proj.weight", "transformer.h.{}.attn.c_proj.weight", Layout::transposed},
        {"h.{}.proj.bias",   "transformer.h.{}.attn.c_proj.bias"},
        {"h.{}.ln2.weight",  "transformer.h.{}.ln_2.weight"},
        {"h.{}.ln2.bias",    "transformer.h.{}.ln_2.bias"},
        {"h.{}.up.weight",   "transformer.h.{}.mlp.c_fc.weight",    Layout::transposed},
        {"h.{}.up.bias",     "transformer.h.{}.mlp.c_fc.bias"},
        {"h.{}.down.weight", "transformer.h.{}.mlp.c_proj.weight",  Layout::transposed},
        {"h.{}.down.bias",   "transformer.h.{}.mlp.c_proj.bias"},
        {"lnf.weight",       "transformer.ln_f.weight"},
        {"lnf.bias",         "transformer.ln_f.bias"},
        {"head.weight",      "lm_head.weight"},
    };
    // clang-format on
    return f;
}

// ---- GPT-Neo --------------------------------------------------------------------------------------------------------
// A layer sees either everything ("global") or a window of positions ("local").
constexpr int64_t gpt_neo_window = 256;

inline std::vector<std::string> attention_kinds(const Config& c) {
    std::vector<std::string> kinds;
    for (int64_t l = 0; l < c.layers; l++) kinds.push_back(c.window(l) == Config::everything ? "global" : "local");
    return kinds;
}

// Appends a list of kinds, such as ["global", "local"].
inline void append_kinds(std::vector<std::string>& kinds, const nlohmann::json& list, const char* field,
                         const Fields& json) {
    CHECK(list.is_array(), "{}: \"{}\" holds {}, expected a list of \"global\" and \"local\"", json.path(), field,
          list.dump().substr(0, 200));
    for (const auto& kind : list) {
        CHECK(kind == "global" || kind == "local",
              "{}: \"{}\" holds {}, but the supported kinds of attention are \"global\" and \"local\"", json.path(),
              field, kind.dump().substr(0, 200));
        kinds.push_back(kind);
    }
}

// Two fields can say which kind each layer has. attention_layers is a list with a kind for each layer. attention_types
// is a list of pairs [kinds, count], such as [[["global", "local"], 12]]. It repeats the kinds `count` times.
inline std::vector<std::string> read_attention_kinds(const Config& c, const Fields& json) {
    const char *layers = "attention_layers", *types = "attention_types";
    if (!json.has(layers) && !json.has(types)) return attention_kinds(c);
    const char* field = json.has(layers) ? layers : types;
    std::vector<std::string> kinds;
    if (json.has(layers)) {
        append_kinds(kinds, json.raw(layers), layers, json);
    } else {
        CHECK(json.raw(types).is_array(), "{}: \"{}\" is not a list", json.path(), types);
        for (const auto& pair : json.raw(types)) {
            CHECK(pair.is_array() && pair.size() == 2 && pair[1].is_number_unsigned() && pair[1] <= c.layers,
                  "{}: \"{}\" holds {}, expected a list of kinds and how often they repeat, at most {} times",
                  json.path(), types, pair.dump().substr(0, 200), c.layers);
            for (int64_t i = 0; i < pair[1].get<int64_t>() && int64_t(kinds.size()) <= c.layers; i++)
                append_kinds(kinds, pair[0], types, json);
        }
    }
    CHECK(int64_t(kinds.size()) == c.layers, "{}: \"{}\" is for {}, but num_layers (or --layers) is {}", json.path(),
          field, count_of(int64_t(kinds.size()), "layer"), c.layers);
    return kinds;
}

inline void read_windows(Config& c, const Fields& json) {
    const int64_t window = json.integer("window_size", gpt_neo_window);
    CHECK(window > 0, "{}: \"window_size\" is {}, but it must be 1 or more", json.path(), window);
    const auto kinds = read_attention_kinds(c, json);
    for (int64_t l = 0; l < c.layers; l++) c.windows[l] = kinds[l] == "local" ? window : Config::everything;
}

inline void write_windows(nlohmann::ordered_json& json, const Config& c) {
    json["window_size"] = gpt_neo_window;
    for (int64_t l = 0; l < c.layers; l++)
        if (c.window(l) != Config::everything) json["window_size"] = c.window(l);
    // attention_types holds the shortest list of kinds that gives all layers when it is repeated.
    const auto kinds   = attention_kinds(c);
    const auto repeats = [&](size_t period) {
        for (size_t i = period; i < kinds.size(); i++)
            if (kinds[i] != kinds[i - period]) return false;
        return kinds.size() % period == 0;
    };
    size_t period = 1;
    while (!repeats(period)) period++;
    const std::vector<std::string> list(kinds.begin(), kinds.begin() + period);
    json["attention_types"]  = {{list, kinds.size() / period}};
    json["attention_layers"] = kinds;
}

inline Family gpt_neo_family() {
    Family f;
    f.model_type   = "gpt_neo";
    f.architecture = "GPTNeoForCausalLM";
    f.facts        = [](Config& c) {
        c.qkv_bias      = false;
        c.scaled_scores = false;
        for (int64_t l = 0; l < c.layers; l++) c.windows.push_back(l % 2 ? gpt_neo_window : Config::everything);
    };
    f.layers       = "num_layers";
    f.width        = "hidden_size";
    f.heads        = "num_heads";
    f.feed_forward = "intermediate_size";
    f.context      = "max_position_embeddings";
    f.activation   = "activation_function";
    f.norm_eps     = "layer_norm_epsilon";
    f.dropouts     = {{"attention_dropout", &DropoutRates::attention},
                      {"embed_dropout", &DropoutRates::embedding},
                      {"resid_dropout", &DropoutRates::residual}};
    f.read         = read_windows;
    f.write        = write_windows;
    f.prefix       = "transformer.";
    // clang-format off
    f.weights      = {
        {"wte.weight",       "transformer.wte.weight"},
        {"wpe.weight",       "transformer.wpe.weight"},
        {"h.{}.ln1.weight",  "transformer.h.{}.ln_1.weight"},
        {"h.{}.ln1.bias",    "transformer.h.{}.ln_1.bias"},
        {"h.{}.qkv.weight",  "transformer.h.{}.attn.attention.?_proj.weight", Layout::split},
        {"h.{}.proj.weight", "transformer.h.{}.attn.attention.out_proj.weight"},
        {"h.{}.proj.bias",   "transformer.h.{}.attn.attention.out_proj.bias"},
        {"h.{}.ln2.weight",  "transformer.h.{}.ln_2.weight"},
        {"h.{}.ln2.bias",    "transformer.h.{}.ln_2.bias"},
        {"h.{}.up.weight",   "transformer.h.{}.mlp.c_fc.weight"},
        {"h.{}.up.bias",     "transformer.h.{}.mlp.c_fc.bias"},
        {"h.{}.down.weight", "transformer.h.{}.mlp.c_proj.weight"},
        {"h.{}.down.bias",   "transformer.h.{}.mlp.c_proj.bias"},
        {"lnf.weight",       "transformer.ln_f.weight"},
        {"lnf.bias",         "transformer.ln_f.bias"},
        {"head.weight",      "lm_head.weight"},
    };
    // clang-format on
    return f;
}

// ---- GPT-J ----------------------------------------------------------------------------------------------------------
inline Family gptj_family() {
    Family f;
    f.model_type   = "gptj";
    f.architecture = "GPTJForCausalLM";
    f.facts        = [](Config& c) {
        c.learned_positions = false;
        c.parallel          = true;
        c.shared_norm       = true;
        c.tied_head         = false;
        c.head_bias         = true;
        c.qkv_bias          = false;
        c.proj_bias         = false;
        c.rope.dim          = std::min<int64_t>(64, c.head_size());
        // This is GPT-J's for the matrices that write into the residual stream. mesh-transformer-jax draws the
        // embedding from 1/√V and all other matrices from 1/√C instead, and it cuts off every normal at two deviations.
        c.initial_weights   = InitialWeights::neox;
    };
    f.layers       = "n_layer";
    f.width        = "n_embd";
    f.heads        = "n_head";
    f.feed_forward = "n_inner";
    f.context      = "n_positions";
    f.activation   = "activation_function";
    f.norm_eps     = "layer_norm_epsilon";
    f.dropouts     = {{"attn_pdrop", &DropoutRates::attention},
                      {"embd_pdrop", &DropoutRates::embedding},
                      {"resid_pdrop", &DropoutRates::residual}};
    f.read         = [](Config& c, const Fields& json) { c.rope.dim = json.integer("rotary_dim"); };
    f.write        = [](nlohmann::ordered_json& json, const Config& c) { json["rotary_dim"] = c.rope.dim; };
    f.prefix       = "transformer.";
    // clang-format off
    f.weights      = {
        {"wte.weight",       "transformer.wte.weight"},
        {"h.{}.ln1.weight",  "transformer.h.{}.ln_1.weight"},
        {"h.{}.ln1.bias",    "transformer.h.{}.ln_1.bias"},
        {"h.{}.qkv.weight",  "transformer.h.{}.attn.?_proj.weight", Layout::split_pairs},
        {"h.{}.proj.weight", "transformer.h.{}.attn.out_proj.weight"},
        {"h.{}.up.weight",   "transformer.h.{}.mlp.fc_in.weight"},
        {"h.{}.up.bias",     "transformer.h.{}.mlp.fc_in.bias"},
        {"h.{}.down.weight", "transformer.h.{}.mlp.fc_out.weight"},
        {"h.{}.down.bias",   "transformer.h.{}.mlp.fc_out.bias"},
        {"lnf.weight",       "transformer.ln_f.weight"},
        {"lnf.bias",         "transformer.ln_f.bias"},
        {"head.weight",      "lm_head.weight"},
        {"head.bias",        "lm_head.bias"},
    };
    // clang-format on
    return f;
}

// ---- GPT-NeoX and Pythia --------------------------------------------------------------------------------------------
// rotary_pct is the share of each head that rotates.
inline int64_t rotary_dim(const Config& c, double share) { return int64_t(double(c.head_size()) * share); }

// Reads the share and the base. transformers 4 writes them as fields of their own, transformers 5 in the object
// rope_parameters.
inline void read_rotary(Config& c, const Fields& json) {
    double share = json.number("rotary_pct", json.number("partial_rotary_factor", 0.25));
    double base  = json.number("rotary_emb_base", json.number("rope_theta", 10000));
    if (json.has("rope_parameters")) {
        const auto& rope = json.raw("rope_parameters");
        CHECK(rope.is_object() && rope.value("rope_type", nlohmann::json("default")) == "default",
              "{}: \"rope_parameters\" is {}, but only the rope_type \"default\" is supported", json.path(),
              rope.dump().substr(0, 200));
        const auto number = [&](const char* key, double absent) {
            if (!rope.contains(key)) return absent;
            CHECK(rope[key].is_number(), "{}: in \"rope_parameters\", \"{}\" is {}, expected a number", json.path(),
                  key, rope[key].dump().substr(0, 200));
            return rope[key].get<double>();
        };
        share = number("partial_rotary_factor", share);
        base  = number("rope_theta", base);
    }
    CHECK(share >= 0 && share <= 1, "{}: the share of each head that rotates is {}, but it must lie between 0 and 1",
          json.path(), share);
    c.rope.dim  = rotary_dim(c, share);
    c.rope.base = float(base);
}

inline void write_rotary(nlohmann::ordered_json& json, const Config& c) {
    double share = double(c.rope.dim) / double(c.head_size());
    while (rotary_dim(c, share) < c.rope.dim) share = std::nextafter(share, 2.0);  // the division may have rounded down
    json["rotary_pct"]      = share;
    json["rotary_emb_base"] = c.rope.base;
    json["rope_scaling"]    = nullptr;
    json["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", c.rope.base}, {"partial_rotary_factor", share}};
}

inline Family gpt_neox_family() {
    Family f;
    f.model_type   = "gpt_neox";
    f.architecture = "GPTNeoXForCausalLM";
    f.facts        = [](Config& c) {
        c.learned_positions = false;
        c.parallel          = true;
        c.tied_head         = false;
        c.rope.dim          = rotary_dim(c, 0.25);
        c.initial_weights   = InitialWeights::neox;
        // Pythia's trainer ran the tanh form, because it had bias_gelu_fusion on; --activation gelu_fast gives that.
        set_activation(c, "gelu", c.name);
    };
    f.layers       = "num_hidden_layers";
    f.width        = "hidden_size";
    f.heads        = "num_attention_heads";
    f.feed_forward = "intermediate_size";
    f.context      = "max_position_embeddings";
    f.activation   = "hidden_act";
    f.norm_eps     = "layer_norm_eps";
    f.dropouts     = {{"attention_dropout", &DropoutRates::attention},
                      {"hidden_dropout", &DropoutRates::embedding},
                      {"hidden_dropout", &DropoutRates::residual}};
    f.flags        = {{"use_parallel_residual", &Config::parallel},
                      {"attention_bias", &Config::qkv_bias},
                      {"attention_bias", &Config::proj_bias}};
    f.read         = read_rotary;
    f.write        = write_rotary;
    f.prefix       = "gpt_neox.";
    // clang-format off
    f.weights      = {
        {"wte.weight",       "gpt_neox.embed_in.weight"},
        {"h.{}.ln1.weight",  "gpt_neox.layers.{}.input_layernorm.weight"},
        {"h.{}.ln1.bias",    "gpt_neox.layers.{}.input_layernorm.bias"},
        {"h.{}.qkv.weight",  "gpt_neox.layers.{}.attention.query_key_value.weight", Layout::per_head},
        {"h.{}.qkv.bias",    "gpt_neox.layers.{}.attention.query_key_value.bias",   Layout::per_head},
        {"h.{}.proj.weight", "gpt_neox.layers.{}.attention.dense.weight"},
        {"h.{}.proj.bias",   "gpt_neox.layers.{}.attention.dense.bias"},
        {"h.{}.ln2.weight",  "gpt_neox.layers.{}.post_attention_layernorm.weight"},
        {"h.{}.ln2.bias",    "gpt_neox.layers.{}.post_attention_layernorm.bias"},
        {"h.{}.up.weight",   "gpt_neox.layers.{}.mlp.dense_h_to_4h.weight"},
        {"h.{}.up.bias",     "gpt_neox.layers.{}.mlp.dense_h_to_4h.bias"},
        {"h.{}.down.weight", "gpt_neox.layers.{}.mlp.dense_4h_to_h.weight"},
        {"h.{}.down.bias",   "gpt_neox.layers.{}.mlp.dense_4h_to_h.bias"},
        {"lnf.weight",       "gpt_neox.final_layer_norm.weight"},
        {"lnf.bias",         "gpt_neox.final_layer_norm.bias"},
        {"head.weight",      "embed_out.weight"},
    };
    // clang-format on
    return f;
}

// ---- all of them ----------------------------------------------------------------------------------------------------
inline const std::vector<Family>& families() {
    static const std::vector<Family> all = {gpt2_family(), gpt_neo_family(), gptj_family(), gpt_neox_family()};
    return all;
}

// Returns the row of a model_type. `where` begins the error: it is the file that names the model_type.
inline const Family& family_of(const std::string& model_type, const std::string& where) {
    std::string known;
    for (const Family& f : families()) {
        if (model_type == f.model_type) return f;
        known += std::string(known.empty() ? "" : ", ") + f.model_type;
    }
    fail("{}: the \"model_type\" is \"{}\", which is not supported\n    The supported ones are {}.", where, model_type,
         known);
}
inline const Family& family_of(const Config& c) { return family_of(c.model_type, c.name); }
