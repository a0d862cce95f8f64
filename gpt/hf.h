// hf.h - Hugging Face folders: config.json, and the names and layouts of other people's weights
//
// A family's name appears here and in the preset table, and nowhere else. Every weight has a row that says what the
// family calls it and how it lies there; reading applies the layout, writing its inverse, so a folder that is loaded
// and saved comes back byte for byte. What we don't support is refused at the door with the field that says so.
#pragma once
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "gpt/config.h"
#include "gpt/params.h"
#include "gpt/safetensors.h"

enum class Layout : uint8_t {
    as_is,
    transposed,  // GPT-2's Conv1D stores (in, out)
    per_head,    // NeoX stores the rows of q, k and v head by head: (H, 3, D) instead of (3, H, D)
};

struct HfName {
    const char* ours;    // the leaf of "h.N.leaf", or the whole name
    const char* theirs;  // {} is the layer
    Layout layout;
};
struct HfForm {
    const char* model_type;
    const char* architecture;
    const char* prefix;  // files may come with it or without
    std::vector<HfName> names;
};

// clang-format off
inline const std::vector<HfForm>& hf_forms() {
    static const std::vector<HfForm> forms = {
        {"gpt2", "GPT2LMHeadModel", "transformer.", {
            {"wte.weight",  "transformer.wte.weight",                Layout::as_is},
            {"wpe.weight",  "transformer.wpe.weight",                Layout::as_is},
            {"ln1.weight",  "transformer.h.{}.ln_1.weight",          Layout::as_is},
            {"ln1.bias",    "transformer.h.{}.ln_1.bias",            Layout::as_is},
            {"qkv.weight",  "transformer.h.{}.attn.c_attn.weight",   Layout::transposed},
            {"qkv.bias",    "transformer.h.{}.attn.c_attn.bias",     Layout::as_is},
            {"proj.weight", "transformer.h.{}.attn.c_proj.weight",   Layout::transposed},
            {"proj.bias",   "transformer.h.{}.attn.c_proj.bias",     Layout::as_is},
            {"ln2.weight",  "transformer.h.{}.ln_2.weight",          Layout::as_is},
            {"ln2.bias",    "transformer.h.{}.ln_2.bias",            Layout::as_is},
            {"up.weight",   "transformer.h.{}.mlp.c_fc.weight",      Layout::transposed},
            {"up.bias",     "transformer.h.{}.mlp.c_fc.bias",        Layout::as_is},
            {"down.weight", "transformer.h.{}.mlp.c_proj.weight",    Layout::transposed},
            {"down.bias",   "transformer.h.{}.mlp.c_proj.bias",      Layout::as_is},
            {"lnf.weight",  "transformer.ln_f.weight",               Layout::as_is},
            {"lnf.bias",    "transformer.ln_f.bias",                 Layout::as_is},
            {"head.weight", "lm_head.weight",                        Layout::as_is},
        }},
        {"gpt_neox", "GPTNeoXForCausalLM", "gpt_neox.", {
            {"wte.weight",  "gpt_neox.embed_in.weight",                                    Layout::as_is},
            {"ln1.weight",  "gpt_neox.layers.{}.input_layernorm.weight",                   Layout::as_is},
            {"ln1.bias",    "gpt_neox.layers.{}.input_layernorm.bias",                     Layout::as_is},
            {"qkv.weight",  "gpt_neox.layers.{}.attention.query_key_value.weight",         Layout::per_head},
            {"qkv.bias",    "gpt_neox.layers.{}.attention.query_key_value.bias",           Layout::per_head},
            {"proj.weight", "gpt_neox.layers.{}.attention.dense.weight",                   Layout::as_is},
            {"proj.bias",   "gpt_neox.layers.{}.attention.dense.bias",                     Layout::as_is},
            {"ln2.weight",  "gpt_neox.layers.{}.post_attention_layernorm.weight",          Layout::as_is},
            {"ln2.bias",    "gpt_neox.layers.{}.post_attention_layernorm.bias",            Layout::as_is},
            {"up.weight",   "gpt_neox.layers.{}.mlp.dense_h_to_4h.weight",                 Layout::as_is},
            {"up.bias",     "gpt_neox.layers.{}.mlp.dense_h_to_4h.bias",                   Layout::as_is},
            {"down.weight", "gpt_neox.layers.{}.mlp.dense_4h_to_h.weight",                 Layout::as_is},
            {"down.bias",   "gpt_neox.layers.{}.mlp.dense_4h_to_h.bias",                   Layout::as_is},
            {"lnf.weight",  "gpt_neox.final_layer_norm.weight",                            Layout::as_is},
            {"lnf.bias",    "gpt_neox.final_layer_norm.bias",                              Layout::as_is},
            {"head.weight", "embed_out.weight",                                            Layout::as_is},
        }},
    };
    return forms;
}
// clang-format on

