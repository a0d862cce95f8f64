// hf.h - model folders in the form of Hugging Face: reads and writes config.json and the weights
//
// families.h says what each family calls our facts and our weights, and how the weights lie in its files. Reading
// applies a layout and writing applies its inverse, so a folder that is loaded and saved comes back byte for byte.
// A feature that a folder asks for and we do not support is refused by name.
#pragma once
#include <fmt/format.h>

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "data/files.h"
#include "data/json.h"
#include "data/tokenizer_json.h"
#include "data/words.h"
#include "gpt/families.h"
#include "gpt/params.h"
#include "gpt/safetensors.h"
#include "kernels/host.h"

// ---- config.json ----------------------------------------------------------------------------------------------------

// A token id, or -1 when the field is absent or holds a list of several.
inline int64_t id_field(const Fields& json, const char* field) {
    return json.has(field) && json.raw(field).is_number_integer() ? json.integer(field) : -1;
}

// Sets the ids that end a text, and keeps generation_config.json. Ids that the model lacks are left out, because
// transformers writes GPT-2's 50256 for models of any vocabulary. A generation_config.json that cannot be read has no
// effect, as in transformers, and the user is told.
inline void read_ends(Config& c, const std::string& folder) {
    for (const int64_t id : end_ids_in(folder))
        if (id < c.vocab) c.ends.push_back(id);
    if (!c.ends.empty()) c.eot = c.ends[0];
    const std::string generation = folder + "/generation_config.json";
    if (!fs::exists(generation)) return;
    try {
        Fields(generation, Json::as_python);
    } catch (const InputError& e) { fmt::print(stderr, "warning: {}\n    This file has no effect.\n", e.what()); }
    c.given.generation_config = MappedFile(generation).text();
}

// Refuses the folder of an adapter, which changes the weights of another model and may lie beside a config.json.
inline void refuse_adapter(const std::string& folder) {
    const std::string path = folder + "/adapter_config.json";
    if (!fs::exists(path)) return;
    const Fields adapter(path, Json::as_python);
    fail(
        "{}: this folder holds an adapter ({}) for the weights of {}, not a model\n    This command merges the two: "
        "python3 -c \"from peft import AutoPeftModelForCausalLM as A; "
        "A.from_pretrained('{}').merge_and_unload().save_pretrained('{}-merged')\"",
        path, adapter.text("peft_type", "of an unknown kind"), adapter.text("base_model_name_or_path", "another model"),
        folder, folder);
}

// A file of llama.cpp's format, or a folder with one, is refused by the name of the format.
inline void refuse_gguf(const fs::path& path) {
    const auto refuse = [](const fs::path& file) {
        CHECK(file.extension() != ".gguf",
              "{}: this is a model in llama.cpp's format, GGUF, which gpt.cu does not read\n    The folder that it was "
              "made from works: it holds config.json and model.safetensors, and the Hugging Face hub has it under the "
              "model's name.",
              file.string());
    };
    if (fs::is_regular_file(path)) refuse(path);
    if (fs::is_directory(path))
        for (const auto& entry : fs::directory_iterator(path)) refuse(entry.path());
}

// Refuses by name the fields of any family that change what the weights mean. All others are kept and have no effect.
inline void refuse_unsupported_fields(const Fields& json) {
    for (const char* field : {"quantization_config", "compression_config", "rope_scaling", "pruned_heads"})
        CHECK(!json.has(field) || json.raw(field).empty(), "{}: \"{}\" is {}, but only null is supported", json.path(),
              field, json.raw(field).dump().substr(0, 200));
    for (const char* field : {"add_cross_attention", "is_encoder_decoder"}) json.refuse_unless(field, false);
    json.refuse_unless("rotary", true);  // GPT-J's
}

inline void untie_other_head(Config& c, const std::string& folder);

