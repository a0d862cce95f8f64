// hf.h - model folders in the form of Hugging Face: reads and writes config.json and the weights
//
// families.h says what each family calls our facts and our weights, and how the weights lie in its files. Reading
// applies a layout and writing applies its inverse, so a folder that is loaded and saved comes back byte for byte.
// What a folder asks for and we do not support is refused by name.
#pragma once
#include <fmt/format.h>

#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "data/files.h"
#include "data/json.h"
#include "gpt/families.h"
#include "gpt/params.h"
#include "gpt/safetensors.h"

// ---- config.json ----------------------------------------------------------------------------------------------------

// A token id, or -1 when the field is absent or holds a list of several.
inline int64_t id_field(const Fields& json, const char* field) {
    return json.has(field) && json.raw(field).is_number_integer() ? json.integer(field) : -1;
}

// The facts of the model in a folder. Throws an InputError that names the file and the field.
inline Config read_config(const std::string& folder) {
    CHECK(fs::is_directory(folder),
          "{} is neither a preset nor a model folder; train_gpt --list-models prints the presets", folder);
    CHECK(fs::exists(folder + "/config.json"), "{}: there is no config.json in this folder", folder);
    const Fields json(folder + "/config.json");
    const Family& family = family_of(json.text("model_type", "(none)"), json.path());
    Config c;
    c.name         = fs::path(folder).lexically_normal().string();
    c.model_type   = family.model_type;
    c.layers       = json.integer(family.layers);
    c.width        = json.integer(family.width);
    c.heads        = json.integer(family.heads);
    c.context      = json.integer(!json.has(family.context) && json.has("n_ctx") ? "n_ctx" : family.context);
    c.vocab        = json.integer("vocab_size");
    c.feed_forward = json.integer(family.feed_forward, 4 * c.width);
    CHECK(c.feed_forward > 0, "{}: \"{}\" is {}, but it must be null or 1 or more", json.path(), family.feed_forward,
          c.feed_forward);
    CHECK(c.heads > 0 && c.width > 0 && c.width % c.heads == 0, "{}: \"{}\" {} is not a multiple of \"{}\" {}",
          json.path(), family.width, c.width, family.heads, c.heads);
    c.check_sizes();

    family.facts(c);
    c.norm_eps  = float(json.number(family.norm_eps, c.norm_eps));
    c.tied_head = json.flag("tie_word_embeddings", c.tied_head);
    c.bos       = id_field(json, "bos_token_id");
    c.eot       = id_field(json, "eos_token_id");
    for (const Flag& flag : family.flags) c.*flag.fact = json.flag(flag.field, c.*flag.fact);
    set_activation(c, json.text(family.activation, c.activation),
                   fmt::format("{}: \"{}\"", json.path(), family.activation));
    CHECK(!json.has("rope_scaling"), "{}: \"rope_scaling\" is {}, but only null is supported", json.path(),
          json.raw("rope_scaling").dump().substr(0, 200));
    json.refuse_unless("add_cross_attention", false);
    family.read(c, json);
    c.check();
    return c;
}

// config.json for a model whose weights are stored in `dtype`, by its name in safetensors files.
inline nlohmann::ordered_json config_json(const Config& c, const std::string& dtype) {
    const Family& family        = family_of(c);
    nlohmann::ordered_json json = {{"architectures", {family.architecture}}, {"model_type", c.model_type}};
    json[family.layers]         = c.layers;
    json[family.width]          = c.width;
    json[family.heads]          = c.heads;
    json[family.feed_forward]   = c.feed_forward;
    json[family.context]        = c.context;
    json[family.activation]     = c.activation;
    json[family.norm_eps]       = std::stod(fmt::format("{}", c.norm_eps));  // 1e-05, not the nearest float's 17 digits
    for (const Flag& flag : family.flags) json[flag.field] = c.*flag.fact;
    family.write(json, c);
    for (const char* dropout : family.dropouts) json[dropout] = 0.0;
    json["vocab_size"]          = c.vocab;
    json["tie_word_embeddings"] = c.tied_head;
    json["torch_dtype"]         = dtype == "BF16" ? "bfloat16" : dtype == "F16" ? "float16" : "float32";
    json["use_cache"]           = true;
    json["bos_token_id"]        = c.bos >= 0 ? nlohmann::ordered_json(c.bos) : nullptr;
    json["eos_token_id"]        = c.eot >= 0 ? nlohmann::ordered_json(c.eot) : nullptr;
    return json;
}

// ---- names and layouts ----------------------------------------------------------------------------------------------

// Where one of our weights lies in a family's files: in one tensor, or in three for q, k and v.
struct HfWeight {
    std::vector<std::string> names;
    Layout layout = Layout::as_is;
    Shape ours;    // of our weight without the padding of the vocabulary
    Shape theirs;  // of each of their tensors
};

