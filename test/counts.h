// counts.h - the cost of an op by its formula, beside what the emulator counted that it did
//
// bench_ops --profiled OPS.json runs each op once between profiler marks and writes its Cost (kernels/ops.h). The
// emulator's --profile COUNTS.json has a section of counts for each op, in the same order.
#pragma once
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/ops.h"

struct Counted {
    std::string op, dtype;
    Cost cost;  // the cost by the formula
    double launches = 0, read = 0, written = 0, instructions = 0, wavefronts = 0, conflicts = 0, tensor_flops = 0;
    double bytes() const { return read + written; }
};

inline nlohmann::json json_of(const std::string& op, const std::string& dtype, const Cost& cost) {
    return {{"op", op}, {"dtype", dtype}, {"bytes", cost.bytes}, {"flops", cost.flops}};
}

inline std::vector<Counted> read_counts(const std::string& ops_file, const std::string& counts_file) {
    const auto parsed = [](const std::string& path) {
        std::ifstream in(path);
        CHECK(in, "cannot read {}", path);
        return nlohmann::json::parse(in);
    };
    const nlohmann::json ops = parsed(ops_file), sections = parsed(counts_file).at("sections");
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