inline const HfForm& form_of(const std::string& model_type, const std::string& where) {
    std::string known;
    for (const HfForm& f : hf_forms()) {
        if (model_type == f.model_type) return f;
        known += std::string(known.empty() ? "" : ", ") + f.model_type;
    }
    fail("{}: model_type \"{}\" is not supported; supported are {}", where, model_type, known);
}

// Their name and layout for one of our weights.
struct Foreign {
    std::string name;
    Layout layout;
};
inline Foreign foreign(const HfForm& form, const std::string& ours) {
    std::string leaf = ours, layer;
    if (ours.rfind("h.", 0) == 0) {
        const size_t dot = ours.find('.', 2);
        layer            = ours.substr(2, dot - 2);
        leaf             = ours.substr(dot + 1);
    }
    for (const HfName& n : form.names)
        if (leaf == n.ours) return {fmt::format(fmt::runtime(n.theirs), layer), n.layout};
    fail("{} has no name for {}", form.model_type, ours);
}

// ---- config.json
// ------------------------------------------------------------------------------------------------------------

// One JSON object whose fields are asked for by name; says which file and field when something is off.
class Fields {
  public:
    explicit Fields(const std::string& path) : path_(path) {
        const MappedFile file(path);
        json_ = parse_json({reinterpret_cast<const char*>(file.data()), size_t(file.size())}, path, 16);
        CHECK(json_.is_object(), "{}: expected a JSON object", path);
    }
    bool has(const char* key) const { return json_.contains(key) && !json_[key].is_null(); }
    const nlohmann::json& raw(const char* key) const { return json_[key]; }
    const std::string& path() const { return path_; }

    int64_t integer(const char* key) const {
        CHECK(has(key), "{}: the field \"{}\" is missing", path_, key);
        CHECK(json_[key].is_number_integer(), "{}: \"{}\" is {}, expected a whole number", path_, key,
              json_[key].dump());
        const int64_t value = json_[key].get<int64_t>();
        CHECK(value > -(INT64_C(1) << 53) && value < INT64_C(1) << 53, "{}: \"{}\" is {}, out of range", path_, key,
              json_[key].dump());
        return value;
    }
    int64_t integer(const char* key, int64_t absent) const { return has(key) ? integer(key) : absent; }
    double number(const char* key, double absent) const {
        if (!has(key)) return absent;
        CHECK(json_[key].is_number(), "{}: \"{}\" is {}, expected a number", path_, key, json_[key].dump());
        return json_[key].get<double>();
    }
    bool flag(const char* key, bool absent) const {
        if (!has(key)) return absent;
        CHECK(json_[key].is_boolean(), "{}: \"{}\" is {}, expected true or false", path_, key, json_[key].dump());
        return json_[key].get<bool>();
    }
    std::string text(const char* key, const std::string& absent) const {
        if (!has(key)) return absent;
        CHECK(json_[key].is_string(), "{}: \"{}\" is {}, expected a text", path_, key, json_[key].dump());
        return json_[key].get<std::string>();
    }
    // A feature that we do not have must be off.
    void refuse_unless(const char* key, bool supported) const {
        CHECK(flag(key, supported) == supported, "{}: \"{}\": {} is not supported, only {}", path_, key, !supported,
              supported);
    }

  private:
    std::string path_;
    nlohmann::json json_;
};