// For each name of ours. The names hold those of weights that this model does not own, with empty shapes.
inline std::map<std::string, HfWeight> hf_weights(const Config& c) {
    std::map<std::string, HfWeight> all;
    for (const WeightName& row : family_of(c).weights) {
        const bool per_layer = std::string_view(row.ours).find("{}") != std::string_view::npos;
        for (int64_t l = 0; l < (per_layer ? c.layers : 1); l++) {
            HfWeight& w            = all[fmt::format(fmt::runtime(row.ours), l)];
            w.layout               = row.layout;
            const std::string name = fmt::format(fmt::runtime(row.theirs), l);
            const size_t letter    = name.find('?');
            if (letter == name.npos) {
                w.names = {name};
            } else {
                for (const char* which : {"q", "k", "v"})
                    w.names.push_back(std::string(name).replace(letter, 1, which));
            }
        }
    }
    Params none;
    for (const ParamRow& r : param_rows(none, c)) {
        CHECK(all.count(r.name), "families.h has no name for {} in the row of {}", r.name, c.model_type);
        HfWeight& w = all[r.name];
        w.ours      = unpadded(c, r);
        w.theirs    = w.ours;
        if (w.layout == Layout::transposed) std::swap(w.theirs.dim[0], w.theirs.dim[1]);
        w.theirs.dim[0] /= int64_t(w.names.size());
    }
    return all;
}

// The row of theirs that holds row r of our (3, H, D) rows of q, k and v.
inline int64_t their_row(const Config& c, Layout layout, int64_t r) {
    const int64_t D = c.head_size(), H = c.heads, half = c.rope.dim / 2;
    const int64_t which = r / (H * D), head = r / D % H, d = r % D;
    if (layout == Layout::per_head) return (head * 3 + which) * D + d;
    const bool rotates = layout == Layout::split_pairs && which < 2 && d < c.rope.dim;
    if (rotates) return r - d + (d < half ? 2 * d : 2 * (d - half) + 1);
    return r;
}

// Calls move(ours, theirs, n) on all threads for runs of n elements that are contiguous both in our weight and in
// theirs; the offsets count elements. `shape` is that of our weight, without padding.
template <class Move>
void for_each_run(const Config& c, const Shape& shape, Layout layout, Move move) {
    const int64_t rows = shape[0], cols = shape.dims == 2 ? shape[1] : 1;
    if (layout != Layout::transposed) {
        cpu::parallel_ranges(rows, 16, [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; r++) move(r * cols, their_row(c, layout, r) * cols, cols);
        });
        return;
    }
    constexpr int64_t tile = 16;  // 16 floats are a cache line, which is used completely while the tile is in cache
    cpu::parallel_ranges((rows + tile - 1) / tile, 1, [&](int64_t begin, int64_t end) {
        for (int64_t r0 = begin * tile; r0 < std::min(end * tile, rows); r0 += tile)
            for (int64_t k0 = 0; k0 < cols; k0 += tile)
                for (int64_t r = r0; r < std::min(r0 + tile, rows); r++)
                    for (int64_t k = k0; k < std::min(k0 + tile, cols); k++) move(r * cols + k, k * rows + r, 1);
    });
}
// T is the type of an element; its size is all that counts.
template <class T>
void to_our_layout(T* ours, const T* theirs, const Config& c, const Shape& shape, Layout layout) {
    for_each_run(c, shape, layout,
                 [=](int64_t to, int64_t from, int64_t n) { std::memcpy(ours + to, theirs + from, n * sizeof(T)); });
}
template <class T>
void to_their_layout(T* theirs, const T* ours, const Config& c, const Shape& shape, Layout layout) {
    for_each_run(c, shape, layout,
                 [=](int64_t from, int64_t to, int64_t n) { std::memcpy(theirs + to, ours + from, n * sizeof(T)); });
}

// ---- weights --------------------------------------------------------------------------------------------------------

// Old versions of transformers stored masks and frequencies beside the weights; they can be computed again.
inline bool is_buffer(const std::string& name) {
    for (const std::string end : {".attn.bias", ".attention.bias", ".masked_bias", ".rotary_emb.inv_freq"})
        if (name.size() >= end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0) return true;
    return false;
}

// The name of a tensor as a file has it, which may be without the family's prefix.
inline std::string name_in(const SafetensorsReader& file, const std::string& name, const std::string& prefix) {
    const std::string bare = name.rfind(prefix, 0) == 0 ? name.substr(prefix.size()) : name;
    return !file.find(name) && file.find(bare) ? bare : name;
}

