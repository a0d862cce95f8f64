// hf_config.h - config.json of Hugging Face folders: the facts of a model, read from it and written to it
//
// Each family has its own words for the same facts. A field that asks for something we lack is refused by name.
#pragma once
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/json.h"
#include "gpt/config.h"

// What a family calls the sizes that they all have, how it says the rest, and the class that transformers loads it
// with.
struct HfWords {
    const char *model_type, *architecture;
    const char *layers, *width, *heads, *context, *feed_forward, *activation, *norm_eps;
    std::vector<const char*> dropouts;
    void (*read)(Config&, const Fields&);
    void (*write)(nlohmann::ordered_json&, const Config&);
};

// ---- gpt2 ---------------------------------------------------------------------------------------------------------
inline void read_gpt2(Config& c, const Fields& f) {
    f.refuse_unless("scale_attn_weights", true);
    f.refuse_unless("scale_attn_by_inverse_layer_idx", false);
    c.tied_head = f.flag("tie_word_embeddings", true);
}
inline void write_gpt2(nlohmann::ordered_json& j, const Config& c) { j["n_ctx"] = c.context; }

// ---- gpt_neo ------------------------------------------------------------------------------------------------------
// attention_layers, ["global", "local", …], or attention_types, [[["global", "local"], 12]]: the list, so many times.
inline std::vector<std::string> attention_layers(const Config& c, const Fields& f) {
    std::vector<std::string> kinds;
    const auto append = [&](const nlohmann::json& list, const char* key) {
        CHECK(list.is_array(), "{}: \"{}\" holds {}, expected a list", f.path(), key, list.dump().substr(0, 200));
        for (const auto& kind : list) {
            CHECK(kind == "global" || kind == "local", "{}: \"{}\" holds {}; supported are \"global\" and \"local\"",
                  f.path(), key, kind.dump().substr(0, 200));
            kinds.push_back(kind);
        }
    };
    const char* key = f.has("attention_layers") ? "attention_layers" : "attention_types";
    if (f.has("attention_layers"))
        append(f.raw(key), key);
    else if (f.has(key)) {
        CHECK(f.raw(key).is_array(), "{}: \"{}\" is no list", f.path(), key);
        for (const auto& group : f.raw(key)) {
            CHECK(group.is_array() && group.size() == 2 && group[1].is_number_unsigned() && group[1] <= c.layers,
                  "{}: \"{}\" holds {}, expected a list of kinds and how often it comes, at most {} times", f.path(),
                  key, group.dump().substr(0, 200), c.layers);
            for (int64_t i = 0; i < group[1].get<int64_t>() && int64_t(kinds.size()) <= c.layers; i++)
                append(group[0], key);
        }
    } else {
        for (int64_t l = 0; l < c.layers; l++) kinds.push_back(l % 2 ? "local" : "global");
    }
    CHECK(int64_t(kinds.size()) == c.layers, "{}: \"{}\" is for {} layers, but \"num_layers\" is {}", f.path(), key,
          kinds.size(), c.layers);
    return kinds;
}
inline void read_gpt_neo(Config& c, const Fields& f) {
    c.tied_head          = f.flag("tie_word_embeddings", true);
    c.qkv_bias           = false;
    c.scaled_scores      = false;
    const int64_t window = f.integer("window_size", 256);
    CHECK(window > 0, "{}: \"window_size\" is {}, expected 1 or more", f.path(), window);
    for (const std::string& kind : attention_layers(c, f))
        c.windows.push_back(kind == "local" ? window : Config::everything);
}
inline void write_gpt_neo(nlohmann::ordered_json& j, const Config& c) {
    std::vector<std::string> kinds;
    j["window_size"] = 256;
    for (int64_t l = 0; l < c.layers; l++) {
        const bool local = c.window(l) != Config::everything;
        if (local) j["window_size"] = c.window(l);
        kinds.push_back(local ? "local" : "global");
    }
    size_t period      = 1;  // the shortest list that, repeated, gives all layers
    const auto repeats = [&] {
        for (size_t i = period; i < kinds.size(); i++)
            if (kinds[i] != kinds[i - period]) return false;
        return kinds.size() % period == 0;
    };
    while (!repeats()) period++;
    const std::vector<std::string> list(kinds.begin(), kinds.begin() + period);
    j["attention_types"]  = {{list, kinds.size() / period}};
    j["attention_layers"] = kinds;
}