// Reads the facts of the model in a folder. Throws an InputError that names the file and the field.
inline Config read_config(const std::string& folder, const Sizes& sizes = {}) {
    CHECK(fs::is_directory(folder),
          "{} is neither a preset nor a model folder; train_gpt --list-models prints the presets", folder);
    refuse_adapter(folder);
    refuse_dangling(folder + "/config.json");
    CHECK(fs::exists(folder + "/config.json"), "{}: there is no config.json in this folder", folder);
    const Fields json(folder + "/config.json", Json::as_python);
    const std::string type = json.text("model_type", "(none)");
    const Family& family   = family_of(type, json.path());
    Config c;
    c.name          = fs::path(folder).lexically_normal().string();
    c.model_type    = family.model_type;
    // transformers takes these sizes by one name for all families too, and old files call the context n_ctx.
    const auto size = [&](const char* field, const char* common) {
        return json.integer(!json.has(field) && json.has(common) ? common : field);
    };
    c.layers       = size(family.layers, "num_hidden_layers");
    c.width        = size(family.width, "hidden_size");
    c.heads        = size(family.heads, "num_attention_heads");
    c.context      = size(family.context, json.has("n_ctx") ? "n_ctx" : "max_position_embeddings");
    c.vocab        = json.integer("vocab_size");
    c.feed_forward = json.integer(family.feed_forward, 4 * c.width);
    c.replace(sizes);
    CHECK(c.feed_forward > 0, "{}: \"{}\" is {}, but it must be null or 1 or more", json.path(), family.feed_forward,
          c.feed_forward);
    CHECK(c.heads > 0 && c.width > 0 && c.width % c.heads == 0, "{}: \"{}\" {} is not a multiple of \"{}\" {}",
          json.path(), family.width, c.width, family.heads, c.heads);
    c.check_sizes();

    family.facts(c);
    c.norm_eps  = float(json.number(family.norm_eps, c.norm_eps));
    c.tied_head = json.flag("tie_word_embeddings", c.tied_head);
    c.bos       = id_field(json, "bos_token_id");
    read_ends(c, folder);
    for (const Flag& flag : family.flags) c.*flag.fact = json.flag(flag.field, c.*flag.fact);
    for (const DropoutField& d : family.dropouts) c.dropout.*d.rate = float(json.number(d.field, c.dropout.*d.rate));
    set_activation(c, json.text(family.activation, c.activation),
                   fmt::format("{}: \"{}\"", json.path(), family.activation));
    refuse_unsupported_fields(json);
    family.read(c, json);
    c.check();
    untie_other_head(c, folder);

    c.given.config = json.object().dump();
    return c;
}

// A float as a number of JSON: 1e-05, not the nearest float's 17 digits.
inline double json_number(float x) { return std::stod(fmt::format("{}", x)); }

// The fields of config.json that say which model it is, for one whose weights are stored in `dtype`.
inline nlohmann::ordered_json known_fields(const Config& c, DType dtype) {
    const Family& family        = family_of(c);
    nlohmann::ordered_json json = {{"architectures", {family.architecture}}, {"model_type", c.model_type}};
    json[family.layers]         = c.layers;
    json[family.width]          = c.width;
    json[family.heads]          = c.heads;
    json[family.feed_forward]   = c.feed_forward;
    json[family.context]        = c.context;
    json[family.activation]     = c.activation;
    json[family.norm_eps]       = json_number(c.norm_eps);
    for (const Flag& flag : family.flags) json[flag.field] = c.*flag.fact;
    family.write(json, c);
    json["vocab_size"]          = c.vocab;
    json["tie_word_embeddings"] = c.tied_head;
    json["torch_dtype"]         = row_of(dtype).torch;
    json["use_cache"]           = true;
    json["bos_token_id"]        = c.bos >= 0 ? nlohmann::ordered_json(c.bos) : nullptr;
    json["eos_token_id"]        = c.eot >= 0 ? nlohmann::ordered_json(c.eot) : nullptr;
    return json;
}

