// summary.h - the counts in the summary that is printed at the end
#pragma once
#include <cstdint>
#include <set>
#include <string>

namespace emu {

struct Summary {
    uint64_t launches = 0;
    std::set<std::string> kernels;
};
Summary& summary();

}  // namespace emu
