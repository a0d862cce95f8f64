// safetensors.h - reads and writes .safetensors files, and folders of them (github.com/huggingface/safetensors)
//
//   8 bytes   the length of the header, little-endian
//   header    JSON: {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, …}, padded with spaces
//   data      the tensors back to back, without holes; offsets count from here
//
// The reader believes nothing that a file says: it checks lengths, offsets, dtypes and shapes against the bytes that
// are there. Errors name the file and the tensor.
#pragma once
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "data/files.h"
#include "data/json.h"
#include "kernels/host.h"

// Returns the bytes of an element, by the name of its dtype in a header, or 0 for a name that we do not know.
inline int64_t stored_size(const std::string& dtype) {
    if (const DTypeRow* row = find_dtype(&DTypeRow::stored, dtype)) return row->size;
    // Tensors of these dtypes may lie in a file beside the weights.
    static const std::map<std::string, int64_t> others = {{"F64", 8}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"I64", 8},
                                                          {"I16", 2}, {"I8", 1},      {"U64", 8},     {"U32", 4},
                                                          {"U16", 2}, {"U8", 1},      {"BOOL", 1}};
    const auto found                                   = others.find(dtype);
    return found == others.end() ? 0 : found->second;
}

// A tensor in a mapped file. Its bytes may start at any address, aligned or not.
struct StoredTensor {
    std::string name, dtype, file;
    Shape shape;
    const std::byte* data = nullptr;
    int64_t bytes         = 0;

    // out[0, count) = the elements from `first` on, as T, which is float or bf16. They are rounded where T holds less
    // than the file.
    template <class T>
    void read_into(T* out, int64_t first, int64_t count) const {
        const DTypeRow* row = find_dtype(&DTypeRow::stored, dtype);
        if (dtype == "F64") return convert<double>(out, first, count);
        if (!row || !row->weights)
            fail("{}: tensor {} holds {}; weights can be read from F64, F32, F16 and BF16", file, label(), dtype);
        for_float(row->dtype, [&](auto tag) { convert<typename decltype(tag)::type>(out, first, count); });
    }
    template <class T>
    void read_into(T* out) const {
        read_into(out, 0, shape.numel());
    }
    std::string label() const { return quoted(name); }
    static std::string quoted(const std::string& name) { return nlohmann::json(name).dump().substr(0, 200); }

  private:
    // Converts a slab at a time and drops the file's pages behind it, so that reading takes little more memory than the
    // model.
    template <class S, class T>
    void convert(T* out, int64_t first, int64_t count) const {
        constexpr int64_t slab = 1 << 22;  // elements
        const std::byte* in    = data + first * int64_t(sizeof(S));
        for (int64_t at = 0; at < count; at += slab) {
            const int64_t n = std::min(slab, count - at);
            host::parallel_ranges(n, 1 << 14, [=](int64_t begin, int64_t end) {
                if constexpr (std::is_same_v<S, T>) {
                    std::memcpy(out + at + begin, in + (at + begin) * sizeof(S), (end - begin) * sizeof(S));
                } else {
                    for (int64_t i = at + begin; i < at + end; i++) {
                        S x;
                        std::memcpy(&x, in + i * sizeof(S), sizeof(S));
                        out[i] = T(float(x));
                    }
                }
            });
            forget_pages(in + at * int64_t(sizeof(S)), n * int64_t(sizeof(S)));
        }
    }
};

// Throws a RunError when a value is not finite.
inline void check_finite(const std::vector<float>& values, const std::string& name) {
    const bool finite = std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); });
    CHECK_RUN(finite, "tensor \"{}\" has a value that is not finite, so saving it would be of no use", name);
}

// Returns x[0, n) as the bytes of a dtype: F32, BF16 or F16. Throws a RunError that names the tensor when a finite
// number is too large for F16.
inline std::string stored_bytes(const float* x, int64_t n, DType dtype, const std::string& name) {
    const DTypeRow& row = row_of(dtype);
    CHECK_CALL(row.weights, "tensor \"{}\" cannot be written as {}; F32, BF16 and F16 can", name, row.stored);
    std::string bytes(size_t(n * row.size), '\0');
    for_float(dtype, [&](auto tag) {
        using S = typename decltype(tag)::type;
        host::parallel_ranges(n, 1 << 16, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; i++) {
                const S y(x[i]);
                std::memcpy(&bytes[size_t(i) * sizeof(S)], &y, sizeof(S));
            }
        });
    });
    if (dtype == DType::F16)
        for (int64_t i = 0; i < n; i++)
            CHECK_RUN(std::fabs(x[i]) < 65520.f || !std::isfinite(x[i]),
                      "tensor \"{}\" holds {}, which is too large for fp16 and fits in fp32 and bf16", name, x[i]);
    return bytes;
}

