// counts.h - the cost of an op by its formula, beside what the emulator counted that it did
//
// bench_ops --profiled OPS.json runs each op once between profiler marks and writes its Cost (kernels/ops.h). The
// emulator's --profile COUNTS.json has a section of counts for each op, in the same order. What ncu counted on a GPU in
// the same run of bench_ops is set beside it kernel by kernel, because cuBLASLt launches kernels of its own there.
#pragma once
#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/ops.h"

struct Counted {
    std::string op, dtype;
    Cost cost;  // the cost by the formula
    double launches = 0, read = 0, written = 0, instructions = 0, wavefronts = 0, conflicts = 0, tensor_flops = 0;
    double zeroed = 0;  // how often memory was zeroed, which launches no kernel
    double bytes() const { return read + written; }
};

inline nlohmann::json json_of(const std::string& op, const std::string& dtype, const Cost& cost) {
    return {{"op", op}, {"dtype", dtype}, {"bytes", cost.bytes}, {"flops", cost.flops}};
}

inline nlohmann::json json_in(const std::string& path) {
    std::ifstream in(path);
    CHECK(in, "cannot read {}", path);
    return nlohmann::json::parse(in);
}

inline std::vector<Counted> read_counts(const std::string& ops_file, const std::string& counts_file) {
    const nlohmann::json ops = json_in(ops_file), sections = json_in(counts_file).at("sections");
    CHECK(ops.size() == sections.size(), "{} has {} ops, {} has {} sections: they are not of one run", ops_file,
          ops.size(), counts_file, sections.size());
    std::vector<Counted> all;
    for (size_t i = 0; i < ops.size(); i++) {
        Counted c{ops[i].at("op"), ops[i].at("dtype"), {ops[i].at("bytes"), ops[i].at("flops"), 0}};
        for (const auto& kernel : sections[i]) {
            c.launches += double(kernel.at("launches"));
            c.read += double(kernel.at("dram_read"));
            c.written += double(kernel.at("dram_written"));
            c.instructions += double(kernel.at("warp_instructions"));
            c.wavefronts += double(kernel.at("shared_wavefronts"));
            c.conflicts += double(kernel.at("shared_conflicts"));
            c.tensor_flops += double(kernel.at("tensor_flops"));
        }
        all.push_back(c);
    }
    return all;
}

// ---- what ncu counted -----------------------------------------------------------------------------------------------

// The counts of all launches of a kernel, by the emulator or by ncu. Instructions are those of PTX for the one and of
// machine code for the other. What ncu was not asked for is -1.
struct KernelCounts {
    double launches = 0, seconds = 0, read = 0, conflicts = 0, wavefronts = 0, instructions = 0;
};

// Returns a kernel's name as both tools would write it: ncu has "gpu::f<(int)8, (bool)1>(int *)" for f<8, true>.
inline std::string kernel_name(std::string name) {
    const auto replace = [&](const std::string& what, const std::string& by) {
        for (size_t at; (at = name.find(what)) != name.npos;) name.replace(at, what.size(), by);
    };
    replace("(bool)1", "true");
    replace("(bool)0", "false");
    for (const char* noise : {"void ", "gpu::", "(anonymous namespace)::", "(int)", "(unsigned int)", "(long)"})
        replace(noise, "");
    int depth = 0;
    for (size_t i = 0; i < name.size(); i++) {
        depth += (name[i] == '<') - (name[i] == '>');
        if (name[i] == '(' && depth == 0) return name.substr(0, i);
    }
    return name;
}

inline std::map<std::string, KernelCounts> kernels_of_emulator(const std::string& counts_file) {
    const nlohmann::json counts = json_in(counts_file);
    std::map<std::string, KernelCounts> all;
    for (const auto& kernel : counts.at("kernels")) {
        KernelCounts& k = all[kernel_name(kernel.at("kernel"))];
        k.launches += double(kernel.at("launches"));
        k.read += double(kernel.at("dram_read"));
        k.conflicts += double(kernel.at("shared_conflicts"));
        k.wavefronts += double(kernel.at("shared_wavefronts"));
        k.instructions += double(kernel.at("warp_instructions"));
    }
    return all;
}

// Reads what `ncu --csv --page raw --print-units base` printed: a line of names, a line of units, and a line for each
// launch. Lines before the names are ncu's own words.
inline std::map<std::string, KernelCounts> kernels_of_ncu(const std::string& csv_file) {
    const auto cells = [](const std::string& line) {
        std::vector<std::string> all(1);
        bool quoted = false;
        for (char c : line) {
            if (c == '"')
                quoted = !quoted;
            else if (c == ',' && !quoted)
                all.emplace_back();
            else if (c != '\r')
                all.back() += c;
        }
        return all;
    };
    std::ifstream in(csv_file);
    CHECK(in, "cannot read {}", csv_file);
    std::map<std::string, size_t> column;
    std::map<std::string, KernelCounts> all;
    std::vector<std::string> row;
    for (std::string line; std::getline(in, line);) {
        row = cells(line);
        if (column.empty()) {
            if (row[0] != "ID") continue;
            for (size_t i = 0; i < row.size(); i++) column[row[i]] = i;
            for (const char* name : {"Kernel Name", "gpu__time_duration.sum", "dram__bytes_read.sum",
                                     "l1tex__data_bank_conflicts_pipe_lsu.sum"})
                CHECK(column.count(name), "{}: there is no column {}", csv_file, name);
            continue;
        }
        if (row.size() != column.size() || row[0].empty()) continue;  // the units, or ncu's words
        const auto number = [&](const char* name) {
            if (!column.count(name)) return -1.;
            std::string digits = row[column[name]];
            digits.erase(std::remove(digits.begin(), digits.end(), ','), digits.end());
            return std::strtod(digits.c_str(), nullptr);
        };
        KernelCounts& k = all[kernel_name(row[column["Kernel Name"]])];
        k.launches++;
        k.seconds += number("gpu__time_duration.sum") * 1e-9;
        k.read += number("dram__bytes_read.sum");
        k.conflicts += number("l1tex__data_bank_conflicts_pipe_lsu.sum");
        k.wavefronts += number("l1tex__data_pipe_lsu_wavefronts_mem_shared.sum");
        k.instructions += number("smsp__inst_executed.sum");
    }
    CHECK(!column.empty(), "{}: there is no line of names; it is what `ncu --csv --page raw` prints", csv_file);
    return all;
}