inline Gelu gelu_named(const std::string& name, const Fields& f, const char* key) {
    if (name == "gelu_new" || name == "gelu_fast" || name == "gelu_pytorch_tanh") return Gelu::tanh;
    if (name == "gelu" || name == "gelu_python") return Gelu::erf;
    fail(
        "{}: \"{}\": \"{}\" is not supported; supported are gelu_new, gelu_fast, gelu_pytorch_tanh (tanh form) and "
        "gelu (erf form)",
        f.path(), key, name);
}

inline Config read_config(const std::string& folder) {
    CHECK(std::filesystem::is_directory(folder), "{}: neither a preset (train_gpt --list-models) nor a model folder",
          folder);
    CHECK(std::filesystem::exists(folder + "/config.json"), "{}: there is no config.json in this folder", folder);
    const Fields f(folder + "/config.json");
    Config c;
    c.name       = std::filesystem::path(folder).lexically_normal().string();
    c.model_type = form_of(f.text("model_type", "(none)"), f.path()).model_type;
    if (c.model_type == "gpt2") {
        c.layers       = f.integer("n_layer");
        c.width        = f.integer("n_embd");
        c.heads        = f.integer("n_head");
        c.context      = f.integer(f.has("n_positions") ? "n_positions" : "n_ctx");
        c.vocab        = f.integer("vocab_size");
        c.feed_forward = f.integer("n_inner", 4 * c.width);
        c.norm_eps     = float(f.number("layer_norm_epsilon", 1e-5));
        c.gelu         = gelu_named(f.text("activation_function", "gelu_new"), f, "activation_function");
        c.tied_head    = f.flag("tie_word_embeddings", true);
        f.refuse_unless("scale_attn_weights", true);
        f.refuse_unless("scale_attn_by_inverse_layer_idx", false);
        f.refuse_unless("add_cross_attention", false);
    } else {
        c.layers            = f.integer("num_hidden_layers");
        c.width             = f.integer("hidden_size");
        c.heads             = f.integer("num_attention_heads");
        c.context           = f.integer("max_position_embeddings");
        c.vocab             = f.integer("vocab_size");
        c.feed_forward      = f.integer("intermediate_size", 4 * c.width);
        c.norm_eps          = float(f.number("layer_norm_eps", 1e-5));
        c.gelu              = gelu_named(f.text("hidden_act", "gelu"), f, "hidden_act");
        c.tied_head         = f.flag("tie_word_embeddings", false);
        c.parallel          = f.flag("use_parallel_residual", true);
        c.attention_bias    = f.flag("attention_bias", true);
        c.learned_positions = false;
        c.init              = Init::neox;
        // Two spellings of the same facts: rotary_pct and rotary_emb_base, or an object rope_parameters.
        double fraction     = f.number("rotary_pct", f.number("partial_rotary_factor", 0.25));
        double base         = f.number("rotary_emb_base", f.number("rope_theta", 10000));
        CHECK(!f.has("rope_scaling"), "{}: \"rope_scaling\" is not supported, only null", f.path());
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
        CHECK(fraction >= 0 && fraction <= 1, "{}: a fraction {} of each head is said to rotate; expected 0 to 1",
              f.path(), fraction);
        CHECK(c.heads > 0 && c.width > 0 && c.width % c.heads == 0,
              "{}: hidden_size {} is not a multiple of num_attention_heads {}", f.path(), c.width, c.heads);
        c.rope.dim  = int64_t(c.head_size() * fraction);
        c.rope.base = float(base);
    }
    c.eot = f.has("eos_token_id") && f.raw("eos_token_id").is_number_integer() ? f.integer("eos_token_id") : -1;
    c.check();
    return c;
}