// Whether a .bin file holds weights. Token shards have that ending, too. torch.save() writes a zip archive, or in old
// versions a pickle of protocol 2 that begins with a long number. A file with "model" in its name that has neither form
// is probably damaged, and counts.
inline bool is_torch_file(const std::filesystem::path& path) {
    char begin[4] = {};
    std::ifstream(path, std::ios::binary).read(begin, sizeof begin);
    const std::string_view bytes(begin, sizeof begin);
    return bytes == "PK\x03\x04" || bytes.substr(0, 3) == "\x80\x02\x8a" ||
           path.filename().string().find("model") != std::string::npos;
}

// Returns the names of the files in a folder that hold weights in any format, sorted. Files that hold a trainer's state
// are left out.
inline std::vector<std::string> weight_files(const std::string& folder) {
    static const std::set<std::string> endings = {".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".ckpt"};
    std::vector<std::string> names;
    std::error_code none;
    for (const auto& e : std::filesystem::directory_iterator(folder, none)) {
        const std::string name = e.path().filename().string(), stem = name.substr(0, name.find('.'));
        const bool state = stem == "state" || stem.rfind("state-", 0) == 0 || stem == "optimizer" ||
                           stem == "scheduler" || stem == "training_args" || stem.rfind("rng_state", 0) == 0;
        const std::string ending = e.path().extension().string();
        if (!state && endings.count(ending) && (ending != ".bin" || is_torch_file(e.path()))) names.push_back(name);
    }
    std::sort(names.begin(), names.end());
    return names;
}

// The tensors of one .safetensors file, or those of a model folder: of model.safetensors, or of the files that
// model.safetensors.index.json names. Their bytes are valid as long as the reader lives.
class SafetensorsReader {
  public:
    // path: a file, or a folder with STEM.safetensors, or with STEM.safetensors.index.json and the files that it
    // names.
    explicit SafetensorsReader(const std::string& path, const std::string& stem = "model") : path_(path) {
        std::error_code none;
        if (!std::filesystem::is_directory(path, none))
            add_file(path);
        else if (std::filesystem::exists(single_in(path, stem), none))
            add_file(single_in(path, stem));
        else if (std::filesystem::exists(index_in(path, stem), none))
            add_indexed_files(index_in(path, stem));
        else if (stem == "model")
            refuse_folder();
        else
            fail("{}: there is no {}.safetensors in this folder", path, stem);
    }
    static bool can_read(const std::string& folder) {
        std::error_code none;
        return std::filesystem::exists(single_in(folder), none) || std::filesystem::exists(index_in(folder), none);
    }

    const std::string& path() const { return path_; }
    // The other files with weights in the folder, which were not read.
    std::vector<std::string> unread() const {
        std::vector<std::string> names;
        if (std::filesystem::is_directory(path_)) names = weight_files(path_);
        for (const auto& f : files_) {
            const std::string own = std::filesystem::path(f->path()).filename().string();
            names.erase(std::remove(names.begin(), names.end(), own), names.end());
        }
        return names;
    }
    // Says which files were read and which were not: "model.safetensors, not pytorch_model.bin".
    std::string description() const {
        std::string text = files_.size() > 1 ? fmt::format("model.safetensors.index.json, {} files", files_.size())
                                             : std::filesystem::path(files_[0]->path()).filename().string();
        for (const std::string& name : unread()) text += (text.find(", not ") == text.npos ? ", not " : ", ") + name;
        return text;
    }
    const std::map<std::string, StoredTensor>& tensors() const { return tensors_; }

    const StoredTensor* find(const std::string& name) const {
        const auto found = tensors_.find(name);
        return found == tensors_.end() ? nullptr : &found->second;
    }
    const StoredTensor& at(const std::string& name) const {
        const StoredTensor* t = find(name);
        CHECK(t, "{}: there is no tensor {} among the {} in it{}", path_, StoredTensor::quoted(name), tensors_.size(),
              promise(name));
        return *t;
    }
    // Text for the error about a missing tensor: which file the index names for it, or nothing.
    std::string promise(const std::string& name) const {
        const auto file = promised_.find(name);
        if (file == promised_.end()) return "";
        return fmt::format("; model.safetensors.index.json says that it is in {}", file->second);
    }
    const StoredTensor& at(const std::string& name, const Shape& shape) const {
        const StoredTensor& t = at(name);
        CHECK(t.shape == shape, "{}: tensor {} is {}, but {} is expected", t.file, t.label(), t.shape.str(),
              shape.str());
        return t;
    }

  private:
    static std::string single_in(const std::string& folder, const std::string& stem = "model") {
        return folder + "/" + stem + ".safetensors";
    }
    static std::string index_in(const std::string& folder, const std::string& stem = "model") {
        return single_in(folder, stem) + ".index.json";
    }
    static constexpr uint64_t max_header = 100'000'000;  // the limit of the reference implementation

    void add_file(const std::string& path) {
        files_.push_back(std::make_unique<MappedFile>(path));
        const MappedFile& f = *files_.back();
        CHECK(f.size() >= 8, "{}: its {} bytes are too few for a safetensors file", path, f.size());
        uint64_t length;
        std::memcpy(&length, f.data(), 8);
        CHECK(length <= max_header && length <= uint64_t(f.size() - 8),
              "{}: it announces a header of {} bytes, but it has {} in all; it is truncated, or not a safetensors file",
              path, length, f.size());
        const std::string_view text = f.text().substr(8, length);
        CHECK(!text.empty() && text[0] == '{', "{}: its header is not JSON, so it is not a safetensors file", path);

        const nlohmann::json header = parse_json(text, path, 4);
        const std::byte* data       = f.data() + 8 + length;
        const int64_t bytes         = f.size() - 8 - int64_t(length);
        std::vector<StoredTensor> found;
        for (const auto& [name, entry] : header.items())
            if (name != "__metadata__") found.push_back(read_entry(entry, name, path, data, bytes));

        // Each tensor must begin where the one before ends, and the last must end with the file.
        std::sort(found.begin(), found.end(), [](const StoredTensor& a, const StoredTensor& b) {
            return a.data != b.data ? a.data < b.data : a.bytes < b.bytes;
        });
        int64_t end        = 0;
        std::string before = "the header";
        for (const StoredTensor& t : found) {
            const int64_t begin = t.data - data;
            CHECK(begin >= end, "{}: tensor {} begins at {} and overlaps {}, which ends at {}", path, t.label(), begin,
                  before, end);
            CHECK(begin == end, "{}: {} bytes between {} and tensor {} belong to no tensor", path, begin - end, before,
                  t.label());
            end    = begin + t.bytes;
            before = "tensor " + t.label();
        }
        CHECK(end == bytes, "{}: it has {} bytes of data, but its tensors end at {}", path, bytes, end);

        for (StoredTensor& t : found) {
            const auto [old, is_new] = tensors_.emplace(t.name, t);
            CHECK(is_new, "tensor {} is in both {} and {}", t.label(), old->second.file, path);
        }
        add_aliases(header);
    }

    // safetensors.torch.save_model() stores tensors that share memory once. The metadata names the others:
    // {"transformer.wte.weight": "lm_head.weight"} says that the first is the second.
    void add_aliases(const nlohmann::json& header) {
        const auto metadata = header.find("__metadata__");
        if (metadata == header.end() || !metadata->is_object()) return;
        for (const auto& [alias, name] : metadata->items()) {
            const StoredTensor* t = name.is_string() ? find(name.get<std::string>()) : nullptr;
            if (!t) continue;  // other metadata, such as {"format": "pt"}
            StoredTensor copy = *t;
            copy.name         = alias;
            tensors_.emplace(alias, copy);
        }
    }

    static StoredTensor read_entry(const nlohmann::json& entry, const std::string& name, const std::string& path,
                                   const std::byte* data, int64_t bytes) {
        const std::string where = fmt::format("{}: tensor {}", path, StoredTensor::quoted(name));
        const auto is           = [&](const char* key) { return entry.is_object() && entry.contains(key); };
        CHECK(is("dtype") && is("shape") && is("data_offsets"), "{} needs dtype, shape and data_offsets, but has {}",
              where, entry.dump().substr(0, 200));
        const auto &dtype = entry["dtype"], &shape = entry["shape"], &offsets = entry["data_offsets"];
        CHECK(dtype.is_string() && stored_size(dtype), "{} has the unknown dtype {}", where,
              dtype.dump().substr(0, 200));
        CHECK(shape.is_array() && shape.size() <= Shape::max_dims, "{}: the shape {} is not a list of at most {} sizes",
              where, shape.dump().substr(0, 200), int(Shape::max_dims));

        StoredTensor t;
        t.name  = name;
        t.dtype = dtype.get<std::string>();
        t.file  = path;
        t.bytes = stored_size(t.dtype);
        for (const auto& d : shape) {
            CHECK(is_size(d), "{}: {} is no size, in the shape {}", where, d.dump(), shape.dump());
            t.shape.dim[t.shape.dims++] = d;
            CHECK(!__builtin_mul_overflow(t.bytes, d.get<int64_t>(), &t.bytes),
                  "{}: the number of bytes of the shape {} overflows", where, shape.dump());
        }
        CHECK(offsets.is_array() && offsets.size() == 2 && is_size(offsets[0]) && is_size(offsets[1]),
              "{}: the data_offsets {} are not two sizes", where, offsets.dump().substr(0, 200));
        const int64_t begin = offsets[0], end = offsets[1];
        CHECK(begin <= end && end <= bytes,
              "{}: the data_offsets {} do not lie in the {} bytes of data; the file may be truncated", where,
              offsets.dump(), bytes);
        CHECK(end - begin == t.bytes, "{}: {} {} takes {} bytes, but the data_offsets {} span {}", where, t.shape.str(),
              t.dtype, t.bytes, offsets.dump(), end - begin);
        t.data = data + begin;
        return t;
    }

    void add_indexed_files(const std::string& index) {
        const nlohmann::json root = read_json(index, 4);
        CHECK(root.is_object() && root.contains("weight_map") && root["weight_map"].is_object(),
              "{}: there is no \"weight_map\" object", index);
        const auto& map = root["weight_map"];
        std::set<std::string> names;
        for (const auto& [tensor, file] : map.items()) {
            const std::string name = file.is_string() ? file.get<std::string>() : "";
            const bool plain       = name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
            CHECK(plain && std::filesystem::path(name).extension() == ".safetensors",
                  "{}: tensor {} should be in {}, which is not the name of a .safetensors file in this folder", index,
                  StoredTensor::quoted(tensor), file.dump().substr(0, 200));
            names.insert(name);
        }
        for (const std::string& name : names) {
            refuse_dangling(path_ + "/" + name);
            CHECK(std::filesystem::exists(path_ + "/" + name),
                  "{}: it names {}, which is not in this folder; download that file as well", index, name);
            add_file(path_ + "/" + name);
        }
        // An index may be stale and name tensors that its files lack. Asking for such a tensor is an error.
        for (const auto& [name, file] : map.items())
            if (!find(name)) promised_[name] = file.get<std::string>();
    }

    [[noreturn]] void refuse_folder() const {
        for (const std::string& file : {single_in(path_), index_in(path_)}) refuse_dangling(file);
        const auto names = weight_files(path_);
        CHECK(!names.empty(), "{}: this folder holds neither model.safetensors nor model.safetensors.index.json",
              path_);
        const std::string ending = std::filesystem::path(names[0]).extension().string();
        CHECK(
            ending != ".safetensors",
            "{}: this folder holds {}, but neither model.safetensors nor model.safetensors.index.json, which says what "
            "lies in which file\n    Download the index as well, or give a single file the name model.safetensors.",
            path_, names[0]);
        const bool pickle = ending == ".bin" || ending == ".pt" || ending == ".pth" || ending == ".ckpt";
        fail(
            "{}/{} is {}\n    {}: python3 -c \"from transformers import AutoModelForCausalLM as A; "
            "A.from_pretrained('{}').save_pretrained('{}')\"",
            path_, names[0],
            pickle ? "a Python pickle, which can run code when it is opened"
                   : "in a format that is not read; model.safetensors is",
            pickle ? "If you trust it, this command converts it" : "This command converts it", path_, path_);
    }

    static bool is_size(const nlohmann::json& j) {
        return j.is_number_unsigned() && j.get<uint64_t>() <= uint64_t(std::numeric_limits<int64_t>::max());
    }

    std::string path_;
    std::vector<std::unique_ptr<MappedFile>> files_;
    std::map<std::string, StoredTensor> tensors_;
    // Tensors that the index names and no file has, with the file that it names for each.
    std::map<std::string, std::string> promised_;
};

// A tensor that is to be written.
struct StoredRow {
    std::string name, dtype;  // the dtype by its name in a header, such as BF16
    Shape shape;
    int64_t bytes() const { return shape.numel() * stored_size(dtype); }
};

// Writes one file as a stream. The constructor announces all tensors; then write() takes their bytes in the same order,
// each in any number of parts. Nothing appears at the path before close(), which flushes to disk and renames.
class SafetensorsWriter {
  public:
    SafetensorsWriter(const std::string& path, std::vector<StoredRow> rows)
        : path_(path), file_(path), rows_(std::move(rows)) {
        nlohmann::ordered_json header = {
            {"__metadata__", {{"format", "pt"}}}};  // transformers refuses a file without it
        int64_t end = 0;
        for (const StoredRow& r : rows_) {
            CHECK_CALL(stored_size(r.dtype), "{}: tensor \"{}\" has the unknown dtype {}", path, r.name, r.dtype);
            CHECK_CALL(!header.contains(r.name), "{}: two tensors are called \"{}\"", path, r.name);
            const std::vector<int64_t> shape(r.shape.dim, r.shape.dim + r.shape.dims);
            header[r.name] = {{"dtype", r.dtype}, {"shape", shape}, {"data_offsets", {end, end + r.bytes()}}};
            end += r.bytes();
        }
        std::string text = header.dump();
        text.resize(round_up(text.size(), 8), ' ');
        const uint64_t length = text.size();
        file_.write(&length, 8);
        file_.write(text);
    }

    // Appends the next bytes of the tensor `name`.
    void write(const std::string& name, const void* data, int64_t bytes) {
        CHECK_CALL(!complete(), "{}: all announced tensors were written, and \"{}\" is not one of them", path_, name);
        const StoredRow& r = rows_[row_];
        CHECK_CALL(r.name == name && bytes >= 0 && bytes <= r.bytes() - written_,
                   "{}: got {} bytes of \"{}\", but at most {} of \"{}\" come next", path_, bytes, name,
                   r.bytes() - written_, r.name);
        file_.write(data, bytes);
        written_ += bytes;
        if (written_ < r.bytes()) return;
        row_++;
        written_ = 0;
    }
    bool complete() const { return row_ == rows_.size(); }
    void close() {
        CHECK_CALL(complete(), "{}: the file was closed before tensor \"{}\" was written", path_, rows_[row_].name);
        file_.commit();
    }

  private:
    std::string path_;
    OutputFile file_;
    std::vector<StoredRow> rows_;
    size_t row_      = 0;
    int64_t written_ = 0;  // bytes of rows_[row_]
};

// Writes the weights of a model folder in the same way. They go into model.safetensors or, when that would exceed
// max_file_bytes, into model-0000k-of-0000n.safetensors with an index. A larger tensor gets a file to itself.
class ModelWriter {
  public:
    ModelWriter(const std::string& folder, const std::vector<StoredRow>& rows, int64_t max_file_bytes = 5'000'000'000)
        : folder_(folder), files_(1) {
        int64_t in_file = 0;
        for (const StoredRow& r : rows) {
            if (!files_.back().empty() && in_file + r.bytes() > max_file_bytes) {
                files_.emplace_back();
                in_file = 0;
            }
            files_.back().push_back(r);
            in_file += r.bytes();
        }
        open(0);
    }

    void write(const std::string& name, const void* data, int64_t bytes) {
        if (writer_->complete() && file_ + 1 < files_.size()) {
            writer_->close();
            open(file_ + 1);
        }
        writer_->write(name, data, bytes);
    }

    void close() {
        CHECK_CALL(file_ + 1 == files_.size(), "{}: the model was closed in file {} of {}", folder_, file_ + 1,
                   files_.size());
        writer_->close();
        write_index(folder_, "model", files_);
    }

    // The name of one of the files among which the tensors of STEM.safetensors are divided.
    static std::string file_name(const std::string& stem, size_t file, size_t files) {
        if (files == 1) return stem + ".safetensors";
        return fmt::format("{}-{:05}-of-{:05}.safetensors", stem, file + 1, files);
    }
    // Writes the index, which says in which file each tensor is, unless there is one file only.
    static void write_index(const std::string& folder, const std::string& stem,
                            const std::vector<std::vector<StoredRow>>& files) {
        if (files.size() == 1) return;
        nlohmann::ordered_json map;
        int64_t total = 0;
        for (size_t s = 0; s < files.size(); s++)
            for (const StoredRow& r : files[s]) {
                map[r.name] = file_name(stem, s, files.size());
                total += r.bytes();
            }
        const nlohmann::ordered_json index = {{"metadata", {{"total_size", total}}}, {"weight_map", map}};
        write_file(folder + "/" + stem + ".safetensors.index.json", index.dump(2) + "\n");
    }

  private:
    void open(size_t file) {
        file_ = file;
        writer_ =
            std::make_unique<SafetensorsWriter>(folder_ + "/" + file_name("model", file, files_.size()), files_[file]);
    }

    std::string folder_;
    std::vector<std::vector<StoredRow>> files_;
    size_t file_ = 0;
    std::unique_ptr<SafetensorsWriter> writer_;
};
