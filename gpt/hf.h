// hf.h - Hugging Face folders: the names and layouts of other people's weights
//
// A family's name appears here, in hf_config.h and in the preset table, and nowhere else. Every weight has a row that
// says what the family calls it and how it lies there; reading applies the layout, writing its inverse, so a folder
// that is loaded and saved comes back byte for byte. What we don't support is refused at the door.
#pragma once
#include <filesystem>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "gpt/config.h"
#include "gpt/hf_config.h"
#include "gpt/params.h"
#include "gpt/safetensors.h"

enum class Layout : uint8_t {
    as_is,
    transposed,   // GPT-2's Conv1D stores (in, out)
    per_head,     // NeoX stores the rows of q, k and v head by head: (H, 3, D) instead of (3, H, D)
    split,        // q, k and v are three tensors; '?' stands for these letters in the name
    split_pairs,  // the same, and coordinates that rotate together are neighbours: 2i, 2i+1 instead of i, i + dim/2
};

struct HfName {
    const char* ours;    // the leaf of "h.N.leaf", or the whole name
    const char* theirs;  // {} is the layer
    Layout layout;
};
struct HfForm {
    const char* model_type;
    const char* prefix;  // files may come with it or without
    std::vector<HfName> names;
};

// clang-format off
inline const std::vector<HfForm>& hf_forms() {
    static const std::vector<HfForm> forms = {
        {"gpt2", "transformer.", {
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
        {"gpt_neo", "transformer.", {
            {"wte.weight",  "transformer.wte.weight",                             Layout::as_is},
            {"wpe.weight",  "transformer.wpe.weight",                             Layout::as_is},
            {"ln1.weight",  "transformer.h.{}.ln_1.weight",                       Layout::as_is},
            {"ln1.bias",    "transformer.h.{}.ln_1.bias",                         Layout::as_is},
            {"qkv.weight",  "transformer.h.{}.attn.attention.?_proj.weight",      Layout::split},
            {"proj.weight", "transformer.h.{}.attn.attention.out_proj.weight",    Layout::as_is},
            {"proj.bias",   "transformer.h.{}.attn.attention.out_proj.bias",      Layout::as_is},
            {"ln2.weight",  "transformer.h.{}.ln_2.weight",                       Layout::as_is},
            {"ln2.bias",    "transformer.h.{}.ln_2.bias",                         Layout::as_is},
            {"up.weight",   "transformer.h.{}.mlp.c_fc.weight",                   Layout::as_is},
            {"up.bias",     "transformer.h.{}.mlp.c_fc.bias",                     Layout::as_is},
            {"down.weight", "transformer.h.{}.mlp.c_proj.weight",                 Layout::as_is},
            {"down.bias",   "transformer.h.{}.mlp.c_proj.bias",                   Layout::as_is},
            {"lnf.weight",  "transformer.ln_f.weight",                            Layout::as_is},
            {"lnf.bias",    "transformer.ln_f.bias",                              Layout::as_is},
            {"head.weight", "lm_head.weight",                                     Layout::as_is},
        }},
        {"gptj", "transformer.", {
            {"wte.weight",  "transformer.wte.weight",                Layout::as_is},
            {"ln1.weight",  "transformer.h.{}.ln_1.weight",          Layout::as_is},
            {"ln1.bias",    "transformer.h.{}.ln_1.bias",            Layout::as_is},
            {"qkv.weight",  "transformer.h.{}.attn.?_proj.weight",   Layout::split_pairs},
            {"proj.weight", "transformer.h.{}.attn.out_proj.weight", Layout::as_is},
            {"up.weight",   "transformer.h.{}.mlp.fc_in.weight",     Layout::as_is},
            {"up.bias",     "transformer.h.{}.mlp.fc_in.bias",       Layout::as_is},
            {"down.weight", "transformer.h.{}.mlp.fc_out.weight",    Layout::as_is},
            {"down.bias",   "transformer.h.{}.mlp.fc_out.bias",      Layout::as_is},
            {"lnf.weight",  "transformer.ln_f.weight",               Layout::as_is},
            {"lnf.bias",    "transformer.ln_f.bias",                 Layout::as_is},
            {"head.weight", "lm_head.weight",                        Layout::as_is},
            {"head.bias",   "lm_head.bias",                          Layout::as_is},
        }},
        {"gpt_neox", "gpt_neox.", {
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

inline const HfForm& form_of(const Config& c) {
    for (const HfForm& f : hf_forms())
        if (c.model_type == f.model_type) return f;
    fail("{}: there are no names for \"{}\"", c.name, c.model_type);
}

// Where one of our weights lies in their files: in one tensor, or in several whose rows follow each other.
struct Foreign {
    std::vector<std::string> names;
    Layout layout;
    Shape shape;  // of each of them: no padding of the vocabulary, transposed where they transpose
};
inline Foreign foreign(const Config& c, const ParamRow& r) {
    std::string leaf = r.name, layer;
    if (leaf.rfind("h.", 0) == 0) {
        const size_t dot = leaf.find('.', 2);
        layer            = leaf.substr(2, dot - 2);
        leaf             = leaf.substr(dot + 1);
    }
    for (const HfName& n : form_of(c).names) {
        if (leaf != n.ours) continue;
        Foreign f{{}, n.layout, unpadded(c, r)};
        const std::string name = fmt::format(fmt::runtime(n.theirs), layer);
        const size_t letter    = name.find('?');
        if (n.layout == Layout::transposed) std::swap(f.shape.dim[0], f.shape.dim[1]);
        if (letter == name.npos) return f.names = {name}, f;
        for (const char* which : {"q", "k", "v"}) f.names.push_back(std::string(name).replace(letter, 1, which));
        f.shape.dim[0] /= 3;
        return f;
    }
    fail("{} has no name for {}", c.model_type, r.name);
}

// ---- layouts ------------------------------------------------------------------------------------------------------

// Row r of our (3, H, D) rows of q, k and v is this row of theirs.
inline int64_t their_row(const Config& c, Layout layout, int64_t r) {
    const int64_t D = c.head_size(), which = r / (c.heads * D), head = r / D % c.heads, d = r % D,
                  half = c.rope.dim / 2;
    if (layout == Layout::per_head) return (head * 3 + which) * D + d;
    if (layout == Layout::split_pairs && which < 2 && d < c.rope.dim)
        return r - d + (d < half ? 2 * d : 2 * (d - half) + 1);
    return r;
}

// inwards: out = our layout of `in`, which is in theirs; else the other way round. ours: the shape, without padding.
// T is any type of an element.
template <class T>
void reorder(T* out, const T* in, const Config& c, const Shape& ours, Layout layout, bool inwards) {
    const int64_t rows = ours[0], cols = ours.dims == 2 ? ours[1] : 1;
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
            const int64_t theirs = their_row(c, layout, r);
            std::memcpy(out + (inwards ? r : theirs) * cols, in + (inwards ? theirs : r) * cols, cols * sizeof(T));
        }
    });
}

// ---- weights ------------------------------------------------------------------------------------------------------

// Masks and frequencies that old versions of transformers stored beside the weights.
inline bool is_buffer(const std::string& name) {
    for (const std::string end : {".attn.bias", ".attention.bias", ".masked_bias", ".rotary_emb.inv_freq"})
        if (name.size() >= end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0) return true;
    return false;
}

// Fills p (fp32 or bf16), and `masters` too when it is given, from a folder or file. Every weight must be there in its
// shape; a tensor that we have no place for is refused by name, except buffers that hold no weights. Host memory: the
// largest weight in fp32, twice where the layout differs.
inline void load_weights(Params& p, const Config& c, const SafetensorsReader& file, Stream s,
                         Params* masters = nullptr) {
    const std::string prefix = form_of(c).prefix;
    std::set<std::string> used;
    const auto named = [&](const std::string& name) {
        const std::string bare = name.rfind(prefix, 0) == 0 ? name.substr(prefix.size()) : name;
        return !file.find(name) && file.find(bare) ? bare : name;
    };
    std::vector<float> theirs, ours;
    const auto rows        = param_rows(p, c);
    const auto master_rows = masters ? param_rows(*masters, c) : std::vector<ParamRow>();
    for (size_t i = 0; i < rows.size(); i++) {
        const ParamRow& r    = rows[i];
        const Foreign f      = foreign(c, r);
        const bool reordered = f.layout != Layout::as_is && f.layout != Layout::split;
        const int64_t each = f.shape.numel(), filled = each * int64_t(f.names.size());
        ours.resize(r.shape.numel());
        std::fill(ours.begin() + filled, ours.end(), 0.f);  // padding of the vocabulary
        if (reordered) theirs.resize(filled);
        float* at = reordered ? theirs.data() : ours.data();
        for (const std::string& full : f.names) {
            const std::string name = named(full);
            CHECK(file.find(name),
                  "{}: the tensor \"{}\" is missing ({} expected), one of the weights that config.json asks for",
                  file.path(), name, f.shape.str());
            file.at(name, f.shape).read_into(at);
            at += each;
            used.insert(name);
        }
        if (reordered) reorder(ours.data(), theirs.data(), c, unpadded(c, r), f.layout, true);
        from_host(*r.tensor, ours, s);
        if (masters) from_host(*master_rows[i].tensor, ours, s);
    }
    for (const auto& [name, t] : file.tensors()) {
        if (used.count(name) || is_buffer(name)) continue;
        if (c.tied_head && (name == "lm_head.weight" || name == "embed_out.weight")) {
            const StoredTensor& table = file.at(named(foreign(c, rows[0]).names[0]));
            CHECK(t.bytes == table.bytes && std::memcmp(t.data, table.data, t.bytes) == 0,
                  "{}: \"{}\" differs from the token table, but config.json says tie_word_embeddings true", t.file,
                  name);
            continue;
        }
        fail("{}: tensor \"{}\" {} has no place in a {} of {} layers", t.file, name, t.shape.str(), c.model_type,
             c.layers);
    }
}

// The dtype that a folder's weights are stored in: F32, BF16 or F16; F32, which holds all of them, when they differ.
inline std::string stored_dtype(const SafetensorsReader& file) {
    std::set<std::string> kinds;
    for (const auto& [name, t] : file.tensors())
        if (!is_buffer(name)) kinds.insert(t.dtype);
    const bool one = kinds.size() == 1 && (kinds.count("BF16") || kinds.count("F16"));
    return one ? *kinds.begin() : "F32";
}

// config.json and model.safetensors of a model whose weights are p (fp32 or bf16), stored as F32, BF16 or F16.
inline void save_model(const std::string& folder, Params& p, const Config& c, const std::string& stored, Stream s) {
    struct Piece {
        const ParamRow* row;
        Foreign where;
        int64_t index;  // among where.names
    };
    const auto ours = param_rows(p, c);
    std::vector<Piece> pieces;
    for (const ParamRow& r : ours) {
        const Foreign f = foreign(c, r);
        for (size_t i = 0; i < f.names.size(); i++) pieces.push_back({&r, f, int64_t(i)});
    }
    // In the order of their names, as save_pretrained() has them, so that an unchanged model is the same file.
    const auto name_of_piece = [](const Piece& x) { return x.where.names[x.index]; };
    std::sort(pieces.begin(), pieces.end(),
              [&](const Piece& a, const Piece& b) { return name_of_piece(a) < name_of_piece(b); });
    std::vector<StoredRow> rows;
    for (const Piece& x : pieces) rows.push_back({name_of_piece(x), stored, x.where.shape});
    ModelWriter writer(folder, rows);
    std::vector<float> theirs;
    for (const Piece& x : pieces) {
        const ParamRow& r             = *x.row;
        const std::vector<float> host = floats_of(*r.tensor, s);
        theirs.resize(unpadded(c, r).numel());
        reorder(theirs.data(), host.data(), c, unpadded(c, r), x.where.layout, false);
        const std::string bytes = stored_bytes(theirs.data() + x.index * x.where.shape.numel(), x.where.shape.numel(),
                                               stored, name_of_piece(x));
        writer.write(name_of_piece(x), bytes.data(), int64_t(bytes.size()));
    }
    writer.close();
    write_file(folder + "/config.json", config_json(c, stored).dump(2) + "\n");
}