// Refuses a tensor that is no weight of this model. Buffers are passed over, and so is a stored copy of a tied head.
inline void refuse_unknown_tensors(const SafetensorsReader& file, const std::set<std::string>& known, const Config& c,
                                   const std::map<std::string, HfWeight>& weights) {
    for (const auto& [name, t] : file.tensors()) {
        if (known.count(name) || is_buffer(name)) continue;
        // transformers 5 has "lm_head.weight" for every family in memory, and the family's own name in files.
        const bool head = name == weights.at("head.weight").names[0] || name == "lm_head.weight";
        CHECK(head && c.tied_head, "{}: the tensor \"{}\" {} has no place in a {} of {} layers", t.file, name,
              t.shape.str(), c.model_type, c.layers);
        const std::string table_name = weights.at("wte.weight").names[0];
        const StoredTensor& table    = file.at(name_in(file, table_name, family_of(c).prefix));
        CHECK(t.bytes == table.bytes && std::memcmp(t.data, table.data, t.bytes) == 0,
              "{}: \"{}\" differs from the token table \"{}\", but config.json says \"tie_word_embeddings\": true",
              t.file, name, table.name);
    }
}

// Fills p (fp32 or bf16), and `masters` too when it is given, from a folder or file. Every weight must be there in its
// shape, and every tensor must be a weight. Takes the memory of the largest weight in fp32 on the host, and twice that
// where layouts differ.
inline void load_weights(Params& p, const Config& c, const SafetensorsReader& file, Stream s,
                         Params* masters = nullptr) {
    const auto weights     = hf_weights(c);
    const auto rows        = param_rows(p, c);
    const auto master_rows = masters ? param_rows(*masters, c) : std::vector<ParamRow>();
    std::set<std::string> known;
    std::vector<float> theirs, ours;
    for (size_t i = 0; i < rows.size(); i++) {
        const HfWeight& w    = weights.at(rows[i].name);
        const int64_t filled = w.ours.numel();
        ours.resize(rows[i].shape.numel());
        std::fill(ours.begin() + filled, ours.end(), 0.f);  // the padding of the vocabulary
        const bool same_layout = w.layout == Layout::as_is || w.layout == Layout::split;
        if (!same_layout) theirs.resize(filled);
        float* out = same_layout ? ours.data() : theirs.data();
        for (const std::string& expected : w.names) {
            const std::string name = name_in(file, expected, family_of(c).prefix);
            CHECK(file.find(name), "{}: the tensor \"{}\" {} is missing, which config.json asks for", file.path(), name,
                  w.theirs.str());
            file.at(name, w.theirs).read_into(out);
            out += w.theirs.numel();
            known.insert(name);
        }
        if (!same_layout) to_our_layout(ours.data(), theirs.data(), c, w.ours, w.layout);
        from_host(*rows[i].tensor, ours, s);
        if (masters) from_host(*master_rows[i].tensor, ours, s);
    }
    refuse_unknown_tensors(file, known, c, weights);
}

// The dtype that a folder's weights are stored in: F32, BF16 or F16. When they differ it is F32, which holds them all.
inline std::string stored_dtype(const SafetensorsReader& file) {
    std::set<std::string> kinds;
    for (const auto& [name, t] : file.tensors())
        if (!is_buffer(name)) kinds.insert(t.dtype);
    const bool one = kinds.size() == 1 && (kinds.count("BF16") || kinds.count("F16"));
    return one ? *kinds.begin() : "F32";
}

// Writes config.json and model.safetensors of a model whose weights are p (fp32 or bf16). `dtype` is what the files
// hold: F32, BF16 or F16.
inline void save_model(const std::string& folder, Params& p, const Config& c, const std::string& dtype, Stream s) {
    struct Part {
        std::string name;
        Tensor tensor;
        const HfWeight* weight;
        int64_t index;  // which of weight->names this is
    };
    const auto weights = hf_weights(c);
    std::vector<Part> parts;
    for (const ParamRow& r : param_rows(p, c)) {
        const HfWeight& w = weights.at(r.name);
        for (size_t i = 0; i < w.names.size(); i++) parts.push_back({w.names[i], *r.tensor, &w, int64_t(i)});
    }
    // save_pretrained() of transformers sorts by name; doing the same makes the file of an unchanged model the same.
    std::sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.name < b.name; });

    std::vector<StoredRow> rows;
    for (const Part& part : parts) rows.push_back({part.name, dtype, part.weight->theirs});
    ModelWriter writer(folder, rows);
    std::vector<float> theirs;
    for (const Part& part : parts) {
        const HfWeight& w = *part.weight;
        theirs.resize(w.ours.numel());
        to_their_layout(theirs.data(), floats_of(part.tensor, s).data(), c, w.ours, w.layout);
        const int64_t n         = w.theirs.numel();
        const std::string bytes = stored_bytes(theirs.data() + part.index * n, n, dtype, part.name);
        writer.write(part.name, bytes.data(), int64_t(bytes.size()));
    }
    writer.close();
    write_file(folder + "/config.json", config_json(c, dtype).dump(2) + "\n");
}