// ---- gptj ---------------------------------------------------------------------------------------------------------
inline void read_gptj(Config& c, const Fields& f) {
    c.tied_head         = f.flag("tie_word_embeddings", false);
    c.learned_positions = false;
    c.parallel = c.shared_norm = true;
    c.qkv_bias = c.proj_bias = false;
    c.head_bias              = true;
    c.rope.dim               = f.integer("rotary_dim");
    c.init                   = Init::neox;
}
inline void write_gptj(nlohmann::ordered_json& j, const Config& c) { j["rotary_dim"] = c.rope.dim; }

// ---- gpt_neox -----------------------------------------------------------------------------------------------------
inline void read_gpt_neox(Config& c, const Fields& f) {
    c.tied_head = f.flag("tie_word_embeddings", false);
    c.parallel  = f.flag("use_parallel_residual", true);
    c.qkv_bias = c.proj_bias = f.flag("attention_bias", true);
    c.learned_positions      = false;
    c.init                   = Init::neox;
    // Two spellings of the same facts: rotary_pct and rotary_emb_base, or an object rope_parameters.
    double fraction          = f.number("rotary_pct", f.number("partial_rotary_factor", 0.25));
    double base              = f.number("rotary_emb_base", f.number("rope_theta", 10000));
    if (f.has("rope_parameters")) {
        const auto& rope = f.raw("rope_parameters");
        CHECK(rope.is_object() && rope.value("rope_type", nlohmann::json("default")) == "default",
              "{}: \"rope_parameters\" is {}, and only rope_type \"default\" is supported", f.path(), rope.dump());
        const auto number = [&](const char* key, double absent) {
            if (!rope.contains(key)) return absent;
            CHECK(rope[key].is_number(), "{}: \"rope_parameters\": \"{}\" is {}, expected a number", f.path(), key,
                  rope[key].dump());
            return rope[key].get<double>();
        };
        fraction = number("partial_rotary_factor", fraction);
        base     = number("rope_theta", base);
    }
    CHECK(fraction >= 0 && fraction <= 1, "{}: a fraction {} of each head is said to rotate; expected 0 to 1", f.path(),
          fraction);
    c.rope.dim  = int64_t(double(c.head_size()) * fraction);
    c.rope.base = float(base);
}
inline void write_gpt_neox(nlohmann::ordered_json& j, const Config& c) {
    double fraction = double(c.rope.dim) / double(c.head_size());
    while (int64_t(double(c.head_size()) * fraction) < c.rope.dim) fraction = std::nextafter(fraction, 2.0);
    j["use_parallel_residual"] = c.parallel;
    j["attention_bias"]        = c.qkv_bias;
    j["rotary_pct"]            = fraction;
    j["rotary_emb_base"]       = c.rope.base;
    j["rope_scaling"]          = nullptr;
    j["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", c.rope.base}, {"partial_rotary_factor", fraction}};
}

// ---- all of them --------------------------------------------------------------------------------------------------
inline const HfWords& words_of(const std::string& model_type, const std::string& where) {
    // clang-format off
    static const std::vector<HfWords> all = {
        {"gpt2",     "GPT2LMHeadModel",    "n_layer", "n_embd", "n_head", "n_positions", "n_inner", "activation_function", "layer_norm_epsilon",
         {"attn_pdrop", "embd_pdrop", "resid_pdrop"}, read_gpt2, write_gpt2},
        {"gpt_neo",  "GPTNeoForCausalLM",  "num_layers", "hidden_size", "num_heads", "max_position_embeddings", "intermediate_size",
         "activation_function", "layer_norm_epsilon", {"attention_dropout", "embed_dropout", "resid_dropout"}, read_gpt_neo, write_gpt_neo},
        {"gptj",     "GPTJForCausalLM",    "n_layer", "n_embd", "n_head", "n_positions", "n_inner", "activation_function", "layer_norm_epsilon",
         {"attn_pdrop", "embd_pdrop", "resid_pdrop"}, read_gptj, write_gptj},
        {"gpt_neox", "GPTNeoXForCausalLM", "num_hidden_layers", "hidden_size", "num_attention_heads", "max_position_embeddings",
         "intermediate_size", "hidden_act", "layer_norm_eps", {"attention_dropout", "hidden_dropout"}, read_gpt_neox, write_gpt_neox},
    };
    // clang-format on
    std::string known;
    for (const HfWords& w : all) {
        if (model_type == w.model_type) return w;
        known += std::string(known.empty() ? "" : ", ") + w.model_type;
    }
    fail("{}: \"model_type\": \"{}\" is not supported; supported are {}", where, model_type, known);
}