// config.json: the fields that we know, and behind them all others of the file that the model came with. Fields that
// have no meaning for us, or more than we understand, keep the value that they came with.
inline nlohmann::ordered_json config_json(const Config& c, DType dtype) {
    nlohmann::ordered_json json = known_fields(c, dtype);
    for (const DropoutField& d : family_of(c).dropouts) json[d.field] = json_number(c.dropout.*d.rate);
    if (c.given.config.empty()) return json;
    const auto given = nlohmann::json::parse(c.given.config);
    for (const auto& [field, value] : given.items()) {
        const bool is_id = field == "bos_token_id" || field == "eos_token_id";  // may be a list, or null
        if (!json.contains(field) || is_id || (field == "use_cache" && !value.is_null())) json[field] = value;
    }
    if (given.contains("dtype")) json["dtype"] = json["torch_dtype"];  // transformers 5 calls it dtype
    return json;
}

// ---- names and layouts ----------------------------------------------------------------------------------------------

// Says where one of our weights lies in a family's files: in one tensor, or in three for q, k and v.
struct HfWeight {
    std::vector<std::string> names;
    Layout layout = Layout::as_is;
    Shape ours;    // the shape of our weight, without the padding of the vocabulary
    Shape theirs;  // the shape of each of their tensors
};

// Returns an HfWeight for each of our names. Weights that this model does not own are included, with empty shapes.
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
        CHECK_CALL(all.count(r.name), "families.h has no name for {} in the row of {}", r.name, c.model_type);
        HfWeight& w = all[r.name];
        w.ours      = unpadded(c, r);
        w.theirs    = w.ours;
        if (w.layout == Layout::transposed) std::swap(w.theirs.dim[0], w.theirs.dim[1]);
        w.theirs.dim[0] /= int64_t(w.names.size());
    }
    return all;
}