inline nlohmann::ordered_json config_json(const Config& c, DType dtype) {
    nlohmann::ordered_json j = {{"architectures", {form_of(c.model_type, c.name).architecture}},
                                {"model_type", c.model_type}};
    if (c.model_type == "gpt2") {
        j["n_layer"]             = c.layers;
        j["n_embd"]              = c.width;
        j["n_head"]              = c.heads;
        j["n_inner"]             = c.feed_forward;
        j["n_positions"]         = c.context;
        j["n_ctx"]               = c.context;
        j["activation_function"] = c.gelu == Gelu::tanh ? "gelu_new" : "gelu";
        j["layer_norm_epsilon"]  = double(std::stod(fmt::format("{}", c.norm_eps)));
        for (const char* dropout : {"attn_pdrop", "embd_pdrop", "resid_pdrop"}) j[dropout] = 0.0;
    } else {
        const double fraction        = double(c.rope.dim) / double(c.head_size());
        j["num_hidden_layers"]       = c.layers;
        j["hidden_size"]             = c.width;
        j["num_attention_heads"]     = c.heads;
        j["intermediate_size"]       = c.feed_forward;
        j["max_position_embeddings"] = c.context;
        j["hidden_act"]              = c.gelu == Gelu::tanh ? "gelu_fast" : "gelu";
        j["layer_norm_eps"]          = double(std::stod(fmt::format("{}", c.norm_eps)));
        j["use_parallel_residual"]   = c.parallel;
        j["attention_bias"]          = c.attention_bias;
        j["rotary_pct"]              = fraction;
        j["rotary_emb_base"]         = c.rope.base;
        j["rope_parameters"]         = {
                    {"rope_type", "default"}, {"rope_theta", c.rope.base}, {"partial_rotary_factor", fraction}};
        for (const char* dropout : {"attention_dropout", "hidden_dropout"}) j[dropout] = 0.0;
    }
    j["vocab_size"]          = c.vocab;
    j["tie_word_embeddings"] = c.tied_head;
    j["torch_dtype"]         = dtype == DType::BF16 ? "bfloat16" : "float32";
    j["use_cache"]           = true;
    if (c.eot >= 0)
        j["bos_token_id"] = j["eos_token_id"] = c.eot;
    else
        j["bos_token_id"] = j["eos_token_id"] = nullptr;
    return j;
}

// ---- weights
// ------------------------------------------------------------------------------------------------------------------

// The shape that a weight of ours has in their file: no padding, transposed where they transpose.
inline Shape foreign_shape(const Config& c, const ParamRow& r, Layout layout) {
    Shape s = r.shape;
    if (is_vocab_table(r.name)) s.dim[0] = c.vocab;
    if (layout == Layout::transposed) std::swap(s.dim[0], s.dim[1]);
    return s;
}

// Element `i` of ours comes from element `their(i)` of theirs. Vocabulary padding lies behind everything, so it is not
// asked for.
template <class T>
void reorder(T* out, const T* in, const Config& c, const Shape& ours, Layout layout, bool inwards) {
    const int64_t rows = ours[0], cols = ours.dims == 2 ? ours[1] : 1, D = c.head_size();
    constexpr int64_t tile = 16;  // a line of the cache, read or written whole while the tile is at hand
    if (layout == Layout::transposed)
        return cpu::parallel_ranges((rows + tile - 1) / tile, 1, [&](int64_t begin, int64_t end) {
            for (int64_t r0 = begin * tile; r0 < std::min(end * tile, rows); r0 += tile)
                for (int64_t k0 = 0; k0 < cols; k0 += tile)
                    for (int64_t r = r0; r < std::min(r0 + tile, rows); r++)
                        for (int64_t k = k0; k < std::min(k0 + tile, cols); k++)
                            inwards ? out[r * cols + k] = in[k * rows + r] : out[k * rows + r] = in[r * cols + k];
        });
    cpu::parallel_ranges(rows, 16, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; r++) {
            const int64_t which = r / (c.heads * D), head = r / D % c.heads, d = r % D;  // ours: (3, H, D)
            const int64_t theirs = layout == Layout::per_head ? (head * 3 + which) * D + d : r;
            std::memcpy(out + (inwards ? r : theirs) * cols, in + (inwards ? theirs : r) * cols, cols * sizeof(T));
        }
    });
}

inline bool has_weights(const std::string& folder) {
    return fs::exists(folder + "/model.safetensors") || fs::exists(folder + "/model.safetensors.index.json");
}