// An id, or -1 where the file has none or several.
inline int64_t id_field(const Fields& f, const char* key) {
    return f.has(key) && f.raw(key).is_number_integer() ? f.integer(key) : -1;
}

inline Config read_config(const std::string& folder) {
    CHECK(fs::is_directory(folder), "{}: neither a preset (train_gpt --list-models) nor a model folder", folder);
    CHECK(fs::exists(folder + "/config.json"), "{}: there is no config.json in this folder", folder);
    const Fields f(folder + "/config.json");
    const std::string model_type = f.text("model_type", "(none)");
    const HfWords& w             = words_of(model_type, f.path());
    Config c;
    c.name         = fs::path(folder).lexically_normal().string();
    c.model_type   = w.model_type;
    c.layers       = f.integer(w.layers);
    c.width        = f.integer(w.width);
    c.heads        = f.integer(w.heads);
    c.context      = f.integer(!f.has(w.context) && f.has("n_ctx") ? "n_ctx" : w.context);
    c.vocab        = f.integer("vocab_size");
    c.feed_forward = f.integer(w.feed_forward, 4 * c.width);
    c.norm_eps     = float(f.number(w.norm_eps, 1e-5));
    c.bos          = id_field(f, "bos_token_id");
    c.eot          = id_field(f, "eos_token_id");
    CHECK(c.feed_forward > 0, "{}: \"{}\" is {}, expected null or 1 or more", f.path(), w.feed_forward, c.feed_forward);
    CHECK(c.heads > 0 && c.width > 0 && c.width % c.heads == 0, "{}: \"{}\" {} is not a multiple of \"{}\" {}",
          f.path(), w.width, c.width, w.heads, c.heads);
    const std::string usual = c.model_type == "gpt_neox" ? "gelu" : "gelu_new";  // when the file doesn't say
    set_activation(c, f.text(w.activation, usual), fmt::format("{}: \"{}\"", f.path(), w.activation));
    CHECK(!f.has("rope_scaling"), "{}: \"rope_scaling\" is {}; only null is supported", f.path(),
          f.raw("rope_scaling").dump().substr(0, 200));
    f.refuse_unless("add_cross_attention", false);
    w.read(c, f);
    c.check();
    return c;
}

// stored: the dtype of the weights beside it, as safetensors calls it.
inline nlohmann::ordered_json config_json(const Config& c, const std::string& stored) {
    const HfWords& w         = words_of(c.model_type, c.name);
    nlohmann::ordered_json j = {{"architectures", {w.architecture}}, {"model_type", c.model_type}};
    j[w.layers]              = c.layers;
    j[w.width]               = c.width;
    j[w.heads]               = c.heads;
    j[w.feed_forward]        = c.feed_forward;
    j[w.context]             = c.context;
    j[w.activation]          = c.activation;
    j[w.norm_eps]            = std::stod(fmt::format("{}", c.norm_eps));  // 1e-05, not what a float makes of it
    w.write(j, c);
    for (const char* dropout : w.dropouts) j[dropout] = 0.0;
    j["vocab_size"]          = c.vocab;
    j["tie_word_embeddings"] = c.tied_head;
    j["torch_dtype"]         = stored == "BF16" ? "bfloat16" : stored == "F16" ? "float16" : "float32";
    j["use_cache"]           = true;
    j["bos_token_id"]        = c.bos >= 0 ? nlohmann::ordered_json(c.bos) : nullptr;
    j["eos_token_id"]        = c.eot >= 0 ? nlohmann::ordered_json(c.eot) : nullptr;
    return j;
}