// Returns the row of theirs that holds row r of our (3, H, D) rows of q, k and v.
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
        host::parallel_ranges(rows, 16, [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; r++) move(r * cols, their_row(c, layout, r) * cols, cols);
        });
        return;
    }
    constexpr int64_t tile = 16;  // 16 floats are a cache line, which is used completely while the tile is in cache
    host::parallel_ranges(ceil_div(rows, tile), 1, [&](int64_t begin, int64_t end) {
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

// Old versions of transformers stored masks and frequencies beside the weights. We do not need them.
inline bool is_buffer(const std::string& name) {
    for (const char* end : {".attn.bias", ".attention.bias", ".masked_bias", ".rotary_emb.inv_freq"})
        if (ends_with(name, end)) return true;
    return false;
}

// Finds the tensors of a family in a file, where all names may begin differently. The family's own prefix may be
// missing. A wrapper may come first: torch.compile calls a model "_orig_mod.", DistributedDataParallel
// "module." and TRL "pretrained_model.".
class HfNames {
  public:
    // `sample` is the name of a tensor that every model of the family has.
    HfNames(const SafetensorsReader& file, const std::string& prefix, const std::string& sample)
        : file_(file), prefix_(prefix), wrapper_(before(sample)) {
        if (!found_) wrapper_ = before(bare(sample));
    }
    // The wrapper that comes before all names, or nothing.
    const std::string& wrapper() const { return wrapper_; }
    // The name of a tensor in the file; nothing when the file lacks it.
    std::string find(const std::string& name) const {
        for (const std::string& front : {wrapper_, std::string()})
            for (const std::string& known : {name, bare(name)})
                if (file_.find(front + known)) return front + known;
        return "";
    }

  private:
    std::string bare(const std::string& name) const {
        return name.rfind(prefix_, 0) == 0 ? name.substr(prefix_.size()) : name;
    }
    // The shortest text that stands before `name` in the file and ends with a dot, or nothing.
    std::string before(const std::string& name) {
        std::string shortest;
        for (const auto& [full, t] : file_.tensors()) {
            if (!ends_with(full, name)) continue;
            const std::string front = full.substr(0, full.size() - name.size());
            if (!front.empty() && front.back() != '.') continue;
            if (!found_ || front.size() < shortest.size()) shortest = front;
            found_ = true;
        }
        return shortest;
    }

    const SafetensorsReader& file_;
    std::string prefix_;
    bool found_ = false;
    std::string wrapper_;
};

// The names of the token table and the head in a file, which may hold only one of them when they are tied. `head` is
// empty when the file has no head. transformers 5 calls every family's head lm_head.weight in memory, and so do some
// files.
struct TablesInFile {
    std::string table, head;
    TablesInFile(const HfNames& names, const std::map<std::string, HfWeight>& weights, bool tied)
        : table(names.find(weights.at("wte.weight").names[0])), head(names.find(weights.at("head.weight").names[0])) {
        if (head.empty()) head = names.find("lm_head.weight");
        if (table.empty() && tied) table = head;
    }
};

// A file may hold a head that differs from the token table, although config.json ties the two. Then the head is used,
// as transformers 5 does, and the user is told.
inline void untie_other_head(Config& c, const std::string& folder) {
    if (!c.tied_head || !SafetensorsReader::can_read(folder)) return;
    const SafetensorsReader file(folder);
    const auto weights = hf_weights(c);
    const HfNames names(file, family_of(c).prefix, weights.at("lnf.weight").names[0]);
    const TablesInFile tables(names, weights, true);
    if (tables.table.empty() || tables.head.empty() || tables.table == tables.head) return;
    const StoredTensor &table = file.at(tables.table), &head = file.at(tables.head);
    if (head.shape == table.shape && head.bytes == table.bytes && std::memcmp(head.data, table.data, head.bytes) == 0)
        return;
    c.tied_head = false;
    fmt::print(stderr,
               "warning: {}: {} differs from the token table {}, although config.json says \"tie_word_embeddings\": "
               "true; they are used as two weights\n",
               head.file, head.label(), table.label());
}

// Returns the names, in quotes, of the tensors of a file that are no weights of this model. Buffers do not count, and
// neither does a copy of a tied head.
inline std::vector<std::string> extra_tensors(const SafetensorsReader& file, const std::set<std::string>& known,
                                              const TablesInFile& tables, const Config& c) {
    std::vector<std::string> extra;
    for (const auto& [name, t] : file.tensors())
        if (!known.count(name) && !is_buffer(name) && !(c.tied_head && name == tables.head)) extra.push_back(t.label());
    return extra;
}

// Text for the error about a missing tensor: whether the file holds quantized weights instead, or nothing.
inline std::string quantized_hint(const SafetensorsReader& file) {
    for (const auto& [name, t] : file.tensors())
        for (const char* end : {".qweight", ".absmax", ".SCB", ".weight_scale", ".weight_packed"})
            if (ends_with(name, end))
                return fmt::format("\n    {} shows that its weights are quantized, which is not supported.", t.label());
    return "";
}

// Where a weight is read from: the tensors of a file that hold it, one or three.
struct WeightInFile {
    const HfWeight& weight;
    std::vector<const StoredTensor*> tensors;

    // out[0, count) = the elements of all tensors from `first` on, as T, and zeros behind the last.
    template <class T>
    void read_into(T* out, int64_t first, int64_t count) const {
        const int64_t each = weight.theirs.numel();
        for (int64_t n; count > 0; out += n, first += n, count -= n) {
            const size_t which = each ? size_t(first / each) : tensors.size();
            n                  = which < tensors.size() ? std::min(count, each - first % each) : count;
            if (which < tensors.size())
                tensors[which]->read_into(out, first % each, n);
            else
                std::fill(out, out + n, T(0.f));
        }
    }
};

// Fills one of our weights, in our layout, with zeros for the padding of the vocabulary. Where the layouts are the
// same, the file's pages are converted to where the weight belongs. `host` and `theirs` are memory that is used again
// for the next weight.
inline void read_weight(Tensor out, const WeightInFile& in, const Config& c, std::vector<float>& host,
                        std::vector<float>& theirs, Stream s) {
    const HfWeight& w = in.weight;
    if (w.layout == Layout::as_is || w.layout == Layout::split) {
        const Fill fill = [&](void* to, int64_t first, int64_t count) {
            for_dtype(out.dtype,
                      [&](auto tag) { in.read_into(static_cast<typename decltype(tag)::type*>(to), first, count); });
        };
        return from_host(out, fill, s);
    }
    host.resize(out.numel());
    theirs.resize(w.ours.numel());
    in.read_into(theirs.data(), 0, w.ours.numel());
    to_our_layout(host.data(), theirs.data(), c, w.ours, w.layout);
    std::fill(host.begin() + w.ours.numel(), host.end(), 0.f);
    from_host(out, host, s);
}

// Fills p (fp32 or bf16), and `masters` too when it is given, from a folder or file. Every weight must be there in its
// shape, but one of a tied pair is enough. A tensor that is no weight of the model is refused by name, or left out if
// ignore_extra. Returns what the user should be warned of. Where layouts differ, it takes twice the memory of the
// largest weight in fp32 on the host. loaded(i) is called after each weight, so that weights may share memory: then the
// call must queue copies of what it needs.
inline std::vector<std::string> load_weights(Params& p, const Config& c, const SafetensorsReader& file, Stream s,
                                             Params* masters = nullptr, bool ignore_extra = false,
                                             const std::function<void(size_t)>& loaded = nullptr) {
    const auto weights     = hf_weights(c);
    const auto rows        = param_rows(p, c);
    const auto master_rows = masters ? param_rows(*masters, c) : std::vector<ParamRow>();
    const HfNames names(file, family_of(c).prefix, weights.at("lnf.weight").names[0]);
    const TablesInFile tables(names, weights, c.tied_head);
    std::set<std::string> known;
    std::vector<float> host, theirs;
    for (size_t i = 0; i < rows.size(); i++) {
        const ParamRow& r = rows[i];
        const HfWeight& w = weights.at(r.name);
        WeightInFile in_file{w, {}};
        for (const std::string& name : w.names) {
            const std::string found = r.name == "wte.weight"    ? tables.table
                                      : r.name == "head.weight" ? tables.head
                                                                : names.find(name);
            CHECK(!found.empty(), "{}: the tensor \"{}\" {} is missing, which config.json asks for{}{}", file.path(),
                  name, w.theirs.str(), file.promise(name), quantized_hint(file));
            in_file.tensors.push_back(&file.at(found, w.theirs));
            known.insert(found);
        }
        read_weight(*r.tensor, in_file, c, host, theirs, s);
        if (masters) read_weight(*master_rows[i].tensor, in_file, c, host, theirs, s);
        if (loaded) loaded(i);
    }

    const auto extra = extra_tensors(file, known, tables, c);
    CHECK(extra.empty() || ignore_extra,
          "{}: there is no place in a {} of {} layers for {}\n    --ignore-extra-tensors leaves out tensors "
          "that are not the model's, such as the head of a classifier.",
          file.path(), c.model_type, c.layers, list_of(extra));
    std::vector<std::string> warnings;
    if (!names.wrapper().empty())
        warnings.push_back(fmt::format("{}: the names of tensors begin with {}, which is left out", file.path(),
                                       StoredTensor::quoted(names.wrapper())));
    if (!extra.empty()) warnings.push_back(fmt::format("{}: left out {}", file.path(), list_of(extra)));
    return warnings;
}

// The dtype that a folder's weights are stored in: F32, BF16 or F16. When they differ it is F32, which holds them all.
inline DType stored_dtype(const SafetensorsReader& file) {
    std::set<std::string> kinds;
    for (const auto& [name, t] : file.tensors())
        if (!is_buffer(name)) kinds.insert(t.dtype);
    const DTypeRow* row = kinds.size() == 1 ? find_dtype(&DTypeRow::stored, *kinds.begin()) : nullptr;
    return row && row->weights ? row->dtype : DType::F32;
}

// Calls write(name, bytes) for each of a family's tensors that hold a weight, or for that of one index only. Where the
// layouts are the same, a tensor comes in parts, so that a large table takes little memory beside itself. `dtype` is
// what the files hold: F32, BF16 or F16.
template <class Write>
void store_weight(Tensor tensor, const HfWeight& w, const Config& c, DType dtype, Stream s, Write write,
                  int only = -1) {
    const Tensor flat = tensor.view({tensor.numel()});
    const int64_t n   = w.theirs.numel();
    const auto read   = [&](int64_t first, int64_t count, size_t i) {
        const auto values = floats_of(flat.rows(first, count), s);
        check_finite(values, w.names[i]);
        return values;
    };
    const auto put = [&](size_t i, const float* x, int64_t count) {
        write(w.names[i], stored_bytes(x, count, dtype, w.names[i]));
    };
    const auto wanted = [&](size_t i) { return only < 0 || only == int(i); };
    if (w.layout == Layout::as_is || w.layout == Layout::split) {
        for (size_t i = 0; i < w.names.size(); i++)
            for (int64_t at = 0, count; wanted(i) && at < n; at += count) {
                count = std::min<int64_t>(1 << 18, n - at);
                put(i, read(int64_t(i) * n + at, count, i).data(), count);
            }
        const int64_t padding = w.ours.numel();  // begins here
        if (padding < flat.numel()) read(padding, flat.numel() - padding, 0);
        return;
    }
    std::vector<float> theirs(size_t(w.ours.numel()));
    to_their_layout(theirs.data(), read(0, flat.numel(), size_t(std::max(only, 0))).data(), c, w.ours, w.layout);
    for (size_t i = 0; i < w.names.size(); i++)
        if (wanted(i)) put(i, theirs.data() + int64_t(i) * n, n);
}

// Writes config.json, and generation_config.json when the model came with one.
inline void save_config(const std::string& folder, const Config& c, DType dtype) {
    write_file(folder + "/config.json", config_json(c, dtype).dump(2) + "\n");
    if (!c.given.generation_config.empty()) write_file(folder + "/generation_config.json", c.given.generation_config);
}

// Writes config.json and model.safetensors of a model whose weights are p (fp32 or bf16). `dtype` is what the files
// hold: F32, BF16 or F16.
inline void save_model(const std::string& folder, Params& p, const Config& c, DType dtype, Stream s) {
    struct Part {
        std::string name;
        Tensor tensor;
        const HfWeight* weight;
        int index;  // this tensor is weight->names[index]
    };
    const auto weights = hf_weights(c);
    std::vector<Part> parts;
    for (const ParamRow& r : param_rows(p, c)) {
        const HfWeight& w = weights.at(r.name);
        for (size_t i = 0; i < w.names.size(); i++) parts.push_back({w.names[i], *r.tensor, &w, int(i)});
    }
    // save_pretrained() of transformers sorts by name; doing the same makes the file of an unchanged model the same.
    std::sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.name < b.name; });

    std::vector<StoredRow> rows;
    for (const Part& part : parts) rows.push_back({part.name, row_of(dtype).stored, part.weight->theirs});
    ModelWriter writer(folder, rows);
    for (const Part& part : parts)
        store_weight(
            part.tensor, *part.weight, c, dtype, s,
            [&](const std::string& name, const std::string& bytes) {
                writer.write(name, bytes.data(), int64_t(bytes.size()));
            },
            part.index);
    writer.close();
    save_config(folder, c, dtype);
}