// Fills p (fp32 or bf16), and `masters` too when it is given, from a folder or file. Every weight must be there in its
// shape; a tensor that we have no place for is refused by name, except buffers that hold no weights.
inline void load_weights(Params& p, const Config& c, const SafetensorsReader& file, Stream s,
                         Params* masters = nullptr) {
    const HfForm& form       = form_of(c.model_type, file.path());
    const std::string prefix = form.prefix;
    std::set<std::string> used;
    const auto named = [&](const std::string& name) {
        const std::string bare = name.rfind(prefix, 0) == 0 ? name.substr(prefix.size()) : name;
        return !file.find(name) && file.find(bare) ? bare : name;
    };
    std::vector<float> theirs, ours;
    const auto rows        = param_rows(p, c);
    const auto master_rows = masters ? param_rows(*masters, c) : std::vector<ParamRow>();
    for (size_t i = 0; i < rows.size(); i++) {
        const ParamRow& r      = rows[i];
        const Foreign f        = foreign(form, r.name);
        const std::string name = named(f.name);
        const Shape shape      = foreign_shape(c, r, f.layout);
        const StoredTensor* t  = file.find(name);
        CHECK(t, "{}: the tensor \"{}\" is missing ({} expected), one of the weights that config.json asks for",
              file.path(), name, shape.str());
        file.at(name, shape);
        ours.resize(r.shape.numel());
        std::fill(ours.begin() + shape.numel(), ours.end(), 0.f);  // padding of the vocabulary
        if (f.layout == Layout::as_is) {
            t->read_into(ours.data());
        } else {
            theirs.resize(shape.numel());
            t->read_into(theirs.data());
            reorder(ours.data(), theirs.data(), c, r.shape, f.layout, true);
        }
        from_host(*r.tensor, ours, s);
        if (masters) from_host(*master_rows[i].tensor, ours, s);
        used.insert(name);
    }
    const auto ends_with = [](const std::string& name, const std::string& end) {
        return name.size() >= end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
    };
    for (const auto& [name, t] : file.tensors()) {
        if (used.count(name)) continue;
        if (ends_with(name, ".attn.bias") || ends_with(name, ".attention.bias") || ends_with(name, ".masked_bias") ||
            ends_with(name, ".rotary_emb.inv_freq"))
            continue;  // masks and frequencies that old versions stored
        if (c.tied_head && name == foreign(form, "head.weight").name) {
            const StoredTensor& table = file.at(named(foreign(form, "wte.weight").name));
            CHECK(t.bytes == table.bytes && std::memcmp(t.data, table.data, t.bytes) == 0,
                  "{}: \"{}\" differs from the token table, but config.json says tie_word_embeddings true", t.file,
                  name);
            continue;
        }
        fail("{}: tensor \"{}\" {} has no place in a {} of {} layers", t.file, name, t.shape.str(), c.model_type,
             c.layers);
    }
}

// config.json and model.safetensors of a model whose weights p are in `dtype`, in the dtype that they have.
inline void save_model(const std::string& folder, Params& p, const Config& c, DType dtype, Stream s) {
    const HfForm& form = form_of(c.model_type, c.name);
    std::vector<StoredRow> rows;
    const auto ours = param_rows(p, c);
    for (const ParamRow& r : ours) {
        const Foreign f = foreign(form, r.name);
        rows.push_back({f.name, stored_name(dtype), foreign_shape(c, r, f.layout)});
    }
    // In the order of their names, as save_pretrained() has them, so that an unchanged model is the same file.
    std::vector<size_t> order(rows.size());
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return rows[a].name < rows[b].name; });
    std::vector<StoredRow> sorted;
    for (size_t i : order) sorted.push_back(rows[i]);
    ModelWriter writer(folder, sorted);
    for (size_t i : order) {
        const ParamRow& r = ours[i];
        Shape filled      = r.shape;
        if (is_vocab_table(r.name)) filled.dim[0] = c.vocab;
        for_dtype(dtype, [&](auto zero_) {
            using T = decltype(zero_);
            std::vector<T> host(r.shape.numel()), theirs(rows[i].shape.numel());
            to_host(host.data(), *r.tensor, s);
            reorder(theirs.data(), host.data(), c, filled, foreign(form, r.name).layout, false);
            writer.write(rows[i].name, theirs.data(), rows[i].bytes());
        });
    }
    writer.close();
    write_file(folder + "/config.json", config_json(c, dtype).dump(2) + "\n");
}
